"""The ranks of this host: started, relayed, signalled, reaped, and nothing left of them in the end."""

from __future__ import annotations

import os
import sys
import time

from runtime.base import log as own_log
from runtime.base.log import Log
from runtime.launch import stacks
from runtime.launch.relay import TAIL_BYTES, Relay, Sink, open_sinks
from runtime.launch.spawn import spawn_silent

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Iterator

    from runtime.contract.settings import Settings
    from runtime.launch.loop import Loop
    from runtime.launch.starting import Started
    from runtime.planning.plan import LaunchPlan, RankPlan
else:
    import _signal as signal  # see runtime.launch.signals

log = Log("launch")

SAMPLER = f"{os.path.dirname(os.path.dirname(os.path.abspath(__file__)))}/profile/sampler.py"


class Rank:
    """One running or ended process."""

    def __init__(self, plan: RankPlan, pid: int, out: Relay, err: Relay) -> None:
        """Take over what was started."""
        self.plan = plan
        self.pid = pid
        self.relays = (out, err)
        self.status: int | None = None
        """Exit code, or -n for death by signal n; None while it runs."""
        self.killed = False
        """Whether it was ended because it had nothing to save and nobody left to wait for."""

    @property
    def stderr_tail(self) -> list[str]:
        """Last lines of its standard error, oldest first."""
        return self.relays[1].tail

    @property
    def stdout_tail(self) -> list[str]:
        """Last lines of its standard output, oldest first."""
        return self.relays[0].tail


class Ranks:
    """All ranks of one host."""

    def __init__(self, plan: LaunchPlan, settings: Settings, state_dir: str, profiler: str, loop: Loop) -> None:
        """Prepare; nothing is started.

        Args:
            plan: what to start.
            settings: whether to prefix lines and to sample the machine.
            state_dir: where the ranks leave their records.
            profiler: where the sampler writes.
            loop: waits for their output.
        """
        self._plan = plan
        self._settings = settings
        self._state_dir = state_dir
        self._profiler = profiler
        self._loop = loop
        self._host = plan.topology.current_host
        self._by_pid: dict[int, Rank] = {}
        self._mark = ""
        self._sampler = 0
        self._sinks: tuple[Sink, ...] = ()
        self._made_at = time.monotonic()

    def __iter__(self) -> Iterator[Rank]:
        return iter(self._by_pid.values())

    @property
    def last_line_at(self) -> float:
        """Monotonic seconds of the last output of any rank."""
        return max((relay.heard_at for rank in self for relay in rank.relays), default=self._made_at)

    @property
    def running(self) -> list[Rank]:
        """Those that have not ended."""
        return [rank for rank in self if rank.status is None]

    def look_after(self, started: Started) -> None:
        """Take over what was started."""
        topology = self._plan.topology
        self._mark = started.mark
        prefix_on = self._settings.prefixes_lines(topology.world_size)
        out, err = self._sinks = open_sinks(self._loop)
        own_log.send_to(err)
        raw = self._settings.progress_bars == "raw" or (self._settings.progress_bars == "auto" and os.isatty(1))
        for plan, process in zip(self._plan.ranks, started.processes, strict=True):
            # Adapters' ranks say who they are themselves.
            prefix = f"[{self._host} r{plan.rank}] ".encode() if prefix_on and not plan.adapter else b""
            by_byte = raw and not prefix
            pair = (
                Relay(process.stdout, out, prefix, tail_bytes=TAIL_BYTES // 8, raw=by_byte),
                Relay(process.stderr, err, prefix, tail_bytes=TAIL_BYTES, raw=by_byte),
            )
            for relay in pair:
                relay.resume(self._loop)
            self._by_pid[process.pid] = Rank(plan, process.pid, *pair)
        first, last = topology.first_rank, topology.first_rank + topology.nproc_per_host - 1
        what = f"{self._plan.style} for ranks" if self._plan.ranks[0].adapter else "ranks"
        log.info(f"started {what} {first}-{last} of {topology.world_size}: {' '.join(self._plan.command[:2])}")
        # After the ranks: nothing of theirs waits for it.
        if self._settings.profile:
            self._start_sampler()

    def tick(self, now: float) -> None:
        """Show progress bars whose state was held back long enough."""
        for rank in self:
            for relay in rank.relays:
                relay.tick(now)

    def _start_sampler(self) -> None:
        """Start the sampler of the machine; the job never depends on it."""
        command = [sys.executable, "-I", "-S", SAMPLER, "--out", f"{self._profiler}/system-{self._host}.jsonl"]
        command += ["--interval-ms", str(self._settings.profile_interval_ms), "--parent", str(os.getpid())]
        command += ["--disk", self._profiler]
        try:
            self._sampler = spawn_silent(command, {})
        except OSError as error:
            log.warning(f"no samples of the machine: {error}")

    def reap(self) -> list[Rank]:
        """Collect every child that has ended, orphans that PID 1 inherited too; return the ranks among them."""
        ended: list[Rank] = []
        while True:
            try:
                pid, raw = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return ended
            if pid == 0:
                return ended
            if pid == self._sampler:
                self._sampler = 0
            rank = self._by_pid.get(pid)
            if rank is not None:
                rank.status = os.waitstatus_to_exitcode(raw)
                for relay in rank.relays:
                    relay.drain()
                ended.append(rank)

    def stop(self) -> None:
        """Ask the ranks to save and leave."""
        for rank in self.running:
            self.signal_one(rank, rank.plan.stop_signal)

    def signal(self, number: int) -> None:
        """Signal the ranks alone: their loader workers must live while a rank saves."""
        for rank in self.running:
            self.signal_one(rank, number)

    def signal_one(self, rank: Rank, number: int) -> None:
        """Signal one rank, if it is still there."""
        try:
            os.kill(rank.pid, number)
        except ProcessLookupError:
            return

    def ask_stacks(self) -> list[Rank]:
        """Ask the running ranks where they stand; return those that will answer, see `stack_of`."""
        return [rank for rank in self.running if stacks.ask(rank.pid)]

    def stack_of(self, rank: Rank) -> str:
        """Return what a rank has answered so far."""
        return stacks.read(f"{self._state_dir}/stacks", rank.pid)

    def end_leftovers(self) -> None:
        """End what the ranks left behind: loader workers, servers, anything that they or their children started."""
        for pid in self._descendants():
            try:
                os.kill(pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                continue
        for rank in self:
            for relay in rank.relays:
                relay.drain()
                self._loop.forget(relay.source)
                relay.close()
        for sink in set(self._sinks):
            sink.finish()
        self.reap()
        stacks.forget_unasked(f"{self._state_dir}/stacks")
        if self._sampler:
            os.kill(self._sampler, signal.SIGTERM)

    def _descendants(self) -> Iterator[int]:
        """Find them by the sessions that we made, and by our variable, which a daemon of its own session keeps."""
        mark = f"\0SLIPWAY_LAUNCH={self._mark}\0".encode()
        for name in os.listdir("/proc") if self._by_pid and os.path.isdir("/proc") else []:
            if not name.isdecimal() or int(name) == os.getpid():
                continue
            try:
                if os.getsid(int(name)) not in self._by_pid:
                    with open(f"/proc/{name}/environ", "rb") as stream:
                        if mark not in b"\0" + stream.read() + b"\0":
                            continue
            except OSError:
                continue
            yield int(name)
