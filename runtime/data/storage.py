"""The file system below a channel: what it is, what one open costs, and what is not there yet.

Many small files and lazily loading mounts are the two ways in which storage lets a device wait without an error.
"""

import os
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

NETWORK = ("lustre", "nfs", "nfs4", "cifs", "smb3", "ceph", "glusterfs", "beegfs", "9p", "virtiofs")
"""File systems whose every open is a word over a network; so is any that begins with ``fuse``."""
SMALL_BYTES = 1 << 20
"""Median size of files below which opening costs more than reading."""
MANY_FILES = 10_000
SLOW_OPEN_MS = 1.0
"""Local disks open a file in some 0.05 ms; a network file system took 1.7 ms in the case study of 50M pairs."""
PROBED = 64
LAZY_RATIO = 5.0
"""How much slower a first read is than a second one where the file had to be fetched; 5 s against 0.23 s was seen."""
LAZY_S = 0.05
PACK = "slipway convert DIR --to tar --out SHARDS"
LOOK_S = 0.5
"""Longest look before training."""
LFS_S = 10.0
"""Longest wait for ``lfs hsm_state``."""


@dataclass(frozen=True)
class Mount:
    """Where a path lies."""

    point: str
    kind: str
    """Such as ext4, lustre, nfs4, fuse.mount-s3."""

    @property
    def over_network(self) -> bool:
        """Whether an open is answered by another machine."""
        return self.kind in NETWORK or self.kind.startswith("fuse")


@dataclass(frozen=True)
class Opens:
    """What opening some files cost."""

    files: int
    first_ms: float
    """Median milliseconds to open a file and read its first byte, the page cache asked to forget it before."""
    slowest_first_s: float
    again_ms: float
    """The same right afterwards."""
    failed: str = ""
    """The first error."""


@dataclass(frozen=True)
class Hsm:
    """How much of some files is on a Lustre file system that loads from S3."""

    looked_at: int
    released: int
    """Files whose contents are still in S3."""


def mount_of(path: Path, table: str = "") -> Mount:
    """Find the mount below a path.

    Args:
        path: need not exist.
        table: text of /proc/mounts; empty: read it.
    """
    if not table:
        try:
            table = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="surrogateescape")
        except OSError:
            return Mount("/", "unknown")
    real = os.path.realpath(path)
    best = Mount("/", "unknown")
    for line in table.splitlines():
        words = line.split()
        if len(words) < 3:
            continue
        point = words[1].replace("\\040", " ")
        inside = real == point or real.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best.point):  # the later of two mounts on one place hides the earlier
            best = Mount(point, words[2])
    return best


def spread(items: Sequence[T], count: int) -> list[T]:
    """Choose up to `count` items, evenly."""
    if len(items) <= count:
        return list(items)
    return [items[number * len(items) // count] for number in range(count)]


def time_opens(files: Sequence[Path], seconds: float) -> Opens:
    """Open some files twice and read a byte of each.

    Args:
        files: at most `PROBED` of them are opened, spread evenly.
        seconds: bound of the whole look; files beyond it are left out.
    """
    deadline = time.monotonic() + seconds
    first: list[float] = []
    again: list[float] = []
    failed = ""
    for file in spread(files, PROBED):
        try:
            _forget(file)
            first.append(_open_s(file))
            again.append(_open_s(file))
        except OSError as error:
            failed = failed or f"{file}: {error.strerror}"
        if time.monotonic() > deadline:
            break
    return Opens(
        len(again),
        statistics.median(first) * 1000 if first else 0.0,
        max(first, default=0.0),
        statistics.median(again) * 1000 if again else 0.0,
        failed,
    )


def hsm_state(files: Sequence[Path], lfs: str = "") -> Hsm | None:
    """Ask Lustre which files are still in S3 only.

    Args:
        files: at most `PROBED`, spread evenly.
        lfs: Lustre's tool; empty: as PATH finds it.

    Returns:
        None when there is no ``lfs``, or it does not answer.
    """
    tool = lfs or shutil.which("lfs")
    if not tool or not files:
        return None
    command = [tool, "hsm_state", *map(str, spread(files, PROBED))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LFS_S, check=False, errors="replace")
    except (OSError, subprocess.TimeoutExpired):
        return None
    # FILE: (0x0000000d) released exists archived, archive_id:1
    states = [line.rpartition("(0x")[2] for line in done.stdout.splitlines() if "(0x" in line]
    return Hsm(len(states), sum(" released" in state for state in states)) if states else None


def advice(
    root: Path, *, files: int, median_bytes: float, mode: str, mount: Mount, opens: Opens, hsm: Hsm | None
) -> list[str]:
    """Say what about the storage will make the job wait, each with its remedy.

    Args:
        root: of the channel.
        files: how many hold its samples.
        median_bytes: of a file.
        mode: input mode of the channel.
        mount: where it lies.
        opens: measured.
        hsm: as Lustre told; None: unknown.
    """
    told: list[str] = []
    small = files >= MANY_FILES and median_bytes < SMALL_BYTES
    if small and opens.first_ms >= SLOW_OPEN_MS:
        each = f"{opens.first_ms:.1f} ms to open each ({mount.kind})"
        told.append(
            f"{files:,} small files, median {median_bytes / 1000:.1f} kB, {each}: one reader opens at most "
            f"{1000 / opens.first_ms:,.0f} a second; pack them into tar shards of 100 to 200 MB ({PACK}), or read by "
            "more workers"
        )
    elif small and mode == "FastFile":
        told.append(
            f"{files:,} small files, median {median_bytes / 1000:.1f} kB, in FastFile mode, where every open is a "
            f"request to S3; pack them into tar shards of 100 to 200 MB ({PACK}), or use FSx for Lustre"
        )
    elif small and files >= 10 * MANY_FILES and mode == "File" and not mount.over_network:
        told.append(
            f"{files:,} small files, median {median_bytes / 1000:.1f} kB: File mode downloads each by a request of its "
            f"own before the job begins; tar shards of 100 to 200 MB come many times faster ({PACK})"
        )
    restore = f"find {root} -type f -print0 | xargs -0 -n 64 -P 8 lfs hsm_restore"
    if hsm is not None and hsm.released:
        told.append(
            f"{hsm.released} of {hsm.looked_at} files looked at are not on FSx yet, but in S3 only: the first epoch "
            f"loads them one by one; load them before the job: {restore}"
        )
    lazy = opens.slowest_first_s > LAZY_S and opens.slowest_first_s * 1000 > LAZY_RATIO * opens.again_ms
    if hsm is None and mount.kind == "lustre" and lazy:
        told.append(
            f"the first read of a file took up to {opens.slowest_first_s:.2f} s, the second {opens.again_ms:.1f} ms: "
            f"this FSx file system seems to load from S3 on first use; load it before the job: {restore}"
        )
    return told


def look(root: Path, files: Sequence[Path], *, count: int, median_bytes: float, mode: str) -> list[str]:
    """Look at a channel's storage when it may matter: many files, or a file system that loads lazily.

    Args:
        root: of the channel.
        files: a few of them, spread.
        count: of all.
        median_bytes: of a file.
        mode: input mode of the channel.

    Returns:
        Warnings, each with its remedy; it takes `LOOK_S` at most, and `LFS_S` more on Lustre.
    """
    mount = mount_of(root)
    if count < MANY_FILES and mount.kind != "lustre":
        return []
    opens = time_opens(files, LOOK_S)
    hsm = hsm_state(files) if mount.kind == "lustre" else None
    return advice(root, files=count, median_bytes=median_bytes, mode=mode, mount=mount, opens=opens, hsm=hsm)


def _forget(file: Path) -> None:
    """Ask the kernel to drop what it has cached of a file; a hint, of which it may keep what is mapped or dirty."""
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _open_s(file: Path) -> float:
    began = time.perf_counter()
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        os.pread(descriptor, 1, 0)
    finally:
        os.close(descriptor)
    return time.perf_counter() - began
