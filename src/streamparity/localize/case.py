"""Everything that rules look at: gathered once, what costs time only when asked for."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from ..comparison import TolerancePolicy
from ..dump import DumpReader
from ..dump.anatomy import Anatomy
from ..graph.onnx_graph import OnnxGraph
from ..runners import Runner
from ..runners.ort import OrtRunner
from ..runners.ort_decoder import OrtTransducer
from ..tensors import Array, TensorSpec
from .cache_changes import CHANNEL, TIME
from .decoder_replay import replay, replay_ctc
from .errors import PieceError, errors
from .inputs import Script
from .observation import Observation
from .pieces import Pieces
from .repairs import Cure, cures
from .sensitivity import Sensitivity
from .simulation import Explanation, Simulation
from .structure import KINDS, Layers, OddNode, odd_epsilons
from .subject import Errors, Subject
from .trial import DecoderTrial, PieceTrial, Trial
from .weights import WeightDifference, differences

LAYER = re.compile(r"encoder\.layers\.(\d+)\b")
ENTRANCE = re.compile(r"encoder\.layers\.\d+\.(self_attn|conv)\b")
QUANTISING = {"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"}
QUANTISING |= {"MatMulInteger", "ConvInteger", "QLinearMatMul", "QLinearConv"}
# Where more of the pieces than this fail by themselves, it is not one of them that is at fault.
SYSTEMIC = 0.5


@dataclass
class Case:
    """A failed run.

    Attributes:
        reference: the dump.
        comparison: the comparison's part of the result.
        tokens: the result's ``tokens``.
        specs: the tensors compared.
        policy: tolerances.
        observation: the candidate as the run saw it.
        runner: the model under test, opened afresh.
    """

    reference: DumpReader
    comparison: Mapping[str, Any]
    tokens: Mapping[str, Any] | None
    specs: Sequence[TensorSpec]
    policy: TolerancePolicy
    observation: Observation
    runner: Runner

    def __post_init__(self) -> None:
        self.script = Script(self.reference)
        self.subject = Subject(self.runner, self.script, self.specs, self.policy)

    @cached_property
    def anatomy(self) -> Anatomy | None:
        """What the reference is made of, where the dump says."""
        return self.reference.anatomy()

    @property
    def graph(self) -> OnnxGraph | None:
        """The exported graph under test, where there is one."""
        return getattr(self.runner, "graph", None)

    @property
    def divergence(self) -> Mapping[str, Any] | None:
        """The result's ``first_divergence``."""
        found: Mapping[str, Any] | None = self.comparison["first_divergence"]
        return found

    @property
    def chunk(self) -> int:
        """The chunk that fails first; 0 where none does."""
        return 0 if self.divergence is None else int(self.divergence["chunk"])

    @cached_property
    def pieces(self) -> dict[str, Array] | None:
        """What every piece makes of the reference's tensors in that chunk."""
        return None if self.divergence is None else self.subject.pieces(self.chunk)

    @cached_property
    def functional(self) -> dict[str, Array] | None:
        """What the whole model makes of the reference's inputs in that chunk."""
        return None if self.divergence is None else self.subject.whole(self.script.inputs(self.chunk))

    @cached_property
    def isolated(self) -> Errors:
        """Error of every piece by itself; of the whole step where the model cannot be run in pieces."""
        return self.subject.errors(self.chunk, self.pieces if self.pieces is not None else self.functional)

    @cached_property
    def replayed(self) -> Errors:
        """Error of predictor and joint, or of the CTC head, by themselves, where decoding is what differs."""
        divergence, transducer = self.divergence, self.runner.transducer
        if divergence is None or not any(spec.kind == "decoder" for spec in self.specs):
            return {}
        decoder = self.reference.manifest.decoder
        if decoder is not None and decoder.kind == "ctc":
            head = self.runner.ctc
            return {} if head is None else replay_ctc(self.reference, head, self.specs, self.chunk, self.policy)
        if transducer is None:
            return {}
        return replay(self.reference, transducer, self.specs, self.chunk, self.policy)

    @cached_property
    def failing(self) -> list[str]:
        """Labels that fail by themselves, in forward order."""
        return [label for label, error in {**self.isolated, **self.replayed}.items() if error.ratio > 1]

    @property
    def introduced(self) -> str | None:
        """The first tensor whose error is made where it stands."""
        return self.failing[0] if self.failing else None

    def error(self, label: str) -> PieceError | None:
        """Error of a piece by itself."""
        return self.replayed.get(label) or self.isolated.get(label)

    @property
    def layer(self) -> int | None:
        """The layer in which error is introduced."""
        found = LAYER.match(self.introduced or "")
        return int(found[1]) if found else None

    @property
    def systemic(self) -> bool:
        """Whether most pieces fail by themselves; a model that is only run whole hands its error on to all of them."""
        if self.pieces is None:
            return False
        taps = [label for label in self.isolated if label.startswith("encoder.layers.")]
        failing = [label for label in taps if self.isolated[label].ratio > 1]
        return len(taps) > 2 and len(failing) > SYSTEMIC * len(taps)

    @cached_property
    def _suspicion(self) -> tuple[list[Any], list[str], list[Any]]:
        label = self.introduced
        tensor_of = getattr(self.runner, "tensor_of", None)
        if label is None or self.graph is None or tensor_of is None or label not in self.isolated:
            return [], [] if label is None else [label], []
        cut = [spec.label for spec in self.subject.taps]
        tensors = {name: tensor_of(name) for name in self.isolated}
        pieces = Pieces(self.graph.proto, tensors, cut if self.pieces is not None else [])
        passing = [name for name, error in self.isolated.items() if error.ratio <= 1]
        # Across layers next to everything shares the bookkeeping of masks and shapes.
        near = [] if self.systemic or self.layer is None else [name for name in self.failing if name in self.isolated]
        layer = f"encoder.layers.{self.layer}."
        nodes, together = pieces.suspects(label, [name for name in near if name.startswith(layer)], passing)
        return nodes, together, pieces.nodes(label)

    @property
    def suspects(self) -> list[Any]:
        """Nodes of the graph that can have made the error."""
        return self._suspicion[0]

    @cached_property
    def trial(self) -> Trial | None:
        """The piece that makes the error, or predictor and joint, for edits to be tried on."""
        spec = next((spec for spec in self.specs if spec.label == self.introduced), None)
        if spec is None or not isinstance(self.runner, OrtRunner):
            return None
        if spec.label in self.replayed:
            decoder = self.runner.transducer
            if not isinstance(decoder, OrtTransducer):
                return None
            return DecoderTrial(decoder, self.reference, spec, self.chunk, self.policy)
        if self.pieces is None:
            return None
        return PieceTrial(self.runner, self.script, self.subject.taps, spec, self.chunk, self.policy)

    @cached_property
    def cures(self) -> list[Cure]:
        """Single changes of the graph that mend the piece that makes the error."""
        explained = self.wrong_weight is not None or any(odd.what == "epsilon" for odd in self.odd_nodes)
        if explained or self.quantised or self.trial is None:
            return []
        nodes = self.suspects or self.trial.proto.graph.node
        made = {name for node in nodes for name in node.output}
        return cures(self.trial, made, self.anatomy, self._scopes)

    @property
    def _scopes(self) -> tuple[str, ...]:
        """Module paths whose parameters might belong into the piece that makes the error."""
        if self.introduced in self.replayed:
            return ("decoder.", "joint.")
        if self.layer is None:
            return ("encoder.",)
        # Where the layer before has no tap at its end, its last norm is part of this piece.
        return tuple(f"encoder.layers.{layer}." for layer in (self.layer, self.layer - 1))

    @property
    def quantised(self) -> bool:
        """Whether the whole model holds its numbers in a smaller format: then no one change mends it."""
        rounded = any(weight.rounding for weight in self.weight_differences)
        return self.systemic and (rounded or any(node.op_type in QUANTISING for node in self.suspects))

    @property
    def together(self) -> list[str]:
        """The first tensor that fails by itself, and those that fail for the same nodes."""
        return self._suspicion[1]

    @cached_property
    def weight_differences(self) -> list[WeightDifference]:
        """Weights that are not the reference's."""
        return [] if self.anatomy is None else list(differences(self.runner.weights(), self.anatomy))

    @cached_property
    def wrong_weight(self) -> WeightDifference | None:
        """A weight that is not the reference's and can have made the error."""
        suspects, label = {node.name for node in self.suspects}, self.introduced or ""
        for weight in self.weight_differences:
            module = weight.parameter.rpartition(".")[0]
            if weight.node in suspects or module == label or module.startswith(f"{label}."):
                return weight
        return None

    @cached_property
    def odd_nodes(self) -> list[OddNode]:
        """Suspect nodes that are not as they should be, the most telling first."""
        if self.graph is None:
            return []
        names = {node.name for node in self.suspects}
        # An epsilon can be wrong by less than shows in a piece that passes: passing clears no norm of it.
        piece = {node.name for node in self._suspicion[2]}
        found = [odd for odd in odd_epsilons(self.graph, self.anatomy) if not piece or odd.node in piece]
        if self.layer is not None and not self.systemic:
            layers = list(Layers(self.graph).odd(self.layer))
            here = self.introduced or ""
            found += [
                odd
                for odd in layers
                if odd.node in names
                or (odd.what == "missing" and (odd.module.startswith(here) or here.startswith(odd.module)))
            ]
        return sorted(found, key=lambda odd: KINDS.index(odd.what))

    @cached_property
    def sensitivity(self) -> Sensitivity | None:
        """What layers depend on, where the model can be run in pieces."""
        if not self.runner.isolates or self.divergence is None:
            return None
        return Sensitivity(self.subject, self.reference.manifest.streaming, self.chunk)

    @cached_property
    def sources(self) -> dict[str, dict[int, set[int]]]:
        """Per cache and layer, the layers of the cache that it depends on."""
        if self.sensitivity is None:
            return {}
        return {port: self.sensitivity.sources(port) for port in (CHANNEL, TIME)}

    @property
    def model_is_sound(self) -> bool:
        """Whether no piece of the model, and not the whole of it, makes an error of its own in that chunk."""
        if self.divergence is None or self.failing:
            return False
        whole = self.subject.errors(self.chunk, self.functional)
        return bool(whole) and all(error.ratio <= 1 for error in whole.values())

    @cached_property
    def batch_error(self) -> tuple[str, PieceError] | None:
        """Where a stream differs most from itself alone once another shares its batch.

        ``None`` where the model takes one stream only.
        """
        chunk = max(int(self.comparison["chunks"]["compared"]) - 1, 0) // 2
        right = self.script.inputs(chunk)
        noise = np.random.default_rng(0)
        other = {
            name: np.asarray(noise.standard_normal(array.shape), array.dtype) if array.dtype.kind == "f" else array
            for name, array in right.tensors.items()
        }
        alone = self.subject.whole(right)
        ports = [spec for spec in self.subject.specs if spec.is_port]
        found: list[tuple[str, PieceError]] = []
        for place in (0, 1):  # the first stream of a batch may be the one that all take from
            pair = (right.tensors, other) if place == 0 else (other, right.tensors)
            both = {name: np.concatenate([part[name] for part in pair]) for name in right.tensors}
            done = self.subject.whole(right.having(**both))
            if alone is None or done is None:
                return None
            mine = {spec.name: done[spec.name][place : place + 1] for spec in ports if spec.name in done}
            found += errors(ports, alone, mine, self.policy).items()
        return max(found, key=lambda one: one[1].ratio)

    @cached_property
    def _simulation(self) -> Simulation | None:
        if not self.observation.failed or not self.model_is_sound:
            return None
        return Simulation(self.subject, self.observation.failed, self.reference.manifest.streaming)

    @cached_property
    def driver_is_faithful(self) -> bool | None:
        """Whether the loop feeds the model what it should; ``None`` where that cannot be told."""
        return None if self._simulation is None else self._simulation.driver_is_faithful()

    @cached_property
    def explanations(self) -> list[Explanation]:
        """Ways of feeding a sound model wrongly that do what the candidate did."""
        if self._simulation is None or self.driver_is_faithful is not False or self.divergence is None:
            return []
        found = LAYER.match(str(self.divergence["tensor"]))
        return self._simulation.explanations([int(found[1])] if found else [0])
