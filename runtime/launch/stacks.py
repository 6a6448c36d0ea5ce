"""Where a Python process stands, asked from outside: `faulthandler` writes it down when our signal comes.

A rank of ours registers the handler itself. In our images every other Python of the job does so as well, through a
``.pth`` file of the wheel, as long as the launcher's variable is set: loader workers and scripts that use nothing of
ours show their stacks too. A process without the handler is never signalled, since the signal would end it.
"""

from __future__ import annotations

import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal
else:
    import _signal as signal  # see runtime.launch.signals

NUMBER = signal.SIGRTMAX - 4
"""The signal; real-time signals are used by nothing else in a training process."""
LONGEST_BYTES = 1 << 18
"""Of one dump; a process with hundreds of threads writes more than anybody reads."""

_file: object = None


def answer(directory: str) -> None:
    """Let this process write its stacks to ``<directory>/<pid>.txt`` when asked, and on standard error when it crashes.

    Args:
        directory: ``SLIPWAY_STACKS_DIR``; empty outside of a job, and then nothing is done.
    """
    global _file
    if not directory:
        return
    import faulthandler

    try:
        if not faulthandler.is_enabled():
            # A crash of native code then ends with the user's line, which the failure reason names.
            faulthandler.enable()
        _file = open(f"{directory}/{os.getpid()}.txt", "w")  # noqa: SIM115 - open for the life of the process
        faulthandler.register(NUMBER, file=_file, all_threads=True)
    except (OSError, ValueError, AttributeError):
        return  # a read-only place, or a platform without it: then there are no stacks


def ask(pid: int) -> bool:
    """Ask a process for its stacks; False when it would not answer, or die of it."""
    try:
        with open(f"/proc/{pid}/status") as stream:
            caught = int(stream.read().partition("SigCgt:")[2].split(maxsplit=1)[0], 16)
        if not caught >> (NUMBER - 1) & 1:
            return False
        os.kill(pid, NUMBER)
    except (OSError, ValueError, IndexError):
        return False
    return True


def read(directory: str, pid: int) -> str:
    """Return what a process has written so far; empty when nothing."""
    try:
        with open(f"{directory}/{pid}.txt", errors="replace") as stream:
            return stream.read(LONGEST_BYTES)
    except OSError:
        return ""


def forget_unasked(directory: str) -> None:
    """Remove the files of processes that nobody has asked."""
    try:
        for name in os.listdir(directory):
            if not os.path.getsize(f"{directory}/{name}"):
                os.unlink(f"{directory}/{name}")
    except OSError:
        return


def place(dump: str) -> str:
    """Name the innermost line of the user's code in the main thread, as ``file:line in function``; empty if unknown."""
    threads = [part for part in dump.split("\n\n") if "most recent call first" in part]
    main = next(
        (part for part in threads if part.lstrip().startswith("Current thread")), threads[-1] if threads else ""
    )
    frames: list[str] = []
    for line in main.splitlines():
        name, quote, rest = line.strip().removeprefix('File "').partition('", line ')
        if quote and "-packages" not in name and "/lib/python" not in name and not name.startswith("<"):
            number, _, function = rest.partition(" in ")
            frames.append(f"{name}:{number} in {function}")
    own = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + "/"
    users = [frame for frame in frames if not frame.startswith(own) or "/_entrypoints/" in frame]
    return users[0] if users else ""
