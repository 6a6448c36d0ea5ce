"""From the neutral shape to what each form can hold; what it cannot hold is refused with the way out."""

import io
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from runtime.base.errors import UserError
from runtime.data.convert.fields import (
    BOOKKEEPING,
    KEYS,
    SHAPE,
    image_field,
    label_field,
    number_or_text,
    scalar,
    text_field,
)
from runtime.data.convert.options import Options
from runtime.data.convert.pictures import encoded_array, fitted, suffix_of
from runtime.data.formats.samples import KEY, Sample, Sparse
from runtime.data.formats.tar import split_name
from runtime.data.images import BadSample, decode_image, mode_of

EXACT_FLOAT32 = 1 << 24
"""Integers up to here are float32 numbers."""
_NO_NUMBERS: Mapping[str, Callable[[str], int | float]] = {}


class CannotHoldError(UserError):
    """The form has no place for what the sample holds."""


class Shaper:
    """Makes samples of one form from neutral ones."""

    def __init__(
        self,
        options: Options,
        labels: Mapping[str, int],
        columns: Sequence[str] = (),
        mode: str = "",
        numbers: Mapping[str, Callable[[str], int | float]] = _NO_NUMBERS,
    ) -> None:
        """Prepare.

        Args:
            options: of the conversion.
            labels: numbers of the names of labels.
            columns: of tables, in order; other forms need none.
            mode: of decoded images (`images.mode_of`); empty: that of the first.
            numbers: columns of tables whose cells are all numbers, and how one is read.
        """
        self._options = options
        self._labels = labels
        self._columns = columns
        self._mode = mode
        self._typed = numbers
        self._make: Callable[[Sample, int], Sample] = {
            "tar": self._tar, "recordio-image": self._image_record, "recordio-protobuf": self._protobuf,
            "tfrecord": self._example, "parquet": self._row, "jsonlines": self._json, "csv": self._cells,
            "tsv": self._cells, "npy": self._arrays, "folders": self._file, "pairs": self._file,
        }[options.to]  # fmt: skip

    def shape(self, sample: Sample, number: int) -> Sample:
        """Make one sample.

        Args:
            sample: neutral; not changed.
            number: of the sample in the output.

        Raises:
            CannotHoldError: the form has no place for a field.
            BadSample: a field is damaged, or not what others are.
        """
        options = self._options
        made = {name: value for name, value in sample.items() if name not in options.drop}
        for name, read in self._typed.items():
            if isinstance(made.get(name), str):
                made[name] = read(made[name]) if made[name].strip() else None
        image = image_field(made)
        if image:
            made[image] = fitted(made[image], options)
        made = {name: as_matrix(value, options) for name, value in made.items()}
        label = label_field(made)
        if label and isinstance(made[label], str) and self._labels:
            made[label] = self._number(made[label])
        return self._make(made, number)

    def _number(self, label: str) -> int:
        number = self._labels.get(label)
        if number is None and (found := number_or_text(label)) in self._labels.values():
            return int(found)  # a cell that is a number already
        if number is None:
            raise BadSample(f"the label {label!r} is not among the {len(self._labels)} labels")
        return number

    # --- forms of files -----------------------------------------------------------------------------------------

    def _tar(self, sample: Sample, number: int) -> Sample:  # noqa: C901 - a case for each kind of value
        made: Sample = {KEY: self._key(sample, number, dots=True)}
        image, label, text = image_field(sample), label_field(sample), text_field(sample)
        rest: Sample = {}
        for name, value in sample.items():
            if name == image:
                _put(made, suffix_of(value), value)
            elif name == label and isinstance(scalar(value), int | float):
                _put(made, "cls", str(scalar(value)).encode())
            elif name == label and isinstance(value, str):
                _put(made, "cls", value.encode())
            elif name == text:
                _put(made, "txt", value.encode("utf-8", "surrogatepass"))
            elif isinstance(value, Sparse):
                raise self._refused(name, "a sparse vector", fix="--dense writes it with its zeros")
            elif isinstance(value, np.ndarray):
                _put(made, "npy" if name == "values" else f"{name}.npy", _npy(value))
            elif isinstance(value, bytes):
                _put(made, name, value)
            elif name not in BOOKKEEPING:
                rest[name] = value
        if rest:
            _put(made, "json", self._json_text(rest).encode("utf-8", "surrogatepass"))
        for extension in made:
            name = f"{made[KEY]}.{extension}"
            if extension != KEY and split_name(name) != (made[KEY], extension):
                raise self._refused(extension, "a name that is no extension of a file", fix="rename or --drop it")
        if len(made) == 1:
            raise BadSample("a sample without fields would be no member of the archive")
        return made

    def _image_record(self, sample: Sample, number: int) -> Sample:
        made: Sample = {"image": self._image(sample), "label": self._numbers(sample), "id": number, "id2": 0}
        made[KEY] = f"{self._key(sample, number)}.{suffix_of(made['image'])}"  # for the lists beside
        if "id" in sample and self._options.names == "key" and isinstance(sample["id"], int):
            made["id"], made["id2"] = sample["id"], sample.get("id2", 0)
        self._only(sample, "image", image_field(sample), label_field(sample), "values")
        return made

    def _file(self, sample: Sample, number: int) -> Sample:
        made: Sample = {KEY: self._key(sample, number), "image": self._image(sample)}
        if self._options.to == "folders":
            label = label_field(sample)
            value = scalar(sample.get(label))
            if not label or not isinstance(value, int | str):
                what = f"its label is {type(value).__name__}" if label else "this sample has none"
                raise CannotHoldError(f"folders are labels, and {what}", fix="name the field: --label-field NAME")
            made["label"] = value
            self._only(sample, "image", image_field(sample), label, "values")
            return made
        text = text_field(sample)
        if not text:
            raise CannotHoldError("pairs need a caption, and this sample has none", fix="name it: --text-field NAME")
        made["text"] = sample[text]
        self._only(sample, "image", image_field(sample), text, "values")
        return made

    # --- forms of records ---------------------------------------------------------------------------------------

    def _protobuf(self, sample: Sample, number: int) -> Sample:
        del number
        sample = self._vector(sample)
        label = label_field(sample)
        made: Sample = {}
        for name, value in sample.items():
            if name == KEY:
                made["__uid__"] = value
            elif name in ("__metadata__", "__configuration__"):
                made[name] = value
            elif name in BOOKKEEPING:
                continue
            elif name == label:
                made["label"] = np.atleast_1d(np.asarray(self._numbers(sample), dtype=np.float32))
            elif isinstance(value, bytes):
                made[name] = value
            elif isinstance(value, str):
                what = "a caption" if name == text_field(sample) else "text"
                raise self._refused(name, what, fix="write tar, TFRecord or Parquet")
            else:
                made[name] = self._tensor(name, value)
        return made

    def _example(self, sample: Sample, number: int) -> Sample:  # noqa: C901 - a case for each kind of value
        del number
        made: Sample = {}
        for name, value in sample.items():
            if isinstance(value, Sparse):
                made |= {name: value.values, name + KEYS: value.keys.astype(np.int64)}
                made[name + SHAPE] = np.array(value.shape, np.int64)
            elif isinstance(value, np.ndarray):
                made[name] = _plain(name, value).reshape(-1)
                if value.ndim > 1:
                    made[name + SHAPE] = np.array(value.shape, np.int64)
            elif value is None:
                made[name] = []
            elif isinstance(value, list) and all(isinstance(item, str | bytes) for item in value):
                made[name] = [item.encode() if isinstance(item, str) else item for item in value]
            elif isinstance(value, bytes):
                made[name] = value
            elif isinstance(value, str):
                made[name] = value.encode("utf-8", "surrogatepass")
            elif isinstance(value, list):
                flat = self._tensor(name, value)
                made |= {name: flat.reshape(-1)} | ({name + SHAPE: np.array(flat.shape)} if flat.ndim > 1 else {})
            elif isinstance(value, int | float):
                if isinstance(value, int) and not -(1 << 63) <= value < 1 << 63:
                    raise BadSample(f"{name!r} is {value}, more than 64 bits")
                made[name] = np.array([value], np.float32 if isinstance(value, float) else np.int64)
            else:
                raise self._refused(name, f"a {type(value).__name__} inside", fix="--drop it, or write Parquet")
        return made

    # --- forms of rows ------------------------------------------------------------------------------------------

    def _row(self, sample: Sample, number: int) -> Sample:
        del number
        return {name: for_arrow(value) for name, value in sample.items()}

    def _json(self, sample: Sample, number: int) -> Sample:
        del number
        made: Sample = {}
        for name, value in sample.items():
            if isinstance(value, bytes) and (text := _text(value)) is not None:
                made[name] = text
            elif isinstance(value, bytes):
                fix = "write tar, TFRecord or Parquet, or list files by `slipway index`" if name == image_field(
                    sample
                ) else "--drop it, or write TFRecord or Parquet"  # fmt: skip
                raise self._refused(name, "bytes", fix=fix)
            elif isinstance(value, Sparse):
                lists = (value.keys.tolist(), value.values.tolist(), list(value.shape))
                made[name] = dict(zip(("keys", "values", "shape"), lists, strict=True))
            else:
                made[name] = value.tolist() if isinstance(value, np.ndarray | np.generic) else value
        self._json_text(made)
        return made

    def _cells(self, sample: Sample, number: int) -> Sample:  # noqa: C901 - a case for each kind of value
        del number
        made: Sample = {}
        label = label_field(sample)
        vector = sample.get("values")
        if isinstance(vector, Sparse):
            vector = vector.dense()
        elif isinstance(vector, list):
            vector = self._tensor("values", vector)
        if isinstance(vector, np.ndarray):
            # SageMaker's own form: the label first, then the numbers; as text, a float32 has the digits that it needs.
            self._only(sample, "values", label)
            if label:
                made[label] = scalar(sample[label])
            made |= {f"f{place}": item for place, item in enumerate(vector.reshape(-1).astype(str).tolist())}
        else:
            made = {name: value for name, value in sample.items() if name not in BOOKKEEPING or name in self._columns}
        for name, value in made.items():
            if isinstance(value, bytes) and (text := _text(value)) is not None:
                made[name] = text
            elif isinstance(value, bytes):
                raise self._refused(name, "bytes", fix="write tar, TFRecord or Parquet")
            if isinstance(value, list | dict | Sparse) or (isinstance(value, np.ndarray) and value.size != 1):
                raise self._refused(name, "a list", fix="--drop it, or write JSON lines or Parquet")
            if value is None:
                made[name] = ""
            elif isinstance(value, np.ndarray | np.generic | bool):
                made[name] = scalar(value)
        if self._columns:
            strange = sorted(set(made) - set(self._columns))
            if strange:
                raise BadSample(f"the column {strange[0]!r} is new: others have {', '.join(self._columns[:8])}")
            if isinstance(vector, np.ndarray) and len(made) != len(self._columns):
                raise BadSample(f"a row of {len(made)} numbers, others have {len(self._columns)}")
            return {name: made.get(name, "") for name in self._columns}
        return made

    def _arrays(self, sample: Sample, number: int) -> Sample:
        del number
        image = image_field(sample)
        if image:
            self._mode = self._mode or mode_of(sample[image]) or "RGB"
            pixels = decode_image(sample[image], self._mode, "its image")
            sample = {name: value for name, value in sample.items() if name != image} | {"values": pixels}
        sample = self._vector(sample)
        if "values" not in sample:
            raise self._refused("values", "no array and no image", fix="write Parquet or JSON lines")
        values = sample["values"]
        made: Sample = {"x": values.dense() if isinstance(values, Sparse) else np.asarray(values)}
        label = label_field(sample)
        if label:
            made["y"] = np.asarray(self._numbers(sample))
            made["y"] = made["y"].astype(np.int64 if made["y"].dtype.kind in "iub" else made["y"].dtype)
        self._only(sample, "values", label)
        return made

    # --- parts --------------------------------------------------------------------------------------------------

    def _image(self, sample: Sample) -> bytes:
        image = image_field(sample)
        if image:
            if len(sample[image]) == 0:
                raise BadSample("its image is empty")
            return sample[image]
        if isinstance(sample.get("values"), np.ndarray):
            return fitted(encoded_array(sample["values"], self._options), self._options)
        raise CannotHoldError(
            f"{self._options.to} holds images, and this sample has none: it has {', '.join(sample) or 'nothing'}",
            fix="name its field: --image-field NAME",
        )

    def _numbers(self, sample: Sample) -> Any:  # noqa: ANN401 - a number, or an array of some
        label = label_field(sample)
        if not label:
            if self._options.to == "recordio-image":
                raise CannotHoldError(
                    "image records need a label, and this sample has none", fix="name its field: --label-field NAME"
                )
            return 0.0
        value = scalar(sample[label])
        if isinstance(value, str):
            try:
                value = scalar(float(value))
            except ValueError as error:
                raise BadSample(f"the label {value[:40]!r} is no number, and has none in --labels") from error
        if isinstance(value, list):
            value = self._tensor(label, value)
        if not isinstance(value, int | float | np.ndarray):
            raise BadSample(f"the label is {type(value).__name__}, not a number")
        if isinstance(value, int) and abs(value) > EXACT_FLOAT32 and self._options.to.startswith("recordio"):
            raise BadSample(f"the label {value} is no float32, which is what {self._options.to} holds")
        return value

    def _vector(self, sample: Sample) -> Sample:
        """Make one vector ``values`` of a row of numbers; what is no such row stays as it is."""
        if isinstance(sample.get("values"), list):
            return sample | {"values": as_matrix(self._tensor("values", sample["values"]), self._options)}
        if "values" in sample or image_field(sample):
            return sample
        label = label_field(sample)
        kept = {name: sample[name] for name in sample if name in BOOKKEEPING or name == label or name.startswith("__")}
        cells = {name: value for name, value in sample.items() if name not in kept}
        if not label and cells and all(name == str(place) for place, name in enumerate(cells)) and len(cells) > 1:
            kept["label"] = cells.pop("0")  # CSV without names, whose first column is the label
        try:
            numbers = [float(value) for value in cells.values()]
        except (TypeError, ValueError):
            if all(isinstance(value, str | int | float) for value in cells.values()):
                wrong = next((name for name, value in cells.items() if not _is_number(value)), "")
                raise BadSample(
                    f"{cells[wrong]!r} in {wrong!r} is no number. Fix: mend it, --drop {wrong}, or --on-bad skip"
                ) from None
            return sample
        if not numbers:
            return sample
        values = np.array(numbers, dtype=self._options.dtype)
        return kept | {"values": as_matrix(values, self._options)}

    def _tensor(self, name: str, value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
        if isinstance(value, Sparse):
            return Sparse(value.keys, self._tensor(name, value.values), value.shape)
        try:
            array = np.asarray(value)
        except ValueError as error:
            raise BadSample(f"{name!r} is a list of unequal lists") from error
        if array.dtype.kind not in "fiub":
            raise self._refused(name, f"{type(value).__name__} that is no number", fix="--drop it")
        if not isinstance(value, np.ndarray | np.generic) and array.dtype == np.float64:
            array = array.astype(self._options.dtype)
        if self._options.to != "recordio-protobuf":
            return _plain(name, array)
        if array.dtype.kind in "iub":
            if array.size and (int(array.max()) >= 1 << 31 or int(array.min()) < -(1 << 31)):
                raise BadSample(f"{name!r} holds integers of more than 32 bits")
            array = array.astype(np.int32)
        elif array.dtype.itemsize == 2:
            array = array.astype(np.float32)
        return np.atleast_1d(array.astype(array.dtype.newbyteorder("=")))

    def _only(self, sample: Sample, *names: str) -> None:
        """Refuse what else the sample holds."""
        for name, value in sample.items():
            if name not in names and name not in BOOKKEEPING and value is not None:
                what = "a caption" if name == text_field(sample) else type(value).__name__
                raise self._refused(name, what, fix="write tar, TFRecord or Parquet")

    def _refused(self, name: str, what: str, *, fix: str) -> CannotHoldError:
        drop = "" if name in fix or "--drop" in fix or what.startswith("no ") else f", or leave it out: --drop {name}"
        return CannotHoldError(f"{self._options.to} cannot hold the field {name!r} ({what})", fix=fix + drop)

    def _key(self, sample: Sample, number: int, *, dots: bool = False) -> str:
        key = str(sample.get(KEY, ""))
        if self._options.names == "number" or not key:
            return f"{number:08d}"
        base = key.rpartition("/")[2]
        strange = (
            not base or key.startswith("/") or "\0" in key or any(part in ("", ".", "..") for part in key.split("/"))
        )
        if (
            (dots and "." in base)
            or strange
            or base.startswith("_")
            or "/_" in key
            or len(base.encode(errors="replace")) > 180
        ):
            # Readers would take another part of it for the key, or leave the file out.
            letters = "".join(letter if letter.isalnum() or letter in "-/" else "-" for letter in key)
            parts = [part for part in letters.split("/") if part.strip("-")]
            return "/".join(part[:60] for part in [*parts[-4:-1], f"{parts[-1][:60] if parts else 'x'}-{number:08d}"])
        return key

    def _json_text(self, value: Sample) -> str:
        try:
            return json.dumps(value, ensure_ascii=False, separators=(",", ":"), sort_keys=False)
        except (TypeError, ValueError) as error:
            raise self._refused(", ".join(value), str(error), fix="--drop what JSON cannot hold") from error


def _put(made: Sample, name: str, value: bytes) -> None:
    if name in made:
        raise BadSample(f"two fields would be the member {name!r}")
    made[name] = value


def _npy(array: Any) -> bytes:  # noqa: ANN401 - an array of any type
    out = io.BytesIO()
    np.save(out, array, allow_pickle=False)
    return out.getvalue()


def as_matrix(value: Any, options: Options) -> Any:  # noqa: ANN401 - whatever a field holds
    """Return a vector with its zeros or without them, as the options say; all else as it is."""
    if not options.matrix:
        return value
    if options.matrix == "dense":
        return value.dense() if isinstance(value, Sparse) else value
    if isinstance(value, np.ndarray) and value.dtype.kind in "fiub":
        flat = value.reshape(-1)
        keys = np.flatnonzero(flat)
        return Sparse(keys.astype(np.uint64), flat[keys], value.shape or (1,))
    return value


def _plain(name: str, array: Any) -> Any:  # noqa: ANN401 - an array of any type
    if array.dtype.kind not in "fiub":
        raise BadSample(f"{name!r} is an array of {array.dtype}")
    return array


def for_arrow(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    """Return what Arrow takes, with the types of arrays kept."""
    if isinstance(value, Sparse):
        return {"keys": value.keys, "values": value.values, "shape": np.array(value.shape, np.int64)}
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        if value.ndim == 0:
            return value.item()
        return value if value.ndim == 1 else [for_arrow(row) for row in value]
    return value


def _text(value: bytes) -> str | None:
    """Return bytes that are text, which is what texts of a TFRecord are; None: they are not."""
    try:
        text = value.decode()
    except UnicodeDecodeError:
        return None
    return None if "\0" in text else text


def _is_number(value: Any) -> bool:  # noqa: ANN401 - whatever a cell holds
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True
