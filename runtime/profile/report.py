"""The profile report: one HTML page that needs no network and no script, and the same facts as JSON."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from html import escape
from pathlib import Path

from runtime.profile.figures import (
    legend_of_hosts,
    legend_of_phases,
    machine_figures,
    phase_bars,
    step_times,
    time_line,
)
from runtime.profile.findings import duration, find, percent, size
from runtime.profile.records import Records, load
from runtime.profile.style import STYLE
from runtime.profile.summary import AttemptFacts, Summary, shares_of, summarise_records

FORMAT = 1


def summarise(directory: Path) -> Mapping[str, object]:
    """Return the facts of the report in a form that JSON can hold.

    Args:
        directory: what ``slipway run --output`` wrote, or a copy of a profiler directory.

    Raises:
        UserError: nothing of a job is there, or it is of a newer version.
    """
    summary = summarise_records(load(directory))
    findings = [asdict(finding) for finding in find(summary)]
    return {"format": FORMAT, **asdict(summary), "findings": findings}


def build_report(directory: Path, compare: Path | None = None) -> str:
    """Make the page.

    Args:
        directory: what ``slipway run --output`` wrote, or a copy of a profiler directory.
        compare: another one, whose figures are put beside.

    Raises:
        UserError: nothing of a job is there, or it is of a newer version.
    """
    records = load(directory)
    summary = summarise_records(records)
    other = summarise_records(load(compare)) if compare is not None else None
    name = summary.job.name if summary.job else directory.resolve().name
    body = [
        _head(summary, name),
        _tiles(summary),
        f'<div class="columns"><div>{_findings(summary)}{_phases(summary)}</div>',
        f"<div>{_attempts(summary)}{_steps(summary, records)}</div></div>",
        _machine(summary, records),
        _comparison(summary, other, compare) if other is not None and compare is not None else "",
        _tables(summary),
        _missing(summary),
    ]
    # The policy forbids every request: a report must open on a plane, and must not tell anybody that it was opened.
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">"
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(name)} · Slipway profile</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )


def _head(summary: Summary, name: str) -> str:
    status = summary.job.status if summary.job else "status unknown"
    kind = {"Completed": "good", "Failed": "bad", "Stopped": "stopped"}.get(status, "unknown")
    reason = summary.job.failure_reason if summary.job else ""
    said = f'<p class="reason">{escape(reason)}</p>' if reason else ""
    return f'<header><h1>{escape(name)}</h1><span class="status {kind}">{escape(status)}</span>{said}</header>'


def _tiles(summary: Summary) -> str:
    tiles: list[tuple[str, str, str]] = []
    if summary.seconds > 0:
        billed = summary.job.billable_seconds if summary.job else None
        tiles.append(("time", duration(summary.seconds), f"{duration(billed)} billable" if billed else ""))
    ranks = {rank.rank for rank in summary.ranks}
    hosts = {rank.host for rank in summary.ranks} | {host.host for host in summary.hosts}
    if summary.steps:
        again = f"{summary.redone_steps:,} done again ({duration(summary.redone_s)})" if summary.redone_steps else ""
        tiles.append(("steps", f"{summary.steps:,}", again or f"{len(ranks)} ranks on {len(hosts)} hosts"))
    if summary.median_s is not None and summary.p95_s is not None:
        tiles.append(("steady step", duration(summary.median_s), f"p95 {duration(summary.p95_s)}"))
    if summary.first_step_s is not None and summary.median_s:
        ratio = summary.first_step_s / summary.median_s
        tiles.append(("first step", duration(summary.first_step_s), f"{ratio:.3g} x a steady one"))
    if "data" in summary.steady_shares:
        tiles.append(("waiting for data", percent(summary.steady_shares["data"]), "of the time in steady steps"))
    cpu = _mean_level(summary, "cpu_pct")
    memory = max((host.levels["mem_pct"].max for host in summary.hosts if "mem_pct" in host.levels), default=None)
    if cpu is not None:
        tiles.append(("CPUs busy", f"{cpu:.0f} %", f"memory at most {memory:.0f} %" if memory is not None else ""))
    cells = "".join(
        f'<div class="tile"><b>{escape(title)}</b><strong>{escape(value)}</strong><span>{escape(more)}</span></div>'
        for title, value, more in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _mean_level(summary: Summary, name: str) -> float | None:
    """Return the mean over all samples of all hosts."""
    parts = [(host.levels[name].mean, host.samples) for host in summary.hosts if name in host.levels]
    samples = sum(count for _, count in parts)
    return sum(mean * count for mean, count in parts) / samples if samples else None


def _section(title: str, content: str, *, wide: bool = False) -> str:
    return f"<section{' class=wide' if wide else ''}><h2>{escape(title)}</h2>{content}</section>"


def _findings(summary: Summary) -> str:
    findings = find(summary)
    if not findings:
        return _section("Findings", "<p>Nothing stands out.</p>" if summary.steps else "<p>Too little to judge.</p>")
    items = [f'<li class="{finding.kind}">{escape(finding.text)}</li>' for finding in findings[:12]]
    if len(findings) > 12:
        items.append(f'<li class="note">and {len(findings) - 12} more (slipway report --json has all).</li>')
    return _section("Findings", f'<ul class="findings">{"".join(items)}</ul>')


def _attempts(summary: Summary) -> str:
    if not summary.attempts:
        return _section("Attempts", "<p>Nothing tells when the job ran.</p>")
    rows = "".join(f"<li>{_attempt_line(attempt)}</li>" for attempt in summary.attempts)
    keys = [("t-start", "starting, ending"), ("t-steps", "steps")]
    if summary.redone_steps:
        keys.append(("t-again", "steps done again"))
    if len(summary.attempts) > 1:
        keys.append(("gap", "nothing ran"))
    legend = "".join(f'<span><i class="{colour}"></i>{name}</span>' for colour, name in keys)
    count = f"{len(summary.attempts)} attempt" + ("s" if len(summary.attempts) > 1 else "")
    return _section(count, f'{time_line(summary)}<div class="legend">{legend}</div><ul class="attempts">{rows}</ul>')


def _attempt_line(attempt: AttemptFacts) -> str:
    words = [f"{duration(attempt.end_s - attempt.start_s)}"]
    if attempt.gap_before_s is not None:
        words.append(f"{duration(attempt.gap_before_s)} after the one before")
    if attempt.resumed_step is not None:
        words.append(f"resumed at step {attempt.resumed_step:,}")
    if attempt.first_step is not None and attempt.last_step is not None:
        words.append(f"steps {attempt.first_step:,} to {attempt.last_step:,}")
    elif attempt.last_step is not None:
        words.append(f"up to step {attempt.last_step:,}")
    if attempt.redone_steps:
        words.append(f"{attempt.redone_steps:,} of them done again ({duration(attempt.redone_s)})")
    if attempt.interrupted_by:
        words.append(f"interrupted by {attempt.interrupted_by}")
    bad = {name: code for name, code in attempt.exit_codes.items() if code}
    if bad:
        words.append("exit codes " + ", ".join(f"{name} {code}" for name, code in bad.items()))
    return f"<b>Attempt {attempt.attempt}</b> {escape(' · '.join(words))}"


def _phases(summary: Summary) -> str:
    if not summary.shares:
        return _section("Where the time of steps goes", "<p>No step was recorded.</p>")
    return _section("Where the time of steps goes", legend_of_phases(summary) + phase_bars(summary))


def _steps(summary: Summary, records: Records) -> str:
    if not summary.steps:
        return _section("Step time", "<p>No step was recorded.</p>")
    note = (
        "<p class=hint>Median over ranks, in a band from the fastest to the slowest; triangles are above the scale.</p>"
    )
    rows = [
        [
            f"{rank.rank}",
            escape(rank.host),
            f"{rank.attempt}",
            f"{rank.steps:,}",
            duration(rank.first_step_s),
            duration(rank.median_s),
            duration(rank.p95_s),
            duration(rank.max_s),
        ]
        for rank in summary.ranks
    ]
    head = ["rank", "host", "attempt", "steps", "first", "median", "p95", "slowest"]
    table = _table(head, rows)
    if len(rows) > 4:
        table = f"<details><summary>Median and p95 of each rank and attempt ({len(rows)})</summary>{table}</details>"
    return _section("Step time", step_times(summary, records) + note + table)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Make a table; the cells must be escaped."""
    cells = "".join(f"<th>{word}</th>" for word in head)
    lines = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{cells}</tr></thead><tbody>{lines}</tbody></table></div>'


def _machine(summary: Summary, records: Records) -> str:
    figures = machine_figures(summary, records)
    if not figures:
        return _section("The machine", "<p>No samples of the machine.</p>", wide=True)
    drawn = "".join(f"<figure><figcaption>{title}</figcaption>{markup}</figure>" for title, markup in figures)
    content = f'{legend_of_hosts(records)}<div class="figures">{drawn}</div>'
    return _section("The machine over the time of the job", content, wide=True)


def _tables(summary: Summary) -> str:
    parts: list[str] = []
    if summary.shares:
        rows = [
            [f"{rank}", *(percent(shares_of(seconds).get(name, 0.0)) for name in summary.phases)]
            for rank, seconds in summary.ranks_over_attempts().items()
        ]
        rows.insert(0, ["all", *(percent(summary.shares.get(name, 0.0)) for name in summary.phases)])
        table = _table(["rank", *map(escape, summary.phases)], rows)
        parts.append(f"<details><summary>Shares of the phases</summary>{table}</details>")
    if summary.hosts:
        head = ["host", "attempt", "CPUs", "memory", "samples", "CPU mean", "p95", "disk wait", "memory max"]
        head += ["read mean", "written mean", "received mean", "sent mean", "disk free at end"]
        rows = [
            [
                escape(host.host),
                f"{host.attempt}",
                f"{host.cpus}" if host.cpus else "?",
                size(host.memory_bytes) if host.memory_bytes else "?",
                f"{host.samples:,}",
                _pct(host.levels["cpu_pct"].mean if "cpu_pct" in host.levels else None),
                _pct(host.levels["cpu_pct"].p95 if "cpu_pct" in host.levels else None),
                _pct(host.levels["iowait_pct"].mean if "iowait_pct" in host.levels else None),
                _pct(host.levels["mem_pct"].max if "mem_pct" in host.levels else None),
                *(
                    f"{size(host.levels[name].mean)}/s" if name in host.levels else "?"
                    for name in ("disk_read_bps", "disk_write_bps", "net_rx_bps", "net_tx_bps")
                ),
                size(host.disk_free_bytes) if host.disk_free_bytes is not None else "?",
            ]
            for host in summary.hosts
        ]
        parts.append(f"<details><summary>The machine in numbers</summary>{_table(head, rows)}</details>")
    if summary.job is not None and summary.job.phases:
        rows = [[escape(name), duration(seconds)] for name, seconds in summary.job.phases.items()]
        parts.append(f"<details><summary>Phases of the job</summary>{_table(['phase', 'time'], rows)}</details>")
    if summary.job is not None and summary.job.metrics:
        rows = [[escape(name), escape(str(value))] for name, value in summary.job.metrics.items()]
        parts.append(f"<details><summary>Metrics</summary>{_table(['metric', 'value'], rows)}</details>")
    return _section("In numbers", "".join(parts), wide=True) if parts else ""


def _pct(value: float | None) -> str:
    return "?" if value is None else f"{value:.0f} %"


def _missing(summary: Summary) -> str:
    if not summary.missing:
        return ""
    items = "".join(f"<li>{escape(text)}</li>" for text in summary.missing)
    return _section("What this page does not know", f"<ul>{items}</ul>", wide=True)


def _comparison(summary: Summary, other: Summary, compare: Path) -> str:
    """Put two jobs side by side; a ratio below 1 means that the first is smaller."""
    names = [side.job.name if side.job else "" for side in (summary, other)]
    head = ["", escape(names[0] or "this job"), escape(names[1] or compare.name), "ratio"]
    rows: list[list[str]] = []

    def row(title: str, one: float | None, two: float | None, kind: str) -> None:
        if one is None and two is None:
            return
        write = {"s": duration, "share": percent, "%": "{:.0f} %".format, "": "{:,.0f}".format}[kind]
        ratio = one / two if one is not None and two else math.nan
        words = ["not known" if value is None else write(value) for value in (one, two)]
        rows.append([escape(title), *words, "" if math.isnan(ratio) else f"{ratio:.2f}"])

    billed = [side.job.billable_seconds if side.job else None for side in (summary, other)]
    row("time of the job", summary.seconds, other.seconds, "s")
    row("billable", billed[0], billed[1], "s")
    row("steps", summary.steps, other.steps, "")
    row("steps done again", summary.redone_steps, other.redone_steps, "")
    row("steady step, median", summary.median_s, other.median_s, "s")
    row("steady step, p95", summary.p95_s, other.p95_s, "s")
    row("first step", summary.first_step_s, other.first_step_s, "s")
    for name in dict.fromkeys((*summary.phases, *other.phases)):
        row(f"share of {name}", summary.steady_shares.get(name), other.steady_shares.get(name), "share")
    row("CPUs busy", _mean_level(summary, "cpu_pct"), _mean_level(other, "cpu_pct"), "%")
    verdict = ""
    if summary.median_s and other.median_s:
        change = summary.median_s / other.median_s - 1
        word = "slower" if change > 0 else "faster"
        # Within a third of the distance from median to p95 two runs of the same job differ as well.
        noise = max((side.p95_s or 0.0) / side.median_s - 1 for side in (summary, other) if side.median_s) / 3
        verdict = (
            f"<p>Steps are {percent(abs(change))} {word} at the median.</p>"
            if abs(change) > max(0.03, noise)
            else "<p>Steps are as fast, within what two runs of one job differ.</p>"
        )
    return _section("Compared with", verdict + _table(head, rows), wide=True)
