"""Reads metrics from the logs while the job runs, as the service does by ``MetricDefinitions``."""

import json
import math
import re
import time
from collections.abc import Sequence
from pathlib import Path

from runtime.local.record import MetricPoint
from runtime.local.request import MetricDefinition


class MetricWatch:
    """Writes every value to metrics.jsonl, and keeps the last one of each metric."""

    def __init__(self, definitions: Sequence[MetricDefinition], path: Path) -> None:
        """Nothing is written yet.

        Args:
            definitions: of the job.
            path: made with the first value: one JSON object a line with ``t``, ``host``, ``name``, ``value``.
        """
        self._expressions = [(item.name, re.compile(item.regex)) for item in definitions]
        self._path = path
        self._last: dict[str, MetricPoint] = {}

    @property
    def wanted(self) -> bool:
        """Whether there is anything to look for."""
        return bool(self._expressions)

    @property
    def final(self) -> list[MetricPoint]:
        """Last value of each metric, by name."""
        return [self._last[name] for name in sorted(self._last)]

    def see(self, host: str, line: str) -> None:
        """Look at one line of a host's log."""
        found: list[MetricPoint] = []
        for name, expression in self._expressions:
            match = expression.search(line)
            try:
                value = float(match[1]) if match is not None else None
            except (TypeError, ValueError):  # the group took no part in the match, or took words
                continue
            if value is not None:
                found.append(MetricPoint(name, value, time.time()))
        if not found:
            return
        with self._path.open("a", encoding="utf-8") as out:
            for point in found:
                self._last[point.name] = point
                value = point.value if math.isfinite(point.value) else None
                row = {"t": point.at, "host": host, "name": point.name, "value": value}
                out.write(json.dumps(row) + "\n")
