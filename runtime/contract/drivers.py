"""The driver channel of SDK v3 as a job description.

`ModelTrainer` puts a tree of drivers into the channel ``sm_drivers`` and starts its own ``sm_train.sh``. When the
command is our ``train`` (``SourceCode(command="exec train")``), or when the tree is there and the image's own command
runs, the same job is ours to run: two JSON files say what it is. Pure.

Source: PyPI sagemaker-train 1.27.0, train/model_trainer.py, train/distributed.py, train/container_drivers.
"""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.frozen import frozen
from runtime.base.jsontext import loads

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from runtime.base.env import Environ
    from runtime.contract.paths import Paths

CHANNEL = "sm_drivers"
CODE_CHANNEL = "code"
NOT_DATA = (CHANNEL, CODE_CHANNEL)
"""Channels that carry programs: in inputdataconfig.json like any other, and never samples."""


@frozen
class Drivers:
    """What SDK v3 asked for."""

    directory: str
    """The channel's directory."""
    entry_script: str = ""
    """Relative to the code channel; empty when the job is a command."""
    command: str = ""
    """The command line that the SDK's script evaluates; ours when we run under it."""
    requirements: str = ""
    """File to install from, relative to the code channel; ``auto`` means requirements.txt if it is there."""
    source_dir: str = ""
    """As on the client's machine; a name that ends with .tar.gz is an archive in the code channel."""
    launcher: str = "script"
    """``script``, ``torchrun``, ``mpi``, or ``custom`` for a driver class of the user's own."""
    processes: int = 0
    """Processes per host that were asked for; 0: as many as there are accelerators."""
    mpi_options: tuple[str, ...] = ()
    """``mpi_additional_options``, as words of mpirun."""
    distributed: str = ""
    """distributed.json as it is, for ``SM_DISTRIBUTED_CONFIG``; empty when nothing is distributed."""
    under_script: bool = False
    """Whether ``sm_train.sh`` started us: then it has changed directory and installed the requirements."""


def read_drivers(paths: Paths, environ: Environ) -> Drivers | None:
    """Read the driver channel; None when the job has none.

    Raises:
        UserError: a file of it is no JSON object, or a field has another type than the SDK writes.
    """
    directory = f"{paths.data}/{CHANNEL}"
    source = _read(f"{directory}/sourcecode.json")
    if source is None:
        return None
    distributed = _read(f"{directory}/distributed.json") or {}
    launcher, processes = _launcher(distributed, f"{directory}/distributed.json")
    return Drivers(
        directory=directory,
        entry_script=_text(source, "entry_script"),
        command=_text(source, "command"),
        requirements=_text(source, "requirements"),
        source_dir=_text(source, "source_dir"),
        launcher=launcher,
        processes=processes,
        mpi_options=_options(distributed, f"{directory}/distributed.json"),
        distributed=_raw(f"{directory}/distributed.json") if distributed else "",
        # It exports the variable before it evaluates the command; nobody else does.
        under_script=bool(environ.get("SM_INPUT_DATA_DIR")) and bool(environ.get("SM_SOURCE_DIR")),
    )


def _launcher(distributed: Mapping[str, object], path: str) -> tuple[str, int]:
    if not distributed:
        return "script", 0
    count = distributed.get("process_count_per_node") or 0
    if not isinstance(count, int) or isinstance(count, bool) or count < 0:
        raise UserError(f"{path}: 'process_count_per_node' is {count!r}", allowed="it is a number")
    if "mpi_additional_options" in distributed:
        return "mpi", count
    return ("torchrun" if "smp" in distributed else "custom"), count


def _options(distributed: Mapping[str, object], path: str) -> tuple[str, ...]:
    options: object = distributed.get("mpi_additional_options") or []
    words: list[object] = options if isinstance(options, list) else [options]  # pyright: ignore[reportUnknownVariableType]
    if not all(isinstance(word, str) for word in words):
        raise UserError(f"{path}: 'mpi_additional_options' is {options!r}", allowed="it is a list of words")
    return tuple(map(str, words))


def _raw(path: str) -> str:
    try:
        with open(path, encoding="utf-8") as file:
            return file.read()
    except FileNotFoundError:
        return ""
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="let the SDK upload its drivers again") from error


def _read(path: str) -> Mapping[str, object] | None:
    if not os.path.isfile(path):
        return None
    try:
        value = loads(_raw(path) or "{}")
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", fix="let the SDK upload its drivers again") from error
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise UserError(f"{path} holds {type(value).__name__}, not an object", fix="let the SDK upload it again")
    return value  # pyright: ignore[reportUnknownVariableType]


def _text(source: Mapping[str, object], key: str) -> str:
    value = source.get(key)
    return value if isinstance(value, str) else ""
