"""The Docker engine, by its command-line client: the Python SDK does not speak BuildKit."""

import json
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from images.quiet import StepFailed, find_cause, run_step
from runtime.base.env import process_environ
from runtime.base.errors import UserError

LAST_WITH_BUILDKIT = 22
"""Newest major version of the client that brings BuildKit along; later ones leave it to the buildx plugin."""


def client_version(client: str) -> tuple[int, ...]:
    """Ask a docker client for its version, such as (20, 10, 24)."""
    done = subprocess.run([client, "--version"], capture_output=True, text=True, check=False)
    # Docker version 20.10.24+dfsg1, build 297e128
    words = done.stdout.partition("version ")[2]
    numbers = words.split(",")[0].split("+")[0].split("-")[0].split(".")
    return tuple(int(number) for number in numbers if number.isdigit())


def has_buildx(client: str) -> bool:
    """Tell whether this client finds the buildx plugin."""
    done = subprocess.run([client, "buildx", "version"], capture_output=True, text=True, check=False)
    return done.returncode == 0


def clients_on_path(path: str) -> list[str]:
    """List every ``docker`` on a search path, in its order."""
    found = [shutil.which("docker", path=directory) for directory in path.split(":") if directory]
    return [client for client in dict.fromkeys(found) if client]


def find_client(path: str) -> str:
    """Choose the docker client that builds: the first on PATH with BuildKit, built in or as buildx.

    A machine may have a newer client without the plugin before the distribution's own, which needs none.

    Raises:
        UserError: there is no docker, or none with BuildKit.
    """
    clients = clients_on_path(path)
    for client in clients:
        if client_version(client)[:1] <= (LAST_WITH_BUILDKIT,) or has_buildx(client):
            return client
    if clients:
        raise UserError(
            f"No docker client here has BuildKit: {', '.join(clients)}",
            fix="install the docker buildx plugin",
        )
    raise UserError("docker is not installed", fix="apt-get install docker.io, or set up Docker Engine")


@dataclass(frozen=True)
class Engine:
    """A running engine and the client that talks to it."""

    client: str
    """Path of the docker client."""
    log_dir: Path
    """Where the output of the last builds is kept."""

    @classmethod
    def connect(cls, log_dir: Path) -> "Engine":
        """Find a client and check that an engine answers.

        Raises:
            UserError: no client, or no engine.
        """
        client = find_client(process_environ().get("PATH", ""))
        asked = [client, "version", "--format", "{{.Server.Version}}"]
        done = subprocess.run(asked, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise UserError(
                f"No Docker engine answers: {find_cause(done.stderr.splitlines())}",
                fix="start dockerd (as root), or point DOCKER_HOST to a running engine",
            )
        return cls(client, log_dir)

    def has(self, tag: str) -> bool:
        """Tell whether the engine keeps this image."""
        return self._inspect(tag) is not None

    def size_mb(self, tag: str) -> float | None:
        """Return the uncompressed size in decimal megabytes; None when the image is not there."""
        facts = self._inspect(tag)
        size = facts.get("Size") if facts else None
        return size / 1e6 if isinstance(size, int) else None

    def import_tree(self, archive: Path, tag: str, labels: Mapping[str, str]) -> None:
        """Make an image of one layer from a tar archive.

        Raises:
            StepFailed: the engine refuses it.
        """
        changes = [word for key, value in labels.items() for word in ("--change", f"LABEL {key}={value}")]
        run_step(
            f"importing {tag}",
            [self.client, "import", *changes, str(archive), tag],
            self.log_dir / "import.log",
        )

    def build(
        self,
        tag: str,
        dockerfile: Path,
        context: Path,
        arguments: Mapping[str, str],
        labels: Mapping[str, str],
    ) -> None:
        """Build an image with BuildKit.

        Raises:
            StepFailed: a step of the Dockerfile fails; the error carries the whole log.
        """
        words = ["build", "--progress=plain", "--file", str(dockerfile), "--tag", tag]
        words += [*_pairs("--build-arg", arguments), *_pairs("--label", labels), str(context)]
        log = self.log_dir / f"build-{tag.replace(':', '-')}.log"
        run_step(f"building {tag}", [self.client, *words], log, environ={"DOCKER_BUILDKIT": "1"})

    def _inspect(self, tag: str) -> Mapping[str, object] | None:
        done = subprocess.run([self.client, "image", "inspect", tag], capture_output=True, text=True, check=False)
        if done.returncode == 0:
            return json.loads(done.stdout)[0]
        if "No such image" in done.stderr:
            return None
        raise StepFailed(f"asking the engine for {tag}", done.stderr)


def _pairs(option: str, values: Mapping[str, str]) -> list[str]:
    return [word for key, value in sorted(values.items()) for word in (option, f"{key}={value}")]
