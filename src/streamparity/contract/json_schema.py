"""The JSON Schema of what :mod:`streamparity.contract.codec` reads."""

from __future__ import annotations

import dataclasses
import inspect
import re
import types
import typing
from typing import Any, Literal, Union

from .codec import PLAIN, hints_of, is_optional, key_of


def schema(cls: type) -> dict[str, Any]:
    """JSON Schema of a dataclass and, under ``$defs``, of those in it, described by their docstrings."""
    definitions: dict[str, Any] = {}
    described = _object_schema(cls, definitions)
    return {**described, "$defs": {name: definitions[name] for name in sorted(definitions)}}


def _object_schema(cls: type, definitions: dict[str, Any]) -> dict[str, Any]:
    hints, notes = hints_of(cls), _notes(cls)
    fields = dataclasses.fields(cls)
    properties = {}
    for field in fields:
        properties[key_of(field)] = _schema(hints[field.name], definitions)
        if field.name in notes:
            properties[key_of(field)] = {"description": notes[field.name], **properties[key_of(field)]}
    return {
        "type": "object",
        "description": (inspect.getdoc(cls) or "").split("\n")[0],
        "properties": properties,
        "required": [key_of(field) for field in fields if not is_optional(field)],
    }


def _schema(hint: Any, definitions: dict[str, Any]) -> dict[str, Any]:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return {"anyOf": [_schema(argument, definitions) for argument in arguments]}
    if origin is Literal:
        return {"enum": list(arguments)}
    if origin is tuple and arguments[-1] is Ellipsis:
        return {"type": "array", "items": _schema(arguments[0], definitions)}
    if origin is tuple:
        entries = [_schema(argument, definitions) for argument in arguments]
        return {"type": "array", "prefixItems": entries, "minItems": len(entries), "maxItems": len(entries)}
    if origin is dict:
        return {"type": "object", "additionalProperties": _schema(arguments[1], definitions)}
    if dataclasses.is_dataclass(hint):
        described = typing.cast(type, hint)
        if described.__name__ not in definitions:
            definitions[described.__name__] = {}  # taken, should it hold one of its own kind
            definitions[described.__name__] = _object_schema(described, definitions)
        return {"$ref": f"#/$defs/{described.__name__}"}
    return {"type": PLAIN[hint][0]}


def _notes(cls: type) -> dict[str, str]:
    """What the ``Attributes:`` of a docstring say, by attribute."""
    _, _, attributes = (inspect.getdoc(cls) or "").partition("Attributes:\n")
    entries = re.findall(r"^    (\w+): (.*(?:\n {8}.*)*)", attributes, re.MULTILINE)
    return {name: " ".join(text.split()).replace("``", "") for name, text in entries}
