"""The dated price file: what waiting, storing and asking cost."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError

FORMAT = 1
OURS = Path(__file__).with_name("prices.json")
HOURS_A_MONTH = 730.0


@dataclass(frozen=True)
class Prices:
    """In one currency; storage for one month, requests for a thousand, hosts for an hour."""

    as_of: str
    region: str
    currency: str
    note: str
    storage: Mapping[str, float]
    requests: Mapping[str, float]
    instances: Mapping[str, float]
    source: str = "the price file of this version"


def read_prices(path: Path | None = None) -> Prices:
    """Read a price file; None: ours.

    Raises:
        UserError: it is malformed, lacks a price, or is newer than this runtime.
    """
    file = path or OURS
    try:
        raw: Any = json.loads(file.read_text(encoding="utf-8"))
        if raw["format"] > FORMAT:
            raise UserError(f"{file} has format {raw['format']}", allowed=f"this runtime reads formats up to {FORMAT}")
        ours = _tables(json.loads(OURS.read_text(encoding="utf-8")))
        given = _tables(raw)
        for name in ("storage", "requests"):
            missing = sorted(set(ours[name]) - set(given[name]))
            if missing:
                raise UserError(f"{file} lacks {name}.{missing[0]}", fix=f"begin with a copy of {OURS}")
        return Prices(
            str(raw["as_of"]),
            str(raw["region"]),
            str(raw["currency"]),
            str(raw.get("note", "")),
            given["storage"],
            given["requests"],
            given["instances_per_hour"],
            str(path) if path else Prices.source,
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"Price file {file} cannot be read: {type(error).__name__}: {error}", fix=f"begin with a copy of {OURS}"
        ) from error


def _tables(raw: object) -> dict[str, dict[str, float]]:
    held = cast(Mapping[str, Mapping[str, Any]], raw)
    names = ("storage", "requests", "instances_per_hour")
    return {name: {key: float(value) for key, value in held[name].items()} for name in names}
