"""A trace from another program: whatever is in the file, it is read, or refused in two lines."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from streamparity.decisions import read_trace_file
from streamparity.decisions.reading import LONGEST_LINE
from streamparity.dump import Decoder
from streamparity.errors import StreamparityError

RULES = Decoder("tdt", 3, 2, (0, 1, 2), ("a", "b", "c"))
STARTS = [0, 2, 2, 5]  # chunks of 2, 0 and 3 frames
GOOD = {"chunk": 2, "frame": 1, "label": 3}


def read(tmp_path, *lines, rules=RULES):
    path = tmp_path / "trace.jsonl"
    path.write_bytes(b"\n".join(line if isinstance(line, bytes) else json.dumps(line).encode() for line in lines))
    return read_trace_file(path, rules, STARTS)


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b"{"], "line 1 is not JSON"),
        ([b"\xff\xfe"], "line 1 is not JSON"),
        ([b"[" * 100_000], "line 1 is not JSON"),
        ([GOOD, b"[1]"], "line 2 is no JSON object but list"),
        ([b"", b"  "], "holds no decision"),
        ([{"frame": 0}], "line 1 has no label"),
        ([{"label": 0}], "line 1 has no frame"),
        ([{**GOOD, "label": 4}], "has label 4; labels go from 0 to 3"),
        ([{**GOOD, "label": -1}], "has '-1' as label"),
        ([{**GOOD, "label": True}], "has 'True' as label"),
        ([{**GOOD, "label": 1.0}], "has '1.0' as label"),
        ([{**GOOD, "label": 10**30}], "as label"),
        ([{**GOOD, "frame": 3}], "has frame 3 in chunk 2, which has 3 encoder frames"),
        ([{**GOOD, "chunk": 1, "frame": 0}], "has frame 0 in chunk 1, which has 0 encoder frames"),
        ([{**GOOD, "chunk": 3}], "has chunk 3; the reference has 3 chunks"),
        ([{"frame": 5, "label": 0}], "has frame 5; the reference has 5 encoder frames"),
        ([GOOD, {**GOOD, "chunk": 0}], "line 2 goes back"),
        ([{**GOOD, "chunk": 0}, GOOD, {**GOOD, "chunk": 0}], "line 3 goes back"),
        ([GOOD, {**GOOD, "frame": 0}], "line 2 goes back"),
        ([{**GOOD, "utterance": 1}, GOOD], "line 2 goes back"),
        ([{**GOOD, "duration": "2"}], "as duration"),
        ([{**GOOD, "duration": 4}], "has duration 4; the model's durations are 0, 1, 2"),
        ([{**GOOD, "durations": [{"duration": 9, "logit": 1}]}], "has duration 9"),
        ([{**GOOD, "utterance": 1 << 39}] * 6100, "goes on after 1000 decisions per encoder frame"),
        ([{**GOOD, "emit": 1}], "has emit 1"),
        ([{**GOOD, "state": 5}], "has state 5"),
        ([{**GOOD, "lse": "x"}], "as lse"),
        ([{**GOOD, "top": 5}], "has top that is no list"),
        ([{**GOOD, "top": [{"logit": 1}]}], "has no label"),
        ([{**GOOD, "top": [{"label": 9, "logit": 1}]}], "has label 9"),
        ([b'{"pad": "' + b"x" * LONGEST_LINE + b'"}'], "is longer than"),
        ([GOOD] * 6100, "goes on after 1000 decisions per encoder frame"),
    ],
    ids=str,
)
def test_bad_lines_are_refused_by_number(tmp_path, lines, expected):
    with pytest.raises(StreamparityError) as refused:
        read(tmp_path, *lines)
    assert expected in refused.value.message
    assert "\n" not in refused.value.message + refused.value.hint
    assert len(refused.value.message) < 300 + len(str(tmp_path))


def test_what_is_good_is_read_and_other_columns_are_ignored(tmp_path):
    lines = [
        {"frame": 0, "label": 1, "mine": {"x": []}},
        {"frame": 0, "label": 3, "top": [{"label": 3, "logit": float("nan")}, {"label": 0, "logit": -1}, {"label": 1}]},
        {"chunk": 2, "frame": 0, "label": 3, "duration": 1, "lse": 0.5},
    ]
    trace = read(tmp_path, *lines)
    assert [(step.at, step.step, step.label, step.emit) for step in trace.steps] == [
        (0, 0, 1, True),
        (0, 1, 3, False),
        (2, 0, 3, False),
    ]
    assert [(choice.value, choice.logit) for choice in trace.steps[1].top] == [(3, None), (0, -1)]
    assert trace.whole
    assert not read(tmp_path, lines[0]).whole


def test_utterances_are_kept_apart_whatever_their_numbers(tmp_path):
    trace = read(tmp_path, GOOD, {**GOOD, "utterance": 7}, {**GOOD, "frame": 2, "utterance": 7})
    assert [len(utterance.steps) for utterance in trace.utterances()] == [1, 2]
    ctc = Decoder("ctc", 3, None, (), ("a", "b", "c"))
    frames = [
        {"frame": frame, "label": 1, "emit": True, "utterance": number} for number in (0, 9) for frame in range(5)
    ]
    assert read(tmp_path, *frames, rules=ctc).whole
    assert not read(tmp_path, *frames[:-1], rules=ctc).whole


def test_missing_files_are_refused(tmp_path):
    for path in (tmp_path, tmp_path / "none.jsonl"):
        with pytest.raises(StreamparityError, match="is not a trace file"):
            read_trace_file(path, RULES, STARTS)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 6) | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["label", "logit"]), inner, max_size=2),
    max_leaves=4,
)
COLUMNS = ("chunk", "frame", "label", "step", "duration", "top", "durations", "lse", "state", "emit", "utterance")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(changes=st.lists(st.dictionaries(st.sampled_from(COLUMNS), VALUES, max_size=3), min_size=1, max_size=4))
def test_no_line_breaks_the_reader(tmp_path, changes):
    try:
        trace = read(tmp_path, *({**GOOD, **change} for change in changes))
    except StreamparityError:
        return
    assert trace.steps
    assert all(0 <= step.at < STARTS[-1] and 0 <= step.label <= RULES.blank_id for step in trace.steps)
