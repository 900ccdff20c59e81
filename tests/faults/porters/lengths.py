"""Lengths and outputs."""

from __future__ import annotations

import numpy as np

from ..edits import named, producer
from .build import graph, per_chunk
from .graft import Graft


def lengths_before_the_drop(model, bench) -> None:
    """encoded_lengths counts the frames dropped as well."""
    clip = producer(model, "encoded_lengths")
    node = named(model, "/Sub")
    g = Graft(model)
    g.instead(clip, lambda *_: g("Identity", node.input[0]))


def lengths_one_short(model, bench) -> None:
    g = Graft(model)
    g.after("encoded_lengths", lambda x: g("Sub", x, g.const(np.array(1), "Sub")))


def a_frame_fewer(model, bench) -> None:
    node = producer(model, "outputs")
    node.input[2] = Graft(model).const(np.array([per_chunk(bench) - 1]), "Slice")


FAULTS = [
    graph("lengths-before-the-drop", "encoded-length-wrong", "encoded_lengths", lengths_before_the_drop),
    graph("lengths-one-short", "encoded-length-wrong", "encoded_lengths", lengths_one_short),
    graph(
        "outputs-a-frame-fewer",
        ("encoded-length-wrong", "wrong-attention-context"),
        ("outputs", "encoded_lengths"),
        a_frame_fewer,
    ),
]
