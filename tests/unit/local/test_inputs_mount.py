"""The mount of FastFile channels: what it refuses, and that it goes away whatever is killed."""

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local.inputs import mounts
from runtime.local.inputs.mounts import check_fuse, clean_mounts, our_mounts
from runtime.local.inputs.service import Inputs
from runtime.local.request import ChannelSpec, GroupSpec, TrainingJobSpec
from tests.conftest import wait_for
from tests.inputs import needs_fuse

HOLDER = """
import sys
from pathlib import Path
from runtime.local.inputs.service import Inputs
from runtime.local.request import ChannelSpec, TrainingJobSpec

spec = TrainingJobSpec("job", channels=(ChannelSpec("train", Path(sys.argv[1]), input_mode="FastFile"),))
inputs = Inputs()
inputs.mount(spec, Path(sys.argv[2]), other_users=False)
inputs.keep_for(Path(sys.argv[2]) / "tree")
print(inputs._mount._process.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def data(place: Path) -> Path:
    (place / "data").mkdir()
    for number in range(5):
        (place / "data" / str(number)).write_text(f"content {number}")
    return place / "data"


def job(data: Path, *, hosts: int = 1, **changes) -> TrainingJobSpec:
    channel = ChannelSpec("train", data, input_mode="FastFile", **changes)
    return TrainingJobSpec("job", channels=(channel,), groups=(GroupSpec("g", "local", hosts),))


def mounted(place: Path) -> list[str]:
    return [mount.path for mount in our_mounts() if mount.path.startswith(str(place))]


@pytest.fixture
def holder(place: Path, data: Path):
    """A process that holds a mount, as `slipway run` does."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(data), str(place)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    server = int(process.stdout.readline())
    yield process, server
    for pid in (process.pid, server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    process.communicate()
    for path in mounted(place):
        mounts.detach(path)


@needs_fuse
def test_each_host_sees_its_shard(place, data):
    inputs = Inputs()
    spec = job(data, hosts=2, distribution="ShardedByS3Key")
    inputs.mount(spec, place, other_users=False)
    try:
        seen = [sorted(os.listdir(inputs.path_of(host, spec.channels[0]))) for host in spec.hosts]
    finally:
        inputs.close()
    assert seen == [["0", "2", "4"], ["1", "3"]]
    assert not mounted(place)
    assert not (place / ".mount").exists()


@needs_fuse
def test_many_readers_at_one_time(place, data):
    content = os.urandom(3_000_001)
    (data / "big").write_bytes(content)
    inputs = Inputs()
    spec = job(data, latency_s=0.002)
    inputs.mount(spec, place, other_users=False)
    wrong: list[object] = []

    def read(index: int) -> None:
        with (inputs.path_of("algo-1", spec.channels[0]) / "big").open("rb") as file:
            file.seek(index * 1000)
            if file.read() != content[index * 1000 :]:
                wrong.append(index)

    threads = [threading.Thread(target=read, args=(index,)) for index in range(16)]
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        inputs.close()
    assert not wrong
    assert inputs.delivered[0].mount["errors"] == 0


@needs_fuse
def test_a_file_that_changes_is_an_error_and_no_other_content(place, data, caplog):
    inputs = Inputs()
    spec = job(data)
    inputs.mount(spec, place, other_users=False)
    try:
        (data / "1").write_text("")
        (data / "new").write_text("new")
        root = inputs.path_of("algo-1", spec.channels[0])
        assert sorted(os.listdir(root)) == ["0", "1", "2", "3", "4"]  # as at the start
        with pytest.raises(OSError, match="Input/output error"):
            (root / "1").read_bytes()
    finally:
        inputs.close()
    assert inputs.delivered[0].mount["errors"] >= 1


@needs_fuse
def test_a_mount_whose_run_is_killed_goes_away_and_serves_open_files_on(place, data, holder):
    process, server = holder
    with (place / ".mount/algo-1/train/3").open("rb", buffering=0) as file:
        process.kill()
        process.wait()
        wait_for(lambda: not mounted(place), "the mount is gone")
        assert file.read() == b"content 3"
    wait_for(lambda: not Path(f"/proc/{server}").exists() or state(server) == "Z", "its process ends")


@needs_fuse
def test_hosts_that_are_processes_read_on_when_their_run_is_killed(place, data, holder):
    process, server = holder
    program = (
        "import sys; print(open(sys.argv[1]).read(), flush=True); sys.stdin.read(); print(open(sys.argv[2]).read())"
    )
    root = place / ".mount/algo-1/train"
    host = subprocess.Popen(
        [sys.executable, "-c", program, str(root / "1"), str(root / "2")],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "SAGEMAKER_BASE_DIR": str(place / "tree")},
    )
    assert host.stdout is not None
    assert host.stdout.readline() == "content 1\n"
    process.kill()
    process.wait()
    out, _ = host.communicate("go on")
    assert out == "content 2\n"  # opened after its run was dead
    wait_for(lambda: not mounted(place), "the mount is gone")
    wait_for(lambda: state(server) == "Z", "its process ends")


def state(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    return "Z"


@needs_fuse
def test_what_is_left_when_both_are_killed_is_found_and_living_ones_are_not_touched(place, data, holder):
    process, server = holder
    assert clean_mounts() == ([], mounted(place))
    os.kill(server, signal.SIGKILL)
    wait_for(lambda: state(server) == "Z", "the death of the server")
    assert clean_mounts() == ([], mounted(place))  # its run lives, and sees to it itself
    process.kill()
    process.wait()
    assert mounted(place) == [str(place / ".mount")]
    assert clean_mounts() == ([str(place / ".mount")], [])
    assert not (place / ".mount").exists()


@needs_fuse
def test_the_next_run_in_a_directory_takes_a_dead_mount_away(place, data, holder):
    process, server = holder
    os.kill(server, signal.SIGKILL)
    process.kill()
    process.wait()
    wait_for(lambda: state(server) == "Z", "the death of the server")
    inputs = Inputs()
    spec = job(data)
    inputs.mount(spec, place, other_users=False)
    assert (inputs.path_of("algo-1", spec.channels[0]) / "0").read_text() == "content 0"
    inputs.close()
    assert not mounted(place)


@needs_fuse
def test_a_server_that_dies_is_told(place, data):
    inputs = Inputs()
    inputs.mount(job(data), place, other_users=False)
    inputs.check()
    assert inputs._mount is not None
    inputs._mount._process.kill()
    inputs._mount._process.wait()
    with pytest.raises(PlatformError, match="FastFile mount ended"):
        inputs.check()
    inputs.close()
    assert not mounted(place)


@needs_fuse
def test_an_empty_channel_is_refused_and_leaves_nothing(place):
    (place / "data").mkdir()
    with pytest.raises(UserError, match="holds no object"):
        Inputs().mount(job(place / "data"), place, other_users=False)
    assert not (place / ".mount").exists()


@pytest.mark.parametrize(
    ("missing", "told", "fix"),
    [
        ("mfusepy", "needs the package mfusepy", r"slipway\[local\]"),
        ("/dev/fuse", "/dev/fuse is not there", "--device /dev/fuse"),
        ("libfuse", "needs libfuse", "apt-get install fuse3"),
        ("access", "may not open /dev/fuse", "chmod 666"),
        ("fusermount3", "needs fusermount3", "apt-get install fuse3"),
        ("user_allow_other", "Docker engine cannot see", "user_allow_other"),
    ],
)
def test_a_machine_without_fuse_is_told_what_to_do(monkeypatch, tmp_path, missing, told, fix):
    names = {"mfusepy": object(), "/dev/fuse": True, "libfuse": "libfuse3.so.3", "fusermount3": "/bin/fusermount3"}
    have = {name: value for name, value in names.items() if name != missing}
    monkeypatch.setattr(mounts.importlib.util, "find_spec", lambda name: have.get(name))
    monkeypatch.setattr(mounts.os.path, "exists", lambda path: path in have)
    monkeypatch.setattr(mounts.ctypes.util, "find_library", lambda _: have.get("libfuse"))
    monkeypatch.setattr(mounts.shutil, "which", lambda name: have.get(name))
    monkeypatch.setattr(mounts.os, "geteuid", lambda: 1000)
    monkeypatch.setattr(mounts.os, "access", lambda *_: missing != "access")
    (tmp_path / "fuse.conf").write_text("# user_allow_other\n")
    monkeypatch.setattr(mounts, "FUSE_CONF", tmp_path / "fuse.conf")
    with pytest.raises(UserError, match=told) as caught:
        check_fuse(other_users=True)
    assert caught.match(fix)
    if missing == "user_allow_other":
        check_fuse(other_users=False)
        (tmp_path / "fuse.conf").write_text("user_allow_other\n")
        check_fuse(other_users=True)


@pytest.mark.parametrize("mode", ["FastFile", "Pipe"])
def test_an_engine_elsewhere_is_refused(monkeypatch, data, mode):
    from runtime.local.docker_engine import _refuse_remote_engine

    spec = TrainingJobSpec("job", channels=(ChannelSpec("train", data, input_mode=mode),))
    monkeypatch.setenv("DOCKER_HOST", "unix:///run/user/1000/docker.sock")
    _refuse_remote_engine(spec)
    monkeypatch.setenv("DOCKER_HOST", "tcp://10.0.0.1:2376")
    with pytest.raises(UserError, match=r"tcp://10.0.0.1:2376.*File mode"):
        _refuse_remote_engine(spec)
    _refuse_remote_engine(TrainingJobSpec("job", channels=(ChannelSpec("train", data),)))
