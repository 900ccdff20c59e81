"""Faults of the decoding loop, planted in a port that shares no code with streamparity, must be found and named."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from streamparity.decisions import Question, Recorded, Side, analyse, read_trace_file
from streamparity.decisions.sides import decoded
from streamparity.decisions.trace import starts_of

from .tiny import Tiny, port

SEEDS = range(8)
FAULTS = {
    "twice": "predictor-fed-twice",
    "again": "predictor-fed-twice",
    "again-after-labels": "predictor-fed-twice",
    "advance-on-blank": "state-advanced-on-blank",
    "feed-blank": "state-advanced-on-blank",
    "lost": "last-label-lost",
    "lost-consumed": "last-label-lost",
    "lost-silent": "last-label-lost",
    "lost-silent-consumed": "last-label-lost",
    "state-reset": "state-not-carried",
    "unlimited": "max-symbols-unenforced",
    "start-0": "wrong-start-token",
    "start-5": "wrong-start-token",
    "start-zeros": "wrong-start-token",
    "fed-plus-1": "labels-shifted-by-one",
    "fed-minus-1": "labels-shifted-by-one",
    "plus-1": "labels-shifted-by-one",
    "minus-1": "labels-shifted-by-one",
    "blank-first": "labels-shifted-by-one",
}
OF_TDT = {
    "rnnt-rules": "durations-ignored",
    "one-by-one": "durations-ignored",
    "blank-durations": "durations-ignored",
    "label-durations": "durations-ignored",
    "jump-lost": "time-jump-lost",
    "stuck": "blank-duration-zero-stuck",
}
# What a trace betrays without any model.
ALONE = ("unlimited", "plus-1", "minus-1", "blank-first", *OF_TDT)
EVERY = [("rnnt", fault) for fault in FAULTS] + [("tdt", fault) for fault in (*FAULTS, *OF_TDT)]


class Setting:
    """A random model, a recording, and what is right."""

    def __init__(self, seed: int, kind: str) -> None:
        self.model = Tiny(seed, kind)
        self.rules = self.model.rules
        self.frames = self.model.frames()
        trace, rows = decoded(self.model, self.rules, self.frames)
        self.recorded = Recorded(self.frames, starts_of(map(len, self.frames)), trace, rows)

    def read(self, tmp_path, lines):
        path = tmp_path / "trace.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in lines))
        return read_trace_file(path, self.rules, self.recorded.starts)

    def ask(self, trace, model=True):
        candidate = Side(self.frames, self.model) if model else Side()
        return analyse(Question(self.rules, self.recorded, candidate=candidate, trace=trace))


def name_of(state) -> str:
    return hashlib.md5(b"".join(np.ascontiguousarray(part).tobytes() for part in state)).hexdigest()


@pytest.mark.parametrize(("kind", "fault"), EVERY)
def test_planted_fault_is_found_and_named(tmp_path, kind, fault):
    code, effective = {**FAULTS, **OF_TDT}[fault], 0
    for seed in SEEDS:
        setting = Setting(seed, kind)
        lines, _ = port(setting.model, setting.rules, setting.frames, fault)
        trace = setting.read(tmp_path, lines)
        result = setting.ask(trace)
        if result["first_difference"] is None and result["verdict"] == "pass":
            continue  # this recording does not meet the fault
        effective += 1
        assert result["verdict"] == "fail", seed
        codes = [finding["code"] for finding in result["diagnosis"]]
        assert code in codes[:2], (seed, codes)
        surest = result["diagnosis"][0]["confidence"]
        named = next(f["confidence"] for f in result["diagnosis"] if f["code"] == code)
        assert named == surest, (seed, [(f["code"], f["confidence"], f["message"]) for f in result["diagnosis"]])
        if fault in ALONE and (code != "labels-shifted-by-one" or len(set(setting.recorded.trace.labels)) >= 3):
            alone = [finding["code"] for finding in setting.ask(trace, model=False)["diagnosis"]]
            assert code in alone[:2], (seed, alone)
    assert effective >= 3


@pytest.mark.parametrize("kind", ["rnnt", "tdt"])
def test_the_port_without_fault_is_right(tmp_path, kind):
    for seed in SEEDS:
        setting = Setting(seed, kind)
        lines, _ = port(setting.model, setting.rules, setting.frames, state_names=name_of)
        result = setting.ask(setting.read(tmp_path, lines))
        assert (result["verdict"], result["diagnosis"], result["first_difference"]) == ("pass", [], None), seed
