"""Decoder heads given what the reference's were given: predictor and joint call by call, the CTC head its frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..comparison import TolerancePolicy
from ..dump import DumpReader
from ..dump.decoder import CTC_HEAD, JOINT, PREDICTION, PREDICTION_STATES
from ..dump.manifest import Decoder
from ..dump.trace import log_probabilities
from ..errors import StepFailed
from ..runners import CtcHead, Transducer, TransducerCall
from ..runners.transducer import State
from ..tensors import Array, TensorSpec
from .errors import PieceError, errors

STATES = (f"tap/{PREDICTION_STATES}_1", f"tap/{PREDICTION_STATES}_2")
PREDICTIONS, ROWS = f"tap/{PREDICTION}", f"tap/{JOINT}"


@dataclass(frozen=True)
class Planned:
    """One evaluation of the reference's predictor and joint: what they were given, and what they made of it."""

    call: TransducerCall
    expected: dict[str, Array]


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
    done = evaluations(reference, transducer, chunk)
    expected, actual = _stacked([each.expected for each in done]), _stacked([each.actual for each in done])
    return errors([spec for spec in specs if spec.kind == "decoder"], expected, actual, policy)


def replayed(planned: Sequence[Planned], transducer: Transducer, decoder: Decoder) -> tuple[dict[str, Array], ...]:
    """What predictor and joint make of the reference's calls, and what they should make of them."""
    done = evaluated(planned, transducer, decoder)
    return _stacked([each.actual for each in done]), _stacked([each.expected for each in done])


def _stacked(rows: Sequence[Mapping[str, Array]]) -> dict[str, Array]:
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: np.stack([row[name] for row in rows if name in row]) for name in names}


def evaluations(reference: DumpReader, transducer: Transducer, chunk: int) -> list[Evaluation]:
    """Every evaluation of one chunk; none where the dump or the model does not have what that takes."""
    decoder = reference.manifest.decoder
    planned = planned_calls(reference, chunk, transducer.initial_state())
    return [] if decoder is None else evaluated(planned, transducer, decoder)


def evaluated(planned: Sequence[Planned], transducer: Transducer, decoder: Decoder) -> list[Evaluation]:
    """The calls, made; none where the model cannot run one of them."""
    done = []
    try:
        for each in planned:
            step = transducer.step(each.call.frame, each.call.label, each.call.state)
            made = {
                ROWS: log_probabilities(step.logits[None], decoder)[0],
                **dict(zip(STATES, step.state, strict=True)),
            }
            if step.prediction is not None:
                made[PREDICTIONS] = step.prediction
            shared = [name for name in each.expected if name in made]
            expected = {name: each.expected[name] for name in shared}
            done.append(Evaluation(each.call, expected, {name: made[name] for name in shared}))
    except StepFailed:
        return []
    return done


def planned_calls(reference: DumpReader, chunk: int, initial: State) -> list[Planned]:
    """The reference's evaluations of one chunk; none where the dump does not hold states and rows."""
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
    planned, seen = list[Planned](), known - 1
    try:
        for row, line in enumerate(line for line in lines if line["chunk"] == chunk):
            position = len(consumed) - 1
            state = states[position - 1] if position else initial
            prediction = predictions[position] if len(predictions) == len(states) else None
            expected = {ROWS: held[ROWS][row]}
            if position > seen:
                seen = position
                expected |= dict(zip(STATES, states[position], strict=True))
                if prediction is not None:
                    expected[PREDICTIONS] = prediction
            planned.append(Planned(TransducerCall(frames[line["frame"]], consumed[-1], state, prediction), expected))
            if line["label"] != blank:
                consumed.append(line["label"])
    except IndexError:
        return []
    return planned


def replay_ctc(
    reference: DumpReader, head: CtcHead, specs: Sequence[TensorSpec], chunk: int, policy: TolerancePolicy
) -> dict[str, PieceError]:
    """Error of a CTC head in one chunk, given the reference's encoder frames."""
    manifest, expected = reference.manifest, reference.chunk(chunk)
    key = f"tap/{CTC_HEAD}"
    if manifest.decoder is None or key not in expected:
        return {}
    frames = expected["out/outputs"][0, :, : len(expected[key])].T
    try:
        actual = {key: log_probabilities(head.scores(frames), manifest.decoder)}
    except StepFailed:
        return {}
    return errors([spec for spec in specs if spec.name == key], expected, actual, policy)
