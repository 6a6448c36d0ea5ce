"""The command ``process``: one of our processing workloads, or any other command. Standard library only."""

import os
import shutil
import sys
from collections.abc import Sequence

from runtime.errors import ExitCode, UserError
from runtime.program import workloads


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the executable ``process``.

    Args:
        argv: the arguments; a first one that is no workload of ours is executed as a command.

    Returns:
        Only when nothing could be executed.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    try:
        _execute(words)
    except UserError as error:
        sys.stderr.write(f"process: {error}\n")
        return int(ExitCode.USER_ERROR)
    return int(ExitCode.COMPLETED)  # pragma: no cover - the process is another program by now


def _execute(words: list[str]) -> None:
    """Become the command.

    Raises:
        UserError: it would be a processing workload, which this version has none of, or it is not there.
    """
    if not words or words[0].startswith("-") or words[0] in workloads():
        asked = f"`process {words[0]}`" if words else "`process` without a program"
        raise UserError(
            f"{asked} asks for a processing workload",
            allowed="this version has none yet; any other command is executed as it is",
            fix="name a command, such as `process python3 script.py`",
        )
    if shutil.which(words[0]) is None:
        raise UserError(
            f"{words[0]!r} is neither a processing workload nor a command on PATH",
            allowed="this version has no processing workloads yet",
        )
    try:
        os.execvp(words[0], words)  # noqa: S606 - that is what we are asked for; an argument list, no shell
    except OSError as error:
        raise UserError(f"{words[0]!r} cannot be executed: {error.strerror}") from error


if __name__ == "__main__":
    sys.exit(main())
