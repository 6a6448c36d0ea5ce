"""What matters first: the ranks' processes. They start before the launcher imports what it needs to look after them."""

from __future__ import annotations

import os

from runtime.base.errors import PlatformError
from runtime.base.frozen import frozen
from runtime.launch.spawn import Spawned, spawn

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping

    from runtime.planning.launch_plan import LaunchPlan
else:
    import _signal as signal  # see runtime.launch.signals

PROGRESS_FILE = "progress"
"""Name of the file of slots in the state directory; see runtime.launch.progress."""
SLOT_BYTES = 16
HEAD_START_S = 0.05
"""What the launcher imports to look after its ranks takes 10 ms of CPU, which on a busy machine would be theirs."""


@frozen
class Started:
    """Processes that nobody looks after yet, in the order of `LaunchPlan.ranks`."""

    processes: tuple[Spawned, ...]
    mark: str
    """Random; stands in the environment of all of them, and of whatever they start (``SLIPWAY_LAUNCH``)."""

    def let_run(self, wake: int, seconds: float = HEAD_START_S) -> None:
        """Leave the CPUs to them until one of them prints or ends, or a signal of ours comes.

        Args:
            wake: readable when a signal came, see `runtime.launch.signals`.
            seconds: at most so long.
        """
        import select  # 0.4 ms that nobody waits for any more

        poll = select.poll()
        for fd in (wake, *(fd for process in self.processes for fd in (process.stdout, process.stderr))):
            poll.register(fd, select.POLLIN)
        poll.poll(seconds * 1000)

    def kill(self) -> None:
        """End them, since nobody ever will look after them."""
        for process in self.processes:
            try:
                os.kill(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                continue


def clear_state(state_dir: str, local_ranks: int) -> None:
    """Remove what an earlier run in the same tree said of its end: a stop before our start is none of its steps."""
    os.makedirs(f"{state_dir}/stacks", exist_ok=True)
    for name in os.listdir(state_dir):
        if "-rank-" in name and name.endswith(".json"):
            os.unlink(f"{state_dir}/{name}")
    with open(f"{state_dir}/{PROGRESS_FILE}", "wb") as stream:
        stream.write(bytes(SLOT_BYTES * local_ranks))


def start_ranks(plan: LaunchPlan, overrides: Mapping[str, str]) -> Started:
    """Start all processes of a plan.

    Args:
        plan: what to start.
        overrides: variables that were not known when the plan was made.

    Raises:
        PlatformError: one cannot be started; then none runs.
    """
    try:
        os.chdir(plan.cwd)
    except OSError as error:
        raise PlatformError(f"The working directory {plan.cwd} cannot be entered: {error.strerror}") from error
    mark = os.urandom(8).hex()
    processes: list[Spawned] = []
    for rank in plan.ranks:
        environ = {**plan.environ, **overrides, **rank.environ, "SLIPWAY_LAUNCH": mark}
        try:
            processes.append(spawn(rank.command or plan.command, environ))
        except OSError as error:
            Started(tuple(processes), mark).kill()
            raise PlatformError(f"Rank {rank.rank} cannot be started: {error}") from error
    return Started(tuple(processes), mark)
