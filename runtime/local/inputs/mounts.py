"""FUSE mounts of this machine: whether it can make them, which ones are ours, and how one goes away."""

import contextlib
import ctypes
import ctypes.util
import importlib.util
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from runtime.base.errors import UserError
from runtime.local.leftovers import place_of_processes, process_started

SUBTYPE = "slipway"
"""Type of our mounts is ``fuse.slipway``."""
MOUNTS = Path("/proc/self/mountinfo")
FUSE_CONF = Path("/etc/fuse.conf")
_MNT_DETACH = 2
_HELPERS = ("fusermount3", "fusermount")
"""What lets a user without root mount; comes with the packages fuse3 and fuse."""
INSTALL = "install the package fuse3 (Debian, Ubuntu: apt-get install fuse3), or use mode=File for the local run"


@dataclass(frozen=True)
class Mounted:
    """One of our mounts."""

    path: str
    pid: int
    """Process whose run it is."""
    started: str
    """When that process started; see `runtime.local.leftovers.process_started`."""
    space: str
    """Its process name space."""


def check_fuse(*, other_users: bool) -> None:
    """See whether this machine can mount.

    Args:
        other_users: a Docker engine and its containers must see the mount too.

    Raises:
        UserError: it cannot; says why, and what to do.
    """
    if importlib.util.find_spec("mfusepy") is None:
        raise UserError("FastFile needs the package mfusepy", fix="install the extra: pip install 'slipway[local]'")
    if not os.path.exists("/dev/fuse"):
        raise UserError(
            "FastFile needs FUSE, and /dev/fuse is not there",
            fix="in a container add --device /dev/fuse --cap-add SYS_ADMIN, else `modprobe fuse`; or use mode=File",
        )
    if not any(ctypes.util.find_library(name) for name in ("fuse3", "fuse")):
        raise UserError("FastFile needs libfuse, and it is not installed", fix=INSTALL)
    if os.geteuid() == 0:
        return
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise UserError(
            "FastFile needs FUSE, and this user may not open /dev/fuse",
            fix="let the administrator `chmod 666 /dev/fuse`, as distributions have it, or use mode=File",
        )
    if _helper() is None:
        raise UserError("FastFile needs fusermount3 for a user who is not root", fix=INSTALL)
    if other_users and not _user_allow_other(FUSE_CONF):
        raise UserError(
            "A Docker engine cannot see the mount of a user who is not root",
            allowed="the administrator may allow it: a line user_allow_other in /etc/fuse.conf",
            fix="add that line, or use mode=File for the local run",
        )


def _user_allow_other(path: Path) -> bool:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return any(line.strip() == "user_allow_other" for line in path.read_text(encoding="utf-8").splitlines())
    return False


def _helper() -> str | None:
    return next((found for name in _HELPERS if (found := shutil.which(name)) is not None), None)


def detach(path: str) -> bool:
    """Take a mount out of the tree; who has it open keeps it.

    Returns:
        Whether nothing is mounted there any more.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.umount2(os.fsencode(path), _MNT_DETACH) == 0:
        return True
    helper = _helper()
    if helper is not None:
        subprocess.run([helper, "-u", "-z", "--", path], capture_output=True, check=False)
    return not any(mounted.path == path for mounted in our_mounts())


def label() -> str:
    """Compose the name under which the mounts of this process are listed."""
    pid = os.getpid()
    return f"{SUBTYPE}:{pid}:{process_started(pid)}:{process_space()}"


def our_mounts(listing: Path = MOUNTS) -> list[Mounted]:
    """Find the mounts of `slipway run`, living and dead."""
    found: list[Mounted] = []
    with contextlib.suppress(OSError):
        for line in listing.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
            fields = line.split(" ")
            after = fields.index("-") if "-" in fields else len(fields)
            words = fields[after + 1 : after + 3]
            if len(words) == 2 and words[0] == f"fuse.{SUBTYPE}" and words[1].count(":") == 3:
                _, pid, started, space = words[1].split(":")
                found.append(Mounted(_unescaped(fields[4]), int(pid), started, space))
    return found


def clean_mounts(*, everything: bool = False, listing: Path = MOUNTS) -> tuple[list[str], list[str]]:
    """Take away the mounts of dead runs; what a living run uses is never touched.

    Args:
        everything: also those of runs in another process name space, of which nobody here can tell.
        listing: of all mounts.

    Returns:
        Where mounts were taken away, and where they were left.
    """
    removed: list[str] = []
    left: list[str] = []
    here = process_space()
    for mounted in our_mounts(listing):
        known = mounted.space == here
        dead = known and process_started(mounted.pid) != mounted.started
        if (dead or (everything and not known)) and detach(mounted.path):
            removed.append(mounted.path)
            with contextlib.suppress(OSError):
                os.rmdir(mounted.path)
        else:
            left.append(mounted.path)
    return removed, left


def process_space() -> str:
    """Return the number of the process name space in which our process ids mean something."""
    return place_of_processes().rpartition(":[")[2].removesuffix("]")


def _unescaped(path: str) -> str:
    for code, letter in (("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")):
        path = path.replace(code, letter)
    return path
