"""sagemaker-training 5.1.4, installed once in an environment of its own, and asked in batches.

It cannot live in ours: it needs a compiler, and would bring its own boto3, numpy and protobuf.
"""

import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

VERSION = "5.1.4"
HOME = Path(__file__).parents[2] / ".cache" / f"oracle-{VERSION}"
SPEAKER = Path(__file__).parent / "speak.py"
INSTALL_S = 900
"""Its C extension is compiled and scipy is fetched; a bound for a dead index, not a measure."""


@cache
def find_oracle() -> tuple[Path | None, str]:
    """Return the oracle's Python, making it on first use; None and the reason where it cannot be had."""
    python = HOME / "bin" / "python"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "oracle.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (HOME / "ready").is_file():
            return python, ""
        shutil.rmtree(HOME, ignore_errors=True)
        steps = (
            [sys.executable, "-m", "venv", str(HOME)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check",
             f"sagemaker-training=={VERSION}"],
        )  # fmt: skip
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except subprocess.TimeoutExpired:
                return None, f"sagemaker-training {VERSION} could not be installed within {INSTALL_S} s"
            if done.returncode:
                told = [line for line in done.stderr.splitlines() if "rror" in line]
                why = told[-1].strip() if told else f"exit code {done.returncode}"
                return None, (
                    f"sagemaker-training {VERSION} cannot be installed ({why}); it needs a package index, gcc and the "
                    "headers of Python: apt-get install gcc libc6-dev python3-dev"
                )
        (HOME / "ready").touch()
    return python, ""


def ask(python: Path, base: Path, jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Let one process of the oracle read every job and say what it would start.

    Args:
        python: of the oracle.
        base: the tree in which the jobs' files are written, one job after the other.
        jobs: ``files`` (name to text), ``code`` (names of the files there) and ``environ`` of each.

    Returns:
        For each job ``argv`` (the command), ``words`` (the arguments alone), ``sm`` and ``environ``, or ``error``.
    """
    done = subprocess.run(
        [str(python), str(SPEAKER)],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={"PATH": os.environ["PATH"], "HOME": str(base), "SAGEMAKER_BASE_DIR": str(base), "LANG": "C.UTF-8"},
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return json.loads(done.stdout)
