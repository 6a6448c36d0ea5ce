"""All clauses, in the order in which a job meets them."""

from __future__ import annotations

from runtime.check.clause import Clause
from runtime.check.clauses import confinement, endings, hosts, image, inputs, logs, modes, processing

CLAUSES: tuple[Clause, ...] = (
    *image.CLAUSES,
    *inputs.CLAUSES,
    *modes.CLAUSES,
    *endings.CLAUSES,
    *logs.CLAUSES,
    *confinement.CLAUSES,
    *hosts.CLAUSES,
    *processing.CLAUSES,
)
