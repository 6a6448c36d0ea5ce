"""What a check found, for people, programs and CI."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from xml.etree import ElementTree

from runtime.check.clause import Finding, Kind

_UNFIT = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""Signs that XML cannot carry."""
_WIDTH = 118


@dataclass(frozen=True)
class Report:
    """One image, every clause."""

    image: str
    kind: Kind
    findings: tuple[Finding, ...]
    own: bool
    """Whether the image runs an algorithm of its own."""
    toolkit: str
    """Version of sagemaker-training; empty without."""
    seconds: float

    @property
    def counts(self) -> Mapping[str, int]:
        """Findings by verdict."""
        counted = Counter(finding.verdict for finding in self.findings)
        return {verdict: counted.get(verdict, 0) for verdict in ("pass", "fail", "warn", "skipped")}

    def failed(self, *, strict: bool = False) -> bool:
        """Whether the image is not fit; with ``strict`` a warning is enough."""
        return bool(self.counts["fail"] or (strict and self.counts["warn"]))

    def table(self) -> str:
        """Verdict, clause and evidence of each; what to change below what does not hold."""
        name = max((len(finding.clause.id) for finding in self.findings), default=0)
        margin = " " * (name + 11)
        lines = [f"{'VERDICT':9}{'CLAUSE':{name}}  WHAT WAS SEEN"]
        for finding in self.findings:
            head = f"{finding.verdict:9}{finding.clause.id:{name}}  "
            lines += textwrap.wrap(finding.evidence, _WIDTH, initial_indent=head, subsequent_indent=margin) or [head]
            if finding.change:
                for word, text in (("why", finding.clause.why), ("change", finding.change)):
                    start = f"{margin}{word}: "
                    lines += textwrap.wrap(text, _WIDTH, initial_indent=start, subsequent_indent=f"{margin}  ")
        counts = ", ".join(f"{number} {verdict}" for verdict, number in self.counts.items() if number)
        what = "runs an algorithm of its own" if self.own else f"{self.kind} image"
        by = f", on sagemaker-training {self.toolkit}" if self.toolkit else ""
        return "\n".join([*lines, "", f"{self.image} ({what}{by}): {counts}; {self.seconds:.0f} s"])

    def as_json(self) -> dict[str, Any]:
        """The whole report; every clause with its reason and source."""
        return {
            "format": 1,
            "image": self.image,
            "kind": self.kind,
            "own_algorithm": self.own,
            "sagemaker_training": self.toolkit or None,
            "verdict": "fail" if self.failed() else "pass",
            "counts": dict(self.counts),
            "seconds": round(self.seconds, 2),
            "clauses": [
                {
                    "id": finding.clause.id,
                    "title": finding.clause.title,
                    "level": finding.clause.level,
                    "verdict": finding.verdict,
                    "evidence": finding.evidence,
                    "change": finding.change,
                    "why": finding.clause.why,
                    "source": finding.clause.source,
                    "tried": finding.clause.tried,
                    "seconds": round(finding.seconds, 2),
                }
                for finding in self.findings
            ],
        }

    def junit(self) -> str:
        """JUnit's XML: a test case per clause; a warning passes and says so in its output."""
        counts = self.counts
        suite = ElementTree.Element(
            "testsuite",
            name=f"slipway check {self.image}",
            tests=str(len(self.findings)),
            failures=str(counts["fail"]),
            errors="0",
            skipped=str(counts["skipped"]),
            time=f"{self.seconds:.3f}",
        )
        for finding in self.findings:
            clause = finding.clause
            case = ElementTree.SubElement(
                suite, "testcase", classname=f"contract.{self.kind}", name=clause.id, time=f"{finding.seconds:.3f}"
            )
            evidence = _UNFIT.sub("?", finding.evidence)
            if finding.verdict == "fail":
                failure = ElementTree.SubElement(case, "failure", message=evidence)
                failure.text = f"{clause.title}\nwhy: {clause.why}\nchange: {clause.change}\nsource: {clause.source}"
            elif finding.verdict == "skipped":
                ElementTree.SubElement(case, "skipped", message=evidence)
            elif finding.verdict == "warn":
                ElementTree.SubElement(case, "system-out").text = f"warning: {evidence}\nchange: {clause.change}"
        ElementTree.indent(suite)
        return ElementTree.tostring(suite, encoding="unicode", xml_declaration=True) + "\n"
