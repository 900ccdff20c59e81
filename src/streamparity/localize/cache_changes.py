"""Ways to get a cache wrong, each a small function of the caches that should have been fed.

The same table serves two questions: does a sound model fed such caches do what the candidate did (then its driver feeds
them so), and does a model that is fed such caches do right (then it expects them so).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from ..tensors import Array
from .formats import bfloat16, float16, int8

CHANNEL, TIME, LENGTH = "cache_last_channel", "cache_last_time", "cache_last_channel_len"
SLOTS = {CHANNEL: 2, TIME: 3}
LAYERS = 1  # caches are [B, L, ...]
SHIFTS = (1, -1, 2, -2)

Caches = Mapping[str, Array]


@dataclass(frozen=True)
class Change:
    """Caches in place of the right ones, and what is wrong with them.

    Attributes:
        code: of the diagnosis.
        port: the input that is wrong.
        text: what is wrong, to be read after "the port".
        caches: all three, the right ones among them.
        undoes: whether feeding it could also make good a model that expects the cache in another form.
    """

    code: str
    port: str
    text: str
    caches: dict[str, Array]
    undoes: bool = False


def changes(now: Caches, before: Caches | None, initial: Caches, produced: int, layers: list[int]) -> Iterator[Change]:
    """Every way known.

    Args:
        now: the caches that should be fed.
        before: those that should have been fed a chunk earlier.
        initial: those of an empty stream.
        produced: encoder frames that the last chunk added.
        layers: layers to look at by themselves, and to pair with every other one.
    """
    yield from _forgotten(now, before, initial)
    yield from _lengths(now, produced)
    yield from _misaligned(now)
    yield from _layers(now, layers)
    yield from _one_layer(now, before, layers)
    yield from _layouts(now)


def _with(now: Caches, **ports: Array) -> dict[str, Array]:
    return {**now, **ports}


def _forgotten(now: Caches, before: Caches | None, initial: Caches) -> Iterator[Change]:
    code = "cache-not-propagated"
    yield Change(code, CHANNEL, "starts every chunk from empty caches", dict(initial))
    kept = _with(now, **{port: initial[port] for port in SLOTS})
    yield Change(code, CHANNEL, "feeds empty caches under the right length", kept)
    yield Change(
        code, CHANNEL, "feeds an empty cache_last_channel", _with(now, **{CHANNEL: np.zeros_like(now[CHANNEL])})
    )
    yield Change(
        "time-cache-dropped", TIME, "feeds an empty cache_last_time", _with(now, **{TIME: np.zeros_like(now[TIME])})
    )
    if before is not None:
        yield Change(code, CHANNEL, "feeds the caches of the chunk before", dict(before))
        for port in SLOTS:
            yield Change(code, port, f"feeds {port} of the chunk before", _with(now, **{port: before[port]}))
        both = _with(now, **{port: before[port] for port in SLOTS})
        yield Change(code, CHANNEL, "feeds both caches of the chunk before under the right length", both)
        yield Change(
            "cache-length-wrong", LENGTH, f"feeds {LENGTH} of the chunk before", _with(now, **{LENGTH: before[LENGTH]})
        )


def _one_layer(now: Caches, before: Caches | None, layers: list[int]) -> Iterator[Change]:
    """One layer's part of a cache that is forgotten, or is another layer's."""
    for port, forgotten in ((CHANNEL, "cache-not-propagated"), (TIME, "time-cache-dropped")):
        for layer in layers:
            for other in range(now[port].shape[LAYERS]):
                if other != layer:
                    text = f"hands layer {layer} the {port} of layer {other}"
                    taken = _put(now[port], layer, now[port][:, other])
                    yield Change("cache-layers-swapped", port, text, _with(now, **{port: taken}))
            empty = _put(now[port], layer, np.zeros_like(now[port][:, layer]))
            yield Change(forgotten, port, f"hands layer {layer} an empty {port}", _with(now, **{port: empty}))
            if before is not None:
                stale = _put(now[port], layer, before[port][:, layer])
                text = f"hands layer {layer} the {port} of the chunk before"
                yield Change("cache-not-propagated", port, text, _with(now, **{port: stale}))


def _put(cache: Array, layer: int, part: Array) -> Array:
    changed: Array = cache.copy()
    changed[:, layer] = part
    return changed


def _lengths(now: Caches, produced: int) -> Iterator[Change]:
    length, slots = now[LENGTH], now[CHANNEL].shape[SLOTS[CHANNEL]]
    wrong = {
        "0": length * 0,
        "the cache's physical size": length * 0 + slots,
        "its negative": -length,
        "one too many": length + 1,
        "one too few": length - 1,
        "the frames of one chunk": length * 0 + produced,
        "the length less a chunk": length - produced,
        "the length and a chunk": length + produced,
        "twice the length": length * 2,
        "half the length": length // 2,
        "the slots still free": slots - length,
    }
    for what, value in wrong.items():
        if not np.array_equal(value, length):
            yield Change("cache-length-wrong", LENGTH, f"says {what} for {LENGTH}", _with(now, **{LENGTH: value}))


def _misaligned(now: Caches) -> Iterator[Change]:
    valid = int(now[LENGTH].reshape(-1)[0])
    for port, axis in SLOTS.items():
        extent = now[port].shape[axis]
        turns = {f"{port} turned by {shift}": shift for shift in SHIFTS}
        filled = min(valid, extent)
        if 0 < filled < extent:
            turns = {f"{port} left-aligned": filled, **turns}
        for text, shift in turns.items():
            turned = np.roll(now[port], shift, axis)
            yield Change("cache-misaligned", port, f"keeps {text}", _with(now, **{port: turned}), undoes=True)
        for count in (1, 2):
            if count < filled:
                lost, part = now[port].copy(), [slice(None)] * now[port].ndim
                part[axis] = slice(extent - count, extent)
                lost[tuple(part)] = 0
                text = f"leaves the newest {count} frames of {port} empty"
                yield Change("cache-misaligned", port, text, _with(now, **{port: lost}))
        for shift in SHIFTS:
            moved = _shifted(now[port], shift, axis)
            text = f"keeps {port} off by {shift}, zeros behind"
            yield Change("cache-misaligned", port, text, _with(now, **{port: moved}), undoes=True)
        newest_first = np.flip(now[port], axis)
        yield Change("cache-misaligned", port, f"keeps {port} newest first", _with(now, **{port: newest_first}), True)
        if 0 < filled < extent:
            part = [slice(None)] * now[port].ndim
            part[axis] = slice(extent - filled, extent)
            turned = now[port].copy()
            turned[tuple(part)] = np.flip(turned[tuple(part)], axis)
            text = f"keeps the frames of {port} newest first"
            yield Change("cache-misaligned", port, text, _with(now, **{port: turned}), undoes=True)


def _shifted(array: Array, shift: int, axis: int) -> Array:
    moved = np.roll(array, shift, axis)
    part = [slice(None)] * array.ndim
    part[axis] = slice(0, shift) if shift > 0 else slice(array.shape[axis] + shift, None)
    moved[tuple(part)] = 0
    return moved


def _layers(now: Caches, layers: list[int]) -> Iterator[Change]:
    count = now[CHANNEL].shape[LAYERS]
    orders = {
        f"layers {a} and {b} exchanged": _exchanged(count, a, b)
        for a in layers
        for b in range(count)
        if a != b and not (b in layers and b < a)
    }
    if count > 2:
        orders["the layers in reverse"] = list(range(count))[::-1]
        orders["every layer's cache given to the next"] = [(layer - 1) % count for layer in range(count)]
        orders["every layer's cache given to the one before"] = [(layer + 1) % count for layer in range(count)]
    for what, order in orders.items():
        for ports in ((CHANNEL, TIME), (CHANNEL,), (TIME,)):
            taken = {port: np.take(now[port], order, LAYERS) for port in ports}
            text = f"feeds {' and '.join(ports)} with {what}"
            yield Change("cache-layers-swapped", ports[0], text, _with(now, **taken), undoes=True)
    for layer in range(count):
        broadcast = {port: np.repeat(now[port][:, layer : layer + 1], count, LAYERS) for port in SLOTS}
        if count > 1 and layer in (0, count - 1):
            text = f"feeds every layer the caches of layer {layer}"
            yield Change("cache-layers-swapped", CHANNEL, text, _with(now, **broadcast))
            for port, cache in broadcast.items():
                text = f"feeds every layer the {port} of layer {layer}"
                yield Change("cache-layers-swapped", port, text, _with(now, **{port: cache}))


def _exchanged(count: int, a: int, b: int) -> list[int]:
    order = list(range(count))
    order[a], order[b] = b, a
    return order


def _layouts(now: Caches) -> Iterator[Change]:
    for port in SLOTS:
        batch, count, first, second = now[port].shape
        misread = now[port].reshape(batch, count, second, first).swapaxes(2, 3)
        yield Change(
            "layout-transposed",
            port,
            f"hands over {port} with its last two axes exchanged",
            _with(now, **{port: misread}),
        )
        written = np.ascontiguousarray(now[port].swapaxes(2, 3)).reshape(now[port].shape)
        yield Change(
            "layout-transposed",
            port,
            f"writes {port} in the other order of its last two axes",
            _with(now, **{port: written}),
        )
        layered = np.ascontiguousarray(now[port].swapaxes(1, 2)).reshape(now[port].shape)
        yield Change(
            "layout-transposed",
            port,
            f"writes {port} in the other order of layers and what follows",
            _with(now, **{port: layered}),
        )
    for rounding in (float16, bfloat16, int8):
        rounded = {port: rounding(now[port]) for port in SLOTS}
        yield Change("reduced-precision", CHANNEL, f"keeps its caches in {rounding.__name__}", _with(now, **rounded))
        for port, values in rounded.items():
            text = f"keeps {port} in {rounding.__name__}"
            yield Change("reduced-precision", port, text, _with(now, **{port: values}))
