"""Places that are less free than a developer's machine."""

from __future__ import annotations

from runtime.check.clause import BOTH, GUIDE, SDK_V2, Clause, Judgement
from runtime.check.clauses.common import judge_again
from runtime.check.lab import Lab, Setup


def _offline(lab: Lab) -> Judgement:
    return judge_again(lab, "offline", Setup(network="none"), "ran with --network none")


def _user(lab: Lab) -> Judgement:
    return judge_again(lab, "user", Setup(options=("--user", "1000:0")), "ran with --user 1000:0")


def _read_only(lab: Lab) -> Judgement:
    options = ("--read-only", "--tmpfs", "/tmp")  # noqa: S108 - a path in the container
    return judge_again(lab, "read-only", Setup(options=options), "ran with --read-only --tmpfs /tmp")


def _terminal(lab: Lab) -> Judgement:
    return judge_again(lab, "terminal", Setup(options=("--tty", "--interactive")), "ran with a terminal and open stdin")


CLAUSES = (
    Clause(
        id="offline",
        title="the job starts without any network",
        level="must",
        why="network isolation is a switch of the job, and package indexes fail on the day that matters",
        source=f"{GUIDE}, run training with internet-free mode",
        tried="docker run --network none",
        change="install at build time; look nothing up at start",
        judge=_offline,
        kinds=BOTH,
        ours=False,
    ),
    Clause(
        id="user",
        title="the job runs as another user than root",
        level="should",
        why="clusters and careful teams start containers so",
        source="usual practice: group 0 owns what may be written",
        tried="docker run --user 1000:0",
        change="chgrp -R 0 and chmod -R g=u what is written at run time; HOME where it may write",
        judge=_user,
        kinds=BOTH,
        ours=False,
    ),
    Clause(
        id="read-only",
        title="the job runs on a read-only root",
        level="should",
        why="what is not written there cannot be broken there, and writes to layers are slow",
        source="usual practice",
        tried="docker run --read-only --tmpfs /tmp, /opt/ml writable",
        change="write to /tmp and /opt/ml alone",
        judge=_read_only,
        kinds=BOTH,
        ours=False,
    ),
    Clause(
        id="terminal",
        title="the job runs with a terminal too",
        level="must",
        why="local mode of SDK v2 gives one, the service does not",
        source=SDK_V2,
        tried="docker run --tty --interactive",
        change="ask no questions, and start no shell when stdin is a terminal",
        judge=_terminal,
        ours=False,
    ),
)
