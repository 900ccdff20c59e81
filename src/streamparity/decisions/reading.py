"""Reading a trace that another program wrote (docs/trace.md), trusting nothing in it."""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from ..decode.greedy import MOST_SYMBOLS
from ..dump.manifest import Decoder
from ..dump.trace import Line, emitting, number
from ..errors import StreamparityError, first_line
from .trace import DecisionTrace, Step, step_of

LONGEST_LINE = 1 << 20
HINT = "write one JSON object a line as docs/trace.md says"


def read_trace_file(path: Path, rules: Decoder, starts: Sequence[int]) -> DecisionTrace:
    """Read a candidate's trace.

    Args:
        path: JSON lines.
        rules: the reference's: labels and durations must be among its own.
        starts: first encoder frame of every chunk of the reference, and of the one after the last.

    Raises:
        StreamparityError: not readable, no decision in it, or a line that cannot be of this stream.
    """
    reader = _Reader(path, rules, starts)
    try:
        with path.open("rb") as file:
            for place, raw in enumerate(_lines(file, path), start=1):
                reader.add(place, raw)
    except (FileNotFoundError, IsADirectoryError):
        raise StreamparityError(f"{path} is not a trace file", "give the JSONL that your program wrote") from None
    return reader.finish()


def _lines(file: Any, path: Path) -> Iterator[bytes]:
    place = 0
    while raw := file.readline(LONGEST_LINE + 1):
        place += 1
        if len(raw) > LONGEST_LINE:
            raise StreamparityError(f"{path}, line {place} is longer than {LONGEST_LINE} bytes", HINT)
        yield raw


class _Reader:
    """Checks lines one by one and puts them in their places."""

    def __init__(self, path: Path, rules: Decoder, starts: Sequence[int]) -> None:
        self._path, self._rules, self._starts = path, rules, starts
        self._lines: list[Line] = []
        self._utterances: list[int] = []
        self._place = 0
        self._last = (0, -1, -1)
        self._on_frame = 0
        self._in_utterance = 0

    def add(self, place: int, raw: bytes) -> None:
        self._place = place
        if not raw.strip():
            return
        try:
            line = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise self._bad(f"is not JSON: {first_line(error)}") from None
        if not isinstance(line, dict):
            raise self._bad(f"is no JSON object but {type(line).__name__}")
        utterance = self._whole_number(line, "utterance", required=False) or 0
        clean = self._placed(line)
        clean |= self._decided(line) | self._scores(line)
        self._in_order(utterance, clean)
        if clean["step"] is None:
            clean["step"] = self._on_frame
        self._lines.append(clean)
        self._utterances.append(utterance)
        if self._in_utterance > MOST_SYMBOLS * (self._starts[-1] + 1):
            raise self._bad(f"goes on after {MOST_SYMBOLS} decisions per encoder frame", "end it where the audio ends")

    def finish(self) -> DecisionTrace:
        if not self._lines:
            raise StreamparityError(f"{self._path} holds no decision", HINT)
        steps: list[Step] = []
        # They are in order: one utterance after the other.
        for utterance, numbered in groupby(zip(self._utterances, self._lines, strict=True), itemgetter(0)):
            lines = [line for _, line in numbered]
            emits = {id(line) for line in emitting(lines, self._rules)}
            steps += [step_of(line, self._starts, id(line) in emits, utterance) for line in lines]
        return DecisionTrace(tuple(steps), whole=self._is_whole(steps))

    def _is_whole(self, steps: Sequence[Step]) -> bool:
        """Whether it has steps that emit nothing; CTC that never repeats is whole if no frame is left out."""
        if not all(step.emit for step in steps):
            return True
        return self._rules.kind == "ctc" and len(steps) == self._starts[-1] * len(set(self._utterances))

    def _placed(self, line: Line) -> Line:
        """``chunk`` and ``frame``; a frame without chunk is counted from the beginning of the utterance."""
        frame, chunk = self._whole_number(line, "frame"), self._whole_number(line, "chunk", required=False)
        assert frame is not None
        chunks = len(self._starts) - 1
        if chunk is None:
            if frame >= self._starts[-1]:
                raise self._bad(f"has frame {frame}; the reference has {self._starts[-1]} encoder frames")
            chunk = bisect_right(self._starts, frame) - 1
            frame -= self._starts[chunk]
        elif chunk >= chunks:
            raise self._bad(f"has chunk {chunk}; the reference has {chunks} chunks")
        elif frame >= (length := self._starts[chunk + 1] - self._starts[chunk]):
            raise self._bad(
                f"has frame {frame} in chunk {chunk}, which has {length} encoder frames",
                "count frames within the chunk, or leave chunk out and count them from the beginning",
            )
        return {"chunk": chunk, "frame": frame, "step": self._whole_number(line, "step", required=False)}

    def _decided(self, line: Line) -> Line:
        label, duration = self._whole_number(line, "label"), self._whole_number(line, "duration", required=False)
        assert label is not None
        self._known_label(label)
        self._known_duration(duration)
        clean: Line = {"label": label, "duration": duration}
        if "emit" in line and not isinstance(line["emit"], bool):
            raise self._bad(f"has emit {line['emit']!r}, which is neither true nor false")
        if self._rules.kind == "ctc" and "emit" in line:
            clean["emit"] = line["emit"]
        state = line.get("state")
        if state is not None and not isinstance(state, str):
            raise self._bad(f"has state {state!r}, which is no string")
        return {**clean, "state": state}

    def _scores(self, line: Line) -> Line:
        clean: Line = {name: self._number(line, name) for name in ("lse", "duration_lse")}
        for key, value in (("top", "label"), ("durations", "duration")):
            choices = line.get(key)
            if choices is None:
                continue
            if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
                raise self._bad(f"has {key} that is no list of objects")
            clean[key] = [
                {value: self._whole_number(choice, value), "logit": self._number(choice, "logit")}
                for choice in choices[:2]
            ]
            for choice in clean[key]:
                if key == "top":
                    self._known_label(choice["label"])
                else:
                    self._known_duration(choice["duration"])
        return clean

    def _in_order(self, utterance: int, line: Line) -> None:
        here = (utterance, line["chunk"], line["frame"])
        if here < self._last:
            raise self._bad(
                "goes back to utterance {}, chunk {}, frame {} after utterance {}, chunk {}, frame {}".format(
                    *here, *self._last
                ),
                "write decisions in the order they are made, every chunk once; number decodings with utterance",
            )
        self._on_frame = self._on_frame + 1 if here == self._last else 0
        self._in_utterance = self._in_utterance + 1 if utterance == self._last[0] else 1
        self._last = here

    def _known_label(self, label: int) -> None:
        if label > self._rules.blank_id:
            raise self._bad(
                f"has label {label}; labels go from 0 to {self._rules.blank_id}, the blank",
                "write labels as the model counts them, blank last",
            )

    def _known_duration(self, duration: int | None) -> None:
        known = self._rules.durations
        if known and duration is not None and duration not in known:
            raise self._bad(
                f"has duration {duration}; the model's durations are {', '.join(map(str, known))}",
                "write the duration that was decided, in frames, not its place among the durations",
            )

    def _whole_number(self, line: Line, key: str, required: bool = True) -> int | None:
        value = line.get(key)
        if value is None and not required:
            return None
        if type(value) is not int or not 0 <= value < 1 << 40:
            what = "no" if key not in line else f"{str(value)[:40]!r} as"
            raise self._bad(f"has {what} {key}; it must be a whole number from 0")
        return value

    def _number(self, line: Line, key: str) -> float | None:
        value = line.get(key)
        if value is None:
            return None
        if type(value) not in (int, float) or (type(value) is int and abs(value) > 1 << 60):
            raise self._bad(f"has {str(value)[:40]!r} as {key}; it must be a number")
        return number(value)

    def _bad(self, what: str, hint: str = HINT) -> StreamparityError:
        return StreamparityError(f"{self._path}, line {self._place} {what}", hint)
