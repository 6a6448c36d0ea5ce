"""What was found, for people."""

from collections.abc import Iterator, Sequence

from runtime.data.inspect.advise import Advice
from runtime.data.inspect.look import Dataset
from runtime.data.inspect.survey import Sizes
from runtime.profile.findings import duration, size

Row = tuple[str, str]


def told(found: Dataset) -> list[str]:
    """Write a dataset as lines."""
    rows = [*_what(found), *_samples(found), *_speed(found)]
    if found.refused:
        rows.append(("refused", found.refused))
    if found.survey.unreadable:
        rows.append(("unreadable", found.survey.unreadable))
    return _columns([*rows, *(("advice", text) for text in found.advice)])


def _what(found: Dataset) -> Iterator[Row]:
    files = found.survey.files
    at_least = "" if found.survey.complete else "at least "
    yield "path", f"{found.path} ({found.mount.kind})"
    yield "what", f"{found.format}: {found.reason}" if found.format else "nothing that can be read as a channel"
    if found.view:
        yield "a sample", found.view
    if found.samples:
        about = f"about {found.samples:,} by {found.opened} shards" if found.opened else f"{found.samples:,}"
        yield "samples", f"{about}{_sizes(found.sample_bytes, ', ')}"
    suffixes = ", ".join(f"{count:,} {suffix or 'without suffix'}" for suffix, count in found.survey.suffixes.items())
    yield "files", f"{at_least}{files.count:,} in {found.survey.directories:,} directories: {suffixes}"
    yield "sizes of files", _sizes(files, "") or "-"


def _samples(found: Dataset) -> Iterator[Row]:
    if found.labels:
        left = found.distinct_labels - len(found.labels)
        among = "" if found.labels_of == found.samples else f" among {found.labels_of:,} looked at"
        counts = ", ".join(f"{label}: {count:,}" for label, count in found.labels.items())
        yield "labels", f"{found.distinct_labels:,}{among}: {counts}{f', {left:,} more' if left else ''}"
    if found.shapes:
        yield "shapes", ", ".join(f"{form} ({count:,})" for form, count in found.shapes.items())
    if found.looked_at:
        yield "damage", f"{found.damaged_count:,} of {found.looked_at:,} samples looked at"
    yield from (("", text) for text in found.damaged)
    if found.damaged_shards:
        yield "cut shards", f"{len(found.damaged_shards):,}, used up to the damage with on_bad='skip' only"
    yield from (("", text) for text in found.damaged_shards[:5])
    for number, one in enumerate(found.shown):
        yield "" if number else "shown", f"{one.name}: x {one.x}, y {one.y}"


def _speed(found: Dataset) -> Iterator[Row]:
    speed = found.speed
    if speed is None:
        return
    if speed.read_mb_per_s:
        yield "reading here", f"{speed.read_mb_per_s:,.1f} MB/s ({speed.read_mb:,.1f} MB read)"
    if speed.opens.files:
        yield "opening a file", f"{speed.opens.first_ms:.2f} ms, {speed.opens.again_ms:.2f} ms again"
    if speed.samples_per_s:
        each = f"{speed.cpu_ms_per_sample:.2f} ms of CPU each"
        yield "decoding here", f"{speed.samples_per_s:,.0f} samples/s by one process, {each}"


def told_advice(plan: Advice) -> list[str]:
    """Write the predictions as a table, with what they rest on."""
    head = ("MODE", "BEFORE STEP 1", "MB/S PER HOST", "DEVICE WAITS", "WAITING $", "STORAGE $", "REQUESTS $", "SUM $")
    rows: list[tuple[str, ...]] = [head]
    for mode in plan.modes:
        waits = f"{mode.starved_share * 100:.0f} %" if mode.starved_share is not None else "?"
        money = [_usd(value) for value in (mode.waiting_usd, mode.storage_usd, mode.request_usd, mode.sum_usd)]
        star = "*" if mode.unverified else " "
        rows.append((mode.name, duration(mode.before_step_1_s), f"{_rate(mode.mb_per_s)}{star}", waits, *money))
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = [
        "",
        *("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows),
    ]
    lines.append("* unverified: rests on figures that nobody of us has measured")
    lines += [f"what to do: {text}" for text in plan.changes]
    lines += [f"assumed: {text}" for text in plan.assumptions]
    return lines


def _rate(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def _usd(value: float | None) -> str:
    if value is None:
        return "?"
    return f"{value:,.2f}" if value >= 0.01 or value == 0 else f"{value:.4f}"


def _sizes(sizes: Sizes, before: str) -> str:
    if not sizes.count:
        return ""
    return (
        f"{before}median {size(sizes.median)}, p95 {size(sizes.p95)}, largest {size(sizes.largest)}, "
        f"total {size(sizes.total)}"
    )


def _columns(rows: Sequence[tuple[str, str]]) -> list[str]:
    width = max(len(name) for name, _ in rows)
    return [f"{name.ljust(width)}  {text}" for name, text in rows]
