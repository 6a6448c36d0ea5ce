"""The command `train`: from the contract's files to an exit code and the files that the platform reads."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.launch.launcher import prepare
from tests.conftest import Cluster, Tree

Make = Callable[..., Cluster]


def test_planning_changes_nothing(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    tree.hyperparameters(sagemaker_program="train.py", slipway_procs_per_host="2")
    before = sorted(tree.base.rglob("*"))
    job, settings, plan = prepare(tree.paths, {"SLIPWAY_IMAGE_FILE": "/nonexistent"})
    assert (job.current_host, settings.procs_per_host, len(plan.ranks)) == ("algo-3", "2", 2)
    assert sorted(tree.base.rglob("*")) == before


def test_planning_a_wrong_job_raises(tree: Tree) -> None:
    tree.hyperparameters(slipway_sampel="3")
    with pytest.raises(UserError, match="slipway_sampel"):
        prepare(tree.paths, {"SLIPWAY_IMAGE_FILE": "/nonexistent"})


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("hyperparameters", "{", "hyperparameters.json is not JSON"),
        ("hyperparameters", '{"slipway_sampel": "3"}', "Did you mean 'slipway_sample'?"),
        ("hyperparameters", "{}", "The job names no program"),
        ("inputdataconfig", '{"train": {}}', "Channel 'train' is declared in inputdataconfig.json"),
        ("resourceconfig", '{"hosts": []}', "'hosts' is []"),
    ],
)
def test_a_users_mistake_exits_1_with_the_reason_and_without_a_traceback(
    cluster: Make, file: str, content: str, words: str
) -> None:
    job = cluster("mark('started')")
    job[1].tree.config(file, content)
    job.start()
    assert job[1].wait() == 1
    assert words in job[1].failure
    assert "Traceback" not in job[1].text
    assert not job[1].marks("started")
    assert not Path(job[1].tree.paths.success).exists()


def test_the_failure_of_an_earlier_run_is_not_the_reason_of_this_one(cluster: Make) -> None:
    job = cluster("pass")
    output = Path(job[1].tree.paths.output)
    output.mkdir(parents=True)
    for name in ("failure", "success", "stopped"):
        (output / name).write_text("of an earlier run")
    job[1].tree.config("resourceconfig", "{")
    job.start()
    assert job[1].wait() == 1
    assert "resourceconfig.json is not JSON" in job[1].failure
    assert not (output / "success").exists()
    assert not (output / "stopped").exists()


def test_a_failure_file_of_the_script_is_the_reason(cluster: Make) -> None:
    job = cluster("pathlib.Path(os.environ['SM_OUTPUT_FAILURE']).write_text('my own words')\nsys.exit(4)")
    job.start()
    assert (job[1].wait(), job[1].failure) == (4, "my own words")


def test_hyperparameters_arrive_as_arguments_and_settings_do_not(cluster: Make) -> None:
    job = cluster("mark('argv', sys.argv[1:])")
    held = json.loads((Path(job[1].tree.paths.config) / "hyperparameters.json").read_text())
    job[1].tree.hyperparameters(**held, lr="0.1", commit="1234e5", **{"batch-size": "8"})
    job.start()
    assert job[1].wait() == 0
    assert job[1].marks("argv")[0].read_text() == "['--batch-size', '8', '--commit', '1234e5', '--lr', '0.1']"


def test_a_host_whose_program_is_missing_tells_the_others(cluster: Make) -> None:
    job = cluster("mark('started')", hosts=2, host_wait_s=60)
    (Path(job[2].tree.paths.code) / "train.py").unlink()
    job.start()
    assert (job[1].wait(), job[2].wait()) == (1, 1)
    assert job[1].failure == job[2].failure
    assert job[1].failure.startswith("algo-2: Program ")
    assert "is not there" in job[1].failure


def test_every_choice_is_in_the_log_with_its_reason(cluster: Make) -> None:
    job = cluster("pass", procs=2)
    job.start(OMP_NUM_THREADS="3")
    assert job[1].wait() == 0
    assert "procs_per_host=2 because hyperparameter slipway_procs_per_host" in job[1].text
    assert "OMP_NUM_THREADS=3 because set by the user" in job[1].text
    assert "completed in" in job[1].text


def test_our_log_lines_may_be_json(cluster: Make) -> None:
    job = cluster("print('plain')", log_json="on")
    job.start()
    assert job[1].wait() == 0
    ours = [json.loads(line) for line in job[1].text.splitlines() if line != "plain"]
    assert {"launch"} <= {line["component"] for line in ours}
