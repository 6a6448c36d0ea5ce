"""How the agent that syncs checkpoints behaves in a run: well, or badly on demand. Pure."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from random import Random

from runtime.base.errors import UserError, did_you_mean

ORDERS = ("random", "small-first", "large-first", "name")


@dataclass(frozen=True)
class SyncPlan:
    """What the agents of a job do; the faults come in its first attempt only, on every host."""

    lag_s: float = 0.0
    """Seconds by which every upload and removal comes late, while the job runs."""
    rate: int | None = None
    """Bytes per second of each host; None: as fast as it goes."""
    order: str = "random"
    """One of `ORDERS`. The service promises none: a small manifest may be there long before large shards."""
    seed: int = 0
    """Of the random order."""
    stop_after: int | None = None
    """Files, after which nothing more is uploaded and nobody is told. Source: sagemaker-python-sdk #3062."""
    die_at_step: int | None = None
    """Step of the host's ranks at which the agent is gone; the upload under way is lost."""
    die_at_s: float | None = None
    """The same, in seconds from the start of the attempt."""

    def healthy(self) -> "SyncPlan":
        """Return the plan of later attempts: slow as before, and without faults."""
        return SyncPlan(self.lag_s, self.rate, self.order, self.seed)

    def arrange(self, sizes: Sequence[tuple[str, int]], turn: int) -> list[str]:
        """Order the files of one turn.

        Args:
            sizes: names and bytes.
            turn: counts the turns of an agent.
        """
        names = sorted(sizes)
        if self.order == "random":
            Random(f"{self.seed} {turn}").shuffle(names)  # noqa: S311 - reproducible on purpose
        elif self.order != "name":
            names.sort(key=lambda pair: pair[1], reverse=self.order == "large-first")
        return [name for name, _ in names]


def parse_sync(text: str) -> SyncPlan:
    """Read ``--checkpoint-sync``: settings with commas between them.

    >>> parse_sync("lag=30s,die-at=step:50")
    SyncPlan(lag_s=30.0, rate=None, order='random', seed=0, stop_after=None, die_at_step=50, die_at_s=None)

    Raises:
        UserError: a setting is unknown or malformed.
    """
    values: dict[str, object] = {}
    for setting in text.split(","):
        name, _, value = setting.strip().partition("=")
        if name not in _SETTINGS:
            raise UserError(f"--checkpoint-sync {text}: {name!r}", allowed=did_you_mean(name, list(_SETTINGS)))
        read = _SETTINGS[name](value)
        if read is None:
            raise UserError(f"--checkpoint-sync {text}: {setting!r}", allowed=f"it is {_FORMS[name]}")
        values.update(read)
    known = {field.name for field in fields(SyncPlan)}
    assert set(values) <= known  # noqa: S101 - the table below names fields
    return SyncPlan(**values)  # pyright: ignore[reportArgumentType] - each setting has the type of its field


def _lag(value: str) -> dict[str, object] | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)s?", value)
    return {"lag_s": float(found[1])} if found else None


def _rate(value: str) -> dict[str, object] | None:
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)(?:i?b)?(?:/s)?", value.lower())
    rate = int(float(found[1]) * 1024 ** " kmg".index(found[2] or " ")) if found else 0
    return {"rate": rate} if rate > 0 else None


def _order(value: str) -> dict[str, object] | None:
    return {"order": value} if value in ORDERS else None


def _number(name: str) -> Callable[[str], dict[str, object] | None]:
    return lambda value: {name: int(value)} if value.isdigit() else None


def _die_at(value: str) -> dict[str, object] | None:
    step = re.fullmatch(r"step:(\d+)", value)
    if step and int(step[1]) > 0:
        return {"die_at_step": int(step[1])}
    seconds = re.fullmatch(r"(\d+(?:\.\d+)?)s", value)
    return {"die_at_s": float(seconds[1])} if seconds else None


_SETTINGS: dict[str, Callable[[str], dict[str, object] | None]] = {
    "lag": _lag,
    "rate": _rate,
    "order": _order,
    "seed": _number("seed"),
    "stop-after": _number("stop_after"),
    "die-at": _die_at,
}
_FORMS = {
    "lag": "lag=30s",
    "rate": "rate=50m, bytes per second",
    "order": f"order= one of {', '.join(ORDERS)}",
    "seed": "seed=N",
    "stop-after": "stop-after=N, a number of files",
    "die-at": "die-at=step:N with N of at least 1, or die-at=Ns",
}
