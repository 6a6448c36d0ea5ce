"""Small datasets of every form, and what is in them."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from runtime.data.convert.manifest import Manifest
from runtime.data.convert.options import Options
from runtime.data.convert.run import Request, convert
from runtime.data.convert.sources import open_source
from runtime.data.formats.samples import Sparse


def picture(number: int = 0, width: int = 20, height: int = 12, kind: str = "JPEG") -> bytes:
    stream = io.BytesIO()
    noise = np.random.default_rng(number).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(noise).save(stream, kind)
    return stream.getvalue()


def label_folders(root: Path, counts: Mapping[str, int]) -> Path:
    for label, count in counts.items():
        (root / label).mkdir(parents=True)
        for number in range(count):
            (root / label / f"{number:03d}.jpg").write_bytes(picture(number))
    return root


def pairs(root: Path, count: int) -> Path:
    root.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        (root / f"{number:03d}.jpg").write_bytes(picture(number))
        (root / f"{number:03d}.txt").write_text(f"größer, number {number}", encoding="utf-8")
    return root


def table(path: Path, rows: Sequence[Sequence[object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as stream:
        csv.writer(stream, lineterminator="\n").writerows(rows)
    return path


def lines(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def run(
    source: Path, to: str, out: Path, *, processes: int = 1, share: tuple[int, int] = (0, 1), **options: Any
) -> Manifest:
    return convert(Request(source, out, Options(to, **options), share=share, processes=processes))


def samples(path: Path, work: Path, **options: Any) -> list[dict[str, Any]]:
    """The samples of a dataset, in the neutral shape."""
    source = open_source(path, Options("tar", **options), work).source
    return [source.read(index) for index in range(len(source))]


def content(out: Path) -> dict[str, bytes]:
    """All files of an output, the manifest too."""
    return {str(path.relative_to(out)): path.read_bytes() for path in sorted(out.rglob("*")) if path.is_file()}


def equal(one: Any, other: Any) -> bool:
    """Whether two fields hold the same, whatever their types' widths."""
    if isinstance(one, Sparse) or isinstance(other, Sparse):
        one, other = (value.dense() if isinstance(value, Sparse) else value for value in (one, other))
    if isinstance(one, np.ndarray | list) or isinstance(other, np.ndarray | list):
        return np.asarray(one).shape == np.asarray(other).shape and bool(np.array_equal(one, other))
    return one == other
