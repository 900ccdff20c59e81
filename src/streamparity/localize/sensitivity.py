"""What each layer's output depends on: which layers of the caches, which of their slots, which frames of the chunk."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from ..schedule import StreamingConfig
from ..tensors import Array
from .cache_changes import CHANNEL, LENGTH, SLOTS, TIME
from .subject import Subject

BOUNDARY = re.compile(r"encoder\.(pre_encode|pos_enc|layers\.\d+)")
LAYER = re.compile(r"encoder\.layers\.(\d+)\b")
# Where each cache enters a layer.
USERS = {CHANNEL: "self_attn", TIME: "conv"}
# An effect smaller than this, relative to the tensor, is rounding and not a dependence.
SEEN = 1e-6


@dataclass(frozen=True)
class Attention:
    """Which slots of ``cache_last_channel`` a layer's attention looks at, and which it should.

    Attributes:
        chunk: the chunk it was found on.
        valid: slots that carry data.
        seen: slots that have an effect, of all.
        effect: its size, relative.
    """

    chunk: int
    valid: list[bool]
    seen: list[bool]
    effect: list[float]

    @property
    def invalid_seen(self) -> int:
        """Slots without data that have an effect all the same."""
        return sum(seen and not valid for seen, valid in zip(self.seen, self.valid, strict=True))

    @property
    def valid_unseen(self) -> int:
        """Slots with data, oldest or newest, that have none whatever.

        Attention that is merely sharp loses single ones by rounding, and those lie anywhere.
        """
        held = [effect for effect, valid in zip(self.effect, self.valid, strict=True) if valid]
        unseen = [effect == 0 for effect in held]
        oldest = next((i for i, blind in enumerate(unseen) if not blind), len(unseen))
        newest = next((i for i, blind in enumerate(reversed(unseen)) if not blind), len(unseen))
        return sum(unseen) if sum(unseen) in (oldest, newest) else 0


class Sensitivity:
    """Disturbs inputs of layers that are otherwise given the reference's, and watches what moves.

    Args:
        subject: the model under test.
        config: the reference's streaming configuration.
        chunk: the chunk that fails first.
    """

    def __init__(self, subject: Subject, config: StreamingConfig, chunk: int) -> None:
        self._subject = subject
        self._config = config
        self._chunk = chunk
        self._at = {spec.label for spec in subject.taps if BOUNDARY.fullmatch(spec.label)}
        self._noise = np.random.default_rng(0)

    @cached_property
    def half_filled(self) -> int:
        """A chunk whose caches hold data, but not in every slot: there positions can be told apart."""
        script = self._subject.script
        best, distance = min(self._chunk, script.total - 1), np.inf
        for chunk in range(1, script.total):
            caches = script.inputs(chunk).caches
            slots, valid = caches[CHANNEL].shape[SLOTS[CHANNEL]], int(caches[LENGTH].reshape(-1)[0])
            if abs(valid - slots / 2) < distance:
                best, distance = chunk, abs(valid - slots / 2)
            if valid >= slots / 2:
                break
        return best

    def sources(self, port: str) -> dict[int, set[int]]:
        """For each layer, the layers of a cache that have an effect where that cache enters it."""
        chunk = self.half_filled
        base = self._run(chunk, {})
        if base is None or not _finite(base):
            return {}
        cache = self._subject.script.inputs(chunk).caches[port]
        # Where the layer before has no tap to cut at, its caches reach this one by way of it.
        users = {layer: name for layer, name in self._users(port, base).items() if self._is_cut_off(layer)}
        found: dict[int, set[int]] = {layer: set() for layer in users}
        for layer in range(cache.shape[1]):
            disturbed = self._run(chunk, {port: self._disturbed(cache, (slice(None), layer))})
            for user, name in users.items():
                if disturbed is not None and _effect(base[name], disturbed[name]) > SEEN:
                    found[user].add(layer)
        return found

    def slots(self, layer: int, chunk: int, port: str = CHANNEL) -> Attention | None:
        """Which slots of a cache have an effect where it enters one layer."""
        base = self._run(chunk, {})
        caches = self._subject.script.inputs(chunk).caches
        users = {} if base is None else self._users(port, base)
        if base is None or layer not in users or not _finite(base):
            return None
        cache, axis = caches[port], SLOTS[port]
        count, extent = int(caches[LENGTH].reshape(-1)[0]), cache.shape[axis]
        effects = []
        for slot in range(extent):
            where: tuple[slice | int, ...] = (slice(None), layer, *[slice(None)] * (axis - 2), slot)
            disturbed = self._run(chunk, {port: self._disturbed(cache, where)})
            effects.append(0.0 if disturbed is None else _effect(base[users[layer]], disturbed[users[layer]]))
        valid = [slot >= extent - count for slot in range(extent)]
        return Attention(chunk, valid, [effect > SEEN for effect in effects], effects)

    def frames(self, layer: int, chunk: int) -> tuple[Array, Array] | None:
        """Which frames of a layer's input each frame of its attention sees, ``[T, T]``, and which it should."""
        label = f"encoder.layers.{layer - 1}" if layer else "encoder.pre_encode"
        expected = self._subject.script.expected(chunk)
        base = self._run(chunk, {})
        users = {} if base is None else self._users(CHANNEL, base)
        given = expected.get(f"tap/{label}")
        if (
            base is None
            or not _finite(base)
            or layer not in users
            or given is None
            or label not in self._at
            or given.ndim != 3
        ):
            return None
        before = base[users[layer]]
        if before.ndim != 3 or before.shape[1] > given.shape[1]:
            return None
        produced, offset = before.shape[1], given.shape[1] - before.shape[1]
        seen = np.zeros((produced, produced), bool)
        for frame in range(produced):
            disturbed = given.copy()
            disturbed[:, frame + offset] += self._noise.standard_normal(given.shape[2]).astype(given.dtype)
            after = self._run(chunk, {}, {label: disturbed})
            if after is None:
                return None
            seen[:, frame] = np.abs(after[users[layer]].astype(np.float64) - before).max(axis=(0, 2)) > 0
        return seen, self._should_see(produced)

    def _should_see(self, frames: int) -> Array:
        left, right = self._config.att_context_size[:2]
        query, key = np.arange(frames)[:, None], np.arange(frames)[None, :]
        if self._config.att_context_style == "regular":
            far = (right >= 0) & (key > query + right) | (left >= 0) & (key < query - left)
            near: Array = np.asarray(~far)
            return near
        if right < 0:
            return np.ones((frames, frames), bool)
        visible: Array = np.asarray(key // (right + 1) <= query // (right + 1))
        return visible

    def _is_cut_off(self, layer: int) -> bool:
        return layer == 0 or f"encoder.layers.{layer - 1}" in self._at

    def _users(self, port: str, tensors: Mapping[str, Array]) -> dict[int, str]:
        """Per layer, the tap whose output shows whether that cache matters."""
        users = {}
        for name in tensors:
            match = LAYER.search(name)
            if match and name == f"tap/encoder.layers.{match[1]}.{USERS[port]}":
                users[int(match[1])] = name
        return users

    def _run(
        self, chunk: int, changed: Mapping[str, Array], forced: Mapping[str, Array] | None = None
    ) -> dict[str, Array] | None:
        inputs = self._subject.script.inputs(chunk).having(**changed)
        return self._subject.pieces(chunk, inputs, forced, self._at)

    def _disturbed(self, cache: Array, where: tuple[slice | int, ...]) -> Array:
        disturbed: Array = cache.copy()
        size = float(np.sqrt(np.mean(np.square(cache, dtype=np.float64)))) or 1.0
        disturbed[where] += self._noise.normal(0, 3 * size, disturbed[where].shape).astype(cache.dtype)
        return disturbed


def _finite(tensors: Mapping[str, Array]) -> bool:
    """Whether what a disturbance does can be seen at all."""
    return all(np.isfinite(array).all() for array in tensors.values() if array.dtype.kind == "f")


def _effect(before: Array, after: Array) -> float:
    """Largest change relative to the largest value; infinite where a value is not finite."""
    if before.shape != after.shape:
        return np.inf
    with np.errstate(invalid="ignore"):
        change = float(np.max(np.abs(after.astype(np.float64) - before), initial=0.0))
    if not np.isfinite(change):
        return np.inf if np.isfinite(before).all() else 0.0
    return change / max(float(np.max(np.abs(before), initial=0.0)), 1e-30)
