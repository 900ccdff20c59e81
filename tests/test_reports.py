from __future__ import annotations

import io
import re
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from rich.console import Console

from streamparity import compare
from streamparity.report.html import html
from streamparity.report.junit import junit
from streamparity.report.markdown import markdown
from streamparity.report.terminal import render


@pytest.fixture
def results(tmp_path):
    good = np.linspace(-1, 1, 50, dtype=np.float32)
    np.savez(tmp_path / "a.npz", same=good, off=good, silent=np.zeros(9), gone=good)
    np.savez(tmp_path / "b.npz", same=good, off=good + np.float32(0.5), silent=np.zeros(9))
    np.savez(tmp_path / "c.npz", same=good)
    failed = compare(tmp_path / "a.npz", tmp_path / "b.npz")
    return {"fail": failed, "pass": compare(tmp_path / "c.npz", tmp_path / "c.npz")}


def shown(result, width=None):
    console = Console(file=io.StringIO(), width=width or 80, force_terminal=width is not None, color_system=None)
    render(result, console)
    return console.file.getvalue()


def test_every_report_shows_the_verdict_and_what_failed(results):
    for report in (shown, markdown, html):
        text = report(results["fail"])
        assert "FAIL: 0 of 1 chunks" in text
        assert "first divergence: chunk 0, off: max abs 5.0e-01" in text
        assert "unmatched: gone (only one side has it)" in text
        assert "silent is vacuous: empty, or one same value" in text
        assert "PASS: 1 of 1 chunks" in report(results["pass"])


def test_a_pipe_shows_everything_and_a_narrow_terminal_leaves_the_tolerance_out(results):
    assert "1e-05+1e-05|r|" in shown(results["fail"])
    assert "1e-05+1e-05|r|" not in shown(results["fail"], width=70)
    assert "FAIL from chunk 0" in shown(results["fail"], width=70)


def test_junit_counts_failures_and_skips_what_is_vacuous(results):
    suite = ElementTree.fromstring(junit(results["fail"]))
    cases = {case.get("name"): [child.tag for child in case] for case in suite}
    assert cases == {"same": [], "off": ["failure"], "silent": ["skipped"], "verdict": ["failure"]}
    assert [suite.get(key) for key in ("tests", "failures", "skipped")] == ["4", "2", "1"]
    clean = ElementTree.fromstring(junit(results["pass"]))
    assert [clean.get(key) for key in ("tests", "failures", "skipped")] == ["2", "0", "0"]


def test_names_from_files_cannot_break_a_report(tmp_path):
    np.savez(tmp_path / "a.npz", **{"<b>|[bold]x": np.arange(4.0)})
    result = compare(tmp_path / "a.npz", tmp_path / "a.npz")
    assert "&lt;b&gt;|[bold]x" in html(result)
    assert "<b>\\|[bold]x" in markdown(result)
    assert "<b>|[bold]x" in shown(result)
    assert ElementTree.fromstring(junit(result))[0].get("name") == "<b>|[bold]x"


def test_every_key_of_a_result_is_documented(results):
    page = (Path(__file__).parent.parent / "docs" / "result.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(\w+)`", page))
    for result in results.values():
        for part in (result, result["provenance"], result["chunks"], result["coverage"], *result["tensors"]):
            assert set(part) <= documented
    assert set(results["fail"]["first_divergence"]) <= documented
