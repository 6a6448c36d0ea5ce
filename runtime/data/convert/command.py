"""``slipway convert``: converts, merges the parts of several hosts, verifies."""

import argparse
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from runtime.base import env
from runtime.base.errors import UserError
from runtime.data.convert.manifest import BAD, Manifest, merge, verify, write_manifest
from runtime.data.convert.options import Options
from runtime.data.convert.run import Progress, Request, convert, preview
from runtime.data.index.command import read_processes, read_share

SAY_S = 10.0
"""Between two lines of progress in a log; a terminal gets one line that changes."""
SHOWN = 5
"""Problems that are printed; all are in the file."""


def run_convert(flags: argparse.Namespace) -> int:
    """Do what the flags say.

    Returns:
        0; 1 when ``--verify`` finds something wrong.

    Raises:
        UserError: the flags contradict each other, or the source cannot be converted.
    """
    if flags.verify:
        if flags.source or flags.to or flags.merge:
            raise UserError("--verify and a SOURCE, --to or --merge", allowed="--verify DIR alone")
        return _verify(flags)
    if not flags.out:
        raise UserError("No --out", fix="slipway convert SOURCE --to FORM --out DIR")
    out = Path(flags.out)
    began = time.monotonic()
    if flags.merge:
        if flags.source or flags.to:
            raise UserError("--merge and a SOURCE or --to", allowed="one of them")
        manifest = merge([Path(part) for part in flags.merge], out)
        write_manifest(out, manifest)
    else:
        if not flags.source or not flags.to:
            raise UserError(
                "No SOURCE" if not flags.source else "No --to", fix="slipway convert SOURCE --to FORM --out DIR"
            )
        request = read_request(flags)
        if flags.plan:
            return _plan(request, as_json=flags.json)
        said = _Said()
        manifest = convert(request, said)
        said.end()
    seconds = time.monotonic() - began
    if flags.json:
        value = {name: held for name, held in manifest.as_json().items() if name != "shards"}
        value |= {"shards": len(manifest.shards), "seconds": round(seconds, 3), "out": str(out)}
        sys.stdout.write(json.dumps(value) + "\n")
    else:
        sys.stdout.write(_told(out, manifest, seconds) + "\n")
    return 0


def read_request(flags: argparse.Namespace) -> Request:
    """Read the flags.

    Raises:
        UserError: a flag that says nothing sensible.
    """
    roles = [(role if role != "key" else "__key__", getattr(flags, f"{role}_field")) for role in _ROLES]
    options = Options(
        to=flags.to,
        shard_bytes=round(flags.shard_mb * 1e6),
        shards=_shards(flags.shards),
        shuffle=flags.shuffle,
        seed=flags.seed,
        by_label=flags.by_label,
        splits=read_splits(flags.split),
        short_edge=flags.short_edge,
        center_crop=flags.center_crop,
        quality=flags.quality,
        image_format=flags.image_format,
        decode=flags.decode,
        roles=tuple((new, old) for new, old in roles if old),
        drop=tuple(flags.drop),
        labels=read_labels(Path(flags.labels)) if flags.labels else (),
        matrix="sparse" if flags.sparse else "dense" if flags.dense else "",
        dtype=flags.dtype,
        header=flags.header,
        names=flags.names,
        on_bad=flags.on_bad,
        content_type=flags.content_type,
    )
    if flags.lst and flags.to not in ("folders", "recordio-image"):
        raise UserError(f"--lst with --to {flags.to}", allowed="lists are of folders and of recordio-image")
    share = read_share(flags.share, env.process_environ())
    return Request(
        Path(flags.source),
        Path(flags.out),
        options,
        flags.root,
        (share.index, share.count),
        read_processes(flags.processes),
        Path(flags.lst) if flags.lst else None,
    )


_ROLES = ("label", "image", "text", "key")


def _shards(number: int | None) -> int:
    if number is not None and number < 1:
        raise UserError(f"--shards is {number}", allowed="1 or more")
    return number or 0


def read_splits(text: str | None) -> tuple[tuple[str, float], ...]:
    """Read ``train=0.9,validation=0.1``.

    Raises:
        UserError: no such list, or parts that make more than the whole.
    """
    splits: list[tuple[str, float]] = []
    for word in (text or "").split(",") if text else ():
        name, _, part = (piece.strip() for piece in word.partition("="))
        try:
            share = float(part)
        except ValueError:
            share = -1.0
        if not name or not 0 < share <= 1 or "/" in name or name.startswith((".", "_")) or name in dict(splits):
            raise UserError(f"--split is {text!r}", allowed="names with parts from 0 to 1: train=0.9,validation=0.1")
        splits.append((name, share))
    if sum(part for _, part in splits) > 1 + 1e-9:
        raise UserError(f"--split is {text!r}: its parts make more than 1")
    return tuple(splits)


def read_labels(path: Path) -> tuple[tuple[str, int], ...]:
    """Read names of labels: JSON of names to numbers, or a name on each line, counted from 0.

    Raises:
        UserError: neither, or a name or number that comes twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
        value = json.loads(text) if text.lstrip().startswith(("{", "[")) else text.splitlines()
    except (OSError, ValueError) as error:
        raise UserError(f"--labels {path} cannot be read: {error}") from error
    if isinstance(value, list):
        names = [str(name).strip() for name in value]
        pairs = [(name, number) for number, name in enumerate(name for name in names if name)]
    else:
        pairs = [(str(name), number) for name, number in value.items()]
    if any(not isinstance(number, int) or isinstance(number, bool) for _, number in pairs):
        raise UserError(f"--labels {path}: a number is none", allowed='{"cat": 0, "dog": 1}, or a name on each line')
    if not pairs or len({name for name, _ in pairs}) < len(pairs) or len({number for _, number in pairs}) < len(pairs):
        raise UserError(f"--labels {path}: it is empty, or a name or a number comes twice")
    return tuple(pairs)


def _plan(request: Request, *, as_json: bool) -> int:
    with tempfile.TemporaryDirectory() as work:
        found = preview(request, Path(work))
    shards = [
        {"name": slot.name, "samples": slot.end - slot.begin, "split": found.plan.lines[slot.line].split}
        for slot in found.plan.slots
    ]
    if as_json:
        about = {"form": found.form, "samples": found.samples, "left_out": found.plan.left_out}
        sys.stdout.write(
            json.dumps({**about, "labels": found.labels, "why": found.plan.reason, "shards": shards}) + "\n"
        )
        return 0
    lines = [f"{found.samples:,} samples of {found.form}: {found.plan.reason}"]
    lines += [f"  {shard['name']}  {shard['samples']:,} samples" for shard in shards[:20]]
    lines += [f"  ... {len(shards) - 20} more"] if len(shards) > 20 else []
    sys.stdout.write("\n".join(lines) + "\n")
    return 0


def _verify(flags: argparse.Namespace) -> int:
    directory = Path(flags.verify)
    processes = read_processes(flags.processes)
    began = time.monotonic()
    with ProcessPoolExecutor(processes) if processes > 1 else contextlib.nullcontext() as executor:
        manifest, problems = verify(directory, executor)
    seconds = time.monotonic() - began
    if flags.json:
        about = {"shards": len(manifest.shards), "samples": manifest.samples, "bytes": manifest.bytes}
        sys.stdout.write(json.dumps({"ok": not problems, "problems": problems, **about}) + "\n")
        return 1 if problems else 0
    shown = [f"  {problem}" for problem in problems[: 4 * SHOWN]]
    more = [f"  ... {len(problems) - len(shown)} more"] if len(problems) > len(shown) else []
    head = f"{len(problems)} problems" if problems else "all is as it was made"
    facts = f"{len(manifest.shards)} shards, {manifest.samples:,} samples, {manifest.bytes / 1e6:,.1f} MB"
    sys.stdout.write("\n".join([f"{head}: {facts}, {seconds:.1f} s", *shown, *more]) + "\n")
    return 1 if problems else 0


class _Said:
    """Says how far a conversion is, and when it will be there."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else SAY_S):
            return
        self._last = now
        line = told_progress(progress, now - self._began)
        sys.stderr.write(f"\r\033[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")


def told_progress(progress: Progress, seconds: float) -> str:
    """Return a line of progress.

    >>> told_progress(Progress(samples=500, of=1000, shards=1, of_shards=4), 10.0)
    '500 of 1,000 samples (50.0 %), 1 of 4 shards, 50 samples/s, ready in 10 s'
    """
    part = 100 * progress.samples / max(1, progress.of)
    line = f"{progress.samples:,} of {progress.of:,} samples ({part:.1f} %), {progress.shards} of "
    line += f"{progress.of_shards} shards"
    # What an interrupted conversion left says nothing about the speed of this one.
    rate = (progress.samples - progress.kept) / max(seconds, 1e-9)
    if rate > 0:
        left = (progress.of - progress.samples) / rate
        hours, minutes = divmod(int(left) // 60, 60)
        told = f"{hours} h {minutes} min" if hours else f"{minutes} min" if left >= 120 else f"{left:.0f} s"
        line += f", {rate:,.0f} samples/s, ready in {told}"
    return line


def _told(out: Path, manifest: Manifest, seconds: float) -> str:
    part = "" if manifest.share[1] == 1 else f" (part {manifest.share[0] + 1} of {manifest.share[1]})"
    lines = [
        f"{manifest.samples:,} samples in {len(manifest.shards)} shards, {manifest.bytes / 1e6:,.1f} MB, "
        f"{seconds:.1f} s: {out}{part}"
    ]
    splits: Mapping[str, Mapping[str, int]] = manifest.as_json()["splits"]
    for name, held in splits.items():
        if name:
            lines.append(f"  {name}: {held['samples']:,} samples in {held['shards']} shards")
    if manifest.labels:
        few = ", ".join(f"{name}={number}" for name, number in list(manifest.labels.items())[:SHOWN])
        lines.append(f"labels: {few}{', ...' if len(manifest.labels) > SHOWN else ''}")
    if manifest.left_out:
        lines.append(f"{manifest.left_out:,} samples belong to no split")
    if manifest.bad or manifest.unread:
        note = out / (BAD if manifest.share[1] == 1 else f"{BAD}.{manifest.share[0] + 1}")
        lines.append(f"{manifest.bad:,} samples and {manifest.unread:,} files were left out, see {note}:")
        with contextlib.suppress(OSError), note.open(encoding="utf-8") as stream:
            for _, line in zip(range(SHOWN), stream, strict=False):
                problem = json.loads(line)
                lines.append(f"  {problem['name']}: {problem['why']}")
    return "\n".join(lines)
