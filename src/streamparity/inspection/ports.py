"""Ports: those that carry state, whether what comes out fits what goes in, and in which arithmetic."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ..errors import first_line
from ..graph.onnx_graph import STATELESS_HINT, GraphPort, OnnxGraph, missing_ports
from ..tensors import CACHE_FEEDBACK, ENCODER_INPUTS, ENCODER_OUTPUTS
from .arithmetic import Baked
from .finding import Finding
from .subject import EncoderSubject

LENGTH = "cache_last_channel_len"
LENGTH_NEXT = "cache_last_channel_next_len"
PORTS = ENCODER_INPUTS | ENCODER_OUTPUTS
WIDTHS = (("cache_last_channel", 3), ("cache_last_time", 2))  # axis D
# Ports with the place of an axis that weights fix and of one that they do not, with which it is mixed up.
WEIGHED = (
    ("audio_signal", 1, 2),
    ("cache_last_channel", 1, 0),
    ("cache_last_time", 1, 0),
    ("outputs", 1, 2),
    ("cache_last_channel_next", 1, 0),
    ("cache_last_time_next", 1, 0),
)
HALVES = ("float16", "bfloat16")


def stateless_findings(inputs: Mapping[str, str], outputs: Mapping[str, str]) -> list[Finding]:
    """A finding for an encoder that lacks ports of a streaming step."""
    missing = missing_ports(inputs, outputs)
    if not missing:
        return []
    return [
        Finding(
            "stateless-export",
            "error",
            "the graph lacks ports that carry state: it forgets everything between chunks and repeats itself",
            {"missing": missing},
            STATELESS_HINT,
        )
    ]


def axis_findings(subject: EncoderSubject) -> Iterator[Finding]:
    """Ports whose axes come in another order, by the extents that are fixed.

    Weights fix the layers L, the width D and the mel bands; batch and time are open, or of one stream and one chunk.
    """
    width = next((size for size in (subject.extent(*place) for place in WIDTHS) if size is not None), None)
    batches = [subject.extent(port, 0) for port in ("length", LENGTH)]
    for port, place, free in WEIGHED:
        axes, shape = PORTS[port].axes, subject.ports[port].shape
        if len(shape) != len(axes):
            wrong = True
        elif port == "outputs":
            wrong = width is not None and subject.extent(port, free) == width != subject.extent(port, place)
        else:
            given, open_one = subject.extent(port, place), subject.extent(port, free)
            wrong = given is None and open_one is not None and open_one > 1
            if axes[free] == "B" and open_one is not None:
                wrong |= any(batch not in (None, open_one) for batch in batches)
        if wrong:
            yield Finding(
                "port-axes",
                "error",
                f"{port} is of shape {list(shape)}: its axes are not {', '.join(axes)}",
                {"port": port, "shape": list(shape), "axes": list(axes)},
                "export the encoder's forward_for_export, which puts the batch first, then features, then time",
            )


def feedback_findings(subject: EncoderSubject) -> Iterator[Finding]:
    """Outputs that cannot become the next step's input: another dtype, rank or fixed extent, or a constant length."""
    ports = subject.ports
    for given, taken in CACHE_FEEDBACK.items():
        out, into = ports[given], ports[taken]
        differing = out.dtype != into.dtype or len(out.shape) != len(into.shape)
        differing |= any(
            isinstance(a, int) and isinstance(b, int) and a != b for a, b in zip(out.shape, into.shape, strict=False)
        )
        if differing:
            yield Finding(
                "cache-cannot-return",
                "error",
                f"{given} cannot be fed back as {taken}: {_described(out)} against {_described(into)}",
                {given: [out.dtype, list(out.shape)], taken: [into.dtype, list(into.shape)]},
                "export both with one dtype and shape, or cast and reshape inside the graph",
            )
    length = subject.inputs[LENGTH]
    if subject.outputs[LENGTH_NEXT] not in subject.flow.reached(length):
        yield Finding(
            "cache-length-constant",
            "error",
            f"{LENGTH_NEXT} does not depend on {LENGTH}: a constant was folded in, or another length returned",
            {"reached": False},
            "trace the export with the cache length as an input, not as a Python number; streamparity export does",
        )


def size_findings(subject: EncoderSubject, baked: Baked) -> Iterator[Finding]:
    """A cache port of a fixed size that is not the one the graph counts to."""
    streaming = subject.promise.streaming
    promised = None if streaming is None else streaming.last_channel_cache_size
    for port in ("cache_last_channel", "cache_last_channel_next"):
        fixed = subject.extent(port, 2)
        for expected, who in ((baked.slots, "the graph's own cache length counts to"), (promised, "the contract has")):
            if fixed is not None and expected is not None and fixed != expected:
                yield Finding(
                    "cache-size-wrong",
                    "error",
                    f"{port} is fixed at {fixed} slots, {who} {expected}",
                    {"port": port, "fixed": fixed, "expected": expected},
                    f"export with {expected} slots (encoder.get_initial_cache_state) or a dynamic cache axis",
                )
                break


def half_findings(graph: OnnxGraph) -> list[Finding]:
    """Floating-point inputs in half precision, and whether the graph takes them at all."""
    from onnx import shape_inference

    halves = [port.name for port in graph.inputs if port.dtype in HALVES]
    if not halves:
        return []
    evidence = {"inputs": halves}
    try:
        shape_inference.infer_shapes(graph.proto, check_type=True, strict_mode=True)
    except Exception as error:  # onnx's own exception types vary by version
        return [
            Finding(
                "half-without-cast",
                "error",
                "inputs are in half precision and meet float32 inside the graph without a cast",
                {**evidence, "onnx": first_line(error)},
                "put a Cast behind each such input, or convert the model whole (keep_io_types=True keeps the ports)",
            )
        ]
    return [
        Finding(
            "half-inputs",
            "warning",
            "inputs are in half precision: whoever feeds float32 features or caches must cast them",
            evidence,
            "cast before feeding, or convert with keep_io_types=True",
        )
    ]


def _described(port: GraphPort) -> str:
    return f"{port.dtype} {list(port.shape)}"
