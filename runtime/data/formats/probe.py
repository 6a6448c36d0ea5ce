"""Which format a file has: by the channel's content type where there is one, else by the file's first bytes."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from runtime.base.errors import UserError, did_you_mean
from runtime.data.formats import image_record, recordio, recordio_protobuf
from runtime.data.formats.errors import FormatError
from runtime.data.formats.example import TFExample
from runtime.data.formats.image_record import ImageRecords
from runtime.data.formats.lines import JsonLines
from runtime.data.formats.recordio_protobuf import RecordIOProtobuf
from runtime.data.formats.samples import Format
from runtime.data.formats.tables import Csv
from runtime.data.formats.tar import BLOCK, TarShards
from runtime.data.formats.tfrecord import looks_like_tfrecord
from runtime.data.formats.window import Window

SPAN_FORMATS: Mapping[str, Callable[[], Format]] = {
    "recordio-protobuf": RecordIOProtobuf,
    "recordio-image": ImageRecords,
    "tfrecord": TFExample,
    "tar": TarShards,
    "jsonlines": JsonLines,
    "csv": Csv,
    "tsv": lambda: Csv(delimiter="\t"),
}
"""Formats whose samples are pieces of their files."""

CONTENT_TYPES: Mapping[str, str] = {
    "application/x-recordio-protobuf": "recordio-protobuf",
    "application/x-recordio": "recordio-image",
    "application/x-tfrecord": "tfrecord",
    "application/x-tar": "tar",
    "application/x-webdataset": "tar",
    "application/jsonlines": "jsonlines",
    "application/x-jsonlines": "jsonlines",
    "application/jsonl": "jsonlines",
    "application/x-ndjson": "jsonlines",
    "text/csv": "csv",
    "text/tab-separated-values": "tsv",
    "application/x-parquet": "parquet",
    "application/vnd.apache.parquet": "parquet",
    "application/x-npy": "npy",
    "application/x-tokens": "tokens",
    "application/x-image": "images",
    "image/png": "images",
    "image/jpeg": "images",
    "image/jpg": "images",
}
"""Source of SageMaker's own: the common data formats of its built-in algorithms."""

SUFFIXES: Mapping[str, str] = {
    ".csv": "csv",
    ".tsv": "tsv",
    ".jsonl": "jsonlines",
    ".ndjson": "jsonlines",
    ".json": "jsonlines",
    ".bin": "tokens",
    ".tar": "tar",
    ".rec": "recordio-image",
    ".tfrecord": "tfrecord",
    ".tfrecords": "tfrecord",
    ".parquet": "parquet",
    ".pbr": "recordio-protobuf",
}
HEAD_BYTES = 1 << 16


@dataclass(frozen=True)
class Found:
    """What a file is, and why we think so."""

    format: str
    """One of the values of `CONTENT_TYPES`."""
    reason: str
    parameters: Mapping[str, str] = field(default_factory=dict[str, str])
    """Of the content type, such as ``label_size`` of ``text/csv;label_size=1``."""


def probe(path: Path, content_type: str = "") -> Found:
    """Say which format a file has.

    Args:
        path: of the file; compressed ones are looked into.
        content_type: of the channel; empty: look at the bytes.

    Raises:
        UserError: an unknown content type, or bytes of no format of ours.
        PlatformError: the file cannot be read.
    """
    with Window.open(path, capacity=HEAD_BYTES) as window:
        return probe_window(window, path, content_type)


def probe_window(window: Window, path: Path, content_type: str = "") -> Found:
    """Say which format a stream has, and consume nothing of it; see `probe`."""
    told, parameters = parse_content_type(content_type)
    if told:
        return Found(told, f"its content type is {content_type}", parameters)
    by_suffix = SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix.lower(), "")
    try:
        window.want(HEAD_BYTES)
    except FormatError:
        if not window.end:
            raise
    head = bytes(window.view[window.begin : min(window.end, window.begin + HEAD_BYTES)])
    if head.lstrip().startswith(b"[") and (by_suffix == "jsonlines" or head.lstrip()[1:].lstrip().startswith(b"{")):
        raise UserError(
            f"{path} is one JSON array, which must be read as a whole",
            allowed="JSON lines: one object on each line",
            fix=f"jq -c '.[]' {path.name} > {path.stem}.jsonl",
        )
    found = _by_bytes(head, by_suffix, str(path))
    if found is None and by_suffix and (not head or by_suffix == "tokens"):
        found = Found(by_suffix, f"{path.name} is called so" + ("" if head else " and empty"), parameters)
    if found is None:
        raise UserError(
            f"{path} has no format that we know: it begins with {head[:16]!r}",
            allowed=f"content types: {', '.join(CONTENT_TYPES)}",
            fix="set the channel's content type, or convert the data",
        )
    return replace(found, parameters=parameters)


def parse_content_type(content_type: str) -> tuple[str, dict[str, str]]:
    """Return the format and the parameters of a content type; an empty format for none, or a general one.

    Raises:
        UserError: it is none that we know.
    """
    kind, *rest = (part.strip() for part in content_type.split(";"))
    kind = kind.lower()
    parameters = {name.strip().lower(): value.strip() for name, _, value in (part.partition("=") for part in rest)}
    if kind in ("", "application/octet-stream", "binary/octet-stream", "application/x-directory"):
        return "", parameters
    if kind not in CONTENT_TYPES:
        raise UserError(f"Unknown content type {content_type!r}. {did_you_mean(kind, CONTENT_TYPES)}")
    return CONTENT_TYPES[kind], parameters


def _by_bytes(head: bytes, by_suffix: str, file: str) -> Found | None:
    if head.startswith(b"PAR1"):
        return Found("parquet", "it begins with PAR1")
    if head.startswith(b"\x93NUMPY"):
        return Found("npy", "it begins as .npy files do")
    if head.startswith(recordio.MAGIC_BYTES):
        return _in_recordio(head, file)
    if looks_like_tfrecord(head):
        return Found("tfrecord", "it begins with a length and its checksum, as TFRecord does")
    if len(head) >= BLOCK and head[257:262] == b"ustar":
        return Found("tar", "it begins with a header of tar")
    if by_suffix == "tar" and len(head) >= BLOCK:
        return Found("tar", "it is called .tar")
    return _in_text(head, by_suffix)


def _in_recordio(head: bytes, file: str) -> Found:
    try:
        first = next(recordio.read_records(Window.of(head, file)))
    except (FormatError, StopIteration):
        return Found("recordio-image", "it is RecordIO with a first record that is long, as images are")
    try:
        if any(not name.startswith("__") for name in recordio_protobuf.decode(first, file, 0)):
            return Found("recordio-protobuf", "its first record is a protobuf message with features")
    except FormatError:
        pass
    image_record.decode(first, file, 0)
    return Found("recordio-image", "it is RecordIO whose first record is no protobuf message")


def _in_text(head: bytes, by_suffix: str) -> Found | None:
    try:
        text = head.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 4:  # not just a character that the head cuts
            return None
        text = head[: error.start].decode("utf-8-sig")
    if not text.strip() or "\0" in text:
        return None
    if text.lstrip().startswith("{"):
        return Found("jsonlines", "its first line begins with {")
    if by_suffix in ("csv", "tsv"):
        return Found(by_suffix, f"it is text, and called .{by_suffix}")
    first = text.partition("\n")[0]
    if "\t" in first and "," not in first:
        return Found("tsv", "its first line is text with tabs")
    if "," in first:
        return Found("csv", "its first line is text with commas")
    return None
