"""Run a build step: silent when it works, its cause and its whole log when it does not."""

import re
import subprocess
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from runtime.base.env import process_environ
from runtime.base.errors import UserError

_CAUSE = re.compile(
    r"^(?:#\d+ (?:\d+\.\d+ )?)?"
    r"((?:ERROR|E|error|fatal|[\w.]+(?:Error|Exception)): (?!subprocess-exited|Ignored the following).+)$"
)
"""Where pip, apt, mmdebstrap, Python and BuildKit (behind ``#step seconds``) say what is wrong.

Two lines of pip call themselves an error and name none.
"""


class StepFailed(UserError):
    """A build step ended with an error.

    Args:
        what: the step, such as "downloading the wheels of cpu.txt".
        output: everything that it printed.
        fix: what usually helps; empty when nobody can know.
    """

    def __init__(self, what: str, output: str, *, fix: str = "") -> None:
        super().__init__(f"{what} failed: {find_cause(output.splitlines())}", fix=fix)
        self.output = output


def find_cause(lines: Iterable[str]) -> str:
    """Choose the line that tells why: the first that calls itself an error, else the last that says anything.

    >>> find_cause(["Collecting torch", "#8 0.4 ERROR: No match for torch", "ERROR: exit code 1"])
    'ERROR: No match for torch'
    """
    said = [line.strip() for line in lines if line.strip()]
    named = next((match[1] for line in said if (match := _CAUSE.match(line))), "")
    return named or (said[-1] if said else "it printed nothing")


def run_step(
    what: str, command: Sequence[str], log: Path, *, environ: Mapping[str, str] | None = None, fix: str = ""
) -> str:
    """Run a command to its end.

    Args:
        what: names the step in an error.
        command: argument list.
        log: file that keeps the output, also after success.
        environ: added to the environment of this process.
        fix: what usually helps when this step fails.

    Returns:
        Standard output and standard error together.

    Raises:
        StepFailed: the command is missing, or ended with an error.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    try:
        done = subprocess.run(
            command,
            env=process_environ() | dict(environ or {}),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise StepFailed(what, f"{command[0]} is not installed", fix=f"apt-get install {command[0]}") from error
    log.write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        raise StepFailed(what, done.stdout or f"exit code {done.returncode}", fix=fix)
    return done.stdout
