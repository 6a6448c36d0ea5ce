"""The docker client as a function, and waits for what an engine does, each with a deadline that names its matter."""

import shutil
import subprocess
import time
from collections.abc import Callable

from runtime.base.errors import PlatformError, UserError, one_line

PATIENCE_S = 400.0
"""How long a wait for something that should come within seconds may take: a busy machine can be ten times slower."""
LOOK_EVERY_S = 0.05


def docker(*words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
    """Call the docker client; its exit code is the caller's to judge.

    Args:
        words: arguments of the client.
        timeout_s: after this many seconds the client is ended.

    Raises:
        UserError: there is no client.
        PlatformError: it did not end in time.
    """
    client = shutil.which("docker")
    if client is None:
        raise UserError("docker is not installed", fix="apt-get install docker.io, or set up Docker Engine")
    try:
        return subprocess.run(
            [client, *words], capture_output=True, text=True, errors="replace", timeout=timeout_s, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise PlatformError(f"docker {words[0]} did not end within {timeout_s:g} s") from error


def must(*words: str) -> str:
    """Call the docker client, which must work, and return what it printed.

    Raises:
        PlatformError: it ended with an error.
    """
    done = docker(*words)
    if done.returncode != 0:
        raise PlatformError(one_line(f"docker {' '.join(words)}: {done.stderr.strip()}"))
    return done.stdout


def answers() -> bool:
    """Tell whether an engine answers."""
    return shutil.which("docker") is not None and docker("info").returncode == 0


def wait_until(happened: Callable[[], bool], what: str, deadline_s: float = PATIENCE_S) -> None:
    """Wait for a condition.

    Args:
        happened: asked again and again; it may raise to end the wait.
        what: named when it does not come.
        deadline_s: a bound for what hangs, not a measure of speed.

    Raises:
        PlatformError: it did not come in time.
    """
    deadline = time.monotonic() + deadline_s
    while not happened():
        if time.monotonic() > deadline:
            raise PlatformError(f"{what}: not within {deadline_s:g} s")
        time.sleep(LOOK_EVERY_S)
