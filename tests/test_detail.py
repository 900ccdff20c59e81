"""What a person sees of one tensor: bars that add up, the worst elements in their place; and what prints nothing."""

from __future__ import annotations

import json
import re
from typing import Any

import numpy as np
import pytest

from streamparity import compare
from streamparity.report.detail import detail, subject

from .test_compare import command, only, record, written

INF, NAN = np.inf, np.nan
RNG = np.random.default_rng(4)
GAUSS = RNG.normal(size=4000)


def seen(reference: Any, candidate: Any, worst: int = 5, **options: Any) -> list[str]:
    result = compare(reference, candidate, worst=worst, **options)
    return detail(only(result))


def bars(lines: list[str]) -> dict[str, tuple[int, float, int]]:
    """Count, share and length of every bar by its label, below the line that announces their sum."""
    found = {}
    for line in lines[1:]:
        match = re.fullmatch(r"  +(equal|from 1e-?\d+) +([\d.]+)% (#*) ?(\d+)", line)
        if match is None:
            break
        label, share, bar, count = match.groups()
        found[label] = int(count), float(share), len(bar)
    return found


ERRORS = {
    "one decade": np.full(4000, 3e-3),
    "many decades": 10.0 ** RNG.uniform(-12, 3, 4000),
    "edges of decades": np.tile(10.0 ** np.arange(-10, 0), 400),
    "far apart": np.tile([1e-300, 1e-5, 1e200, 0.0], 1000),
    "most equal": np.where(RNG.random(4000) < 0.999, 0, 1e-3),
    "not finite": np.where(RNG.random(4000) < 0.1, NAN, 1e-3),
    "denormal": np.tile([5e-324, 1e-310], 2000),
    "none": np.zeros(4000),
}


@pytest.mark.parametrize("name", ERRORS)
@pytest.mark.parametrize("times", [1, 20])
def test_the_bars_add_up_to_the_finite_values(name, times):
    """Held in memory, and binned."""
    errors = np.tile(ERRORS[name], times)
    lines = seen(np.zeros(errors.size), errors)
    finite = errors[np.isfinite(errors)]
    assert lines[0] == f"errors of value, {finite.size} values:"
    found = bars(lines)
    assert sum(count for count, *_ in found.values()) == finite.size
    assert found.get("equal", (0,))[0] == np.count_nonzero(finite == 0)
    for label, (count, share, length) in found.items():
        assert share == pytest.approx(100 * count / finite.size, abs=0.006)
        assert (length > 0) == (count > 0)
        if label != "equal":
            low = float(label.removeprefix("from "))
            high = float(f"1e{int(label.removeprefix('from 1e')) + 1}") if low < 1e308 else INF
            low = low or 5e-324
            assert count == np.count_nonzero((finite >= low) & (finite < high) & (finite > 0))
    assert max(length for *_, length in found.values()) == 40
    assert "" not in lines
    assert all(line == line.rstrip() for line in lines)


def test_bars_run_from_small_errors_to_large_and_short_gaps_are_shown():
    labels = list(bars(seen(np.zeros(3), np.array([0, 1e-4, 1e-2]))))
    assert labels == ["equal", "from 1e-4", "from 1e-3", "from 1e-2"]
    assert list(bars(seen(np.zeros(2), np.array([1e-4, 1e30])))) == ["from 1e-4", "from 1e30"]


def test_nothing_finite_has_no_bars():
    lines = seen(np.array([1.0, 2]), np.array([NAN, INF]))
    assert not [line for line in lines if line.startswith("errors of")]
    assert any("not finite" in line for line in lines)
    assert seen(np.zeros(0), np.zeros(0)) == []


SHAPES = [(10,), (3, 10), (2, 3, 4), (5, 1), (1, 1), (2,), (3, 2, 2), (4, 7)]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_worst_element_is_bracketed_among_its_own_neighbours(tmp_path, shape, stored):
    reference = np.arange(1, np.prod(shape) + 1, dtype=np.float64).reshape(shape)
    for index in np.ndindex(shape):
        candidate = reference.copy()
        candidate[index] += 1000
        sides: tuple[Any, ...] = (reference, candidate)
        options = {}
        if stored:
            sides = tuple(written(tmp_path / name, side) for name, side in zip("ab", sides, strict=True))
            options = {"shape": shape, "dtype": "f64"}
        lines = seen(*sides, worst=2, **options)
        at = lines.index(f"  chunk 0, {list(index)}: off by 1e+03, {1000 / reference[index]:.2g} of the reference")
        assert lines[at - 1].startswith("worst elements")
        for line, side in zip(lines[at + 1 :], (reference, candidate), strict=False):
            around = side[index[:-1]][max(0, index[-1] - 3) : index[-1] + 4]
            values = [float(text) for text in re.findall(r"[\d.e+]+", line.split(maxsplit=1)[1])]
            assert values == around.tolist()
            assert [float(text) for text in re.findall(r"\[ *([\d.]+)\]", line)] == [side[index]]
        if len(lines) > at + 3:
            assert "off by 0" not in "\n".join(lines)


def test_a_number_alone_has_no_neighbours():
    lines = seen(3.0, 4.0)
    assert "  chunk 0, []: off by 1, 0.33 of the reference" in lines
    assert lines[-2:] == ["    reference [3]", "    candidate [4]"]


def test_what_is_not_finite_is_shown_as_such():
    lines = seen(np.array([1.0, 2, 3]), np.array([1.0, NAN, 3]))
    assert "  chunk 0, [1]: not finite" in lines
    assert any(re.search(r"candidate +1 +\[nan/inf\] +3", line) for line in lines)


def test_elements_that_are_equal_are_not_called_worst():
    assert not [line for line in seen(GAUSS, GAUSS) if "worst" in line or "off by" in line]
    one_off = GAUSS.copy()
    one_off[7] += 1
    assert len([line for line in seen(GAUSS, one_off) if "off by" in line]) == 1


def test_the_worst_elements_come_in_order_across_chunks(tmp_path):
    chunks = [GAUSS[part * 10 : part * 10 + 10] for part in range(4)]
    errors = [0.5, 3, 0, 2]
    changed = []
    for chunk, error in zip(chunks, errors, strict=True):
        changed.append(chunk.copy())
        changed[-1][4] += error
    for name, side in (("a", chunks), ("b", changed)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(record(chunk)) + "\n" for chunk in side))
    result = compare(tmp_path / "a.jsonl", tmp_path / "b.jsonl", worst=3)
    assert [(e["chunk"], e["index"]) for e in only(result)["worst_elements"]] == [(1, [4]), (3, [4]), (0, [4])]


def test_the_tensor_at_close_range_is_the_one_that_diverges_first():
    sides = {"a": GAUSS, "b": GAUSS, "c": GAUSS}, {"a": GAUSS, "b": GAUSS + 1, "c": GAUSS + 2}
    assert subject(compare(*sides))["name"] == "b"
    assert subject(compare(sides[0], sides[0])) is None
    assert subject(compare(GAUSS, GAUSS))["name"] == "value"
    assert subject(compare({"a": GAUSS}, {"b": GAUSS})) is None


# --------------------------------------------------------------------------------------------------- the command line
@pytest.fixture
def files(tmp_path):
    off = GAUSS.copy()
    off[3] += 2
    for name, array in (("a", GAUSS), ("off", off), ("broken", np.where(GAUSS[0] == GAUSS, NAN, GAUSS))):
        np.save(tmp_path / f"{name}.npy", array)
    return lambda *names: [tmp_path / f"{name}.npy" for name in names]


@pytest.mark.parametrize(("candidate", "code"), [("a", 0), ("off", 1), ("broken", 1)])
@pytest.mark.parametrize("flag", ["--quiet", "-q"])
def test_quiet_prints_nothing_and_the_exit_code_tells(files, tmp_path, candidate, code, flag):
    assert command("compare", *files("a", candidate), flag) == (code, "", "")
    ended = command("compare", *files("a", candidate), flag, "--json", tmp_path / "r.json")
    assert ended == (code, "", "")
    assert json.loads((tmp_path / "r.json").read_text())["verdict"] == ("fail" if code else "pass")
    loud = command("compare", *files("a", candidate))
    assert loud.code == code
    assert loud.out


def test_quiet_does_not_hide_bad_input(files):
    ended = command("compare", *files("broken", "a"), "--quiet")
    assert (ended.code, ended.out, len(ended.err.splitlines())) == (2, "", 2)


@pytest.mark.parametrize(("candidate", "code"), [("a", 0), ("off", 1), ("broken", 1)])
def test_json_on_standard_output_is_all_there_is(files, candidate, code):
    ended = command("compare", *files("a", candidate), "--json", "-")
    assert (ended.code, ended.err) == (code, "")
    document = json.loads(ended.out, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))
    assert document["schema"] == "streamparity.result/1"
    assert len(only(document)["worst_elements"]) == 5
    assert command("compare", *files("a", candidate), "--json", "-", "--quiet").out.startswith("{")


def test_the_terminal_shows_verdict_table_bars_and_worst_elements(files):
    out = command("compare", *files("a", "off")).out
    for part in ("FAIL: 0 of 1 chunks passed", "tensor", "p99.9", "errors of value, 4000 values:", "from 1e0", "equal",
                 "chunk 0, [3]: off by 2", "first divergence: chunk 0, value: max abs 2.0e+00"):  # fmt: skip
        assert part in out
    assert out.splitlines()[-1].startswith("FAIL")


NEW_IN_TENSORS = ("histogram", "worst_elements", "pearson", "max_ulp", "nan_reference")
NEW_IN_TOLERANCES = ("outliers", "pattern")


@pytest.mark.parametrize(("candidate", "code"), [("a", 0), ("off", 1), ("broken", 1)])
def test_a_result_is_shown_again_also_one_from_before_the_histogram(files, tmp_path, candidate, code):
    path = tmp_path / "r.json"
    shown = command("compare", *files("a", candidate))
    command("compare", *files("a", candidate), "--quiet", "--json", path)
    assert command("report", path) == shown
    document = json.loads(path.read_text())
    for tensor in document["tensors"]:
        for key in NEW_IN_TENSORS:
            del tensor[key]
        for key in NEW_IN_TOLERANCES:
            del tensor["tolerance"][key]
    path.write_text(json.dumps(document))
    old = command("report", path)
    assert (old.code, old.err) == (code, "")
    assert old.out.splitlines()[0] == shown.out.splitlines()[0]
    assert old.out.splitlines()[-1] == shown.out.splitlines()[-1]
    assert "errors of" not in old.out
    assert set(old.out.splitlines()) < set(shown.out.splitlines())
    for option in ("--html", "--junit", "--markdown"):
        again = command("report", path, option, tmp_path / "again")
        assert (again.code, (tmp_path / "again").stat().st_size > 100) == (code, True)
