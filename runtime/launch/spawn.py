"""Starting one process: its own session, our pipes, default signals."""

from __future__ import annotations

import os

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
    from collections.abc import Mapping, Sequence
else:
    import _signal as signal  # see runtime.launch.signals

# What Python changes for itself, and a program must not inherit.
_PYTHONS_OWN = [number for number in (signal.SIGPIPE, getattr(signal, "SIGXFSZ", None)) if number is not None]


@frozen
class Spawned:
    """A process that runs."""

    pid: int
    stdout: int
    """Reading end of its pipe; ours to close."""
    stderr: int


def spawn(command: Sequence[str], environ: Mapping[str, str]) -> Spawned:
    """Start a program in this process's working directory, as leader of a session, with two pipes to us.

    ``posix_spawn`` shares our memory until the exec, and needs no `subprocess` (10 ms).

    Raises:
        OSError: it cannot be started.
    """
    pipes: list[int] = []
    try:
        for _ in range(2):
            pipes += os.pipe()
        out, out_end, err, err_end = pipes
        pid = _spawn(command, environ, [(os.POSIX_SPAWN_DUP2, out_end, 1), (os.POSIX_SPAWN_DUP2, err_end, 2)])
    except OSError:
        for fd in pipes:
            os.close(fd)
        raise
    os.close(out_end)
    os.close(err_end)
    return Spawned(pid, out, err)


def spawn_silent(command: Sequence[str], environ: Mapping[str, str]) -> int:
    """Start a helper that neither reads nor writes; return its pid.

    Raises:
        OSError: it cannot be started.
    """
    return _spawn(command, environ, [(os.POSIX_SPAWN_OPEN, fd, os.devnull, os.O_WRONLY, 0) for fd in (1, 2)])


def _spawn(command: Sequence[str], environ: Mapping[str, str], actions: list[tuple[object, ...]]) -> int:
    return os.posix_spawn(
        command[0],
        list(command),
        dict(environ),
        file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0), *actions],
        setsid=True,
        setsigmask=(),
        setsigdef=_PYTHONS_OWN,
    )
