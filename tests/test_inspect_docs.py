"""docs/inspect.md has every finding that there is, and none that there is not."""

from __future__ import annotations

import re
from pathlib import Path

import streamparity.inspection

DOCS = Path(__file__).parent.parent / "docs" / "inspect.md"


def test_every_finding_is_in_the_docs_and_no_other():
    source = "".join(path.read_text() for path in Path(streamparity.inspection.__file__).parent.glob("*.py"))
    codes = set(re.findall(r'Finding\(\s*"([a-z0-9-]+)"', source)) | set(re.findall(r'"([a-z]+(?:-[a-z]+)+)"', source))
    rows = [line.split("|")[1] for line in DOCS.read_text().splitlines() if line.startswith("| `")]
    assert {code for row in rows for code in re.findall(r"`([a-z0-9-]+)`", row)} == codes
    assert {"tf32", "profile", "contract"} < codes
    assert len(codes) > 45
