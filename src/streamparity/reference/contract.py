"""The contract of a NeMo model, from the model as NeMo restores it."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from ..contract import derive
from ..contract.model import Contract, Origin
from ..contract.network import Convolutions, Decoder, Encoder
from ..contract.parts import Decoding, Features, Graph, Model, Producer, Tokenizer
from ..errors import StreamparityError
from ..provenance import versions
from ..schedule import StreamingConfig, StreamingEncoder
from .nemo import LoadedModel, decoder_of

COMPUTED = ("streaming", "timebase", "contexts", "tolerances", "tensorrt", "model/parameters", "producer")


def contract_of(
    model: LoadedModel,
    streaming: StreamingConfig,
    program: str,
    graphs: Mapping[str, Graph] | None = None,
    opset: int | None = None,
) -> Contract:
    """Describe a model.

    Args:
        model: a restored NeMo model.
        streaming: the configuration that is baked into its graphs, or would be.
        program: what asks, for ``producer``.
        graphs: exported files by name.
        opset: ONNX operator set of the graphs.

    Raises:
        StreamparityError: features or subsampling of a kind that is not known.
    """
    module = model.module
    features, sources = _features(module)
    grid = derive.frame_grid(features)
    if grid is None:
        raise StreamparityError(
            "the model's preprocessor has exact_pad set: its frames are not centred on their samples",
            "no streaming model with such features is known; please report it",
        )
    encoder, more = _encoder(module)
    encoder = derive.with_encoder_ports(encoder, streaming, features.features, int(module.encoder._feat_out))
    decoding = decoder_of(module)
    told: dict[str, Origin] = {**sources, **more, **{f"/{part}": "computed" for part in COMPUTED}}
    return Contract(
        model=Model(model.id, model.sha256, type(module).__name__, sum(part.numel() for part in module.parameters())),
        streaming=streaming,
        features=features,
        decoding=None if decoding is None else Decoding(**asdict(decoding)),
        graphs=dict(graphs or {}),
        producer=Producer(program, versions(), opset),
        timebase=derive.timebase(grid, encoder.subsampling.factor),
        tokenizer=_tokenizer(module, len(decoding.vocabulary), decoding.blank_id) if decoding is not None else None,
        encoder=encoder,
        contexts=derive.contexts(encoder, streaming, grid),
        decoder=_decoder(module),
        tolerances=derive.default_tolerances(),
        tensorrt=derive.tensorrt(encoder, streaming),
        sources={"": "file", **{name: told[name] for name in sorted(told)}},
    )


def streaming_encoder(encoder: Any) -> StreamingEncoder:
    """What decides how a NeMo encoder streams. Raises ``StreamparityError`` for a subsampling that is not known."""
    return StreamingEncoder(
        str(encoder.att_context_style), len(encoder.layers), int(encoder.conv_context_size[1]), _subsampling(encoder)
    )


def _subsampling(encoder: Any) -> Convolutions:
    stack = encoder.pre_encode
    if not hasattr(stack, "_sampling_num") or not hasattr(stack, "get_sampling_frames"):
        raise StreamparityError(
            f"the encoder subsamples with {type(stack).__name__}, not with a stack of convolutions",
            "streaming is known for dw_striding, striding and vggnet",
        )
    return Convolutions(
        factor=int(stack.subsampling_factor),
        layers=int(stack._sampling_num),
        kernel=int(stack._kernel_size),
        stride=int(stack._stride),
        padding=(int(stack._left_padding), int(stack._right_padding)),
        ceil=bool(stack._ceil_mode),
        kind=str(stack._subsampling),
        channels=int(stack._conv_channels),
    )


def _configured(config: Mapping[str, Any], cls: type) -> tuple[dict[str, Any], set[str]]:
    """What a part is made with: the configuration over NeMo's defaults; and the names left to those."""
    parameters = inspect.signature(cls.__init__).parameters  # type: ignore[misc]  # only its signature is looked at
    defaults = {name: each.default for name, each in parameters.items() if each.default is not inspect.Parameter.empty}
    return {**defaults, **config}, set(defaults) - set(config)


def _section(module: Any, name: str) -> dict[str, Any]:
    from omegaconf import OmegaConf

    section: Any = OmegaConf.to_container(module.cfg.get(name), resolve=True)
    return dict(section)


def _features(module: Any) -> tuple[Features, dict[str, Origin]]:
    from nemo.collections.asr.modules import AudioToMelSpectrogramPreprocessor

    if not isinstance(module.preprocessor, AudioToMelSpectrogramPreprocessor):
        raise StreamparityError(
            f"the model's preprocessor is {type(module.preprocessor).__name__}, not a mel spectrogram",
            "streaming features are known for AudioToMelSpectrogramPreprocessor only",
        )
    made_with, left = _configured(_section(module, "preprocessor"), AudioToMelSpectrogramPreprocessor)
    featurizer = module.preprocessor.featurizer
    rate, normalize = int(featurizer.sample_rate), made_with["normalize"] or "NA"
    known = {field.name for field in fields(Features)}
    values = {name: value for name, value in made_with.items() if name in known}
    values |= {
        "window_samples": int(featurizer.win_length),
        "hop_samples": int(featurizer.hop_length),
        "window_size": featurizer.win_length / rate,
        "window_stride": featurizer.hop_length / rate,
        "n_fft": int(featurizer.n_fft),
        "lowfreq": float(made_with["lowfreq"]),
        "highfreq": float(made_with["highfreq"] or rate / 2),
        "normalize": normalize if isinstance(normalize, str) else "fixed",
    }
    values["streaming_safe"] = derive.streams_safely(values["normalize"])
    sources: dict[str, Origin] = {f"/features/{name}": "nemo-default" for name in left & known}
    for name in ("window_samples", "hop_samples", "streaming_safe"):
        sources[f"/features/{name}"] = "computed"
    return Features(**values), sources


def _encoder(module: Any) -> tuple[Encoder, dict[str, Origin]]:
    encoder = module.encoder
    made_with, left = _configured(_section(module, "encoder"), type(encoder))
    names = (
        "ff_expansion_factor",
        "use_bias",
        "self_attention_model",
        "xscaling",
        "conv_kernel_size",
        "conv_norm_type",
    )
    left_to_nemo = {name for name in names if name in left}
    described = Encoder(
        layers=len(encoder.layers),
        d_model=int(encoder.d_model),
        heads=int(made_with["n_heads"]),
        att_context_style=str(encoder.att_context_style),
        att_context_sizes=tuple(tuple(int(part) for part in size) for size in encoder.att_context_size_all),
        conv_context_size=(int(encoder.conv_context_size[0]), int(encoder.conv_context_size[1])),
        subsampling=_subsampling(encoder),
        **{name: made_with.get(name) for name in names},  # type: ignore[arg-type]  # configured with these types
    )
    sources: dict[str, Origin] = {f"/encoder/{name}": "nemo-default" for name in left_to_nemo}
    for part in ("inputs", "outputs", "subsampling/kernel", "subsampling/stride", "subsampling/padding"):
        sources[f"/encoder/{part}"] = "nemo-default"
    return described, sources


def _tokenizer(module: Any, size: int, blank: int) -> Tokenizer:
    pieces = getattr(getattr(module, "tokenizer", None), "tokenizer", None)
    special = None
    if pieces is not None and hasattr(pieces, "unk_id") and hasattr(pieces, "id_to_piece"):
        ids = [int(getattr(pieces, name)()) for name in ("unk_id", "bos_id", "eos_id", "pad_id")]
        special = {str(pieces.id_to_piece(label)): label for label in ids if label >= 0}
    return Tokenizer(str((module.cfg.get("tokenizer") or {}).get("type", "char")), size, blank, special)


def _decoder(module: Any) -> Decoder | None:
    joint, network = getattr(module, "joint", None), getattr(module, "decoder", None)
    if joint is None:
        return None
    # What the configuration says: exporting sets the joint's own to no.
    log_softmax = _section(module, "joint").get("log_softmax")
    described = Decoder(
        prediction_layers=getattr(network, "pred_rnn_layers", None),
        prediction_hidden=getattr(network, "pred_hidden", None),
        joint_hidden=getattr(joint, "joint_hidden", None),
        joint_activation=getattr(joint, "activation", None),
        logits=int(joint.num_classes_with_blank),
        log_softmax="by-device" if log_softmax is None else "yes" if log_softmax else "no",
    )
    return derive.with_decoder_ports(described, int(module.encoder._feat_out))
