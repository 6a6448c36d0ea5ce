"""``slipway index``: builds an index of a tree, brings it up to date, or merges the parts of several hosts."""

import argparse
import json
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from runtime.base import env
from runtime.base.errors import UserError
from runtime.data.index.build import Progress, Request, build
from runtime.data.index.guess import guess_kind
from runtime.data.index.merge import merge
from runtime.data.index.reader import Index
from runtime.data.index.rows import Kind, Options
from runtime.data.index.segments import Built, read_built
from runtime.data.index.tasks import Share

SAY_S = 10.0
"""Between two lines of progress in a log; a terminal gets one line that changes."""
SHOWN = 5
"""Problems that are printed; all are in the file."""


def run_index(flags: argparse.Namespace) -> int:
    """Do what the flags say.

    Returns:
        0, or 1 with ``--strict`` when an image got no row.

    Raises:
        UserError: the flags contradict each other, or the tree cannot be indexed.
    """
    out = Path(flags.out)
    began = time.monotonic()
    if flags.merge:
        if flags.root is not None:
            raise UserError("--merge and a TREE", allowed="one of them")
        built, progress = merge([Path(part) for part in flags.merge], out), None
    else:
        built, progress = _build(flags, out)
    seconds = time.monotonic() - began
    if flags.parquet:
        with Index(out) as index:
            index.to_parquet(flags.parquet)
    if flags.json:
        about = {"rows": built.rows, "digest": built.digest, "directories": built.directories}
        about |= {"problems": built.problems, "kind": built.options.kind, "seconds": round(seconds, 3)}
        about |= {"kept": progress.kept if progress else built.rows, "share": list(built.share), "out": str(out)}
        sys.stdout.write(json.dumps(about) + "\n")
    else:
        sys.stdout.write(_told(out, built, progress, seconds) + "\n")
    return 1 if flags.strict and built.problems else 0


def _build(flags: argparse.Namespace, out: Path) -> tuple[Built, Progress]:
    if flags.root is None:
        raise UserError("No TREE to index", fix="slipway index TREE --out DIR")
    root = Path(flags.root)
    if not root.is_dir():
        raise UserError(f"{root} is no directory", fix="name the directory that holds the images")
    if out.resolve().is_relative_to(root.resolve()):
        raise UserError(f"--out {out} lies inside the tree", fix="choose a place beside it")
    suffix = flags.caption_suffix
    if not suffix.startswith(".") or "/" in suffix:
        raise UserError(f"--caption-suffix is {suffix!r}", allowed="a dot and what follows it, such as .txt")
    share, processes = read_share(flags.share, env.process_environ()), read_processes(flags.processes)
    kind: Kind | Literal["auto"] = flags.kind
    if kind == "auto":
        earlier = read_built(out)
        kind, why = (earlier.options.kind, "so it was built before") if earlier else guess_kind(root)
        sys.stderr.write(f"kind={kind} because {why}\n")
    request = Request(
        root,
        out,
        Options(kind, suffix, flags.headers),
        share,
        processes,
        flags.recheck,
    )
    said = _Said()
    built, progress = build(request, said)
    said.end()
    return built, progress


def read_processes(word: str) -> int:
    """Read ``--processes``: a number, or ``auto`` for one for each CPU that this job may use."""
    from runtime.planning.hardware import probe

    if word == "auto":
        return max(1, probe(env.process_environ()).cpus)
    if not word.isdigit() or not 1 <= int(word) <= 256:
        raise UserError(f"--processes is {word!r}", allowed="auto, or 1 to 256")
    return int(word)


def read_share(word: str | None, environ: Mapping[str, str]) -> Share:
    """Read ``--share``: K/N, or ``auto`` by the job's hosts; none is everything."""
    if word is None:
        return Share()
    if word == "auto":
        from runtime.contract.job import natural_key
        from runtime.contract.paths import Paths

        path = Path(Paths.from_environ(environ).config) / "resourceconfig.json"
        if not path.exists():
            path = Path("/opt/ml/config/resourceconfig.json")  # of a processing job
        try:
            resources = json.loads(path.read_text(encoding="utf-8"))
            hosts = sorted(resources["hosts"], key=natural_key)
            return Share(hosts.index(resources["current_host"]), len(hosts))
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"--share auto: {path} does not tell the hosts: {error}", fix="give K/N") from error
    part, slash, count = word.partition("/")
    if not (slash and part.isdigit() and count.isdigit() and 1 <= int(part) <= int(count)):
        raise UserError(f"--share is {word!r}", allowed="K/N with K from 1 to N, or auto")
    return Share(int(part) - 1, int(count))


class _Said:
    """Says how far a build is."""

    def __init__(self) -> None:
        self._began = self._last = time.monotonic()
        self._terminal = sys.stderr.isatty()

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        if now - self._last < (0.2 if self._terminal else SAY_S):
            return
        self._last = now
        rate = progress.rows / (now - self._began)
        line = f"{progress.rows:,} rows of {progress.directories:,} directories, {rate:,.0f} rows/s, "
        line += f"{progress.waiting:,} directories known and waiting, {progress.problems:,} problems"
        sys.stderr.write(f"\r\033[K{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()

    def end(self) -> None:
        if self._terminal:
            sys.stderr.write("\r\033[K")


def _told(out: Path, built: Built, progress: Progress | None, seconds: float) -> str:
    part = "" if built.share == (0, 1) else f" (part {built.share[0] + 1} of {built.share[1]})"
    kept = f", {progress.kept:,} of them as they were" if progress is not None and progress.kept else ""
    lines = [
        f"{built.rows:,} rows of {built.directories:,} directories in {seconds:.1f} s{kept}: {out}{part}",
        f"kind {built.options.kind}, digest {built.digest[:16]}",
    ]
    if built.problems:
        lines.append(f"{built.problems:,} images got no row, see {out / built.stem}.problems.jsonl:")
        with Index(out) as index:
            for _, problem in zip(range(SHOWN), index.problems(), strict=False):
                lines.append(f"  {problem['path']}: {problem['why']}")
    return "\n".join(lines)
