"""``contract.json``, schema ``streamparity.contract/1``: what a model, or an export of it, promises.

A ``null`` means that there is none, or, where ``sources`` says so, that it is not known.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..schedule import Schedule, StreamingConfig, Subsampling
from ..tensors import Port, ValidRule
from .codec import encode, read, schema, text

SCHEMA = "streamparity.contract/1"
CONTRACT = "contract.json"

Origin = Literal["file", "nemo-default", "published", "example", "computed", "unknown"]
Extent = int | None


@dataclass(frozen=True)
class Model:
    """Which model the contract is of.

    Attributes:
        id: file name without suffix, or hub name.
        sha256: hash of the .nemo file, or of the weights of a hub model.
        kind: NeMo class.
        parameters: how many there are.
    """

    id: str
    sha256: str | None
    kind: str = field(metadata={"json": "class"})
    parameters: int | None = None


@dataclass(frozen=True)
class Features:
    """Log-mel features; names are those of NeMo's AudioToMelSpectrogramPreprocessor.

    Attributes:
        sample_rate: in Hz.
        window_size: analysis window in seconds.
        window_stride: time from one frame to the next in seconds.
        window_samples: analysis window in samples, centred in n_fft.
        hop_samples: samples from one frame to the next.
        window: shape of the window; NeMo's is symmetric (not periodic).
        n_fft: length of the Fourier transform.
        features: mel bands.
        lowfreq: lower edge of the lowest band in Hz.
        highfreq: upper edge of the highest band in Hz.
        mel_norm: normalisation of the mel filters, as librosa names it.
        preemph: y[t] = x[t] - preemph * x[t - 1].
        dither: noise added in training; streaming adds none.
        mag_power: power that the magnitude spectrum is raised to.
        log: whether the logarithm is taken.
        log_zero_guard_type: whether the guard is added before the logarithm or clamps from below.
        log_zero_guard_value: the guard, a number or "tiny" or "eps".
        frame_splicing: frames joined to one.
        pad_to: training pads to a multiple of so many frames; streaming does not.
        exact_pad: whether frames begin, rather than are centred, at multiples of the hop.
        normalize: per_feature and all_features need the whole utterance; NA is none.
        streaming_safe: whether a live stream can compute the features that the model was trained on.
    """

    sample_rate: int | None = None
    window_size: float | None = None
    window_stride: float | None = None
    window_samples: int | None = None
    hop_samples: int | None = None
    window: str | None = None
    n_fft: int | None = None
    features: int | None = None
    lowfreq: float | None = None
    highfreq: float | None = None
    mel_norm: str | float | None = None
    preemph: float | None = None
    dither: float | None = None
    mag_power: float | None = None
    log: bool | None = None
    log_zero_guard_type: str | None = None
    log_zero_guard_value: float | str | None = None
    frame_splicing: int | None = None
    pad_to: int | str | None = None
    exact_pad: bool | None = None
    normalize: str | None = None
    streaming_safe: bool | None = None


@dataclass(frozen=True)
class Timebase:
    """How samples, feature frames and encoder frames lie on one another.

    Attributes:
        sample_rate: in Hz.
        samples_per_feature_frame: the hop.
        feature_frame_ms: the hop in milliseconds.
        feature_frames_per_encoder_frame: the subsampling factor.
        samples_per_encoder_frame: samples between encoder frames.
        encoder_frame_ms: the same in milliseconds.
    """

    sample_rate: int
    samples_per_feature_frame: int
    feature_frame_ms: float
    feature_frames_per_encoder_frame: int
    samples_per_encoder_frame: int
    encoder_frame_ms: float


@dataclass(frozen=True)
class Tokenizer:
    """Labels; their pieces are in decoding.vocabulary.

    Attributes:
        kind: bpe, wpe, char.
        size: labels without blank.
        blank_id: id of blank.
        special: ids of the labels that are no text, by piece.
    """

    kind: str | None = field(metadata={"json": "type"})
    size: int
    blank_id: int
    special: dict[str, int] | None = None


@dataclass(frozen=True)
class ContractPort:
    """An input or output.

    Attributes:
        name: NeMo's export name.
        dtype: as numpy names it.
        shape: extents; a dynamic one is null.
        axes: names of the axes.
        valid: the part that carries data: all, or the first or last entries along an axis, as many as the integer
            tensor count says.
    """

    name: str
    dtype: str
    shape: tuple[Extent, ...]
    axes: tuple[str, ...]
    valid: ValidRule | Literal["all"] = "all"

    @classmethod
    def of(cls, name: str, dtype: str, shape: tuple[Extent, ...], port: Port | None) -> ContractPort:
        """A port whose axes and valid region are those that NeMo's exports have."""
        if port is None:
            return cls(name, dtype, shape, ())
        return cls(name, dtype, shape, port.axes, port.valid or "all")


@dataclass(frozen=True)
class Convolutions(Subsampling):
    """The subsampling in front of the encoder: a stack of equal convolutions.

    Attributes:
        factor: feature frames per encoder frame.
        layers: how many convolutions (or poolings) with a stride there are.
        kernel: extent of each in time.
        stride: step of each in time.
        padding: zeros that each puts before and after its input.
        ceil: whether a window that hangs over the end counts.
        kind: NeMo's name for it.
        channels: of each convolution.
    """

    kind: str | None = field(default=None, metadata={"json": "type"})
    channels: int | None = None


@dataclass(frozen=True)
class Encoder:
    """The encoder's architecture and the ports of one step.

    Attributes:
        layers: conformer layers.
        d_model: width.
        heads: attention heads.
        ff_expansion_factor: width of the feed-forward modules over d_model.
        use_bias: whether linear layers and convolutions have biases.
        self_attention_model: NeMo's name for the positional encoding.
        xscaling: whether inputs are multiplied by the square root of d_model.
        att_context_style: NeMo's name.
        att_context_sizes: attention contexts that the model was trained for, its default first; -1 is unlimited.
        conv_kernel_size: of the convolution module.
        conv_context_size: frames it sees before and after; the first is the length of its cache.
        conv_norm_type: normalisation in the convolution module.
        subsampling: how feature frames become encoder frames.
        inputs: of a step, cache_last_channel with the slots of the configuration under streaming.
        outputs: of a step.
    """

    layers: int
    d_model: int
    heads: int | None
    ff_expansion_factor: int | None
    use_bias: bool | None
    self_attention_model: str | None
    xscaling: bool | None
    att_context_style: str
    att_context_sizes: tuple[tuple[int, ...], ...]
    conv_kernel_size: int | None
    conv_context_size: tuple[int, int]
    conv_norm_type: str | None
    subsampling: Convolutions
    inputs: tuple[ContractPort, ...] = ()
    outputs: tuple[ContractPort, ...] = ()


@dataclass(frozen=True)
class Size:
    """A length in three units, of the first chunk of the native schedule and of every other chunk.

    Attributes:
        frames: feature frames.
        samples: samples of audio.
        milliseconds: time.
    """

    frames: tuple[int, int]
    samples: tuple[int, int]
    milliseconds: tuple[float, float]


@dataclass(frozen=True)
class Context:
    """How the model streams at one attention context.

    Attributes:
        att_context_size: left and right context in encoder frames.
        streaming: NeMo's streaming configuration there.
        chunk: new feature frames of a chunk.
        shift: feature frames by which the stream moves on.
        pre_encode: feature frames of history in front of a chunk.
        input_frames: feature frames of every input of the padded schedule.
        encoder_frames: encoder frames that such an input returns.
        chunk_ms: latency: the audio that a chunk's first frame waits for.
        window_ms: audio past the chunk's end that its last feature frame sees, on top of that.
        cache_last_channel: shape for a batch of one.
        cache_last_time: shape for a batch of one.
    """

    att_context_size: tuple[int, ...]
    streaming: StreamingConfig
    chunk: Size
    shift: Size
    pre_encode: Size
    input_frames: int
    encoder_frames: int
    chunk_ms: float
    window_ms: float | None
    cache_last_channel: tuple[int, ...]
    cache_last_time: tuple[int, ...]


@dataclass(frozen=True)
class Decoder:
    """Prediction network and joint, and the ports of decoder_joint.

    Attributes:
        prediction_layers: LSTM layers.
        prediction_hidden: their width.
        joint_hidden: width of the joint.
        joint_activation: its activation.
        logits: what the joint returns for each frame and label: labels, blank, then durations.
        log_softmax: whether the joint ends in a log-softmax; by-device is yes on a CPU and no on a GPU.
        inputs: of a step.
        outputs: of a step.
    """

    prediction_layers: int | None
    prediction_hidden: int | None
    joint_hidden: int | None
    joint_activation: str | None
    logits: int
    log_softmax: Literal["yes", "no", "by-device"] | None = None
    inputs: tuple[ContractPort, ...] = ()
    outputs: tuple[ContractPort, ...] = ()


@dataclass(frozen=True)
class Decoding:
    """How encoder frames become labels.

    Attributes:
        kind: rnnt, tdt or ctc.
        blank_id: id of blank, also the start-of-sequence label.
        max_symbols: most labels per encoder frame, null for no limit.
        durations: TDT durations in encoder frames, empty otherwise.
        vocabulary: text piece of every label, null where it is not known.
    """

    kind: Literal["rnnt", "tdt", "ctc"]
    blank_id: int
    max_symbols: int | None
    durations: tuple[int, ...]
    vocabulary: tuple[str, ...] | None = None


@dataclass(frozen=True)
class Graph:
    """An exported file.

    Attributes:
        sha256: of the graph.
        weights_sha256: of the file of weights beside it, where there is one.
        inputs: as exported.
        outputs: as exported.
    """

    sha256: str
    weights_sha256: str | None
    inputs: tuple[ContractPort, ...]
    outputs: tuple[ContractPort, ...]


@dataclass(frozen=True)
class ContractTolerance:
    """A value passes when |candidate - reference| <= atol + rtol * |reference|."""

    atol: float
    rtol: float


@dataclass(frozen=True)
class ShapeRange:
    """Shapes of one input under a TensorRT optimization profile."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


@dataclass(frozen=True)
class Profile:
    """A TensorRT optimization profile.

    Attributes:
        name: which of the step's schedules it is for.
        shapes: by input port.
    """

    name: str
    shapes: dict[str, ShapeRange]


@dataclass(frozen=True)
class TensorRT:
    """What building an engine needs."""

    profiles: tuple[Profile, ...] = ()


@dataclass(frozen=True)
class Producer:
    """What wrote the contract.

    Attributes:
        program: its name.
        versions: of what can change a value in here.
        opset: ONNX operator set of the graphs.
    """

    program: str
    versions: dict[str, str] = field(default_factory=dict)
    opset: int | None = None


@dataclass(frozen=True)
class Contract:
    """What a model, or an export of it, promises.

    Attributes:
        model: which model.
        streaming: the configuration baked into the graphs, or that an export would have baked in.
        features: what the encoder is fed.
        decoding: how encoder frames become labels, null for an encoder alone.
        graphs: exported files by name, empty for a model that was not exported.
        producer: what wrote this.
        timebase: samples, feature frames, encoder frames.
        tokenizer: labels.
        encoder: architecture and ports.
        contexts: how the model streams at each attention context.
        decoder: prediction network and joint.
        tolerances: by dtype of the arithmetic; a measured noise floor is better.
        tensorrt: optimization profiles.
        sources: where values come from, by JSON pointer; the longest pointer that leads to a value counts. file: read
            from the model's file. nemo-default: the file leaves it to NeMo. published: from the model's description.
            example: from NeMo's example configuration of the architecture or NeMo's defaults, not confirmed for this
            model. computed: from the others. unknown: null, read it from the .nemo.
    """

    model: Model
    streaming: StreamingConfig
    features: Features
    decoding: Decoding | None
    graphs: dict[str, Graph]
    producer: Producer
    timebase: Timebase | None = None
    tokenizer: Tokenizer | None = None
    encoder: Encoder | None = None
    contexts: tuple[Context, ...] = ()
    decoder: Decoder | None = None
    tolerances: dict[str, ContractTolerance] = field(default_factory=dict)
    tensorrt: TensorRT = TensorRT()
    sources: dict[str, Origin] = field(default_factory=dict)

    @property
    def schedule(self) -> Schedule:
        """An exported encoder always drops its pre-encode history: only the padded schedule fits it."""
        return "padded"

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        document: dict[str, Any] = {"schema": SCHEMA, **encode(self)}
        document["streaming"] = {"schedule": self.schedule, **document["streaming"]}
        return document

    def to_bytes(self) -> bytes:
        """The file's content: the same for the same contract."""
        return f"{text(self.to_json())}\n".encode()

    def source(self, name: str) -> Origin | None:
        """Where the value at a name, such as ``features/preemph``, comes from; ``None`` where that is not said."""
        parts = f"/{name}".split("/")
        prefixes = ("/".join(parts[:count]) for count in range(len(parts), 0, -1))
        return next((self.sources[prefix] for prefix in prefixes if prefix in self.sources), None)

    def knows(self, name: str) -> bool:
        """Whether a ``null`` at a name says that there is none, rather than that it is not known."""
        return self.source(name) not in (None, "unknown")

    @classmethod
    def read(cls, path: Path) -> Contract:
        """Read ``contract.json``.

        Raises:
            StreamparityError: not there, not JSON, another schema, or a field of the wrong kind.
        """
        hint = "write it again with `streamparity contract write` or `export`, or move it away"
        return read(cls, path, SCHEMA, "a contract", hint, {"streaming/schedule": "padded"})


def contract_schema() -> Mapping[str, Any]:
    """JSON Schema of ``streamparity.contract/1``."""
    document = schema(Contract)
    schedule = {"properties": {"schedule": {"const": "padded"}}, "required": ["schedule"]}
    streaming = {**schedule, **document["properties"]["streaming"]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": SCHEMA,
        **document,
        "properties": {"schema": {"const": SCHEMA}, **document["properties"], "streaming": streaming},
        "required": ["schema", *document["required"]],
    }
