"""`docker run IMAGE train` on one host: the contract, as the platform and SDKs use it."""

from pathlib import Path

import pytest

from tests.container.containers import Containers, make_tree
from tests.container.scripts import DDP, NEVER_ENDS, PLAIN, SAVES_WHEN_ASKED

pytestmark = pytest.mark.container

LOCKED_DOWN = ("--user", "1000:0", "--read-only", "--tmpfs", "/tmp", "--cap-drop", "ALL")


def test_a_script_runs_and_the_success_file_tells(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", PLAIN, hyperparameters={"lr": "0.5"})
    container = containers.run("train", tree=tree)
    assert container.exit_code() == 0, container.logs()
    assert tree.succeeded
    assert tree.failure == ""
    assert tree.model("lr").read_text() == "0.5"


def test_train_is_what_the_image_does_without_a_command(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", PLAIN, hyperparameters={"lr": "2"})
    container = containers.run(tree=tree)
    assert container.exit_code() == 0, container.logs()
    assert tree.model("lr").read_text() == "2.0"


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        (
            "import sys\nprint('the disk of truth is full', file=sys.stderr)\nsys.exit(7)",
            7,
            "the disk of truth is full",
        ),
        ("raise ValueError('labels start at 1')", 1, "ValueError: labels start at 1"),
        ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)", 139, "SIGSEGV"),
    ],
)
def test_a_failing_script_gives_its_exit_code_and_a_reason(
    containers: Containers, tmp_path: Path, script: str, code: int, reason: str
):
    tree = make_tree(tmp_path / "ml", script)
    container = containers.run("train", tree=tree)
    assert container.exit_code() == code, container.logs()
    assert reason in tree.failure
    assert not tree.succeeded


def test_a_job_that_names_no_program_says_so(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml")
    container = containers.run("train", tree=tree)
    assert container.exit_code() == 1
    assert "names no program" in tree.failure


def test_several_ranks_as_plain_user_on_a_read_only_root_without_network(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", DDP, hyperparameters={"steps": "4", "slipway_procs_per_host": "2"})
    container = containers.run("train", tree=tree, options=LOCKED_DOWN)
    assert container.exit_code() == 0, container.logs()
    assert tree.succeeded
    assert tree.model("weights-rank-0").read_text() == tree.model("weights-rank-1").read_text()


@pytest.mark.parametrize("ranks", ["1", "2"])
def test_docker_stop_reaches_the_ranks(containers: Containers, tmp_path: Path, ranks: str):
    tree = make_tree(tmp_path / "ml", SAVES_WHEN_ASKED, hyperparameters={"slipway_procs_per_host": ranks})
    container = containers.run("train", tree=tree)
    container.wait_for(tree.model("ready"))
    assert container.stop() < 60
    assert container.exit_code() == 0, container.logs()
    assert tree.model("saved").exists()
    assert tree.stopped is not None
    assert tree.stopped["reason"] == "SIGTERM"
    assert not tree.succeeded
    assert tree.failure == ""


def test_docker_stop_ends_a_script_without_a_handler_at_once(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", NEVER_ENDS)
    container = containers.run("train", tree=tree)
    container.wait_for(tree.model("ready"))
    assert container.stop() < 60
    assert container.exit_code() == 0, container.logs()
    assert tree.stopped is not None


def test_train_as_a_child_of_a_shell_stops_too(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", SAVES_WHEN_ASKED)
    container = containers.run("sh", "-c", "true && exec train", tree=tree)
    container.wait_for(tree.model("ready"))
    assert container.stop() < 60
    assert tree.model("saved").exists()


def test_any_other_command_runs_as_it_is(containers: Containers):
    container = containers.run("sh", "-c", "echo said by $0; exit 5", "us", options=LOCKED_DOWN)
    assert container.exit_code() == 5
    assert container.logs() == "said by us\n"
