"""``slipway check``: what its flags mean, and the report."""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError
from runtime.base.redact import learn
from runtime.check.clause import Kind
from runtime.check.clauses import CLAUSES
from runtime.check.lab import Lab, OwnJob
from runtime.check.report import Report
from runtime.check.runner import check
from runtime.local.request import parse_request
from runtime.testing import answers

ENDED = 130
"""Exit status after Ctrl-C, as shells have it."""


def run_check(flags: argparse.Namespace) -> int:
    """Do what the flags say.

    Returns:
        0 when nothing failed, 1 when a clause did, 130 after Ctrl-C.
    """
    kind: Kind = flags.kind
    if flags.list:
        print(_catalogue(kind))
        return 0
    if not flags.image:
        raise UserError("No image is named", fix="slipway check IMAGE, or --list to see the clauses")
    if not answers():
        raise UserError("No Docker engine answers", fix="start dockerd, or set DOCKER_HOST")
    job = read_job(flags)
    if job:
        learn(job.environment)
        learn(dict(job.hyperparameters) | dict(job.failing))

    def make_lab(home: Path) -> Lab:
        limits = {"deadline_s": flags.deadline, "grace_s": flags.grace, "max_gb": flags.max_size}
        return Lab(flags.image, home, kind=kind, job=job, **limits)

    # A cancelled CI job gets SIGTERM; containers are removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        report = check(make_lab, kind, flags.only)
    except KeyboardInterrupt:
        sys.stderr.write("slipway: the check was ended; its containers are removed\n")
        return ENDED
    if flags.junit:
        _write(Path(flags.junit), report)
    print(json.dumps(report.as_json(), indent=2, ensure_ascii=False) if flags.json else report.table())
    sys.stdout.flush()
    return int(report.failed(strict=flags.strict))


def read_job(flags: argparse.Namespace) -> OwnJob | None:
    """Put together the job that the caller describes; None when nothing is described.

    Raises:
        UserError: a flag or the request is wrong.
    """
    if not (flags.job or flags.hp or flags.channel or flags.env or flags.failing_hp):
        return None
    base = _requested(Path(flags.job)) if flags.job else OwnJob()
    channels = dict(base.channels) | {name: Path(path).absolute() for name, path in _pairs(flags.channel, "--channel")}
    for name, path in channels.items():
        if not path.is_dir():
            raise UserError(f"Channel {name}: {path} is no directory", fix="name a directory of this machine")
    return OwnJob(
        hyperparameters=dict(base.hyperparameters) | dict(_pairs(flags.hp, "--hp")),
        channels=channels,
        environment=dict(base.environment) | dict(_pairs(flags.env, "--env")),
        entrypoint=base.entrypoint,
        arguments=base.arguments,
        failing=dict(_pairs(flags.failing_hp, "--failing-hp")),
    )


def _pairs(texts: Iterable[str], flag: str) -> list[tuple[str, str]]:
    pairs = [text.partition("=") for text in texts]
    wrong = next((name for name, found, _ in pairs if not found or not name), None)
    if wrong is not None:
        raise UserError(f"{flag} {wrong}", allowed=f"it is {flag} NAME=VALUE")
    return [(name, value) for name, _, value in pairs]


def _requested(path: Path) -> OwnJob:
    try:
        loaded: object = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"Request {path} cannot be read: {error.strerror}", fix="name a JSON file") from error
    except ValueError as error:
        raise UserError(f"Request {path} is not JSON: {error}") from error
    if not isinstance(loaded, dict):
        raise UserError(f"Request {path} holds {type(loaded).__name__}", allowed="a request is a JSON object")
    request = cast("dict[str, Any]", loaded)
    if "ProcessingJobName" in request:
        return _processing(request)
    spec, _ = parse_request(request, engine="docker")
    return OwnJob(
        hyperparameters=spec.hyperparameters,
        channels={channel.name: channel.source for channel in spec.channels},
        environment=spec.environment,
        entrypoint=spec.container_entrypoint,
        arguments=spec.container_arguments,
    )


def _processing(request: Mapping[str, Any]) -> OwnJob:
    told: Mapping[str, object] = request.get("AppSpecification") or {}
    environment = cast("Mapping[str, str]", request.get("Environment") or {})
    return OwnJob(
        environment=environment,
        entrypoint=_words(told, "ContainerEntrypoint"),
        arguments=_words(told, "ContainerArguments"),
    )


def _words(told: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = cast("list[object]", told.get(key) or [])
    if not isinstance(value, list) or not all(isinstance(word, str) for word in value):
        raise UserError(f"AppSpecification.{key} is {value!r}", allowed="the API takes a list of strings")
    return tuple(str(word) for word in value)


def _write(path: Path, report: Report) -> None:
    try:
        path.write_text(report.junit(), encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror}", fix="choose another --junit") from error


def _catalogue(kind: Kind) -> str:
    lines: list[str] = []
    for clause in CLAUSES:
        if kind in clause.kinds:
            lines += [f"{clause.id} ({clause.level}): {clause.title}", f"    why: {clause.why}"]
            lines += [f"    source: {clause.source}", f"    tried: {clause.tried}"]
    return "\n".join(lines)
