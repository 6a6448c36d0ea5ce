"""What a plan is made of. Records only: `runtime.planning.plan` decides, `runtime.launch.supervisor` acts."""

from __future__ import annotations

from runtime.base.frozen import field, frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.planning.topology import Topology


@frozen
class Choice:
    """One decision of the plan."""

    name: str
    """Of a decision, or of the environment variable that carries it."""
    value: str
    reason: str


@frozen
class RankPlan:
    """One process to start: a rank, or an adapter, which is somebody else's launcher that starts ranks itself."""

    rank: int
    """Of an adapter: of the first rank of this host."""
    local_rank: int
    environ: Mapping[str, str]
    """Added to `LaunchPlan.environ`."""
    command: tuple[str, ...] = ()
    """Its own argument list; empty: `LaunchPlan.command`."""
    adapter: bool = False
    """Its ranks put their names before their lines and leave their error records themselves (`launch.keeper`)."""
    records: tuple[str, ...] = ()
    """Error records of an adapter's ranks on this host."""
    stop_signal: int = 15
    """Asks it to stop and save; SIGTERM, unless the adapter would end its ranks at once for it."""


@frozen
class LaunchPlan:
    """Everything that the supervisor needs; it decides nothing itself."""

    command: tuple[str, ...]
    """Argument list, the same for every process of this host that has none of its own."""
    cwd: str
    environ: Mapping[str, str]
    """Whole environment of the processes, without their own part."""
    ranks: tuple[RankPlan, ...]
    """Processes to start on this host; at least one."""
    topology: Topology
    choices: tuple[Choice, ...]
    style: str = "own"
    """Who starts the ranks: one of `runtime.planning.styles.STYLES`."""
    warnings: tuple[str, ...] = ()
    """What will not stop the job, but may make it slow or fail later."""
    unfit: Mapping[str, str] = field(default_factory=dict)
    """Variables that no process can be started with, to be written to files; see `runtime.planning.toolkit`."""
