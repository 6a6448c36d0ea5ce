"""What a run leaves at an engine: told from what a living one uses, cleaned up, handed back."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from runtime.local import leftovers
from runtime.local.containers import Found
from tests.unit.local.test_docker_engine import FakeDocker


class TestVerdict:
    HERE = "host boot-1 pid:[1]"

    def judge(self, **labels: str) -> str:
        whole = {leftovers.PLACE: self.HERE, leftovers.PID: "42", leftovers.STARTED: "100", **labels}
        return leftovers.verdict(whole, self.HERE, lambda pid: "100" if pid == 42 else "")

    def test_alive(self):
        assert self.judge() == "alive"

    def test_its_process_has_gone(self):
        assert self.judge(**{leftovers.PID: "43"}) == "dead"

    def test_its_process_id_was_given_to_another(self):
        assert self.judge(**{leftovers.STARTED: "99"}) == "dead"

    def test_the_machine_was_started_anew(self):
        assert self.judge(**{leftovers.PLACE: "host boot-0 pid:[1]"}) == "dead"

    @pytest.mark.parametrize("place", ["other boot-1 pid:[1]", "host boot-1 pid:[2]", ""])
    def test_nobody_here_can_tell(self, place: str):
        assert self.judge(**{leftovers.PLACE: place}) == "unknown"

    def test_this_very_process(self):
        labels = leftovers.labels_of("job", "run")
        assert leftovers.verdict(labels, leftovers.place_of_processes(), leftovers.process_started) == "alive"


@pytest.mark.skipif(shutil.which("ps") is None, reason="no ps on this machine: apt-get install procps")
def test_a_machine_without_proc(tmp_path: Path):
    here = leftovers.process_started(os.getpid(), tmp_path / "none")
    assert here
    assert here == leftovers.process_started(os.getpid(), tmp_path / "none")
    assert leftovers.place_of_processes(tmp_path / "none").endswith(" - -")
    child = subprocess.Popen(["true"])
    child.wait()
    assert leftovers.process_started(child.pid, tmp_path / "none") == ""


def test_clean_takes_the_dead_only():
    docker = FakeDocker()
    mine = leftovers.labels_of("mine", "1")
    dead = {**leftovers.labels_of("dead", "2"), leftovers.STARTED: "1"}
    other = {**leftovers.labels_of("other", "3"), leftovers.PLACE: "elsewhere boot pid:[1]"}
    docker.found = [Found("1", "c1", mine, True), Found("2", "c2", dead, True), Found("3", "c3", other, True)]
    done = leftovers.clean(docker)
    assert (done.containers, done.alive, done.unknown) == (["c2"], ["mine"], ["other"])
    assert [entry for entry in docker.done if entry[0] != "close"] == [("SIGTERM", "2"), ("remove", "2")]
    assert leftovers.clean(docker, everything=True).containers == ["c2", "c3"]


def test_what_belongs_to_somebody_else(tmp_path: Path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/b").touch()
    assert not leftovers.foreign([tmp_path], os.getuid())
    assert leftovers.foreign([tmp_path], os.getuid() + 1)
