"""The command ``process``: one of our processing workloads, or any other command. Standard library only."""

from __future__ import annotations

import os
import shutil
import sys

from runtime.base import env
from runtime.base.errors import ExitCode, UserError
from runtime.contract.paths import Paths
from runtime.contract.processing_job import read_processing_job, write_message
from runtime.planning.program import workloads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the executable ``process``.

    Args:
        argv: the arguments; a first one that is no workload of ours is executed as a command.

    Returns:
        Only when nothing could be executed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    paths = Paths.from_environ(env.process_environ())
    try:
        read_processing_job(paths)  # a broken description should fail before the command has worked for hours
        _execute(words)
    except UserError as error:
        sys.stderr.write(f"process: {error}\n")
        # Outside of a processing job nobody reads it, and the directory is somebody else's.
        if os.path.isdir(f"{paths.base}/config"):
            write_message(paths, str(error))
        return int(ExitCode.USER_ERROR)
    return int(ExitCode.COMPLETED)  # pragma: no cover - the process is another program by now


def _execute(words: list[str]) -> None:
    """Become the command.

    Raises:
        UserError: no program is named, or a training workload, or it is not there.
    """
    ours = workloads(script="process.py")
    if words and words[0] in ours:
        words = [sys.executable, ours[words[0]], *words[1:]]
    if not words or words[0].startswith("-") or words[0] in workloads():
        asked = f"`process {words[0]}`" if words else "`process` without a program"
        raise UserError(
            f"{asked} names no processing workload",
            allowed=f"workloads here: {', '.join(ours) or 'none'}; any other command is executed as it is",
            fix="name one of them, or a command such as `process python3 script.py`",
        )
    if shutil.which(words[0]) is None:
        raise UserError(
            f"{words[0]!r} is neither a processing workload nor a command on PATH",
            allowed=f"workloads here: {', '.join(ours) or 'none'}",
        )
    try:
        os.execvp(words[0], words)  # noqa: S606 - that is what we are asked for; an argument list, no shell
    except OSError as error:
        raise UserError(f"{words[0]!r} cannot be executed: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
