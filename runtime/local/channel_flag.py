"""``--channel NAME=PATH[,KEY=VALUE...]`` and ``--file-system ID=DIR``: how they change a request.

Pure but for looks whether a path is there.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

from runtime.base.errors import UserError, did_you_mean
from runtime.local.changes import absolute, pair
from runtime.local.request.modes import check_limits
from runtime.local.request.spec import JobSpec
from runtime.local.s3 import is_s3

FORM = "NAME=PATH|s3://...[,mode=File|FastFile|Pipe][,distribution=FullyReplicated|ShardedByS3Key][,...]"
OPTIONS: Mapping[str, str] = {
    "mode": "File, FastFile or Pipe",
    "distribution": "FullyReplicated or ShardedByS3Key",
    "content_type": "such as text/csv",
    "wrapper": "None or RecordIO",
    "compression": "None or Gzip",
    "manifest": "yes: PATH is a ManifestFile",
    "attributes": "A:B:...: PATH is an AugmentedManifestFile",
    "shuffle": "a seed",
    "access": "ro or rw: PATH plays an EFS or FSx file system",
    "latency": "of each read, such as 20ms",
    "bandwidth": "of each read, such as 50m (bytes per second)",
}
_ENTRY_KEYS = {"mode": "InputMode", "content_type": "ContentType", "wrapper": "RecordWrapperType",
               "compression": "CompressionType"}  # fmt: skip
_NOT_OF_FILE_SYSTEMS = ("distribution", "wrapper", "compression", "manifest", "attributes", "shuffle")
_UNITS = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
Spec = TypeVar("Spec", bound=JobSpec)


@dataclass(frozen=True)
class Limits:
    """How slow the reads of a channel are: no request can say it, since the service is as slow as it is."""

    latency_s: float = 0.0
    bytes_per_s: float | None = None


def put_channel(request: dict[str, Any], text: str) -> tuple[str, Limits]:
    """Write a channel into a request; one of that name keeps what the flag does not say.

    Args:
        request: it is changed.
        text: what ``--channel`` was given.

    Returns:
        The channel's name, and its limits.

    Raises:
        UserError: it is malformed.
    """
    name, rest = pair(text, "--channel", FORM)
    path, *words = rest.split(",")
    options = _options(text, words)
    entry = _entry(request, name)
    source = cast("dict[str, Any]", entry.get("DataSource") or {})
    if "access" in options or "FileSystemDataSource" in source:
        _put_file_system(text, entry, path, options)
    else:
        _put_s3(entry, path, options)
    for option, key in _ENTRY_KEYS.items():
        if option in options:
            entry[key] = options[option]
    if "shuffle" in options:
        entry["ShuffleConfig"] = {"Seed": _whole(text, options["shuffle"])}
    return name, Limits(_latency(text, options.get("latency")), _bandwidth(text, options.get("bandwidth")))


def _options(text: str, words: Iterable[str]) -> dict[str, str]:
    options: dict[str, str] = {}
    for word in words:
        key, found, value = word.partition("=")
        if not found or key not in OPTIONS or not value:
            raise UserError(
                f"--channel {text}: {word!r}",
                allowed="after the path come " + "; ".join(f"{name}= {what}" for name, what in OPTIONS.items()),
                fix=did_you_mean(key, list(OPTIONS)).partition(" Choices")[0]
                if found
                else "a path with a comma can only be given in a REQUEST.json",
            )
        options[key] = value
    if options.get("manifest", "yes") not in ("yes", "no"):
        raise UserError(f"--channel {text}: manifest={options['manifest']}", allowed="it is yes or no")
    return options


def _put_file_system(text: str, entry: dict[str, Any], path: str, options: Mapping[str, str]) -> None:
    if is_s3(path):
        raise UserError(f"--channel {text}", allowed="a file system is played by a directory of this machine")
    for option in _NOT_OF_FILE_SYSTEMS:
        if option in options:
            raise UserError(f"--channel {text}: {option}=", allowed="a file system has access=, latency=, bandwidth=")
    before = cast("dict[str, Any]", cast("dict[str, Any]", entry.get("DataSource") or {}).get("FileSystemDataSource"))
    system: dict[str, Any] = {"FileSystemId": "fs-00000000000000000", "FileSystemType": "EFS"} | dict(before or {})
    system["DirectoryPath"] = _local(path)
    system["FileSystemAccessMode"] = options.get("access") or system.get("FileSystemAccessMode", "ro")
    entry["DataSource"] = {"FileSystemDataSource": system}


def _put_s3(entry: dict[str, Any], path: str, options: Mapping[str, str]) -> None:
    data_source = cast("dict[str, Any]", entry.get("DataSource") or {})
    before = cast("dict[str, Any]", data_source.get("S3DataSource") or {})
    place = path if "://" in path and not path.startswith("file://") else _local(path)
    s3: dict[str, Any] = {
        "S3DataType": "S3Prefix",
        "S3Uri": place,
        "S3DataDistributionType": options.get("distribution")
        or before.get("S3DataDistributionType", "FullyReplicated"),
    }
    if "InstanceGroupNames" in before:
        s3["InstanceGroupNames"] = before["InstanceGroupNames"]
    if "attributes" in options:
        s3 |= {"S3DataType": "AugmentedManifestFile", "AttributeNames": options["attributes"].split(":")}
    elif "manifest" in options:
        s3["S3DataType"] = "ManifestFile" if options["manifest"] == "yes" else "S3Prefix"
    elif is_s3(place) or Path(place).is_file():
        # Another manifest in the place of one; a directory is what a manifest stood for.
        s3 |= {key: before[key] for key in ("S3DataType", "AttributeNames") if key in before}
    entry["DataSource"] = {"S3DataSource": s3}


def _local(path: str) -> str:
    return str(absolute(path.removeprefix("file://")))


def _entry(request: dict[str, Any], name: str) -> dict[str, Any]:
    """Find a channel of the request, or add one."""
    channels: object = request.setdefault("InputDataConfig", [])
    if not isinstance(channels, list):
        raise UserError(f"InputDataConfig is {channels!r} ({type(channels).__name__})", allowed="it is a list")
    entries = cast("list[object]", channels)
    for entry in entries:
        if isinstance(entry, dict) and cast("dict[str, Any]", entry).get("ChannelName") == name:
            return cast("dict[str, Any]", entry)
    added: dict[str, Any] = {"ChannelName": name}
    entries.append(added)
    return added


def _whole(text: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        raise UserError(f"--channel {text}: shuffle={value}", allowed="the seed is a whole number") from None


def _latency(text: str, value: str | None) -> float:
    if value is None:
        return 0.0
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(us|ms|s)", value)
    if found is None:
        raise UserError(f"--channel {text}: latency={value}", allowed="it is a time with its unit, such as 20ms or 1s")
    return float(found[1]) * _UNITS[found[2]]


def _bandwidth(text: str, value: str | None) -> float | None:
    if value is None:
        return None
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([kmg]?)", value.lower())
    if found is None or not float(found[1]):
        raise UserError(f"--channel {text}: bandwidth={value}", allowed="it is bytes per second, such as 500k or 50m")
    return float(found[1]) * 1024 ** " kmg".index(found[2] or " ")


def put_file_systems(request: dict[str, Any], texts: Iterable[str]) -> None:
    """Let directories of this machine play the file systems that a request names.

    Args:
        request: it is changed.
        texts: what each ``--file-system`` was given: ``ID=DIR``.

    Raises:
        UserError: it is malformed, names no file system of the request, or a path is not there.
    """
    homes = dict(pair(text, "--file-system", "ID=DIR") for text in texts)
    if not homes:
        return
    entries = cast("list[Any]", request.get("InputDataConfig") or [])
    seen: list[str] = []
    for entry in entries:
        source = cast("dict[str, Any]", entry).get("DataSource") if isinstance(entry, dict) else None
        system = cast("dict[str, Any]", source).get("FileSystemDataSource") if isinstance(source, dict) else None
        if not isinstance(system, dict):
            continue
        facts = cast("dict[str, Any]", system)
        identity = str(facts.get("FileSystemId", ""))
        seen.append(identity)
        if identity in homes:
            facts["DirectoryPath"] = str(_below(absolute(homes[identity]), str(facts.get("DirectoryPath", "/"))))
    for identity in homes:
        if identity not in seen:
            raise UserError(
                f"--file-system {identity}: the request has no such FileSystemId",
                allowed=f"it has {', '.join(sorted(set(seen)))}" if seen else "it has none",
            )


def _below(home: Path, path: str) -> Path:
    """Find a directory of a file system; that of FSx for Lustre begins with the name of its mount."""
    inside = path.strip("/")
    candidates = [home / inside, home / inside.partition("/")[2]]
    for candidate in candidates:
        if candidate.is_dir() and ".." not in Path(path).parts:
            return candidate
    raise UserError(
        f"DirectoryPath {path} is not in {home}", allowed=f"looked for {' and '.join(map(str, candidates))}",
        fix="make it, or pass another directory: --file-system ID=DIR",
    )  # fmt: skip


def limit(spec: Spec, limits: Mapping[str, Limits]) -> Spec:
    """Give channels their limits.

    Raises:
        UserError: a channel cannot have any.
    """
    if not any(limits.values()):
        return spec
    channels = tuple(
        replace(channel, latency_s=limits[channel.name].latency_s, bytes_per_s=limits[channel.name].bytes_per_s)
        if channel.name in limits
        else channel
        for channel in spec.channels
    )
    for channel in channels:
        check_limits(channel)
    return replace(spec, channels=channels)
