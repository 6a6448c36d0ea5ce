"""Bringing the user's code into the code directory, from wherever the job says it is."""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.log import Log
from runtime.install.archive import is_archive, unpack

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.base.env import Environ

_log = Log("code")


def bring(source: str, code: str, environ: Environ, pause: Callable[[float], object]) -> None:
    """Fill the code directory, unless something is there already, as the SageMaker toolkit does.

    Args:
        source: ``s3://...``, ``file://...``, an archive, a file, a directory, or one with nothing but an archive in it.
        code: the code directory; made when it is missing.
        environ: for S3.
        pause: waits between attempts; may raise to give up.

    Raises:
        UserError: the source is not there, or broken.
        PlatformError: S3 cannot be reached.
    """
    present = os.listdir(code) if os.path.isdir(code) else []
    if present:
        _log.info(f"{code} is not empty, so {source} is not brought there")
        return
    os.makedirs(code, exist_ok=True)
    if source.startswith("s3://"):
        _from_s3(source, code, environ, pause)
        return
    _from_disk(os.path.normpath(source.removeprefix("file://")), code)


def _from_s3(source: str, code: str, environ: Environ, pause: Callable[[float], object]) -> None:
    import shutil
    import tempfile

    from runtime.install.s3 import download

    name = os.path.basename(source)
    if not name:
        raise UserError(
            f"sagemaker_submit_directory is {source!r}, a folder of S3",
            allowed="it names one object: an archive, or a single script",
            fix="pack the folder as sourcedir.tar.gz, or pass it as the channel 'code'",
        )
    aside = tempfile.mkdtemp(prefix="slipway-code-")
    try:
        size = download(source, f"{aside}/{name}", environ, pause)
        _log.info(f"fetched {source}, {size} bytes")
        _from_disk(f"{aside}/{name}", code)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _from_disk(source: str, code: str) -> None:
    import shutil

    if not os.path.exists(source):
        raise UserError(
            f"sagemaker_submit_directory is {source!r}, which is not there",
            fix="mount it, or submit the code as an archive or as the channel 'code'",
        )
    if os.path.isdir(source):
        archive = only_archive(source)
        if not archive:
            shutil.copytree(source, code, dirs_exist_ok=True, symlinks=True)
            return
        source = archive
    if is_archive(source) or _looks_like_tar(source):
        unpack(source, code)
    else:
        shutil.copy2(source, code)


def only_archive(directory: str) -> str:
    """Return the one archive that a directory holds beside nothing else; empty when it holds anything else."""
    names = [name for name in os.listdir(directory) if not name.startswith(".")]
    return f"{directory}/{names[0]}" if len(names) == 1 and is_archive(names[0]) else ""


def _looks_like_tar(path: str) -> bool:
    """Objects of S3 and files of channels may have lost their suffix."""
    import tarfile

    return not path.endswith((".py", ".sh")) and tarfile.is_tarfile(path)
