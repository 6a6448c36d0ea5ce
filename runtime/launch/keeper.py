"""Stands beside one rank that somebody else's launcher started: torchrun's agent or mpirun.

Those launchers mix the output of all ranks, know exit codes only, and lose the exception. So each of their processes is
this one, and the rank its child: output line by line with ``[host rank]``, signals passed on to the rank alone, the
error record that `runtime.launch.supervisor` reads, the rank's own exit code, and no rank left behind. Our own way to
start ranks needs none of it.

SIGUSR1 is SIGTERM under mpirun: it passes the one on, and ends the job for the other.

    python -m runtime.launch.keeper [--prefix] COMMAND...
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

from runtime.base import env
from runtime.cause.cgroup import read_memory
from runtime.cause.explain import Facts
from runtime.cause.outcome import cause_of_exit, read_rank_error, write_rank_error
from runtime.launch.loop import Loop
from runtime.launch.relay import FOLD_S, TAIL_BYTES, Relay, open_sinks

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2, signal.SIGHUP)
OPEN_MPI = {"RANK": "OMPI_COMM_WORLD_RANK", "LOCAL_RANK": "OMPI_COMM_WORLD_LOCAL_RANK"}
PR_SET_PDEATHSIG = 1


def rank_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """Complete a rank's environment: mpirun numbers its processes in words of its own.

    >>> rank_environ({"OMPI_COMM_WORLD_RANK": "3", "SLIPWAY_STATE_DIR": "/s"})["TORCHELASTIC_ERROR_FILE"]
    '/s/error-rank-3.json'
    """
    values = dict(environ)
    for name, theirs in OPEN_MPI.items():
        if theirs in environ:
            values[name] = environ[theirs]
    rank = values.get("RANK", "0")
    values["ROLE_RANK"] = rank
    # torchrun would have the record in a directory of its own, which it removes.
    values["TORCHELASTIC_ERROR_FILE"] = f"{environ.get('SLIPWAY_STATE_DIR', '.')}/error-rank-{rank}.json"
    return values


class Keeper:
    """One rank and its pipes."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], *, prefix: bool) -> None:
        """Start the rank.

        Args:
            command: its argument list.
            environ: complete, see `rank_environ`.
            prefix: put ``[host rank]`` before each line.
        """
        self._host = environ.get("SLIPWAY_HOST", "-")
        self._rank = int(environ.get("RANK", "0"))
        self._record = environ["TORCHELASTIC_ERROR_FILE"]
        self._told = ""
        """The first signal that was passed on."""
        self._under_mpi = OPEN_MPI["RANK"] in environ
        self._before = read_memory()
        for number in PASSED_ON:
            signal.signal(number, self._pass_on)
        self._process = subprocess.Popen(
            command,
            env=environ,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=True,  # so that a signal to our group reaches the rank once, and its children never
            preexec_fn=_die_with_parent,
        )
        text = f"[{self._host} r{self._rank}] ".encode() if prefix else b""
        self._loop = Loop()
        self._sinks = open_sinks(self._loop)
        pipes = (self._process.stdout, self._process.stderr)
        self._relays: list[Relay] = []
        for pipe, sink, tail in zip(pipes, self._sinks, (TAIL_BYTES // 8, TAIL_BYTES), strict=True):
            assert pipe is not None  # noqa: S101 - asked for above
            relay = Relay(os.dup(pipe.fileno()), sink, text, tail_bytes=tail)
            pipe.close()
            relay.resume(self._loop)
            self._relays.append(relay)
        self._ended = os.pidfd_open(self._process.pid)
        self._loop.on_read(self._ended, lambda: None)

    def _pass_on(self, number: int, _frame: object) -> None:
        if number == signal.SIGUSR1 and self._under_mpi:
            number = signal.SIGTERM
        self._told = self._told or signal.Signals(number).name
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(number)

    def watch(self) -> int:
        """See the rank to its end.

        Returns:
            Its exit code, or 128+n for death by signal n; 0 under mpirun for one that left as it was asked to, since
            any other would have the others killed while they still save.
        """
        while self._process.poll() is None:
            # Pipes and the end of the process wake us; a progress bar that is held back needs a clock.
            self._loop.turn(FOLD_S)
            for relay in self._relays:
                relay.tick(time.monotonic())
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for relay in self._relays:
            self._loop.forget(relay.source)
            relay.drain()
            relay.close()
        for sink in self._sinks:
            sink.finish()
        status = self._process.returncode
        left_as_asked = bool(self._told) and status in (-signal.SIGTERM, 128 + signal.SIGTERM)
        if status != 0 and not left_as_asked:
            self._write_record(status)
        if left_as_asked and self._under_mpi:
            return 0
        return 128 - status if status < 0 else status

    def _write_record(self, status: int) -> None:
        """Write why the rank ended; what it wrote itself is completed."""
        known = read_rank_error(self._record)
        out, err = (relay.tail for relay in self._relays)
        cause = cause_of_exit(
            self._host,
            self._rank,
            status,
            known,
            err,
            time.time(),
            ended_by_us=bool(self._told),
            out=out,
            facts=Facts(self._before),
        )
        write_rank_error(self._record, cause)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry: run one rank.

    Returns:
        The rank's exit code, or 128+n.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    prefix = words[:1] == ["--prefix"]
    environ = rank_environ(env.process_environ())
    return Keeper(words[1:] if prefix else words, environ, prefix=prefix).watch()


if __name__ == "__main__":
    sys.exit(main())
