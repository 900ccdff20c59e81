"""Comparing a contract with what a target says of itself: every disagreement by name, and what breaks because of it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..schedule import StreamingConfig
from ..tensors import ENCODER_INPUTS, ENCODER_OUTPUTS, aliases
from .codec import encode
from .model import Contract, Origin
from .network import ContractPort

# Consequences by name; the longest prefix of a disagreement's name counts.
BREAKS = {
    "model/sha256": "the weights are of another model: no tensor will agree",
    "model/class": "it is a model of another kind",
    "model/parameters": "it is a model of another size: its weights do not fit",
    "features": "the encoder is fed other features: every tensor after them differs, and the text with them",
    "features/sample_rate": "audio is read at the wrong speed: every feature differs",
    "features/normalize": "features are scaled and shifted otherwise: the encoder hears noise",
    "features/streaming_safe": "features that need the whole utterance cannot be computed live",
    "features/features": "the encoder takes another number of mel bands: the first step fails",
    "features/dither": "nothing in streaming, which adds no dither",
    "features/pad_to": "nothing in streaming, which does not pad",
    "timebase": "times and chunk sizes are counted in other units",
    "tokenizer": "labels mean other text",
    "tokenizer/blank_id": "blank is taken for a label, or a label for blank: text of one token for ever, or none",
    "encoder": "the architecture is another: weights do not fit, or mean something else",
    "encoder/att_context_sizes": "the model was not trained for every context promised",
    "encoder/xscaling": "the layers are fed values scaled by the square root of d_model, or not: every tensor differs",
    "encoder/conv_norm_type": "the convolution modules normalise otherwise: every tensor after the first differs",
    "encoder/conv_context_size": "the convolution cache has another length, and look-ahead is another",
    "encoder/subsampling": "another number of encoder frames comes out of a chunk",
    "encoder/inputs": "a step cannot be fed what the contract promises",
    "encoder/outputs": "a step does not return what the contract promises: it cannot be fed back",
    "streaming": "chunks are cut otherwise than the graph expects: frames are lost or repeated",
    "streaming/schedule": "an export always drops its pre-encode history: fed the native first chunk it ends with none",
    "streaming/att_context_size": "another context is baked in: attention masks, cache and latency are others",
    "streaming/att_context_style": "attention sees other frames: every tensor after the first layer's differs",
    "streaming/drop_extra_pre_encoded": "frames of history are taken for new ones, or new ones dropped",
    "streaming/cache_drop_size": "look-ahead frames enter the caches, or frames are missing there",
    "streaming/valid_out_len": "frames are cut off each chunk, or returned twice: text has gaps or repeats",
    "streaming/last_channel_cache_size": "the attention cache has another number of slots: it cannot be fed back",
    "contexts": "a stream at that context is cut otherwise",
    "decoder": "the decoder's weights do not fit, or its states cannot be fed back",
    "decoder/log_softmax": "one side gives logits, the other log-probabilities; the best label is the same",
    "decoder/logits": "the joint tells apart another number of labels: blank and durations are looked for elsewhere",
    "decoding/kind": "frames are decoded by another rule: labels are wrong",
    "decoding/blank_id": "blank is taken for a label, or a label for blank: text of one token for ever, or none",
    "decoding/max_symbols": "frames with more labels than that are cut short",
    "decoding/durations": "time advances by other steps: labels are skipped or repeated",
    "decoding/vocabulary": "labels are spelt with other pieces: the text is wrong though the labels are right",
    "graphs": "the file is not the one that was exported: what was checked then may no longer hold",
    "engine/sha256": "the engine file is not the one described beside it: nothing that was compared holds for it",
    "step": "the graph does not do what its contract says: the stream goes wrong there",
    "step/end": "another cache size or attention context is baked in: a stream fails there too",
    "step/encoded_lengths": "another attention context, chunk size or drop of history is baked in: text has gaps or "
    "repeats",
    "step/cache_last_channel_next_len": "another drop of history or of look-ahead is baked in: attention sees frames "
    "that are none, or misses some",
    "step/shape": "another cache size is baked in: what is returned cannot be fed back",
    "tolerances": "the same figures pass on one side and fail on the other",
    "tensorrt": "the engine refuses shapes that the stream has, or is built for ones it never has",
}
# Values that say how, not what: two contracts of one export may differ in them.
PASSED_OVER = ("producer", "sources", "model/id")
# Parts that are empty where a contract does not speak of what they would hold.
SILENT = (
    *("graphs", "contexts", "tolerances", "tensorrt/profiles"),
    *("encoder/inputs", "encoder/outputs", "decoder/inputs", "decoder/outputs"),
)
EMPTY: tuple[Any, ...] = ([], {})
MISSING, THERE = "missing", "there"
STATELESS = "the graph forgets everything between chunks and repeats one token: it was exported without cache support"
LONG = 16


@dataclass(frozen=True)
class Disagreement:
    """One value on which contract and target differ.

    Attributes:
        name: where it is in the contract.
        contract: the value there.
        target: the value of the target.
        breaks: what goes wrong because of it.
        source: where the contract has its value from; an ``example`` may well be wrong itself.
    """

    name: str
    contract: Any
    target: Any
    breaks: str
    source: Origin | None = None

    @property
    def sentence(self) -> str:
        """In one line, without the consequence."""
        doubt = " (of NeMo's example configuration)" if self.source == "example" else ""
        return f"{self.name} is {shown(self.target)}, the contract says {shown(self.contract)}{doubt}"


@dataclass
class Ledger:
    """What was compared, and how it came out.

    Attributes:
        sources: where the contract has its values from, by name.
        compared: names compared.
        disagreements: in the order in which they were found.
        unknown: names that the target has a value for and the contract has not.
    """

    sources: Callable[[str], Origin | None] = lambda name: None
    compared: list[str] = field(default_factory=list)
    disagreements: list[Disagreement] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def compare(self, name: str, contract: Any, target: Any) -> None:
        """Note whether two values agree."""
        self.compared.append(name)
        if contract != target:
            self.disagreements.append(
                Disagreement(name, *_told_apart(contract, target), breaks(name, target), self.sources(name))
            )

    def compare_known(self, name: str, contract: Any, target: Any) -> None:
        """The same, unless the contract or the target does not know the value: ``None``."""
        if contract is None:
            self.unknown.append(name)
        elif target is not None:
            self.compare(name, contract, target)


def breaks(name: str, target: Any) -> str:
    """What goes wrong when a target differs from its contract in ``name``."""
    if target == MISSING and "cache_last" in name:
        return STATELESS
    parts = [part.partition(" of ")[0] for part in name.split("/")]
    prefixes = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
    return next((BREAKS[prefix] for prefix in prefixes if prefix in BREAKS), "they do not describe the same thing")


def _told_apart(contract: Any, target: Any) -> tuple[Any, Any]:
    """Two values that differ; of long lists only where they first do."""
    if not isinstance(contract, list) or not isinstance(target, list) or max(len(contract), len(target)) <= LONG:
        return contract, target
    same = next((at for at, (a, b) in enumerate(zip(contract, target, strict=False)) if a != b), None)
    at = min(len(contract), len(target)) if same is None else same

    def told(values: list[Any]) -> str:
        entry = f"entry {at} is {values[at]!r}" if at < len(values) else "no more"
        return f"{len(values)} entries, {entry}"

    return told(contract), told(target)


def shown(value: Any) -> str:
    """A value in one short line."""
    text = str(value)
    return text if len(text) <= 70 else f"{text[:67]}..."


def check_contract(ledger: Ledger, contract: Contract, target: Contract) -> None:
    """Compare everything that both contracts speak of."""

    def walk(name: str, ours: Any, theirs: Any) -> None:
        if name in PASSED_OVER or (ours in EMPTY and name in SILENT) or (theirs in EMPTY and name in SILENT):
            return
        ours, theirs = _by_name(ours), _by_name(theirs)
        if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
            for key in [*ours, *(key for key in theirs if key not in ours)]:
                inner = f"{name}/{key}" if name else str(key)
                if key in ours and key in theirs:
                    walk(inner, ours[key], theirs[key])
                else:
                    ledger.compare(inner, *((THERE, MISSING) if key in ours else (MISSING, THERE)))
        elif ours is None and not contract.knows(name):
            ledger.unknown.append(name)
        elif theirs is not None or target.knows(name):
            ledger.compare(name, ours, theirs)

    walk("", _document(contract), _document(target))


def check_streaming(ledger: Ledger, contract: StreamingConfig, target: StreamingConfig, schedule: str) -> None:
    """Compare the configuration of an export with that of a stream cut by ``schedule``."""
    ledger.compare("streaming/schedule", "padded", schedule)
    ours, theirs = contract.to_json(), target.to_json()
    for key, value in ours.items():
        ledger.compare(f"streaming/{key}", value, theirs[key])


def check_ports(
    ledger: Ledger, where: str, contract: Sequence[ContractPort], target: Sequence[ContractPort], exact: bool
) -> None:
    """Compare ports by name, known aliases counting as the name.

    Args:
        ledger: takes what is found.
        where: what the ports are called in the contract.
        contract: the ports promised.
        target: the ports that are there; axes and valid regions of files are not read.
        exact: whether an extent fixed on one side and dynamic on the other is a disagreement.
    """
    known = aliases(ENCODER_INPUTS | ENCODER_OUTPUTS) if where.startswith("encoder") else {}
    there = {known.get(port.name, port.name): port for port in target}
    promised = {known.get(port.name, port.name): port for port in contract}
    for name, port in promised.items():
        if name not in there:
            ledger.compare(f"{where}/{name}", port.name, MISSING)
            continue
        ledger.compare(f"{where}/{name}/dtype", port.dtype, there[name].dtype)
        ours, theirs = list(port.shape), list(there[name].shape)
        fits = not exact and len(ours) == len(theirs)
        fits = fits and all(a == b or None in (a, b) for a, b in zip(ours, theirs, strict=True))
        ledger.compare(f"{where}/{name}/shape", ours, ours if fits else theirs)
    for name in sorted(there.keys() - promised.keys()):
        ledger.compare(f"{where}/{name}", MISSING, there[name].name)


def check_against(
    contract: Contract, graph_name: str, ports: Mapping[str, tuple[str, tuple[int | str | None, ...]]]
) -> list[str]:
    """Every disagreement of a graph with what the contract promises of it, one line each.

    A contract without graphs, of a model that was not exported, speaks of any encoder.

    Args:
        contract: the contract beside the graph.
        graph_name: file name of the graph.
        ports: what the graph has: dtype and shape by name; symbolic extents are not numbers. More ports than promised,
            such as inner tensors marked as outputs, do no harm.
    """
    encoder, named = contract.encoder, graph_name in contract.graphs
    if not named and contract.graphs:
        return [f"the contract does not speak of {graph_name}; it has {', '.join(contract.graphs)}"]
    if not named and encoder is None:
        return []
    promised = contract.graphs[graph_name] if named else encoder
    ledger, where = Ledger(contract.source), f"graphs/{graph_name}" if named else "encoder"
    for side in ("inputs", "outputs"):
        expected: tuple[ContractPort, ...] = getattr(promised, side)
        known = {} if named else aliases(ENCODER_INPUTS | ENCODER_OUTPUTS)
        there = [
            ContractPort(name, dtype, tuple(extent if isinstance(extent, int) else None for extent in shape), ())
            for name, (dtype, shape) in ports.items()
            if known.get(name, name) in {port.name for port in expected}
        ]
        check_ports(ledger, f"{where}/{side}", expected, there, exact=named)
    return [each.sentence for each in ledger.disagreements]


def _document(contract: Contract) -> dict[str, Any]:
    """The contract, of its contexts only what does not follow from the architecture."""
    document: dict[str, Any] = encode(contract)
    document["contexts"] = [
        {"name": ",".join(map(str, context.att_context_size)), "streaming": encode(context.streaming)}
        for context in contract.contexts
    ]
    return document


def _by_name(value: Any) -> Any:
    """A list of named things as a mapping; anything else as it is."""
    if isinstance(value, list) and all(isinstance(item, Mapping) and "name" in item for item in value):
        return {item["name"]: item for item in value} or value
    return value
