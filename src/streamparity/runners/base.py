"""What a backend must be able to do."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from ..errors import StreamparityError
from ..graph.weight import Weight
from ..schedule import StreamingConfig
from ..tensors import Array, TensorSpec
from .piece import NoPiece, Piece
from .transducer import CtcHead, Transducer, TransducerCall


@dataclass(frozen=True)
class RunnerOptions:
    """What a runner is opened with.

    Attributes:
        taps: labels of the inner encoder tensors wanted, such as ``encoder.layers.0.self_attn``.
        decoder_taps: labels of the decoder tensors wanted.
        streaming: the reference's streaming configuration; a backend whose model has it baked in ignores it.
        settings: the backend's own ``--option`` values.
    """

    taps: Sequence[str] = ()
    decoder_taps: Sequence[str] = ()
    streaming: StreamingConfig | None = None
    settings: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, specs: Sequence[TensorSpec], streaming: StreamingConfig, settings: Mapping[str, str]) -> RunnerOptions:
        """To return the taps among ``specs``."""
        taps, decoder_taps = ([spec.label for spec in specs if spec.kind == kind] for kind in ("tap", "decoder"))
        return cls(taps, decoder_taps, streaming, settings)


@dataclass(frozen=True)
class StepInput:
    """One chunk, apart from the caches.

    Attributes:
        audio_signal: features ``[B, mel, T]``.
        length: valid frames ``[B]``.
        drop: encoder frames that the schedule drops after subsampling; exports have it baked in.
        last: whether the reference kept all outputs of this chunk.
    """

    audio_signal: Array
    length: Array
    drop: int
    last: bool


class Runner(ABC):
    """A model under test. It holds the caches, so that they can stay where the backend computes.

    Attributes:
        name: the backend's name on the command line.
        settings_known: the ``--option`` keys it takes, with a line of help each.
        model_sha256: hash of the NeMo model that the model under test came from, where that is known.
        unmatched: taps asked for that the model does not have, with the reason.
        transducer: predictor and joint, where the model has them.
        ctc: the CTC head, where the model has one.
        math: arithmetic settings that move numbers.
        arithmetic: dtype in which the model computes, where the arrays it returns do not say.
        threads: threads per operator, where the backend says.
        notes: lines that the user should see.
        isolates: whether :meth:`isolated_step` can be called.
        marking: how the taps were got, where getting them can change what is computed; ``None`` where it cannot.
        bakes_drop: the model always drops ``drop_extra_pre_encoded`` frames, whatever the step asks for.
        backend_ms: time that the last step spent inside the backend, its own bookkeeping excepted.
    """

    name: ClassVar[str]
    settings_known: ClassVar[Mapping[str, str]] = {}
    isolates: ClassVar[bool] = False

    def __init__(self) -> None:
        self.model_sha256: str | None = None
        self.unmatched: dict[str, str] = {}
        self.transducer: Transducer | None = None
        self.ctc: CtcHead | None = None
        self.math: dict[str, Any] = {"tf32": None}
        self.arithmetic: str | None = None
        self.threads: int | None = None
        self.notes: list[str] = []
        self.marking: str | None = None
        self.bakes_drop = False
        self.backend_ms = 0.0

    @classmethod
    @abstractmethod
    def open(cls, model: Path, options: RunnerOptions) -> Runner:
        """Load the model; the settings are known to be ones that it takes.

        Raises:
            BackendMissing: a library or device is missing.
            StreamparityError: the model cannot be used.
        """

    @abstractmethod
    def set_caches(self, caches: Mapping[str, Array]) -> None:
        """Put caches in place for the next step: ``cache_last_channel``, ``cache_last_time`` and its length."""

    @abstractmethod
    def step(self, chunk: StepInput) -> dict[str, Array]:
        """Run one chunk and keep the caches it returns for the next.

        Returns:
            Output ports as ``out/NAME`` and taps as ``tap/LABEL``.

        Raises:
            StepFailed: the model could not run the chunk.
        """

    def isolated_step(self, chunk: StepInput, forced: Mapping[str, Array]) -> dict[str, Array]:
        """As :meth:`step`, but what follows a tap in ``forced`` is given the array there, not what the tap computed.

        Each tap returned is then a function of the chunk, the caches and the ``forced`` arrays alone: an error in it
        was made between it and the taps in front of it. The caches returned are not kept.

        Args:
            chunk: the chunk.
            forced: arrays by tap label.

        Raises:
            StepFailed: the model could not run the chunk.
        """
        raise NotImplementedError(f"backend {self.name} cannot run its pieces one by one")

    def piece(self, label: str, chunk: StepInput, forced: Mapping[str, Array]) -> Piece:
        """What computes one tap or output port of :meth:`isolated_step`, as a graph of its own.

        Args:
            label: the tap or output port.
            chunk: the chunk; the caches are those set last.
            forced: arrays by tap label.

        Raises:
            NoPiece: there is none, with the reason.
        """
        raise NoPiece(f"backend {self.name} runs no graph that could be cut")

    def decoder_piece(self, label: str, call: TransducerCall) -> Piece:
        """What computes one decoder tensor of one evaluation, as a graph of its own; scores as log-probabilities.

        Args:
            label: ``decoder.prediction``, one of its states, or ``joint``, which is cut off the predictor where what
                the reference's predicts is known.
            call: what the evaluation is given.

        Raises:
            NoPiece: there is none, with the reason.
        """
        raise NoPiece(f"backend {self.name} runs no graph that could be cut")

    def weights(self) -> Iterable[Weight]:
        """The model's weights under NeMo's names and in NeMo's layout, where the backend can tell."""
        return ()

    @classmethod
    def layers(cls, model: Path) -> Sequence[str]:
        """Path of every layer of a model that is in reduced precision or could be, operator at the end.

        Raises:
            StreamparityError: the backend cannot build its models anew.
        """
        raise StreamparityError(f"backend {cls.name} cannot build its models anew", "use --backend trt")

    @classmethod
    def pinned(cls, model: Path, pins: Sequence[str], folder: Path) -> Path:
        """The same model built again, with the layers that ``pins`` choose in float32.

        Args:
            model: the model.
            pins: globs over the paths that :meth:`layers` gives.
            folder: where to put it; what an earlier call left there may be replaced.

        Raises:
            StreamparityError: it cannot be built.
        """
        raise StreamparityError(f"backend {cls.name} cannot build its models anew", "use --backend trt")

    def close(self) -> None:  # noqa: B027 (most backends have nothing to release)
        """Release what the backend holds."""

    @classmethod
    def check_settings(cls, settings: Mapping[str, str]) -> None:
        """Refuse settings that the backend does not know."""
        for key in settings:
            if key not in cls.settings_known:
                known = ", ".join(f"{name} ({text})" for name, text in cls.settings_known.items())
                raise StreamparityError(f"backend {cls.name} has no option {key!r}", f"it takes: {known or 'none'}")
