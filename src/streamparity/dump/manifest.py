"""``dump.json``: what a dump holds, schema ``streamparity.dump/1``."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ..errors import StreamparityError
from ..schedule import SCHEDULES, Schedule, StreamingConfig
from ..tensors import TensorSpec

SCHEMA = "streamparity.dump/1"


@dataclass(frozen=True)
class Decoder:
    """How encoder frames become text.

    Attributes:
        kind: ``rnnt``, ``tdt`` or ``ctc``.
        blank_id: id of blank, also the start-of-sequence label; the last of the labels.
        max_symbols: most labels per encoder frame, ``None`` for no limit.
        durations: TDT durations in encoder frames, empty otherwise.
        vocabulary: text piece of every label; ``▁`` begins a word.
    """

    kind: str
    blank_id: int
    max_symbols: int | None
    durations: tuple[int, ...]
    vocabulary: tuple[str, ...]

    @property
    def labels(self) -> int:
        """Width of the label head: vocabulary and blank."""
        return self.blank_id + 1

    def text(self, labels: Sequence[int]) -> str:
        """Join the pieces of ``labels`` (SentencePiece convention); an unknown label is shown as ``<label>``."""
        pieces = [self.vocabulary[label] if 0 <= label < len(self.vocabulary) else f"<{label}>" for label in labels]
        return "".join(pieces).replace("▁", " ").strip()


@dataclass(frozen=True)
class Manifest:
    """The content of ``dump.json``.

    Attributes:
        model: ``id``, ``sha256`` and whatever else identifies the model.
        audio: ``sha256`` of the samples fed, ``sample_rate`` in Hz, ``seconds``, ``feature_frames``.
        producer: program, versions and arithmetic.
        taps: the globs that were asked for.
        tokens: every label emitted, once the dump is complete.
    """

    model: dict[str, Any]
    streaming: StreamingConfig
    schedule: Schedule
    decoder: Decoder | None
    audio: dict[str, Any]
    producer: dict[str, Any]
    taps: tuple[str, ...]
    tensors: tuple[TensorSpec, ...] = ()
    chunks: int = 0
    complete: bool = False
    tokens: tuple[int, ...] | None = None
    text: str | None = None
    extra: dict[str, Any] = field(default_factory=dict)

    def completed(self, chunks: int, tokens: list[int] | None, text: str | None) -> Manifest:
        """The same dump, finished."""
        return replace(self, chunks=chunks, complete=True, tokens=None if tokens is None else tuple(tokens), text=text)

    def same_job(self, other: Manifest) -> bool:
        """Whether both describe the same model, audio, schedule and taps, so that one may go on with the other."""

        def job(m: Manifest) -> tuple[Any, ...]:
            # What was decoded at once says nothing of the stream, and is made at the end.
            extra = {key: value for key, value in m.extra.items() if key != "offline_text"}
            return m.model, m.streaming, m.schedule, m.audio, m.producer, m.taps, extra

        return job(self) == job(other)

    def to_json(self) -> dict[str, Any]:
        """As written to disk."""
        decoder = self.decoder
        return {
            "schema": SCHEMA,
            "complete": self.complete,
            "chunks": self.chunks,
            "model": self.model,
            "streaming": {"schedule": self.schedule, **self.streaming.to_json()},
            "decoder": None
            if decoder is None
            else {
                "kind": decoder.kind,
                "blank_id": decoder.blank_id,
                "max_symbols": decoder.max_symbols,
                "durations": list(decoder.durations),
                "vocabulary": list(decoder.vocabulary),
            },
            "audio": self.audio,
            "producer": self.producer,
            "taps": list(self.taps),
            "tensors": [spec.to_json() for spec in self.tensors],
            "tokens": None if self.tokens is None else list(self.tokens),
            "text": self.text,
            **self.extra,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Manifest:
        """Inverse of :meth:`to_json`; unknown keys are kept in ``extra``. Raises ``KeyError``, ``TypeError``..."""
        decoder = data["decoder"]
        if decoder is not None:
            decoder = Decoder(
                decoder["kind"],
                int(decoder["blank_id"]),
                decoder["max_symbols"],
                tuple(decoder["durations"]),
                tuple(decoder["vocabulary"]),
            )
        if data["streaming"]["schedule"] not in SCHEDULES:
            raise ValueError(f"schedule {data['streaming']['schedule']!r}")
        for part, keys in (("model", ("id", "sha256")), ("audio", ("sha256", "feature_frames"))):
            for key in keys:
                if key not in data[part]:
                    raise KeyError(f"{part}.{key}")
        known = {"schema", "complete", "chunks", "model", "streaming", "decoder", "audio", "producer", "taps"}
        known |= {"tensors", "tokens", "text"}
        return cls(
            model=dict(data["model"]),
            streaming=StreamingConfig.from_json(data["streaming"]),
            schedule=data["streaming"]["schedule"],
            decoder=decoder,
            audio=dict(data["audio"]),
            producer=dict(data["producer"]),
            taps=tuple(data["taps"]),
            tensors=tuple(TensorSpec.from_json(spec) for spec in data["tensors"]),
            chunks=int(data["chunks"]),
            complete=bool(data["complete"]),
            tokens=None if data["tokens"] is None else tuple(data["tokens"]),
            text=data["text"],
            extra={key: value for key, value in data.items() if key not in known},
        )

    @classmethod
    def read(cls, path: Path) -> Manifest:
        """Read ``dump.json``.

        Raises:
            StreamparityError: not there, not JSON, another schema, or fields missing.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise StreamparityError(
                f"{path.parent} is not a dump: it has no dump.json",
                "give the folder that `streamparity dump` wrote",
            ) from None
        except (ValueError, UnicodeDecodeError) as error:
            raise StreamparityError(f"{path} is not JSON: {error}", "make the dump again") from None
        schema = data.get("schema") if isinstance(data, dict) else None
        if schema != SCHEMA:
            raise StreamparityError(
                f"{path} has schema {schema!r}; this version reads {SCHEMA!r}",
                "make the dump again, or use the streamparity version that wrote it",
            )
        try:
            return cls.from_json(data)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise StreamparityError(
                f"{path} does not follow {SCHEMA}: {type(error).__name__} {error}", "make the dump again"
            ) from None
