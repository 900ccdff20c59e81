"""JSON documents and dataclasses: one description of a document reads it, writes it and publishes its schema.

A field is what its annotation says, under its own name or under ``metadata["json"]``; one with a default may be left
out. Keys that the description does not know are passed over, so that later versions may add some.
"""

from __future__ import annotations

import dataclasses
import json
import math
import types
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar, Union

from ..errors import StreamparityError

T = TypeVar("T")
LARGEST = 2**63 - 1
LINE = 80
PLAIN: dict[Any, tuple[str, str]] = {
    str: ("string", "text"),
    bool: ("boolean", "true or false"),
    int: ("integer", "a whole number"),
    float: ("number", "a number"),
    type(None): ("null", "null"),
}


class Malformed(ValueError):
    """A document that is not as described; the message says where and why."""


def encode(value: Any) -> Any:
    """A dataclass, or what one is made of, as lists, mappings and plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {key_of(field): encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    return value


def text(value: Any, margin: str = "") -> str:
    """Encoded data as JSON that reads and diffs well: short lists of plain values on one line, all else one to a line.

    Raises:
        ValueError: a number that is not finite.
    """
    if not isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False, allow_nan=False)
    if isinstance(value, list) and not any(isinstance(item, dict | list) for item in value):
        line = f"[{', '.join(text(item) for item in value)}]"
        if len(line) <= LINE:
            return line
    inner = f"{margin}  "
    if isinstance(value, list):
        opening, items, closing = "[", [text(item, inner) for item in value], "]"
    else:
        opening, items, closing = "{", [f"{json.dumps(key)}: {text(item, inner)}" for key, item in value.items()], "}"
    if not items:
        return opening + closing
    return f"{opening}\n{inner}" + f",\n{inner}".join(items) + f"\n{margin}{closing}"


def decode(cls: type[T], data: Any, where: str = "") -> T:
    """A dataclass from what :func:`encode` made of one.

    Args:
        cls: the dataclass.
        data: parsed JSON.
        where: JSON pointer to ``data`` in its document.

    Raises:
        Malformed: of another shape.
    """
    if not isinstance(data, dict):
        raise Malformed(f"{where or '/'} is {_shown(data)}, not an object")
    hints, values = hints_of(cls), {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]  # T is a dataclass, which cannot be said
        key = key_of(field)
        if key in data:
            values[field.name] = _value(hints[field.name], data[key], f"{where}/{key}")
        elif not is_optional(field):
            raise Malformed(f"{where}/{key} is missing")
    try:
        return cls(**values)
    except ValueError as error:
        raise Malformed(f"{where or '/'}: {error}") from None


def read(cls: type[T], path: Path, schema_name: str, what: str, hint: str, constants: Mapping[str, str]) -> T:
    """A dataclass from a file of JSON.

    Args:
        cls: the dataclass.
        path: the file.
        schema_name: what its ``schema`` must be.
        what: what to call the document in an error.
        hint: what to do where it cannot be read.
        constants: values that the document must have besides those that the dataclass holds, by place.

    Raises:
        StreamparityError: not there, not JSON, of another schema or shape.
    """
    try:
        data = json.loads(path.read_bytes().decode("utf-8"))
        _must_be(data, "schema", schema_name)
        decoded = decode(cls, data)
        for place, constant in constants.items():
            _must_be(data, place, constant)
        return decoded
    except (ValueError, RecursionError, OSError) as error:
        why = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise StreamparityError(f"{path} is not {what} that can be read: {why}", hint) from None


def _must_be(data: Any, place: str, constant: str) -> None:
    found = data
    for key in place.split("/"):
        found = found.get(key) if isinstance(found, dict) else None
    if found != constant:
        raise Malformed(f"its {place} is {_shown(found)}, not {constant!r}")


def hints_of(cls: type) -> dict[str, Any]:
    """Types of a dataclass's fields."""
    return typing.get_type_hints(cls)


def key_of(field: dataclasses.Field[Any]) -> str:
    """What a field is called in a document."""
    return str(field.metadata.get("json", field.name))


def is_optional(field: dataclasses.Field[Any]) -> bool:
    """Whether a document may leave a field out."""
    return field.default is not dataclasses.MISSING or field.default_factory is not dataclasses.MISSING


def _shown(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) <= LARGEST else "a very large number"
    return text if len(text) <= 60 else f"{text[:57]}..."


def _value(hint: Any, data: Any, where: str) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (Union, types.UnionType):
        return _one_of(arguments, data, where)
    if origin is Literal:
        if data in arguments and isinstance(data, str):
            return data
        raise Malformed(f"{where} is {_shown(data)}, not one of {', '.join(map(str, arguments))}")
    if origin is tuple:
        return _sequence(arguments, data, where)
    if origin is dict:
        if not isinstance(data, dict):
            raise Malformed(f"{where} is {_shown(data)}, not an object")
        return {key: _value(arguments[1], item, f"{where}/{key}") for key, item in data.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type, hint), data, where)
    return _plain(hint, data, where)


def _one_of(hints: tuple[Any, ...], data: Any, where: str) -> Any:
    if data is None and type(None) in hints:
        return None
    others = [hint for hint in hints if hint is not type(None)]
    for hint in others[:-1]:
        try:
            return _value(hint, data, where)
        except Malformed:
            continue
    return _value(others[-1], data, where)


def _sequence(hints: tuple[Any, ...], data: Any, where: str) -> tuple[Any, ...]:
    if not isinstance(data, list):
        raise Malformed(f"{where} is {_shown(data)}, not a list")
    if hints[-1] is Ellipsis:
        hints = (hints[0],) * len(data)
    if len(data) != len(hints):
        raise Malformed(f"{where} has {len(data)} entries, not {len(hints)}")
    return tuple(
        _value(hint, item, f"{where}/{place}") for place, (hint, item) in enumerate(zip(hints, data, strict=True))
    )


def _plain(hint: Any, data: Any, where: str) -> Any:
    wrong = Malformed(f"{where} is {_shown(data)}, not {PLAIN[hint][1]}")
    if hint is float:
        if (
            isinstance(data, bool)
            or not isinstance(data, int | float)
            or abs(data) > LARGEST
            or not math.isfinite(data)
        ):
            raise wrong
        return float(data)
    if not isinstance(data, hint) or (hint is int and (isinstance(data, bool) or abs(data) > LARGEST)):
        raise wrong
    return data
