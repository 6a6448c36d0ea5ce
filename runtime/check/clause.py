"""One clause of the contract, and what was found of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from runtime.check.lab import Lab

Kind = Literal["training", "processing"]
Level = Literal["must", "should"]
Verdict = Literal["pass", "fail", "warn", "skipped"]

BOTH: tuple[Kind, ...] = ("training", "processing")
TRAINING: tuple[Kind, ...] = ("training",)
PROCESSING: tuple[Kind, ...] = ("processing",)

GUIDE = "SageMaker developer guide"
SDK_V2 = "SageMaker Python SDK v2, local mode"
SDK_V3 = "SageMaker Python SDK v3, ModelTrainer"
API = "CreateTrainingJob API"
"""Where clauses come from."""


@dataclass(frozen=True)
class Judgement:
    """What a trial showed."""

    holds: bool | None
    """None: it could not be tried."""
    evidence: str
    """What was seen, or why nothing could be."""


def holds(evidence: str) -> Judgement:
    """The clause holds."""
    return Judgement(True, evidence)


def broken(evidence: str) -> Judgement:
    """The clause does not hold."""
    return Judgement(False, evidence)


def untried(reason: str) -> Judgement:
    """The clause could not be tried on this image."""
    return Judgement(None, reason)


@dataclass(frozen=True)
class Clause:
    """One thing that an image has to do, and how to find out whether it does."""

    id: str
    """Name in tables, JSON and ``--only``: lower case words with dashes."""
    title: str
    level: Level
    """``must``: jobs fail or lie without it. ``should``: the platform bears it, the users pay for it."""
    why: str
    source: str
    """Of the requirement."""
    tried: str
    """How it is found out."""
    change: str
    """What to do when it does not hold."""
    judge: Callable[[Lab], Judgement]
    kinds: tuple[Kind, ...] = TRAINING
    needs: tuple[str, ...] = ("start",)
    """Ids of clauses that must hold, else this one is skipped: one cause is told once."""
    ours: bool = True
    """It needs a program of ours: skipped for an image that runs an algorithm of its own."""
    toolkit: str = ""
    """What sagemaker-training does instead. An image on that toolkit cannot help it, and is warned only."""


@dataclass(frozen=True)
class Finding:
    """A clause's verdict on one image."""

    clause: Clause
    verdict: Verdict
    evidence: str
    seconds: float
    """From the first question to the verdict, trials that other clauses share included."""

    @property
    def change(self) -> str:
        """What to do; empty when there is nothing to do."""
        return self.clause.change if self.verdict in ("fail", "warn") else ""


def verdict_of(clause: Clause, judgement: Judgement, toolkit: str) -> tuple[Verdict, str]:
    """Weigh a judgement.

    Args:
        clause: what was tried.
        judgement: what was seen.
        toolkit: version of sagemaker-training in the image; empty when it has none.

    Returns:
        The verdict and the evidence to show.
    """
    if judgement.holds is None:
        return "skipped", judgement.evidence
    if judgement.holds:
        return "pass", judgement.evidence
    if toolkit and clause.toolkit:
        return "warn", f"{judgement.evidence} (sagemaker-training {toolkit}, in every image: {clause.toolkit})"
    return ("fail" if clause.level == "must" else "warn"), judgement.evidence
