"""What ``slipway run`` prints at the end. Pure."""

from typing import Any

from runtime.local.record import AttemptRecord, JobRecord


def describe(record: JobRecord) -> str:
    """Compose the summary, the failure's reason first."""
    lines = [""]
    if record.exit_message:
        lines.append(f"message: {record.exit_message}")
    if record.failure_reason:
        lines.append(f"{record.status}: {record.failure_reason}")
    total = sum(record.phases.values())
    phases = ", ".join(f"{name} {seconds:.1f}" for name, seconds in record.phases.items() if seconds >= 0.05)
    lines.append(
        f"job {record.name}: {record.status} in {total:.1f} s{f' ({phases})' if phases else ''}, "
        f"{record.billable_seconds} s billable"
    )
    if record.savings_percent is not None:
        lines.append(
            f"  spot       {record.billable_seconds} of {record.training_seconds} s billed: "
            f"{record.savings_percent:g} % saved"
        )
    lines += [line for attempt in record.attempts for line in _attempt(attempt, len(record.attempts))]
    speed = steps_per_second(record)
    if speed is not None:
        lines.append(f"  speed      {speed:.2f} steps/s in the last attempt, start-up included")
    if record.metrics:
        lines.append(f"  metrics    {', '.join(f'{name}={value:g}' for name, value in sorted(record.metrics.items()))}")
    if record.projection is not None:
        lines.append(f"  full run   {_duration(record.projection)}: {record.projection['arithmetic']}")
    for name in ("model", "output", "outputs", "checkpoints", "logs", "report", "job", "work"):
        if record.paths.get(name):
            label = {"job": "job.json", "work": "trees"}.get(name, name)
            lines.append(f"  {label:<10} {record.paths[name]}")
    lines += [f"  uploaded   {uri}" for uri in record.uploaded.values()]
    return "\n".join(lines)


def _attempt(attempt: AttemptRecord, attempts: int) -> list[str]:
    lines: list[str] = []
    if attempts > 1:
        words: list[str] = []
        if attempt.resumed_step is not None:
            words.append(f"resumed from step {attempt.resumed_step}")
        elif attempt.last_step:
            words.append("began anew")
        words.append(f"ended after step {attempt.last_step}" if attempt.last_step else "reported no step")
        if attempt.interrupted is not None:
            words.append(f"interrupted by {attempt.interrupted.signal} after {attempt.interrupted.after}")
        lines.append(f"  attempt {attempt.attempt}: {', '.join(words)}")
    lines += [f"    {host.name:<8} exit {host.exit_code} after {host.seconds:.1f} s" for host in attempt.hosts]
    return lines


def steps_per_second(record: JobRecord) -> float | None:
    """Return the last attempt's speed; None when the program reported no step."""
    if not record.attempts:
        return None
    attempt = record.attempts[-1]
    steps = attempt.last_step - (attempt.resumed_step or 0)
    seconds = max((host.seconds for host in attempt.hosts), default=0.0)
    return steps / seconds if steps > 0 and seconds > 0 else None


def _duration(projection: dict[str, Any]) -> str:
    seconds = float(projection["seconds"])
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.1f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
