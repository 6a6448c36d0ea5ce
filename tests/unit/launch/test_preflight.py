"""What is checked before a process starts."""

import os
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.job import read_job
from runtime.launch.preflight import check, warn
from tests.conftest import Tree


def ready(tree: Tree, **config: object) -> None:
    tree.config("inputdataconfig", {"train": {"TrainingInputMode": "File", **config}})


def test_a_good_job_gets_its_directories(tree: Tree) -> None:
    ready(tree)
    tree.channel("train", x__txt="1")
    tree.config("checkpointconfig", {"LocalPath": "/opt/ml/checkpoints"})
    check(read_job(tree.paths, {}))
    for path in (
        Path(tree.paths.model),
        Path(tree.paths.output_data),
        Path(tree.paths.state),
        tree.base / "checkpoints",
    ):
        assert path.is_dir()


def test_what_lies_in_the_model_is_looked_at_before_the_ranks_write_there(tree: Tree) -> None:
    Path(tree.paths.model).mkdir(parents=True, exist_ok=True)
    Path(tree.paths.model, "of an earlier run").touch()
    assert check(read_job(tree.paths, {})) == ["of an earlier run"]


def test_a_missing_channel_is_named_with_its_path(tree: Tree) -> None:
    ready(tree)
    with pytest.raises(UserError) as caught:
        check(read_job(tree.paths, {}))
    assert (
        f"Channel 'train' is declared in inputdataconfig.json, but {Path(tree.paths.data) / 'train'} is not there"
        in str(caught.value)
    )
    assert "Fix: check the channel's S3 URI" in str(caught.value)


def test_an_empty_channel_is_an_error(tree: Tree) -> None:
    ready(tree)
    tree.channel("train")
    with pytest.raises(UserError, match="Channel 'train' is empty"):
        check(read_job(tree.paths, {}))


def test_an_empty_shard_is_a_warning(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    ready(tree, S3DistributionType="ShardedByS3Key")
    tree.channel("train")
    check(read_job(tree.paths, {}))
    assert "'train' is empty on this host: it has fewer files than the job has hosts" in capsys.readouterr().err


def test_a_channel_may_be_one_file_as_local_mode_of_sdk_v3_mounts_it(tree: Tree) -> None:
    tree.config("inputdataconfig", {"labels": {"TrainingInputMode": "File"}})
    Path(tree.paths.data).mkdir(parents=True)
    Path(tree.paths.data, "labels").write_text("a,b")
    check(read_job(tree.paths, {}))


def test_the_fifos_of_a_pipe_need_not_be_there_yet(tree: Tree) -> None:
    tree.config("inputdataconfig", {"train": {"TrainingInputMode": "Pipe"}})
    check(read_job(tree.paths, {}))


def test_a_job_without_checkpoints_is_warned(tree: Tree, capsys: pytest.CaptureFixture[str]) -> None:
    tree.hyperparameters()
    warn(read_job(tree.paths, {}), {}, [])
    assert "no CheckpointConfig: an interruption or a restart begins from scratch" in capsys.readouterr().err


def test_a_place_that_cannot_be_made_is_named(tree: Tree) -> None:
    tree.hyperparameters()
    Path(tree.paths.model).write_text("a file")
    with pytest.raises(UserError, match=r"model cannot be made: File exists.*mount it writable"):
        check(read_job(tree.paths, {}))


def test_a_full_checkpoint_disk_is_named(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.config("checkpointconfig", {"LocalPath": "/opt/ml/checkpoints"})
    nearly_full = os.statvfs_result((1, 1, 10, 3, 3, 0, 0, 0, 0, 255))
    monkeypatch.setattr(os, "statvfs", lambda _: nearly_full)
    with pytest.raises(UserError, match=r"No space left for a checkpoint: .*has 3 bytes free.*larger volume"):
        check(read_job(tree.paths, {}))
