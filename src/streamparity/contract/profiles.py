"""Optimization profiles: the shapes that an engine must be built for, from the chunk schedule.

An engine is fast, and right, only for the shapes that one of its profiles allows. The schedule says which those are:
padded chunks all have one length, the native first chunk has another, and the last chunk of a stream may be shorter
than the others. Caches have one size throughout; the batch may have a range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..errors import StreamparityError
from ..schedule import Schedule, StreamingConfig
from ..tensors import DECODER_AXES, DECODER_INPUTS, ENCODER_INPUTS, canonical_names

Shape = tuple[int, ...]
Extents = tuple[int | str | None, ...]  # of a port; what is no number is dynamic
Range = tuple[int, int, int]  # least, likeliest, most


@dataclass(frozen=True)
class Profile:
    """Shapes that an engine takes together.

    Attributes:
        name: ``step``, ``first`` (the native first chunk), ``tail`` (a shorter last chunk) or ``decode``.
        shapes: least, likeliest and greatest shape of every input.
    """

    name: str
    shapes: dict[str, tuple[Shape, Shape, Shape]]

    def admits(self, shapes: Mapping[str, Shape]) -> bool:
        """Whether every one of these input shapes lies between least and greatest."""
        return all(
            name in self.shapes and between(self.shapes[name][0], shape, self.shapes[name][2])
            for name, shape in shapes.items()
        )

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        return {"name": self.name, "shapes": {name: [list(s) for s in three] for name, three in self.shapes.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Profile:
        """Inverse of :meth:`to_json`. Raises ``KeyError``, ``TypeError`` or ``ValueError`` on anything else."""
        shapes = {}
        for name, (low, likely, high) in data["shapes"].items():
            shapes[str(name)] = (tuple(map(int, low)), tuple(map(int, likely)), tuple(map(int, high)))
        return cls(str(data["name"]), shapes)


def between(least: Sequence[int], shape: Sequence[int | None], most: Sequence[int]) -> bool:
    """Whether a shape lies in a range; ``None`` may be anything."""
    return len(least) == len(shape) == len(most) and all(
        extent is None or low <= extent <= high for low, extent, high in zip(least, shape, most, strict=True)
    )


def chunk_lengths(config: StreamingConfig, schedule: Schedule, tail: bool = True) -> dict[str, Range]:
    """Feature frames that a schedule feeds, by profile name.

    Args:
        config: the streaming configuration.
        schedule: ``padded`` or ``native``.
        tail: whether the last chunk of a stream may be shorter, as NeMo makes it. Who pads it needs no profile for it.

    Raises:
        StreamparityError: a length at which the graph, which always drops ``drop_extra_pre_encoded`` frames, is left
            with none.
    """
    whole = config.input_frames
    lengths: dict[str, Range] = {"step": (whole, whole, whole)}
    if schedule == "native":
        first = config.pre_encode_cache_size[0] + config.chunk_size[0]
        lengths = {"first": (first, first, first), **lengths}
    if tail:
        shortest = config.pre_encode_cache_size[1] + config.sampling_frames[1]
        if shortest < whole:
            lengths["tail"] = (shortest, whole - 1, whole - 1)
    for name, (least, _, _) in lengths.items():
        _check_length(config, name, least)
    return lengths


def _check_length(config: StreamingConfig, name: str, frames: int) -> None:
    # Subsampling rounds up in symmetric convolutions; causal ones make no frame less.
    encoded = 1 + (frames - 1) // config.subsampling_factor
    if encoded > config.drop_extra_pre_encoded:
        return
    raise StreamparityError(
        f"a {name} chunk of {frames} feature frames makes {encoded} encoder frames, of which the graph drops "
        f"{config.drop_extra_pre_encoded} (drop_extra_pre_encoded is baked in): nothing is left, and the "
        "network is not self-consistent at this shape",
        "use --schedule padded, where the first chunk is as long as the others",
    )


def profiles_of(
    streaming: StreamingConfig,
    ports: Mapping[str, Extents],
    schedule: Schedule = "padded",
    batch: Range = (1, 1, 1),
    *,
    time_slots: int | None = None,
    tail: bool = True,
) -> tuple[Profile, ...]:
    """The profiles that an encoder needs for a schedule.

    Args:
        streaming: the configuration baked into the graph.
        ports: shape of every input by the name that the graph gives it.
        schedule: ``padded`` needs one length, ``native`` two.
        batch: least, likeliest and greatest batch.
        time_slots: frames that ``cache_last_time`` holds, where its port does not say.
        tail: allow a shorter last chunk in a profile of its own.

    Raises:
        StreamparityError: no cache ports, a port fixed at another size than the configuration needs, a size that
            nothing tells, or a chunk at which the network is not self-consistent.
    """
    names = canonical_names(ports, ENCODER_INPUTS, "the encoder")
    absent = [name for name in ENCODER_INPUTS if name not in names]
    if absent:
        raise StreamparityError(
            f"the encoder has no {', '.join(absent)}: without caches there is nothing to stream",
            "export it with cache support: streamparity export",
        )
    _check_batch(batch)
    slots: dict[str, Range] = {}
    for axis, size in (("C", streaming.last_channel_cache_size), ("K", time_slots)):
        if size is not None:
            slots[axis] = (size, size, size)
    made = []
    for name, length in chunk_lengths(streaming, schedule, tail).items():
        sizes: dict[str, Range] = {"B": batch, "T": length, **slots}
        axes = {actual: ENCODER_INPUTS[canonical].axes for canonical, actual in names.items()}
        made.append(_profile(name, ports, axes, sizes))
    return tuple(made)


def decoder_profiles_of(ports: Mapping[str, Extents], batch: Range = (1, 1, 1)) -> tuple[Profile, ...]:
    """The profile of a ``decoder_joint`` in greedy decoding: one frame, one label.

    Raises:
        StreamparityError: not the ports of a ``decoder_joint``.
    """
    absent = [name for name in DECODER_INPUTS if name not in ports]
    if absent:
        raise StreamparityError(f"the graph has no {', '.join(absent)}", "give a decoder_joint that NeMo exported")
    _check_batch(batch)
    sizes: dict[str, Range] = {"B": batch, "T": (1, 1, 1), "U": (1, 1, 1)}
    return (_profile("decode", ports, {name: DECODER_AXES[name] for name in DECODER_INPUTS}, sizes),)


def _check_batch(batch: Range) -> None:
    if not 1 <= batch[0] <= batch[1] <= batch[2]:
        raise StreamparityError(
            f"a batch of {batch[0]} to {batch[2]}, likeliest {batch[1]}, is no range", "give MIN,OPT,MAX, such as 1,1,4"
        )


def _profile(
    name: str, ports: Mapping[str, Extents], axes: Mapping[str, tuple[str, ...]], sizes: Mapping[str, Range]
) -> Profile:
    shapes = {}
    for port, extents in ports.items():
        if len(extents) != len(axes[port]):
            raise StreamparityError(
                f"{port} has {len(extents)} axes, not {len(axes[port])} ({', '.join(axes[port])})",
                "export the model again",
            )
        ranges = [_range(port, axis, extent, sizes) for axis, extent in zip(axes[port], extents, strict=True)]
        low, likely, high = zip(*ranges, strict=True)
        shapes[port] = (tuple(low), tuple(likely), tuple(high))
    return Profile(name, shapes)


def _range(port: str, axis: str, extent: int | str | None, sizes: Mapping[str, Range]) -> Range:
    wanted = sizes.get(axis)
    if not isinstance(extent, int):
        if wanted is None:
            raise StreamparityError(
                f"nothing says how many {axis} {port} has", "export the model again, or fix the size of the port"
            )
        return wanted
    if wanted is not None and (extent != wanted[0] or extent != wanted[2]):
        span = str(wanted[0]) if wanted[0] == wanted[2] else f"{wanted[0]} to {wanted[2]}"
        raise StreamparityError(
            f"{port} is fixed at {extent} along {axis}; the streaming configuration needs {span}",
            "export the model again with this attention context, or build for what the graph is fixed at",
        )
    return extent, extent, extent
