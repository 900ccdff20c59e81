"""What a contract says beside the network: identity, features, labels, files, tolerances."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from .network import ContractPort


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
