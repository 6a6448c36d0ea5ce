"""Unpacking an archive of code so that nothing in it can reach outside its folder.

Own rules, and not the filters of `tarfile`: those came with Python 3.11.4, and the distributions that we run on carry
older ones. A member that would escape is left out and named, as sagemaker-training 5.1.4 does: a stray absolute link in
an otherwise good bundle is no reason to lose a job.
"""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.log import Log

TYPE_CHECKING = False
if TYPE_CHECKING:
    import tarfile

_log = Log("code")

NAMED = 5
"""Members left out that are named one by one in the log; the rest is counted."""
SUFFIXES = (".tar.gz", ".tgz", ".tar", ".tar.bz2", ".tar.xz")
"""Names of files that we take for archives."""


def is_archive(name: str) -> bool:
    """Tell an archive of code by its name."""
    return name.lower().endswith(SUFFIXES)


def unpack(archive: str, directory: str) -> int:
    """Unpack a tar archive, compressed or not.

    Owners, set-user bits and times are not taken over; the executable bit is.

    Args:
        archive: a file.
        directory: where to; it exists.

    Returns:
        The number of members left out because they would have reached outside.

    Raises:
        UserError: the archive is broken or empty, or the disk refuses it.
    """
    import tarfile
    import zlib

    root = os.path.realpath(directory)
    skipped: list[str] = []
    taken = 0
    try:
        with tarfile.open(archive) as bundle:
            for member in bundle:
                why = _take(bundle, member, root)
                taken += not why
                if why:
                    skipped.append(f"{member.name!r} ({why})")
    # A damaged header makes tarfile fail in many ways; EOFError and zlib.error are no OSError.
    except (tarfile.TarError, OSError, EOFError, zlib.error, ValueError) as error:
        raise UserError(f"The code archive {archive} cannot be unpacked: {error}", fix="pack it anew") from error
    if not taken:
        raise UserError(f"The code archive {archive} holds nothing that may be unpacked", fix="pack it anew")
    for text in skipped[:NAMED]:
        _log.warning(f"left out of {os.path.basename(archive)}: {text}")
    if len(skipped) > NAMED:
        _log.warning(f"left out of {os.path.basename(archive)}: {len(skipped) - NAMED} more such members")
    return len(skipped)


def _take(bundle: tarfile.TarFile, member: tarfile.TarInfo, root: str) -> str:
    """Write one member; return why it was left out, empty when it was not."""
    parts = [part for part in member.name.replace("\\", "/").split("/") if part not in ("", ".")]
    if not parts:
        return "" if member.isdir() else "it has no name"
    if ".." in parts or member.name.startswith("/"):
        return "its path leaves the folder"
    target = os.path.join(root, *parts)
    # The parents may be links that an earlier member made: where they lead decides, not how they are spelt.
    if not _is_inside(os.path.dirname(target), root):
        return "a link on its path leaves the folder"
    if member.isdir():
        if os.path.islink(target) or not _is_inside(target, root):
            return "a link of its name is there"
        os.makedirs(target, exist_ok=True)
        return ""
    if member.issym():
        return _link(member, target, root)
    if not (member.isreg() or member.islnk()):
        return "it is neither file, folder nor link"
    return _write(bundle, member, target)


def _link(member: tarfile.TarInfo, target: str, root: str) -> str:
    if os.path.isabs(member.linkname) or not _is_inside(os.path.join(os.path.dirname(target), member.linkname), root):
        return f"it links to {member.linkname!r}, outside the folder"
    _make_room(target)
    os.symlink(member.linkname, target)
    return ""


def _write(bundle: tarfile.TarFile, member: tarfile.TarInfo, target: str) -> str:
    import shutil

    try:
        # For a hard link this is the content of the member that it names, which is in the archive or nowhere.
        content = bundle.extractfile(member)
    except KeyError:
        content = None
    if content is None:
        return f"it links to {member.linkname!r}, which is not in the archive"
    _make_room(target)
    mode = 0o755 if member.mode & 0o100 else 0o644
    with content, open(os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
        shutil.copyfileobj(content, file)
    return ""


def _make_room(target: str) -> None:
    os.makedirs(os.path.dirname(target), exist_ok=True)
    if os.path.lexists(target):
        os.unlink(target)  # never write through what an earlier member put there


def _is_inside(path: str, root: str) -> bool:
    real = os.path.realpath(path)
    return real == root or real.startswith(root + os.sep)
