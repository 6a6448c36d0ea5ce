"""Containers of a Docker engine, through the docker SDK for Python: made, attached, ended, found by their labels.

Everything that the rest of the package knows of the SDK stands here. It is imported on first use: engine process and
``slipway --help`` work without it.
"""

import contextlib
import importlib
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import PlatformError, UserError, one_line

CALL_S = 120.0
"""For one answer of the engine: a bound for one that hangs, not a measure."""
NOT_FOUND, CONFLICT = 404, 409
"""Answers of the engine, as of HTTP."""


@dataclass(frozen=True)
class Mount:
    """A file or directory of this machine inside a container."""

    source: Path
    """It must exist: an engine would make a directory of root's in its place."""
    target: str
    read_only: bool = False


@dataclass(frozen=True)
class ContainerSpec:
    """One container to be made."""

    name: str
    image: str
    environ: Mapping[str, str] = field(default_factory=dict[str, str])
    """What the job adds to the image's own."""
    mounts: tuple[Mount, ...] = ()
    labels: Mapping[str, str] = field(default_factory=dict[str, str])
    entrypoint: tuple[str, ...] | None = None
    """None: the image's own."""
    command: tuple[str, ...] | None = None
    """None: the image's own, where the entrypoint is its own too."""
    hostname: str = ""
    network: str = "none"
    aliases: tuple[str, ...] = ()
    """Names under which other containers of the network find it."""
    isolated: bool = False
    """The engine's name service answers for containers of the network only."""
    user: str = ""
    """``uid[:gid]``; empty: the image's own."""
    tty: bool = False
    shm_bytes: int | None = None
    """Size of /dev/shm; None: the engine's default, mostly 64 MiB."""
    memory_bytes: int | None = None
    """Swap included; None: no limit."""
    gpus: tuple[str, ...] = ()
    """Indices of the GPUs that it sees."""


@dataclass(frozen=True)
class ImageFacts:
    """What we need to know of an image."""

    id: str
    environ: Mapping[str, str]


@dataclass(frozen=True)
class Found:
    """A container or network that carries our labels."""

    id: str
    name: str
    labels: Mapping[str, str]
    running: bool = False


Piece = tuple[bytes | None, bytes | None]
"""What came of the output and of the error stream; None for the one of which nothing came."""
LONGEST_LINE = 1 << 20
"""Bytes of a line that are held back until its end comes."""


def whole_lines(pieces: Iterable[Piece]) -> Iterator[bytes]:
    """Join both streams of a container without breaking a line: the engine sends long ones in several pieces.

    Args:
        pieces: as they come.

    Yields:
        One or more whole lines of one stream; what has no end comes last.
    """
    rests = [bytearray(), bytearray()]
    for both in pieces:
        for rest, piece in zip(rests, both, strict=True):
            if not piece:
                continue
            # A progress bar ends its lines by a carriage return.
            end = max(piece.rfind(b"\n"), piece.rfind(b"\r")) + 1
            if not end and len(rest) + len(piece) < LONGEST_LINE:
                rest += piece
                continue
            yield bytes(rest) + piece[: end or len(piece)]
            rest[:] = piece[end or len(piece) :]
    for rest in rests:
        if rest:
            yield bytes(rest)


def mounts_in_order(mounts: Sequence[Mount]) -> list[Mount]:
    """Sort mounts so that the outer one of two comes first."""
    return sorted(mounts, key=lambda mount: mount.target.count("/"))


class Docker:
    """A connection to a Docker engine. Not for two threads at one time: `again` makes another."""

    def __init__(self, version: str = "auto") -> None:
        """Connect to the engine that the docker command would use by DOCKER_HOST.

        Args:
            version: of its API; ``auto`` asks it.

        Raises:
            UserError: the SDK is not installed, or no engine answers.
        """
        try:
            self._sdk: Any = importlib.import_module("docker")
        except ImportError as error:
            raise UserError(
                f"Docker cannot be used: {error}", fix="install the extra: pip install 'slipway[local]'"
            ) from error
        self._errors: Any = self._sdk.errors
        try:
            keywords = self._sdk.utils.kwargs_from_env()
            self._api: Any = self._sdk.APIClient(version=version, timeout=CALL_S, **keywords)
        except (self._errors.DockerException, OSError) as error:
            raise UserError(
                one_line(f"No Docker engine answers: {error}"),
                fix="start Docker, see that you may use it (group docker), or use --engine process",
            ) from error

    def again(self) -> "Docker":
        """Open another connection to the same engine, for another thread."""
        return Docker(cast(str, self._api.api_version))

    def close(self) -> None:
        """Close the connection."""
        self._api.close()

    @contextlib.contextmanager
    def _request(self, what: str, *, fix: str = "", well: Sequence[int] = ()) -> Generator[None]:
        """Say what could not be done when a request fails; an answer with a status of `well` is no failure."""
        try:
            yield
        except (self._errors.DockerException, OSError) as error:
            if getattr(error, "status_code", None) in well:
                return
            told = str(getattr(error, "explanation", None) or error)
            raise PlatformError(one_line(f"The Docker engine could not {what}: {told}"), fix=fix) from error

    def image(self, name: str) -> ImageFacts:
        """Look at an image of this machine.

        Raises:
            UserError: it is not there.
        """
        with self._request(f"look at image {name!r}"):
            try:
                facts: Any = self._api.inspect_image(name)
            except self._errors.NotFound as error:
                raise UserError(
                    f"Image {name!r} is not on this machine",
                    fix=f"docker pull {name}, or build it (ours: make image/pytorch FLAVOUR=cpu)",
                ) from error
        config: Any = facts.get("Config") or {}
        lines = cast("list[str]", config.get("Env") or [])
        return ImageFacts(str(facts["Id"]), dict(line.split("=", 1) for line in lines if "=" in line))

    def image_of(self, container: str) -> str:
        """Return the id of the image that a container was made of."""
        with self._request("look at the container"):
            return str(self._api.inspect_container(container)["Image"])

    def create_network(self, name: str, labels: Mapping[str, str], *, internal: bool) -> None:
        """Make a private network; an internal one has no way out, not even to this machine."""
        options = {"com.docker.network.bridge.inhibit_ipv4": "true"} if internal else {}
        with self._request(f"make network {name}", fix="`slipway clean` removes what dead jobs left"):
            self._api.create_network(name, driver="bridge", options=options, internal=internal, labels=dict(labels))

    def gateway(self, network: str) -> tuple[str, str]:
        """Return this machine's address on a network, and the addresses of the network, such as ``172.18.0.0/16``."""
        with self._request(f"look at network {network}"):
            facts: Any = self._api.inspect_network(network)
        ipam = cast("dict[str, list[dict[str, str]] | None]", facts.get("IPAM") or {})
        for config in ipam.get("Config") or []:
            if config.get("Gateway"):
                return config["Gateway"].partition("/")[0], config["Subnet"]
        raise PlatformError(f"The Docker engine names no gateway for network {network}")

    def remove_network(self, name: str) -> None:
        """Remove a network; no error when it is gone."""
        with self._request(f"remove network {name}", well=(NOT_FOUND,)):
            self._api.remove_network(name)

    def create(self, spec: ContainerSpec) -> str:
        """Make a container and return its id."""
        types = self._sdk.types
        mounts = [
            types.Mount(mount.target, str(mount.source), type="bind", read_only=mount.read_only)
            for mount in mounts_in_order(spec.mounts)
        ]
        limits: dict[str, Any] = {}
        if spec.shm_bytes is not None:
            limits["shm_size"] = spec.shm_bytes
        if spec.memory_bytes is not None:
            limits |= {"mem_limit": spec.memory_bytes, "memswap_limit": spec.memory_bytes}
        if spec.gpus:
            limits["device_requests"] = [types.DeviceRequest(device_ids=list(spec.gpus), capabilities=[["gpu"]])]
        if spec.isolated:
            limits["dns"] = ["127.0.0.1"]  # nobody listens there: questions about other names end in the container
        named = {"aliases": list(spec.aliases)} if spec.aliases else {}
        networking = None
        if spec.network not in ("none", "host"):
            networking = self._api.create_networking_config({spec.network: self._api.create_endpoint_config(**named)})
        with self._request(f"make container {spec.name}"):
            made = self._api.create_container(
                spec.image,
                command=None if spec.command is None else list(spec.command),
                entrypoint=None if spec.entrypoint is None else list(spec.entrypoint),
                name=spec.name,
                hostname=spec.hostname or None,
                user=spec.user or None,
                environment=[f"{name}={value}" for name, value in spec.environ.items()],
                labels=dict(spec.labels),
                tty=spec.tty,
                host_config=self._api.create_host_config(mounts=mounts, network_mode=spec.network, **limits),
                networking_config=networking,
                use_config_proxy=False,
            )
        return str(made["Id"])

    def start(self, container: str) -> None:
        """Start a container."""
        with self._request("start the container"):
            self._api.start(container)

    def attach(self, container: str) -> Iterator[bytes]:
        """Attach to a container, and return the lines that it prints from now on, until its end."""
        with self._request("attach to the container"):
            pieces: Iterator[Piece] = self._api.attach(container, stream=True, demux=True)
        return self._lines(pieces)

    def _lines(self, pieces: Iterator[Piece]) -> Iterator[bytes]:
        with self._request("read what the container prints"):
            yield from whole_lines(pieces)

    def wait(self, container: str) -> int:
        """Wait for the end of a container, however long, and return its exit code."""
        with self._request("wait for the container"):
            return int(self._api.wait(container)["StatusCode"])

    def out_of_memory(self, container: str) -> bool:
        """Tell whether the kernel killed anything in it for its memory limit."""
        with self._request("look at the container"):
            return bool(self._api.inspect_container(container)["State"]["OOMKilled"])

    def kill(self, container: str, signal: str) -> None:
        """Send a signal to a container's first process; no error when it does not run."""
        with self._request(f"send {signal}", well=(NOT_FOUND, CONFLICT)):  # gone, or not running
            self._api.kill(container, signal)

    def pause(self, container: str, *, on: bool) -> None:
        """Stop all processes of a container where they are, or let them go on."""
        with self._request("freeze the container" if on else "let the container go on"):
            self._api.pause(container) if on else self._api.unpause(container)

    def pid(self, container: str) -> int:
        """Return the process id of a container's first process, as the engine's machine counts."""
        with self._request("look at the container"):
            return int(self._api.inspect_container(container)["State"]["Pid"])

    def execute(self, container: str, words: Sequence[str]) -> tuple[int, str]:
        """Run a command in a container, and return its exit code and what it printed."""
        with self._request(f"run {words[0]} in the container"):
            made: Any = self._api.exec_create(container, list(words), user="0")
            text: Any = self._api.exec_start(made["Id"])
            return int(self._api.exec_inspect(made["Id"])["ExitCode"]), cast(bytes, text).decode(errors="replace")

    def unplug(self, network: str, container: str) -> None:
        """Take a container's interface in a network away."""
        with self._request("disconnect the container"):
            self._api.disconnect_container_from_network(container, network, force=True)

    def plug(self, network: str, container: str, aliases: Sequence[str]) -> None:
        """Give a container an interface in a network."""
        with self._request("connect the container"):
            self._api.connect_container_to_network(container, network, aliases=list(aliases))

    def remove(self, container: str) -> None:
        """Remove a container, also one that runs; no error when it is gone."""
        with self._request("remove the container", well=(NOT_FOUND, CONFLICT)):  # gone, or somebody else removes it
            self._api.remove_container(container, force=True, v=True)

    def containers(self, label: str) -> list[Found]:
        """Find containers, running or not, by a label: ``NAME`` or ``NAME=VALUE``."""
        with self._request("list containers"):
            listed: Any = self._api.containers(all=True, filters={"label": label})
        return [
            Found(item["Id"], item["Names"][0].lstrip("/"), item["Labels"] or {}, item["State"] == "running")
            for item in listed
        ]

    def networks(self, label: str) -> list[Found]:
        """Find networks by a label: ``NAME`` or ``NAME=VALUE``."""
        with self._request("list networks"):
            listed: Any = self._api.networks(filters={"label": label})
        return [Found(item["Id"], item["Name"], item["Labels"] or {}) for item in listed]

    def runtimes(self) -> tuple[str, ...]:
        """Names of the engine's runtimes; ``nvidia`` among them where it can give GPUs away."""
        with self._request("ask the engine about itself"):
            return tuple(self._api.info().get("Runtimes") or ())
