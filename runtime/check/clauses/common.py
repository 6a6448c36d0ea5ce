"""What the judges of clauses share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runtime.check.clause import Judgement, broken, holds
from runtime.check.lab import Lab, Setup, Trial, has_files


def ran(lab: Lab, trial: Trial) -> bool:
    """Whether a trial did what the first one did: our program wrote its record, or the own algorithm its model."""
    if trial.exit_code != 0:
        return False
    if not lab.own:
        return trial.seen is not None
    return has_files(trial.tree.base / "model") or not has_files(lab.base().tree.base / "model")


def judge_again(lab: Lab, name: str, setup: Setup, evidence: str) -> Judgement:
    """Run the first job under another condition; it has to end as well as it did without."""
    trial = lab.once(name, lambda: lab.run(setup))
    return holds(evidence) if ran(lab, trial) else broken(trial.ending)


def argument(argv: Sequence[str], name: str) -> str | None:
    """Find the value of ``--name value`` or ``--name=value``.

    >>> argument(["--lr", "0.1", "--name=x"], "name"), argument(["--lr", "0.1"], "name")
    ('x', None)
    """
    for word, after in zip(argv, [*argv[1:], None], strict=True):
        if word == f"--{name}":
            return after
        if word.startswith(f"--{name}="):
            return word.partition("=")[2]
    return None


def hyperparameter(seen: Mapping[str, Any], name: str) -> str | None:
    """Find a hyperparameter as our program got it: as an argument, else as its variable; None when in neither."""
    found = argument(seen["argv"], name)
    return found if found is not None else seen["environ"].get(f"SM_HP_{name.upper()}")


def judge_hyperparameters(trial: Trial, wanted: Mapping[str, str]) -> Judgement:
    """Compare what our program got with what was sent."""
    seen = trial.seen
    if seen is None:
        return broken(f"the program did not run: {trial.ending}")
    got = {name: hyperparameter(seen, name) for name in wanted}
    wrong = [f"{name}: sent {wanted[name]!r}, got {got[name]!r}" for name in wanted if got[name] != wanted[name]]
    if wrong:
        return broken(f"{len(wrong)} of {len(wanted)} reached the program changed: {'; '.join(wrong)}")
    return holds(f"{len(wanted)} values reached the program unchanged")
