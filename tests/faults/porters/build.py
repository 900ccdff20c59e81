"""What porters' faults are made with: how one is planted, and where in a model."""

from __future__ import annotations

from collections.abc import Callable

import onnx

from .. import graph_faults
from ..bench import Bench
from ..fault import Fault, Names
from ..harmless import ENCODER
from .graft import without_names

JOINT_FILE = "decoder_joint.onnx"
CHANNEL_OUT, TIME_OUT, LENGTH_OUT = "cache_last_channel_next", "cache_last_time_next", "cache_last_channel_next_len"
CONV = "encoder.layers.{mid}.conv"
HALF = "reduced-precision"
SHIFT = "positional-encoding-shift"


def graph(
    name: str,
    codes: Names,
    modules: Names,
    edit: Callable[[onnx.ModelProto, Bench], None],
    chunk: int | Callable[[Bench], int] = 0,
    *,
    nameless: bool = False,
    **about,
) -> Fault:
    """A fault of a graph, which may lose all names of nodes and tensors as well."""

    def whole(model: onnx.ModelProto, bench: Bench, strength: float) -> None:
        edit(model, bench)
        if nameless:
            without_names(model)

    about |= {"allow_unmatched": ENCODER} if nameless else {}
    return graph_faults.graph(name, codes, modules, whole, chunk, **about)


def every(bench: Bench) -> list[int]:
    return list(range(bench.layers))


def only(layer: Callable[[Bench], int]) -> Callable[[Bench], list[int]]:
    return lambda bench: [layer(bench)]


def width(bench: Bench) -> int:
    return int(bench.loaded.module.encoder.d_model)


def heads(bench: Bench) -> int:
    return int(bench.loaded.module.encoder.layers[0].self_attn.h)


def slots(bench: Bench) -> int:
    return int(bench.reference().chunk(0)["in/cache_last_channel"].shape[2])


def per_chunk(bench: Bench) -> int:
    return int(bench.reference().chunk(0)["out/outputs"].shape[2])
