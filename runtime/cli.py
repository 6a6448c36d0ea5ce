"""The command ``slipway``. Every verb imports its part when it is used, so that ``--help`` is quick."""

import argparse
import json
import sys
from collections.abc import Callable, Sequence

from runtime.base import env, log, redact
from runtime.base.errors import ExitCode, PlatformError, UserError
from runtime.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.checkpoint.listing import Listed

STATUS_CODES = {"Completed": 0, "Failed": 1, "Stopped": 3}
"""Exit codes of ``slipway run``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Entry of the executable ``slipway``.

    Returns:
        0; 1 for a failed job or a mistake of the user; 2 for a wrong command line or a fault of the platform;
        3 for a stopped job.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    # Its words are those of docker-compose, with options before the verb.
    flags = None if words[:1] == ["compose"] else _parser().parse_args(words)
    log.configure(host="slipway")
    try:
        if flags is None:
            from runtime.local.compose.command import main as compose

            return compose(words[1:])
        verb: Callable[[argparse.Namespace], int] = flags.verb
        return verb(flags)
    except UserError as error:
        sys.stderr.write(f"slipway: {error}\n")
        return int(ExitCode.USER_ERROR)
    except PlatformError as error:
        sys.stderr.write(f"slipway: {error}\n")
        return int(ExitCode.PLATFORM_ERROR)
    except BrokenPipeError:
        # The reader of our output has gone, as `head` does; Python would complain again at its own end.
        sys.stdout = None
        return int(ExitCode.COMPLETED)


def _parser() -> argparse.ArgumentParser:
    from runtime.check.flags import add_flags as add_check_flags
    from runtime.data.convert.flags import add_flags as add_convert_flags
    from runtime.data.index.flags import add_flags as add_index_flags
    from runtime.data.inspect.flags import add_flags as add_inspect_flags
    from runtime.local.flags import add_flags

    parser = argparse.ArgumentParser(prog="slipway", description="Runs and explains training jobs on this machine.")
    parser.add_argument("--version", action="version", version=f"slipway {__version__}")
    verbs = parser.add_subparsers(required=True, metavar="VERB")
    run = verbs.add_parser("run", help="run a training job on this machine")
    add_flags(run)
    run.set_defaults(verb=_run)
    plan = verbs.add_parser("plan", help="print what `train` would launch here and why; launches nothing")
    plan.add_argument("--json", action="store_true")
    plan.add_argument("--settings", action="store_true", help="print every setting and environment variable instead")
    plan.set_defaults(verb=_plan)
    doctor = verbs.add_parser("doctor", help="look for what would stop a job in this container; no torch is imported")
    doctor.add_argument("--json", action="store_true")
    doctor.add_argument("--no-network", action="store_true", help="ask neither names nor ports")
    doctor.set_defaults(verb=_doctor)
    compose = verbs.add_parser("compose", help="run local mode of the SageMaker SDKs: stands in for docker-compose")
    compose.add_argument("--path", action="store_true", help="print the directory to put first on PATH")
    clean = verbs.add_parser("clean", help="remove containers and networks of dead runs; living ones are left alone")
    clean.add_argument("--all", action="store_true", help="also those of which this machine cannot tell")
    clean.set_defaults(verb=_clean)
    check = verbs.add_parser("check", help="does an image honour the contract? Needs a Docker engine")
    add_check_flags(check)
    check.set_defaults(verb=_check)
    index = verbs.add_parser("index", help="list the images of a tree, with captions or labels, for loading by number")
    add_index_flags(index)
    index.set_defaults(verb=_index)
    convert = verbs.add_parser("convert", help="turn any form of a dataset into any other, in shards with a manifest")
    add_convert_flags(convert)
    convert.set_defaults(verb=_convert)
    inspect = verbs.add_parser("inspect", help="what a dataset is, how fast it is read here; lists checkpoints too")
    add_inspect_flags(inspect)
    inspect.set_defaults(verb=_inspect)
    report = verbs.add_parser("report", help="make the profile report of a run")
    report.add_argument("directory", metavar="DIR", help="output directory of a run")
    report.add_argument("--compare", metavar="DIR", help="an earlier run to compare with")
    report.add_argument("--out", metavar="FILE.html", help="default DIR/report.html")
    report.add_argument("--json", action="store_true", help="print the figures instead")
    report.set_defaults(verb=_report)
    return parser


def _run(flags: argparse.Namespace) -> int:
    from runtime.local.flags import read_flags
    from runtime.local.request import parse_request
    from runtime.local.runner import run_job
    from runtime.local.summary import describe

    request, options = read_flags(flags, env.process_environ())
    spec, warnings = parse_request(request, options.engine)
    if options.engine == "docker" and not spec.image:
        raise UserError(
            "--engine docker: the request names no image",
            allowed="it runs AlgorithmSpecification.TrainingImage",
            fix="add --image, such as --image slipway-pytorch:cpu",
        )
    if spec.image and options.engine == "process":
        warnings.append(f"image {spec.image!r} is not started: engine process runs the job with this Python")
    for warning in warnings:
        log.Log("local").warning(warning)
    record = run_job(spec, options)
    if options.as_json:
        print(json.dumps(record.as_json(), indent=2))
    else:
        print(describe(record))
    return STATUS_CODES.get(record.status, 1)


def _clean(flags: argparse.Namespace) -> int:
    from runtime.local.containers import Docker
    from runtime.local.inputs.mounts import clean_mounts
    from runtime.local.leftovers import clean

    mounts, _ = clean_mounts(everything=flags.all)
    for path in mounts:
        print(f"removed mount {path}")
    docker = Docker()
    try:
        done = clean(docker, everything=flags.all)
    finally:
        docker.close()
    for name in (*done.containers, *done.networks):
        print(f"removed {name}")
    for job in done.alive:
        print(f"job {job} runs: left alone")
    for job in done.unknown:
        print(f"job {job} was started on another machine or in another container: left alone, --all removes it")
    if not (done.containers or done.networks or mounts):
        print("nothing to remove")
    return 0


def _plan(flags: argparse.Namespace) -> int:
    from runtime import plan_report
    from runtime.contract.paths import Paths
    from runtime.launch.launcher import prepare

    environ = env.process_environ()
    if flags.settings:
        return _settings(environ, as_json=flags.json)
    job, _, plan = prepare(Paths.from_environ(environ), environ)
    redact.learn(environ)
    redact.learn(job.hyperparameters)
    if flags.json:
        print(json.dumps(plan_report.as_json(job, plan), indent=2))
        return 0
    print("\n".join(plan_report.headline(job, plan)))
    _table([("CHOICE", "VALUE", "BECAUSE"), *plan_report.choices(plan)])
    for warning in plan.warnings:
        print(f"warning: {redact.redact(warning)}")
    return 0


def _doctor(flags: argparse.Namespace) -> int:
    from runtime.contract.paths import Paths
    from runtime.launch.doctor import describe, examine

    environ = env.process_environ()
    report = examine(Paths.from_environ(environ), environ, network=not flags.no_network)
    print(json.dumps(report.as_json(), indent=2) if flags.json else describe(report))
    return int(ExitCode.USER_ERROR if report.stops else ExitCode.COMPLETED)


def _check(flags: argparse.Namespace) -> int:
    from runtime.check.command import run_check

    return run_check(flags)


def _index(flags: argparse.Namespace) -> int:
    try:
        from runtime.data.index.command import run_index
    except ImportError as error:
        raise UserError(
            f"Indexes need a package: {error}", fix="install the extra: pip install 'slipway[data]'"
        ) from error
    return run_index(flags)


def _inspect(flags: argparse.Namespace) -> int:
    from pathlib import Path

    from runtime.checkpoint.listing import list_checkpoints

    if found := list_checkpoints(Path(flags.what)):
        return _checkpoints(found, as_json=flags.json)
    try:
        from runtime.data.inspect.command import run_inspect
    except ImportError as error:
        raise UserError(
            f"Looking into data needs a package: {error}", fix="install the extra: pip install 'slipway[data]'"
        ) from error
    return run_inspect(flags)


def _checkpoints(found: Sequence["Listed"], *, as_json: bool) -> int:
    if as_json:
        print(json.dumps({"format": 1, "checkpoints": [vars(one) for one in found]}, indent=2))
        return 0
    rows = [
        (one.name, str(one.step), f"{one.num_bytes:,}", str(one.world_size or "-"), one.why or "complete")
        for one in found
    ]
    _table([("CHECKPOINT", "STEP", "BYTES", "RANKS", "STATE"), *rows])
    newest = next((one for one in found if one.complete), None)
    print(f"a job resumes from {newest.name}" if newest else "a job finds nothing to resume from here")
    return 0


def _convert(flags: argparse.Namespace) -> int:
    try:
        from runtime.data.convert.command import run_convert
    except ImportError as error:
        raise UserError(
            f"Conversions need a package: {error}", fix="install the extra: pip install 'slipway[data]'"
        ) from error
    return run_convert(flags)


def _settings(environ: env.Environ, *, as_json: bool) -> int:
    from runtime.contract.job import read_job
    from runtime.contract.paths import Paths
    from runtime.contract.settings import MEANINGS, NAMES, resolve

    settings = resolve(read_job(Paths.from_environ(environ), environ).hyperparameters, environ)
    rows = [(f"slipway_{name}", str(getattr(settings, name)), settings.origin(name), MEANINGS[name]) for name in NAMES]
    variables = [(item.name, item.set_by, item.meaning) for item in env.VARIABLES]
    if as_json:
        tables = {
            "settings": [dict(zip(("name", "value", "origin", "meaning"), row, strict=True)) for row in rows],
            "environment": [dict(zip(("name", "set_by", "meaning"), row, strict=True)) for row in variables],
        }
        print(json.dumps(tables, indent=2))
        return 0
    _table([("SETTING", "VALUE", "FROM", "MEANING"), *rows])
    print("\nEach is the hyperparameter slipway_NAME, or the variable SLIPWAY_NAME. Other variables:\n")
    _table([("VARIABLE", "SET BY", "MEANING"), *variables])
    return 0


def _table(rows: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]) - 1)]
    for row in rows:
        print("  ".join([*(cell.ljust(width) for cell, width in zip(row, widths, strict=False)), row[-1]]).rstrip())


def _report(flags: argparse.Namespace) -> int:
    from pathlib import Path

    from runtime.profile.report import build_report, summarise

    directory = Path(flags.directory)
    compare = Path(flags.compare) if flags.compare else None
    if flags.json:
        facts = dict(summarise(directory))
        if compare is not None:
            facts["compare"] = summarise(compare)
        print(json.dumps(facts, indent=2))
        return 0
    page = build_report(directory, compare)
    target = Path(flags.out) if flags.out else directory / "report.html"
    try:
        target.write_text(page, encoding="utf-8")
    except OSError as error:
        raise UserError(f"{target} cannot be written: {error.strerror}", fix="choose another --out") from error
    print(target)
    return 0


if __name__ == "__main__":
    sys.exit(main())
