"""Files of a checkpoint: written aside, fsynced, renamed, verified. Effects only; no collectives, no decisions."""

import collections
import contextlib
import errno
import hashlib
import io
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch

from runtime.base.errors import PlatformError, UserError
from runtime.checkpoint.layout import MANIFEST, FileFacts, Manifest, to_json

_PLAIN = (int, float, bool, str, bytes, type(None), torch.dtype, torch.device)
_MAPPINGS = (dict, collections.OrderedDict, collections.Counter)
_SEQUENCES = (list, tuple, torch.Size)


def require_plain(value: object, where: str) -> None:
    """Refuse, before the first save, what could not be loaded again without running code from the file.

    Raises:
        UserError: names the part and the place inside it.
    """
    # Exact types: a subclass (numpy.float64 is a float, an IntEnum an int) is pickled by its own name, which the safe
    # loader refuses; the job would learn of it only when it resumes, and begin anew.
    if isinstance(value, torch.Tensor) or type(value) in _PLAIN:
        return
    if type(value) in _MAPPINGS:
        for key, item in cast(Mapping[object, object], value).items():
            require_plain(key, f"the key {key!r} of {where}")
            require_plain(item, f"{where}[{key!r}]")
    elif type(value) in _SEQUENCES:
        for number, item in enumerate(cast(list[object], value)):
            require_plain(item, f"{where}[{number}]")
    else:
        raise UserError(
            f"run.checkpoint: {where} is a {type(value).__module__}.{type(value).__qualname__}",
            allowed="a state_dict holds tensors, numbers, text, lists and dicts of them",
            fix="convert it in state_dict (for NumPy: .item() or torch.from_numpy)",
        )


def num_bytes(value: object) -> int:
    """Estimate the size of a state on disk: its tensors."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, Mapping):
        return sum(num_bytes(item) for item in cast(Mapping[object, object], value).values())
    if isinstance(value, list | tuple):
        return sum(num_bytes(item) for item in cast(list[object], value))
    return 0


def require_room(directory: Path, need: int, what: str) -> None:
    """Refuse to begin what cannot be finished.

    Raises:
        UserError: names both numbers.
    """
    free = shutil.disk_usage(directory).free
    if free < need:
        raise UserError(
            f"No space left for {what}: {directory} needs {need:,} bytes and has {free:,} free; "
            "earlier checkpoints are untouched",
            fix="use a larger volume (VolumeSizeInGB), or keep fewer by slipway_keep_checkpoints",
        )


class _Hashing(io.RawIOBase):
    """Counts and digests what is written, so that a file is read only once: at load."""

    def __init__(self, stream: io.BufferedWriter) -> None:
        self._stream = stream
        self.digest = hashlib.sha256()
        self.count = 0

    def write(self, data: Any) -> int:  # noqa: ANN401 - any buffer, as in io
        self.digest.update(data)
        written = self._stream.write(data)
        self.count += written
        return written

    def writable(self) -> bool:
        return True


def write_file(directory: Path, name: str, state: object) -> FileFacts:
    """Write one file so that it appears under its name only when it is whole.

    Raises:
        UserError: no space left.
        PlatformError: the disk failed.
    """
    aside = directory / f"{name}.tmp"
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as stream:
            hashing = _Hashing(stream)
            torch.save(state, cast(Any, hashing))
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(directory / name)
        _sync_directory(directory)
    except (OSError, RuntimeError) as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise _explain(error, directory / name) from error
    return FileFacts(name, hashing.count, hashing.digest.hexdigest())


def _explain(error: Exception, path: Path) -> Exception:
    # torch.save hides the OSError of a full disk in a RuntimeError of its zip writer.
    cause = error if isinstance(error, OSError) else error.__context__
    full = isinstance(cause, OSError) and cause.errno in (errno.ENOSPC, errno.EDQUOT)
    if full:
        return UserError(
            f"No space left for a checkpoint while writing {path}; earlier checkpoints are untouched",
            fix="use a larger volume (VolumeSizeInGB), or keep fewer by slipway_keep_checkpoints",
        )
    return PlatformError(f"Checkpoint file {path} cannot be written: {error}")


def commit(directory: Path, manifest: Manifest) -> None:
    """Make a checkpoint exist.

    Raises:
        UserError: no space left.
        PlatformError: the disk failed.
    """
    aside = directory / f"{MANIFEST}.tmp"
    try:
        with aside.open("w", encoding="utf-8") as stream:
            stream.write(to_json(manifest))
            stream.flush()
            os.fsync(stream.fileno())
        aside.rename(directory / MANIFEST)
        _sync_directory(directory)
        _sync_directory(directory.parent)
    except OSError as error:
        raise _explain(error, directory / MANIFEST) from error


def read_file(directory: Path, facts: FileFacts) -> Any:  # noqa: ANN401 - what torch.load gives
    """Read one file, all of it, and check it before anything is believed.

    Raises:
        ValueError: it is not what the manifest says; the text says how.
    """
    path = directory / facts.name
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{facts.name} cannot be read: {error.strerror}") from error
    if len(data) != facts.num_bytes:
        raise ValueError(f"{facts.name} has {len(data)} bytes instead of {facts.num_bytes}")
    if hashlib.sha256(data).hexdigest() != facts.sha256:
        raise ValueError(f"{facts.name} is damaged: its sha256 differs from the manifest's")
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def remove(directory: Path) -> None:
    """Remove a checkpoint; its manifest goes first, so that half of one is never found."""
    with contextlib.suppress(OSError):
        (directory / MANIFEST).unlink(missing_ok=True)
        # A sync agent's markers come and go meanwhile: one that vanished must not keep the rest.
        shutil.rmtree(directory, ignore_errors=True)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
