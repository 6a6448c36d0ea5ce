"""What decides the bytes of the output; equal options and an equal source make equal files."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from runtime.base.errors import UserError

FORMAT = 1
"""Of manifests, and of what the options mean."""
SUFFIXES: Mapping[str, str] = {
    "tar": ".tar",
    "recordio-image": ".rec",
    "recordio-protobuf": ".pbr",
    "tfrecord": ".tfrecord",
    "parquet": ".parquet",
    "csv": ".csv",
    "tsv": ".tsv",
    "jsonlines": ".jsonl",
}
"""Of shards. Forms without one are files of their own (``folders``, ``pairs``) or one pair of arrays (``npy``)."""
TREES = ("folders", "pairs")
TABLES = ("csv", "tsv")
CLASSES = ("tar", "recordio-image", "recordio-protobuf", "npy")
"""Forms whose labels are numbers."""


@dataclass(frozen=True)
class Options:
    """How samples become shards."""

    to: str
    """One of `flags.FORMS`."""
    shard_bytes: int = 128_000_000
    """About the size of a shard, at least 1."""
    shards: int = 0
    """Number of shards of each split; 0: by `shard_bytes`."""
    shuffle: bool = False
    seed: int = 0
    by_label: bool = False
    splits: tuple[tuple[str, float], ...] = ()
    """Name and part; parts sum up to 1 at most, the rest is left out."""
    short_edge: int = 0
    """Pixels; 0: as they are."""
    center_crop: bool = False
    quality: int = 92
    """Of JPEG and WebP, 1 to 100."""
    image_format: Literal["keep", "jpg", "png", "webp"] = "keep"
    decode: bool = False
    roles: tuple[tuple[str, str], ...] = ()
    """Field of the source that is to be called ``label``, ``image``, ``text`` or ``__key__``: (new, old)."""
    drop: tuple[str, ...] = ()
    labels: tuple[tuple[str, int], ...] = ()
    """Given names of labels with their numbers."""
    matrix: Literal["", "sparse", "dense"] = ""
    dtype: Literal["float32", "float64"] = "float32"
    header: Literal["auto", "yes", "no"] = "auto"
    names: Literal["key", "number"] = "key"
    on_bad: Literal["raise", "skip"] = "raise"
    content_type: str = field(default="")

    def __post_init__(self) -> None:
        """Refuse what contradicts itself.

        Raises:
            UserError: a value out of its range, or two that exclude each other.
        """
        if self.shard_bytes < 1:
            raise UserError(f"--shard-mb is {self.shard_bytes / 1e6:g}", allowed="more than 0; 100 to 200 is usual")
        if self.shards < 0:
            raise UserError(f"--shards is {self.shards}", allowed="1 or more")
        if not 1 <= self.quality <= 100:
            raise UserError(f"--quality is {self.quality}", allowed="1 to 100")
        if self.short_edge < 0:
            raise UserError(f"--short-edge is {self.short_edge}", allowed="1 pixel or more")
        if self.center_crop and not self.short_edge:
            raise UserError("--center-crop without --short-edge", fix="give the side of the square: --short-edge 256")
        if self.to == "npy" and (self.by_label or self.shards > 1):
            raise UserError(
                "--to npy with " + ("--by-label" if self.by_label else f"--shards {self.shards}"),
                allowed="one x.npy and one y.npy for each split: that is what run.data reads",
            )
        if self.to == "folders" and self.by_label:
            raise UserError("--to folders with --by-label", allowed="folders are by label already")

    def as_json(self) -> dict[str, Any]:
        """Return what JSON can hold."""
        return asdict(self)


def options_from_json(value: Mapping[str, Any]) -> Options:
    """Read what `Options.as_json` gave; lists become tuples again."""
    known = {item.name for item in fields(Options)}
    return Options(**{name: _frozen(held) for name, held in value.items() if name in known})


def _frozen(value: Any) -> Any:  # noqa: ANN401 - what JSON holds
    return tuple(_frozen(item) for item in value) if isinstance(value, list | tuple) else value


def digest_of(value: object) -> str:
    """Return a digest of what JSON can hold; of 128 bits, in hexadecimal digits."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()
