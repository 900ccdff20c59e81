"""What a graph does when it is run: two chained steps, and then each input disturbed to see what listens to it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..errors import StepFailed
from ..tensors import ENCODER_OUTPUTS, RETURNED, Array
from .finding import Finding
from .sessions import Session, zeros
from .subject import EncoderSubject

CACHES = ("cache_last_channel", "cache_last_time")
SLOT_AXES = (2, 3)  # axis C of the one, K of the other
LENGTH = "cache_last_channel_len"
USUAL_TIME_SLOTS = (8, 4, 30, 15)  # kernels of 9 and 31, causal and symmetric
SEED = 0
# Feature frames beyond a chunk that makes one encoder frame or two, over which a convolution that comes out short by
# some would be spread without a word.
LONGER = 32


class Behaviour:
    """The whole graph in ONNX Runtime, on noise.

    Args:
        subject: the encoder.
        frames: feature frames of a chunk.
        slots: extent of ``cache_last_channel``.

    Raises:
        BackendMissing: onnxruntime is not installed.
        StreamparityError: ONNX Runtime refuses the graph.
        StepFailed: no step can be run.
    """

    def __init__(self, subject: EncoderSubject, frames: int, slots: int) -> None:
        self._subject = subject
        self._rng = np.random.default_rng(SEED)
        self._session = Session(subject, [subject.outputs[name] for name in ENCODER_OUTPUTS], part=False)
        fixed = subject.extent("audio_signal", 2)
        time_slots = self._time_slots(fixed or frames + LONGER, slots)
        self.empty = self._noisy(fixed or frames, slots, time_slots)
        self.first = self.run(self.empty)
        self.layers = self.empty["cache_last_channel"].shape[1]

    def run(self, given: Mapping[str, Array]) -> dict[str, Array]:
        """One step: output ports by canonical name."""
        return dict(zip(ENCODER_OUTPUTS, self._session.run(given), strict=True))

    def full(self) -> dict[str, Array]:
        """Inputs of a step in the middle of a stream: noise in the features and in every slot of both caches."""
        given = dict(self.empty)
        for port in ("audio_signal", *CACHES):
            given[port] = self.noise(given[port])
        slots = given["cache_last_channel"].shape[2]
        given["cache_last_channel_len"] = np.full_like(given["cache_last_channel_len"], slots)
        return given

    def noise(self, like: Array) -> Array:
        """Standard normal noise of a shape."""
        return np.asarray(self._rng.standard_normal(like.shape, dtype=np.float32))

    def _noisy(self, frames: int, slots: int, time_slots: int) -> dict[str, Array]:
        """Inputs of a first step: empty caches, and noise in the features."""
        given = zeros(self._subject, frames, slots, time_slots)
        given["audio_signal"] = self.noise(given["audio_signal"])
        return given

    def _time_slots(self, frames: int, slots: int) -> int:
        """The extent K of ``cache_last_time``: the graph's own where it is fixed, else the first that it runs with."""
        fixed = self._subject.extent("cache_last_time", 3)
        failure: StepFailed | None = None
        for time_slots in (fixed,) if fixed is not None else _usual_time_slots(self._subject):
            try:
                self.run(self._noisy(frames, slots, time_slots))
                return time_slots
            except StepFailed as error:
                failure = failure or error
        raise failure or StepFailed("no size of cache_last_time suits it")


def _usual_time_slots(subject: EncoderSubject) -> list[int]:
    """Extents of ``cache_last_time`` to try: what the graph's depthwise convolutions need, causal, then symmetric."""
    wanted = [size for kernel in _kernels(subject) for size in (kernel - 1, (kernel - 1) // 2)]
    return list(dict.fromkeys([*wanted, *USUAL_TIME_SLOTS]))


def _kernels(subject: EncoderSubject) -> list[int]:
    """Sizes of the graph's depthwise convolutions."""
    kernels = [
        int(item.ints[0])
        for node in subject.graph.proto.graph.node
        for item in node.attribute
        if node.op_type == "Conv" and item.name == "kernel_shape" and len(item.ints) == 1 and item.ints[0] > 1
    ]
    return list(dict.fromkeys(kernels))


def step_findings(behaviour: Behaviour) -> Iterator[Finding]:
    """Caches that grow or shrink, numbers that are not finite, and runs that do not agree."""
    for taken in CACHES:
        given = RETURNED[taken]
        fed, returned = behaviour.empty[taken].shape, behaviour.first[given].shape
        if fed != returned:
            yield Finding(
                "cache-grows" if np.prod(returned) > np.prod(fed) else "cache-shrinks",
                "error",
                f"{taken} of shape {list(fed)} comes back as {list(returned)}: it changes with every step",
                {"port": given, "fed": list(fed), "returned": list(returned)},
                "keep the newest slots only, as NeMo does: call encoder.setup_streaming_params() before export",
            )
    spoilt = [name for name, array in behaviour.first.items() if not np.isfinite(array.astype(np.float64)).all()]
    if spoilt:
        yield Finding(
            "not-finite",
            "error",
            f"a step on noise returns values that are not finite: {', '.join(spoilt)}",
            {"outputs": spoilt},
            "convert the model with its layer norms and softmax in float32, or export in float32",
        )
    again = behaviour.run(behaviour.empty)
    differing = [name for name in again if not np.array_equal(again[name], behaviour.first[name], equal_nan=True)]
    if differing:
        yield Finding(
            "not-repeatable",
            "error",
            f"the same step run twice differs in {', '.join(differing)}",
            {"outputs": differing},
            "call model.eval() before model.export(), and set preprocessor dither to 0",
        )


def unreached_findings(subject: EncoderSubject) -> Iterator[Finding]:
    """Caches and a cache length that no edge of the graph leads from to the outputs."""
    for port in (*CACHES, LENGTH):
        if not _reaches(subject, port):
            yield _unused(port, False)


def _reaches(subject: EncoderSubject, port: str) -> bool:
    return subject.outputs["outputs"] in subject.flow.reached(subject.inputs[port])


def dependence_findings(subject: EncoderSubject, behaviour: Behaviour) -> Iterator[Finding]:
    """Caches and lengths that lead to the outputs and move nothing there; and caches that hear nothing new.

    A disturbance is as large as the values themselves, and runs repeat bit by bit: any change at all counts.
    """
    given = behaviour.full()
    usual = behaviour.run(given)

    def moved(**changed: Array) -> set[str]:
        outputs = behaviour.run({**given, **changed})
        return {name for name, array in outputs.items() if not np.array_equal(array, usual[name], equal_nan=True)}

    for port in (port for port in CACHES if _reaches(subject, port)):
        if "outputs" not in moved(**{port: behaviour.noise(given[port])}):
            yield _unused(port, True)
            continue
        deaf = []
        for layer in range(behaviour.layers):
            array = given[port].copy()
            array[:, layer] = behaviour.noise(array[:, layer])
            deaf += [] if "outputs" in moved(**{port: array}) else [layer]
        if deaf:
            yield Finding(
                "cache-layer-unused",
                "error",
                f"{port} of layer {', '.join(map(str, deaf))} changes nothing in the outputs: the layer lost its cache",
                {"port": port, "layers": deaf},
                "export again; an optimiser or an edit has cut the layer off from its cache",
            )
    yield from _length_findings(subject, given, moved)
    heard = behaviour.run({**given, "audio_signal": behaviour.noise(given["audio_signal"])})
    for port in (RETURNED[taken] for taken in CACHES):
        deaf = _unchanged_layers(usual[port], heard[port])
        if deaf:
            every = len(deaf) == behaviour.layers
            yield Finding(
                "cache-not-updated",
                "error",
                f"{port} {'' if every else 'of layer ' + ', '.join(map(str, deaf)) + ' '}does not depend on the "
                "features: what was heard is not remembered",
                {"port": port, "layers": deaf},
                "export again with cache support; the graph must return its caches with the new frames in them",
            )


def _unchanged_layers(one: Array, other: Array) -> list[int]:
    """Layers of a cache ``[B, L, ...]`` that are bit by bit the same."""
    return [layer for layer in range(one.shape[1]) if np.array_equal(one[:, layer], other[:, layer], equal_nan=True)]


def place_findings(subject: EncoderSubject, behaviour: Behaviour) -> Iterator[Finding]:
    """New frames elsewhere than in the newest slots of a cache that was empty: the last ``next_len`` of it.

    A symmetric convolution's cache is left out: NeMo keeps of its look-ahead there what ``next_len`` does not count.
    """
    if subject.outputs[RETURNED[LENGTH]] not in subject.flow.reached(subject.inputs[LENGTH]):
        return  # a constant, which says nothing of the caches
    causal = behaviour.empty["cache_last_time"].shape[3] + 1 in _kernels(subject)
    filled = int(behaviour.first[RETURNED[LENGTH]].reshape(-1)[0])
    for taken, axis in zip(CACHES, SLOT_AXES, strict=True):
        port = RETURNED[taken]
        cache = behaviour.first[port]
        if taken == "cache_last_time" and not causal:
            continue
        if filled <= 0 or cache.shape != behaviour.empty[taken].shape:
            continue  # which is another finding
        slots = np.moveaxis(cache != 0, axis, -1)
        held = slots.any(axis=tuple(range(2, slots.ndim - 1)))[0]  # layer, slot
        new = np.arange(held.shape[1]) >= held.shape[1] - filled
        # A layer that holds nothing at all does not listen: that is another finding too.
        wrong = [layer for layer, row in enumerate(held) if row.any() and not np.array_equal(row, new)]
        if wrong:
            yield Finding(
                "cache-misplaced",
                "error",
                f"{port} holds the new frames in slots {_span(held[wrong[0]])} of {len(new)} after a first step, "
                f"not in the last {min(filled, len(new))} that its length speaks of",
                {"port": port, "layers": wrong, "slots": np.flatnonzero(held[wrong[0]]).tolist(), "length": filled},
                "return the caches oldest frame first, the newest in the last slot, as NeMo does",
            )


def _span(held: Array) -> str:
    places = np.flatnonzero(held)
    return f"{places[0]} to {places[-1]}"


def _length_findings(subject: EncoderSubject, given: Mapping[str, Array], moved: Any) -> Iterator[Finding]:
    filled = given[LENGTH]
    if _reaches(subject, LENGTH) and "outputs" not in moved(**{LENGTH: np.ones_like(filled)}):
        yield _unused(LENGTH, True)
    if subject.outputs["encoded_lengths"] in subject.flow.reached(subject.inputs["length"]):
        short = given["length"] - given["length"] // 2
        if not moved(length=short) - {"encoded_lengths"}:
            yield Finding(
                "padding-not-masked",
                "warning",
                "`length` changes encoded_lengths and nothing else: padding is attended to and enters the caches",
                {"length": int(given["length"].reshape(-1)[0]), "shortened_to": int(short.reshape(-1)[0])},
                "feed whole chunks only, or export with the model's padding mask",
            )


def _unused(port: str, reached: bool) -> Finding:
    return Finding(
        "cache-unused",
        "error",
        f"the outputs do not depend on {port}: "
        + ("disturbing it changes nothing" if reached else "nothing leads from it to them, a constant was folded in"),
        {"port": port, "reached": reached},
        "trace with the caches as inputs: model.set_export_config({'cache_support': 'True'}) before model.export",
    )
