"""Many launchers on one machine, each a host of its own: loopback addresses, trees and ranks that only sleep."""

import contextlib
import os
import selectors
import signal
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.environments import Environment, clean_environ
from benchmarks.trees import HANG_S, children, wait_until, write_tree

PROGRAM = {"user.sh": ': > "$SAGEMAKER_BASE_DIR/up"; exec sleep 3600\n'}
"""A rank that costs the machine next to nothing."""
_NETS = 100


def ports() -> dict[str, str]:
    """Return the settings of ports that no job with the usual ones takes, be it on all addresses of this machine."""
    first = 20_000 + os.getpid() % 5_000 * 2
    return {"slipway_master_port": str(first), "slipway_peer_port": str(first + 1)}


@dataclass
class Member:
    """One launcher."""

    host: str
    process: subprocess.Popen[bytes]
    mark: Path
    """Is there once its rank runs."""
    lines: list[tuple[float, str]] = field(default_factory=list[tuple[float, str]])
    """What it printed, with the monotonic seconds of the arrival."""
    ranks: Sequence[int] = ()

    @property
    def pid(self) -> int:
        """Process id of the launcher."""
        return self.process.pid

    def first(self, words: str, since: float) -> float | None:
        """Return when the first line that holds these words came; None when none did."""
        return next((at for at, line in self.lines if at >= since and words in line), None)


class Crowd:
    """Jobs of several sizes at once, so that whatever the machine does to one it does to all."""

    def __init__(self, root: Path, ours: Environment, sizes: Sequence[int], settings: Mapping[str, str]) -> None:
        """Start them, and wait until every rank runs.

        Args:
            root: an empty or missing directory for the trees.
            ours: with our `train`.
            sizes: hosts of each job.
            settings: hyperparameters of all jobs.

        Raises:
            RuntimeError: a launcher ended.
        """
        net = os.getpid() % _NETS
        self.jobs: list[list[Member]] = []
        self._reader = _Reader()
        self._code = root / "code"
        self._code.mkdir(parents=True)
        for name, text in PROGRAM.items():
            (self._code / name).write_text(text, encoding="utf-8")
        for number, size in enumerate(sizes):
            names = [f"algo-{host}" for host in range(1, size + 1)]
            addresses = {name: f"127.{100 + net}.{number + 1}.{host}" for host, name in enumerate(names, 1)}
            told = ",".join(f"{name}={address}" for name, address in addresses.items())
            self.jobs.append([self._start(root / f"job-{number}", ours, name, names, told, settings) for name in names])
        try:
            for member in self.members:
                self._wait_for_rank(member)
        except BaseException:
            self.close()
            raise

    def _wait_for_rank(self, member: Member) -> None:
        wait_until(lambda: member.mark.exists() or member.process.poll() is not None, f"the rank of {member.host}")
        if member.process.poll() is not None:
            raise RuntimeError(f"{member.host} ended with {member.process.returncode}: {member.lines[-3:]}")
        member.ranks = children(member.pid)

    def _start(
        self,
        root: Path,
        ours: Environment,
        me: str,
        names: Sequence[str],
        addresses: str,
        settings: Mapping[str, str],
    ) -> Member:
        # Lines that nobody looks at would only disturb: each host tells its failures.
        wanted = {"slipway_profile": "off", "slipway_log_level": "warning", **ports(), **settings}
        tree = write_tree(root / me, PROGRAM, wanted, me=me, hosts=names, submit_directory=self._code)
        environ = clean_environ(ours, {"SAGEMAKER_BASE_DIR": str(tree), "SLIPWAY_HOST_ADDRESSES": addresses})
        process = subprocess.Popen(
            [ours.command("train")], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        member = Member(me, process, tree / "up")
        self._reader.add(member)
        return member

    @property
    def members(self) -> list[Member]:
        """All launchers of all jobs."""
        return [member for job in self.jobs for member in job]

    def close(self) -> None:
        """End everything that was started."""
        for member in self.members:
            for pid in (*([member.pid] if member.process.poll() is None else []), *member.ranks):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    continue
        for member in self.members:
            member.process.wait(HANG_S)
        self._reader.close()
        for member in self.members:
            if member.process.stderr is not None:
                member.process.stderr.close()


class _Reader:
    """Reads what all launchers print, and notes when it came; runs before all others where it may."""

    def __init__(self) -> None:
        self._ready = selectors.DefaultSelector()
        self._rest: dict[int, bytes] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def add(self, member: Member) -> None:
        """Read this one too."""
        assert member.process.stderr is not None  # noqa: S101 - asked for above
        self._ready.register(member.process.stderr, selectors.EVENT_READ, member)

    def close(self) -> None:
        """Read no more."""
        self._ending.set()
        self._thread.join(HANG_S)
        self._ready.close()

    def _run(self) -> None:
        with contextlib.suppress(PermissionError):  # without it, its own waiting for a CPU is part of the times
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), -15)
        while not self._ending.is_set():
            for key, _ in self._ready.select(0.2):
                piece = os.read(key.fd, 1 << 16)
                now = time.monotonic()
                if not piece:
                    self._ready.unregister(key.fileobj)
                    continue
                *lines, self._rest[key.fd] = (self._rest.get(key.fd, b"") + piece).split(b"\n")
                key.data.lines += [(now, line.decode("utf-8", "replace")) for line in lines]
