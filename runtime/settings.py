"""Our own settings: one table, one precedence, every value with its origin.

Each setting NAME is the hyperparameter ``slipway_NAME`` and the variable ``SLIPWAY_NAME``. The order is hyperparameter,
environment, image default, default. They never reach the user's script.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, cast

from runtime.env import VARIABLES, Environ, flag
from runtime.errors import UserError, did_you_mean
from runtime.hyperparameters import unquote

IMAGE_FILE = "/etc/slipway/image.json"
"""Where an image keeps its defaults: the labels ``slipway.NAME`` of images.toml, which a container cannot ask for."""


def _setting(default: object, meaning: str, choices: tuple[str, ...] = ()) -> Any:  # noqa: ANN401 - as dataclasses.field
    return field(default=default, metadata={"meaning": meaning, "choices": choices})


@dataclass(frozen=True)
class Settings:
    """What the user may turn; the metadata's text is the documentation (``slipway plan`` prints it)."""

    entrypoint: str = _setting("", "one of our workloads by name, such as image_classification")
    procs_per_host: str = _setting("auto", "ranks per host: a number, or auto = accelerators, else 1")
    launcher: str = _setting("own", "who starts the ranks", ("own",))
    strategy: str = _setting(
        "auto", "how run.wrap distributes the model; auto = ddp when world size > 1", ("auto", "ddp")
    )
    argv_dialect: str = _setting(
        "toolkit", "how hyperparameters become the script's arguments", ("toolkit", "v3", "json", "none")
    )
    master_port: int = _setting(7777, "TCP port of the ranks' rendezvous on the coordinator (SageMaker's own number)")
    peer_port: int = _setting(7778, "TCP port on which the launchers of all hosts talk to each other")
    host_wait_s: float = _setting(
        900.0,
        "seconds to wait for every host; instances of one job may come up minutes apart (the toolkit's limit)",
    )
    silence_s: float = _setting(10.0, "seconds without a sign from a host after which it counts as lost")
    end_wait_s: float = _setting(600.0, "seconds that a finished host waits for the others before it ends alone")
    stop_grace_s: float = _setting(
        110.0,
        "seconds from SIGTERM to SIGKILL for the ranks; the platform kills us at 120, so 10 are left to report",
    )
    rendezvous_s: float = _setting(300.0, "seconds in which all ranks must have joined the process group")
    log_level: str = _setting("info", "what we print", ("debug", "info", "warning", "error"))
    log_json: bool = _setting(False, "our log lines as JSON objects")
    log_prefix: str = _setting(
        "auto",
        "[host rank] before each line of a rank; auto = when the world has more than one",
        ("auto", "on", "off"),
    )
    metrics_every_s: float = _setting(5.0, "seconds between metric lines of rank 0; the first step always prints one")
    profile: bool = _setting(True, "phase times per step and the sampler of the machine")
    profile_interval_ms: int = _setting(500, "milliseconds between samples of the machine (the service's default)")
    max_steps: int = _setting(0, "end after this many steps, as if the data were used up; 0 = no limit")
    sample: int = _setting(0, "use only this many samples of every channel; 0 = all")
    resume: str = _setting(
        "auto", "auto = continue from the newest complete checkpoint; off = begin anew", ("auto", "off")
    )
    keep_checkpoints: int = _setting(3, "complete checkpoints that are kept; at least 1")

    origins: Mapping[str, str] = field(default_factory=dict[str, str])
    """Where each value that is no default came from."""

    def __post_init__(self) -> None:
        """Check ranges, after the defaults are in.

        Raises:
            UserError: a number is out of its range, or no finite number: a wait that never ends, or `nan`, which is
                below no limit.
        """
        for name in NAMES:
            value = cast(object, getattr(self, name))
            if isinstance(value, float) and not math.isfinite(value):
                raise UserError(self._told(name), allowed="it is a finite number")
        at_least_one = ("keep_checkpoints", "silence_s", "host_wait_s", "rendezvous_s", "profile_interval_ms")
        for name in (*at_least_one, "max_steps", "sample", "stop_grace_s", "end_wait_s", "metrics_every_s"):
            least = 1 if name in at_least_one else 0
            if cast(float, getattr(self, name)) < least:
                raise UserError(self._told(name), allowed=f"it is at least {least}")
        for name in ("master_port", "peer_port"):
            if not 0 < cast(int, getattr(self, name)) < 65536:
                raise UserError(self._told(name), allowed="a TCP port is in 1..65535")

    def _told(self, name: str) -> str:
        return f"slipway_{name} is {getattr(self, name)!r} (from {self.origin(name)})"

    def prefixes_lines(self, world_size: int) -> bool:
        """Whether the launcher puts ``[host rank]`` before each line of a rank; then ranks need not name themselves."""
        return self.log_prefix == "on" or (self.log_prefix == "auto" and world_size > 1)

    def origin(self, name: str) -> str:
        """Say where a value came from, such as ``SLIPWAY_SILENCE_S`` or ``default``."""
        return self.origins.get(name, "default")


NAMES = tuple(item.name for item in fields(Settings) if item.name != "origins")


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
    values: dict[str, object] = {}
    for item in fields(Settings):
        if item.name in given:
            text, origin = given[item.name]
            values[item.name] = _convert(
                item.name, text, cast(type, type(item.default)), item.metadata["choices"], origin
            )
    return Settings(**cast(Any, values), origins={name: origin for name, (_, origin) in given.items()})


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
    path = Path(environ.get("SLIPWAY_IMAGE_FILE") or IMAGE_FILE)
    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path} (the image's defaults) cannot be read: {error}", fix="build the image anew") from error
    held: object = cast(dict[str, object], value).get("settings", {}) if isinstance(value, dict) else None
    if not isinstance(held, dict):
        raise UserError(
            f"{path} (the image's defaults) cannot be read: it holds no object 'settings'", fix="build the image anew"
        )
    return cast(Mapping[str, object], held)
