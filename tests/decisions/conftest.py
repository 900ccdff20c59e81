from __future__ import annotations

import json

import pytest

from streamparity.decisions import Question, Recorded, Side, analyse, read_trace_file
from streamparity.decisions.sides import decoded
from streamparity.decisions.trace import starts_of

from .tiny import Tiny


class Setting:
    """A random model, a recording, and what is right."""

    def __init__(self, seed: int, kind: str, folder, **how) -> None:
        self.model = Tiny(seed, kind, **how)
        self.rules = self.model.rules
        self.folder = folder
        self.frames = self.model.frames()
        trace, rows = decoded(self.model, self.rules, self.frames)
        self.recorded = Recorded(self.frames, starts_of(map(len, self.frames)), trace, rows)

    def read(self, lines):
        path = self.folder / "trace.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_trace_file(path, self.rules, self.recorded.starts)

    def ask(self, trace=None, model=True, **more):
        candidate = more.pop("candidate", Side(self.frames, self.model) if model else Side())
        return analyse(Question(self.rules, self.recorded, candidate=candidate, trace=trace, **more))


@pytest.fixture
def setting(tmp_path):
    return lambda seed, kind, **how: Setting(seed, kind, tmp_path, **how)
