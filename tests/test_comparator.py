from __future__ import annotations

import tracemalloc
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from streamparity.comparison import Comparator, TolerancePolicy, engine, plain
from streamparity.comparison import comparator as comparator_module
from streamparity.comparison.patterns import BINS
from streamparity.comparison.statistics import PERCENTILES
from streamparity.tensors import ENCODER_OUTPUTS, TensorSpec, ValidRule

CHUNKS = 4
WIDTH, FRAMES, SLOTS, KERNEL = 6, 5, 8, 3  # axes of `outputs` D, T'; of the caches C and K
LENGTHS = [2, 4, 4, 3]  # encoder frames per chunk
TAPS = ("encoder.layers.0", "encoder.layers.1", "encoder.layers.1.conv")
SPECS = [
    TensorSpec("in/length", "input", "int64", ("B",)),
    *(TensorSpec(f"tap/{name}", "tap", "float32", ("B", "T", "D")) for name in TAPS),
    *(TensorSpec(f"out/{name}", port.kind, "float32", port.axes, port.valid) for name, port in ENCODER_OUTPUTS.items()),
]
FLOATS = [spec.name for spec in SPECS if spec.name.startswith("tap/")] + [
    "out/outputs",
    "out/cache_last_channel_next",
    "out/cache_last_time_next",
]
INTEGERS = ["out/encoded_lengths", "out/cache_last_channel_next_len"]

Chunk = dict[str, np.ndarray]
Stream = list[Chunk]
Change = Callable[[Stream], object]


def stream(lengths: Iterable[int] = LENGTHS, batch: int = 1) -> Stream:
    """What a reference hands out: every tensor filled with values of its own, caches right-aligned."""
    rng = np.random.default_rng(5)

    def filled(*shape: int) -> np.ndarray:
        return rng.normal(size=shape).astype(np.float32) + 3

    chunks, seen = [], 0
    for length in lengths:
        seen += max(0, length)
        channel, time = filled(batch, 2, SLOTS, WIDTH), filled(batch, 2, WIDTH, KERNEL)
        channel[:, :, : max(0, SLOTS - seen)] = 0
        time[:, :, :, : max(0, KERNEL - seen)] = 0
        chunks.append(
            {
                "in/length": np.full(batch, 25),
                **{f"tap/{name}": filled(batch, FRAMES, WIDTH) for name in TAPS},
                "out/outputs": filled(batch, WIDTH, FRAMES),
                "out/encoded_lengths": np.full(batch, length),
                "out/cache_last_channel_next": channel,
                "out/cache_last_time_next": time,
                "out/cache_last_channel_next_len": np.full(batch, min(seen, SLOTS)),
            }
        )
    return chunks


def judged(change: Change = lambda candidate: None, both: Change = lambda side: None, **options: Any) -> dict[str, Any]:
    """The verdict on a candidate that is the reference but for ``change``; ``both`` alters the two sides alike."""
    reference, candidate = stream(), stream()
    for side in (reference, candidate):
        both(side)
    change(candidate)
    return compared(reference, candidate, **options)


def compared(reference: Stream, candidate: Stream, **options: Any) -> dict[str, Any]:
    comparator = Comparator(SPECS, options.pop("total", CHUNKS), **options)
    for index, pair in enumerate(zip(reference, candidate, strict=False)):
        comparator.add(index, *pair)
    return comparator.finish()


def added(name: str, chunk: int, index: Any = ..., amount: float = 1) -> Change:
    def change(side: Stream) -> None:
        side[chunk][name][index] += amount

    return change


def assigned(name: str, value: float, chunks: Iterable[int] = range(CHUNKS), index: Any = ...) -> Change:
    def change(side: Stream) -> None:
        for chunk in chunks:
            side[chunk][name][index] = value

    return change


def replaced(name: str, make: Callable[[np.ndarray], np.ndarray], chunks: Iterable[int] = range(CHUNKS)) -> Change:
    def change(side: Stream) -> None:
        for chunk in chunks:
            side[chunk][name] = make(side[chunk][name])

    return change


def dropped(name: str, chunks: Iterable[int] = range(CHUNKS)) -> Change:
    def change(side: Stream) -> None:
        for chunk in chunks:
            del side[chunk][name]

    return change


def failed_names(result: dict[str, Any]) -> list[str]:
    return [tensor["name"] for tensor in result["tensors"] if not tensor["passed"] and not tensor["vacuous"]]


def label(name: str) -> str:
    return name.split("/", 1)[1]


def test_an_equal_candidate_passes_with_everything_compared():
    result = judged()
    assert result["verdict"] == "pass"
    assert result["objections"] == []
    assert result["chunks"] == {"total": CHUNKS, "compared": CHUNKS, "passed": CHUNKS}
    assert result["coverage"]["compared"] == len(SPECS)
    assert result["coverage"]["unmatched"] == result["coverage"]["vacuous"] == []
    assert [tensor["order"] for tensor in result["tensors"]] == list(range(len(SPECS)))
    assert result["first_divergence"] is None


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", FLOATS + INTEGERS)
def test_a_difference_is_caught_in_every_tensor_and_chunk_and_located(name, chunk):
    last = (..., -1) if "cache" in name and name in FLOATS else (..., 0)
    result = judged(added(name, chunk, last))
    assert result["verdict"] == "fail"
    assert failed_names(result) == [label(name)]
    assert (result["first_divergence"]["chunk"], result["first_divergence"]["tensor"]) == (chunk, label(name))
    assert result["first_divergence"]["max_abs"] == pytest.approx(1)
    assert result["chunks"]["passed"] == CHUNKS - 1


@pytest.mark.parametrize("name", FLOATS)
def test_a_difference_within_tolerance_is_no_difference(name):
    assert judged(added(name, 1, amount=2e-6))["verdict"] == "pass"


@pytest.mark.parametrize("options", [{}, {"policy": TolerancePolicy(atol=10, rtol=10)}], ids=["default", "flags"])
@pytest.mark.parametrize("name", INTEGERS)
def test_whole_numbers_are_compared_exactly_whatever_the_tolerance(name, options):
    result = judged(added(name, 2), **options)
    assert failed_names(result) == [label(name)]
    assert judged(replaced(name, lambda array: array.astype(np.int32)), **options)["verdict"] == "pass"


# ------------------------------------------------------------------------------------------------ unmatched


@pytest.mark.parametrize("allow", [(), ("encoder.layers.0",), ("*",)], ids=["", "another", "any"])
def test_a_tensor_that_the_candidate_lacks_fails_unless_it_is_a_tap_allowed_by_name(allow):
    port = judged(dropped("out/outputs"), allow_unmatched=allow)
    tap = judged(dropped("tap/encoder.layers.1.conv"), allow_unmatched=allow)
    assert port["verdict"] == "fail"
    assert tap["verdict"] == ("pass" if allow == ("*",) else "fail")
    assert port["coverage"]["unmatched"] == ["outputs"]
    assert tap["coverage"]["unmatched"] == ["encoder.layers.1.conv"]
    assert port["coverage"]["compared"] == tap["coverage"]["compared"] == len(SPECS) - 1


@pytest.mark.parametrize("allow", ["encoder.layers.1.conv", "encoder.layers.1.*", "*.conv"])
def test_an_allowed_tap_may_be_missing_but_must_hold_where_it_is_there(allow):
    name = "tap/encoder.layers.1.conv"
    assert judged(dropped(name), allow_unmatched=[allow])["verdict"] == "pass"
    assert judged(added(name, 0), allow_unmatched=[allow])["verdict"] == "fail"


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("name", ["out/outputs", "tap/encoder.layers.0", "out/encoded_lengths"])
def test_a_tensor_missing_from_one_chunk_fails(name, chunk):
    result = judged(dropped(name, [chunk]))
    assert result["verdict"] == "fail"
    assert (result["first_divergence"]["chunk"], result["first_divergence"]["tensor"]) == (chunk, label(name))


def test_a_reason_given_for_a_missing_tap_reaches_the_result():
    comparator = Comparator(SPECS, 1)
    comparator.mark_unmatched({TAPS[0]: "folded away by the exporter"})
    reference = stream()[0]
    comparator.add(0, reference, {name: array for name, array in reference.items() if name != f"tap/{TAPS[0]}"})
    result = comparator.finish()
    assert result["coverage"]["unmatched_reasons"] == {TAPS[0]: "folded away by the exporter"}
    assert result["objections"] == [f"{TAPS[0]} is unmatched: folded away by the exporter"]


# ------------------------------------------------------------------------------------------------ vacuous


@pytest.mark.parametrize("value", [0.0, -1.5])
@pytest.mark.parametrize("name", ["out/outputs", "out/cache_last_channel_next", "out/cache_last_time_next"])
def test_a_port_that_is_one_constant_on_both_sides_is_vacuous_and_not_a_pass(name, value):
    result = judged(both=assigned(name, value))
    assert result["verdict"] == "fail"
    assert result["coverage"]["vacuous"] == [label(name)]
    assert result["coverage"]["compared"] == len(SPECS) - 1
    assert [tensor["passed"] for tensor in result["tensors"] if tensor["name"] == label(name)] == [False]
    assert result["first_divergence"] is None


@pytest.mark.parametrize("chunks", [[0], [1, 2, 3]])
@pytest.mark.parametrize("name", FLOATS)
def test_a_tensor_that_is_zero_in_some_chunks_only_is_not_vacuous(name, chunks):
    result = judged(both=assigned(name, 0.0, chunks))
    assert (result["verdict"], result["coverage"]["vacuous"]) == ("pass", [])


def test_a_vacuous_tap_is_listed_and_not_counted():
    result = judged(both=assigned(f"tap/{TAPS[0]}", 0.0))
    assert (result["verdict"], result["coverage"]["vacuous"]) == ("pass", [TAPS[0]])
    assert result["coverage"]["compared"] == len(SPECS) - 1


def test_zeros_against_something_else_are_a_failure_and_not_vacuous():
    result = judged(assigned("out/cache_last_time_next", 0.0))
    assert failed_names(result) == ["cache_last_time_next"]
    assert result["coverage"]["vacuous"] == []


def test_constant_lengths_are_never_vacuous():
    assert judged(both=assigned("out/encoded_lengths", 4))["verdict"] == "pass"
    assert judged(assigned("out/encoded_lengths", 3), both=assigned("out/encoded_lengths", 4))["verdict"] == "fail"


@pytest.mark.parametrize(
    ("lengths", "vacuous"),
    [
        ([0, 0, 0, 0], ["outputs", "cache_last_channel_next", "cache_last_time_next"]),
        ([0, 4, 4, 3], []),
        ([2, 0, 0, 0], []),
        ([-1, 4, 4, 3], []),
    ],
    ids=["throughout", "in chunk 0", "in all but chunk 0", "negative length in chunk 0"],
)
def test_an_empty_valid_region_is_vacuous_only_over_the_whole_run(lengths, vacuous):
    result = compared(stream(lengths), stream(lengths))
    assert result["coverage"]["vacuous"] == vacuous
    assert result["verdict"] == ("fail" if vacuous else "pass")


def test_nothing_at_all_is_not_a_pass():
    assert Comparator([], 0).finish()["verdict"] == "fail"
    assert compared([], [], total=0)["verdict"] == "fail"


# ------------------------------------------------------------------------------------------------ not finite


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("sides", ["reference", "candidate", "both"])
@pytest.mark.parametrize("name", ["out/outputs", "tap/encoder.layers.0"])
def test_what_is_not_finite_never_passes_inside_the_valid_region(name, sides, value):
    reference, candidate = stream(), stream()
    for side in {"reference": [reference], "candidate": [candidate], "both": [reference, candidate]}[sides]:
        side[1][name][0, 0, 0] = value
    result = compared(reference, candidate, policy=TolerancePolicy(atol=1e30, rtol=1e30))
    assert (result["verdict"], failed_names(result)) == ("fail", [label(name)])
    tensor = next(tensor for tensor in result["tensors"] if tensor["name"] == label(name))
    assert tensor["nonfinite"] == {side: int(sides in (side, "both")) for side in ("reference", "candidate")}


@pytest.mark.parametrize("value", [np.nan, 1e30])
def test_garbage_outside_the_valid_region_is_nobodys_business(value):
    assert judged(assigned("out/outputs", value, [0], (..., slice(LENGTHS[0], None))))["verdict"] == "pass"


# ------------------------------------------------------------------------------------------------ shape and dtype


@pytest.mark.parametrize(
    ("make", "verdict"),
    [
        (lambda array: np.ascontiguousarray(array.swapaxes(1, 2)), "fail"),
        (lambda array: np.asfortranarray(array), "pass"),
        (lambda array: array[0], "fail"),
        (lambda array: array[..., None], "fail"),
        (lambda array: array.reshape(1, -1, 2), "fail"),
        (lambda array: array[:, :1], "fail"),
        (lambda array: array.astype(np.int64), "fail"),
        (lambda array: array.astype(np.float64), "pass"),
        (lambda array: array.astype(np.float16), "pass"),
    ],
    ids=[
        *("transposed", "other strides", "batch axis lost", "axis added", "reshaped", "would broadcast"),
        *("whole numbers", "float64", "float16"),
    ],
)
@pytest.mark.parametrize("name", ["out/outputs", "tap/encoder.layers.0"])
def test_another_shape_or_family_fails_and_another_width_or_layout_passes(name, make, verdict):
    result = judged(replaced(name, make), policy=TolerancePolicy(atol=0.01))
    assert result["verdict"] == verdict
    if verdict == "fail":
        tensor = next(tensor for tensor in result["tensors"] if tensor["name"] == label(name))
        assert "reference" in tensor["error"]
        assert result["first_divergence"]["error"] == tensor["error"]


def test_lengths_as_floats_fail():
    result = judged(replaced("out/encoded_lengths", lambda array: array.astype(np.float32)))
    assert failed_names(result) == ["encoded_lengths"]


def test_a_shape_that_is_wrong_from_one_chunk_on_is_located_there():
    result = judged(replaced("out/outputs", lambda array: array[:, :-1], [2, 3]))
    assert (result["first_divergence"]["chunk"], result["first_divergence"]["tensor"]) == (2, "outputs")
    assert result["chunks"]["passed"] == 2


# ------------------------------------------------------------------------------------------------ valid regions


@pytest.mark.parametrize("extra", [1, 7])
def test_a_candidate_may_be_longer_where_it_is_not_valid(extra):
    def longer(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, 0), (0, extra)), constant_values=99)

    assert judged(replaced("out/outputs", longer))["verdict"] == "pass"

    def longer_in_front(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, 0), (extra, 0)), constant_values=99)

    assert failed_names(judged(replaced("out/outputs", longer_in_front))) == ["outputs"]
    assert failed_names(judged(replaced("tap/encoder.layers.0", longer))) == ["encoder.layers.0"]


def test_a_cache_with_slots_behind_its_last_is_no_longer_right_aligned():
    def longer(array: np.ndarray) -> np.ndarray:
        return np.pad(array, ((0, 0), (0, 0), (0, 2), (0, 0)))

    assert failed_names(judged(replaced("out/cache_last_channel_next", longer))) == ["cache_last_channel_next"]


def test_a_candidate_that_is_shorter_than_what_is_valid_fails():
    assert judged(replaced("out/outputs", lambda array: array[..., :2], [0]))["verdict"] == "pass"
    assert judged(replaced("out/outputs", lambda array: array[..., :2], [3]))["verdict"] == "fail"


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("frame", range(FRAMES))
def test_output_frames_count_up_to_the_encoded_length_and_no_further(chunk, frame):
    result = judged(added("out/outputs", chunk, (..., frame)))
    assert result["verdict"] == ("fail" if frame < LENGTHS[chunk] else "pass")


@pytest.mark.parametrize("chunk", range(CHUNKS))
@pytest.mark.parametrize("slot", range(SLOTS))
def test_cache_slots_count_from_the_right(chunk, slot):
    valid = min(sum(LENGTHS[: chunk + 1]), SLOTS)
    result = judged(added("out/cache_last_channel_next", chunk, (0, 1, slot)))
    assert result["verdict"] == ("fail" if slot >= SLOTS - valid else "pass")


@pytest.mark.parametrize("chunk", [0, 1])
@pytest.mark.parametrize("slot", range(KERNEL))
def test_convolution_cache_slots_count_from_the_right(chunk, slot):
    valid = min(sum(LENGTHS[: chunk + 1]), KERNEL)
    result = judged(added("out/cache_last_time_next", chunk, (..., slot)))
    assert result["verdict"] == ("fail" if slot >= KERNEL - valid else "pass")


def test_a_negative_length_hides_nothing_in_the_chunks_that_follow():
    reference, candidate = stream([-2, 2, 4, 3]), stream([-2, 2, 4, 3])
    assert compared(reference, candidate)["verdict"] == "pass"
    candidate[1]["out/cache_last_time_next"][..., -2] += 1
    assert failed_names(compared(reference, candidate)) == ["cache_last_time_next"]


def test_a_left_aligned_cache_is_caught():
    def left_aligned(array: np.ndarray) -> np.ndarray:
        return np.roll(array, LENGTHS[0], axis=2)

    result = judged(replaced("out/cache_last_channel_next", left_aligned, [0]))
    assert failed_names(result) == ["cache_last_channel_next"]
    assert result["coverage"]["vacuous"] == []


@pytest.mark.parametrize("item", [0, 1])
@pytest.mark.parametrize(
    ("name", "axis", "count"),
    [("out/outputs", 2, "out/encoded_lengths"), ("out/cache_last_channel_next", 2, "out/cache_last_channel_next_len")],
)
def test_every_item_of_a_batch_has_its_own_valid_region(name, axis, count, item):
    lengths, extent = [1, 4], stream()[0][name].shape[axis]
    for position in range(extent):
        reference, candidate = stream(batch=2), stream(batch=2)
        for side in (reference, candidate):
            side[1][count] = np.array(lengths)
        candidate[1][name][item].swapaxes(0, axis - 1)[position] += 1
        result = compared(reference, candidate)
        valid = position < lengths[item] if "cache" not in name else position >= extent - lengths[item]
        assert result["verdict"] == ("fail" if valid else "pass")
        if valid:
            worst = next(tensor["worst"] for tensor in result["tensors"] if tensor["name"] == label(name))
            assert (worst["chunk"], worst["index"][0], worst["index"][axis]) == (1, item, position)


# ------------------------------------------------------------------------------------------------ order and counts


def both_of(*changes: Change) -> Change:
    return lambda side: [change(side) for change in changes]


def test_the_first_divergence_is_the_earliest_chunk_then_the_earliest_in_forward_order():
    late_but_early_in_order = added("tap/encoder.layers.0", 3)
    early_but_late_in_order = added("out/encoded_lengths", 1)
    same_chunk_earlier_in_order = added("tap/encoder.layers.1", 1)

    def found(*changes: Change) -> tuple[int, str]:
        first = judged(both_of(*changes))["first_divergence"]
        return first["chunk"], first["tensor"]

    assert found(late_but_early_in_order) == (3, "encoder.layers.0")
    assert found(late_but_early_in_order, early_but_late_in_order) == (1, "encoded_lengths")
    assert found(late_but_early_in_order, early_but_late_in_order, same_chunk_earlier_in_order) == (
        1,
        "encoder.layers.1",
    )


@pytest.mark.parametrize(("chunks", "total", "verdict"), [(4, 4, "pass"), (3, 4, "fail"), (0, 4, "fail")])
def test_every_chunk_there_should_be_must_have_been_compared(chunks, total, verdict):
    result = compared(stream()[:chunks], stream()[:chunks], total=total)
    assert result["verdict"] == verdict
    assert result["chunks"] == {"total": total, "compared": chunks, "passed": chunks}


def test_a_step_that_could_not_run_fails_and_is_the_divergence_unless_one_came_before():
    def with_failure(change: Change) -> dict[str, Any]:
        reference, candidate = stream(), stream()
        change(candidate)
        comparator = Comparator(SPECS, CHUNKS)
        for index in range(2):
            comparator.add(index, reference[index], candidate[index])
        comparator.fail_step(2, "Conv: kernel larger than input", "encoder.pre_encode")
        return comparator.finish()

    alone = with_failure(lambda candidate: None)
    assert alone["verdict"] == "fail"
    assert alone["first_divergence"]["chunk"] == 2
    assert alone["first_divergence"]["tensor"] == "encoder.pre_encode"
    assert alone["first_divergence"]["error"] == "Conv: kernel larger than input"
    assert alone["chunks"] == {"total": CHUNKS, "compared": 2, "passed": 2}
    assert with_failure(added("out/outputs", 1, (..., 0)))["first_divergence"]["tensor"] == "outputs"


# ------------------------------------------------------------------------------------------------ the rule


@pytest.mark.parametrize(
    ("reference", "candidate", "atol", "rtol", "passes"),
    [
        (100, 101, 0.5, 0.004, False),  # 0.5 + 0.4 < 1
        (100, 101, 0.5, 0.006, True),  # neither suffices alone, their sum does
        (100, 101, 1.0, 0.0, True),  # the bound itself passes
        (100, 101, 0.0, 0.0099, False),
        (100, 101, 0.0, 0.0101, True),
        (-100, -101, 0.5, 0.006, True),
        (0, 0.25, 0.0, 9.0, False),  # nothing is relative to zero
        (1, 100, 0.0, 1.0, False),  # relative to the reference, not to the candidate
        (100, 1, 0.0, 1.0, True),
    ],
)
def test_a_value_passes_within_atol_plus_rtol_times_the_reference(reference, candidate, atol, rtol, passes):
    def result(at: Any) -> str:
        return judged(
            assigned("out/outputs", candidate, [1], at),
            both=assigned("out/outputs", reference, [1], at),
            policy=TolerancePolicy(atol, rtol),
        )["verdict"]

    expected = "pass" if passes else "fail"
    assert result((0, 3, 1)) == expected  # one value among many that are equal
    assert result((..., slice(LENGTHS[1]))) == expected


def test_large_values_do_not_excuse_small_ones():
    change = added("out/outputs", 1, (0, 0, 0), 0.01)
    large = assigned("out/outputs", 1e6, [1], (0, 1))
    assert judged(change, both=large)["verdict"] == "fail"
    assert judged(added("out/outputs", 1, (0, 1, 0), 0.5), both=large)["verdict"] == "pass"


# ---------------------------------------------------------------------------------------------------------- overlap
CACHE = TensorSpec("out/cache", "cache", "float32", ("B", "C"), ValidRule("C", "last", "n"))
SOME = np.random.default_rng(6).normal(size=(1, 4)).astype(np.float32)


def cache(slots: int, data: np.ndarray = SOME) -> np.ndarray:
    """Right-aligned, as caches are."""
    return np.concatenate([np.full((1, slots - data.shape[1]), 99, np.float32), data], axis=1)


@pytest.mark.parametrize(
    ("candidate", "verdict", "elements"),
    [
        (cache(12), "pass", 4),
        (cache(12, SOME + 1), "fail", 4),
        (np.concatenate([SOME, np.full((1, 8), 99, np.float32)], axis=1), "fail", 4),
        (SOME[:, 1:], "pass", 3),
        (SOME[:, :3], "fail", 3),
    ],
    ids=["longer", "longer and wrong", "left-aligned", "shorter", "shorter and wrong"],
)
def test_what_two_right_aligned_caches_have_in_common_is_at_their_end(candidate, verdict, elements):
    comparator = Comparator([CACHE], 1, overlap=True)
    comparator.add(0, {"out/cache": cache(7), "n": np.array([4])}, {"out/cache": candidate, "n": np.array([4])})
    result = comparator.finish()
    assert (result["verdict"], result["tensors"][0]["elements"]) == (verdict, elements)
    assert comparator.overlapping == {"cache": f"[1, 7] and {list(candidate.shape)}"}
    worst = result["tensors"][0]["worst"]
    assert worst["reference"] == float(cache(7)[tuple(worst["index"])])
    assert Comparator([CACHE], 1).add(0, {"out/cache": cache(7), "n": np.array([4])}, {"out/cache": candidate}) is False


def test_overlap_forgives_no_tensor_that_a_chunk_lacks():
    reference, candidate = stream(), stream()
    del candidate[2]["tap/encoder.layers.1"]
    result = compared(reference, candidate, overlap=True)
    assert (result["verdict"], result["first_divergence"]["tensor"]) == ("fail", "encoder.layers.1")


# ------------------------------------------------------------------------------------------ percentiles, once more
def many(size: int, chunks: int = 3, seed: int = 0) -> Stream:
    rng = np.random.default_rng(seed)
    return [{"out/x": rng.normal(size=size).astype(np.float32)} for _ in range(chunks)]


X = TensorSpec("out/x", "output", "float32", ("N",))


@pytest.mark.parametrize("loops", [plain, engine._compiled()])
@pytest.mark.parametrize(
    "change",
    [lambda x: x[:100], lambda x: x.reshape(2, -1), lambda x: x.astype(np.int32)],
    ids=["shorter", "another rank", "another type"],
)
def test_percentiles_are_of_the_chunks_before_the_one_that_does_not_fit(change, loops):
    reference, candidate = many(40_000), many(40_000, seed=1)
    candidate[1]["out/x"] = change(candidate[1]["out/x"])
    comparator = Comparator([X], 3, TolerancePolicy(atol=100), loops=loops)

    def replay():
        return ((chunk, *pair) for chunk, pair in enumerate(zip(reference, candidate, strict=True)))

    for each in replay():
        comparator.add(*each)
    result = comparator.finish(replay)
    error = np.abs(candidate[0]["out/x"].astype(np.float64) - reference[0]["out/x"])
    (tensor,) = result["tensors"]
    assert (result["verdict"], tensor["first_failed_chunk"]) == ("fail", 1)
    assert tensor["percentiles"] == {f"p{q:g}": np.percentile(error, q) for q in PERCENTILES}


@pytest.mark.parametrize("room", [None, 1], ids=["at once", "one at a time"])
def test_the_percentiles_of_many_tensors_take_little_memory(monkeypatch, room):
    """What is kept is shared among them, and where their tables are too large they wait for each other."""
    if room is not None:
        monkeypatch.setattr(comparator_module, "SEARCH_ROOM", room)
        monkeypatch.setattr(comparator_module, "KEPT", 100)
    rng = np.random.default_rng(2)
    number = 60 if room is None else 4
    reference = rng.normal(size=400_000).astype(np.float32)
    candidate = (reference + rng.normal(size=reference.size) * 1e-6).astype(np.float32)
    names = [f"out/x{place}" for place in range(number)]
    comparator = Comparator([replace(X, name=name) for name in names], 1, loops=engine._compiled())
    sides = dict.fromkeys(names, reference), dict.fromkeys(names, candidate)
    tracemalloc.start()
    try:
        comparator.add(0, *sides)
        result = comparator.finish(lambda: [(0, *sides)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    error = np.abs(candidate.astype(np.float64) - reference)
    expected = {f"p{q:g}": np.percentile(error, q) for q in PERCENTILES}
    assert all(tensor["percentiles"] == expected for tensor in result["tensors"])
    histograms = number * BINS * 8  # most of which is never touched, and then takes no memory
    assert peak < histograms + (160 << 20)


def test_constants_that_differ_within_tolerance_prove_nothing():
    for amount, verdict in ((1e-6, "vacuous"), (1.0, "past tolerance")):
        result = Comparator([X], 1)
        result.add(0, {"out/x": np.zeros(9, np.float32)}, {"out/x": np.full(9, amount, np.float32)})
        assert verdict in result.finish()["objections"][0]
