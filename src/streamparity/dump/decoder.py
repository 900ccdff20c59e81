"""Decoder tensors as a dump holds them: one row per call, so that two decoders can be lined up call by call."""

from __future__ import annotations

from collections.abc import Sequence

from ..tensors import Array, TensorSpec

PREDICTION = "decoder.prediction"
PREDICTION_STATES = "decoder.prediction.states"
JOINT = "joint"
CTC_HEAD = "ctc_decoder"


def decoder_tensors(
    log_probs: Array, predictions: Array | None, states: Sequence[Array]
) -> list[tuple[TensorSpec, Array]]:
    """Describe what transducer decoding of one chunk computed, in forward order.

    Args:
        log_probs: ``[S, V + 1]``, one row per evaluation of the joint.
        predictions: ``[P, H]``, one row per label that the predictor consumed.
        states: ``[P, L, B, H]`` per state tensor.
    """
    described = []
    if predictions is not None:
        described.append((_spec(PREDICTION, predictions, ("P", "H")), predictions))
    for part, state in enumerate(states, start=1):
        described.append((_spec(f"{PREDICTION_STATES}_{part}", state, ("P", "L", "B", "H")), state))
    described.append((_spec(JOINT, log_probs, ("S", "V")), log_probs))
    return described


def ctc_tensors(log_probs: Array) -> list[tuple[TensorSpec, Array]]:
    """Describe what CTC decoding of one chunk computed: ``[S, V + 1]``, one row per encoder frame."""
    return [(_spec(CTC_HEAD, log_probs, ("S", "V")), log_probs)]


def _spec(name: str, tensor: Array, axes: tuple[str, ...]) -> TensorSpec:
    return TensorSpec(f"tap/{name}", "decoder", str(tensor.dtype), axes)
