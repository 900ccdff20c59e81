"""Write ``contracts/``: the JSON Schema of a contract, and contracts of models that people port, without their weights.

    .venv/bin/python scripts/make_contracts.py

What is stated here was taken from the models' published descriptions and configurations, or from NeMo's example
configuration of the same architecture; everything else follows by the arithmetic that the tests hold against NeMo, or
is ``null``. ``sources`` in each contract says which is which. ``streamparity contract write MODEL.nemo`` knows it all.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from streamparity.contract import Contract, derive
from streamparity.contract.codec import encode, text
from streamparity.contract.model import Origin, contract_schema
from streamparity.contract.network import Convolutions, Decoder, Encoder
from streamparity.contract.parts import Decoding, Features, Model, Producer, Tokenizer

# examples/asr/conf/fastconformer in NeMo: the streaming transducer and hybrid configurations and the offline transducer
# agree in all of these; the last eight they leave to NeMo's defaults.
EXAMPLE_FEATURES: dict[str, Any] = {
    "sample_rate": 16000,
    "window_size": 0.025,
    "window_stride": 0.01,
    "window": "hann",
    "n_fft": 512,
    "frame_splicing": 1,
    "dither": 1e-05,
    "pad_to": 0,
    "lowfreq": 0.0,
    "highfreq": 8000.0,
    "mel_norm": "slaney",
    "preemph": 0.97,
    "mag_power": 2.0,
    "log": True,
    "log_zero_guard_type": "add",
    "log_zero_guard_value": 2**-24,
    "exact_pad": False,
}
# What NeMo's dw_striding by 8 is made of (ConvSubsampling).
DW_STRIDING = {"factor": 8, "layers": 3, "kernel": 3, "stride": 2, "kind": "dw_striding"}
CAUSAL, SYMMETRIC = (2, 1), (1, 1)
MULTI_LOOKAHEAD = ((70, 13), (70, 6), (70, 1), (70, 0))

COMPUTED = (
    *("streaming", "timebase", "contexts", "tolerances", "tensorrt", "producer"),
    *("features/window_samples", "features/hop_samples", "features/streaming_safe"),
    *("encoder/inputs", "encoder/outputs", "decoder/inputs", "decoder/outputs"),
    *("tokenizer/blank_id", "decoding/blank_id"),
)
NEMO_DEFAULT = [f"encoder/subsampling/{part}" for part in ("layers", "kernel", "stride", "padding", "ceil")]


@dataclass(frozen=True)
class Published:
    """What is published of a model; a name that is left out is not known.

    Attributes:
        labels: vocabulary without blank.
        streams: attention context, chunk and shift in encoder frames, where it is not run at its own first context.
        example: names of the values here that are the example configuration's.
    """

    id: str
    kind: str
    labels: int
    features: Mapping[str, Any]
    encoder: Mapping[str, Any]
    padding: tuple[int, int]
    decoder: Mapping[str, Any]
    decoding: Mapping[str, Any]
    streams: tuple[tuple[int, int], int, int] | None = None
    example: tuple[str, ...] = field(default=())


MODELS = (
    Published(
        id="nemotron-speech-streaming-en-0.6b",
        kind="EncDecRNNTBPEModel",
        labels=1024,
        features={"features": 128, "sample_rate": 16000, "window_size": 0.025, "window_stride": 0.01, "n_fft": 512},
        encoder={
            "layers": 24,
            "d_model": 1024,
            "heads": 8,
            "ff_expansion_factor": 4,
            "use_bias": False,
            "self_attention_model": "rel_pos",
            "att_context_style": "chunked_limited",
            "att_context_sizes": MULTI_LOOKAHEAD,
            "conv_kernel_size": 9,
            "conv_context_size": (8, 0),
            "conv_norm_type": "layer_norm",
        },
        padding=CAUSAL,
        decoder={"prediction_layers": 2, "prediction_hidden": 640, "joint_hidden": 640, "joint_activation": "relu"},
        decoding={"kind": "rnnt", "max_symbols": 10, "durations": ()},
    ),
    Published(
        id="stt_en_fastconformer_hybrid_large_streaming_multi",
        kind="EncDecHybridRNNTCTCBPEModel",
        labels=1024,
        features={"features": 80, "normalize": "NA"},
        encoder={
            "layers": 17,
            "d_model": 512,
            "heads": 8,
            "ff_expansion_factor": 4,
            "use_bias": True,
            "self_attention_model": "rel_pos",
            "att_context_style": "chunked_limited",
            "att_context_sizes": MULTI_LOOKAHEAD,
            "conv_kernel_size": 9,
            "conv_context_size": (8, 0),
            "conv_norm_type": "layer_norm",
        },
        padding=CAUSAL,
        decoder={"prediction_layers": 1, "prediction_hidden": 640, "joint_hidden": 640, "joint_activation": "relu"},
        decoding={"kind": "rnnt", "max_symbols": 10, "durations": ()},
        example=("encoder/att_context_sizes",),
    ),
    Published(
        id="parakeet-tdt-0.6b-v3",
        kind="EncDecRNNTBPEModel",
        labels=8192,
        features={"features": 128, "normalize": "per_feature"},
        encoder={
            "layers": 24,
            "d_model": 1024,
            "heads": 8,
            "ff_expansion_factor": 4,
            "use_bias": False,
            "self_attention_model": "rel_pos",
            "xscaling": False,
            "att_context_style": "regular",
            "att_context_sizes": ((-1, -1),),
            "conv_kernel_size": 9,
            "conv_context_size": (4, 4),
            "conv_norm_type": "batch_norm",
        },
        padding=SYMMETRIC,
        decoder={"prediction_layers": 2, "prediction_hidden": 640, "joint_hidden": 640},
        decoding={"kind": "tdt", "durations": (0, 1, 2, 3, 4)},
        streams=((256, -1), 6, 3),
    ),
)


def contract(published: Published) -> Contract:
    """The contract of a model as far as it is published."""
    features = _features(published)
    grid = derive.frame_grid(features)
    assert grid is not None
    convolutions = Convolutions(**DW_STRIDING, channels=256, padding=published.padding)
    encoder = Encoder(**_all(Encoder, published.encoder), subsampling=convolutions)
    arithmetic = derive.streaming_encoder(encoder)
    context, *sizes = published.streams or (encoder.att_context_sizes[0],)
    streaming = arithmetic.configuration(context, *sizes)
    logits = published.labels + 1 + len(published.decoding["durations"])
    decoder = Decoder(**_all(Decoder, published.decoder), logits=logits)
    encoder = derive.with_encoder_ports(encoder, streaming, features.features, encoder.d_model)
    made = Contract(
        model=Model(published.id, None, published.kind),
        streaming=streaming,
        features=features,
        decoding=Decoding(**_all(Decoding, published.decoding), blank_id=published.labels),
        graphs={},
        producer=Producer("scripts/make_contracts.py"),
        timebase=derive.timebase(grid, convolutions.factor),
        tokenizer=Tokenizer(None, published.labels, published.labels),
        encoder=encoder,
        contexts=derive.contexts(encoder, streaming, grid),
        decoder=derive.with_decoder_ports(decoder, encoder.d_model),
        tolerances=derive.default_tolerances(),
        tensorrt=derive.tensorrt(encoder, streaming),
    )
    return _with_sources(made, published)


def _features(published: Published) -> Features:
    values = {**EXAMPLE_FEATURES, **published.features}
    return Features(
        **values,
        window_samples=round(values["window_size"] * values["sample_rate"]),
        hop_samples=round(values["window_stride"] * values["sample_rate"]),
        streaming_safe=derive.streams_safely(values.get("normalize")),
    )


def _all(cls: type, known: Mapping[str, Any]) -> dict[str, Any]:
    """What is known, and ``None`` for every other field that the caller does not fill in."""
    filled = ("subsampling", "inputs", "outputs", "logits", "blank_id")
    return {each.name: known.get(each.name) for each in fields(cls) if each.name not in filled}


def _with_sources(made: Contract, published: Published) -> Contract:
    sources: dict[str, Origin] = {f"/{name}": "computed" for name in COMPUTED}
    sources |= {f"/{name}": "nemo-default" for name in NEMO_DEFAULT}
    sources |= {f"/features/{name}": "example" for name in EXAMPLE_FEATURES if name not in published.features}
    sources |= {f"/{name}": "example" for name in published.example}
    if published.streams is not None:
        sources |= {f"/streaming/{name}": "published" for name in ("att_context_size", "chunk_size", "shift_size")}
    document = {key: value for key, value in encode(made).items() if key not in ("contexts", "producer")}
    sources |= dict.fromkeys(_nulls("", document), "unknown")
    return replace(made, sources={"": "published", **{name: sources[name] for name in sorted(sources)}})


def _nulls(where: str, value: Any) -> Iterator[str]:
    """JSON pointers to what is ``null``; extents of shapes are dynamic, not unknown."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from _nulls(f"{where}/{key}", item)
    elif value is None:
        yield where


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).parents[1] / "contracts")
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "contract.schema.json").write_text(f"{text(contract_schema())}\n", encoding="utf-8")
    for published in MODELS:
        (folder / f"{published.id}.json").write_bytes(contract(published).to_bytes())


if __name__ == "__main__":
    main()
