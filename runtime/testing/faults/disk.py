"""A small disk in the place of a directory: one that can be full, or slow. Needs root on this machine.

It is a file system in a sparse file of this machine's disk: it takes the room of what is written to it, no more.
"""

import contextlib
import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from runtime.base.errors import PlatformError, UserError, one_line
from runtime.testing.faults.plan import Fault

PATH = f"{os.defpath}:/usr/sbin:/sbin"
SLOW_DISK = 64 << 30
"""Bytes of a disk that is slow and not full; the file is sparse."""
CALL_S = 120.0
"""For mkfs or mount: a bound for one that hangs."""
_WHOLE, _CONTENT, _TARGET = "whole", "content", "target"
"""In a disk's home: where it is mounted, what of it comes in the place of the target, and a file that names that."""
CGROUP = Path("/sys/fs/cgroup")


def can_make_disks() -> str:
    """Tell why this process can make no disks; empty when it can."""
    if os.geteuid() != 0:
        return "it needs root: a file system is mounted"
    missing = [name for name in ("mkfs.ext4", "mount", "umount") if shutil.which(name, path=PATH) is None]
    return f"{' and '.join(missing)} is not installed" if missing else ""


class Disk:
    """One small disk, mounted at a directory."""

    def __init__(self, home: Path, target: Path, size: int | None) -> None:
        """Make it and mount it; what is in the target is moved to it.

        Args:
            home: directory for the disk itself, not there yet.
            target: directory in whose place it comes.
            size: bytes; None: as big as anybody wants, to be slow.

        Raises:
            UserError: this machine cannot do it.
        """
        reason = can_make_disks()
        if reason:
            raise UserError(f"No small disk for {target}: {reason}", fix="run as root, with e2fsprogs installed")
        self.target = target
        self._home, self._image, self._whole = home, home / "disk", home / _WHOLE
        self._whole.mkdir(parents=True)
        (home / _TARGET).write_text(str(target), encoding="utf-8")
        with self._image.open("wb") as image:
            image.truncate(size or SLOW_DISK)
        # No journal and no reserve: what is free is what the job may write.
        _call("mkfs.ext4", "-q", "-F", "-m", "0", "-O", "^has_journal", "-E", "lazy_itable_init=1", str(self._image))
        # sync: a writer feels the disk, and not only the cache in front of it.
        _call("mount", "-o", "loop,sync" if size is None else "loop", str(self._image), str(self._whole))
        self._inside = self._whole / _CONTENT
        target.mkdir(parents=True, exist_ok=True)
        shutil.copytree(target, self._inside, symlinks=True)
        self._inside.chmod(0o777)
        _call("mount", "--bind", str(self._inside), str(target))

    @property
    def free(self) -> int:
        """Bytes that can still be written."""
        facts = os.statvfs(self._whole)
        return facts.f_bavail * facts.f_frsize

    @property
    def device(self) -> str:
        """``major:minor`` of the block device."""
        number = os.stat(self._whole).st_dev
        return f"{os.major(number)}:{os.minor(number)}"

    def fill(self) -> None:
        """Take all that is free, at once; the filler is not among the files of the target."""
        with (self._whole / "filler").open("wb") as filler:
            block = os.statvfs(self._whole).f_frsize
            at, piece = 0, max(self.free, block)
            while piece >= block:
                try:
                    os.posix_fallocate(filler.fileno(), at, piece)
                    at += piece
                except OSError as error:
                    if error.errno != errno.ENOSPC:
                        raise PlatformError(f"The disk of {self.target} cannot be filled: {error}") from error
                    piece = piece // 2 // block * block

    def release(self) -> None:
        """Give back what `fill` took."""
        (self._whole / "filler").unlink(missing_ok=True)

    def slow(self, pid: int, rate: int) -> None:
        """Let a process and all of its control group write and read no faster; 0: as fast as it can.

        Args:
            pid: as this machine counts.
            rate: bytes per second.
        """
        try:
            groups = Path(f"/proc/{pid}/cgroup").read_text(encoding="ascii").splitlines()
        except OSError as error:
            raise PlatformError(f"Process {pid} is gone") from error
        for path, line in throttles(groups, self.device, rate):
            try:
                path.write_text(line, encoding="ascii")
            except OSError as error:
                raise UserError(
                    f"The disk of {self.target} cannot be slowed: {path}: {error.strerror}",
                    fix="use a kernel with CONFIG_BLK_DEV_THROTTLING",
                ) from error

    def spoil(self, fault: Fault, pid: int) -> Callable[[], None]:
        """Begin ``full-disk`` or ``slow-disk`` for the container of a process; return what takes it back."""
        if fault.verb == "full-disk":
            if fault.once:  # else it is small from the start, and the job itself fills it
                self.fill()
            return self.release
        self.slow(pid, fault.rate)

        def undo() -> None:
            with contextlib.suppress(PlatformError, UserError):  # its control group went with it
                self.slow(pid, 0)

        return undo

    def unmount(self, *, keep: bool = True) -> None:
        """Take the disk away; no error when it is gone.

        Args:
            keep: put its content into the directory in whose place it was.
        """
        _put_away(self._home, self.target, keep=keep)


def disks_of(tree: Path) -> Path:
    """Return where the disks of a host lie: beside its tree, so that they are found when their run is dead."""
    return tree.parent / f"{tree.name}-disks"


def put_away_left(tree: Path) -> None:
    """Take away the disks that a dead run left; what lies on them is put into the host's tree."""
    for home in sorted(disks_of(tree).glob("*")):
        with contextlib.suppress(OSError):
            _put_away(home, Path((home / _TARGET).read_text(encoding="utf-8")), keep=True)


def _put_away(home: Path, target: Path, *, keep: bool) -> None:
    if not home.exists():
        return
    whole = home / _WHOLE
    _call("umount", "--lazy", str(target), check=False)
    if keep and (whole / _CONTENT).is_dir():
        with contextlib.suppress(shutil.Error):  # links to what is gone
            shutil.copytree(whole / _CONTENT, target, symlinks=True, dirs_exist_ok=True)
    _call("umount", "--lazy", str(whole), check=False)
    if not os.path.ismount(whole):
        shutil.rmtree(home, ignore_errors=True)


def throttles(groups: Sequence[str], device: str, rate: int) -> list[tuple[Path, str]]:
    """Name the files that limit a control group, of version 1 or 2, and what to write; pure.

    Args:
        groups: lines of ``/proc/PID/cgroup``.
        device: ``major:minor``.
        rate: bytes per second; 0: no limit.
    """
    for line in groups:
        _, controllers, path = line.split(":", 2)
        if "blkio" in controllers.split(","):
            home = CGROUP / "blkio" / path.lstrip("/")
            names = ("blkio.throttle.write_bps_device", "blkio.throttle.read_bps_device")
            return [(home / name, f"{device} {rate}") for name in names]
    path = next((line.split(":", 2)[2] for line in groups if line.startswith("0::")), "/")
    limit = str(rate) if rate else "max"
    return [(CGROUP / path.lstrip("/") / "io.max", f"{device} rbps={limit} wbps={limit}")]


def _call(*words: str, check: bool = True) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, env={"PATH": PATH}, timeout=CALL_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise PlatformError(f"{words[0]}: {error}") from error
    if check and done.returncode != 0:
        raise UserError(
            one_line(f"{' '.join(words[:1])} failed: {done.stderr.strip()}"),
            fix="see that loop devices are there (modprobe loop), and that this process may mount",
        )
