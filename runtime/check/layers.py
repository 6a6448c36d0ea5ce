"""Secrets in an image: in the files of any layer, also those that a later layer removes, and in its configuration."""

from __future__ import annotations

import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from runtime.base.redact import is_secret, looks_random

BIGGEST_TEXT = 64 * 1024
"""Bytes; keys and credential files are smaller, and reading all of a big image would take minutes."""
_NAMES = (
    (re.compile(r"(^|/)\.netrc$"), "logins"),
    (re.compile(r"(^|/)\.aws/credentials$"), "AWS credentials"),
    (re.compile(r"(^|/)\.docker/config\.json$"), "logins of registries"),
    (re.compile(r"(^|/)\.git-credentials$"), "logins"),
    (re.compile(r"(^|/)\.pypirc$"), "logins"),
    (re.compile(r"(^|/)\.ssh/id_[a-z0-9]+$"), "a private key"),
    (re.compile(r"(^|/)etc/ssh/ssh_host_[a-z0-9]+_key$"), "a host's private key"),
    (re.compile(r"(^|/)(\.huggingface|huggingface)/token$"), "a token"),
)
"""Files that are secrets whatever they hold."""
_TEXTS = (
    (re.compile(rb"-----BEGIN [A-Z ]*PRIVATE KEY-----\s+[A-Za-z0-9+/=\s:,-]{60,}"), "a private key"),
    (re.compile(rb"(?<![A-Z0-9])(?:AKIA|ASIA)(?!IOSFODNN7)[A-Z0-9]{16}(?![A-Z0-9])"), "an AWS access key"),
    (re.compile(rb"(?<![A-Za-z0-9_])(?:gh[pousr]_[A-Za-z0-9]{36}|hf_[A-Za-z]{34}|glpat-[\w-]{20})(?!\w)"), "a token"),
)
_LIBRARIES = re.compile(
    r"(^|/)(tests?|testing|test_?data|examples?|docs?)/|(^|/)usr/share/|\.(pyc|so[.\d]*)$"
    r"|(site|dist)-packages/.*\.(py|pyi|md|rst|html|h|json)$"
)
"""Where the examples and test keys of libraries are; a name above counts there too, a text does not."""


@dataclass(frozen=True)
class Scan:
    """What was found in layers."""

    found: tuple[str, ...]
    files: int
    layers: int
    problem: str = ""
    """Why nothing can be said."""


def scan_layers(image: str) -> Scan:
    """Read every layer of an image as the engine saves it."""
    client = shutil.which("docker") or "docker"
    with subprocess.Popen([client, "save", image], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as saving:
        if saving.stdout is None:
            raise RuntimeError("no output was asked for")
        try:
            scan = scan_archive(saving.stdout)
        except (tarfile.TarError, OSError, EOFError) as error:
            saving.kill()
            return Scan((), 0, 0, f"docker save {image}: {error}")
        saving.stdout.read()
    return scan if saving.returncode == 0 else Scan((), 0, 0, f"docker save {image}: exit code {saving.returncode}")


def scan_archive(stream: IO[bytes]) -> Scan:
    """Read the archive of ``docker save``, in the old form (LAYER/layer.tar) or as OCI blobs."""
    found: list[str] = []
    files = layers = 0
    with tarfile.open(fileobj=stream, mode="r|") as outer:
        for member in outer:
            name = member.name
            if not member.isfile() or not (name.endswith("/layer.tar") or name.startswith("blobs/sha256/")):
                continue
            held = outer.extractfile(member)
            if held is None:
                continue
            try:
                with tarfile.open(fileobj=held, mode="r|*") as layer:
                    layers += 1
                    for inner in layer:
                        if inner.isfile():
                            files += 1
                            found.extend(_secrets_of(layer, inner))
            except tarfile.ReadError:
                continue  # a blob that is no layer: a manifest, a configuration
    return Scan(tuple(dict.fromkeys(found)), files, layers)


def _secrets_of(layer: tarfile.TarFile, member: tarfile.TarInfo) -> Iterable[str]:
    path = f"/{member.name.removeprefix('./')}"
    for pattern, what in _NAMES:
        if pattern.search(path) and member.size:
            yield f"{path}: {what}"
            return
    if member.size > BIGGEST_TEXT or _LIBRARIES.search(path):
        return
    held = layer.extractfile(member)
    text = held.read() if held else b""
    if b"\0" in text[:512]:
        return
    for pattern, what in _TEXTS:
        if pattern.search(text):
            yield f"{path}: {what}"
            return


def secrets_of_configuration(
    environment: Mapping[str, str], labels: Mapping[str, str], steps: Sequence[str]
) -> list[str]:
    """Name what looks like a secret, never its value.

    Args:
        environment: ENV.
        labels: LABEL.
        steps: commands of the history, build arguments included.
    """
    found = [f"ENV {name}" for name, value in environment.items() if value and _is_secret(name, value)]
    found += [f"LABEL {name}" for name, value in labels.items() if value and _is_secret(name, value)]
    for step in steps:
        for name, value in _pairs(step):
            told = f"{name} in the build's history"
            if _is_secret(name, value) and not {f"ENV {name}", f"LABEL {name}", told} & set(found):
                found.append(told)
    return found


def _is_secret(name: str, value: str) -> bool:
    return is_secret(name, value) or any(pattern.search(value.encode()) for pattern, _ in _TEXTS)


def _pairs(step: str) -> list[tuple[str, str]]:
    """``NAME=value`` in a step of the history; a reference such as ``$TOKEN`` is no value."""
    found = re.findall(r"(?<![\w$-])([A-Za-z_][A-Za-z0-9_]*)=(\"[^\"]*\"|'[^']*'|[^\s;&|]+)", step)
    pairs = [(name, value.strip("\"'")) for name, value in found]
    return [
        (name, value) for name, value in pairs if value and "$" not in value and (len(value) > 5 or looks_random(value))
    ]
