"""The command: run one benchmark, print its figures, judge its goals."""

import argparse
import importlib
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.measure import Result, as_json, as_table

HELPERS = ("__init__", "__main__", "crowd", "environments", "growth", "measure", "trees")


def names() -> list[str]:
    """Return the benchmarks that are here: each is a module with ``run(quick) -> Result``."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in HELPERS)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one benchmark.

    Returns:
        0 when all goals are met, 1 when one is missed, 2 for wrong words.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("name", choices=names(), help="what to measure; benchmarks/README.md lists the figures")
    parser.add_argument("--quick", action="store_true", help="a named subset, within a minute on 2 cores")
    parser.add_argument("--json", action="store_true", help="one JSON object instead of a table")
    parser.add_argument("--engine", choices=("docker", "process"), help="launch: what its hosts are")
    words = parser.parse_args(argv)
    if words.engine and words.name != "launch":
        parser.error("--engine belongs to launch")
    choice = {"engine": words.engine} if words.engine else {}
    result: Result = importlib.import_module(f"benchmarks.{words.name}").run(quick=words.quick, **choice)
    print(as_json(result) if words.json else as_table(result))
    return 0 if result.met else 1


if __name__ == "__main__":
    sys.exit(main())
