"""Unmodified SageMaker SDKs, each installed once in an environment of its own, and driven by small programs.

They cannot live in ours: the two cannot even live together.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

REQUIREMENTS = {2: ["sagemaker==2.257.7"], 3: ["sagemaker-train==1.27.0", "sagemaker-core==2.27.0"]}
HOME = Path(__file__).parents[2] / ".cache"
INSTALL_S = 1800
"""They bring hundreds of megabytes; a bound for a dead index, not a measure."""
CONFIG = """\
SchemaVersion: '1.0'
SageMaker:
  PythonSDK:
    Modules:
      TelemetryOptOut: true
"""


@cache
def find_sdk(version: int) -> tuple[Path | None, str]:
    """Return the Python of an SDK, installing it on first use; None and the reason where it cannot be had."""
    home = HOME / f"sdk-{'-'.join(REQUIREMENTS[version])}"
    python = home / "bin" / "python"
    HOME.mkdir(exist_ok=True)
    with (HOME / f"sdk-{version}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if (home / "ready").is_file():
            return python, ""
        shutil.rmtree(home, ignore_errors=True)
        steps = (
            [sys.executable, "-m", "venv", str(home)],
            [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *REQUIREMENTS[version]],
        )
        for step in steps:
            try:
                done = subprocess.run(step, capture_output=True, text=True, timeout=INSTALL_S, check=False)
            except subprocess.TimeoutExpired:
                return None, f"SDK v{version} could not be installed within {INSTALL_S} s"
            if done.returncode:
                told = [line for line in done.stderr.splitlines() if "rror" in line]
                return None, f"SDK v{version} cannot be installed: {told[-1].strip() if told else done.returncode}"
        (home / "ready").touch()
    return python, ""


def environ_of(place: Path, path: Path, **more: str) -> dict[str, str]:
    """Compose the environment of a client: no account, no telemetry, our stand-in first on PATH."""
    config = place / "sdk.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    return {
        "PATH": f"{path}:{os.environ['PATH']}",
        "HOME": str(place),
        "LANG": "C.UTF-8",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_DEFAULT_REGION": "eu-west-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "SAGEMAKER_USER_CONFIG_OVERRIDE": str(config),
        "SAGEMAKER_ADMIN_CONFIG_OVERRIDE": str(config),
        "PYTHONWARNINGS": "ignore",
        **more,
    }
