"""A random transducer in numpy, and a port of greedy decoding written without streamparity, faults and all."""

from __future__ import annotations

import numpy as np

from streamparity.dump import Decoder
from streamparity.runners import TransducerStep

WIDTH = 8


class Tiny:
    """Predictor (a gated recurrent cell) and joint with random weights."""

    def __init__(
        self, seed: int, kind: str = "rnnt", vocabulary: int = 9, blank_bias: float = 3.0, max_symbols=4
    ) -> None:
        draw = np.random.default_rng(seed)
        durations = (0, 1, 2, 3) if kind == "tdt" else ()
        pieces = tuple(f"▁{chr(97 + label)}" for label in range(vocabulary))
        self.rules = Decoder(kind, vocabulary, max_symbols, durations, pieces)
        self.embedding = draw.normal(0, 1.5, (vocabulary + 1, WIDTH)).astype(np.float32)
        self.embedding[vocabulary] = 0  # blank as pad
        self.gate, self.cell = (draw.normal(0, 1.0, (2 * WIDTH, WIDTH)).astype(np.float32) for _ in range(2))
        self.start = draw.normal(0, 1.0, (2, WIDTH)).astype(np.float32)
        self.hidden = draw.normal(0, 1.0, (2 * WIDTH, 16)).astype(np.float32)
        self.last = draw.normal(0, 1.0, (16, vocabulary + 1 + len(durations))).astype(np.float32)
        self.bias = np.zeros(vocabulary + 1 + len(durations), np.float32)
        self.bias[vocabulary] = blank_bias
        self.draw = draw

    def frames(self, chunks: int = 14):
        """Chunks of one to four frames, some of them faint: they are mostly blank."""
        lengths = self.draw.integers(1, 5, chunks)
        scales = self.draw.choice([0.1, 1.5, 1.5, 2.5], chunks)
        return [
            (scale * self.draw.normal(0, 1, (length, WIDTH))).astype(np.float32)
            for length, scale in zip(lengths, scales, strict=True)
        ]

    def initial_state(self):
        return (np.zeros((1, 1, WIDTH), np.float32), np.zeros((1, 1, WIDTH), np.float32))

    def predict(self, label, state):
        h, c = (part.reshape(-1) for part in state)
        fed = np.concatenate([self.embedding[label], h])
        gate = 1 / (1 + np.exp(-fed @ self.gate - self.start[0]))
        c = (gate * c + (1 - gate) * np.tanh(fed @ self.cell + self.start[1])).astype(np.float32)
        h = np.tanh(c).astype(np.float32)
        return h, (h.reshape(1, 1, -1), c.reshape(1, 1, -1))

    def join(self, frame, prediction):
        hidden = np.tanh(np.concatenate([frame, 2 * prediction]) @ self.hidden)
        return (hidden @ self.last + self.bias).astype(np.float32)

    def step(self, frame, label, state):
        prediction, after = self.predict(label, state)
        return TransducerStep(self.join(frame, prediction), after, prediction)


def port(model, rules, chunks, fault=None, state_names=None, begin=None):
    """Greedy decoding as somebody might write it: one JSON-like line per decision; ``fault`` is what is wrong with it.

    It keeps the predictor's output and state (after the last label), as C++ ports do. Returns the lines and the state.
    """
    blank = rules.blank_id
    zeros = model.initial_state()
    if begin is not None:
        label, output, state = begin
    else:
        label = {"start-0": 0, "start-5": 5}.get(fault, blank)
        output, state = model.predict(label, zeros)
        if fault == "start-zeros":
            output, state = np.zeros_like(output), zeros
    before = zeros
    skip, lines = 0, []
    for index, frames in enumerate(chunks):
        t, count, emitted = skip, 0, False
        while t < len(frames):
            scores = model.join(frames[t], output)
            best = int(np.argmax(scores[: blank + 1]))
            duration = rules.durations[int(np.argmax(scores[blank + 1 :]))] if rules.durations else None
            named = None if state_names is None else state_names(state)
            lines.append({"chunk": index, "frame": t, "label": best, "duration": duration, "state": named})
            count += 1
            if best == blank:
                if fault == "advance-on-blank":
                    output, state = model.predict(label, state)
                elif fault == "feed-blank":
                    output, state = model.predict(blank, state)
                if fault == "stuck" and duration == 0:
                    jump = int(count >= 6)
                elif duration is None or fault in ("rnnt-rules", "one-by-one", "blank-durations"):
                    jump = 1
                else:
                    jump = max(duration, 1)
            else:
                emitted = True
                label, before = best, state
                fed = {"fed-plus-1": best + 1, "fed-minus-1": best - 1}.get(fault, best) % (blank + 1)
                output, state = model.predict(fed, state)
                if fault == "twice":
                    output, state = model.predict(label, state)
                if fault == "one-by-one":
                    jump = 1
                else:
                    jump = 0 if duration is None or fault in ("rnnt-rules", "label-durations") else duration
                limit = {"unlimited": 12, "limit-2": 2}.get(fault, rules.max_symbols)
                if jump == 0 and count >= limit:
                    jump = 1
            if jump:
                t, count = t + jump, 0
        skip = 0 if fault == "jump-lost" else t - len(frames)
        if fault == "lost" or (fault == "lost-silent" and not emitted):
            output, _ = model.predict(blank, before)
            state = model.predict(blank, before)[1]
            label = blank
        elif fault == "lost-consumed" or (fault == "lost-silent-consumed" and not emitted):
            output, state = model.predict(blank, state)
            label = blank
        elif fault == "again" or (fault == "again-after-labels" and emitted):
            output, state = model.predict(label, state)
        elif fault == "state-reset" or (fault == "state-reset-silent" and not emitted):
            label, (output, state) = blank, model.predict(blank, zeros)
    shift = {"plus-1": 1, "minus-1": -1, "blank-first": 1}.get(fault, 0)
    for line in lines:
        if fault == "blank-first" or line["label"] != blank:
            line["label"] = (line["label"] + shift) % (blank + 1)
    return lines, (label, output, state)
