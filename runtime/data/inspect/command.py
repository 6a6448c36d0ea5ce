"""``slipway inspect``: finds what is meant, looks, and prints."""

import argparse
import json
import sys
from pathlib import Path

from runtime.base import env, log
from runtime.base.errors import UserError, did_you_mean
from runtime.contract.job import Channel, Job, read_job
from runtime.contract.paths import Paths
from runtime.data.inspect.advise import Plan, advise
from runtime.data.inspect.look import Dataset, look
from runtime.data.inspect.prices import read_prices
from runtime.data.inspect.table import told, told_advice

FORMAT = 1


def run_inspect(flags: argparse.Namespace) -> int:
    """Do what the flags say.

    Returns:
        0, or 1 when it cannot be read as a channel.

    Raises:
        UserError: nothing of that name, or flags that mean nothing.
    """
    _check(flags)
    log.configure(host="slipway", level="warning")  # what was found and why is in the table
    if (Path(flags.what) / "index.json").is_file() and _tell_index(Path(flags.what), flags):
        return 0
    if flags.what.startswith("s3://"):
        from runtime.data.inspect.bucket import look_at_bucket

        found, mode = look_at_bucket(flags.what, content_type=flags.content_type, seconds=flags.seconds), "FastFile"
    else:
        channel = _channel(flags.what, flags.content_type, env.process_environ())
        mode = channel.input_mode
        found = look(_as_files(channel), seconds=flags.seconds, show=flags.show, mode=mode)
    plan = None
    if flags.advise:
        wanted = Plan(
            hosts=flags.hosts,
            instance=flags.instance,
            epochs=flags.epochs,
            workers=flags.workers or 8,
            device_samples_per_s=flags.device_samples_per_s,
            host_usd_per_h=flags.price,
        )
        plan = advise(found, wanted, read_prices(Path(flags.prices) if flags.prices else None))
    if flags.json:
        about = {"format": FORMAT, "mode": mode, **found.as_json(), **({"advise": plan.as_json()} if plan else {})}
        sys.stdout.write(json.dumps(about, indent=2) + "\n")
    else:
        lines = told(found) + (told_advice(plan) if plan else [])
        # Names of files need not be UTF-8.
        sys.stdout.write("\n".join(lines).encode("utf-8", "backslashreplace").decode() + "\n")
    return 1 if _is_broken(found) else 0


def _tell_index(path: Path, flags: argparse.Namespace) -> bool:
    """Tell of an index; False when it is none."""
    from runtime.data.index.reader import Index  # needs orjson, which data of other kinds does not
    from runtime.data.index.segments import read_built

    built = read_built(path)
    if built is None:
        return False
    with Index(path) as index:
        rows = [index[number * len(index) // flags.show] for number in range(min(flags.show, len(index)))]
    about = {"path": str(path), "root": built.root, "rows": built.rows, "kind": built.options.kind}
    about |= {"directories": built.directories, "problems": built.problems, "digest": built.digest, "shown": rows}
    if flags.json:
        sys.stdout.write(json.dumps({"format": FORMAT, "index": about}, indent=2) + "\n")
        return True
    lines = [
        f"an index of {built.rows:,} rows ({built.options.kind}) of {built.root}, {built.directories:,} directories, "
        f"{built.problems:,} images got no row; digest {built.digest[:16]}",
        *(json.dumps(row, ensure_ascii=False) for row in rows),
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return True


def _is_broken(found: Dataset) -> bool:
    return bool(found.refused) and found.survey.complete


def _check(flags: argparse.Namespace) -> None:
    for name, least in (("seconds", 0.1), ("hosts", 1), ("epochs", 0.001), ("show", 0), ("workers", 0)):
        if not getattr(flags, name) >= least:
            raise UserError(f"--{name} is {getattr(flags, name)}", allowed=f"it is at least {least}")
    for name in ("device_samples_per_s", "price"):
        if not getattr(flags, name) >= 0:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(flags, name)}", allowed="it is at least 0")


def _channel(what: str, content_type: str, environ: env.Environ) -> Channel:
    """Take a path, or a channel of the job inside of which we run."""
    path = Path(what)
    job: Job | None = None
    if "/" not in what and what not in (".", ".."):
        job = read_job(Paths.from_environ(environ), environ)
        if what in job.channels:
            known = job.channels[what]
            return known if not content_type else _with_type(known, content_type)
    if path.exists():
        return Channel(path.resolve().name or "data", str(path), content_type=content_type)
    names = list(job.channels) if job is not None else []
    raise UserError(
        f"{what} is no path here, and no channel of a job{'' if names else ' (this is not inside of one)'}",
        allowed=did_you_mean(what, names),
        fix="give a directory, a file, an s3:// prefix, or the name of a channel",
    )


def _with_type(channel: Channel, content_type: str) -> Channel:
    return Channel(channel.name, channel.directory, channel.input_mode, channel.distribution, content_type)


def _as_files(channel: Channel) -> Channel:
    """See a channel as files: FastFile and mounts are such; a FIFO gives its bytes once, and to the job."""
    if channel.input_mode == "Pipe" and not channel.path.exists():
        raise UserError(
            f"Channel {channel.name!r} is in Pipe mode: to look into it would take its data from the job",
            fix="look at the data where it is stored: slipway inspect s3://BUCKET/PREFIX",
        )
    return Channel(channel.name, channel.directory, "File", channel.distribution, channel.content_type)
