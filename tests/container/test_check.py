"""`slipway check` on real images: good ones of ours and of others, and a bad one for every clause."""

import json
import os
import signal
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from runtime.check.clause import Kind
from runtime.check.clauses import CLAUSES
from runtime.check.lab import Lab, OwnJob
from runtime.check.report import Report
from runtime.check.runner import check
from runtime.testing import PATIENCE_S, wait_until
from tests.container.check_images import (
    BAD,
    Bad,
    build_entrypoint,
    build_good,
    build_own,
    build_shell,
    build_toolkit,
)  # fmt: skip
from tests.container.containers import docker
from tests.differential.oracle import find_oracle

pytestmark = pytest.mark.container

TOOLKIT_CANNOT = {
    "hyperparameters-exact", "hyperparameters-large", "exit-code", "failure-cause", "sigterm", "zombies",
    "log-unbuffered", "log-secrets", "log-bars", "host-lost",
}  # fmt: skip
"""Clauses that every image on sagemaker-training breaks, as measured."""
PATIENT = {"deadline_s": 300.0, "grace_s": 120}
"""Bounds for a machine that is ten times slower."""
QUICK = {"deadline_s": 40.0, "grace_s": 5}
"""For images whose fault is to let these limits pass."""


def look(image: str, *only: str, kind: Kind = "training", job: OwnJob | None = None, **limits: float) -> Report:
    return check(lambda home: Lab(image, home, kind=kind, job=job, **limits), kind, only)


def by_verdict(report: Report, *verdicts: str) -> dict[str, str]:
    return {finding.clause.id: finding.evidence for finding in report.findings if finding.verdict in verdicts}


@pytest.fixture(scope="module")
def good(slim: str) -> str:
    return build_good()


@pytest.mark.parametrize("kind", ["training", "processing"])
def test_our_image_passes_every_clause(image: str, kind: Kind) -> None:
    report = look(image, kind=kind, **PATIENT)
    assert by_verdict(report, "fail", "warn", "skipped") == {}, report.table()


@pytest.mark.parametrize("kind", ["training", "processing"])
def test_the_image_that_the_bad_ones_come_from_passes_every_clause(good: str, kind: Kind) -> None:
    report = look(good, kind=kind, **PATIENT)
    assert by_verdict(report, "fail", "warn", "skipped") == {}, report.table()


def test_the_stock_toolkit_fails_nothing_and_is_warned_of_what_it_cannot(slim: str) -> None:
    python, reason = find_oracle()
    assert python is not None, reason
    report = look(build_toolkit(python.parents[1]), **QUICK)
    assert by_verdict(report, "fail") == {}, report.table()
    assert set(by_verdict(report, "warn")) == TOOLKIT_CANNOT, report.table()
    assert report.toolkit == "5.1.4"


def test_an_algorithm_of_its_own_is_tried_with_its_own_job(slim: str, tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text("1,2\n3,4\n")
    job = OwnJob({"steps": "20"}, channels={"numbers": tmp_path}, failing={"steps": "many"})
    report = look(build_own(), job=job, **PATIENT)
    assert report.own
    problems = by_verdict(report, "fail", "warn")
    # Plain Debian has no pip; ModelTrainer would need it.
    assert set(problems) == {"client-tools"}, report.table()
    skipped = by_verdict(report, "skipped")
    assert all("algorithm of its own" in why or why.endswith("has not passed") for why in skipped.values()), skipped
    passed = set(by_verdict(report, "pass"))
    assert {"start", "exit-success", "exit-failure", "failure-file", "results", "sigterm", "resume", "hosts"} <= passed


def test_an_algorithm_that_is_no_python(slim: str) -> None:
    """It is not asked for what it cannot know: nothing but the clients' tools are missing."""
    report = look(build_shell(), **PATIENT)
    assert report.own
    assert set(by_verdict(report, "fail", "warn")) == {"client-tools"}, report.table()
    passed = set(by_verdict(report, "pass"))
    assert {"start", "exit-failure", "failure-file", "sigterm", "resume", "hosts", "user", "read-only"} <= passed


def test_an_algorithm_as_the_entrypoint_that_thinks_of_nothing(slim: str) -> None:
    """A short job ends soon after SIGTERM, whether it hears of it or not."""
    report = look(build_entrypoint(), **PATIENT)
    assert report.own
    assert set(by_verdict(report, "fail")) == {"sigterm", "failure-file"}, report.table()
    assert set(by_verdict(report, "warn")) == {"client-tools", "other-commands"}, report.table()
    assert "PID 1 has no handler for SIGTERM" in by_verdict(report, "fail")["sigterm"]


@pytest.fixture(scope="module")
def bad_reports(good: str) -> Iterator[Mapping[str, Future[Report]]]:
    """All bad images at once: most of their time is spent waiting for what does not come."""

    def find(bad: Bad) -> Report:
        return look(bad.build(), bad.clause, kind=bad.kind, max_gb=bad.max_gb, **(QUICK if bad.hangs else PATIENT))

    with ThreadPoolExecutor(max_workers=4) as pool:
        yield {bad.id: pool.submit(find, bad) for bad in BAD}


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: bad.id)
def test_a_bad_image_breaks_its_clause(bad_reports: Mapping[str, Future[Report]], bad: Bad) -> None:
    clause = next(clause for clause in CLAUSES if clause.id == bad.clause)
    report = bad_reports[bad.id].result()
    finding = next(finding for finding in report.findings if finding.clause == clause)
    assert finding.verdict == ("fail" if clause.level == "must" else "warn"), report.table()
    assert bad.says in finding.evidence, finding.evidence
    assert finding.change
    others = {finding.clause.id for finding in report.findings if finding.verdict in ("fail", "warn")}
    assert others == {bad.clause}, report.table()


def test_every_clause_has_a_bad_image() -> None:
    assert {clause.id for clause in CLAUSES} - {bad.clause for bad in BAD} == set()


def test_the_command_prints_json_writes_junit_and_fails(good: str, tmp_path: Path) -> None:
    bad = next(bad for bad in BAD if bad.clause == "exit-failure")
    junit = tmp_path / "check.xml"
    words = ["-m", "runtime", "check", bad.build(), "--only", "exit-failure", "--json", "--junit", str(junit)]
    done = subprocess.run([sys.executable, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    told = json.loads(done.stdout)
    assert told["verdict"] == "fail"
    assert {row["id"]: row["verdict"] for row in told["clauses"]} == {"start": "pass", "exit-failure": "fail"}
    suite = ElementTree.parse(junit).getroot()  # noqa: S314 - written by us
    assert suite.get("failures") == "1"
    assert [case.get("name") for case in suite if case.find("failure") is not None] == ["exit-failure"]


def of_process(pid: int) -> tuple[list[str], list[str]]:
    """Names of the containers and networks that a check has on the engine."""
    named = f"name=^/?slipway-check-{pid}-"
    containers = docker("ps", "--all", "--format", "{{.Names}}", "--filter", named).stdout.split()
    networks = docker("network", "ls", "--format", "{{.Name}}", "--filter", named.replace("/?", "")).stdout.split()
    return containers, networks


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_check_that_is_ended_leaves_nothing_on_the_engine(good: str, number: signal.Signals) -> None:
    # A shell that runs these tests in the background has them ignore Ctrl-C, which a child inherits.
    words = ["env", "--default-signal=INT", sys.executable, "-m", "runtime", "check", good]
    with subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as checking:
        wait_until(lambda: len(of_process(checking.pid)[0]) >= 2, "two containers of the check")
        checking.send_signal(number)
        _, told = checking.communicate(timeout=PATIENCE_S)
    assert checking.returncode == 130, told
    assert "Traceback" not in told
    assert of_process(checking.pid) == ([], [])


def test_what_a_killed_check_leaves_is_cleaned(good: str, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "runtime", "check", good]
    environ = os.environ | {"TMPDIR": str(tmp_path)}  # where its files are left
    quiet = subprocess.DEVNULL
    with subprocess.Popen(words, stdout=quiet, stderr=quiet, env=environ) as checking:
        wait_until(lambda: bool(of_process(checking.pid)[0]), "a container of the check")
        checking.kill()
    cleaned = subprocess.run([*words[:3], "clean"], capture_output=True, text=True, check=False)
    assert cleaned.returncode == 0, cleaned.stderr
    # A client that was on its way when its parent died may still have started one.
    wait_until(lambda: _cleaned(checking.pid), "the leftovers to be gone")


def _cleaned(pid: int) -> bool:
    subprocess.run([sys.executable, "-m", "runtime", "clean"], capture_output=True, check=False)
    return of_process(pid) == ([], [])
