"""All clauses on one image, several at a time."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from runtime.base.errors import UserError, did_you_mean
from runtime.base.redact import redact
from runtime.check.clause import Clause, Finding, Judgement, Kind, untried, verdict_of
from runtime.check.clauses import CLAUSES
from runtime.check.lab import Lab
from runtime.check.report import Report

_SLOW = ("secrets-layers", "sigterm", "host-lost", "zombies", "log-unbuffered")
"""Begun first: they wait more than they work."""
_START = "start"


def select(kind: Kind, only: Iterable[str] = (), clauses: Sequence[Clause] = CLAUSES) -> list[Clause]:
    """Choose the clauses of a kind of image, in their order.

    Args:
        kind: of jobs.
        only: ids; what they rest on comes along. None: all.
        clauses: to choose from.

    Raises:
        UserError: there is no such clause for this kind.
    """
    known = {clause.id: clause for clause in clauses if kind in clause.kinds}
    wanted: set[str] = set()
    todo = list(only) or list(known)
    while todo:
        name = todo.pop()
        if name not in known:
            raise UserError(f"There is no clause {name!r} for {kind} images", allowed=did_you_mean(name, known))
        if name not in wanted:
            wanted.add(name)
            todo.extend(needs_of(known[name], kind))
    return [clause for clause in known.values() if clause.id in wanted]


def needs_of(clause: Clause, kind: Kind) -> tuple[str, ...]:
    """Ids of the clauses that this one rests on; a processing job starts in another way."""
    start = _START if kind == "training" else f"process-{_START}"
    return tuple(start if need == _START else need for need in clause.needs)


class _Run:
    def __init__(self, lab: Lab, kind: Kind, clauses: Sequence[Clause]) -> None:
        self._lab = lab
        self._kind: Kind = kind
        self._by_id = {clause.id: clause for clause in clauses}

    def finding(self, name: str) -> Finding:
        """Judge a clause, once, whoever asks first."""
        return self._lab.once(f"clause {name}", lambda: self._find(self._by_id[name]))

    def _find(self, clause: Clause) -> Finding:
        began = time.monotonic()
        judgement = self._judge(clause)
        verdict, evidence = verdict_of(clause, judgement, self._lab.facts.toolkit)
        # What a job printed is quoted here, and reports travel further than logs.
        return Finding(clause, verdict, redact(evidence), time.monotonic() - began)

    def _judge(self, clause: Clause) -> Judgement:
        for need in needs_of(clause, self._kind):
            before = self.finding(need)
            if before.verdict != "pass":
                return untried(f"{need} has not passed")
        if clause.ours and self._lab.own:
            return untried("the image runs an algorithm of its own, this needs a program of ours")
        return clause.judge(self._lab)


def check(
    make_lab: Callable[[Path], Lab], kind: Kind, only: Iterable[str] = (), *, workers: int | None = None
) -> Report:
    """Judge an image.

    Args:
        make_lab: given a directory for the jobs' files.
        kind: of jobs.
        only: ids of clauses; none: all.
        workers: trials at a time; None: twice the CPUs, at least 4, since most of them wait.

    Raises:
        UserError: no such clause, or no such image.
        PlatformError: the engine does not do what it should.
    """
    clauses = select(kind, only)
    began = time.monotonic()
    home = Path(tempfile.mkdtemp(prefix="slipway-check-"))
    try:
        home.chmod(0o755)
        lab = make_lab(home)
        toolkit = lab.facts.toolkit  # looked at before threads would look all at once
        run = _Run(lab, kind, clauses)
        order = sorted(clauses, key=lambda clause: clause.id not in _SLOW)
        pool = ThreadPoolExecutor(max_workers=workers or max(4, 2 * (os.cpu_count() or 2)))
        try:
            futures = [pool.submit(run.finding, clause.id) for clause in order]
            for future in futures:
                future.result()
            own = "start" in {clause.id for clause in clauses} and lab.own
        finally:
            lab.close()
            pool.shutdown(wait=True, cancel_futures=True)
            lab.close()  # what a thread had begun meanwhile
        findings = tuple(run.finding(clause.id) for clause in clauses)
        return Report(lab.image, kind, findings, own, toolkit, time.monotonic() - began)
    finally:
        shutil.rmtree(home, ignore_errors=True)
