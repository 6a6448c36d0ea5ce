"""What a job came to, and what it leaves: how the end of a training job, and of a processing job, is judged."""

import threading
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Protocol

from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.contract.paths import Paths
from runtime.contract.processing_job import MESSAGE_BYTES
from runtime.local import outputs
from runtime.local.attempt import AttemptEnd
from runtime.local.flags import RunOptions
from runtime.local.links import rooms_of
from runtime.local.projection import project
from runtime.local.record import JobRecord
from runtime.local.request import JobSpec, OutputSpec, ProcessingJobSpec, TrainingJobSpec
from runtime.local.request.files import local_outputs
from runtime.local.s3.job import JobS3
from runtime.local.s3.uri import S3Uri
from runtime.local.tree import inside_tree

log = Log("local")

CONTINUOUS_S = 2.0
"""Between two looks at the outputs of a processing job with ``S3UploadMode`` Continuous."""


class Results(Protocol):
    """Judges a job and brings its results away."""

    def begin(self, bases: Mapping[str, Path]) -> None:
        """Take note of an attempt: host to the root of its tree."""
        ...

    def judge(self, record: JobRecord, end: AttemptEnd) -> None:
        """Decide status and reason, as the service does: from exit codes, and who asked for the end."""
        ...

    def upload(self, record: JobRecord, directory: Path, end: AttemptEnd) -> None:
        """Bring the results away; `directory` is the output directory of the run."""
        ...

    def close(self) -> None:
        """Give back what `begin` took; called whatever the end."""
        ...


def results_of(spec: JobSpec, options: RunOptions, s3: JobS3) -> Results:
    """Choose by the kind of the job."""
    if isinstance(spec, ProcessingJobSpec):
        return ProcessingResults(spec, s3)
    assert isinstance(spec, TrainingJobSpec)  # noqa: S101 - there are two kinds of jobs
    return TrainingResults(spec, options)


def _judge_end(spec: JobSpec, record: JobRecord, end: AttemptEnd) -> bool:
    """Judge an end that we made; tell whether it was one."""
    record.exit_code = next((host.exit_code for host in end.hosts if host.exit_code), 0)
    if end.end == "max_run":
        record.status = "Stopped"
        record.failure_reason = f"MaxRuntimeExceeded: the job ran longer than {spec.max_run_s:g} s"
    elif end.end == "max_wait":
        record.status = "Stopped"
        record.failure_reason = "MaxWaitTimeExceeded: the job waited and ran longer than MaxWaitTimeInSeconds"
    elif end.end == "stopped":
        record.status = "Stopped"
    else:
        return False
    return True


class TrainingResults:
    """Of a training job: archives of the model and of the output, failure files."""

    def __init__(self, spec: TrainingJobSpec, options: RunOptions) -> None:
        """Nothing is done yet."""
        self._spec = spec
        self._options = options

    def begin(self, bases: Mapping[str, Path]) -> None:
        """Nothing is taken while the job runs."""

    def close(self) -> None:
        """Nothing was taken."""

    def judge(self, record: JobRecord, end: AttemptEnd) -> None:
        """Decide status and reason."""
        if _judge_end(self._spec, record, end):
            return
        if record.exit_code:
            record.status = "Failed"
            record.failure_reason = outputs.failure_reason(
                [(host.name, host.paths, host.exit_code or 0) for host in end.hosts]
            )
        elif any(Path(host.paths.stopped).exists() for host in end.hosts):
            record.status = "Stopped"  # somebody else sent a host SIGTERM: it ended well, but the job is not complete
        else:
            record.status = "Completed"

    def upload(self, record: JobRecord, directory: Path, end: AttemptEnd) -> None:
        """Pack the model and the output of all hosts, and project the full run."""
        record.enter("Uploading", "Packing model and output")
        trees = [host.paths for host in end.hosts]
        in_containers = self._options.engine == "docker"
        rooms = [rooms_of(self._spec, host.base) if in_containers else None for host in end.hosts]
        archives = {"output": (directory / "output.tar.gz", [Path(paths.output_data) for paths in trees])}
        if record.status != "Failed":
            archives["model"] = (directory / "model.tar.gz", [Path(paths.model) for paths in trees])
        for name, (archive, sources) in archives.items() if self._options.archives else ():
            if name == "model" and not self._spec.packed_model:
                archive = directory / "model"
                files = outputs.merged(sources, rooms)
                for inside, path in files.items():
                    outputs.put(path, archive / inside)
                record.paths[name] = str(archive) if files else None
            else:
                record.paths[name] = str(archive) if outputs.pack(sources, archive, rooms) else None
        for name, path in local_outputs(self._spec.config_files).items():
            for inside, file in outputs.merged([inside_tree(host.base, path) for host in end.hosts], rooms).items():
                outputs.put(file, directory / name / inside)
        summary = outputs.read_record(trees[0], "summary.json")
        if self._options.sample is not None and summary is not None and len(record.attempts) == 1:
            projection = project(summary, end.hosts[0].seconds)
            record.projection = asdict(projection) if projection is not None else None


class ProcessingResults:
    """Of a processing job: directories that go where the request says, and the exit message."""

    def __init__(self, spec: ProcessingJobSpec, s3: JobS3) -> None:
        """Nothing is done yet."""
        self._spec = spec
        self._s3 = s3
        self._bases: Mapping[str, Path] = {}
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, bases: Mapping[str, Path]) -> None:
        """Watch the outputs that are uploaded continuously."""
        self._bases = bases
        watched = [output for output in self._spec.outputs if output.continuous]
        if watched and self._thread is None:
            self._thread = threading.Thread(target=self._watch, args=(watched,), name="upload", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """End the watch."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def judge(self, record: JobRecord, end: AttemptEnd) -> None:
        """Decide status, exit message and reason."""
        ended = _judge_end(self._spec, record, end)
        try:
            record.exit_message = exit_message([host.paths for host in end.hosts])
        except UnicodeDecodeError as error:
            record.status = "Failed"
            record.failure_reason = f"/opt/ml/output/message is no UTF-8 ({error.reason} at byte {error.start})"
            return
        if ended:
            return
        record.status = "Failed" if record.exit_code else "Completed"
        if record.exit_code:
            host = next(host.name for host in end.hosts if host.exit_code)
            record.failure_reason = f"{host} ended with exit code {record.exit_code}" + (
                f": {record.exit_message}" if record.exit_message else " and left no message"
            )

    def upload(self, record: JobRecord, directory: Path, end: AttemptEnd) -> None:
        """Bring the outputs to their places: all of them, or after a failure those that are uploaded continuously."""
        self.close()
        record.enter("Uploading", "Copying the outputs")
        record.paths["outputs"] = str(directory / "outputs") if (directory / "outputs").exists() else None
        for output in self._spec.outputs:
            if record.status == "Failed" and not output.continuous:
                continue
            link = self._publish(output)
            if link is not None:
                record.status = "Failed"
                record.failure_reason = f"Output {output.name!r} holds a link, {link}: the service does not follow it"
            if isinstance(output.target, S3Uri):
                record.uploaded[output.name] = str(output.target)
        if (directory / "outputs").exists():
            record.paths["outputs"] = str(directory / "outputs")

    def _watch(self, watched: list[OutputSpec]) -> None:
        seen: dict[Path, tuple[int, int, bool]] = {}
        while not self._over.wait(CONTINUOUS_S):
            for output in watched:
                try:
                    self._publish(output, seen)
                except (OSError, PlatformError, UserError) as error:
                    log.warning(f"output {output.name!r} cannot be uploaded now: {error}")

    def _publish(self, output: OutputSpec, seen: dict[Path, tuple[int, int, bool]] | None = None) -> str | None:
        """Copy the files of all hosts; a later host overwrites the same name.

        Args:
            output: one that has a directory.
            seen: only files that have not changed since the last look are taken, for some are being written.

        Returns:
            The path of a link, which no upload follows; None when there is none.
        """
        target = output.target
        if target is None:
            return None
        found: str | None = None
        files: dict[str, Path] = {}
        for base in self._bases.values():
            source = inside_tree(base, output.local_path)
            for path in sorted(source.rglob("*")):
                if path.is_symlink():
                    found = found or path.relative_to(source).as_posix()
                elif path.is_file() and (seen is None or _stands_still(path, seen)):
                    files[path.relative_to(source).as_posix()] = path
        if isinstance(target, S3Uri):
            self._s3.upload(files, target)
        else:
            for name, path in files.items():
                outputs.put(path, target / name)
        return found


def _stands_still(path: Path, seen: dict[Path, tuple[int, int, bool]]) -> bool:
    """Tell whether a file is as it was at the last look, and not yet taken since it changed."""
    try:
        status = path.stat()
    except FileNotFoundError:
        return False
    now = (status.st_size, status.st_mtime_ns)
    before = seen.get(path)
    still = before is not None and before[:2] == now
    seen[path] = (*now, still)
    return still and not (before is not None and before[2])


def exit_message(hosts: list[Paths]) -> str | None:
    """Return what the first host that left one wrote to ``output/message``, cut to what the service keeps.

    Raises:
        UnicodeDecodeError: it is no UTF-8, which fails the job on the service.
    """
    for paths in hosts:
        if not outputs.is_plain(f"{paths.output}/message"):
            continue
        try:
            content = Path(paths.output, "message").read_bytes()
        except OSError:
            continue
        text = content.decode("utf-8")
        if text.strip():
            return text.encode()[:MESSAGE_BYTES].decode("utf-8", "ignore")
    return None
