"""The stand-in for docker-compose: files and command lines of both SDKs as they were recorded, and what it makes."""

import json
import os
import subprocess
import threading
import time
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.local import leftovers
from runtime.local.compose import file, job, look
from runtime.local.compose.command import main
from runtime.local.compose.drain import drain
from runtime.local.compose.executables import install
from runtime.local.compose.file import Composition
from runtime.local.compose.hosts import FILE, ComposeEngine, mend, put
from runtime.local.compose.job import run_flags
from runtime.local.containers import Found, Mount
from runtime.local.docker_options import DockerOptions
from runtime.local.host_log import HostLog
from runtime.local.record import JobRecord
from runtime.local.request import CheckpointSpec, TrainingJobSpec
from runtime.version import __version__
from tests.unit.local.test_docker_engine import FakeDocker

V2 = """\
networks:
  sagemaker-local:
    name: sagemaker-local
services:
  algo-1-x7jf7:
    command: train
    container_name: 0q7vw5dd0h-algo-1-x7jf7
    environment:
    - AWS_REGION=eu-west-1
    - TRAINING_JOB_NAME=sagemaker-own-image-2026-01-01-10-00-00-000
    - MONEY=a$$b${HOME}=c
    image: own:1
    networks:
      sagemaker-local:
        aliases:
        - algo-1-x7jf7
    stdin_open: true
    tty: true
    volumes:
    - ROOT/algo-1-x7jf7/output:/opt/ml/output
    - ROOT/algo-1-x7jf7/output/data:/opt/ml/output/data
    - ROOT/algo-1-x7jf7/input:/opt/ml/input
    - ROOT/model:/opt/ml/model
    - ROOT/data:/opt/ml/input/data/train
  algo-10-x7jf7:
    command: train
    environment: []
    image: own:1
    shm_size: 1gb
    volumes: []
version: '2.3'
"""
"""SDK v2.257.7, shortened."""
V3 = """\
networks:
  sagemaker-local:
    name: sagemaker-local
services:
  algo-1:
    entrypoint:
    - /bin/bash
    - -c
    - chmod +x /opt/ml/input/data/sm_drivers/sm_train.sh && /opt/ml/input/data/sm_drivers/sm_train.sh
    environment:
    - TRAINING_JOB_NAME=v3_job.1
    image: own:1
    deploy:
      resources:
        reservations:
          devices:
          - capabilities:
            - gpu
            count: all
    networks:
      sagemaker-local:
        aliases:
        - algo-1
    volumes:
    - ROOT/model:/opt/ml/model
    - ROOT/algo-1/output:/opt/ml/output
    - ROOT/algo-1/output/data:/opt/ml/output/data
    - ROOT/algo-1/input:/opt/ml/input
"""
"""sagemaker-train 1.27.0."""


def written(root: Path, text: str) -> Path:
    path = root / "docker-compose.yaml"
    path.write_text(text.replace("ROOT", str(root)))
    return path


def read_composition(path: Path, **here: str) -> Composition:
    return file.read_composition(path, here)


def test_a_file_of_v2(tmp_path: Path):
    read = read_composition(written(tmp_path, V2))
    first, second = read.services
    assert (read.job, first.name, second.name) == (
        "sagemaker-own-image-2026-01-01-10-00-00-000",
        "algo-1-x7jf7",
        "algo-10-x7jf7",
    )
    assert (first.entrypoint, first.command, first.image) == (None, ("train",), "own:1")
    assert first.environ["MONEY"] == "a$$b${HOME}=c"  # nothing is replaced, as on the service
    assert Mount(tmp_path / "data", "/opt/ml/input/data/train") in first.mounts
    assert (first.shm_bytes, second.shm_bytes, first.all_gpus) == (None, 1 << 30, False)


def test_a_file_of_v3(tmp_path: Path):
    read = read_composition(written(tmp_path, V3))
    (service,) = read.services
    assert read.job == "v3-job-1"
    assert service.entrypoint is not None
    assert service.entrypoint[:2] == ("/bin/bash", "-c")
    assert service.entrypoint[2].startswith("chmod +x")
    assert (service.command, service.aliases, service.all_gpus) == (None, ("algo-1",), True)


def test_a_file_by_hand(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """What people add, by `local.container_config` of SDK v2 and in files of their own; the dialect of compose 2."""
    path = written(
        tmp_path,
        """\
name: mine
services:
  algo-1:
    image: own:1
    command: [train, --now]
    environment: {LR: 0.1, HOME_OF: null, GONE: null, "ON": true}
    gpus: all
    mem_limit: 512m
    shm_size: 1073741824
    user: "1000:0"
    networks: [backend]
    ulimits: {memlock: -1}
    volumes:
    - {type: bind, source: ./data, target: /opt/ml/input/data/train, read_only: true}
    - ./saved:/opt/ml/checkpoints:rw
    - /srv/x:/opt/ml/input/data/other/:ro,z
""",
    )
    (service,) = read_composition(path, HOME_OF="here").services
    assert service.environ == {"LR": "0.1", "HOME_OF": "here", "ON": "true"}
    assert (service.command, service.user, service.all_gpus) == (("train", "--now"), "1000:0", True)
    assert (service.memory_bytes, service.shm_bytes) == (512 << 20, 1 << 30)
    assert service.mounts == (
        Mount(tmp_path / "data", "/opt/ml/input/data/train", read_only=True),
        Mount(tmp_path / "saved", "/opt/ml/checkpoints"),
        Mount(Path("/srv/x"), "/opt/ml/input/data/other", read_only=True),
    )
    assert "services.algo-1 has ulimits: not followed" in capsys.readouterr().err


def test_names_without_a_value(tmp_path: Path):
    text = "services: {algo-1: {image: own, environment: [A, B=, C=x=y, D]}}"
    (service,) = read_composition(written(tmp_path, text), A="of here").services
    assert service.environ == {"A": "of here", "B": "", "C": "x=y"}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("services: {a: {volumes: [data]}}", "volume 'data'"),
        ("services: {a: {volumes: [{type: volume, source: x, target: /y}]}}", "a bind mount has source"),
        ("services: {}", "names no service"),
        ("services: []", "services is []"),
        ("a: [", "cannot be read"),
        ("services: {a: {command: serve}}", "serves a model"),
        ("services: {a: {shm_size: big}}", "shm_size is 'big'"),
    ],
)
def test_files_that_are_no_job(tmp_path: Path, text: str, expected: str):
    with pytest.raises(UserError) as caught:
        read_composition(written(tmp_path, text))
    assert expected in str(caught.value)


def test_containers_of_a_file(tmp_path: Path):
    composition = read_composition(written(tmp_path, V2.replace("algo-10-x7jf7:", "algo-2-x7jf7:")))
    config = tmp_path / "algo-1-x7jf7/input/config"
    config.mkdir(parents=True)
    (config / "resourceconfig.json").write_text(json.dumps({"hosts": ["algo-1-x7jf7"]}))
    docker = FakeDocker()
    engine = ComposeEngine(composition, DockerOptions())
    engine._docker = docker
    names = tuple(service.name for service in composition.services)
    spec = TrainingJobSpec("job", image="own:1", names=names, checkpoint=CheckpointSpec(tmp_path / "saved"))
    engine.open(spec, tmp_path)
    engine.begin(spec)
    hosts = []
    for name in names:
        engine.lay_out(spec, name, tmp_path / "work" / name)
        log = HostLog(tmp_path / f"{name}.log")
        hosts.append(engine.start(spec, name, tmp_path / "work" / name, log))
        hosts[-1].thread.join()  # type: ignore[union-attr]
        log.close()
    first, second = docker.made.values()
    own = tmp_path / "work/algo-1-x7jf7"
    assert set(first.mounts) == {
        Mount(tmp_path / "algo-1-x7jf7/input", "/opt/ml/input"),
        Mount(tmp_path / "data", "/opt/ml/input/data/train"),
        Mount(own / "model", "/opt/ml/model"),  # the file has one for all hosts
        Mount(own / "output", "/opt/ml/output"),
        Mount(own / "checkpoints", "/opt/ml/checkpoints"),
    }
    assert first.labels[FILE] == str(tmp_path / "docker-compose.yaml")
    assert int(first.environ["OMP_NUM_THREADS"]) >= 1  # two hosts share the machine
    assert {**first.environ, "OMP_NUM_THREADS": ""} == {**composition.services[0].environ, "OMP_NUM_THREADS": ""}
    assert (first.tty, first.command, first.hostname) == (False, ("train",), "algo-1-x7jf7")
    assert second.shm_bytes == 1 << 30
    (own / "model/weights").write_text("1")
    (own / "output/failure").write_text("why")
    (tmp_path / "model").mkdir(exist_ok=True)
    (tmp_path / "model/weights").write_text("of an earlier job")
    engine.finish(hosts)
    engine.close()
    assert (tmp_path / "model/weights").read_text() == "1"
    assert (tmp_path / "algo-1-x7jf7/output/failure").read_text() == "why"


def test_what_an_sdk_left_out_is_added(tmp_path: Path):
    config = tmp_path / "config"
    config.mkdir()
    written_by_v3 = {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "ethwe"}
    (config / "resourceconfig.json").write_text(json.dumps(written_by_v3))
    mend(config, "eth0", TrainingJobSpec("job", checkpoint=CheckpointSpec(tmp_path)))
    assert json.loads((config / "resourceconfig.json").read_text()) == {
        "current_host": "algo-1",
        "hosts": ["algo-1"],
        "network_interface_name": "eth0",
        "current_instance_type": "local",
        "current_group_name": "homogeneousCluster",
        "instance_groups": [
            {"instance_group_name": "homogeneousCluster", "instance_type": "local", "hosts": ["algo-1"]}
        ],
    }
    assert json.loads((config / "checkpointconfig.json").read_text()) == {"LocalPath": "/opt/ml/checkpoints"}


def test_trees_are_put_over_each_other(tmp_path: Path):
    for name, text in (("a/deep/x", "new"), ("a/y", "y"), ("b/deep/x", "old"), ("b/z", "z")):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / "a/link").symlink_to("y")
    put(tmp_path / "a", tmp_path / "b")
    assert {
        str(path.relative_to(tmp_path / "b")): path.read_text()
        for path in (tmp_path / "b").rglob("*")
        if path.is_file()
    } == {"deep/x": "new", "y": "y", "z": "z", "link": "y"}
    assert (tmp_path / "b/link").is_symlink()


class TestFlags:
    def test_nothing(self):
        options, spec = run_flags({})
        assert (options.interruptions, options.output, spec.checkpoint, spec.max_run_s) == ((), None, None, None)

    def test_all(self, tmp_path: Path):
        words = f"--checkpoints '{tmp_path}/a b' --interrupt-after 3s --max-run=60 --network-isolation --shm-size 1g"
        options, spec = run_flags({"SLIPWAY_RUN_FLAGS": words})
        assert [item.after for item in options.interruptions] == ["3s"]
        assert options.docker.shm_bytes == 1 << 30
        assert (spec.max_run_s, spec.network_isolation) == (60.0, True)
        assert spec.checkpoint is not None
        assert spec.checkpoint.store == tmp_path / "a b"

    @pytest.mark.parametrize("word", ["--hp=a=b", "--hosts", "--engine=process"])
    def test_what_the_sdk_says(self, word: str):
        with pytest.raises(UserError, match="with an SDK it takes"):
            run_flags({"SLIPWAY_RUN_FLAGS": word})


class TestCommandLine:
    @pytest.fixture
    def record(self, monkeypatch: pytest.MonkeyPatch) -> JobRecord:
        record = JobRecord("job", status="Completed")
        self.specs: list[TrainingJobSpec] = []

        def run(spec: TrainingJobSpec, *_: object) -> JobRecord:
            self.specs.append(spec)
            return record

        monkeypatch.setattr(job, "run_job", run)
        return record

    @pytest.mark.parametrize(
        "words",
        [
            "-f FILE up --build --abort-on-container-exit",  # both SDKs, to docker-compose and to `docker compose`
            "-f FILE up --build --detach",  # SDK v3 with wait=False
            "--file=FILE --project-name local up --abort-on-container-exit --remove-orphans --timeout 3",
            "--ansi never --progress plain --project-directory / -f FILE up --exit-code-from algo-1-x7jf7 --no-color",
            "--no-ansi --verbose -f FILE up --force-recreate -t 3",
        ],
    )
    def test_command_lines(self, tmp_path: Path, record: JobRecord, words: str):
        path = str(written(tmp_path, V2))
        assert main([word.replace("FILE", path) for word in words.split()]) == 0
        (spec,) = self.specs
        assert spec.hosts == ("algo-1-x7jf7", "algo-10-x7jf7")
        assert (spec.image, spec.checkpoint) == ("own:1", None)

    def test_one_host_alone(self, tmp_path: Path, record: JobRecord, capfd: pytest.CaptureFixture[str]):
        assert main(["-f", str(written(tmp_path, V2)), "up", "--timeout", "3", "algo-10-x7jf7"]) == 1
        assert "up algo-10-x7jf7" in capfd.readouterr().out
        assert self.specs == []

    @pytest.mark.parametrize(("code", "told"), [(7, 7), (130, 1), (0, 1)])
    def test_exit_codes_of_failures(self, tmp_path: Path, record: JobRecord, code: int, told: int):
        record.status, record.exit_code = "Failed", code
        assert main(["-f", str(written(tmp_path, V3)), "up", "--build", "--abort-on-container-exit"]) == told

    def test_a_mistake_is_told_where_the_sdk_shows_it(self, tmp_path: Path, capfd: pytest.CaptureFixture[str]):
        assert main(["-f", str(tmp_path / "nothing.yaml"), "up"]) == 1
        assert "nothing.yaml cannot be read" in capfd.readouterr().out

    def test_versions(self, capsys: pytest.CaptureFixture[str]):
        told = []
        for words in ("version", "--version", "-v", "version --short", "version --format json", "-f x.yaml version"):
            assert main(words.split()) == 0
            told.append(capsys.readouterr().out)
        assert told[:3] == [f"slipway compose {__version__}\n"] * 3
        assert told[3] == f"{__version__}\n"
        assert json.loads(told[4]) == {"version": __version__}
        assert told[5] == told[0]

    @pytest.mark.parametrize("words", ["up", "ps", "--colour up", "-f x -f y up", "-f x exec algo-1 sh", "-f"])
    def test_other_words(self, words: str):
        with pytest.raises(UserError, match="slipway compose"):
            main(words.split())


class TestAnotherTerminal:
    """What `docker compose ps`, `logs` and `down` say of a job that runs."""

    @pytest.fixture
    def docker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeDocker:
        docker = FakeDocker()

        def made(name: str, root: Path) -> Found:
            labels = {leftovers.JOB: "job", FILE: str(root / "docker-compose.yaml"), leftovers.HOST: name}
            return Found(f"id-{name}-{root.name}", f"slipway-{name}", labels, running=True)

        # A job of the same name, of another compose file: SDK v3 names them all alike.
        docker.found = [made("algo-1-x7jf7", tmp_path), made("algo-1-x7jf7", tmp_path.with_name(f"{tmp_path.name}-b"))]
        monkeypatch.setattr(look, "Docker", lambda: docker)
        return docker

    def test_ps(self, tmp_path: Path, docker: FakeDocker, capsys: pytest.CaptureFixture[str]):
        path = str(written(tmp_path, V2))
        told = []
        for words in (["ps"], ["ps", "-q"], ["ps", "--services"], ["ps", "--all", "--format", "json"]):
            assert main(["-f", path, *words]) == 0
            told.append(capsys.readouterr().out)
        assert told[0].splitlines()[1].split() == ["algo-1-x7jf7", "slipway-algo-1-x7jf7", "running"]
        assert told[1] == f"id-algo-1-x7jf7-{tmp_path.name}\n"
        assert told[2] == "algo-1-x7jf7\n"
        assert json.loads(told[3]) == {"Service": "algo-1-x7jf7", "Name": "slipway-algo-1-x7jf7", "State": "running"}

    @pytest.mark.parametrize("words", ["down", "down --remove-orphans --volumes", "rm --stop --force", "stop", "kill"])
    def test_down(self, tmp_path: Path, docker: FakeDocker, words: str):
        assert main(["-f", str(written(tmp_path, V2)), *words.split()]) == 0
        assert ("SIGTERM", f"id-algo-1-x7jf7-{tmp_path.name}") in docker.done
        assert not any("-b" in word for told in docker.done for word in told[1:])

    def test_logs(self, tmp_path: Path, docker: FakeDocker, capsys: pytest.CaptureFixture[str]):
        logs = tmp_path / "slipway/sagemaker-own-image-2026-01-01-10-00-00-000/logs"
        logs.mkdir(parents=True)
        (logs / "algo-1-x7jf7.log").write_text("first\nsecond\n")
        (logs / "algo-10-x7jf7.log").write_text("other\n")
        path = str(written(tmp_path, V2))
        assert main(["-f", path, "logs", "--no-color"]) == 0
        assert capsys.readouterr().out == ("algo-1-x7jf7  | first\nalgo-1-x7jf7  | second\nalgo-10-x7jf7 | other\n")
        assert main(["-f", path, "logs", "algo-10-x7jf7"]) == 0
        assert capsys.readouterr().out == "algo-10-x7jf7 | other\n"


def test_the_last_lines_reach_a_reader_that_stops_with_us():
    """As the SDKs read: a line, then a look whether the writer has ended, and nothing more if so."""
    reading, writing = os.pipe()
    ended = threading.Event()
    seen: list[str] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as pipe:
            while True:
                line = pipe.readline().decode()
                time.sleep(0.002)  # a slow terminal
                seen.append(line)
                if ended.is_set():
                    return

    thread = threading.Thread(target=read)
    thread.start()
    for number in range(100):
        os.write(writing, f"line {number}\n".encode())
    drain(writing, "last\n")
    assert "line 99\n" in seen
    ended.set()
    os.close(writing)
    thread.join()
    assert "last\n" in seen


def test_the_directory_for_path(tmp_path: Path):
    directory = install(tmp_path)
    assert install(tmp_path) == directory
    other = tmp_path / "bin"
    other.mkdir()
    (other / "docker").write_text('#!/bin/sh\necho real "$@"\n')
    (other / "docker").chmod(0o755)
    environ = {"PATH": f"{directory}:{other}:/usr/bin:/bin"}

    def call(*words: str, path: str = "") -> subprocess.CompletedProcess[str]:
        env = {"PATH": path} if path else environ
        return subprocess.run(
            [str(directory / words[0]), *words[1:]], capture_output=True, text=True, check=False, env=env
        )

    assert call("docker", "compose", "version").returncode == 1
    assert call("docker", "images", "-q", "a b").stdout == "real images -q a b\n"
    assert call("docker", "images", path=f"{directory}:/usr/bin-of-nobody:/bin-of-nobody").returncode == 127
    done = call("docker-compose", "version")
    assert done.stdout.startswith("slipway compose "), done.stderr
