"""The whole fault campaign as a program: `python -m tests.container.campaign` prints the table of docs/11-faults.md."""

import argparse
import math
import os
import platform
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from images.catalog import HOME
from runtime.base.errors import UserError
from runtime.testing import must
from runtime.version import __version__
from tests.container.rows import all_rows
from tests.container.slim import build_slim
from tests.container.stage import Result, Row, Stage, missing


def play(row: Row, home: Path) -> Result:
    """Run one row; whatever it raises is its result."""
    stage = Stage(home)
    try:
        return row.run(stage)
    except Exception as error:
        return Result(None, None, "", (f"{type(error).__name__}: {error}",))
    finally:
        stage.close()


def machine() -> str:
    """Name the machine, as figures without it mean nothing."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    engine = must("version", "--format", "{{.Server.Version}}").strip()
    return (
        f"{os.cpu_count()} CPUs, {memory:.0f} GB, Linux {platform.release().split('-')[0]}, Docker {engine},"
        f" cgroup v{2 if Path('/sys/fs/cgroup/cgroup.controllers').exists() else 1},"
        f" load average {os.getloadavg()[2]:.1f} over the last 15 minutes"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the rows and print them; 1 when one does not hold or misses its target."""
    parser = argparse.ArgumentParser(prog="python -m tests.container.campaign", description=__doc__)
    parser.add_argument("--only", default="", help="rows whose name holds this text")
    parser.add_argument("--seed", type=int, default=0, help="the order of the rows")
    parser.add_argument("--longest", type=float, default=math.inf, help="leave out rows that take more minutes")
    parser.add_argument("--checkout", type=Path, default=HOME.parent, help="what the slim image is built from")
    arguments = parser.parse_args(argv)
    try:
        build_slim(arguments.checkout)
    except UserError as error:
        print(f"campaign: {error}", file=sys.stderr)
        return 1
    rows = [row for row in all_rows() if arguments.only in row.name and row.minutes <= arguments.longest]
    random.Random(arguments.seed).shuffle(rows)
    seen: dict[str, Result] = {}
    with tempfile.TemporaryDirectory(prefix="slipway-faults-") as home:
        for number, row in enumerate(rows):
            began = time.monotonic()
            seen[row.name] = result = play(row, Path(home) / str(number))
            verdict = (
                "FAILED" if result.problems else f"missed {missing(result, row)}" if missing(result, row) else "ok"
            )
            told = f"{number + 1}/{len(rows)} {row.name}: {verdict}"
            print(f"{told} ({time.monotonic() - began:.0f} s)", file=sys.stderr, flush=True)
            for problem in result.problems:
                print(f"    {problem}", file=sys.stderr, flush=True)
    print(f"{machine()}; Slipway {__version__}; seconds after the fault; seed {arguments.seed}\n")
    print("| fault | noticed on every host | all gone | target | the cause on every host | verdict |")
    print("|---|---|---|---|---|---|")
    for row in (row for row in all_rows() if row.name in seen):
        result = seen[row.name]
        times = [f"{value:.1f}" if value is not None else "-" for value in (result.notice_s, result.exit_s)]
        target = "-" if row.target_s is None else f"{row.target_s:g}"
        verdict = "fails" if result.problems else "late" if missing(result, row) else "holds"
        cause = result.cause.replace("|", "/")[:160]
        print(f"| {row.name} | {times[0]} | {times[1]} | {target} | {cause} | {verdict} |")
    bad = [row for row in rows if seen[row.name].problems or missing(seen[row.name], row)]
    print(f"\n{len(rows) - len(bad)} of {len(rows)} rows hold")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
