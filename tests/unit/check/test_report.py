"""Verdicts, and what becomes of them: table, JSON, JUnit. No engine is needed."""

import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.check.clause import Clause, Finding, Judgement, Verdict, broken, holds, untried, verdict_of
from runtime.check.clauses import CLAUSES
from runtime.check.report import Report
from runtime.check.runner import needs_of, select


def _never(_lab: object) -> Judgement:
    raise AssertionError("not to be tried here")


CLAUSE = Clause("exit", "it ends", "must", "jobs bill", "guide", "a run", "end it", _never)
SHOULD = replace(CLAUSE, id="tidy", level="should")
KNOWN = replace(CLAUSE, id="stop", toolkit="issue 125")


def report(*found: tuple[Clause, Verdict, str]) -> Report:
    return Report("app:1", "training", tuple(Finding(*one, 0.25) for one in found), False, "", 3.0)


@pytest.mark.parametrize(
    ("clause", "judgement", "toolkit", "verdict"),
    [
        (CLAUSE, holds("x"), "", "pass"),
        (CLAUSE, untried("x"), "", "skipped"),
        (CLAUSE, broken("x"), "", "fail"),
        (SHOULD, broken("x"), "", "warn"),
        (KNOWN, broken("x"), "", "fail"),
        (KNOWN, broken("x"), "5.1.4", "warn"),
        (KNOWN, holds("x"), "5.1.4", "pass"),
        (CLAUSE, broken("x"), "5.1.4", "fail"),
    ],
)
def test_what_a_judgement_weighs(clause: Clause, judgement: Judgement, toolkit: str, verdict: Verdict) -> None:
    found, evidence = verdict_of(clause, judgement, toolkit)
    assert found == verdict
    assert evidence.startswith("x")


def test_a_known_fault_of_the_toolkit_is_named() -> None:
    assert verdict_of(KNOWN, broken("killed"), "5.1.4")[1] == (
        "killed (sagemaker-training 5.1.4, in every image: issue 125)"
    )


def test_a_warning_fails_only_when_strict() -> None:
    assert not report((SHOULD, "warn", "x")).failed()
    assert report((SHOULD, "warn", "x")).failed(strict=True)
    assert report((CLAUSE, "fail", "x")).failed()
    assert not report((CLAUSE, "skipped", "x"), (SHOULD, "pass", "x")).failed(strict=True)


def test_the_table_says_what_to_change_where_something_does_not_hold() -> None:
    text = report((CLAUSE, "fail", "it went on"), (SHOULD, "pass", "fine")).table()
    lines = text.splitlines()
    assert lines[1].split() == ["fail", "exit", "it", "went", "on"]
    assert lines[2].strip() == "why: jobs bill"
    assert lines[3].strip() == "change: end it"
    assert lines[4].split() == ["pass", "tidy", "fine"]
    assert lines[-1] == "app:1 (training image): 1 pass, 1 fail; 3 s"
    assert max(map(len, lines)) <= 120


def test_json_holds_reason_source_and_remedy_of_every_clause() -> None:
    told = json.loads(json.dumps(report((CLAUSE, "fail", "x"), (SHOULD, "pass", "y")).as_json()))
    assert (told["format"], told["verdict"], told["counts"]) == (
        1,
        "fail",
        {"pass": 1, "fail": 1, "warn": 0, "skipped": 0},
    )
    first, second = told["clauses"]
    assert (first["id"], first["change"], first["why"], first["source"]) == ("exit", "end it", "jobs bill", "guide")
    assert second["change"] == ""


def test_junit_counts_and_survives_signs_that_xml_cannot_carry() -> None:
    made = report((CLAUSE, "fail", "bell \x07 <tag> ü"), (SHOULD, "warn", "w"), (KNOWN, "skipped", "s"))
    suite = ElementTree.fromstring(made.junit().encode())  # noqa: S314 - written by us
    assert (suite.get("tests"), suite.get("failures"), suite.get("skipped")) == ("3", "1", "1")
    failed, warned, skipped = suite
    failure = failed.find("failure")
    assert failure is not None
    assert failure.get("message") == "bell ? <tag> ü"
    assert warned.findtext("system-out", "").startswith("warning: w")
    assert skipped.find("skipped") is not None


def test_what_a_clause_rests_on_comes_along() -> None:
    assert [clause.id for clause in select("training", ["failure-cause"])] == [
        "start",
        "exit-failure",
        "failure-file",
        "failure-cause",
    ]


def test_a_processing_job_starts_in_its_own_way() -> None:
    assert [clause.id for clause in select("processing", ["offline"])] == ["offline", "process-start"]


def test_an_unknown_clause_is_an_error_with_the_nearest_name() -> None:
    with pytest.raises(UserError, match="Did you mean 'sigterm'"):
        select("training", ["sigtern"])


def test_a_clause_of_the_other_kind_is_none() -> None:
    with pytest.raises(UserError, match="no clause 'hosts' for processing"):
        select("processing", ["hosts"])


def test_clauses_are_told_apart_and_rest_on_clauses_of_their_kind() -> None:
    ids = [clause.id for clause in CLAUSES]
    assert len(set(ids)) == len(ids)
    for clause in CLAUSES:
        for kind in clause.kinds:
            known = {other.id for other in CLAUSES if kind in other.kinds}
            assert set(needs_of(clause, kind)) <= known, clause.id
        for text in (clause.title, clause.why, clause.source, clause.tried, clause.change):
            assert text
            assert not text.endswith(".")


def test_the_chapter_names_every_clause() -> None:
    text = (Path(__file__).parents[3] / "docs" / "10-check.md").read_text(encoding="utf-8")
    assert [clause.id for clause in CLAUSES if f"`{clause.id}`" not in text] == []
