"""An ONNX graph: encoder, ``decoder_joint`` or something else, and all that can be wrong with it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..errors import StepFailed, StreamparityError, first_line
from ..graph.onnx_graph import OnnxGraph
from ..tensors import (
    CTC_INPUTS,
    CTC_OUTPUTS,
    DECODER_INPUTS,
    DECODER_OUTPUTS,
    ENCODER_INPUTS,
    ENCODER_OUTPUTS,
    JOINT_INPUTS,
    JOINT_OUTPUTS,
    PREDICTOR_INPUTS,
    canonical_names,
)
from .arithmetic import Arithmetic, Baked
from .backends import load_findings, ort_finding, tensorrt_findings
from .behaviour import Behaviour, dependence_findings, place_findings, step_findings, unreached_findings
from .context import MaskContext, context_findings, mask_context
from .features import normalisation_findings
from .finding import Finding, InspectOptions, Report, has_error
from .lengths import assumed_config, constant_length_findings, ignored_length_findings, length_findings
from .operators import damage_findings, log_softmax_findings, training_findings
from .ports import axis_findings, feedback_findings, half_findings, size_findings, stateless_findings
from .subject import EncoderSubject, promise_beside
from .weights import weight_findings

Check = Callable[[], Iterable[Finding]]


# Ports by which decoder graphs are known; the first that has all of them.
DECODER_GRAPHS = {
    "decoder_joint": {*DECODER_INPUTS, *DECODER_OUTPUTS},
    "joint": {*JOINT_INPUTS, *JOINT_OUTPUTS},
    "predictor": set(PREDICTOR_INPUTS),
    "ctc_decoder": {*CTC_INPUTS, *CTC_OUTPUTS},
}


def inspect_onnx(path: Path, options: InspectOptions) -> Report:
    """Describe a graph and look for everything that keeps it from streaming.

    What it does is found by running it on noise, where ONNX Runtime is installed and takes it.

    Raises:
        BackendMissing: onnx is not installed.
        StreamparityError: truncated or not ONNX.
    """
    graph = OnnxGraph(path, need_weights=False)
    ports = [
        {"name": port.name, "direction": direction, "dtype": port.dtype, "shape": list(port.shape)}
        for direction, group in (("input", graph.inputs), ("output", graph.outputs))
        for port in group
    ]
    summary: dict[str, Any] = {"opset": graph.opset, "nodes": len(graph.proto.graph.node)}
    findings = _checked(("weights", lambda: weight_findings(graph)))
    findings = findings or _checked(
        ("structure", lambda: damage_findings(graph)), ("half precision", lambda: half_findings(graph))
    )
    whole = not has_error(findings)
    findings += _checked(("training mode", lambda: training_findings(graph)))
    names = {str(port["name"]) for port in ports}
    role = next((role for role, needed in DECODER_GRAPHS.items() if needed <= names), None)
    if role is not None:
        findings += _decoder_findings(graph, role, path, options, whole)
        return Report("onnx", not has_error(findings), ports, findings, {"role": role, **summary})
    try:
        inputs = canonical_names([port.name for port in graph.inputs], ENCODER_INPUTS, str(path))
        outputs = canonical_names([port.name for port in graph.outputs], ENCODER_OUTPUTS, str(path))
    except StreamparityError as error:
        findings.append(Finding("unknown-port", "error", error.message, {"ports": sorted(names)}, error.hint))
        return Report("onnx", False, ports, findings, {"role": "unknown", **summary})
    findings += _encoder_findings(graph, inputs, outputs, options, whole, summary)
    return Report("onnx", not has_error(findings), ports, findings, {"role": "encoder", **summary})


def _decoder_findings(graph: OnnxGraph, role: str, path: Path, options: InspectOptions, whole: bool) -> list[Finding]:
    promise, findings = promise_beside(path)
    if role in ("decoder_joint", "joint"):
        findings += log_softmax_findings(graph, promise.durations)
    if whole:
        findings += load_findings(graph, options.backend)
    return findings + (tensorrt_findings(graph) if whole and options.backend == "trt" else [])


def _encoder_findings(
    graph: OnnxGraph,
    inputs: Mapping[str, str],
    outputs: Mapping[str, str],
    options: InspectOptions,
    whole: bool,
    summary: dict[str, Any],
) -> list[Finding]:
    findings = stateless_findings(inputs, outputs)
    if findings:
        return findings
    promise, findings = promise_beside(graph.path)
    findings += normalisation_findings(promise.normalize)
    subject = EncoderSubject(graph, inputs, outputs, promise, options)
    turned = _checked(("axes", lambda: axis_findings(subject)))
    if turned:
        return findings + turned  # whatever else is asked would be asked of other axes
    findings += _checked(
        ("feedback", lambda: feedback_findings(subject)),
        ("edges", lambda: unreached_findings(subject)),
        ("length input", lambda: ignored_length_findings(subject)),
        ("tensorrt", lambda: tensorrt_findings(graph) if whole and options.backend == "trt" else []),
    )
    if whole:
        findings += _checked(("behaviour", lambda: _run_findings(subject, summary, has_error(findings))))
    return findings


def _run_findings(subject: EncoderSubject, summary: dict[str, Any], flawed: bool) -> list[Finding]:
    """What only running shows; ``flawed`` ports keep the rules for lengths from being asked."""
    try:
        arithmetic = Arithmetic(subject)
        baked = arithmetic.baked()
        mask = mask_context(subject, baked)
        baked = baked if mask is None else replace(baked, slots=mask.slots)
    except StreamparityError as error:
        return [ort_finding(subject.graph, error, subject.options.backend)]
    summary |= _baked_summary(baked, mask)
    config = assumed_config(subject, baked)
    frames = baked.chunk_frames() if config is None else config.input_frames
    ignored = _checked(("length input", lambda: constant_length_findings(subject, arithmetic, baked, frames)))
    flawed = flawed or bool(ignored)
    findings = ignored + _checked(
        ("sizes", lambda: size_findings(subject, baked)),
        ("context", lambda: context_findings(subject, baked, mask)),
        ("lengths", lambda: [] if flawed or config is None else length_findings(subject, arithmetic, baked, config)),
    )
    if any(finding.code == "cache-size-wrong" for finding in findings):
        return findings
    slots = baked.slots or (config.last_channel_cache_size if config is not None else 1)
    try:
        behaviour = Behaviour(subject, frames, subject.extent("cache_last_channel", 2) or slots)
    except StreamparityError as error:
        return [*findings, ort_finding(subject.graph, error, subject.options.backend)]
    except StepFailed as failure:
        return [*findings, _cannot_run(failure, frames, slots)]
    steps = _checked(("steps", lambda: step_findings(behaviour)))
    if any(finding.code == "not-finite" for finding in steps):
        return findings + steps  # nothing can be seen to move among values that are not numbers
    return (
        findings
        + steps
        + _checked(
            ("places", lambda: place_findings(subject, behaviour)),
            ("dependence", lambda: dependence_findings(subject, behaviour)),
        )
    )


def _checked(*checks: tuple[str, Check]) -> list[Finding]:
    """The findings of several checks; one that stumbles over a graph that it cannot make sense of says so."""
    findings: list[Finding] = []
    for name, check in checks:
        try:
            findings += check()
        except StreamparityError:
            raise
        except Exception as error:  # a damaged graph can be wrong in any way
            findings.append(
                Finding(
                    "check-failed",
                    "warning",
                    f"{name} could not be examined: {type(error).__name__} {first_line(error)}",
                    {"check": name},
                    "if other programs accept the file, report it, with how the file was made",
                )
            )
    return findings


def _cannot_run(failure: StepFailed, frames: int, slots: int) -> Finding:
    return Finding(
        "cannot-run",
        "error",
        f"no step could be run with {frames} feature frames and {slots} cache slots: {failure.message}",
        {"frames": frames, "slots": slots, "module": failure.module},
        "export again with cache support, and feed chunks of the size that the model was exported for",
    )


def _baked_summary(baked: Baked, mask: MaskContext | None) -> dict[str, Any]:
    return {
        "attention_context": None if mask is None else [mask.left, mask.right],
        "cache_slots": baked.slots,
        "frames_per_chunk": baked.valid_out,
        "drop_extra_pre_encoded": baked.drop,
        "cache_drop_size": baked.cache_drop,
        "subsampling_factor": baked.factor,
    }
