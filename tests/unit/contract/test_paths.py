"""The contract's tree under any root."""

from pathlib import Path

from runtime.contract.paths import Paths


def test_the_default_is_the_services_tree() -> None:
    paths = Paths.from_environ({})
    assert paths.config == "/opt/ml/input/config"
    assert paths.data == "/opt/ml/input/data"
    assert paths.code == "/opt/ml/code"
    assert paths.model == "/opt/ml/model"
    assert paths.output_data == "/opt/ml/output/data"
    assert paths.failure == "/opt/ml/output/failure"
    assert paths.success == "/opt/ml/output/success"
    assert paths.stopped == "/opt/ml/output/stopped"
    assert paths.checkpoints == "/opt/ml/checkpoints"


def test_an_empty_variable_is_as_good_as_none() -> None:
    assert Paths.from_environ({"SAGEMAKER_BASE_DIR": ""}).base == "/opt/ml"


def test_everything_moves_with_the_root_and_nothing_is_made(tmp_path: Path) -> None:
    paths = Paths.from_environ({"SAGEMAKER_BASE_DIR": str(tmp_path / "x")})
    moved = [
        paths.config,
        paths.data,
        paths.code,
        paths.model,
        paths.output,
        paths.output_data,
        paths.failure,
    ]
    moved += [
        paths.success,
        paths.stopped,
        paths.profiler,
        paths.state,
        paths.checkpoints,
    ]
    assert all(path.startswith(f"{tmp_path / 'x'}/") for path in moved)
    assert list(tmp_path.iterdir()) == []
