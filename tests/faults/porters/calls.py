"""Predictor and joint, called wrongly."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np

from streamparity.runners.transducer import State, TransducerStep
from streamparity.tensors import Array

from ..bench import Bench
from ..graph_faults import first_label
from ..loop_faults import driven
from .decoder import JOINT, PREDICTION


class Calls:
    """Predictor and joint, called wrongly."""

    def __init__(self, inner: Any, bench: Bench) -> None:
        self.inner, self.bench = inner, bench
        self.blank = bench.reference().manifest.decoder.blank_id

    def initial_state(self) -> State:
        return self.inner.initial_state()

    def step(self, frame: Array, label: int, state: State) -> TransducerStep:
        raise NotImplementedError


class NeverAdvanced(Calls):
    def step(self, frame, label, state):
        return replace(self.inner.step(frame, label, state), state=self.initial_state())


class ConsumedTwice(Calls):
    """Every label is given to the predictor a second time."""

    def step(self, frame, label, state):
        if label == self.blank:
            return self.inner.step(frame, label, state)
        return self.inner.step(frame, label, self.inner.step(frame, label, state).state)


class AdvancedOnBlank(Calls):
    """The predictor's state is taken over at every call, whether or not a label was emitted."""

    own: State | None = None

    def step(self, frame, label, state):
        done = self.inner.step(frame, label, state if self.own is None else self.own)
        self.own = done.state
        return done


class StartsWithZero(Calls):
    """Label 0 starts a stream, not the blank."""

    def step(self, frame, label, state):
        return self.inner.step(frame, 0 if label == self.blank else label, state)


class OneFrameBehind(Calls):
    """The joint scores the frame before."""

    frames: tuple[Array, Array] | None = None

    def step(self, frame, label, state):
        if self.frames is None:
            self.frames = (frame, frame)
        elif not np.array_equal(frame, self.frames[1]):
            self.frames = (self.frames[1], frame)
        return self.inner.step(self.frames[0], label, state)


NO_CODE = ()  # the list has no code for what calls predictor and joint
FAULTS = [
    driven("state-never-advanced", NO_CODE, PREDICTION, calls=NeverAdvanced),
    driven("label-consumed-twice", NO_CODE, PREDICTION, first_label, calls=ConsumedTwice),
    driven(
        "state-advanced-on-blank",
        NO_CODE,
        (PREDICTION, JOINT),
        lambda b: 0 if b.name == "demo" else 1,  # where the first blank is followed by another evaluation
        calls=AdvancedOnBlank,
    ),
    driven("starts-with-label-zero", NO_CODE, PREDICTION, calls=StartsWithZero),
    driven("joint-a-frame-behind", NO_CODE, JOINT, calls=OneFrameBehind),
]
