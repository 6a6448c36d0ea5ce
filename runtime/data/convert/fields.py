"""Samples of every form in one neutral shape, which every other form is made from.

Names of fields stay, except where a form has names of its own for what all share: ``image`` (bytes), ``label``,
``text``, ``values`` (an array), ``__key__``.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from typing import Any

import numpy as np

from runtime.data.formats.npy import NpyError, read_array
from runtime.data.formats.samples import KEY, Sample, Sparse
from runtime.data.images import BadSample
from runtime.data.views import IMAGE_FIELDS, LABEL_FIELDS, TEXT_FIELDS

BOOKKEEPING = (KEY, "id", "id2")
"""Names and numbers of samples; where a form has no place for them, nothing of the sample is lost."""
SHAPE, KEYS = "/shape", "/keys"
"""Ends of names of features that tell what a flat list cannot."""
SPARSE_FIELDS = ("keys", "values", "shape")


def neutral(form: str, sample: Sample) -> Sample:
    """Bring a sample of a form into the neutral shape.

    Raises:
        BadSample: a field is not what its name says.
    """
    reader = _READERS.get(form)
    return dict(sample) if reader is None else reader(sample)


def role(sample: Mapping[str, Any], names: Sequence[str]) -> str:
    """Return the first of some names that the sample has; empty: none."""
    return next((name for name in names if name in sample), "")


def image_field(sample: Mapping[str, Any]) -> str:
    """Return the name of the sample's image; empty: it has none."""
    return next((name for name in IMAGE_FIELDS if isinstance(sample.get(name), bytes)), "")


def label_field(sample: Mapping[str, Any]) -> str:
    """Return the name of the sample's label; empty: it has none."""
    return role(sample, LABEL_FIELDS)


def text_field(sample: Mapping[str, Any]) -> str:
    """Return the name of the sample's caption; empty: it has none."""
    return next((name for name in TEXT_FIELDS if isinstance(sample.get(name), str)), "")


def label_of(sample: Mapping[str, Any]) -> int | float | str | None:
    """Return the label as a number or a name; None: it has none, or several."""
    name = label_field(sample)
    value = scalar(sample.get(name)) if name else None
    return value if isinstance(value, int | float | str) else None


def scalar(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    """Return the only number of an array, whole ones as integers; anything else as it is."""
    if isinstance(value, np.ndarray | np.generic) and value.size == 1:
        value = value.reshape(()).item()
    if isinstance(value, float) and value.is_integer() and abs(value) < 1 << 53:
        return int(value)
    if isinstance(value, bool):
        return int(value)
    return value


def split_key(sample: Mapping[str, Any]) -> bytes:
    """Return what a sample's split is hashed from: its key, or all that it holds when it has none.

    Neither changes when the data grow; and equal samples without keys never lie in two splits.
    """
    if KEY in sample:
        return str(sample[KEY]).encode("utf-8", "surrogateescape")
    digest = blake2b(digest_size=16)
    for name in sorted(sample):
        if name not in BOOKKEEPING:
            digest.update(f"\0{name}\0".encode("utf-8", "surrogatepass"))
            _feed(digest.update, sample[name])
    return digest.digest()


def _feed(update: Callable[[bytes], object], value: Any) -> None:  # noqa: ANN401 - whatever a field holds
    if isinstance(value, Sparse):
        update(f"{value.shape}".encode() + value.keys.tobytes() + value.values.tobytes())
    elif isinstance(value, np.ndarray):
        update(f"{value.shape} {value.dtype.str}".encode() + value.tobytes())
    elif isinstance(value, bytes):
        update(value)
    else:
        update(json.dumps(value, sort_keys=True, default=repr).encode("utf-8", "surrogatepass"))


def _from_tar(sample: Sample) -> Sample:
    found: Sample = {}
    image = image_field(sample)
    for name, value in sample.items():
        if name == KEY:
            found[KEY] = value
        elif name == image:
            found["image"] = value
        elif name == "cls":
            found["label"] = number_or_text(_decoded(value, name))
        elif name in ("txt", "text", "caption"):
            found["text"] = _decoded(value, name)
        elif name == "json":
            _merge(found, _json(value))
        elif name == "npy" or name.endswith(".npy"):
            found["values" if name == "npy" else name.removesuffix(".npy")] = _array(value, name)
        else:
            found[name] = value
    return found


def _from_image_record(sample: Sample) -> Sample:
    found = {"image": sample["image"], "label": scalar(sample["label"]), "id": sample["id"]}
    if isinstance(sample["label"], np.ndarray):
        found["label"] = sample["label"].copy()  # one label in an array stays one
    return found | ({"id2": sample["id2"]} if sample["id2"] else {})


def _from_protobuf(sample: Sample) -> Sample:
    found = {KEY if name == "__uid__" else name: value for name, value in sample.items()}
    if "label" in found:
        found["label"] = scalar(found["label"])
    return found


def _from_example(sample: Sample) -> Sample:
    found: Sample = {}
    image = image_field(sample)
    for name, value in sample.items():
        if name.endswith((SHAPE, KEYS)) and name.rpartition("/")[0] in sample:
            continue
        if name in (*TEXT_FIELDS, KEY) and isinstance(value, bytes):
            found[name] = _decoded(value, name)
        elif isinstance(value, list) and not value:
            found[name] = None
        elif name + SHAPE in sample or isinstance(value, np.ndarray):
            found[name] = _shaped(sample, name, value)
        else:
            found[name] = value
    if image and image != "image" and "image" not in found:
        found = {("image" if name == image else name): value for name, value in found.items()}
    if "image/class/label" in found and "label" not in found:
        found["label"] = found.pop("image/class/label")
    return found


def _shaped(sample: Sample, name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    flat = np.empty(0, np.float32) if isinstance(value, list) else value
    try:
        shape = tuple(sample[name + SHAPE].tolist()) if name + SHAPE in sample else None
        if name + KEYS in sample:
            keys = sample[name + KEYS]
            keys = np.empty(0, np.uint64) if isinstance(keys, list) else keys.astype(np.uint64)
            if len(keys) != len(flat) or (len(keys) and int(keys.max()) >= int(np.prod(shape or (0,)))):
                raise ValueError(f"{len(keys)} keys for {len(flat)} values of shape {shape}")
            return Sparse(keys, flat, shape or ())
        if shape is not None:
            return flat.reshape(shape)
    except (ValueError, AttributeError, TypeError) as error:
        raise BadSample(f"{name!r} does not fit its shape: {error}") from error
    return flat if name == "values" or flat.size != 1 else flat[0].item()


def _from_rows(sample: Sample) -> Sample:
    found: Sample = {}
    for name, value in sample.items():
        if isinstance(value, dict) and set(value) == set(SPARSE_FIELDS):
            keys, values = np.asarray(value["keys"], dtype=np.uint64), np.asarray(value["values"], dtype=np.float32)
            if len(keys) != len(values):
                raise BadSample(f"{name!r} has {len(keys)} keys for {len(values)} values")
            found[name] = Sparse(keys, values, tuple(value["shape"]))
        elif isinstance(value, dict) and isinstance(value.get("bytes"), bytes):
            found[name] = value["bytes"]  # an image of Hugging Face's datasets
        else:
            found[name] = value
    return found


def _merge(found: Sample, more: Mapping[str, Any]) -> None:
    twice = sorted(set(found) & set(more))
    if twice:
        raise BadSample(f"the member 'json' has {twice[0]!r}, which is there already")
    found.update(more)


def _json(value: bytes) -> Mapping[str, Any]:
    try:
        read = json.loads(value)
    except (ValueError, RecursionError) as error:
        raise BadSample(f"the member 'json' is none: {error}") from error
    return read if isinstance(read, dict) else {"json": read}


def _array(value: bytes, name: str) -> Any:  # noqa: ANN401 - an array of any type
    try:
        return read_array(value)
    except NpyError as error:
        raise BadSample(f"the member {name!r} is unreadable: {error}") from error


def _decoded(value: bytes, name: str) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError as error:
        raise BadSample(f"{name!r} is no UTF-8 text") from error


def number_or_text(text: str) -> int | float | str:
    """Return the number that a text is, else the text."""
    text = text.strip()
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


_READERS: Mapping[str, Callable[[Sample], Sample]] = {
    "tar": _from_tar,
    "recordio-image": _from_image_record,
    "recordio-protobuf": _from_protobuf,
    "tfrecord": _from_example,
    "parquet": _from_rows,
    "jsonlines": _from_rows,
}
