"""Reads the compose file of an SDK: one service for each host of a job."""

import importlib
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runtime.base.env import Environ
from runtime.base.errors import UserError, one_line
from runtime.base.log import Log
from runtime.contract.job import natural_key
from runtime.local.containers import Mount

log = Log("compose")

_FOLLOWED = {
    *("image", "environment", "volumes", "entrypoint", "command", "networks"),
    *("deploy", "gpus", "runtime", "shm_size", "mem_limit", "user"),
}
_OURS = {"container_name", "stdin_open", "tty", "hostname", "network_mode"}
"""Keys that the SDKs write and for which this platform has its own answer; see docs/07-local-platform.md."""


@dataclass(frozen=True)
class Service:
    """One host of a compose file."""

    name: str
    image: str
    environ: Mapping[str, str]
    """As the file says; compose itself would replace every ``$``."""
    mounts: tuple[Mount, ...]
    entrypoint: tuple[str, ...] | None
    command: tuple[str, ...] | None
    aliases: tuple[str, ...]
    shm_bytes: int | None = None
    memory_bytes: int | None = None
    user: str = ""
    all_gpus: bool = False


@dataclass(frozen=True)
class Composition:
    """A compose file."""

    path: Path
    job: str
    """Name of the job, from the hosts' environment, else of the file's directory."""
    services: tuple[Service, ...]
    """In natural order of the hosts."""


def read_composition(path: Path, environ: Environ) -> Composition:
    """Read a compose file of SDK v2 or v3.

    Args:
        path: of the file.
        environ: of this process: a variable that the file names without a value has the one that it has here.

    Raises:
        UserError: it cannot be read, or asks for what is no job.
    """
    try:
        yaml: Any = importlib.import_module("yaml")
    except ImportError as error:
        raise UserError(
            f"Compose files cannot be read: {error}", fix="install the extra: pip install 'slipway[local]'"
        ) from error
    try:
        content: object = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(one_line(f"Compose file {path} cannot be read: {error}")) from error
    services = _mapping(_mapping(content, str(path)).get("services"), f"{path}: services")
    home = path.absolute().parent
    read = [_service(name, _mapping(value, f"services.{name}"), home, environ) for name, value in services.items()]
    if not read:
        raise UserError(f"Compose file {path} names no service")
    read.sort(key=lambda service: natural_key(service.name))
    name = read[0].environ.get("TRAINING_JOB_NAME") or path.absolute().parent.name
    job = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:63].strip("-") or "job"
    return Composition(path, job, tuple(read))


def _service(name: str, value: Mapping[str, object], home: Path, environ: Environ) -> Service:
    unknown = sorted(value.keys() - _FOLLOWED - _OURS)
    if unknown:
        log.warning(f"services.{name} has {', '.join(unknown)}: not followed by slipway compose")
    command = _words(value.get("command"))
    if command and command[0] == "serve":
        raise UserError(
            f"Service {name} serves a model", allowed="this stand-in runs training and processing jobs",
            fix="take its directory from PATH for local endpoints",
        )  # fmt: skip
    networks = value.get("networks")
    aliases = {name}
    if isinstance(networks, dict):
        for network in cast("dict[str, object]", networks).values():
            if isinstance(network, dict):
                aliases.update(cast("dict[str, list[str]]", network).get("aliases") or [])
    return Service(
        name=name,
        image=str(value.get("image") or ""),
        environ=_environ(value.get("environment"), environ),
        mounts=tuple(_mount(told, name, home) for told in cast("list[object]", value.get("volumes") or [])),
        entrypoint=_words(value.get("entrypoint")),
        command=command,
        aliases=tuple(sorted(aliases)),
        shm_bytes=_bytes("shm_size", value.get("shm_size")),
        memory_bytes=_bytes("mem_limit", value.get("mem_limit")),
        user=str(value.get("user") or ""),
        all_gpus="gpu" in json.dumps(value.get("deploy") or {}) or "gpus" in value or value.get("runtime") == "nvidia",
    )


def _mapping(value: object, where: str) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise UserError(f"{where} is {value!r}", allowed="it is a mapping")
    return cast("dict[str, object]", value)


def _words(value: object) -> tuple[str, ...] | None:
    if value is None:
        return None
    if isinstance(value, str):
        return tuple(shlex.split(value))
    return tuple(str(word) for word in cast("list[object]", value))


def _environ(value: object, here: Environ) -> dict[str, str]:
    if isinstance(value, dict):
        pairs = [(name, _text(told)) for name, told in cast("dict[str, object]", value).items()]
    else:
        parts = (str(line).partition("=") for line in cast("list[object]", value or []))
        pairs = [(name, text if found else None) for name, found, text in parts]
    # A name alone stands for the value that it has here; without one it is not set.
    return {name: here[name] if text is None else text for name, text in pairs if text is not None or name in here}


def _text(told: object) -> str | None:
    if isinstance(told, bool):
        return str(told).lower()
    return None if told is None else str(told)


def _mount(told: object, service: str, home: Path) -> Mount:
    """Read ``SOURCE:TARGET[:OPTIONS]``, or the long form of a bind mount."""
    if isinstance(told, dict):
        long = cast("dict[str, object]", told)
        if long.get("type", "bind") != "bind" or not (long.get("source") and long.get("target")):
            raise UserError(f"services.{service}: volume {told!r}", allowed="a bind mount has source and target")
        return Mount(home / str(long["source"]), str(long["target"]).rstrip("/"), bool(long.get("read_only")))
    source, found, rest = str(told).partition(":")
    if not found:
        raise UserError(f"services.{service}: volume {told!r}", allowed="it is SOURCE:TARGET")
    target, *options = rest.split(":")
    return Mount(home / source, target.rstrip("/"), read_only="ro" in ",".join(options).split(","))


def _bytes(key: str, value: object) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).lower())
    if not found:
        raise UserError(f"{key} is {value!r}", allowed="it is a size such as 512m or 2gb")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))
