"""Every format with a few samples that it can hold; shared by the tests of all formats."""

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from runtime.data.formats.probe import SPAN_FORMATS
from runtime.data.formats.samples import Sparse

JPEG = b"\xff\xd8\xff\xe0" + bytes(range(64)) + b"\xff\xd9"

SAMPLES: Mapping[str, list[dict[str, Any]]] = {
    "recordio-protobuf": [
        {"values": np.arange(3, dtype=np.float32), "label": np.array([1.0], dtype=np.float32)},
        {"values": np.arange(6, dtype=np.float64).reshape(2, 3), "label": np.array([2], dtype=np.int32)},
        {
            "values": Sparse(np.array([1, 300, 70000], dtype=np.uint64), np.ones(3, dtype=np.float32), (100000,)),
            "label.weight": np.array([-1, 2**31 - 1], dtype=np.int32),
            "__uid__": "ü",
        },
        {"picture": JPEG, "__metadata__": "{}"},
    ],
    "recordio-image": [
        {"image": JPEG, "label": 3.0, "id": 0, "id2": 0},
        {"image": JPEG * 3, "label": np.array([1, 2, 3], dtype=np.float32), "id": 7, "id2": 1},
        {"image": b"\x0a\x23\xd7\xce" * 3, "label": 0.5, "id": 8, "id2": 0},
    ],
    "tfrecord": [
        {"image": JPEG, "label": np.array([3], dtype=np.int64), "name": b"a"},
        {"floats": np.arange(5, dtype=np.float32), "texts": [b"x", b"", b"z"], "negative": np.array([-1, 2**40])},
        {"missing": []},
    ],
    "tar": [
        {"__key__": "0001", "jpg": JPEG, "cls": b"3"},
        {"__key__": "deep/er.dir/0002", "jpg": JPEG * 20, "seg.png": b""},
        {"__key__": "n" * 200, "txt": "größer".encode()},
        {"__key__": "größer", "txt": b"x" * 1024},
    ],
    "jsonlines": [{"caption": "größer", "n": 1}, {"caption": 'a "b"\n', "list": [1, 2]}, {}],
    "csv": [{"a": "1", "b": "x,y"}, {"a": "2", "b": 'say "hi"\nthere'}, {"a": "", "b": "ü"}],
    "tsv": [{"a": "1", "b": "x,y"}, {"a": "2", "b": "tab\tin"}],
}


def written(name: str, samples: list[dict[str, Any]] | None = None) -> bytes:
    """A shard of a format, as its own writer makes it."""
    out = io.BytesIO()
    writer = writers()[name](out)
    for sample in SAMPLES[name] if samples is None else samples:
        writer.write(sample)
    writer.close()
    return out.getvalue()


def writers() -> Mapping[str, Callable[[io.BytesIO], Any]]:
    made: dict[str, Any] = {name: make() for name, make in SPAN_FORMATS.items()}
    return {name: kind.writer for name, kind in made.items()}


def same(one: Any, other: Any) -> bool:
    """Whether two samples, or two of their fields, are equal in value, type and shape."""
    if isinstance(one, dict):
        return isinstance(other, dict) and list(one) == list(other) and all(same(one[k], other[k]) for k in one)
    if isinstance(one, Sparse):
        return (
            isinstance(other, Sparse)
            and one.shape == other.shape
            and same(one.keys, other.keys)
            and same(one.values, other.values)
        )
    if isinstance(one, np.ndarray):
        return (
            isinstance(other, np.ndarray)
            and one.dtype == other.dtype
            and one.shape == other.shape
            and bool((one == other).all())
        )
    return type(one) is type(other) and one == other
