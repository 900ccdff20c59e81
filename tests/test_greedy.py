from __future__ import annotations

import numpy as np
import pytest

from streamparity.decode import CtcDecoder, GreedyDecoder
from streamparity.dump import Decoder
from streamparity.errors import StepFailed
from streamparity.runners import TransducerStep

BLANK = 3


class Scripted:
    """Emits, per frame, the labels that the frame's first number indexes; its state counts the labels consumed."""

    def __init__(self, labels_by_frame: list[list[int]]) -> None:
        self.labels_by_frame = labels_by_frame
        self.emitted: dict[int, int] = {}

    def initial_state(self):
        return (np.zeros((1, 1, 1), np.float32),)

    def step(self, frame, label, state):
        number = int(frame[0])
        wanted = self.labels_by_frame[number]
        done = self.emitted.get(number, 0)
        best = wanted[done] if done < len(wanted) else BLANK
        if best != BLANK:
            self.emitted[number] = done + 1
        logits = np.eye(BLANK + 1, dtype=np.float32)[best]
        return TransducerStep(logits, (state[0] + 1,), np.array([label], np.float32))


def decode(labels_by_frame, chunks, max_symbols=10):
    rules = Decoder("rnnt", BLANK, max_symbols, (), ("a", "b", "c"))
    decoder = GreedyDecoder(Scripted(labels_by_frame), rules)
    frames = np.arange(len(labels_by_frame), dtype=np.float32)[:, None]
    return [decoder.chunk(frames[start:stop]) for start, stop in chunks]


def test_labels_frames_and_calls():
    first, second = decode([[0, 1], [], [2], []], [(0, 2), (2, 4)])
    assert (first.labels, second.labels) == ([0, 1], [2])
    assert len(first.logits) == 4  # a, b, blank; blank
    # The predictor consumed start-of-sequence (blank), a, b; then c. Its state moved on once for each.
    assert first.predictions.ravel().tolist() == [BLANK, 0, 1]
    assert second.predictions.ravel().tolist() == [2]
    assert first.states[0].ravel().tolist() == [1, 2, 3]
    assert second.states[0].ravel().tolist() == [4]


def test_chunks_make_no_difference():
    labels = [[0], [], [1, 2], [], [0, 0, 1], []]
    whole = decode(labels, [(0, 6)])
    parts = decode(labels, [(0, 1), (1, 2), (2, 5), (5, 6)])
    assert whole[0].labels == [label for part in parts for label in part.labels]
    assert np.array_equal(whole[0].logits, np.concatenate([part.logits for part in parts]))
    assert np.array_equal(whole[0].states[0], np.concatenate([part.states[0] for part in parts]))


def test_max_symbols_moves_on_and_a_label_at_the_very_end_is_still_consumed():
    (only,) = decode([[0] * 9], [(0, 1)], max_symbols=2)
    assert only.labels == [0, 0]
    assert len(only.logits) == 2
    assert len(only.predictions) == 3


def test_a_silent_chunk_computes_no_prediction_but_keeps_its_shape():
    _, second = decode([[0], []], [(0, 1), (1, 2)])
    assert second.predictions.shape == (0, 1)
    assert second.states[0].shape == (0, 1, 1, 1)


def test_durations_skip_over_several_chunks_and_a_blank_of_duration_0_moves_on():
    class Jumping:
        """Label 0 with duration 5 on the first frame, then blanks of duration 0."""

        def initial_state(self):
            return (np.zeros((1, 1, 1), np.float32),)

        def step(self, frame, label, state):
            first = frame[0] == 0
            scores = [9.0, 0, 0, 0] if first else [0, 0, 0, 9.0]
            return TransducerStep(np.array([*scores, *([0, 9.0] if first else [9.0, 0])], np.float32), state, None)

    decoder = GreedyDecoder(Jumping(), Decoder("tdt", BLANK, 10, (0, 5), ("a", "b", "c")))
    frames = np.arange(9, dtype=np.float32)[:, None]
    chunks = [decoder.chunk(frames[start:stop]) for start, stop in ((0, 2), (2, 4), (4, 9))]
    assert [[line["frame"] for line in chunk.lines] for chunk in chunks] == [[0], [], [1, 2, 3, 4]]
    assert [line["duration"] for line in chunks[2].lines] == [0, 0, 0, 0]
    assert chunks[0].labels == [0]


def test_ctc_collapses_repeats_across_chunks_and_blanks_part_them():
    class Head:
        def scores(self, frames):
            return np.eye(BLANK + 1, dtype=np.float32)[frames[:, 0].astype(int)]

    decoder = CtcDecoder(Head(), Decoder("ctc", BLANK, None, (), ("a", "b", "c")))
    best = [[0, 0, BLANK, 0], [0, 1], [], [1, BLANK], [1]]
    chunks = [decoder.chunk(np.array(labels, np.float32).reshape(-1, 1)) for labels in best]
    assert [chunk.labels for chunk in chunks] == [[0, 0], [1], [], [], [1]]
    assert [line["emit"] for chunk in chunks for line in chunk.lines] == [
        *(True, False, False, True),
        *(False, True),
        *(False, False),
        True,
    ]


def test_a_port_that_never_emits_blank_fails_instead_of_hanging():
    with pytest.raises(StepFailed, match="never a blank"):
        decode([[0] * 5000], [(0, 1)], max_symbols=None)
