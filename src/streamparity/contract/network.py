"""What a contract says of the network: ports, encoder, decoder, and how the encoder streams."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from ..schedule import StreamingConfig, Subsampling
from ..tensors import Port, ValidRule

Extent = int | None


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
