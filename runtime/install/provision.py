"""From a named program to one that can start: its code is there, what it needs is installed. Once per host."""

from __future__ import annotations

import os

from runtime.base.errors import UserError, did_you_mean
from runtime.base.frozen import replace
from runtime.base.log import Log
from runtime.contract.drivers import CODE_CHANNEL
from runtime.planning.program import COMMAND, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from runtime.base.env import Environ
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings
    from runtime.install.installs import Needs
    from runtime.planning.program import Program

WHEELHOUSE = "wheelhouse"
"""Name of the channel, and of the folder beside the code, that brings wheels."""

_log = Log("code")


def provision(
    program: Program, job: Job, settings: Settings, environ: Environ, pause: Callable[[float], object]
) -> Program:
    """Bring the code, install what it needs, and check that the program is there.

    Args:
        program: as found.
        job: its channels.
        settings: ``install``, ``install_s``, ``constraints``.
        environ: the launcher's.
        pause: waits the given seconds; may raise to give up, as after a stop request.

    Returns:
        The program with its kind, which may depend on the code that has come.

    Raises:
        UserError: the source or the program is missing, an archive is broken, a requirement cannot be met, or a file
            hides our package.
        PlatformError: S3 or pip cannot be had.
    """
    if program.submit_directory is not None:
        from runtime.install.fetch import bring

        bring(program.submit_directory, program.cwd, environ, pause)
    if program.cwd == job.paths.code:
        program = replace(program, kind=kind_of(program.name, program.cwd))
    check_there(program)
    if program.kind == COMMAND:
        _make_executable(program)
    needs = _needs(program, job, settings)
    if needs is not None and needs:
        program = replace(program, packages=_install(needs, job, settings, environ, pause))
    return program


def check_there(program: Program) -> None:
    """Look for the program, and for files that would hide ours from it.

    Raises:
        UserError: it is not there, or something hides our package.
    """
    code = program.cwd
    if program.path and not os.path.isfile(program.path):
        beside = sorted(name for name in _entries(code) if os.path.isfile(f"{code}/{name}"))
        raise UserError(
            f"Program {program.path} is not there (from {program.origin})",
            allowed=did_you_mean(os.path.basename(program.name), beside).replace("Choices:", "Files there:"),
            fix="name a file of the code directory, or submit the code with the job",
        )
    for name in ("runtime.py", "runtime"):
        hiding = f"{code}/{name}"
        if os.path.exists(hiding):
            raise UserError(
                f"{hiding} hides the container's `runtime` package",
                fix="rename that file, then `import runtime` works",
            )


def _entries(directory: str) -> list[str]:
    try:
        return os.listdir(directory)
    except (FileNotFoundError, NotADirectoryError):
        return []


def _make_executable(program: Program) -> None:
    """Archives and uploads lose the x bit; the toolkit sets it too."""
    real = os.path.realpath(program.path)
    root = os.path.realpath(program.cwd)
    if not real.startswith(root + os.sep):
        raise UserError(
            f"{program.path} leads to {real}, outside the code directory", fix="submit the file itself, not a link"
        )
    if os.access(real, os.X_OK):
        return
    try:
        os.chmod(real, os.stat(real).st_mode | 0o111)  # noqa: S103 - who may read it may run it
    except OSError as error:
        raise UserError(
            f"{program.path} is not executable, and cannot be made so: {error.strerror}", fix="chmod +x it"
        ) from error


def _needs(program: Program, job: Job, settings: Settings) -> Needs | None:
    """Decide what to install; None where nothing of the kind is there."""
    code, drivers = program.cwd, program.drivers
    if not _has_any(code) and not (drivers is not None and drivers.requirements):
        return None
    if not settings.install:
        _log.info(f"the code's requirements are not installed because of {settings.origin('install')}")
        return None
    if drivers is not None and drivers.under_script:
        return None  # sm_train.sh has installed what the job names, and SDK v3 installs nothing else
    from runtime.install.installs import find_needs

    wheelhouse = job.channels[WHEELHOUSE].directory if WHEELHOUSE in job.channels else ""
    if code == f"{job.paths.data}/{CODE_CHANNEL}":
        named = drivers.requirements if drivers is not None else ""
        requirements = f"{code}/{'requirements.txt' if named == 'auto' else named}" if named else ""
        if not requirements or (named == "auto" and not os.path.isfile(requirements)):
            return None
        return find_needs(code, requirements=requirements, wheelhouse=wheelhouse, package=False)
    if code != job.paths.code:
        return None  # one of our workloads: the image has what it needs
    if program.name.endswith(".sh"):
        return None  # the toolkit leaves installing to the script
    needs = find_needs(code, wheelhouse=wheelhouse)
    # The toolkit installs no requirements for a bare command either.
    return needs if needs.package or program.kind != COMMAND else None


def _has_any(code: str) -> bool:
    """Cheap look before anything is imported: most code needs nothing."""
    return any(os.path.isfile(f"{code}/{name}") for name in ("requirements.txt", "setup.py", "pyproject.toml"))


def _install(needs: Needs, job: Job, settings: Settings, environ: Environ, pause: Callable[[float], object]) -> str:
    from runtime.install.installs import install, pip_environ

    index = ""
    if environ.get("CA_REPOSITORY_ARN") and not needs.wheelhouse:
        from runtime.install.codeartifact import index_url

        index = index_url(environ["CA_REPOSITORY_ARN"], environ)
    return install(
        needs,
        pip_environ(environ, job.paths.base, index),
        pause=pause,
        limit_s=settings.install_s,
        keeps_lock=settings.constraints == "image",
    )
