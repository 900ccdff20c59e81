"""The result as JUnit XML: one test case per tensor, one for the verdict as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from xml.etree import ElementTree

from .tables import headline, verdict


def junit(result: Mapping[str, Any]) -> str:
    """A ``testsuite`` document; vacuous tensors are skipped cases, never passed ones."""
    suite = ElementTree.Element("testsuite", name="streamparity")
    failures, skipped = 0, 0
    for tensor in sorted(result["tensors"], key=lambda tensor: tensor["order"]):
        case = ElementTree.SubElement(
            suite, "testcase", classname=f"streamparity.{tensor['kind']}", name=tensor["name"]
        )
        if tensor["vacuous"]:
            skipped += 1
            ElementTree.SubElement(case, "skipped", message="vacuous: the comparison could not have failed")
        elif not tensor["passed"]:
            failures += 1
            ElementTree.SubElement(case, "failure", message=f"{verdict(tensor)}, max abs {tensor['max_abs']}")
    whole = ElementTree.SubElement(suite, "testcase", classname="streamparity", name="verdict")
    if result["verdict"] != "pass":
        failures += 1
        ElementTree.SubElement(whole, "failure", message=headline(result)).text = "\n".join(result["objections"])
    suite.set("tests", str(len(result["tensors"]) + 1))
    suite.set("failures", str(failures))
    suite.set("skipped", str(skipped))
    ElementTree.indent(suite)
    return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
