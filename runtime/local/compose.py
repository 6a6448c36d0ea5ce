"""A stand-in for docker-compose, so that local mode of an unmodified SageMaker SDK runs through our platform.

Both SDKs write a compose file and every host's configuration, call ``docker-compose -f FILE up ...``, and collect what
lies in the directories that the file mounts. Here the hosts get a network of their own, the job ends when *all* hosts
have ended, causes and logs are kept, each host has a model directory of its own that is merged at the end, and what
`slipway run` can do is had by flags in the variable ``SLIPWAY_RUN_FLAGS``.
"""

import argparse
import fcntl
import hashlib
import importlib
import json
import os
import re
import shlex
import shutil
import stat
import struct
import sys
import termios
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

from runtime.base.env import Environ, process_environ
from runtime.base.errors import PlatformError, UserError, one_line
from runtime.base.log import Log
from runtime.contract.job import DEFAULT_GROUP, natural_key
from runtime.contract.paths import DEFAULT_BASE
from runtime.local.containers import ContainerSpec, Mount
from runtime.local.docker_engine import DockerEngine
from runtime.local.docker_options import DockerOptions
from runtime.local.engine import Host
from runtime.local.environment import package_path
from runtime.local.flags import RunOptions, add_flags, read_flags
from runtime.local.request import CheckpointSpec, GroupSpec, TrainingJobSpec
from runtime.local.runner import run_job
from runtime.local.summary import describe
from runtime.local.tree import open_to_all
from runtime.version import __version__

log = Log("compose")

USED_FLAGS = {
    *("--checkpoints", "--interrupt-after", "--interrupt-signal", "--max-run"),
    *("--network-isolation", "--output", "--shm-size", "--memory"),
}
"""Flags of ``slipway run`` that say something about a job which an SDK describes."""
USERS_OWN = (f"{DEFAULT_BASE}/code", f"{DEFAULT_BASE}/input/data")
"""Where the SDKs mount what is the user's, or a colleague's: its owner is none of our business."""
DRAIN_S = 10.0
"""For the reader of our output to take it: a bound for one that does not read."""
SUCCESS_OF_SDKS = 130
"""An exit code that both SDKs take for success, as if every Ctrl-C ended a job well."""


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
    all_gpus: bool = False


@dataclass(frozen=True)
class Composition:
    """A compose file."""

    path: Path
    job: str
    """Name of the job, from the hosts' environment, else of the file's directory."""
    services: tuple[Service, ...]
    """In natural order of the hosts."""


def read_composition(path: Path) -> Composition:
    """Read a compose file of SDK v2 or v3.

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
    read = [_service(name, _mapping(value, f"services.{name}"), home) for name, value in services.items()]
    if not read:
        raise UserError(f"Compose file {path} names no service")
    read.sort(key=lambda service: natural_key(service.name))
    name = read[0].environ.get("TRAINING_JOB_NAME") or path.absolute().parent.name
    job = re.sub(r"[^a-zA-Z0-9]+", "-", name).strip("-")[:63].strip("-") or "job"
    return Composition(path, job, tuple(read))


def _service(name: str, value: Mapping[str, object], home: Path) -> Service:
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
        environ=_environ(value.get("environment")),
        mounts=tuple(_mount(text, home) for text in cast("list[str]", value.get("volumes") or [])),
        entrypoint=_words(value.get("entrypoint")),
        command=command,
        aliases=tuple(sorted(aliases)),
        shm_bytes=_bytes(value.get("shm_size")),
        all_gpus="gpu" in json.dumps(value.get("deploy") or {}),
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


def _environ(value: object) -> dict[str, str]:
    if isinstance(value, dict):
        return {name: str(text) for name, text in cast("dict[str, object]", value).items()}
    pairs = (str(line).partition("=") for line in cast("list[object]", value or []))
    return {name: text for name, _, text in pairs}


def _mount(text: str, home: Path) -> Mount:
    source, target, *options = text.split(":")
    return Mount(home / source, target.rstrip("/"), read_only="ro" in options)


def _bytes(value: object) -> int | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]?)(?:i?b)?", str(value).lower())
    if not found:
        raise UserError(f"shm_size is {value!r}", allowed="it is a size such as 512m or 2gb")
    return int(float(found[1]) * 1024 ** " kmgt".index(found[2] or " "))


class ComposeEngine(DockerEngine):
    """Makes the hosts of a compose file, with model and output directories of their own."""

    def __init__(self, composition: Composition, options: DockerOptions) -> None:
        """Nothing is connected."""
        super().__init__(options)
        self._services = {service.name: service for service in composition.services}
        self._ended: Sequence[Host] = ()
        """Hosts of the last attempt."""

    def lay_out(self, spec: TrainingJobSpec, host: str, base: Path) -> None:
        """Make what a host writes to, and see that everything is there that the file mounts."""
        for name in ("model", "output/data", "checkpoints"):
            (base / name).mkdir(parents=True)
        open_to_all(base)
        service = self._services[host]
        for mount in service.mounts:
            if not mount.source.exists():
                mount.source.mkdir(parents=True)
            if mount.target == f"{DEFAULT_BASE}/input":
                mend(mount.source / "config", self.interface, spec)
                mount.source.chmod(0o777)  # scripts of SDK v3 write there, whatever user the image has

    def _container(self, spec: TrainingJobSpec, host: str, base: Path) -> ContainerSpec:
        service = self._services[host]
        made = super()._container(spec, host, base)
        return replace(
            made,
            environ=dict(service.environ),
            entrypoint=service.entrypoint,
            command=service.command,
            aliases=service.aliases,
            shm_bytes=self._options.shm_bytes or service.shm_bytes or made.shm_bytes,
            gpus=made.gpus if service.all_gpus else (),
        )

    def _mounts(self, spec: TrainingJobSpec, host: str, base: Path) -> tuple[Mount, ...]:
        own = {f"{DEFAULT_BASE}/model", f"{DEFAULT_BASE}/output", f"{DEFAULT_BASE}/output/data"}
        given = self._services[host].mounts
        return (
            *(mount for mount in given if mount.target not in own),
            *(Mount(base / name, f"{DEFAULT_BASE}/{name}") for name in ("model", "output")),
            *self._checkpoint_mounts(spec, base),
        )

    def _trees(self, hosts: Sequence[Host]) -> list[Path]:
        given = {
            mount.source
            for host in hosts
            for mount in self._services[host.name].mounts
            if not mount.read_only and mount.source.is_dir() and not mount.target.startswith(USERS_OWN)
        }
        return [*super()._trees(hosts), *sorted(given)]

    def finish(self, hosts: Sequence[Host]) -> None:
        """End an attempt."""
        super().finish(hosts)
        self._ended = hosts

    def close(self) -> None:
        """Put what the last attempt left where the SDK looks for it; a later host wins, as on the service."""
        super().close()
        for host in self._ended:
            for mount in self._services[host.name].mounts:
                if mount.target in (f"{DEFAULT_BASE}/model", f"{DEFAULT_BASE}/output"):
                    put(host.base / Path(mount.target).name, mount.source)


def mend(config: Path, interface: str, spec: TrainingJobSpec) -> None:
    """Complete what an SDK wrote: the interface that is there, the groups, the files that it leaves out."""
    path = config / "resourceconfig.json"
    if path.is_file():
        resources: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        kind = str(resources.get("current_instance_type") or "local")
        group: dict[str, Any] = {
            "instance_group_name": DEFAULT_GROUP,
            "instance_type": kind,
            "hosts": resources.get("hosts") or [],
        }
        resources = {  # in this order: what the SDK wrote wins, but for the interface
            "current_instance_type": kind,
            "current_group_name": DEFAULT_GROUP,
            "instance_groups": [group],
            **resources,
            "network_interface_name": interface,
        }
        path.write_text(json.dumps(resources), encoding="utf-8")
    if spec.checkpoint is not None and config.is_dir():
        content = json.dumps({"LocalPath": spec.checkpoint.local_path})
        (config / "checkpointconfig.json").write_text(content, encoding="utf-8")


def put(source: Path, target: Path) -> None:
    """Put the files of a tree into another one, over equal names; no bytes are copied where links can do it."""
    for parent, directories, names in os.walk(source):
        inside = target / Path(parent).relative_to(source)
        inside.mkdir(parents=True, exist_ok=True)
        links = [name for name in directories if Path(parent, name).is_symlink()]
        for name in (*names, *links):
            place = inside / name
            place.unlink(missing_ok=True)
            try:
                os.link(Path(parent, name), place, follow_symlinks=False)
            except OSError:  # another file system
                shutil.copy2(Path(parent, name), place, follow_symlinks=False)


def run_flags(environ: Environ) -> tuple[RunOptions, TrainingJobSpec]:
    """Read ``SLIPWAY_RUN_FLAGS``.

    Returns:
        Options of the run, and a job of which only what the flags say is of interest.

    Raises:
        UserError: a flag says what the SDK says already.
    """
    words = shlex.split(environ.get("SLIPWAY_RUN_FLAGS", ""))
    for word in words:
        flag = word.partition("=")[0]
        if flag.startswith("--") and flag not in USED_FLAGS:
            raise UserError(
                f"SLIPWAY_RUN_FLAGS has {flag}", allowed=f"with an SDK it takes {', '.join(sorted(USED_FLAGS))}"
            )
    parser = argparse.ArgumentParser(prog="SLIPWAY_RUN_FLAGS")
    add_flags(parser)
    flags = parser.parse_args(["--engine=docker", *words])
    request, options = read_flags(flags, environ)
    store = cast("dict[str, str]", request.get("CheckpointConfig") or {}).get("S3Uri")
    stopping = cast("dict[str, float]", request.get("StoppingCondition") or {})
    spec = TrainingJobSpec(
        "flags",
        # The SDKs know no checkpoints in local mode: without a directory of the user's there are none.
        checkpoint=CheckpointSpec(Path(store)) if store else None,
        max_run_s=stopping.get("MaxRuntimeInSeconds"),
        network_isolation=bool(request.get("EnableNetworkIsolation")),
    )
    return options, spec


def up(path: Path, environ: Environ) -> int:
    """Run the hosts of a compose file to their end.

    Returns:
        Exit code of the first host that failed; 0 when all did well; 1 for a job that was stopped.
    """
    composition = read_composition(path)
    options, flags = run_flags(environ)
    images = {service.image for service in composition.services}
    if len(images) > 1:
        raise UserError(f"The services of {path} have images {', '.join(sorted(images))}", allowed="a job has one")
    names = tuple(service.name for service in composition.services)
    spec = replace(
        flags,
        name=composition.job,
        image=images.pop(),
        groups=(GroupSpec(DEFAULT_GROUP, "local", len(names)),),
        names=names,
    )
    output = options.output or path.absolute().parent / "slipway" / composition.job
    width = max(len(name) for name in names)

    def show(host: str, line: str) -> None:
        print(f"{host.ljust(width)} | {line}", flush=True)

    engine = ComposeEngine(composition, options.docker)
    record = run_job(spec, replace(options, output=output, archives=False), engine, show)
    print(describe(record), flush=True)
    if record.status == "Completed":
        return 0
    code = record.exit_code or 1
    if code == SUCCESS_OF_SDKS:
        log.warning(f"exit code {code} is told as 1: the SDK would take it for success")
        return 1
    return code


def main(argv: Sequence[str]) -> int:
    """Entry of ``slipway compose``, which takes the command lines of docker-compose that the SDKs use."""
    words = list(argv)
    if words in (["--path"], ["path"]):
        print(install())
        return 0
    if words and words[0] in ("version", "--version", "-v"):
        print(f"slipway compose {__version__}")
        return 0
    files: list[str] = []
    while words and words[0].startswith("-"):
        flag, found, value = words.pop(0).partition("=")
        if flag not in ("-f", "--file", "-p", "--project-name", "--project-directory") or not (found or words):
            raise UserError(f"slipway compose {flag}", allowed="it is slipway compose -f FILE up, or --path")
        value = value if found else words.pop(0)
        files += [value] if flag in ("-f", "--file") else []
    verb = words.pop(0) if words else ""
    if verb == "down":
        return 0  # nothing outlives `up`
    if verb != "up" or len(files) != 1:
        raise UserError(f"slipway compose {' '.join(argv)}", allowed="it is slipway compose -f FILE up, or --path")
    if {"-d", "--detach"} & set(words):
        log.warning("--detach is not followed: the SDK would remove the directories of the running job")
    try:
        code = up(Path(files[0]), process_environ())
    except UserError as error:
        print(f"slipway compose: {error}", flush=True)
        code = 1
    except PlatformError as error:
        print(f"slipway compose: {error}", flush=True)
        code = 2
    drain(sys.stdout.fileno(), f"slipway compose ends with exit code {code}\n")
    return code


def drain(descriptor: int, last: str) -> None:
    """Wait until the reader of a pipe has taken all lines before the last one, and has begun to read that.

    The SDKs read a line, then look whether we have ended, and drop what is unread then. Who reads by lines goes back
    to the pipe only when all lines before were handled.
    """
    deadline = time.monotonic() + DRAIN_S
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        for text in ("", last):
            os.write(descriptor, text.encode())
            while time.monotonic() < deadline:
                waiting = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
                if not struct.unpack("i", waiting)[0]:
                    break
                time.sleep(0.005)


DOCKER_COMPOSE = """\
#!/bin/sh
# Written by `slipway compose --path`: docker-compose for local mode of the SageMaker SDKs.
{path}exec {python} -P -m runtime compose "$@"
"""
DOCKER = """\
#!/bin/sh
# Written by `slipway compose --path`: the SDKs would prefer `docker compose` to the docker-compose beside this file.
if [ "$1" = compose ]; then
  echo "docker compose: slipway stands in for it, as docker-compose" >&2
  exit 1
fi
IFS=:
for directory in $PATH; do
  if [ -x "$directory/docker" ] && ! [ "$directory/docker" -ef "$0" ]; then
    exec "$directory/docker" "$@"
  fi
done
echo "docker: the command-line client is not installed" >&2
exit 127
"""


def install(home: Path | None = None) -> Path:
    """Write the executables ``docker-compose`` and ``docker`` for this Python, and return their directory.

    Args:
        home: below it the directory is made; None: the user's cache.
    """
    environ = process_environ()
    cache = home or Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    ours = package_path()
    known = hashlib.sha256(f"{sys.executable} {ours} {__version__}".encode()).hexdigest()[:8]
    directory = cache / "slipway" / f"compose-{known}"
    directory.mkdir(parents=True, exist_ok=True)
    path = f"PYTHONPATH={shlex.quote(ours)}${{PYTHONPATH:+:$PYTHONPATH}} " if ours else ""
    texts = {
        "docker-compose": DOCKER_COMPOSE.format(python=shlex.quote(sys.executable), path=path),
        "docker": DOCKER,
    }
    for name, text in texts.items():
        partial = directory / f".{name}.{os.getpid()}"
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        partial.replace(directory / name)
    return directory
