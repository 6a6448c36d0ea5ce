"""Downloads of whole prefixes, kept between runs: what has not changed in S3 is not fetched again.

    objects/<digest>             content of one object; named by endpoint, bucket, key, ETag and size
    objects/<digest>.part        the beginning of one; the next run goes on behind it
    trees/<digest>/data/...      a listing as a directory: hard links to the objects
    trees/<digest>/FORMAT        version of this layout, written when the tree is whole

Nothing in it is ever changed in place. It may be removed whenever no run uses it.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from pathlib import Path
from typing import BinaryIO

from runtime.base.env import Environ
from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.local.s3.client import S3Client
from runtime.local.s3.uri import S3Object, S3Uri, lay_out

log = Log("local")

FORMAT = 1
WORKERS = 16
"""Downloads at one time."""
LOOK_S = 0.1
"""Between two looks whether the downloads are still wanted."""
HEADROOM = 64 << 20
"""Bytes that must stay free on the disk."""


def cache_directory(environ: Environ) -> Path:
    """Return where downloads are kept: SLIPWAY_CACHE_DIR, else below XDG_CACHE_HOME, else ~/.cache."""
    if environ.get("SLIPWAY_CACHE_DIR"):
        return Path(environ["SLIPWAY_CACHE_DIR"]).expanduser().absolute()
    home = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME") or "~").expanduser() / ".cache")
    return Path(home) / "slipway"


class S3Cache:
    """One directory of downloads; several runs may use it at one time."""

    def __init__(self, directory: Path, client: S3Client, check: Callable[[], object] = lambda: None) -> None:
        """Name the directory; it is made when it is needed.

        Args:
            directory: of downloads.
            client: of S3.
            check: called often; raises when somebody wants no more.
        """
        self._check = check
        self._objects = directory / "s3" / "objects"
        self._trees = directory / "s3" / "trees"
        self._client = client
        self._ended = threading.Event()
        """Set when one download failed: the others need not go on."""

    def fetch(self, prefix: S3Uri, where: str) -> Path:
        """Bring everything below a prefix here.

        Args:
            prefix: as in ``S3DataSource.S3Uri`` with S3DataType S3Prefix: any beginning of keys.
            where: path of the key in the request, for errors.

        Returns:
            A directory that is not to be changed; one file for each object.

        Raises:
            UserError: nothing matches, no access, a key that cannot become a file, no space left.
            PlatformError: S3 does not answer, or breaks off again and again.
        """
        found = lay_out(prefix, self._listed(prefix))
        if not found:
            raise nothing_there(self._client, prefix, where)
        return self.fetch_objects(prefix.bucket, found)

    def fetch_objects(self, bucket: str, found: Mapping[str, S3Object]) -> Path:
        """Bring some objects of a bucket here, such as those of a manifest.

        Args:
            bucket: their bucket.
            found: relative path to object.

        Returns:
            A directory with these paths, not to be changed.
        """
        digests = {name: self._digest(bucket, item) for name, item in found.items()}
        tree = self._trees / _tree_digest(digests)
        if _is_whole(tree, found):
            log.info(f"nothing to download: {_told(found.values())} of s3://{bucket} in {self._trees.parent}")
            os.utime(tree)
            return tree / "data"
        for directory in (self._objects, self._trees):
            try:
                directory.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise UserError(
                    f"Downloads cannot be kept in {directory}: {error.strerror}", fix="set SLIPWAY_CACHE_DIR"
                ) from error
        missing = {
            digest: item
            for item, digest in zip(found.values(), digests.values(), strict=True)
            if not _is_object(self._objects / digest, item)
        }
        self._require_room(missing)
        log.info(f"downloading {_told(missing.values())} from s3://{bucket}; {len(found) - len(missing)} are here")
        self._download(bucket, missing)
        return self._build(tree, {name: self._objects / digest for name, digest in digests.items()}, found)

    def _listed(self, prefix: S3Uri) -> Iterator[S3Object]:
        for item in self._client.objects(prefix):
            self._check()
            yield item

    def _digest(self, bucket: str, item: S3Object) -> str:
        told = f"{FORMAT}\n{self._client.endpoint}\n{bucket}\n{item.key}\n{item.etag}\n{item.size}\n{item.modified_ns}"
        return hashlib.sha256(told.encode("utf-8", "surrogatepass")).hexdigest()

    def _require_room(self, missing: Mapping[str, S3Object]) -> None:
        """Refuse to begin what cannot be finished."""
        begun = 0
        for digest in missing:
            with contextlib.suppress(OSError):
                begun += (self._objects / f"{digest}.part").stat().st_size
        need = sum(item.size for item in missing.values()) - begun
        free = shutil.disk_usage(self._objects).free
        if need + HEADROOM > free:
            raise UserError(
                f"No space for the inputs: {need:,} bytes are to be downloaded, {self._objects} has {free:,} free",
                fix="set SLIPWAY_CACHE_DIR to a larger disk, or name a narrower prefix",
            )

    def _download(self, bucket: str, missing: Mapping[str, S3Object]) -> None:
        self._ended.clear()
        with ThreadPoolExecutor(WORKERS, "download") as pool:
            # Large ones first: else the last one to begin would be waited for alone.
            order = sorted(missing.items(), key=lambda pair: -pair[1].size)
            pending = {pool.submit(self._object, bucket, item, digest) for digest, item in order}
            try:
                while pending:
                    done, pending = wait(pending, LOOK_S, return_when=FIRST_EXCEPTION)
                    for future in done:
                        future.result()
                    self._check()
            except BaseException:
                self._ended.set()
                pool.shutdown(wait=False, cancel_futures=True)  # leaving the block waits for those under way
                raise

    def _object(self, bucket: str, item: S3Object, digest: str) -> None:
        """Download one object, going on where an earlier run broke off."""
        path, partial = self._objects / digest, self._objects / f"{digest}.part"
        try:
            with _locked(partial) as stream:
                if _is_object(path, item):
                    return  # another run was quicker
                have = stream.seek(0, os.SEEK_END)
                if have > item.size:
                    have = stream.truncate(0)
                self._client.copy(bucket, item, have, item.size, stream.write, self._ended)
                stream.flush()
                if self._ended.is_set():
                    return
                os.utime(stream.fileno(), ns=(item.modified_ns, item.modified_ns))
                os.fchmod(stream.fileno(), 0o444)
                partial.replace(path)
        except OSError as error:
            raise _explain(error, f"s3://{bucket}/{item.key}", path) from error

    def _build(self, tree: Path, sources: Mapping[str, Path], found: Mapping[str, S3Object]) -> Path:
        """Make the directory of a listing from hard links; it gets its name when it is whole."""
        aside = tree.with_name(f"{tree.name}.{os.getpid()}-{threading.get_ident()}")
        try:
            made: set[str] = set()
            for name, source in sources.items():
                target = aside / "data" / name
                parent = name.rpartition("/")[0]
                if parent not in made:
                    target.parent.mkdir(parents=True, exist_ok=True)
                    made.add(parent)
                _link(source, target)
            for parent, _, _ in os.walk(aside / "data"):
                os.chmod(parent, 0o755)  # noqa: S103 - an image may run as another user, whatever our umask
            (aside / "FORMAT").write_text(f"{FORMAT}\n", encoding="utf-8")
            if tree.exists():
                if _is_whole(tree, found):
                    return tree / "data"  # another run was quicker
                # Somebody changed it. A job may still be at work in it, so that it goes by its name only.
                tree.rename(tree.with_name(f"{aside.name}.changed"))
            with contextlib.suppress(FileExistsError):
                aside.rename(tree)
        except OSError as error:
            raise _explain(error, "the inputs", tree) from error
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return tree / "data"


def _link(source: Path, target: Path) -> None:
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in (errno.EPERM, errno.ENOTSUP, errno.EMLINK):
            raise
        shutil.copy2(source, target)  # a file system without hard links


def nothing_there(client: S3Client, prefix: S3Uri, where: str) -> UserError:
    """Say that no object begins so, and what is there instead: the nearest folder that exists, and what it holds."""
    folder = prefix.key
    while True:
        folder = folder.rstrip("/").rpartition("/")[0]
        folder = f"{folder}/" if folder else ""
        names, more = client.folders(S3Uri(prefix.bucket, folder))
        if names or not folder:
            break
    if not names:
        return UserError(f"{where} is '{prefix}', and the bucket is empty", fix="upload the data first")
    missing = prefix.key[len(folder) :].split("/")[0]
    near = _nearest(missing, names)
    shown = ", ".join(names[:10]) + (" ..." if more or len(names) > 10 else "")
    return UserError(
        f"{where} is '{prefix}', and no object begins so",
        allowed=f"s3://{prefix.bucket}/{folder} holds {shown}",
        fix=f"did you mean s3://{prefix.bucket}/{folder}{near}?"
        if near
        else "mend the prefix, or upload the data first",
    )


def _nearest(word: str, names: Sequence[str]) -> str:
    import difflib

    near = difflib.get_close_matches(word, [name.rstrip("/") for name in names], n=1)
    return next((name for name in names if near and name.rstrip("/") == near[0]), "")


def _told(objects: Iterable[S3Object]) -> str:
    sizes = [item.size for item in objects]
    return f"{len(sizes):,} object{'s' if len(sizes) != 1 else ''} ({sum(sizes) / 2**20:,.1f} MiB)"


def _tree_digest(digests: Mapping[str, str]) -> str:
    told = hashlib.sha256()
    for name in sorted(digests):
        told.update(f"{name}\0{digests[name]}\n".encode("utf-8", "surrogatepass"))
    return told.hexdigest()


def _is_object(path: Path, item: S3Object) -> bool:
    """Tell whether an object is here and nobody has changed it: links to it lie where jobs run."""
    try:
        status = path.stat()
    except OSError:
        return False
    if (status.st_size, status.st_mtime_ns) == (item.size, item.modified_ns):
        return True
    log.warning(f"{path} was changed since it was downloaded: it is fetched again")
    path.unlink(missing_ok=True)
    return False


def _is_whole(tree: Path, found: Mapping[str, S3Object]) -> bool:
    """Tell whether a tree holds what it was made of, and nothing that a job added."""
    try:
        if (tree / "FORMAT").read_text(encoding="utf-8").strip() != str(FORMAT):
            return False
    except OSError:
        return False
    root = str(tree / "data")
    count = 0
    for parent, _, names in os.walk(root):
        for name in names:
            path = f"{parent}/{name}"
            item = found.get(path[len(root) + 1 :])
            try:
                status = os.lstat(path)
            except OSError:
                return False
            if item is None or (status.st_size, status.st_mtime_ns) != (item.size, item.modified_ns):
                return False
            count += 1
    return count == len(found)


@contextlib.contextmanager
def _locked(partial: Path) -> Generator[BinaryIO]:
    """Open the beginning of a download for us alone; another run that is at it is waited for."""
    while True:
        with partial.open("ab") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)
            try:
                ours = os.path.samestat(partial.stat(), os.fstat(stream.fileno()))
            except OSError:
                ours = False
            if ours:  # else it was finished, and renamed, while we waited
                yield stream
                if not os.fstat(stream.fileno()).st_size:
                    partial.unlink(missing_ok=True)
                return


def _explain(error: OSError, what: str, path: Path) -> UserError | PlatformError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return UserError(f"No space left for {what} in {path.parent}", fix="set SLIPWAY_CACHE_DIR to a larger disk")
    if error.errno == errno.ENAMETOOLONG:
        return UserError(f"{what} cannot become a file: a part of its key is longer than 255 bytes")
    return PlatformError(f"{what} cannot be kept in {path.parent}: {error}")
