"""What one host knows of the end of the job, and the deadlines that follow from it. Pure: it is told the time."""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from runtime.cause.outcome import Cause

SETTLE_S = 2.0
"""How long a survivor's symptom waits for the cause to be told; reports of other hosts came within 0.4 s."""
SETTLE_EARLY_S = 0.5
"""The same when some ranks had ended with exit code 0 before: that is the cause, unless a better one is on its way."""
KILL_AFTER_S = 1.5
"""From SIGTERM to SIGKILL once the job has failed: collectives cannot work any more, so there is nothing to save."""
AGREE_S = 2.5
"""After a failure, how long a host whose ranks have ended waits for the others: what they know may come first."""


class Known:
    """Facts and deadlines; only the supervisor's loop changes them. Times are monotonic seconds, 0 before the thing."""

    def __init__(self) -> None:
        self.causes: list[Cause] = []
        self.stop_reason = ""
        self.done_hosts: set[str] = set()
        """Their ranks have all ended well."""
        self.ended_hosts: set[str] = set()
        """Their ranks have all ended after a failure."""
        self.content_hosts: set[str] = set()
        """Hosts that know of all others that they are done."""
        self.failed_at = 0.0
        self.end_deadline = 0.0
        """When the ranks must be told to end, after a failure."""
        self.kill_deadline = 0.0
        """When they are killed; 0 until they were told."""
        self.stop_deadline = 0.0
        self.stop_felt_at = 0.0
        """When the first rank had ended after a stop was asked."""

    @property
    def only_symptoms(self) -> bool:
        """Whether all that is known is what survivors felt."""
        return all(cause.consequence for cause in self.causes)

    def holds(self, cause: Cause) -> bool:
        """Tell whether a cause is known already, whoever told it."""
        return any((c.host, c.rank, c.message) == (cause.host, cause.rank, cause.message) for c in self.causes)

    def take(self, cause: Cause, now: float, *, some_left: bool) -> None:
        """Take a cause in; a symptom waits a little for a better one.

        Args:
            cause: what went wrong.
            now: monotonic seconds.
            some_left: some ranks of the job had ended with exit code 0 before.
        """
        self.causes.append(cause)
        self.failed_at = self.failed_at or now
        settle = SETTLE_EARLY_S if some_left else SETTLE_S
        due = now + (settle if cause.consequence else 0.0)
        self.end_deadline = min(self.end_deadline or due, due)

    def stop(self, reason: str, now: float, grace_s: float) -> None:
        """Note who asked for a stop."""
        self.stop_reason = reason
        self.stop_deadline = now + grace_s

    def feel_stop(self, now: float) -> None:
        """Note that a rank has ended after a stop was asked."""
        self.stop_felt_at = self.stop_felt_at or now

    def begin_end(self, now: float) -> bool:
        """Tell, once, that the ranks must be told to end."""
        if not self.end_deadline or self.kill_deadline or now < self.end_deadline:
            return False
        self.kill_deadline = now + KILL_AFTER_S
        return True

    def others_have_left(self, now: float) -> bool:
        """Tell whether a stop is so old that no rank still waits for others in good faith."""
        return bool(self.stop_felt_at) and now >= self.stop_felt_at + KILL_AFTER_S

    def overdue(self, now: float) -> bool:
        """Tell whether ranks that still run must be killed."""
        if self.kill_deadline and now >= self.kill_deadline:
            return True
        return bool(self.stop_reason) and now >= self.stop_deadline

    def agreed(self, present: Sequence[str], now: float) -> bool:
        """Tell whether every host that is left knows of the failure what we know: then all report the same cause.

        Args:
            present: the other hosts that are connected.
            now: monotonic seconds.
        """
        # Only symptoms so far: give the host that knows the cause the time to tell it.
        if self.only_symptoms and now < self.end_deadline:
            return False
        waiting = [host for host in present if host not in self.ended_hosts | self.done_hosts]
        return not waiting or now > self.failed_at + AGREE_S
