"""What a channel consists of: its objects by name, found once at the start of a job."""

from collections.abc import Callable
from dataclasses import dataclass

from runtime.base.errors import UserError
from runtime.local.inputs.manifest import LARGEST, parse_manifest
from runtime.local.inputs.objects import Stores, split_uri


@dataclass(frozen=True, slots=True)
class Item:
    """One object of a channel."""

    path: str
    """Below the channel's directory."""
    bucket: str
    """Empty: a file of this machine."""
    key: str
    size: int
    """Bytes."""


def list_items(uri: str, data_type: str, stores: Stores) -> list[Item]:
    """Find the objects of a channel, in the order in which the service takes them.

    Args:
        uri: of a prefix, or of a manifest.
        data_type: ``S3Prefix`` or ``ManifestFile``.
        stores: to look in.

    Raises:
        UserError: there is none, a manifest is malformed, or a name cannot be a path.
    """
    items = _manifest(uri, stores) if data_type == "ManifestFile" else _prefix(uri, stores)
    if not items:
        raise UserError(f"{uri} holds no object", fix="check the prefix; a job without data is refused by the service")
    return items


def _prefix(uri: str, stores: Stores) -> list[Item]:
    bucket, key = split_uri(uri)
    return [Item(found.name, bucket, found.key, found.size) for found in stores.of(bucket).list(key)]


def _manifest(uri: str, stores: Stores) -> list[Item]:
    bucket, key = split_uri(uri)
    manifest = parse_manifest(_text(bucket, key, uri, stores), uri)
    items: list[Item] = []
    for path, name in zip(manifest.paths, manifest.names, strict=True):
        bucket, key = split_uri(manifest.prefix + name)
        try:
            found = stores.of(bucket).stat(key)
        except UserError as error:
            raise UserError(f"Manifest {uri} names {manifest.prefix}{name}: {error}") from error
        items.append(Item(path, bucket, key, found.size))
    return items


def _text(bucket: str, key: str, uri: str, stores: Stores) -> str:
    store = stores.of(bucket)
    size = store.stat(key).size
    if size > LARGEST:
        raise UserError(f"Manifest {uri} has {size} bytes", allowed=f"at most {LARGEST}")
    try:
        return store.read(key, 0, size).decode()
    except UnicodeDecodeError as error:
        raise UserError(f"Manifest {uri} is no UTF-8: {error}") from error
    except OSError as error:
        raise UserError(f"Manifest {uri} cannot be read: {error.strerror}") from error


Tree = dict[str, "Tree | Item"]
"""A directory: names to files and to further directories."""


def tree_of(items: list[Item], warn: Callable[[str], None]) -> Tree:
    """Put the objects of a channel into directories.

    Args:
        items: of the channel.
        warn: takes the name of each object that no file can stand for.

    Raises:
        UserError: one object's name is the directory of another.
    """
    root: Tree = {}
    for item in items:
        *above, name = item.path.split("/")
        if any(part in ("", ".", "..") or "\0" in part for part in (*above, name)) or not _is_text(item.path):
            warn(f"object {item.key!r} is left out: its name is no path")
            continue
        here = root
        for part in above:
            below = here.setdefault(part, {})
            if isinstance(below, Item):
                raise _both(item, below)
            here = below
        if isinstance(here.get(name), dict):
            raise UserError(
                f"Object {item.key!r} is also the directory of others",
                allowed="in a file system a name is one or the other",
            )
        here[name] = item
    return root


def _is_text(path: str) -> bool:
    """Tell whether a name is UTF-8, as keys of S3 are; files of this machine may have others."""
    try:
        path.encode()
    except UnicodeEncodeError:
        return False
    return True


def _both(item: Item, below: Item) -> UserError:
    return UserError(
        f"Object {below.key!r} is also the directory of {item.key!r}",
        allowed="in a file system a name is one or the other",
    )
