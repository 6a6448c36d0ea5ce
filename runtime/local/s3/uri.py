"""Addresses in S3, and the names that objects get on disk. Pure."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from runtime.base.errors import UserError

SCHEME = "s3://"
_BUCKET = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9.\-_]{1,253}[a-zA-Z0-9]")
"""A name, or the alias of an access point; looser than today's rules, for old buckets."""


@dataclass(frozen=True)
class S3Uri:
    """A bucket, and a key or the beginning of keys in it."""

    bucket: str
    key: str = ""
    """Not percent-encoded; may be empty, and may end anywhere where a prefix is meant."""

    def __str__(self) -> str:
        return f"{SCHEME}{self.bucket}/{self.key}"

    def below(self, *names: str) -> "S3Uri":
        """Return the address of something in the folder that this one names."""
        return S3Uri(self.bucket, "/".join(part for part in (self.key.rstrip("/"), *names) if part))


def is_s3(text: str) -> bool:
    """Tell whether a text is meant as an address in S3."""
    return text[: len(SCHEME)].lower() == SCHEME


def parse_s3_uri(text: str, where: str) -> S3Uri:
    """Read ``s3://BUCKET[/KEY]``.

    Args:
        text: as the user wrote it.
        where: path of the key in the request, for the error.

    Raises:
        UserError: it is none.
    """
    bucket, _, key = text[len(SCHEME) :].partition("/")
    if not is_s3(text) or not _BUCKET.fullmatch(bucket):
        raise UserError(f"{where} is {text!r}", allowed="it is s3://BUCKET/KEY")
    return S3Uri(bucket, key)


@dataclass(frozen=True)
class S3Object:
    """One object, as a listing tells it."""

    key: str
    size: int
    """Bytes."""
    etag: str
    """Without quotes; changes when the content does."""
    modified_ns: int = 0
    """Unix time of its last change, in ns."""


def name_below(prefix: str, key: str) -> str:
    """Return the path that the service gives to an object in a channel's directory.

    A prefix is a mere beginning of keys. Where it names a folder, the path begins below it; where it ends inside a
    name, that name stays whole.

    >>> name_below("data/train", "data/train/a/1.csv"), name_below("data/train/", "data/train/2.csv")
    ('a/1.csv', '2.csv')
    >>> name_below("data/train", "data/train-more.csv"), name_below("data/train.csv", "data/train.csv")
    ('train-more.csv', 'train.csv')

    Source: sagemaker-python-sdk #3612 (whole names), and every notebook that trains on ``s3://bucket/data/train``.
    """
    rest = key[len(prefix) :]
    if prefix.endswith("/") or rest.startswith("/"):
        return rest.lstrip("/")
    return key[prefix.rfind("/") + 1 :]


def lay_out(prefix: S3Uri, objects: Iterable[S3Object]) -> dict[str, S3Object]:
    """Decide where each object of a prefix goes.

    Folders as the console makes them, empty objects whose key ends in a slash, become nothing.

    Returns:
        Relative path to object, in the order of the keys.

    Raises:
        UserError: keys that no directory can hold, as the service refuses them.
    """
    found: dict[str, S3Object] = {}
    for item in objects:
        if item.key.endswith("/") and item.size == 0:
            continue
        name = name_below(prefix.key, item.key)
        where = f"{SCHEME}{prefix.bucket}/{item.key}"
        if "//" in item.key or item.key.endswith("/"):
            # In the service's words: "S3 key ... has an illegal char sub-sequence '//' in it" (Data download failed).
            raise UserError(f"{where} cannot become a file: its key has an empty part", fix=_RENAME)
        if any(part in (".", "..") for part in name.split("/")) or "\0" in name:
            raise UserError(f"{where} cannot become a file: its key has a part '.' or '..'", fix=_RENAME)
        if name in found:
            raise UserError(f"{where} and {found[name].key} would both become {name!r}", fix=_RENAME)
        found[name] = item
    _refuse_files_as_folders(prefix, found)
    return found


_RENAME = "rename the object, or name a narrower prefix"


def _refuse_files_as_folders(prefix: S3Uri, found: Mapping[str, S3Object]) -> None:
    for name, item in found.items():
        parent = name.rpartition("/")[0]
        while parent:
            if parent in found:
                raise UserError(
                    f"{SCHEME}{prefix.bucket}/{found[parent].key} is an object, and {item.key} lies below it",
                    allowed="a name on disk is a file or a directory",
                    fix=_RENAME,
                )
            parent = parent.rpartition("/")[0]
