"""Our own settings: one table, one precedence, every value with its origin.

Each setting NAME is the hyperparameter ``slipway_NAME`` and the variable ``SLIPWAY_NAME``. The order is hyperparameter,
environment, image default, default. They never reach the user's script.
"""

from __future__ import annotations

from runtime.base.env import VARIABLES, flag
from runtime.base.errors import UserError, did_you_mean
from runtime.base.frozen import asdict, cast, field, frozen, names_of
from runtime.base.jsontext import loads
from runtime.contract.dialects import DIALECTS
from runtime.contract.hyperparameters import unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

    from runtime.base.env import Environ

IMAGE_FILE = "/etc/slipway/image.json"
"""Where an image keeps its defaults: the labels ``slipway.NAME`` of images.toml, which a container cannot ask for."""


@frozen
class Settings:
    """What the user may turn; `MEANINGS` says of each what it is for."""

    entrypoint: str = ""
    procs_per_host: str = "auto"
    launcher: str = "own"
    group_programs: str = ""
    strategy: str = "auto"
    argv_dialect: str = "lossless"
    master_port: int = 7777
    peer_port: int = 7778
    remote_port: int = 7779
    host_wait_s: float = 900.0
    silence_s: float = 10.0
    end_wait_s: float = 600.0
    stop_grace_s: float = 110.0
    rendezvous_s: float = 300.0
    progress_s: float = 600.0
    first_step_s: float = 1800.0
    output_silence_s: float = 0.0
    install: bool = True
    install_s: float = 840.0
    constraints: str = "image"
    log_level: str = "info"
    log_json: bool = False
    log_prefix: str = "auto"
    progress_bars: str = "auto"
    metrics_every_s: float = 5.0
    profile: bool = True
    profile_interval_ms: int = 500
    max_steps: int = 0
    sample: int = 0
    bad_most: int = 1000
    bad_share: float = 0.01
    pipe_wait_s: float = 300.0
    attribute_names: str = ""
    resume: str = "auto"
    keep_checkpoints: int = 3

    origins: Mapping[str, str] = field(default_factory=dict)
    """Where each value that is no default came from."""

    def __post_init__(self) -> None:
        """Check ranges, after the defaults are in.

        Raises:
            UserError: a number is out of its range, or no finite number: a wait that never ends, or `nan`, which is
                below no limit.
        """
        for name in NAMES:
            value = getattr(self, name)
            if isinstance(value, float) and value - value != 0.0:  # nan and the infinities alone
                raise UserError(self._told(name), allowed="it is a finite number")
        for name, least in LEAST.items():
            if getattr(self, name) < least:
                raise UserError(self._told(name), allowed=f"it is at least {least}")
        for name in ("master_port", "peer_port", "remote_port"):
            if not 0 < getattr(self, name) < 65536:
                raise UserError(self._told(name), allowed="a TCP port is in 1..65535")

    def _told(self, name: str) -> str:
        return f"slipway_{name} is {getattr(self, name)!r} (from {self.origin(name)})"

    def prefixes_lines(self, world_size: int) -> bool:
        """Whether the launcher puts ``[host rank]`` before each line of a rank; then ranks need not name themselves."""
        return self.log_prefix == "on" or (self.log_prefix == "auto" and world_size > 1)

    def origin(self, name: str) -> str:
        """Say where a value came from, such as ``SLIPWAY_SILENCE_S`` or ``default``."""
        return self.origins.get(name, "default")


NAMES = tuple(name for name in names_of(Settings) if name != "origins")

MEANINGS = {
    "entrypoint": "one of our workloads by name, such as image_classification",
    "procs_per_host": "ranks per host: a number, or auto = accelerators, else 1",
    "launcher": "who starts the ranks; unless it is set, the SDK's distribution=... chooses",
    "group_programs": "programs of instance groups that stand outside of the world: a JSON object of group to script, "
    'such as {"feeders": "feed.py"}',
    "strategy": "how run.wrap distributes the model; auto = ddp when world size > 1",
    "argv_dialect": "how hyperparameters become the script's arguments; lossless = toolkit, but strings stay",
    "master_port": "TCP port of the ranks' rendezvous on the coordinator (SageMaker's own number)",
    "peer_port": "TCP port on which the launchers of all hosts talk to each other",
    "remote_port": "TCP port on which a host waits for mpirun's daemon to be asked for; launch styles of MPI only",
    "host_wait_s": "seconds to wait for every host; instances of one job may come up minutes apart "
    "(the toolkit's limit)",
    "silence_s": "seconds without a sign from a host after which it counts as lost; a switch that reboots, or a live "
    "migration of a machine, takes less",
    "end_wait_s": "seconds that a finished host waits for the others before it ends alone",
    "stop_grace_s": "seconds from SIGTERM to SIGKILL for the ranks; the platform kills us at 120, so 10 are left to "
    "report",
    "rendezvous_s": "seconds in which all ranks must have joined the process group",
    "progress_s": "seconds without a step or any other progress after which ranks that use Run are ended, when that is "
    "more than 20 times their median step; a recompilation or a busy file system may hold up one step for minutes",
    "first_step_s": "the same before the first step, which compiles, fills caches and loads the first data",
    "output_silence_s": "seconds without a line from any rank after which a script that does not use Run is ended; "
    "0 = it is only warned of, every progress_s, since nobody can tell a silent script from a stuck one",
    "install": "install the code's requirements.txt or package before the ranks start",
    "install_s": "seconds in which that must be done; below host_wait_s, so that others hear of the cause",
    "constraints": "image = no requirement replaces a package of the image; off = any may",
    "log_level": "what we print",
    "log_json": "our log lines as JSON objects",
    "log_prefix": "[host rank] before each line of a rank; auto = when the world has more than one",
    "progress_bars": "fold = one line a second for what is rewritten by carriage returns; raw = with one rank, every "
    "byte as it comes; auto = fold, unless our output is a terminal",
    "metrics_every_s": "seconds between metric lines of rank 0; the first step always prints one",
    "profile": "phase times per step and the sampler of the machine",
    "profile_interval_ms": "milliseconds between samples of the machine (the service's default)",
    "max_steps": "end after this many steps, as if the data were used up; 0 = no limit",
    "sample": "use only this many samples of every channel; 0 = all",
    "bad_most": "unreadable samples with which a job goes on where run.data(on_bad=...) allows some; more names than "
    "this nobody looks at",
    "bad_share": "the same as a share of the samples read, beyond the first ten; more is no accident but a broken copy",
    "pipe_wait_s": "seconds without a byte from the writer of a Pipe channel, before the first one or in between, "
    "after which the job ends and names it; below first_step_s, so that the cause is heard; a tenth of it is warned of",
    "attribute_names": "AttributeNames of augmented manifests in Pipe mode, which the stream does not tell, in their "
    'order: a JSON object of channel to list, such as {"train": ["source-ref", "class"]}',
    "resume": "auto = continue from the newest complete checkpoint; off = begin anew",
    "keep_checkpoints": "complete checkpoints that are kept; at least 1",
}
"""What each setting is for: the documentation that ``slipway plan --settings`` prints."""

CHOICES = {
    "launcher": ("own", "torchrun", "mpi", "deepspeed", "smddp", "smp"),
    "strategy": ("auto", "ddp"),
    "argv_dialect": DIALECTS,
    "constraints": ("image", "off"),
    "log_level": ("debug", "info", "warning", "error"),
    "log_prefix": ("auto", "on", "off"),
    "progress_bars": ("auto", "fold", "raw"),
    "resume": ("auto", "off"),
}
"""The settings that are one of a few words."""

LEAST = {
    "host_wait_s": 1,
    "silence_s": 1,
    "rendezvous_s": 1,
    "progress_s": 1,
    "first_step_s": 1,
    "install_s": 1,
    "profile_interval_ms": 1,
    "keep_checkpoints": 1,
    "end_wait_s": 0,
    "stop_grace_s": 0,
    "output_silence_s": 0,
    "metrics_every_s": 0,
    "max_steps": 0,
    "sample": 0,
    "bad_most": 0,
    "bad_share": 0,
    "pipe_wait_s": 1,
}
"""The smallest value of each number; ports have a range of their own."""


def resolve(hyperparameters: Mapping[str, str], environ: Environ) -> Settings:
    """Resolve every setting from the job, the environment and the image.

    Raises:
        UserError: an unknown ``slipway_*`` name (with did-you-mean), or a value that does not fit.
    """
    wiring = {variable.name for variable in VARIABLES}
    given: dict[str, tuple[str, str]] = {}
    for name, value in _image_defaults(environ).items():
        given[_known(name, f"image default {name!r}")] = (str(value), "image default")
    for name, value in environ.items():
        if name.startswith("SLIPWAY_") and name not in wiring:
            given[_known(name[8:].lower(), f"environment variable {name}")] = (value, name)
    for name, value in hyperparameters.items():
        if name.startswith("slipway_"):
            given[_known(name[8:], f"hyperparameter {name!r}")] = (
                unquote(value),
                f"hyperparameter slipway_{name[8:]}",
            )
    values: dict[str, Any] = {}
    for name, (text, origin) in given.items():
        values[name] = _convert(name, text, type(_DEFAULTS[name]), CHOICES.get(name, ()), origin)
    return Settings(**values, origins={name: origin for name, (_, origin) in given.items()})


def _known(name: str, where: str) -> str:
    if name in NAMES:
        return name
    guess = did_you_mean(name, NAMES).replace("Did you mean '", "Did you mean 'slipway_")
    raise UserError(f"Unknown setting: {where}", allowed=guess, fix="`slipway plan --settings` lists all of them")


def _convert(name: str, text: str, kind: type, choices: tuple[str, ...], origin: str) -> object:
    word = text.strip()
    if choices and word not in choices:
        raise UserError(f"slipway_{name} is {text!r} (from {origin})", allowed=f"it is one of {', '.join(choices)}")
    if kind is bool:
        value = flag(word)
        if value is None:
            raise UserError(f"slipway_{name} is {text!r} (from {origin})", allowed="it is on or off")
        return value
    try:
        return kind(word)
    except ValueError:
        wanted = {int: "an integer", float: "a number"}[kind]
        raise UserError(f"slipway_{name} is {text!r} (from {origin})", allowed=f"it is {wanted}") from None


def _image_defaults(environ: Environ) -> Mapping[str, object]:
    path = environ.get("SLIPWAY_IMAGE_FILE") or IMAGE_FILE
    try:
        with open(path, encoding="utf-8") as stream:
            value = loads(stream.read())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} (the image's defaults) cannot be read: {error}", fix="build the image anew") from error
    held = cast("dict[str, object]", value).get("settings", {}) if isinstance(value, dict) else None
    if not isinstance(held, dict):
        raise UserError(
            f"{path} (the image's defaults) cannot be read: it holds no object 'settings'", fix="build the image anew"
        )
    return cast("Mapping[str, object]", held)


_DEFAULTS: dict[str, object] = asdict(Settings())
