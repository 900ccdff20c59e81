"""What is to be built: a graph that keeps its contract, its profiles, its precision and its taps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from ..contract import CONTRACT, Contract, check_against
from ..contract.derive import cache_shapes
from ..contract.profiles import Profile, decoder_profiles_of, profiles_of
from ..dump import DumpReader
from ..errors import Stateless, StreamparityError, first_of
from ..graph.onnx_cache import time_slots
from ..graph.onnx_graph import STATELESS_HINT, OnnxGraph, missing_ports, module_path
from ..provenance import file_sha256
from ..reference.taps import BLOCK_LEVEL
from ..tensors import DECODER_INPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names
from .metadata import PRECISIONS
from .options import BuildOptions
from .pins import pinning
from .precision import LOWERED, lower
from .quantize import quantize


class Subject:
    """A graph with the contract that it keeps."""

    def __init__(self, path: Path, options: BuildOptions) -> None:
        if options.precision not in PRECISIONS:
            raise StreamparityError(f"there is no precision {options.precision}", f"use one of {', '.join(PRECISIONS)}")
        self.graph = OnnxGraph(path)
        ports = {port.name: (port.dtype, port.shape) for port in [*self.graph.inputs, *self.graph.outputs]}
        inputs = {port.name: port.shape for port in self.graph.inputs}
        self.role = "decoder_joint" if set(DECODER_INPUTS) <= set(inputs) else "encoder"
        self.root = "encoder." if self.role == "encoder" else ""
        if self.role == "encoder":
            outputs = canonical_names([port.name for port in self.graph.outputs], ENCODER_OUTPUTS, str(path))
            missing = missing_ports(canonical_names(inputs, ENCODER_INPUTS, str(path)), outputs)
            if missing:
                raise Stateless(f"{path} cannot stream: it has no {', '.join(missing)}", STATELESS_HINT)
        self.contract_path = options.contract or path.parent / CONTRACT
        if not self.contract_path.is_file():
            raise StreamparityError(
                f"there is no {self.contract_path}, which says how the encoder is streamed",
                "name it with --contract, or export again: streamparity export writes it",
            )
        self.contract = Contract.read(self.contract_path)
        problems = check_against(self.contract, path.name, ports)
        if problems:
            raise StreamparityError(
                f"{path.name} does not keep its contract: {first_of(problems)}",
                "export again, or name the contract that belongs to it with --contract",
            )
        self._check_hashes(path)
        self.profiles = self._profiles(inputs, options)

    def _check_hashes(self, path: Path) -> None:
        """Refuse a graph or weights that are not the files that the contract was written for."""
        promised, weights = self.contract.graphs.get(path.name), path.with_name(f"{path.name}.data")
        if promised is None:
            return
        for file, expected in ((path, promised.sha256), (weights, promised.weights_sha256)):
            if expected is not None and (not file.is_file() or file_sha256(file) != expected):
                raise StreamparityError(
                    f"{file.name} is not the file that {self.contract_path.name} was written for (its SHA-256 is "
                    "another)",
                    "export again, or name the contract that belongs to it with --contract",
                )

    def _profiles(self, inputs: Mapping[str, Any], options: BuildOptions) -> tuple[Profile, ...]:
        if self.role == "decoder_joint":
            return decoder_profiles_of(inputs, options.batch)
        return profiles_of(
            self.contract.streaming,
            inputs,
            options.schedule,
            options.batch,
            time_slots=self._time_slots(),
            tail=options.tail,
        )

    def _time_slots(self) -> int | None:
        """Frames that ``cache_last_time`` holds, as the graph and the contract, where they know it, both say."""
        found = time_slots(self.graph.proto, self.graph.path.parent)
        if self.contract.encoder is None:
            return found
        promised = cache_shapes(self.contract.encoder, self.contract.streaming)[1][-1]
        if found not in (None, promised):
            raise StreamparityError(
                f"the convolutions of {self.graph.path.name} need a cache_last_time of {found} frames, the contract "
                f"says {promised}",
                "export the model again, or name the contract that belongs to it with --contract",
            )
        return promised

    def in_precision(self, options: BuildOptions) -> tuple[Any, int]:
        """The graph as it is to be built, and how many layers were pinned."""
        pinned = self._pins(options)
        if options.precision in LOWERED:
            lowered = lower(self.graph, options.precision, pinned)
            if lowered.overflowing:
                raise StreamparityError(
                    f"constants are beyond what float16 holds: {first_of(lowered.overflowing)}",
                    "use --precision bf16, or pin the layers that use it with --fp32 GLOB",
                )
            return lowered.proto, len(lowered.kept)
        if options.precision == "int8":
            if options.calibrate is None or self.role != "encoder":
                raise StreamparityError(
                    "int8 needs an encoder and a dump to calibrate it on: nothing else says how large its values grow",
                    "pass --calibrate DUMP, a reference dump of the same model",
                )
            return quantize(self.graph, DumpReader(options.calibrate), pinned)
        return self.graph.proto, 0

    def _pins(self, options: BuildOptions) -> Callable[[str], bool]:
        if options.fp32 and options.precision in ("fp32", "tf32"):
            raise StreamparityError(
                f"--fp32 pins layers, and with --precision {options.precision} there is nothing to pin them against",
                "leave it out, or use --precision fp16, bf16 or int8",
            )
        return pinning(options.fp32, [node.name for node in self.graph.proto.graph.node], self.root)

    def taps(self, globs: Sequence[str]) -> dict[str, str]:
        """The graph's tensor for every module that a glob fits, those without one left out.

        Raises:
            StreamparityError: a glob fits none.
        """
        paths = dict.fromkeys(module_path(node.name) for node in self.graph.proto.graph.node)
        parts = [path.split(".") for path in paths if path]
        modules = list(dict.fromkeys(".".join(part[:end]) for part in parts for end in range(1, len(part) + 1)))
        labels = [self.root + path for path in modules]
        found, _ = self.graph.tap_tensors([label for label in labels if _fits(label, globs)], self.root)
        for glob in globs:
            if not any(fnmatchcase(label, glob) for label in found):
                raise StreamparityError(
                    f"--taps {glob} fits no module of {self.graph.path}", "module paths look like encoder.layers.0.conv"
                )
        return found

    def block_taps(self) -> dict[str, str]:
        """The graph's tensor for every block."""
        return {label: tensor for label, tensor in self.taps(["*"]).items() if BLOCK_LEVEL.fullmatch(label)}


def _fits(label: str, globs: Sequence[str]) -> bool:
    return any(fnmatchcase(label, glob) for glob in globs)
