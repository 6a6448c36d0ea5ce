"""What the rows of the fault suite share: making clusters, giving orders, and judging what was seen."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.testing import Cluster, Ending, Host, Limits
from tests.container.scripts import MEETS, OBEYS
from tests.container.slim import SLIM

TORCH = "slipway-pytorch:cpu"
HANG_S = 90.0
"""By then whatever has not ended hangs: a bound for a machine that is ten times slower, not the target."""
LOUD_S = 3.0
"""Target: seconds from a loud death to the end of the last host."""
SUSPECT_S = 3.0
"""Target: seconds from a silence to the first line that names the silent host."""


@dataclass(frozen=True)
class Result:
    """What one row showed."""

    notice_s: float | None
    """Until the last of the judged hosts had a line that names the victim; None when there is nothing to notice."""
    exit_s: float | None
    """Until the last of the judged hosts had ended; None when the job was to go on."""
    cause: str
    """The reason as the first judged host tells it."""
    problems: tuple[str, ...] = ()
    """What was wrong apart from speed; empty when the row holds."""
    notes: str = ""


@dataclass(frozen=True)
class Row:
    """One fault."""

    name: str
    run: Callable[["Stage"], Result]
    torch: bool = False
    """Whether it needs process groups."""
    target_s: float | None = LOUD_S
    """Longest time to the end, from the issue; None where nothing ends by a fault."""
    notice_target_s: float | None = None
    minutes: float = 0.0
    """What it takes on a quiet machine; one that takes minutes is for the campaign only."""


@dataclass
class Stage:
    """Makes the clusters of one row and removes them."""

    home: Path
    _clusters: list[Cluster] = field(default_factory=list[Cluster])

    def cluster(
        self,
        hosts: int,
        script: str | Mapping[str, str] = OBEYS,
        *,
        torch: bool = False,
        procs: int = 1,
        limits: Limits | None = None,
        network: bool = True,
        names: bool = True,
        **settings: object,
    ) -> Cluster:
        """Write the trees of a job; the settings are hyperparameters (with ``slipway_`` before ours)."""
        values = {"slipway_procs_per_host": str(procs), "slipway_profile": "off"}
        values |= {name: str(value) for name, value in settings.items()}
        cluster = Cluster(
            TORCH if torch else SLIM,
            self.home / f"job{len(self._clusters)}",
            hosts,
            script=MEETS if torch and script == OBEYS else script,
            hyperparameters=values,
            limits=limits,
            network=network,
            names=names,
        )
        self._clusters.append(cluster)
        return cluster

    def close(self) -> None:
        """Remove everything."""
        for cluster in self._clusters:
            cluster.close()


def wait_for_ranks(hosts: Sequence[Host], procs: int = 1, mark: str = "ready", leave_out: Sequence[int] = ()) -> None:
    """Wait until all ranks of these hosts have left their mark."""
    for host in hosts:
        first = (int(host.host.rpartition("-")[2]) - 1) * procs
        for rank in range(first, first + procs):
            if rank not in leave_out:
                host.wait_for_file(f"model/{mark}-{rank}")


def order(host: Host, rank: int, text: str) -> None:
    """Let a rank run this Python at its next step."""
    aside = host.tree.model(f".order-{rank}")
    aside.write_text(text, encoding="utf-8")
    aside.chmod(0o666)  # whatever user the rank runs as
    aside.rename(host.tree.model(f"order-{rank}"))


def judge(
    endings: Sequence[Ending],
    began: float,
    *,
    named: Sequence[str],
    reason: Sequence[str] | None = None,
    code: int | None = None,
    notes: str = "",
) -> Result:
    """Compare what hosts left behind with what the fault was.

    Args:
        endings: of every host whose word counts.
        began: unix time of the fault.
        named: words of the line that names the victim, in the log of each.
        reason: words that each failure file must hold; None: the same.
        code: what each must exit with; None: anything but 0.
        notes: for the table.
    """
    problems: list[str] = []
    noticed: list[float] = []
    for ending in endings:
        line = ending.first(*named, since=began)
        if line is None:
            problems.append(f"{ending.host}: no line names {' '.join(named)}; its log:\n{ending.text}")
        else:
            noticed.append(line.at - began)
        wanted = [word for word in (named if reason is None else reason) if word not in ending.failure]
        if wanted:
            problems.append(f"{ending.host}: failure file lacks {wanted}: {ending.failure!r}; its log:\n{ending.text}")
        if (ending.exit_code != code) if code is not None else ending.exit_code == 0:
            problems.append(f"{ending.host}: exit code {ending.exit_code}, wanted {code or 'another than 0'}")
        if len(ending.failure) > 1024:
            problems.append(f"{ending.host}: failure file of {len(ending.failure)} characters")
        if ending.succeeded or ending.stopped:
            problems.append(f"{ending.host}: a failed job left success or stopped")
    return Result(
        notice_s=max(noticed) if len(noticed) == len(endings) else None,
        exit_s=max(ending.at for ending in endings) - began,
        cause=endings[0].failure,
        problems=tuple(problems),
        notes=notes,
    )


def judge_stop(endings: Sequence[Ending], began: float) -> Result:
    """A stop that was asked for: exit code 0 and its record on every host, neither success nor failure."""
    problems = [
        f"{ending.host}: exit code {ending.exit_code}, stopped {ending.stopped}, failure {ending.failure!r};"
        f" its log:\n{ending.text}"
        for ending in endings
        if ending.exit_code or not ending.stopped or ending.failure or ending.succeeded
    ]
    lines = [ending.first("stop", since=began) for ending in endings]
    noticed = [line.at - began for line in lines if line is not None]
    return Result(
        notice_s=max(noticed) if len(noticed) == len(endings) else None,
        exit_s=max(ending.at for ending in endings) - began,
        cause="a clean stop",
        problems=tuple(problems),
    )


def judge_completed(endings: Sequence[Ending], notes: str = "") -> Result:
    """A job that no fault ended."""
    problems = [
        f"{ending.host}: exit code {ending.exit_code}, failure {ending.failure!r}; its log:\n{ending.text}"
        for ending in endings
        if ending.exit_code or not ending.succeeded or ending.failure
    ]
    return Result(None, None, "no fault: the job completed", tuple(problems), notes)


def missing(result: Result, row: Row) -> Mapping[str, float]:
    """Name the targets that a row missed, with what was measured."""
    missed: dict[str, float] = {}
    if row.target_s is not None and result.exit_s is not None and result.exit_s > row.target_s:
        missed["exit"] = result.exit_s
    if row.notice_target_s is not None and result.notice_s is not None and result.notice_s > row.notice_target_s:
        missed["notice"] = result.notice_s
    return missed
