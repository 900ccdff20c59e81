"""int8: explicit quantisation, with ranges calibrated on a reference dump.

TensorRT-RTX, and strongly typed networks in general, know no implicit int8: the graph itself must say where values are
quantised, by QuantizeLinear and DequantizeLinear. ONNX Runtime's quantiser writes them, in the symmetric form that
TensorRT asks for; what it leaves alone stays in float32.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..dump import DumpReader
from ..errors import BackendMissing, StreamparityError, first_line
from ..graph.onnx_graph import OnnxGraph
from ..tensors import ENCODER_INPUTS, Array, canonical_names

OPERATORS = ("MatMul", "Conv")


def quantize(graph: OnnxGraph, calibration: DumpReader, pinned: Callable[[str], bool]) -> tuple[Any, int]:
    """A copy of an encoder with its matrix products and convolutions in int8, weights inside; how many were pinned.

    Args:
        graph: an encoder in float32.
        calibration: a reference dump; what the encoder was fed in every chunk is what ranges are taken from.
        pinned: whether the node of this name stays in float32.

    Raises:
        BackendMissing: onnxruntime is not installed.
        StreamparityError: the dump does not fit the graph.
    """
    try:
        from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    except ImportError as error:
        raise BackendMissing(f"onnxruntime cannot be imported: {error}", "pip install 'streamparity[onnx]'") from None
    import onnx

    names = canonical_names([port.name for port in graph.inputs], ENCODER_INPUTS, str(graph.path))
    wanted = [node.name for node in graph.proto.graph.node if node.op_type in OPERATORS]
    excluded = [name for name in wanted if pinned(name)]

    class Chunks(CalibrationDataReader):  # type: ignore[misc]  # the base is only known at run time
        def __init__(self) -> None:
            self._left = _fed(calibration, names)

        def get_next(self) -> dict[str, Array] | None:
            return next(self._left, None)

    with TemporaryDirectory(prefix="streamparity-") as folder, _quiet():
        target = Path(folder) / "int8.onnx"
        try:
            quantize_static(
                str(graph.path),
                str(target),
                Chunks(),
                quant_format=QuantFormat.QDQ,
                activation_type=QuantType.QInt8,
                weight_type=QuantType.QInt8,
                op_types_to_quantize=list(OPERATORS),
                nodes_to_exclude=excluded,
                extra_options={
                    "ActivationSymmetric": True,
                    "WeightSymmetric": True,
                    "QuantizeBias": False,
                    "DedicatedQDQPair": True,
                },
            )
        except (KeyError, ValueError, RuntimeError) as error:
            raise StreamparityError(
                f"{graph.path} cannot be calibrated with {calibration.folder}: {first_line(error)}",
                "give --calibrate a dump of the same model, attention context and the padded schedule",
            ) from None
        return onnx.load(str(target)), len(excluded)


def _fed(calibration: DumpReader, names: Mapping[str, str]) -> Iterator[dict[str, Array]]:
    for index in range(calibration.chunk_count):
        chunk = calibration.chunk(index)
        yield {actual: chunk[f"in/{canonical}"] for canonical, actual in names.items()}


@contextmanager
def _quiet() -> Iterator[None]:
    """The quantiser advises, at the root of all loggers, to optimise first, which would rename the layers."""
    root = logging.getLogger()
    level = root.level
    root.setLevel(logging.ERROR)
    try:
        yield
    finally:
        root.setLevel(level)
