"""Which program a job runs, and where its code lies. Finding is pure; `install` is the one effect."""

from __future__ import annotations

import os
import sys

from runtime.errors import UserError, did_you_mean
from runtime.frozen import frozen
from runtime.hyperparameters import unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.env import Environ
    from runtime.job import Job
    from runtime.settings import Settings

PACKAGE = os.path.dirname(os.path.abspath(__file__))


@frozen
class Program:
    """What every rank executes."""

    path: str
    """The script."""
    cwd: str
    """Working directory of the ranks."""
    origin: str
    """Which setting named it, for the log."""
    submit_directory: str | None = None
    """Directory, archive or file to install into the code directory first; None: the code is there already."""

    @property
    def name(self) -> str:
        """The script's file name."""
        return os.path.basename(self.path)

    def command(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the argument list that starts the program; arguments are never part of a shell line."""
        if self.path.endswith(".py"):
            return (sys.executable, self.path, *arguments)
        # Through a constant line of shell: it honours the file's "#!" and also runs a file that has none.
        return ("/bin/sh", "-c", 'exec "$0" "$@"', self.path, *arguments)


def workloads(package: str = PACKAGE) -> Mapping[str, str]:
    """List our workloads by name, each with its script: inside the wheel, or beside the package in a checkout."""
    for home in (f"{package}/_entrypoints", f"{os.path.dirname(package)}/entrypoints"):
        if os.path.isdir(home):
            scripts = {name: f"{home}/{name}/train.py" for name in sorted(os.listdir(home))}
            return {name: script for name, script in scripts.items() if os.path.isfile(script)}
    return {}


def find_program(job: Job, settings: Settings, environ: Environ) -> Program:
    """Decide what to run.

    Raises:
        UserError: no program, two programs, or an unknown workload.
    """
    named = unquote(job.hyperparameters.get("sagemaker_program", "")) or environ.get("SAGEMAKER_PROGRAM", "")
    asked_by_image = settings.origin("entrypoint") == "image default"
    if named and settings.entrypoint and not asked_by_image:
        raise UserError(
            f"The job names two programs: sagemaker_program={named!r} and {settings.origin('entrypoint')}="
            f"{settings.entrypoint!r}",
            fix="keep one of them",
        )
    if named:
        return _user_program(named, job, environ)
    if settings.entrypoint:
        ours = workloads()
        if settings.entrypoint not in ours:
            raise UserError(
                f"Unknown workload {settings.entrypoint!r} (from {settings.origin('entrypoint')})",
                allowed=did_you_mean(settings.entrypoint, ours),
            )
        script = ours[settings.entrypoint]
        return Program(script, os.path.dirname(script), f"{settings.origin('entrypoint')}={settings.entrypoint}")
    raise UserError(
        "The job names no program",
        allowed="a script by sagemaker_program (SDK: entry_point), or one of our workloads by slipway_entrypoint",
        fix=f"set one of them; workloads here: {', '.join(workloads()) or 'none'}",
    )


def _user_program(name: str, job: Job, environ: Environ) -> Program:
    if name.startswith("/") or ".." in name.split("/"):
        raise UserError(
            f"sagemaker_program is {name!r}", allowed="it is a path inside the code directory, without '..'"
        )
    submit = unquote(job.hyperparameters.get("sagemaker_submit_directory", "")) or environ.get(
        "SAGEMAKER_SUBMIT_DIRECTORY", ""
    )
    code = job.paths.code
    if submit.startswith("s3://"):
        raise UserError(
            f"sagemaker_submit_directory is {submit!r}",
            allowed="this version takes code from a directory or an archive that is in the container",
            fix="pass the code as the channel 'code', or mount it",
        )
    source = os.path.normpath(submit.removeprefix("file://")) if submit else None
    if source is None and "code" in job.channels:
        source = job.channels["code"].directory
    if source == code:
        source = None
    return Program(os.path.normpath(f"{code}/{name}"), code, f"sagemaker_program={name}", source)


def install(program: Program, code: str) -> None:
    """Bring the code into the code directory, unless something is there already (as the toolkit does), and check it.

    Raises:
        UserError: the source or the program is missing, an archive is broken, or a file hides our package.
    """
    if program.submit_directory is not None and not _entries(code):
        _copy(program.submit_directory, code)
    if not os.path.isfile(program.path):
        beside = [name for name in _entries(code) if os.path.isfile(f"{code}/{name}")]
        raise UserError(
            f"Program {program.path} is not there (from {program.origin})",
            allowed=did_you_mean(program.name, beside).replace("Choices:", "Files there:"),
            fix="name a file of the code directory, or submit the code with the job",
        )
    if not program.path.endswith(".py"):
        _make_executable(program.path)
    for name in ("runtime.py", "runtime"):
        hiding = f"{code}/{name}"
        if program.cwd == code and os.path.exists(hiding):
            raise UserError(
                f"{hiding} hides the container's `runtime` package",
                fix="rename that file, then `import runtime` works",
            )


def _entries(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except (FileNotFoundError, NotADirectoryError):
        return []


def _make_executable(path: str) -> None:
    """Archives and uploads lose the x bit; the toolkit sets it too."""
    if os.access(path, os.X_OK):
        return
    try:
        os.chmod(path, os.stat(path).st_mode | 0o111)  # noqa: S103 - to run it is what the user asks
    except OSError as error:
        raise UserError(
            f"{path} is not executable, and cannot be made so: {error.strerror}", fix="chmod +x it"
        ) from error


def _copy(source: str, code: str) -> None:
    import shutil
    import tarfile
    import zlib

    if not os.path.exists(source):
        raise UserError(f"sagemaker_submit_directory is {source!r}, which is not there")
    os.makedirs(code, exist_ok=True)
    if os.path.isdir(source):
        archive = f"{source}/sourcedir.tar.gz"
        if not os.path.isfile(archive):
            shutil.copytree(source, code, dirs_exist_ok=True)
            return
        source = archive
    if not source.endswith((".tar.gz", ".tgz", ".tar")):
        shutil.copy2(source, code)
        return
    try:
        with tarfile.open(source) as archive_file:
            # "data" refuses absolute paths, "..", devices and links that leave the directory.
            archive_file.extractall(code, filter="data")
    except (tarfile.TarError, OSError, EOFError, zlib.error) as error:
        raise UserError(f"The code archive {source} cannot be unpacked: {error}", fix="pack it anew") from error
