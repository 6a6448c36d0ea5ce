"""A conversion as a whole: look, plan, make the shards on processes, write the manifest."""

import contextlib
import fcntl
import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.data.convert.fields import role
from runtime.data.convert.manifest import (
    BAD,
    FileFacts,
    Manifest,
    ShardFacts,
    files_of,
    part_name,
    read_manifest,
    shard_from_json,
    write_atomically,
    write_manifest,
)
from runtime.data.convert.options import TABLES, TREES, Options, digest_of
from runtime.data.convert.plan import Plan, Slot, lines_of, make_plan
from runtime.data.convert.shapes import Shaper
from runtime.data.convert.sinks import About, Sink, list_line, open_sink
from runtime.data.convert.sources import Opened, Source, open_source
from runtime.data.convert.survey import BAD as BAD_ERRORS
from runtime.data.convert.survey import INTEGERS, STRETCH, TEXT, Stretch, Survey, combine, look, named_error, needs_of
from runtime.data.formats.samples import KEY, Sample
from runtime.data.images import mode_of
from runtime.data.orphans import end_with_parent
from runtime.data.views import LABEL_FIELDS

log = Log("convert")

WORK = ".converting"
"""Directory in the output for what is not whole, and what an interrupted conversion has done."""
MEASURED = 256
"""Samples that are converted beforehand, to know how big they become."""
TRIED = 16
"""Samples that are looked at for a first good one."""
COUNT_EVERY = 64
SAY_EVERY_S = 0.5


@dataclass(frozen=True)
class Request:
    """What is to be converted."""

    source: Path
    out: Path
    options: Options
    root: str | None = None
    """Where the images of an index or a ``.lst`` lie."""
    share: tuple[int, int] = (0, 1)
    """Part, from 0, of how many."""
    processes: int = 1
    lists: Path | None = None
    """Directory for a ``.lst`` of each split."""


@dataclass
class Progress:
    """How far a conversion is."""

    samples: int = 0
    of: int = 0
    shards: int = 0
    of_shards: int = 0
    kept: int = 0
    """Samples in shards that were there already."""
    bytes: int = 0


Say = Callable[[Progress], None]
Number = Callable[[str], int | float]


@dataclass(frozen=True)
class Job:
    """What every process knows."""

    source: Source
    options: Options
    labels: Mapping[str, int]
    about: About
    mode: str
    out: Path
    work: Path
    numbers: Mapping[str, Number] = field(default_factory=dict[str, Number])
    """Columns of a table that become numbers."""
    plan: Plan | None = None
    lists: bool = False

    def shaper(self) -> Shaper:
        """Return what makes samples of the output's form."""
        return Shaper(self.options, self.labels, self.about.columns, self.mode, self.numbers)


@dataclass(frozen=True)
class Made:
    """A shard, and what had to be left out of it."""

    facts: ShardFacts
    problems: tuple[tuple[str, str], ...] = field(default=())
    lines: tuple[str, ...] = field(default=())
    """Of a ``.lst`` over the whole output."""

    def as_json(self) -> str:
        """Return a line of the journal."""
        return json.dumps(asdict(self)) + "\n"


def made_from_json(line: str) -> Made:
    """Read a line of the journal."""
    value = json.loads(line)
    problems = tuple((name, why) for name, why in value["problems"])
    return Made(shard_from_json(value["facts"]), problems, tuple(value["lines"]))


def convert(request: Request, say: Say = lambda _: None) -> Manifest:
    """Convert a source, or this host's share of it; go on with what was cut off.

    Args:
        request: what.
        say: told now and then how far it is.

    Returns:
        The manifest, which is also written.

    Raises:
        UserError: the source, the options or the output directory do not go together, or a sample is bad.
        PlatformError: a disk or a process failed.
    """
    with _prepared(request) as prepared:
        job, plan, done, opened, key = prepared
        if isinstance(job, Manifest):
            return job
        mine = [slot for slot in plan.slots if slot.number % request.share[1] == request.share[0]]
        made = _make_all(request, job, mine, done, say)
        manifest = _manifest(request, job, plan, made, opened, key)
        _finish(request, job, plan, made, opened, manifest)
        return read_manifest(request.out / part_name(request.share))


@dataclass(frozen=True)
class Preview:
    """What would be made."""

    plan: Plan
    labels: Mapping[str, int]
    form: str
    samples: int


def preview(request: Request, work: Path) -> Preview:
    """Plan a conversion without making anything.

    Args:
        request: what.
        work: directory for what must be looked up; the caller removes it.
    """
    opened = open_source(request.source, request.options, work, root=request.root, processes=request.processes)
    job, plan = _planned(request, opened, work)
    return Preview(plan, job.labels, opened.source.form, len(opened.source))


# --- looking and planning -------------------------------------------------------------------------------------------


_Prepared = tuple[Any, Plan, dict[int, Made], Opened, str]


@contextlib.contextmanager
def _prepared(request: Request) -> Generator[_Prepared]:
    out, share = request.out, request.share
    _refuse_place(request)
    try:
        out.mkdir(parents=True, exist_ok=True)
        work = out / WORK / f"{share[0] + 1}-of-{share[1]}"
        work.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--out {out} cannot be made: {error.strerror}", fix="choose another --out") from error
    lock = os.open(work / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        try:
            # Of this process alone: a child that outlives it by a moment does not hold it.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise UserError(f"{out} is being written by another process", fix="wait for it") from None
        opened = open_source(request.source, request.options, work, root=request.root, processes=request.processes)
        for note in opened.notes:
            log.info(note)
        source = opened.source
        key = digest_of([request.options.as_json(), source.digest, source.form, len(source), request.lists is not None])
        ready = out / part_name(share)
        if ready.is_file():
            manifest = read_manifest(ready)
            if manifest.request != key:
                raise UserError(
                    f"{out} holds another conversion: its source or options differ", fix="choose an empty --out"
                )
            log.info(f"{out} is complete: nothing to do")
            _clear(work)
            yield manifest, Plan((), (), 0, ""), {}, opened, key
            return
        done = _continued(out, work, key)
        job, plan = _planned(request, opened, work)
        log.info(plan.reason)
        yield job, plan, done, opened, key
    finally:
        os.close(lock)


def _refuse_place(request: Request) -> None:
    out, source = request.out.resolve(), request.source.resolve()
    if out == source or (source.is_dir() and out.is_relative_to(source)):
        raise UserError(f"--out {request.out} lies inside the source", fix="choose a place beside it")
    if not out.exists():
        return
    if not out.is_dir():
        raise UserError(f"--out {request.out} is a file", fix="choose a directory")
    names = {entry.name for entry in out.iterdir()}
    if names and WORK not in names and not any(name.startswith("_manifest.") for name in names):
        raise UserError(f"--out {request.out} holds other files, such as {min(names)}", fix="choose an empty directory")


def _continued(out: Path, work: Path, key: str) -> dict[int, Made]:
    """Return what an interrupted conversion has made and is still there, by number of the shard."""
    note = work / "request"
    if note.is_file() and note.read_text() != key:
        raise UserError(
            f"{out} holds the beginning of another conversion: its source or options differ",
            fix=f"choose another --out, or remove {out}",
        )
    write_atomically(note, key)
    for partial in [*work.glob("*.partial"), *work.glob("tree-*")]:
        partial.unlink()
    journal = work / "journal"
    done: dict[int, Made] = {}
    if journal.is_file():
        text = journal.read_text(encoding="utf-8", errors="surrogateescape")
        whole = text[: text.rfind("\n") + 1]
        for line in whole.splitlines():
            made = made_from_json(line)
            if all(_is_there(out, file) for file in files_of(out, made.facts)):
                done[made.facts.number] = made
        with journal.open("r+b") as stream:  # what follows the last newline was cut off
            stream.truncate(len(whole.encode("utf-8", "surrogateescape")))
    if done:
        log.info(f"goes on: {len(done)} shards are there already")
    return done


def _is_there(out: Path, file: FileFacts) -> bool:
    try:
        return (out / file.name).stat().st_size == file.bytes
    except OSError:
        return False


def _planned(request: Request, opened: Opened, work: Path) -> tuple[Job, Plan]:
    source, options = opened.source, request.options
    count = len(source)
    first = _first(source, options)
    needs = needs_of(options, source, first)
    survey = Survey()
    job = Job(source, options, {}, About(), _mode(first), request.out, work)
    if needs.any:
        stretches = [(begin, min(begin + STRETCH, count)) for begin in range(0, count, STRETCH)]
        with _hands(request, _Looking(source, options, needs), len(stretches), work) as do:
            survey = combine(do(_look, stretches), needs)
    labels = _labels(options, source, survey)
    numbers = _numbers(options, source, survey)
    job = replace(
        job,
        labels=labels,
        numbers=numbers,
        about=_about(options, survey, labels, numbers, vector="values" in first),
        lists=request.lists is not None,
    )
    places = np.unique(np.linspace(0, count - 1, min(MEASURED, count)).astype(np.int64)) if count else np.zeros(1, int)
    groups = [group.tolist() for group in np.array_split(places, max(1, min(len(places) // 8, 32)))]
    with _hands(request, job, len(groups) if options.short_edge or options.decode else 1, work) as do:
        sizes = np.array([size for group in do(_measure, [(group,) for group in groups]) for size in group], float)
    if count and not sizes.any():
        _refuse(job, int(places[0]))
    sizes = np.where(sizes > 0, sizes, sizes[sizes > 0].mean() if (sizes > 0).any() else 1.0)
    lines = lines_of(count, source.digest, options, survey, source.blocks)
    plan = make_plan(lines, count, options, sizes)
    return replace(job, plan=plan), plan


def _refuse(job: Job, index: int) -> None:
    """Say why nothing can be converted: leaving all out is no policy."""
    try:
        job.shaper().shape(job.source.read(index), index)
    except BAD_ERRORS as error:
        raise named_error(job.source, index, error) from error


def _first(source: Source, options: Options) -> Sample:
    """Return the first sample that can be read."""
    if not len(source):
        return {}
    for index in range(min(TRIED, len(source))):
        try:
            return source.read(index)
        except BAD_ERRORS as error:
            if options.on_bad == "raise" or index == min(TRIED, len(source)) - 1:
                raise named_error(source, index, error) from error
    raise AssertionError


def _mode(first: Sample) -> str:
    image = first.get("image")
    return mode_of(image) if isinstance(image, bytes) else ""


def _labels(options: Options, source: Source, survey: Survey) -> Mapping[str, int]:
    """Return the numbers of names: given, left by an earlier conversion, or in sorted order."""
    if options.labels:
        return dict(options.labels)
    names = [name for name in survey.names if isinstance(name, str)]
    if not names:
        return source.labels
    if len(names) < len(survey.names) and options.to != "folders":
        raise UserError(
            f"Labels are numbers, such as {survey.names[0]}, and names, such as {names[0]!r}",
            fix="mend them, or give every name its number: --labels FILE",
        )
    if source.labels and set(names) <= set(source.labels):
        return source.labels
    return {name: number for number, name in enumerate(sorted(names))}


def _about(
    options: Options, survey: Survey, labels: Mapping[str, int], numbers: Mapping[str, Number], *, vector: bool
) -> About:
    columns = tuple(name for name in survey.columns if name not in options.drop)
    nameless = all(name == str(place) for place, name in enumerate(columns))
    header = not (nameless or vector) if options.header == "auto" else options.header == "yes"
    classes = [name for name in survey.names if isinstance(name, int)]
    known = {number: name for name, number in labels.items()}
    return About(
        columns if options.to in ("csv", "tsv") else (),
        _typed(survey, numbers, labels) if options.to == "parquet" else b"",
        known if options.to == "folders" else {},
        max((len(str(number)) for number in classes), default=1),
        header=header,
    )


def _numbers(options: Options, source: Source, survey: Survey) -> Mapping[str, Number]:
    """Say which cells of a table become numbers, and how."""
    if source.form not in TABLES or options.to in TABLES:
        return {}
    return {name: int if kind == INTEGERS else float for name, kind in survey.columns.items() if kind != TEXT}


def _typed(survey: Survey, numbers: Mapping[str, Number], labels: Mapping[str, int]) -> bytes:
    """Return the schema of Parquet, with numbers for labels that have some, and where all cells of a table are some."""
    import pyarrow as pa

    if not survey.schema:
        return pa.schema([]).serialize().to_pybytes()
    schema = pa.ipc.read_schema(pa.py_buffer(survey.schema))
    label = role(dict.fromkeys(schema.names), LABEL_FIELDS)
    for place, item in enumerate(schema):
        if item.name == label and labels and pa.types.is_string(item.type):
            schema = schema.set(place, item.with_type(pa.int64()))
        if item.name in numbers:
            schema = schema.set(place, item.with_type(pa.int64() if numbers[item.name] is int else pa.float64()))
    return schema.serialize().to_pybytes()


# --- work on processes ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Looking:
    source: Source
    options: Options
    needs: Any


class _State:
    """Of a process: what it works on, and where it counts samples."""

    held: Any = None
    counter: Any = None


def _begin(path: str, counter: Any) -> None:  # noqa: ANN401 - a shared number
    end_with_parent()
    with open(path, "rb") as stream:
        _State.held = pickle.load(stream)  # noqa: S301 - written by the process that started this one
    _State.counter = counter


def _look(begin: int, end: int) -> Stretch:
    held: _Looking = _State.held
    return look(held.source, held.options, held.needs, begin, end)


def _measure(places: Sequence[int]) -> list[float]:
    """Return the bytes that samples take in the output; 0 for one that is bad."""
    job: Job = _State.held
    shaper = job.shaper()
    found: list[float] = []
    for index in places:
        try:
            found.append(float(_bytes(shaper.shape(job.source.read(index), index))))
        except BAD_ERRORS as error:
            if job.options.on_bad == "raise":
                raise named_error(job.source, index, error) from error
            found.append(0.0)
    return found


def _bytes(value: Any) -> int:  # noqa: ANN401 - whatever a field holds
    """Estimate what a value takes in a file."""
    if isinstance(value, Mapping):
        return 24 + sum(len(str(name)) + _bytes(item) for name, item in value.items())
    if isinstance(value, bytes | str):
        return len(value) + 4
    if hasattr(value, "keys") and hasattr(value, "values") and hasattr(value, "shape"):
        return int(value.values.nbytes) + 3 * len(value.values)
    if hasattr(value, "nbytes"):
        return int(value.nbytes)
    return sum(_bytes(item) for item in value) if isinstance(value, list | tuple) else 8


def _make(number: int) -> Made:
    """Make one shard."""
    job: Job = _State.held
    assert job.plan is not None  # noqa: S101 - a job with work has one
    slot = job.plan.slots[number]
    try:
        return _make_slot(job, slot)
    except OSError as error:
        raise PlatformError(
            f"{job.out / slot.name} cannot be written: {error.strerror or error}",
            fix="make room; the same command goes on where this one ended",
        ) from error


def _make_slot(job: Job, slot: Slot) -> Made:
    sink = open_sink(job.options, slot.name, job.out, job.work, job.about, slot.number)
    try:
        return _fill(job, slot, sink)
    except BaseException:
        sink.abandon()
        raise


def _fill(job: Job, slot: Slot, sink: Sink) -> Made:
    assert job.plan is not None  # noqa: S101 - a job with work has one
    line = job.plan.lines[slot.line]
    shaper = job.shaper()
    problems: list[tuple[str, str]] = []
    lists: list[str] = []
    counted = samples = 0
    for place, index in enumerate(line.take(slot.begin, slot.end).tolist()):
        try:
            made = shaper.shape(job.source.read(index), slot.first + place)
            sink.add(made)
            samples += 1
            if job.lists and job.options.to == "recordio-image":
                lists.append(list_line(made["id"], made["label"], made[KEY]))
        except BAD_ERRORS as error:
            if job.options.on_bad == "raise":
                raise named_error(job.source, index, error) from error
            problems.append((job.source.name(index), str(error)))
        if place - counted >= COUNT_EVERY:
            _count(place - counted)
            counted = place
    files, size = sink.finish()
    _count(slot.end - slot.begin - counted)
    facts = ShardFacts(
        slot.number, line.split, line.label, samples, len(problems), size, files, lists=job.options.to in TREES
    )
    return Made(facts, tuple(problems), tuple(lists))


def _count(samples: int) -> None:
    with _State.counter.get_lock():
        _State.counter.value += samples


Do = Callable[[Callable[..., Any], Iterable[tuple[Any, ...]]], Iterator[Any]]


@contextlib.contextmanager
def _hands(request: Request, held: Any, tasks: int, work: Path) -> Generator[Do]:  # noqa: ANN401 - a job or a look
    """Give what does tasks in order, on as many processes as there is work for."""
    counter = multiprocessing.get_context("forkserver").Value("q", 0)
    if min(request.processes, tasks) <= 1:
        before = _State.held, _State.counter
        _State.held, _State.counter = held, counter
        try:
            yield lambda function, arguments: (function(*each) for each in arguments)
        finally:
            _State.held, _State.counter = before
        return
    with _executor(min(request.processes, tasks), held, counter, work) as executor:

        def do(function: Callable[..., Any], arguments: Iterable[tuple[Any, ...]]) -> Iterator[Any]:
            futures = [executor.submit(function, *each) for each in arguments]
            return (future.result() for future in futures)

        yield do


@contextlib.contextmanager
def _executor(processes: int, held: Any, counter: Any, work: Path) -> Generator[ProcessPoolExecutor]:  # noqa: ANN401 - as above
    # Not by fork: Arrow and others have threads here, and what they hold stays locked in a copy of this process.
    path = work / "job.partial"
    with path.open("wb") as stream:
        pickle.dump(held, stream, protocol=pickle.HIGHEST_PROTOCOL)
    context = multiprocessing.get_context("forkserver")
    executor = ProcessPoolExecutor(processes, context, _begin, (str(path), counter))
    try:
        yield executor
    except BrokenProcessPool as error:
        raise PlatformError(
            "A process of the conversion was killed, perhaps for want of memory",
            fix="take fewer --processes; the same command goes on where this one ended",
        ) from error
    finally:
        executor.shutdown(cancel_futures=True)


def _make_all(request: Request, job: Job, mine: Sequence[Slot], done: Mapping[int, Made], say: Say) -> list[Made]:
    made = [done[slot.number] for slot in mine if slot.number in done]
    due = [slot for slot in mine if slot.number not in done]
    kept = sum(slot.end - slot.begin for slot in mine if slot.number in done)
    total = sum(slot.end - slot.begin for slot in mine)
    counter = multiprocessing.get_context("forkserver").Value("q", 0)
    with (job.work / "journal").open("a", encoding="utf-8", errors="surrogateescape") as journal:

        def note(one: Made) -> None:
            journal.write(one.as_json())
            journal.flush()
            os.fsync(journal.fileno())
            made.append(one)

        def tell() -> None:
            size = sum(one.facts.bytes for one in made)
            say(Progress(kept + counter.value, total, len(made), len(mine), kept, size))

        if min(request.processes, len(due)) <= 1:
            _State.held, _State.counter = job, counter
            for slot in due:
                note(_make(slot.number))
                tell()
        else:
            with _executor(min(request.processes, len(due)), job, counter, job.work) as executor:
                waiting: set[Future[Made]] = {executor.submit(_make, slot.number) for slot in due}
                while waiting:
                    ended, waiting = wait(waiting, SAY_EVERY_S, FIRST_COMPLETED)
                    for future in ended:
                        note(future.result())
                    tell()
    return sorted(made, key=lambda one: one.facts.number)


# --- the end --------------------------------------------------------------------------------------------------------


def _manifest(request: Request, job: Job, plan: Plan, made: Sequence[Made], opened: Opened, key: str) -> Manifest:
    source = job.source
    told = {"form": source.form, "digest": source.digest, "samples": len(source), "name": request.source.name}
    return Manifest(
        request.options.to, key, request.options.as_json(), told, dict(job.labels), request.share,
        tuple(one.facts for one in made), len(plan.slots), plan.left_out, len(opened.problems),
    )  # fmt: skip


def _finish(request: Request, job: Job, plan: Plan, made: Sequence[Made], opened: Opened, manifest: Manifest) -> None:
    out, share = request.out, request.share
    if request.options.to in TREES:
        _refuse_doubles(out, manifest)
    problems = [*(opened.problems if share[0] == 0 else ()), *(problem for one in made for problem in one.problems)]
    if problems:
        text = "".join(json.dumps({"name": name, "why": why}, ensure_ascii=False) + "\n" for name, why in problems)
        write_atomically(out / (BAD if share[1] == 1 else f"{BAD}.{share[0] + 1}"), text)
    if request.lists is not None:
        _write_lists(request, job, plan, made)
    write_manifest(out, manifest)
    _clear(job.work)


def _refuse_doubles(out: Path, manifest: Manifest) -> None:
    """Refuse two samples that became one file."""
    hashes: list[int] = []
    for shard in manifest.shards:
        for number, file in enumerate(files_of(out, shard)):
            if number:
                digest = hashlib.blake2b(file.name.encode("utf-8", "surrogateescape"), digest_size=8).digest()
                hashes.append(int.from_bytes(digest, "big", signed=True))
    if len(np.unique(np.array(hashes, np.int64))) != len(hashes):
        raise UserError(
            "Samples of equal keys became one file", fix="remove the output, and name samples by number: --names number"
        )


def _write_lists(request: Request, job: Job, plan: Plan, made: Sequence[Made]) -> None:
    """Write a ``.lst`` of each split: what SageMaker's image classification takes as a channel of its own."""
    assert request.lists is not None  # noqa: S101 - the caller has looked
    request.lists.mkdir(parents=True, exist_ok=True)
    splits = sorted({line.split for line in plan.lines})
    part = "" if request.share[1] == 1 else f".{request.share[0] + 1}-of-{request.share[1]}"
    for split in splits:
        lines: list[str] = []
        for one in (one for one in made if one.facts.split == split):
            if job.options.to == "recordio-image":
                lines += one.lines
                continue
            names = [file.name for number, file in enumerate(files_of(request.out, one.facts)) if number]
            for name in names:
                inside = name.removeprefix(f"{split}/") if split else name
                label = job.labels.get(inside.partition("/")[0])
                lines.append(list_line(len(lines), _folder_number(inside, label), inside))
        write_atomically(request.lists / f"{split or 'train'}{part}.lst", "".join(lines))


def _folder_number(name: str, label: int | None) -> int:
    if label is not None:
        return label
    folder = name.partition("/")[0]
    return int(folder) if folder.lstrip("-").isdigit() else 0


def _clear(work: Path) -> None:
    shutil.rmtree(work, ignore_errors=True)
    # Other hosts may still be at work beside.
    with contextlib.suppress(OSError):
        work.parent.rmdir()
