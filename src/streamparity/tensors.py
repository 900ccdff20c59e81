"""Ports, axes and valid regions: what a tensor of one step is called and which part of it carries data.

The valid region travels with the tensor (:class:`TensorSpec`), so that no comparison guesses it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from .errors import StreamparityError

Kind = Literal["input", "tap", "output", "cache", "length", "decoder"]
Array = np.ndarray[Any, np.dtype[Any]]

# Where a region lies in a tensor: an index for each axis that it lost, a slice for each that it has.
Origin = tuple[slice | int, ...]

EXTENT = "extent"


@dataclass(frozen=True)
class ValidRule:
    """Along ``axis``, the first or last ``count`` entries carry data.

    Attributes:
        count: the integer tensor of the same chunk (``[B]``) that says how many, or ``extent``: as many as the
            reference has, which a candidate may pad.
    """

    axis: str
    keep: Literal["first", "last"]
    count: str


@dataclass(frozen=True)
class TensorSpec:
    """A tensor as a dump describes it; ``name`` is its key in a chunk file (``in/``, ``out/`` or ``tap/``)."""

    name: str
    kind: Kind
    dtype: str
    axes: tuple[str, ...]
    valid: ValidRule | None = None

    @property
    def label(self) -> str:
        """Name in reports: NeMo's module path or the port; input ports keep their prefix."""
        return self.name if self.name.startswith("in/") else self.name.split("/", 1)[1]

    @property
    def is_port(self) -> bool:
        """Whether this is an output port of the step rather than an inner tensor."""
        return self.name.startswith("out/")

    def to_json(self) -> dict[str, Any]:
        """As written in ``dump.json``."""
        valid: Any = "all"
        if self.valid is not None:
            valid = {"axis": self.valid.axis, "keep": self.valid.keep, "count": self.valid.count}
        return {"name": self.name, "kind": self.kind, "dtype": self.dtype, "axes": list(self.axes), "valid": valid}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> TensorSpec:
        """Inverse of :meth:`to_json`. Raises ``KeyError``, ``TypeError`` or ``ValueError`` on anything else."""
        valid = None if data["valid"] == "all" else ValidRule(**data["valid"])
        spec = cls(data["name"], data["kind"], data["dtype"], tuple(data["axes"]), valid)
        if not spec.name.startswith(("in/", "out/", "tap/")):
            raise ValueError(f"tensor {spec.name!r} is neither in/, out/ nor tap/")
        if valid is not None and (valid.keep not in ("first", "last") or valid.axis not in spec.axes):
            raise ValueError(f"the valid rule of {spec.name} is {data['valid']}")
        return spec


@dataclass(frozen=True)
class Port:
    """A named input or output of one encoder or decoder step, under NeMo's export names."""

    axes: tuple[str, ...]
    kind: Kind
    valid: ValidRule | None = None
    aliases: tuple[str, ...] = ()


# Both caches take in the same frames, so the length of one says how many of the other's slots carry data; it stops
# counting at C, which is more than K in every model known.
ENCODER_INPUTS: dict[str, Port] = {
    "audio_signal": Port(
        ("B", "mel", "T"), "input", ValidRule("T", "first", "in/length"), aliases=("processed_signal",)
    ),
    "length": Port(("B",), "input", aliases=("audio_length", "processed_signal_length")),
    "cache_last_channel": Port(("B", "L", "C", "D"), "input", ValidRule("C", "last", "in/cache_last_channel_len")),
    "cache_last_time": Port(("B", "L", "D", "K"), "input", ValidRule("K", "last", "in/cache_last_channel_len")),
    "cache_last_channel_len": Port(("B",), "input"),
}
ENCODER_OUTPUTS: dict[str, Port] = {
    "outputs": Port(
        ("B", "D", "T'"),
        "output",
        ValidRule("T'", "first", "out/encoded_lengths"),
        aliases=("encoder_output", "encoded", "encoder_outputs"),
    ),
    "encoded_lengths": Port(("B",), "length", aliases=("encoded_length", "encoder_output_length")),
    "cache_last_channel_next": Port(
        ("B", "L", "C", "D"),
        "cache",
        ValidRule("C", "last", "out/cache_last_channel_next_len"),
        aliases=("cache_last_channel_out", "new_cache_last_channel"),
    ),
    "cache_last_time_next": Port(
        ("B", "L", "D", "K"),
        "cache",
        ValidRule("K", "last", "out/cache_last_channel_next_len"),
        aliases=("cache_last_time_out", "new_cache_last_time"),
    ),
    "cache_last_channel_next_len": Port(("B",), "length", aliases=("cache_last_channel_len_out",)),
}
DECODER_AXES: dict[str, tuple[str, ...]] = {
    "encoder_outputs": ("B", "D", "T"),
    "targets": ("B", "U"),
    "target_length": ("B",),
    "input_states_1": ("L", "B", "H"),
    "input_states_2": ("L", "B", "H"),
    "outputs": ("B", "T", "U", "V"),
    "prednet_lengths": ("B",),
    "output_states_1": ("L", "B", "H"),
    "output_states_2": ("L", "B", "H"),
}
DECODER_INPUTS = ("encoder_outputs", "targets", "target_length", "input_states_1", "input_states_2")
DECODER_OUTPUTS = ("outputs", "prednet_lengths", "output_states_1", "output_states_2")

# What a module returns first is its output, except that the positional encoding's own product comes second: the first
# is its input, scaled at most.
SECOND_OUTPUT = ("encoder.pos_enc",)

# An output cache is the next step's input cache.
CACHE_FEEDBACK: dict[str, str] = {
    "cache_last_channel_next": "cache_last_channel",
    "cache_last_time_next": "cache_last_time",
    "cache_last_channel_next_len": "cache_last_channel_len",
}
# The output that becomes each input cache.
RETURNED: dict[str, str] = {taken: given for given, taken in CACHE_FEEDBACK.items()}


def aliases(ports: Mapping[str, Port]) -> dict[str, str]:
    """The canonical name of every name that a port goes by."""
    return {alias: name for name, port in ports.items() for alias in (name, *port.aliases)}


def canonical_names(names: Iterable[str], ports: Mapping[str, Port], where: str) -> dict[str, str]:
    """Map canonical port names onto the names a model uses.

    Args:
        names: the names that the model has.
        ports: :data:`ENCODER_INPUTS` or :data:`ENCODER_OUTPUTS`.
        where: how to call the model in an error.

    Returns:
        ``{canonical: actual}`` for the ports that are there.

    Raises:
        StreamparityError: a name is no port and no known alias, or two names mean the same port.
    """
    lookup = aliases(ports)
    found: dict[str, str] = {}
    given = list(names)
    for name in given:
        canonical = lookup.get(name)
        if canonical is None or canonical in found:
            problem = "is not a known port" if canonical is None else f"and {found[canonical]!r} are the same port"
            raise StreamparityError(
                f"{where}: {name!r} {problem}; the model has {given}",
                f"rename it to one of {list(ports)} (or a known alias: {sorted(set(lookup) - set(ports))})",
            )
        found[canonical] = name
    return found


def valid_regions(spec: TensorSpec, shape: tuple[int, ...], counts: Mapping[str, Any]) -> list[Origin]:
    """Index tuples that select the part of a tensor that carries data.

    Args:
        spec: the tensor, with its axes and rule.
        shape: extent of the array at hand.
        counts: integer arrays ``[B]`` by the names that rules use.

    Returns:
        One index per batch item (a single one where everything is valid or B is 1).

    Raises:
        StreamparityError: the array has other axes than its description, or the count is not there.
    """
    if len(shape) != len(spec.axes) or (spec.valid is not None and spec.valid.count not in (EXTENT, *counts)):
        raise StreamparityError(
            f"{spec.name} of shape {list(shape)} does not fit its description: axes {list(spec.axes)}, {spec.valid}",
            "write dump.json so that axes and valid rule fit the tensors",
        )
    everything: list[slice | int] = [slice(None)] * len(shape)
    if spec.valid is None:
        return [tuple(everything)]
    axis = spec.axes.index(spec.valid.axis)
    extent = shape[axis]
    if spec.valid.count == EXTENT:
        everything[axis] = slice(0, extent)
        return [tuple(everything)]
    regions: list[Origin] = []
    count = np.asarray(counts[spec.valid.count]).reshape(-1)
    for item in range(count.size):
        valid = min(max(int(count[item]), 0), extent)
        region = list(everything)
        region[axis] = slice(0, valid) if spec.valid.keep == "first" else slice(extent - valid, extent)
        if count.size > 1:
            region[spec.axes.index("B")] = item
        regions.append(tuple(region))
    return regions


def integer_tensors(tensors: Mapping[str, Any]) -> dict[str, Any]:
    """The tensors of a chunk, arrays or stored ones, that valid rules can count by."""
    return {name: tensor for name, tensor in tensors.items() if tensor.dtype.kind in "iu"}
