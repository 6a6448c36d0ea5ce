"""The contract's tree of a benchmark's job, and what the kernel tells of a process."""

import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

HANG_S = 300.0
"""A bound for what hangs; no measure of speed."""
_TICKS = os.sysconf("SC_CLK_TCK")


def write_tree(
    root: Path,
    files: Mapping[str, str],
    hyperparameters: Mapping[str, str],
    *,
    me: str = "localhost",
    hosts: Sequence[str] = ("localhost",),
    submit_directory: Path | None = None,
) -> Path:
    """Write the tree of one host, as the platform does.

    Args:
        root: an empty or missing directory, `/opt/ml` to the job.
        files: name to text of the code directory; the first is the program.
        hyperparameters: beside the program's; values as JSON texts.
        me: name of this host.
        hosts: all of them. A name that the machine resolves spares the toolkit its wait for the name service.
        submit_directory: where the code is instead of in the tree: the hyperparameters of all hosts are equal. Files
            are not written there.
    """
    for directory in ("input/config", "code", "output", "model"):
        (root / directory).mkdir(parents=True, exist_ok=True)
    if submit_directory is None:
        for name, text in files.items():
            (root / "code" / name).write_text(text, encoding="utf-8")
    code = submit_directory or root / "code"
    program = {"sagemaker_program": next(iter(files)), "sagemaker_submit_directory": str(code)}
    group = {"instance_group_name": "homogeneousCluster", "instance_type": "ml.c5.xlarge", "hosts": list(hosts)}
    config = {
        "hyperparameters": {name: json.dumps(value) for name, value in program.items()} | dict(hyperparameters),
        "resourceconfig": {
            "current_host": me,
            "current_instance_type": "ml.c5.xlarge",
            "current_group_name": "homogeneousCluster",
            "hosts": list(hosts),
            "instance_groups": [group],
            "network_interface_name": "eth0",
        },
        "inputdataconfig": {},
    }
    for name, value in config.items():
        (root / "input" / "config" / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
    return root


def wait_until(happened: Callable[[], bool], what: str, *, every_s: float = 0.02, limit_s: float = HANG_S) -> None:
    """Wait for a condition.

    Raises:
        TimeoutError: it did not come; names `what`.
    """
    deadline = time.monotonic() + limit_s
    while not happened():
        if time.monotonic() > deadline:
            raise TimeoutError(f"no sign of this within {limit_s:g} s: {what}")
        time.sleep(every_s)


def memory(pid: int) -> tuple[int, int]:
    """Return the resident bytes of a process, and how many of them it shares with nobody."""
    resident = private = 0
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="utf-8").splitlines():
        words = line.split()
        resident += int(words[1]) * 1024 if words[0] == "Rss:" else 0
        private += int(words[1]) * 1024 if words[0] in ("Private_Clean:", "Private_Dirty:") else 0
    return resident, private


def cpu_s(pid: int) -> float:
    """Return the CPU seconds of a process so far, in the kernel's ticks of usually 10 ms; its children's left out."""
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def children(pid: int) -> Sequence[int]:
    """Return the children of a process."""
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="utf-8")
    return [int(word) for word in text.split()]


def run_s(pid: int) -> float:
    """Return the seconds that a process's main thread has run on a CPU, to the nanosecond where the kernel tells."""
    try:
        return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="utf-8").split()[0]) / 1e9
    except OSError:
        return cpu_s(pid)
