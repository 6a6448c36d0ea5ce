"""The file system of FastFile channels, a process of its own: ``python -m runtime.local.inputs.fastfile``.

Read-only; the listing is that of the start. The first line of its input says what to show and where, others name the
trees of hosts that are processes, and one says that all is over. When the input ends, it tells what was read and
unmounts itself; who still has it open, such as a container that is leaving, is served on for a while. An input that
ends without a last word means that the run was killed: hosts that are processes may still be saving, and have it until
they are gone.
"""

import errno
import json
import os
import stat
import sys
import threading
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, cast

import mfusepy

from runtime.base.errors import PlatformError, UserError, one_line
from runtime.local.inputs.content import Item, Tree, list_items, tree_of
from runtime.local.inputs.mounts import SUBTYPE, detach
from runtime.local.inputs.objects import Stores
from runtime.local.inputs.order import Share
from runtime.local.inputs.readahead import FileReader
from runtime.local.processes import processes_of

KEPT_S = 3600.0
"""How long the kernel may keep names and sizes: they do not change."""
SERVED_ON_S = 60.0
"""After the end of the input. The containers of a run that died leave within 10 s."""
LEAVING_S = 130.0
"""For hosts whose run was killed: they have got SIGTERM, and 120 s to leave."""
LOOK_S = 0.2
BLOCK = 512


@dataclass
class Count:
    """What one host has read of one channel."""

    opened: int = 0
    """Files, each time that one was opened."""
    read_bytes: int = 0
    """What the kernel asked for, ahead of the reader too."""
    fetched_bytes: int = 0
    """What came from where the data lies."""
    requests: int = 0
    """For `fetched_bytes`."""
    errors: int = 0
    """Reads that failed."""


@dataclass
class Shown:
    """One channel of one host."""

    tree: Tree
    stores: Stores
    count: Count = field(default_factory=Count)


@dataclass
class _Open:
    item: Item
    shown: Shown
    reader: FileReader | None
    """None: the data is near, and what is asked for is read."""


Hosts = Mapping[str, Mapping[str, Shown]]
"""Host to channel to what is shown of it."""


class FastFile(mfusepy.Operations):
    """``/<host>/<channel>/<path>`` of all FastFile channels of a job."""

    use_ns = True

    def __init__(self, hosts: Hosts) -> None:
        """Show channels; nothing is mounted yet."""
        self._hosts = hosts
        self._files: dict[int, _Open] = {}
        self._next = 0
        self._lock = threading.Lock()
        self._since = time.time_ns()

    def init(self, path: str) -> None:
        """Tell that the mount is there."""
        say({"ready": True})

    def getattr(self, path: str, fh: int | None = None) -> dict[str, Any]:
        """Return what `stat` shows."""
        found, _ = self._find(path)
        times = {name: self._since for name in ("st_atime", "st_mtime", "st_ctime")}
        owner = {"st_uid": os.getuid(), "st_gid": os.getgid()}
        if isinstance(found, Item):
            blocks = -(-found.size // BLOCK)
            file = {"st_mode": stat.S_IFREG | 0o444, "st_nlink": 1, "st_size": found.size, "st_blocks": blocks}
            return file | times | owner
        return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2} | times | owner

    def readdir(self, path: str, fh: int) -> list[tuple[str, int, int]]:
        """List a directory."""
        found, _ = self._find(path)
        if isinstance(found, Item):
            raise mfusepy.FuseOSError(errno.ENOTDIR)
        kinds = {name: stat.S_IFREG if isinstance(below, Item) else stat.S_IFDIR for name, below in found.items()}
        return [(name, kind, 0) for name, kind in ({".": stat.S_IFDIR, "..": stat.S_IFDIR} | kinds).items()]

    def open(self, path: str, flags: int) -> int:
        """Open a file for reading."""
        found, shown = self._find(path)
        if not isinstance(found, Item) or shown is None:
            raise mfusepy.FuseOSError(errno.EISDIR)
        store = shown.stores.of(found.bucket)
        far = bool(found.bucket) or shown.stores.slow
        with self._lock:
            self._next += 1
            self._files[self._next] = _Open(found, shown, FileReader(store, found.key, found.size) if far else None)
            shown.count.opened += 1
            return self._next

    def read(self, path: str, size: int, offset: int, fh: int) -> bytes:
        """Read a part of a file."""
        file = self._files[fh]
        count = file.shown.count
        try:
            if file.reader is not None:
                data, requests, fetched = file.reader.read(offset, size)
            else:
                length = max(0, min(size, file.item.size - offset))
                data = file.shown.stores.of("").read(file.item.key, offset, length) if length else b""
                requests, fetched = 1, len(data)
                if len(data) != length:
                    raise UserError(f"{file.item.key} has become shorter since the job was started")
        except (OSError, UserError, PlatformError) as error:
            with self._lock:
                count.errors += 1
            say({"warning": one_line(f"FastFile: {path} cannot be read at {offset}: {error}")})
            raise mfusepy.FuseOSError(errno.EIO) from error
        with self._lock:
            count.read_bytes += len(data)
            count.fetched_bytes += fetched
            count.requests += requests
        return data

    def release(self, path: str, fh: int) -> int:
        """Forget an open file."""
        with self._lock:
            self._files.pop(fh, None)
        return 0

    def statfs(self, path: str) -> dict[str, int]:
        """Tell that there is no room."""
        return {"f_bsize": 1 << 17, "f_frsize": 1 << 17, "f_namemax": 255}

    def _find(self, path: str) -> tuple["Item | Mapping[str, Any]", Shown | None]:
        here: Any = self._hosts
        shown: Shown | None = None
        for part in path.split("/"):
            if not part:
                continue
            if isinstance(here, Item) or part not in here:
                raise mfusepy.FuseOSError(errno.ENOENT)
            here = here[part]
            if isinstance(here, Shown):
                shown, here = here, here.tree
        return here, shown


_saying = threading.Lock()


def say(fact: Mapping[str, object]) -> None:
    """Tell the run something: one line of JSON."""
    line = json.dumps(fact) + "\n"
    with _saying:
        try:
            sys.stdout.write(line)
            sys.stdout.flush()
        except OSError:  # the run is dead, and nobody listens
            sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115 - for the rest of this process


def show(told: Mapping[str, Any]) -> dict[str, dict[str, Shown]]:
    """Find the objects of all channels.

    Args:
        told: ``channels``: list of name, URI, data type, latency, bandwidth, endpoint, hosts and whether it is sharded.

    Raises:
        UserError: a channel cannot be listed.
    """
    hosts: dict[str, dict[str, Shown]] = {}
    for channel in cast("list[dict[str, Any]]", told["channels"]):
        stores = Stores(channel["latency_s"], channel["bytes_per_s"], channel["endpoint"])
        items = list_items(channel["uri"], channel["data_type"], stores)
        whole: Tree | None = None
        names = cast("list[str]", channel["hosts"])
        for index, host in enumerate(names):
            share = Share(index, len(names), channel["sharded"])
            if channel["sharded"]:
                tree = _tree([items[number] for number in share.of_epoch(len(items), 0)])
            else:
                tree = whole = _tree(items) if whole is None else whole
            hosts.setdefault(host, {})[channel["name"]] = Shown(tree, stores)
    return hosts


def _tree(items: list[Item]) -> Tree:
    return tree_of(items, lambda warning: say({"warning": f"FastFile: {warning}"}))


def _wait_for_the_end() -> list[Path]:
    """Read on until the input ends; returns the trees of hosts that nobody has ended."""
    trees: list[Path] = []
    for line in sys.stdin:
        fact = cast("dict[str, Any]", json.loads(line))
        trees = [] if "end" in fact else [*trees, Path(str(fact["tree"]))]
    return trees


def main() -> int:
    """Show channels until the input ends."""
    told = cast("dict[str, Any]", json.loads(sys.stdin.readline()))
    mountpoint = str(told["mountpoint"])
    try:
        hosts = show(told)
    except (UserError, PlatformError, OSError) as error:
        say({"error": str(error)})
        return 1

    def leave() -> None:
        trees = _wait_for_the_end()
        deadline = time.monotonic() + LEAVING_S
        while any(processes_of(tree) for tree in trees) and time.monotonic() < deadline:
            time.sleep(LOOK_S)
        counts = {host: {name: asdict(one.count) for name, one in shown.items()} for host, shown in hosts.items()}
        say({"counts": counts})
        detach(mountpoint)
        time.sleep(SERVED_ON_S)
        os._exit(0)

    threading.Thread(target=leave, name="leave", daemon=True).start()
    try:
        mfusepy.FUSE(
            FastFile(hosts),
            mountpoint,
            foreground=True,
            ro=True,
            allow_other=bool(told["allow_other"]),
            fsname=told["label"],
            subtype=SUBTYPE,
            attr_timeout=KEPT_S,
            entry_timeout=KEPT_S,
            negative_timeout=KEPT_S,
        )
    except RuntimeError as error:
        say({"error": f"libfuse ended with {error}"})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
