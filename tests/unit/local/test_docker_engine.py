"""Engine docker without Docker: what each container is made of, and what becomes of it."""

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local import leftovers
from runtime.local.containers import (
    ContainerSpec,
    Docker,
    Found,
    ImageFacts,
    Mount,
)
from runtime.local.docker_engine import CODE, DockerEngine
from runtime.local.docker_options import DockerOptions
from runtime.local.host_container import HostContainer
from runtime.local.host_log import HostLog
from runtime.local.request import ChannelSpec, CheckpointSpec, GroupSpec, TrainingJobSpec

LogOf = Callable[[str], HostLog]


class FakeDocker(Docker):
    """An engine in memory: containers print and end as soon as they are started."""

    def __init__(self, environ: Mapping[str, str] | None = None, broken: bool = False) -> None:
        self.environ, self.broken = environ or {}, broken
        self.made: dict[str, ContainerSpec] = {}
        self.done: list[tuple[str, ...]] = []
        self.found: list[Found] = []

    def again(self) -> "FakeDocker":
        return self

    def close(self) -> None:
        self.done.append(("close",))

    def image(self, name: str) -> ImageFacts:
        return ImageFacts("sha256:1", self.environ)

    def image_of(self, container: str) -> str:
        return "sha256:1"

    def create_network(self, name: str, labels: Mapping[str, str], *, internal: bool) -> None:
        self.done.append(("network", "internal" if internal else "open"))

    def remove_network(self, name: str) -> None:
        self.done.append(("remove network",))

    def create(self, spec: ContainerSpec) -> str:
        self.made[spec.name] = spec
        return spec.name

    def start(self, container: str) -> None:
        self.done.append(("start", container))

    def attach(self, container: str) -> Iterator[bytes]:
        return iter([b"hel", b"lo\n"])

    def wait(self, container: str) -> int:
        if self.broken:
            raise PlatformError("the engine has gone")
        return 7

    def kill(self, container: str, signal: str) -> None:
        self.done.append((signal, container))

    def remove(self, container: str) -> None:
        self.done.append(("remove", container))

    def containers(self, label: str) -> list[Found]:
        name, _, value = label.partition("=")
        return [item for item in self.found if item.labels.get(name) == (value or item.labels.get(name))]

    def networks(self, label: str) -> list[Found]:
        return []

    def runtimes(self) -> tuple[str, ...]:
        return ("runc",)


@pytest.fixture
def spec(tmp_path: Path) -> TrainingJobSpec:
    for key in ("a.txt", "b.txt", "deep/c.txt"):
        path = tmp_path / "data" / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(key)
    data = tmp_path / "data"
    return TrainingJobSpec(
        "job",
        image="img",
        environment={"MINE": "a$b"},
        groups=(GroupSpec("homogeneousCluster", "local", 2),),
        checkpoint=CheckpointSpec(None, "/data/saved"),
        channels=(
            ChannelSpec("train", data),
            ChannelSpec("one", data / "a.txt"),
            ChannelSpec("part", data, distribution="ShardedByS3Key"),
            ChannelSpec("code", data),
        ),
    )


@pytest.fixture
def log_of(tmp_path: Path) -> Iterator[Callable[[str], HostLog]]:
    logs: list[HostLog] = []

    def make(name: str) -> HostLog:
        logs.append(HostLog(tmp_path / f"{name}.log"))
        return logs[-1]

    yield make
    for log in logs:
        log.close()


def opened(
    spec: TrainingJobSpec, tmp_path: Path, docker: FakeDocker, options: DockerOptions | None = None
) -> DockerEngine:
    engine = DockerEngine(options)
    engine._docker = docker
    engine.open(spec, tmp_path)
    engine.submit(tmp_path / "data/b.txt")
    engine.begin(spec)
    return engine


def test_what_a_container_is_made_of(spec: TrainingJobSpec, tmp_path: Path, log_of: LogOf):
    docker = FakeDocker()
    engine = opened(spec, tmp_path, docker, DockerOptions(1 << 20, 1 << 30))
    bases = {host: tmp_path / "work" / host for host in spec.hosts}
    hosts = []
    for host, base in bases.items():
        engine.lay_out(spec, host, base)
        hosts.append(engine.start(spec, host, base, log_of(host)))
    first, second = docker.made.values()
    data = tmp_path / "data"
    assert set(first.mounts) == {
        Mount(bases["algo-1"] / "input", "/opt/ml/input"),
        Mount(bases["algo-1"] / "model", "/opt/ml/model"),
        Mount(bases["algo-1"] / "output", "/opt/ml/output"),
        Mount(bases["algo-1"] / "checkpoints", "/data/saved"),
        Mount(data / "b.txt", CODE, read_only=True),
        Mount(data, "/opt/ml/input/data/train", read_only=True),
        Mount(data / "a.txt", "/opt/ml/input/data/one/a.txt", read_only=True),
        Mount(data, "/opt/ml/input/shards/part", read_only=True),
    }
    assert (first.entrypoint, first.command, first.hostname, first.aliases) == (None, ("train",), "algo-1", ("algo-1",))
    assert (second.hostname, second.network, second.isolated) == ("algo-2", first.network, False)
    assert (first.shm_bytes, first.memory_bytes, first.gpus) == (1 << 20, 1 << 30, ())
    assert first.environ["MINE"] == "a$b"
    assert first.environ["TRAINING_JOB_NAME"] == "job"
    assert "OMP_NUM_THREADS" in first.environ
    assert first.labels[leftovers.JOB] == "job"
    assert first.labels[leftovers.PID] == str(os.getpid())
    assert first.labels[leftovers.TREE] == str(bases["algo-1"])
    inputs = bases["algo-2"] / "input/data"
    assert (inputs / "part/b.txt").readlink() == Path("/opt/ml/input/shards/part/b.txt")
    assert sorted(path.name for path in (inputs / "code").iterdir()) == ["a.txt", "b.txt", "deep"]
    assert not (inputs / "code").is_symlink()  # SDK v3 writes into it: never into the user's own
    assert (inputs / "code/a.txt").stat().st_mode & 0o777 == 0o666
    assert (bases["algo-2"] / "output").stat().st_mode & 0o777 == 0o777
    engine.finish(hosts)
    assert [host.exit_code for host in hosts] == [7, 7]
    assert (tmp_path / "algo-1.log").read_text() == "hello\n"
    engine.close()
    assert ("remove network",) in docker.done
    assert {entry[1] for entry in docker.done if entry[0] == "remove"} == set(docker.made)


def test_what_the_image_or_the_request_says_stays(spec: TrainingJobSpec, tmp_path: Path, log_of: LogOf):
    docker = FakeDocker({"OMP_NUM_THREADS": "3"})
    spec = replace(
        spec,
        container_entrypoint=("/bin/bash", "-c"),
        container_arguments=("exec train",),
        network_isolation=True,
    )
    engine = opened(spec, tmp_path, docker)
    base = tmp_path / "work"
    engine.lay_out(spec, "algo-1", base)
    host = engine.start(spec, "algo-1", base, log_of("algo-1"))
    (made,) = docker.made.values()
    assert (made.entrypoint, made.command, made.isolated) == (("/bin/bash", "-c"), ("exec train",), True)
    assert "OMP_NUM_THREADS" not in made.environ
    assert made.shm_bytes is not None
    assert made.shm_bytes > 64 << 20
    assert ("network", "internal") in docker.done
    engine.finish([host])
    engine.close()


def test_an_engine_that_goes_away_is_told(spec: TrainingJobSpec, tmp_path: Path, log_of: LogOf):
    engine = opened(spec, tmp_path, FakeDocker(broken=True))
    engine.lay_out(spec, "algo-1", tmp_path / "work")
    host = engine.start(spec, "algo-1", tmp_path / "work", log_of("algo-1"))
    assert host.thread is not None
    host.thread.join()
    with pytest.raises(PlatformError, match="the engine has gone"):
        host.poll()
    engine.finish([host])
    engine.close()


def test_a_log_that_cannot_be_written_is_told_and_the_container_is_still_read(tmp_path: Path):
    read: list[bytes] = []

    class Chatty(FakeDocker):
        def attach(self, container: str) -> Iterator[bytes]:
            for piece in (b"a", b"b", b"c"):
                read.append(piece)
                yield piece

    host = HostContainer("algo-1", tmp_path, Chatty())
    with Path("/dev/full").open("wb") as full:
        host.follow(ContainerSpec("c", "image", {}, (), {}), full.fileno(), [])
        assert host.thread is not None
        host.thread.join(60)
    assert read == [b"a", b"b", b"c"]
    with pytest.raises(PlatformError, match=r"log of algo-1 cannot be written: No space left .* Fix: make room"):
        host.poll()


def test_sigterm_waits_for_the_handler_of_a_process_that_has_just_started(tmp_path: Path):
    code = """
import pathlib, signal, sys
while not pathlib.Path(sys.argv[1]).exists():
    pass
signal.signal(signal.SIGTERM, lambda *_: sys.exit(9))
signal.pause()
"""
    looked = 0

    class Engine(FakeDocker):
        def pid(self, container: str) -> int:
            nonlocal looked
            looked += 1
            (tmp_path / "go").touch()
            return process.pid

        def kill(self, container: str, signal: str) -> None:
            process.terminate()

    with subprocess.Popen([sys.executable, "-c", code, tmp_path / "go"]) as process:
        host = HostContainer("algo-1", tmp_path, Engine(), started=time.monotonic() + 60, container="c")
        host.up.set()
        host.terminate()
        assert process.wait(60) == 9
    assert looked == 1


def test_a_request_without_image(spec: TrainingJobSpec, tmp_path: Path):
    with pytest.raises(UserError, match="--image"):
        DockerEngine().open(replace(spec, image=""), tmp_path)
