"""Decoder heads given what the reference's were given: predictor and joint call by call, the CTC head its frames."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..comparison import TolerancePolicy
from ..dump import DumpReader
from ..dump.decoder import CTC_HEAD, JOINT, PREDICTION, PREDICTION_STATES
from ..dump.trace import log_probabilities
from ..errors import StepFailed
from ..runners import CtcHead, Transducer
from ..tensors import Array, TensorSpec
from .errors import PieceError, errors

STATES = (f"tap/{PREDICTION_STATES}_1", f"tap/{PREDICTION_STATES}_2")


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
    manifest = reference.manifest
    expected = reference.chunk(chunk)
    if manifest.decoder is None or not {*STATES, f"tap/{JOINT}"} <= set(expected):
        return {}
    # consumed[k] is the label after which the predictor was in state k; the blank begins a stream.
    consumed, states = [manifest.decoder.blank_id], list[tuple[Array, ...]]()
    lines = reference.trace()
    for index in range(chunk):
        held = reference.chunk(index)
        states += list(zip(*(held[name] for name in STATES), strict=True))
        consumed += [
            line["label"] for line in lines if line["chunk"] == index and line["label"] != manifest.decoder.blank_id
        ]
    states += list(zip(*(expected[name] for name in STATES), strict=True))
    frames = expected["out/outputs"][0].T
    rows, predictions, after = list[Array](), list[Array](), list[tuple[Array, ...]]()
    known, first = len(states) - len(expected[STATES[0]]), True
    try:
        for line in (line for line in lines if line["chunk"] == chunk):
            position = len(consumed) - 1
            before = states[position - 1] if position else transducer.initial_state()
            step = transducer.step(frames[line["frame"]], consumed[-1], before)
            rows.append(step.logits)
            if position >= known and (first or position == known + len(after)):
                first = False
                after.append(step.state)
                if step.prediction is not None:
                    predictions.append(step.prediction)
            if line["label"] != manifest.decoder.blank_id:
                consumed.append(line["label"])
    except (StepFailed, IndexError):
        return {}
    actual: dict[str, Array] = {}
    if rows:
        actual[f"tap/{JOINT}"] = log_probabilities(np.stack(rows), manifest.decoder)
    wanted = dict(expected)
    if after:
        for part, name in enumerate(STATES):
            actual[name] = np.stack([state[part] for state in after])
            wanted[name] = expected[name][: len(after)]
    if predictions:
        name = f"tap/{PREDICTION}"
        actual[name] = np.stack(predictions)
        wanted[name] = expected[name][: len(predictions)] if name in expected else actual[name]
    return errors([spec for spec in specs if spec.kind == "decoder"], wanted, actual, policy)


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
