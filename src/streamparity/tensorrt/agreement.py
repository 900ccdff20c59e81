"""Does an engine keep what the contract of its model promises?"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from ..contract import Contract
from ..contract.check import Ledger
from ..contract.engine_check import check_engine
from ..contract.profiles import Profile
from ..graph.onnx_graph import missing_ports
from ..schedule import StreamingConfig
from ..tensors import DECODER_INPUTS, DECODER_OUTPUTS, ENCODER_INPUTS, ENCODER_OUTPUTS, canonical_names
from .metadata import EngineMetadata


def disagreements(contract: Contract, engine: Path, metadata: EngineMetadata) -> list[str]:
    """Every disagreement of an engine with a contract, one line each.

    Args:
        contract: the contract beside the engine.
        engine: the engine, what is known of it beside it.
        metadata: the same, read.
    """
    problems = []
    if metadata.role == "encoder":
        problems += profile_problems(contract.streaming, metadata.profiles, [port.name for port in metadata.inputs])
    ledger = Ledger(contract.source)
    check_engine(contract, engine, ledger, [])
    problems += [each.sentence for each in ledger.disagreements]
    return problems


def streaming_problems(built: StreamingConfig, promised: StreamingConfig, where: str) -> list[str]:
    """What an engine was built for and ``where`` has otherwise, one line each."""
    ours, theirs = built.to_json(), promised.to_json()
    return [
        f"{key} is {ours[key]} in the engine and {theirs[key]} in {where}" for key in theirs if ours[key] != theirs[key]
    ]


def profile_problems(streaming: StreamingConfig, profiles: Sequence[Profile], names: Iterable[str]) -> list[str]:
    """Where the profiles of an encoder do not fit the loop: caches of another size, no profile for a whole chunk.

    Args:
        streaming: the configuration that the encoder was exported with.
        profiles: what it was built for.
        names: the names of its inputs.
    """
    inputs = canonical_names(names, ENCODER_INPUTS, "the engine")
    problems = []
    for place, profile in enumerate(profiles):
        called = f"profile {place} ({profile.name})"
        for canonical in ("cache_last_channel", "cache_last_time"):
            name = inputs.get(canonical)
            if name is None or name not in profile.shapes:
                problems.append(f"{called} has no shape for {canonical}")
                continue
            least, _, most = profile.shapes[name]
            axes = ENCODER_INPUTS[canonical].axes
            if any(low != high for axis, low, high in zip(axes, least, most, strict=True) if axis != "B"):
                problems.append(f"{called} lets {name} have {list(least)} to {list(most)}: a cache has one size")
            slots = least[axes.index("C")] if "C" in axes else streaming.last_channel_cache_size
            if slots != streaming.last_channel_cache_size:
                problems.append(
                    f"{called} gives {name} {slots} slots, the streaming configuration has "
                    f"{streaming.last_channel_cache_size}"
                )
    whole = streaming.pre_encode_cache_size[1] + streaming.chunk_size[1]
    signal = inputs.get("audio_signal", "audio_signal")
    lengths = [profile.shapes[signal] for profile in profiles if signal in profile.shapes]
    if not any(least[2] <= whole <= most[2] for least, _, most in lengths):
        spans = ", ".join(f"{least[2]} to {most[2]}" for least, _, most in lengths) or "none"
        problems.append(f"no profile takes a whole chunk of {whole} feature frames (they take {spans})")
    return problems


def stateless_ports(metadata: EngineMetadata) -> list[str]:
    """The ports that a decoder, or an encoder that streams, must have and the engine lacks."""
    outputs = [port.name for port in metadata.outputs if port.name not in metadata.taps.values()]
    inputs = [port.name for port in metadata.inputs]
    if metadata.role == "decoder_joint":
        return [name for name in (*DECODER_INPUTS, *DECODER_OUTPUTS) if name not in (*inputs, *outputs)]
    return missing_ports(
        canonical_names(inputs, ENCODER_INPUTS, "the engine"), canonical_names(outputs, ENCODER_OUTPUTS, "the engine")
    )
