"""The sidecar of an index: where each row of ``rows.jsonl`` begins, so that a row is found without reading the others.

``rows.idx`` is a header of 64 bytes, then one little-endian u64 for each row: its first byte in ``rows.jsonl``. Eight
bytes for a row; opened by mmap, so that processes of one machine share it and nothing is loaded.
"""

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from runtime.base.errors import UserError

MAGIC = b"SLIPIDX\n"
FORMAT = 1
HEADER = struct.Struct("<8sIIQQ32s")
"""Magic, format, reserved, rows, bytes of ``rows.jsonl``, digest of its content."""

Offsets = npt.NDArray[np.uint64]


@dataclass(frozen=True)
class Header:
    """What the sidecar says of its rows."""

    rows: int
    size: int
    """Bytes of ``rows.jsonl``."""
    digest: bytes
    """32 bytes; of names and captions, whatever way they came into the index."""

    def pack(self) -> bytes:
        """Return the 64 bytes."""
        return HEADER.pack(MAGIC, FORMAT, 0, self.rows, self.size, self.digest)


def read_header(path: Path, rows_path: Path) -> Header:
    """Read a sidecar's header, and see that both files belong together.

    Raises:
        UserError: it is damaged, of a newer format, or of other rows.
    """
    again = "build it again: slipway index"
    try:
        with path.open("rb") as stream:
            head = stream.read(HEADER.size)
        size, rows_size = path.stat().st_size, rows_path.stat().st_size
    except OSError as error:
        raise UserError(f"Index {path} cannot be read: {error.strerror}", fix=again) from error
    if len(head) < HEADER.size or not head.startswith(MAGIC):
        raise UserError(f"{path} is no index of Slipway: it begins with {head[:8]!r}", fix=again)
    _, version, _, rows, bytes_, digest = HEADER.unpack(head)
    if version > FORMAT:
        raise UserError(f"{path} has format {version}", allowed=f"this version reads up to {FORMAT}")
    if size != HEADER.size + 8 * rows:
        raise UserError(f"{path} is truncated: {size} bytes for {rows} rows", fix=again)
    if rows_size != bytes_:
        raise UserError(
            f"{rows_path} has {rows_size} bytes, its index {path.name} was made for {bytes_}",
            fix="somebody has changed it: " + again,
        )
    return Header(rows, bytes_, digest)


def open_offsets(path: Path, header: Header) -> Offsets:
    """Map the offsets of all rows; nothing is read."""
    if not header.rows:
        return np.zeros(0, dtype=np.uint64)
    return np.memmap(path, dtype="<u8", mode="r", offset=HEADER.size, shape=(header.rows,))
