"""Predictor and joint given what the reference's were given, call by call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..comparison import TolerancePolicy
from ..dump import DumpReader
from ..dump.decoder import JOINT, PREDICTION, PREDICTION_STATES
from ..dump.trace import log_probabilities
from ..errors import StepFailed
from ..runners import Transducer, TransducerCall
from ..tensors import Array, TensorSpec
from .errors import PieceError, errors

STATES = (f"tap/{PREDICTION_STATES}_1", f"tap/{PREDICTION_STATES}_2")
PREDICTIONS, ROWS = f"tap/{PREDICTION}", f"tap/{JOINT}"


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of predictor and joint, given what the reference's was given.

    Attributes:
        call: what it was given.
        expected: what the reference made of it, by key of the chunk: a row of the joint, and where the predictor
            consumed a label in this very evaluation its prediction and states.
        actual: the same of the model under test.
    """

    call: TransducerCall
    expected: Mapping[str, Array]
    actual: Mapping[str, Array]


def replay(
    reference: DumpReader,
    transducer: Transducer,
    specs: Sequence[TensorSpec],
    chunk: int,
    policy: TolerancePolicy,
) -> dict[str, PieceError]:
    """Errors of predictor and joint in one chunk, each call from the reference's frame, label and state.

    Nothing where the dump does not hold the predictor's states and the joint's rows.
    """
    actual, expected = replayed(reference, transducer, chunk)
    return errors([spec for spec in specs if spec.kind == "decoder"], expected, actual, policy)


def replayed(reference: DumpReader, transducer: Transducer, chunk: int) -> tuple[dict[str, Array], dict[str, Array]]:
    """What predictor and joint make of the reference's calls of one chunk, and what they should make of them."""
    done = evaluations(reference, transducer, chunk)
    return _stacked([each.actual for each in done]), _stacked([each.expected for each in done])


def _stacked(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.stack([row[name] for row in rows if name in row]) for name in names}


def evaluations(reference: DumpReader, transducer: Transducer, chunk: int) -> list[Evaluation]:
    """Every evaluation of one chunk; none where the dump or the model does not have what that takes."""
    manifest = reference.manifest
    held = reference.chunk(chunk)
    if manifest.decoder is None or not {*STATES, ROWS} <= set(held):
        return []
    # consumed[k] is the label after which the predictor was in state k; the blank begins a stream.
    blank = manifest.decoder.blank_id
    lines = reference.trace()
    consumed = [blank, *(line["label"] for line in lines if line["chunk"] < chunk and line["label"] != blank)]
    before = [reference.chunk(index) for index in range(chunk)]
    states = [row for tensors in [*before, held] for row in zip(*(tensors[name] for name in STATES), strict=True)]
    predictions = [row for tensors in [*before, held] for row in tensors.get(PREDICTIONS, ())]
    frames, known = held["out/outputs"][0].T, len(states) - len(held[STATES[0]])
    done, seen = list[Evaluation](), known - 1
    try:
        for row, line in enumerate(line for line in lines if line["chunk"] == chunk):
            position = len(consumed) - 1
            state = states[position - 1] if position else transducer.initial_state()
            prediction = predictions[position] if len(predictions) == len(states) else None
            call = TransducerCall(frames[line["frame"]], consumed[-1], state, prediction)
            step = transducer.step(call.frame, call.label, call.state)
            expected, actual = (
                {ROWS: held[ROWS][row]},
                {ROWS: log_probabilities(step.logits[None], manifest.decoder)[0]},
            )
            if position > seen:
                seen = position
                expected |= dict(zip(STATES, states[position], strict=True))
                actual |= dict(zip(STATES, step.state, strict=True))
                if step.prediction is not None and prediction is not None:
                    expected[PREDICTIONS], actual[PREDICTIONS] = prediction, step.prediction
            done.append(Evaluation(call, expected, actual))
            if line["label"] != blank:
                consumed.append(line["label"])
    except (StepFailed, IndexError):
        return []
    return done
