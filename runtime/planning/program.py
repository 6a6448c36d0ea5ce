"""Which program a job runs, and where its code lies. Looks at the disk and changes nothing."""

from __future__ import annotations

import os
import sys

from runtime.base.errors import UserError, did_you_mean
from runtime.base.frozen import frozen, replace
from runtime.contract.drivers import CODE_CHANNEL, read_drivers
from runtime.contract.hyperparameters import unquote
from runtime.planning.groups import group_programs

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.base.env import Environ
    from runtime.contract.drivers import Drivers
    from runtime.contract.job import Job
    from runtime.contract.settings import Settings

PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SCRIPT, COMMAND, MODULE, FUNCTION = "script", "command", "module", "function"
NAME_LETTERS = "._+-/"
"""What a program's name may hold beside letters and digits. Source: sagemaker-training 5.1.4, process.py."""
CALL = (
    "import importlib, operator, sys; del sys.argv[0]; module, _, name = sys.argv[0].partition(':'); "
    "operator.attrgetter(name)(importlib.import_module(module))()"
)
"""Constant line of Python that calls ``module:function``; what the function returns is no exit code."""


@frozen
class Program:
    """What every rank executes."""

    name: str
    """As the job names it, relative to `cwd`: ``train.py``, ``bin/run.sh``, a module, or ``module:function``."""
    cwd: str
    """Working directory of the ranks."""
    origin: str
    """Which setting named it, for the log."""
    kind: str = SCRIPT
    """``script`` (Python), ``command`` (anything executable), ``module`` (of a package) or ``function``."""
    submit_directory: str | None = None
    """Directory, archive, file or S3 address to bring into the code directory; None: the code is there already."""
    drivers: Drivers | None = None
    """What SDK v3 asked for; None: the job was not made by it."""
    packages: str = ""
    """Directory of packages that were installed for it outside of the image's own; empty in most cases."""

    @property
    def path(self) -> str:
        """The file that must be there; empty for a module or a function, which the import system finds."""
        return "" if self.kind in (MODULE, FUNCTION) else os.path.normpath(f"{self.cwd}/{self.name}")

    def command(self, arguments: tuple[str, ...]) -> tuple[str, ...]:
        """Return the argument list that starts the program; arguments are never part of a shell line."""
        if self.kind == COMMAND:
            # Through a constant line of shell: it honours the file's "#!" and also runs a file that has none.
            return ("/bin/sh", "-c", 'exec "$0" "$@"', f"./{self.name}", *arguments)
        if self.kind == MODULE:
            return (sys.executable, "-m", self.name.removesuffix(".py").replace("/", "."), *arguments)
        if self.kind == FUNCTION:
            return (sys.executable, "-c", CALL, self.name, *arguments)
        return (sys.executable, self.name, *arguments)


def workloads(package: str = PACKAGE, script: str = "train.py") -> Mapping[str, str]:
    """List our workloads by name, each with its script: inside the wheel, or beside the package in a checkout.

    Args:
        package: directory of this package.
        script: ``train.py`` of training, ``process.py`` of processing workloads.
    """
    for home in (f"{package}/_entrypoints", f"{os.path.dirname(package)}/entrypoints"):
        if os.path.isdir(home):
            scripts = {name: f"{home}/{name}/{script}" for name in sorted(os.listdir(home))}
            return {name: script for name, script in scripts.items() if os.path.isfile(script)}
    return {}


def kind_of(name: str, directory: str, *, packages: bool = True) -> str:
    """Tell how a program is started, by its name and what lies beside it; in the toolkit's order.

    Args:
        name: of the program.
        directory: the code directory, as it is now.
        packages: whether a ``setup.py`` makes the code a package, as it does not for SDK v3.

    Source: sagemaker-training 5.1.4, _entry_point_type.py; ``module:function`` is ours.
    """
    if name.endswith(".sh"):
        return COMMAND
    if ":" in name:
        return FUNCTION
    if packages and os.path.isfile(f"{directory}/setup.py"):
        return MODULE
    if name.endswith(".py"):
        return SCRIPT
    # A package that pyproject.toml builds has no file of the program's name; a command has one.
    built = packages and os.path.isfile(f"{directory}/pyproject.toml") and not os.path.isfile(f"{directory}/{name}")
    return MODULE if built else COMMAND


def find_program(job: Job, settings: Settings, environ: Environ) -> Program:
    """Decide what to run: the program of this host's instance group, else the job's.

    Raises:
        UserError: no program, two programs, an unknown workload, a name that no program can have, or another launcher
            around us.
    """
    _check_outer_launcher(environ)
    drivers = read_drivers(job.paths, environ)
    of_group = group_programs(job, settings).get(job.host.group)
    if of_group:
        return _user_program(of_group, f"slipway_group_programs[{job.host.group}]", job, environ, drivers)
    named = _named(job, settings, drivers)
    if len({name for _, name in named}) > 1:
        told = " and ".join(f"{origin}={name!r}" for origin, name in named)
        raise UserError(f"The job names two programs: {told}", fix="keep one of them")
    ours = settings.origin("entrypoint")
    if not named and environ.get("SAGEMAKER_PROGRAM"):
        named = [("SAGEMAKER_PROGRAM", environ["SAGEMAKER_PROGRAM"])]
    if not named and settings.entrypoint:
        named = [(ours, settings.entrypoint)]
    if not named and environ.get("SAGEMAKER_TRAINING_MODULE"):
        named = [("SAGEMAKER_TRAINING_MODULE", environ["SAGEMAKER_TRAINING_MODULE"])]
    if not named:
        if os.path.isfile(f"{job.paths.base}/config/processingjobconfig.json"):
            raise UserError(
                "This is a processing job, and the image's default command is `train`",
                allowed="a processing job names what runs by its entrypoint",
                fix="give the Processor one, such as entrypoint=['process', 'NAME'] or ['python3', 'SCRIPT.py']",
            )
        raise UserError(
            "The job names no program",
            allowed="a script by sagemaker_program (SDK: entry_point, entry_script), or one of our workloads by "
            "slipway_entrypoint",
            fix=f"set one of them; workloads here: {', '.join(workloads()) or 'none'}",
        )
    origin, name = named[0]
    if origin == ours and name == settings.entrypoint:
        return _our_workload(name, origin, drivers)
    return _user_program(name, origin, job, environ, drivers)


def _check_outer_launcher(environ: Environ) -> None:
    """Refuse to be one rank of somebody else's world: each of us would start all ranks again."""
    for launcher, local, size in (
        ("torchrun", "LOCAL_RANK", "TORCHELASTIC_RUN_ID"),
        ("mpirun", "OMPI_COMM_WORLD_LOCAL_RANK", "OMPI_COMM_WORLD_SIZE"),
    ):
        if local in environ and size in environ:
            raise UserError(
                f"{launcher} has started this `train` as a rank of its own ({local}={environ[local]})",
                allowed="`train` is started once per host, and starts the ranks itself",
                fix=f"start the script itself with {launcher}, or start `train` without {launcher}",
            )


def _named(job: Job, settings: Settings, drivers: Drivers | None) -> list[tuple[str, str]]:
    """Return what the job itself says; what an image or its environment says gives way to it."""
    named = [("sagemaker_program", unquote(job.hyperparameters.get("sagemaker_program", "")))]
    named.append(("SourceCode.entry_script", drivers.entry_script if drivers else ""))
    if settings.origin("entrypoint") != "image default":
        named.append((settings.origin("entrypoint"), settings.entrypoint))
    return [(origin, name) for origin, name in named if name]


def _our_workload(name: str, origin: str, drivers: Drivers | None) -> Program:
    ours = workloads()
    if name not in ours:
        raise UserError(f"Unknown workload {name!r} (from {origin})", allowed=did_you_mean(name, ours))
    directory, script = os.path.split(ours[name])
    return Program(script, directory, f"{origin}={name}", drivers=drivers)


def _user_program(name: str, origin: str, job: Job, environ: Environ, drivers: Drivers | None) -> Program:
    _check_name(name, origin)
    code = job.paths.code
    told = f"{origin}={name}"
    other = environ.get("SAGEMAKER_PROGRAM", "")
    if other and other != name:
        told += f" (SAGEMAKER_PROGRAM={other} gives way to the job's own word)"
    if drivers is not None and _lies_in_channel(drivers):
        # As SDK v3 does: its jobs run where the channel is, and their setup.py is no business of the platform.
        directory = f"{job.paths.data}/{CODE_CHANNEL}"
        return Program(name, directory, told, kind_of(name, directory, packages=False), drivers=drivers)
    submitted = unquote(job.hyperparameters.get("sagemaker_submit_directory", ""))
    source = submitted or environ.get("SAGEMAKER_SUBMIT_DIRECTORY", "")
    if not source and CODE_CHANNEL in job.channels:
        source = job.channels[CODE_CHANNEL].directory
    here = os.path.normpath(source.removeprefix("file://")) == code
    program = Program(name, code, told, SCRIPT, source if source and not here else None, drivers)
    return replace(program, kind=kind_of(name, code))


def _lies_in_channel(drivers: Drivers) -> bool:
    """Whether the code is to be run where the channel is: always, but for an archive that nobody has unpacked yet."""
    return bool(drivers.source_dir) and (drivers.under_script or not drivers.source_dir.endswith(".tar.gz"))


def _check_name(name: str, origin: str) -> None:
    """Refuse what is no plain path inside the code directory: such a name is never read as an option or a way out."""
    file, colon, function = name.partition(":")
    parts = file.split("/")
    if name.startswith("/") or any(part in ("", ".", "..") for part in parts):
        raise UserError(f"{origin} is {name!r}", allowed="it is a path inside the code directory, without '.' and '..'")
    strange = sorted(
        {letter for letter in file if not (letter.isascii() and letter.isalnum()) and letter not in NAME_LETTERS}
    )
    if strange or name[0] in "-+" or (colon and not all(map(str.isidentifier, function.split(".")))):
        raise UserError(
            f"{origin} is {name!r}",
            allowed="a program's name has letters, digits and . _ + - / and does not begin with - or +; or it is "
            "module:function",
            fix="rename the file",
        )
