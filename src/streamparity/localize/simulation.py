"""Which wrong way of driving a sound model does what the candidate did?"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..schedule import StreamingConfig
from ..tensors import CACHE_FEEDBACK, Array
from .cache_changes import CHANNEL, TIME, Change, changes
from .feature_changes import feature_changes
from .inputs import Inputs
from .subject import Subject

# Share of the candidate's deviation (as energy) that a simulation may leave unexplained and still count as the cause.
UNEXPLAINED = 0.05
# A driver that does what it should reproduces the candidate to rounding.
FAITHFUL = 1e-3
# Of several ways that explain the chunk, the ones nearest are tried on the chunks that follow.
TRIED_FURTHER = 8
# Steps of Newton's method, and how far apart two runs are that give a direction.
NEWTON = 3
NUDGE = 1e-2


@dataclass(frozen=True)
class Explanation:
    """A wrong way of driving the model that does what the candidate did.

    Attributes:
        code: of the diagnosis.
        port: the input that was wrong.
        text: what is wrong, to be read after "the loop around the model".
        unexplained: share of the deviation left over in the first chunk that fails.
        later: the same for the chunks that follow, ``None`` where there is none.
        same: others that explain it as well.
    """

    code: str
    port: str
    text: str
    unexplained: float
    later: float | None
    same: tuple[str, ...] = ()


class Simulation:
    """Drives a sound model in wrong ways and compares with what was observed.

    Args:
        subject: the model under test, on the bench.
        observed: the candidate's tensors, by chunk, from the first that fails on.
        config: the reference's streaming configuration.
    """

    def __init__(self, subject: Subject, observed: Mapping[int, Mapping[str, Array]], config: StreamingConfig) -> None:
        self._subject = subject
        self._observed = observed
        self._config = config
        self._chunk = min(observed)

    def driver_is_faithful(self) -> bool | None:
        """Whether the model, fed what it should be fed, does what the candidate did; ``None``: cannot be told."""
        done = self._subject.whole(self._faithful(self._chunk))
        if done is None:
            return None
        return self._unexplained(self._chunk, done) < FAITHFUL

    def explanations(self, layers: list[int]) -> list[Explanation]:
        """Ways that explain the first chunk that fails, the best first; those that the next chunks refute come last."""
        found = []
        for change, inputs, again in self._ways(layers):
            done = self._subject.whole(inputs)
            left = np.inf if done is None else self._unexplained(self._chunk, done)
            if done is not None and left < UNEXPLAINED:
                found.append((left, change, done, again))
        found.sort(key=lambda way: way[0])
        tried = []
        for left, change, done, again in found[:TRIED_FURTHER]:
            later = self._later(done, again)
            tried.append(Explanation(change.code, change.port, change.text, left, later))
        # Within rounding of each other ways are equal: then the table's order decides, simplest first.
        return sorted(tried, key=lambda way: _rank(way.unexplained) + 2 * _rank(way.later))

    def _ways(self, layers: list[int]) -> Iterator[tuple[Change, Inputs, Callable[[int, Inputs], Inputs | None]]]:
        faithful = self._faithful(self._chunk)
        for change in self._cache_changes(faithful, self._chunk, layers):

            def cached(chunk: int, inputs: Inputs, text: str = change.text) -> Inputs | None:
                same = [c for c in self._cache_changes(inputs, chunk, layers) if c.text == text]
                return inputs.having(**same[0].caches) if same else None

            yield change, faithful.having(**change.caches), cached
        for scaled, factor in self._scalings(faithful):

            def rescaled(chunk: int, inputs: Inputs, ports: tuple[str, ...] = scaled, by: float = factor) -> Inputs:
                return inputs.having(**_scaled(inputs.caches, ports, by))

            caches = _scaled(faithful.caches, scaled, factor)
            text = f"multiplies {' and '.join(scaled)} by {factor:.6g} in every step"
            yield Change("drift", scaled[0], text, caches), faithful.having(**caches), rescaled
        for altered in feature_changes(self._subject.script, self._chunk, self._config):

            def heard(chunk: int, inputs: Inputs, text: str = altered.text) -> Inputs | None:
                ways = feature_changes(self._subject.script, chunk, self._config)
                same = [way for way in ways if way.text == text]
                return same[0].inputs.having(**inputs.caches) if same else None

            as_change = Change(altered.code, altered.port, altered.text, {})
            yield as_change, altered.inputs.having(**faithful.caches), heard

    def _scalings(self, faithful: Inputs) -> Iterator[tuple[tuple[str, ...], float]]:
        """Factors on caches that come nearest to what the candidate did, found by Newton's method."""
        base = self._subject.whole(faithful)
        for ports in ((CHANNEL, TIME), (CHANNEL,), (TIME,)):
            factor, around = 1.0, base
            for _ in range(NEWTON):
                near = self._subject.whole(faithful.having(**_scaled(faithful.caches, ports, factor * (1 + NUDGE))))
                step = None if around is None or near is None else self._step(around, near)
                if step is None or not 0.01 < factor * (1 + NUDGE * step) < 100:
                    break
                factor *= 1 + NUDGE * step
                around = self._subject.whole(faithful.having(**_scaled(faithful.caches, ports, factor)))
            else:
                yield ports, factor

    def _step(self, around: Mapping[str, Array], near: Mapping[str, Array]) -> float | None:
        """How many times the way from ``around`` to ``near`` comes nearest to the candidate."""
        observed, along, squared = self._observed[self._chunk], 0.0, 0.0
        for spec in self._subject.specs:
            start, end, goal = (side.get(spec.name) for side in (around, near, observed))
            if start is None or end is None or goal is None or start.dtype.kind != "f" or start.shape != goal.shape:
                continue
            way = end.astype(np.float64) - start
            along += float(np.vdot(way, goal.astype(np.float64) - start))
            squared += float(np.vdot(way, way))
        return along / squared if squared and np.isfinite(along) else None

    def _cache_changes(self, inputs: Inputs, chunk: int, layers: list[int]) -> Iterator[Change]:
        script = self._subject.script
        before = script.inputs(chunk - 1).caches if chunk else None
        produced = 0
        if before is not None:
            produced = int(script.expected(chunk - 1)["out/encoded_lengths"].reshape(-1)[0])
        return changes(inputs.caches, before, script.inputs(0).caches, produced, layers)

    def _later(self, done: Mapping[str, Array], again: Callable[[int, Inputs], Inputs | None]) -> float | None:
        """Go on in the same wrong way over the chunks that follow; the worst share left unexplained."""
        worst = None
        for chunk in sorted(self._observed)[1:]:
            fed = {taken: done[f"out/{given}"] for given, taken in CACHE_FEEDBACK.items()}
            inputs = again(chunk, self._subject.script.inputs(chunk).having(**fed))
            following = None if inputs is None else self._subject.whole(inputs)
            if following is None:
                return np.inf
            worst = max(worst or 0.0, self._unexplained(chunk, following))
            done = following
        return worst

    def _faithful(self, chunk: int) -> Inputs:
        """The reference's features with the caches that the candidate returned a chunk earlier."""
        observed = self._observed[chunk]
        kept = {name: observed[f"in/{name}"] for name in CACHE_FEEDBACK.values() if f"in/{name}" in observed}
        return self._subject.script.inputs(chunk).having(**kept)

    def _unexplained(self, chunk: int, done: Mapping[str, Array]) -> float:
        """Energy of what differs from the candidate, over that of the candidate's own deviation."""
        observed, expected = self._observed[chunk], self._subject.script.expected(chunk)
        left = deviation = 0.0
        for spec in self._subject.specs:
            ours, theirs, right = (side.get(spec.name) for side in (done, observed, expected))
            if ours is None or theirs is None or right is None:
                continue
            if ours.shape != theirs.shape:
                return np.inf
            if ours.dtype.kind != "f":
                if not np.array_equal(ours, theirs):
                    return np.inf
                continue
            if right.shape != theirs.shape or not np.isfinite(theirs).all() or not right.size:
                continue
            scale = float(np.mean(np.square(right, dtype=np.float64))) or 1.0
            left += float(np.mean(np.square(ours.astype(np.float64) - theirs))) / scale
            deviation += float(np.mean(np.square(theirs.astype(np.float64) - right))) / scale
        if not np.isfinite(left):
            return np.inf
        return left / deviation if deviation else 0.0 if left == 0 else np.inf


def _scaled(caches: Mapping[str, Array], ports: tuple[str, ...], factor: float) -> dict[str, Array]:
    return {port: (caches[port] * factor).astype(caches[port].dtype) for port in ports}


def _rank(unexplained: float | None) -> float:
    """Coarse: what explains to rounding is all the same."""
    if unexplained is None or unexplained < 1e-6:
        return 0.0
    return float(np.log10(min(unexplained, 1e6)) + 6)
