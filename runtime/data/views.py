"""What a training step sees of a sample: ``(x, y)``, chosen from the fields that the channel's first sample has."""

import math
from collections.abc import Mapping
from typing import Any, Protocol, cast

import numpy as np

from runtime.base.errors import UserError
from runtime.data.formats.npy import NpyError, read_array
from runtime.data.formats.samples import KEY, Sample, Sparse
from runtime.data.images import BadSample, decode_image, mode_of

IMAGE_FIELDS = ("jpg", "jpeg", "png", "webp", "bmp", "gif", "tif", "tiff", "ppm", "image", "img", "image/encoded")
LABEL_FIELDS = ("cls", "label", "class", "target", "y", "image/class/label")
TEXT_FIELDS = ("txt", "text", "caption")


class View(Protocol):
    """From a sample's fields to what a batch stacks."""

    images: bool
    """Whether x is a picture."""
    said: str
    """For the log: which fields are taken, and as what."""

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        """Return x and y.

        Args:
            sample: the fields.
            name: of the sample, for messages.
            index: its number, which is y when there is no label.

        Raises:
            BadSample: a field is missing, or is not what it was in the first sample.
        """
        ...


def view_of(form: str, sample: Sample, options: Mapping[str, str]) -> View:
    """Choose by the fields of a channel's first sample.

    Args:
        form: the format's name.
        sample: the first one.
        options: parameters of the content type: ``label_size=N`` of CSV; ``label=float`` of image records;
            ``classes=N``: a label outside of 0..N-1 is no label.

    Raises:
        UserError: ``classes`` is no number.
    """
    view = _view_of(form, sample, options)
    classes = options.get("classes", "")
    if not classes:
        return view
    if not classes.isdigit() or not int(classes):
        raise UserError(f"classes={classes!r} in the content type", allowed="classes is a number of labels")
    return _Bounded(view, int(classes))


def _view_of(form: str, sample: Sample, options: Mapping[str, str]) -> View:
    if form in ("csv", "tsv"):
        return _Row(tuple(sample), options)
    label = next((name for name in LABEL_FIELDS if name in sample), "")
    image = next((name for name in IMAGE_FIELDS if isinstance(sample.get(name), bytes)), "")
    text = next((name for name in TEXT_FIELDS if name in sample), "")
    if image:
        whole = form in ("recordio-image", "tar") and options.get("label") != "float"
        return _Picture(image, label or text, sample[image], whole=whole, is_text=not label)
    if isinstance(sample.get("values"), np.ndarray | Sparse):
        return _Values(label)
    if "tokens" in sample and isinstance(sample["tokens"], np.ndarray):
        return _Tokens()
    if isinstance(sample.get("npy"), bytes):
        return _Npy(label)
    numbers = [name for name, value in sample.items() if isinstance(value, int | float)]
    if form in ("parquet", "jsonlines") and label and len(numbers) == len(sample) > 1:
        return _Row(tuple(sample), {**options, "label": label})
    return _Record(tuple(sample))


class _Bounded:
    """Another view, whose labels must be numbers of classes."""

    def __init__(self, view: View, classes: int) -> None:
        self._view, self._classes = view, classes
        self.images = view.images
        self.said = f"{view.said}, in 0..{classes - 1}"

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        x, y = self._view.look(sample, name, index)
        labels = np.asarray(y)
        if labels.dtype.kind not in "fiub" or not np.all((labels >= 0) & (labels < self._classes)):
            raise BadSample(f"{name}: the label {y} is none of the {self._classes} classes")
        return x, y


class _Picture:
    images = True

    def __init__(self, image: str, other: str, first: bytes, *, whole: bool, is_text: bool) -> None:
        self._image, self._other, self._whole, self._is_text = image, other, whole, is_text
        self._mode = mode_of(first) or "RGB"
        self.said = f"x is the image {image!r}, y " + (f"is {other!r}" if other else "the sample's number")

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        x = decode_image(cast(bytes, _field(sample, self._image, name)), self._mode, name)
        if not self._other:
            return x, np.asarray(index)
        value = _field(sample, self._other, name)
        return x, _text(value) if self._is_text else _label(value, name, whole=self._whole)


class _Values:
    images = False

    def __init__(self, label: str) -> None:
        self._label = label
        self.said = "x is 'values', y " + (f"is {label!r}" if label else "the sample's number")

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        values = _field(sample, "values", name)
        try:
            x = values.dense() if isinstance(values, Sparse) else np.asarray(values)
        except (ValueError, IndexError) as error:
            raise BadSample(f"{name}: {error}") from error
        return x, _label(_field(sample, self._label, name), name) if self._label else np.asarray(index)


class _Tokens:
    images = False
    said = "x is all tokens but the last, y all but the first"

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        del index
        tokens = np.asarray(_field(sample, "tokens", name)).astype(np.int64)
        return tokens[:-1], tokens[1:]


class _Npy:
    images = False

    def __init__(self, label: str) -> None:
        self._label = label
        self.said = "x is the array 'npy', y " + (f"is {label!r}" if label else "the sample's number")

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        try:
            x = read_array(cast(bytes, _field(sample, "npy", name)))
        except NpyError as error:
            raise BadSample(f"{name}: its .npy is unreadable: {error}") from error
        y = _label(_field(sample, self._label, name), name, whole=True) if self._label else np.asarray(index)
        return x, y


class _Row:
    """Numbers: labels first, as SageMaker's CSV has them, unless a column is called so."""

    images = False

    def __init__(self, columns: tuple[str, ...], options: Mapping[str, str]) -> None:
        size = options.get("label_size", "")
        if size and not size.isdigit():
            raise UserError(f"label_size={size!r} in the content type", allowed="label_size is a number of columns")
        named = options.get("label") or next((name for name in LABEL_FIELDS if name in columns), "")
        if size or not named:
            count = int(size or min(1, len(columns) - 1))
            self._labels = columns[:count]
        else:
            self._labels = (named,)
        self._values = tuple(name for name in columns if name not in self._labels)
        self.said = (
            f"y is {', '.join(map(repr, self._labels)) or 'the row number'}, x the other {len(self._values)} columns"
        )

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        x = np.array([_number(sample, column, name) for column in self._values], dtype=np.float32)
        labels = [_number(sample, column, name) for column in self._labels]
        if not labels:
            return x, np.asarray(index)
        return x, np.asarray(labels[0] if len(labels) == 1 else labels, dtype=np.float32)


class _Record:
    """The whole sample, for the user's own transform."""

    images = False

    def __init__(self, fields: tuple[str, ...]) -> None:
        self.said = f"x is the whole record ({', '.join(fields[:8])}): pass transform= to make tensors of it"

    def look(self, sample: Sample, name: str, index: int) -> tuple[Any, Any]:
        del name
        return sample, np.asarray(index)


def _field(sample: Sample, name: str, where: str) -> Any:  # noqa: ANN401 - whatever the field holds
    if name not in sample:
        raise BadSample(
            f"{where} has no field {name!r}: it has {', '.join(key for key in sample if key != KEY) or 'none'}"
        )
    return sample[name]


def _text(value: object) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _label(value: object, where: str, *, whole: bool = False) -> Any:  # noqa: ANN401 - a number, an array or a text
    if isinstance(value, bytes | str):
        text = value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        try:
            number = float(text)
        except ValueError as error:
            raise BadSample(f"{where}: the label {text[:40]!r} is no number") from error
        return _whole(number, where) if whole else np.asarray(number, dtype=np.float32)
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise BadSample(f"{where}: the label is {type(value).__name__}, not a number")
    if array.size == 1:
        array = array.reshape(())
    if array.ndim == 0 and whole and array.dtype.kind == "f":
        return _whole(float(array), where)
    return array


def _whole(number: float, where: str) -> Any:  # noqa: ANN401 - a NumPy scalar array
    if not math.isfinite(number) or number != int(number) or abs(number) > 1 << 53:
        raise BadSample(
            f"{where}: the label {number} is no number of a class (label=float in the content type allows it)"
        )
    return np.asarray(int(number))


def _number(sample: Sample, column: str, where: str) -> float:
    value = _field(sample, column, where)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise BadSample(f"{where}: {value!r} in column {column!r} is no number") from error
