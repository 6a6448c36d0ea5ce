"""Output directories of jobs, as ``slipway run --output`` leaves them, made up for tests."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

FIELDS = ["step", "epoch", "begin", "data", "compute", "optimizer", "checkpoint", "total"]
ORIGIN = 1_700_000_000.0


def step_line(step: int, begin: float, total: float, data: float = 0.2) -> str:
    """Write a step that waits a share `data` for data, computes 60 % and optimizes 10 % of the rest."""
    rest = total * (1 - data)
    return json.dumps([step, 0, begin, total * data, rest * 0.6, rest * 0.1, 0.0, total])


def write_steps(
    directory: Path,
    *,
    attempt: int = 0,
    host: str = "algo-1",
    rank: int = 0,
    world_size: int = 1,
    started: float = ORIGIN,
    steps: range = range(1, 51),
    step_s: float = 0.1,
    first_s: float = 1.0,
    data: float = 0.2,
    events: tuple[Mapping[str, Any], ...] = (),
    tail: str = "",
) -> None:
    folder = directory / "profiler" / f"attempt-{attempt}" / host
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": 1, "host": host, "rank": rank, "world_size": world_size, "started": started}
    lines = [json.dumps({**header, "fields": FIELDS}), *(json.dumps(event) for event in events)]
    begin = 0.0
    for step in steps:
        total = first_s if step == steps[0] else step_s
        lines.append(step_line(step, begin, total, data))
        begin += total
    (folder / f"steps-rank-{rank}.jsonl").write_text("\n".join(lines) + "\n" + tail)


def write_samples(
    directory: Path,
    *,
    attempt: int = 0,
    host: str = "algo-1",
    started: float = ORIGIN,
    times: tuple[float, ...] = tuple(0.5 * number for number in range(1, 21)),
    tail: str = "",
    **values: float | None,
) -> None:
    folder = directory / "profiler" / f"attempt-{attempt}" / host
    folder.mkdir(parents=True, exist_ok=True)
    header = {"format": 1, "host": host, "interval_ms": 500, "cpus": 8, "mem_total_bytes": 32e9, "started": started}
    usual = {"cpu_pct": 40.0, "iowait_pct": 1.0, "mem_pct": 30.0, "mem_bytes": 1e10, "disk_read_bps": 1e6}
    usual |= {"disk_write_bps": 2e6, "net_rx_bps": 3e6, "net_tx_bps": 4e6, "disk_free_bytes": 5e10}
    lines = [json.dumps({"t": started + moment, **usual, **values}) for moment in times]
    (folder / f"system-{host}.jsonl").write_text("\n".join([json.dumps(header), *lines]) + "\n" + tail)


def write_job(directory: Path, **values: Any) -> None:
    record = {
        "format": 1,
        "name": "digits",
        "status": "Completed",
        "failure_reason": None,
        "attempts": [attempt()],
        "phases": {"starting": 1.0, "training": 6.0},
        "billable_seconds": 7,
        "metrics": {"loss": 0.1},
    }
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "job.json").write_text(json.dumps({**record, **values}))


def attempt(number: int = 0, started: float = 0.0, ended: float = 7.0, **values: Any) -> dict[str, Any]:
    record = {"attempt": number, "started": ORIGIN + started, "ended": ORIGIN + ended, "interrupted": None}
    record |= {"resumed_step": None, "last_step": 50, "hosts": [{"name": "algo-1", "exit_code": 0, "seconds": 7.0}]}
    return {**record, **values}


def write_interrupted_job(directory: Path) -> None:
    """Steps 1 to 50, SIGTERM, a gap of 3 s, then 41 to 100: ten steps done again; two hosts of two ranks."""
    interrupted = {"signal": "TERM", "after": "step:50", "at": ORIGIN + 6.5}
    write_job(
        directory,
        attempts=[
            attempt(0, 0.0, 7.0, interrupted=interrupted, last_step=50),
            attempt(1, 10.0, 20.0, resumed_step=40, last_step=100),
        ],
    )
    for rank in range(4):
        host = f"algo-{rank // 2 + 1}"
        place = {"host": host, "rank": rank, "world_size": 4}
        write_steps(directory, attempt=0, started=ORIGIN + 0.5, steps=range(1, 51), **place)
        resumed = {"event": "resumed", "t": ORIGIN + 11, "step": 40}
        write_steps(directory, attempt=1, started=ORIGIN + 11, steps=range(41, 101), events=(resumed,), **place)
    for host in ("algo-1", "algo-2"):
        write_samples(directory, attempt=0, host=host, times=tuple(0.5 * n for n in range(1, 14)))
        write_samples(directory, attempt=1, host=host, started=ORIGIN + 10)
