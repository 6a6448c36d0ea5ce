"""The container drivers of SDK v3 (PyPI sagemaker-train 1.27.0): fetched once, rendered as ModelTrainer renders them.

Their paths are fixed at /opt/ml, so that each run gets a mount namespace of its own.
"""

import fcntl
import json
import os
import runpy
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

VERSION = "1.27.0"
HOME = Path(__file__).parents[2] / ".cache" / f"sagemaker-train-{VERSION}"
FETCH_S = 300
IN_NAMESPACE = 'mount --bind "$1" /opt && shift && exec "$@"'
START = [
    "/bin/bash",
    "-c",
    "chmod +x /opt/ml/input/data/sm_drivers/sm_train.sh && /opt/ml/input/data/sm_drivers/sm_train.sh",
]
"""ContainerEntrypoint and ContainerArguments of every ModelTrainer job with source code."""


@cache
def find_sdk() -> tuple[Path | None, str]:
    """Return the unpacked package, fetching it on first use; None and the reason where it cannot be had."""
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode:
        return None, "the drivers of SDK v3 know only /opt/ml: giving them one of their own needs root and unshare -m"
    if any(str(Path(place).resolve()).startswith("/opt/") for place in (sys.base_prefix, sys.prefix, __file__)):
        return None, "this Python or checkout lies under /opt, which the drivers of SDK v3 get for themselves"
    HOME.parent.mkdir(exist_ok=True)
    with (HOME.parent / "sagemaker-train.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (HOME / "ready").is_file():
            shutil.rmtree(HOME, ignore_errors=True)
            HOME.mkdir()
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
            command += ["--dest", str(HOME), f"sagemaker-train=={VERSION}"]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=FETCH_S, check=False)
            except subprocess.TimeoutExpired:
                return None, f"sagemaker-train {VERSION} could not be fetched within {FETCH_S} s"
            if done.returncode:
                return None, f"sagemaker-train {VERSION} cannot be fetched: it needs a package index"
            (wheel,) = HOME.glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(HOME)
            (HOME / "ready").touch()
    return HOME / "sagemaker" / "train", ""


def write_job(
    sdk: Path,
    root: Path,
    hyperparameters: Mapping[str, object],
    files: Mapping[str, str],
    *,
    command: str = "",
    entry_script: str = "",
) -> None:
    """Lay out a job under ``root/ml`` as ModelTrainer and its local mode do."""
    ml = root / "ml"
    shutil.copytree(sdk / "container_drivers", ml / "input/data/sm_drivers")
    for directory in ("input/config", "input/data/code", "output/data", "model"):
        (ml / directory).mkdir(parents=True, exist_ok=True)
    drivers = ml / "input/data/sm_drivers"
    source: dict[str, Any] = dict.fromkeys(("requirements", "args", "ignore_patterns"))
    source |= {"source_dir": "src", "entry_script": entry_script or None, "command": command or None}
    (drivers / "sourcecode.json").write_text(json.dumps(source))
    (drivers / "distributed.json").write_text("{}")
    texts = runpy.run_path(str(sdk / "templates.py"))
    run = (
        texts["EXECUTE_BASE_COMMANDS"].format(base_command=command) if command else texts["EXECUTE_BASIC_SCRIPT_DRIVER"]
    )
    (drivers / "sm_train.sh").write_text(
        texts["TRAIN_SCRIPT_TEMPLATE"].format(
            working_dir="cd /opt/ml/input/data/code \n", install_requirements="", execute_driver=run
        )
    )
    for name, text in files.items():
        (ml / "input/data/code" / name).write_text(text, encoding="utf-8")
    held = {name: value if isinstance(value, str) else json.dumps(value) for name, value in hyperparameters.items()}
    config = {
        "hyperparameters": held,
        "inputdataconfig": {name: {"TrainingInputMode": "File"} for name in ("code", "sm_drivers")},
        "resourceconfig": {
            "current_host": "algo-1",
            "hosts": ["algo-1"],
            "network_interface_name": "ethwe",
            "current_instance_type": "local",
        },
    }
    for name, value in config.items():
        (ml / "input/config" / f"{name}.json").write_text(json.dumps(value))


def start(root: Path, command: list[str]) -> subprocess.Popen[str]:
    """Run a command that sees `root` as /opt."""
    environ = {"TRAINING_JOB_NAME": "job-v3", "LANG": "C.UTF-8", "HOME": str(root), "SLIPWAY_PROFILE": "off"}
    environ["PATH"] = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.Popen(
        ["unshare", "-m", "/bin/sh", "-c", IN_NAMESPACE, "sh", str(root), *command],
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    )
