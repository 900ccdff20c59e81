"""The result as one self-contained HTML page."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from .detail import detail, subject
from .tables import HEADINGS, findings, headline, rows

STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2rem; color: #222; background: #fff }
table { border-collapse: collapse } th, td { padding: .15rem .8rem; text-align: right; border-bottom: 1px solid #eee }
th:first-child, td:first-child, th:last-child, td:last-child { text-align: left }
td { font-family: ui-monospace, monospace } .pass { color: #176b2c }
.fail { color: #a81c1c } .vacuous { color: #8a6100 }
"""


def html(result: Mapping[str, Any]) -> str:
    """A page with the verdict, the findings, the table, one tensor at close range and where the numbers come from."""
    provenance = result["provenance"]
    head = "".join(f"<th>{escape(name)}</th>" for name in HEADINGS)
    body = "\n".join(
        f'<tr class="{_class(row[-1])}">' + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>"
        for row in rows(result)
    )
    said = "\n".join(f"<p>{escape(line.strip())}</p>" for line in findings(result))
    looked_at = subject(result)
    close = "" if looked_at is None else f"<pre>{escape(chr(10).join(detail(looked_at)))}</pre>"
    origin = ", ".join(f"{name} {version}" for name, version in provenance["versions"].items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>streamparity: {escape(result["verdict"])}</title>
<style>{STYLE}</style></head><body>
<h1 class="{escape(result["verdict"])}">{escape(headline(result))}</h1>
{said}
<table><thead><tr>{head}</tr></thead><tbody>
{body}
</tbody></table>
{close}
<p>{escape(provenance["started"])}; {escape(origin)}; model {escape(str(provenance["model_sha256"]))}</p>
</body></html>
"""


def _class(verdict: str) -> str:
    return verdict if verdict in ("pass", "vacuous") else "fail"
