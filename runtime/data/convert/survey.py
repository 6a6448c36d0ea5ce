"""What must be known of all samples before the first shard can be cut: splits, labels, columns.

One pass over the source, in stretches, on any number of processes; asked for only where the options need it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np
import numpy.typing as npt

from runtime.base.errors import PlatformError, UserError
from runtime.data.convert.fields import BOOKKEEPING, label_field, label_of, number_or_text, split_key
from runtime.data.convert.options import CLASSES, TABLES, Options
from runtime.data.convert.shapes import CannotHoldError, Shaper, as_matrix, for_arrow
from runtime.data.convert.sources import Source
from runtime.data.formats.errors import FormatError
from runtime.data.formats.samples import Sample
from runtime.data.images import BadSample

NO_SPLIT = 255
INTEGERS, FLOATS, TEXT = 0, 1, 2
"""Kinds of columns of tables; a column is the greatest of its cells."""
MOST_LABELS = 1_000_000
STRETCH = 4096
"""Samples that a process looks at together."""
BAD = (BadSample, FormatError, PlatformError, CannotHoldError)
"""What one sample may be, with a policy for it."""

Label = int | float | str


@dataclass(frozen=True)
class Needs:
    """What a survey is to find."""

    splits: bool = False
    labels: bool = False
    columns: bool = False
    schema: bool = False
    """Types of columns, as Parquet wants them."""

    @property
    def any(self) -> bool:
        """Whether there is anything to find."""
        return self.splits or self.labels or self.columns or self.schema


@dataclass(frozen=True)
class Stretch:
    """What a stretch of samples holds."""

    splits: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.int32]
    """Numbers in `names`; -1: no label."""
    names: tuple[Label, ...] = ()
    columns: Mapping[str, int] = field(default_factory=dict[str, int])
    """Names in order of appearance, and what all cells are: `INTEGERS`, `FLOATS` or `TEXT`."""
    schema: bytes = b""
    """Arrow's, serialized."""


@dataclass(frozen=True)
class Survey:
    """What the whole source holds."""

    splits: npt.NDArray[np.uint8] | None = None
    labels: npt.NDArray[np.int32] | None = None
    names: tuple[Label, ...] = ()
    """Sorted: numbers, then names."""
    columns: Mapping[str, int] = field(default_factory=dict[str, int])
    schema: bytes = b""


def needs_of(options: Options, source: Source, first: Sample) -> Needs:
    """Decide what has to be known.

    Args:
        options: of the conversion.
        source: to be converted.
        first: a sample of it.
    """
    value = first.get(label_field(first))
    named = isinstance(value, str) and (source.form not in TABLES or not _is_number(value))
    mapped = options.to in CLASSES or ("image" in first and options.to != "folders")
    return Needs(
        splits=bool(options.splits),
        labels=options.by_label or options.to == "folders" or (named and mapped and not options.labels),
        columns=options.to in TABLES or (source.form in TABLES and options.to not in CLASSES),
        schema=options.to == "parquet",
    )


def look(source: Source, options: Options, needs: Needs, begin: int, end: int) -> Stretch:
    """Survey the samples from `begin` to `end`.

    Raises:
        UserError: a sample cannot be read, with ``--on-bad raise``.
    """
    splits = np.zeros(end - begin, np.uint8)
    labels = np.full(end - begin, -1, np.int32)
    names: dict[Label, int] = {}
    columns: dict[str, int] = {}
    rows: list[Sample] = []
    whole = needs.columns or needs.schema
    shaper = Shaper(options, {})
    for index in range(begin, end):
        try:
            sample = source.read(index) if whole or options.roles else source.facts(index)
        except BAD as error:
            if options.on_bad == "raise":
                raise named_error(source, index, error) from error
            continue
        if needs.splits:
            splits[index - begin] = split_of(split_key(sample), options.splits)
        if needs.labels:
            label = label_of(sample)
            if source.form in TABLES and isinstance(label, str):  # cells are text, whatever they mean
                label = number_or_text(label) if label.strip() else None
            if label is not None:
                labels[index - begin] = names.setdefault(label, len(names))
        if needs.columns:
            _note_columns(columns, sample, shaper, options)
        if needs.schema:
            rows.append({name: as_matrix(value, options) for name, value in sample.items() if name not in options.drop})
    return Stretch(splits, labels, tuple(names), columns, _schema(rows) if needs.schema else b"")


def combine(stretches: Iterable[Stretch], needs: Needs) -> Survey:
    """Put stretches together, in the order of the source.

    Raises:
        UserError: more labels than anybody has, or columns of types that exclude each other.
    """
    splits: list[npt.NDArray[np.uint8]] = []
    labels: list[npt.NDArray[np.int32]] = []
    known: dict[Label, int] = {}
    columns: dict[str, int] = {}
    schemas: list[bytes] = []
    for one in stretches:
        splits.append(one.splits)
        numbers = np.array([known.setdefault(name, len(known)) for name in one.names] + [-1], np.int32)
        labels.append(numbers[one.labels])
        for name, kind in one.columns.items():
            columns[name] = max(columns.get(name, INTEGERS), kind)
        if one.schema and one.schema not in schemas:
            schemas.append(one.schema)
        if len(known) > MOST_LABELS:
            raise UserError(f"More than {MOST_LABELS} labels", fix="name the field of the label: --label-field NAME")
    names = sorted(known, key=_label_order)
    ranks = np.empty(len(known) + 1, np.int32)
    ranks[-1] = -1
    for rank, name in enumerate(names):
        ranks[known[name]] = rank
    return Survey(
        np.concatenate(splits) if needs.splits else None,
        ranks[np.concatenate(labels)] if needs.labels else None,
        tuple(names),
        columns,
        unify(schemas) if schemas else b"",
    )


def split_of(key: bytes, splits: Sequence[tuple[str, float]]) -> int:
    """Return the number of a key's split; `NO_SPLIT`: none.

    >>> split_of(b"cat/1", (("train", 1.0),))
    0
    """
    place = int.from_bytes(blake2b(key, digest_size=8).digest(), "big") / 2**64
    upto = 0.0
    for number, (_, part) in enumerate(splits):
        upto += part
        if place < upto:
            return number
    return NO_SPLIT if upto < 1 - 1e-9 else len(splits) - 1


def named_error(source: Source, index: int, error: Exception) -> UserError:
    """Say which sample it was."""
    text = str(error)
    name = source.name(index)
    return UserError(
        text if name in text else f"{name}: {text}",
        fix="" if "Fix:" in text else "mend it, or leave it out: --on-bad skip",
    )


def unify(schemas: Sequence[bytes]) -> bytes:
    """Make one schema that all rows fit.

    Raises:
        UserError: a column has types that exclude each other.
    """
    import pyarrow as pa

    read = [pa.ipc.read_schema(pa.py_buffer(schema)) for schema in schemas]
    try:
        return pa.unify_schemas(read, promote_options="permissive").serialize().to_pybytes()
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise UserError(
            f"The columns have types that exclude each other: {error}", fix="--drop the column, or mend its source"
        ) from error


def _schema(rows: Sequence[Sample]) -> bytes:
    import pyarrow as pa

    columns: dict[str, list[Any]] = {}
    for row in rows:
        for name, value in row.items():
            columns.setdefault(name, []).append(for_arrow(value))
    fields: list[Any] = []
    for name, values in columns.items():
        try:
            fields.append(pa.field(name, pa.infer_type(values)))
        except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError) as error:
            raise UserError(
                f"The column {name!r} has values of types that exclude each other: {error}", fix=f"--drop {name}"
            ) from error
    return pa.schema(fields).serialize().to_pybytes()


def _note_columns(columns: dict[str, int], sample: Sample, shaper: Shaper, options: Options) -> None:
    try:
        cells = shaper.shape(sample, 0) if options.to in TABLES else sample
    except BAD:
        return  # the conversion says why
    for name, value in cells.items():
        if name not in BOOKKEEPING or name in sample:
            columns[name] = max(columns.get(name, INTEGERS), _kind_of(value))


def _kind_of(value: Any) -> int:  # noqa: ANN401 - whatever a cell holds
    """Tell what a cell is; an empty one may be anything, and digits behind a zero are a name, such as a postal code."""
    if not isinstance(value, str):
        return FLOATS if isinstance(value, float) else INTEGERS
    text = value.strip()
    digits = text.lstrip("+-")
    if text == "":
        return INTEGERS
    if not _is_number(text) or "_" in text or (digits[:1] == "0" and digits[1:2].isdigit()):
        return TEXT
    return INTEGERS if digits.isdigit() and len(digits) < 19 else FLOATS


def _is_number(value: Any) -> bool:  # noqa: ANN401 - whatever a label is
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return True


def _label_order(label: Label) -> tuple[bool, float, str]:
    return (isinstance(label, str), 0.0 if isinstance(label, str) else float(label), str(label))


__all__ = ["BAD", "Needs", "Stretch", "Survey", "combine", "look", "named_error", "needs_of", "split_of"]
