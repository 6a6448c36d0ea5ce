"""What a launcher may cost: `import runtime` and the supervisor load the standard library only."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import Tree

ROOT = Path(__file__).parents[2]

HEAVY = ("torch", "numpy", "boto3", "PIL", "logging", "asyncio", "inspect.numpy")


@pytest.mark.parametrize(
    "module",
    [
        "runtime",
        "runtime.launch.launcher",
        "runtime.launch.supervisor",
        "runtime.planning.plan",
        "runtime.launch.preflight",
    ],
)
def test_neither_torch_nor_numpy_nor_boto3_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []


COSTLY = (
    "argparse", "collections", "contextlib", "ctypes", "dataclasses", "enum", "functools", "hashlib", "inspect", "json",
    "pathlib", "re", "selectors", "shutil", "signal", "socket", "subprocess", "tarfile", "threading", "traceback",
    "typing", "urllib",
    "runtime.launch.supervisor", "runtime.launch.relay", "runtime.launch.checks", "runtime.cause.outcome",
    "runtime.install.aws", "runtime.install.installs",
)  # fmt: skip
"""Modules that cost a millisecond, and ours that nobody needs so soon; see docs/adr/0007."""

AT_THE_START = """
import sys
import runtime.launch.starting
spawn = runtime.launch.starting.spawn
def told(*arguments):
    print("loaded:", *sys.modules, file=sys.stderr)
    return spawn(*arguments)
runtime.launch.starting.spawn = told
from runtime.launch.launcher import main
sys.exit(main())
"""


@pytest.mark.parametrize("encoded", [True, False])
def test_until_the_first_rank_is_started_nothing_costly_is_loaded(tree: Tree, encoded: bool) -> None:
    """As in our images: without site, whose own imports are not ours to choose."""
    values = {"sagemaker_program": "train.py", "lr": "0.1", "name": "resnet", "layers": "[1, 2]", "git": "1234e5"}
    tree.hyperparameters(**{name: json.dumps(value) if encoded else value for name, value in values.items()})
    tree.config("resourceconfig", {"current_host": "algo-1", "hosts": ["algo-1"], "network_interface_name": "eth0"})
    tree.config("inputdataconfig", {"train": {"TrainingInputMode": "File"}})
    tree.channel("train", x="1")
    tree.script("pass")
    environ = {"SAGEMAKER_BASE_DIR": str(tree.base), "SLIPWAY_IMAGE_FILE": "/none", "SLIPWAY_PROFILE": "off"}
    code = f"import sys; sys.path.insert(0, {str(ROOT)!r})\n{AT_THE_START}"
    ended = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], env=environ, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 0, ended.stderr
    loaded = next(line for line in ended.stderr.splitlines() if line.startswith("loaded:")).split()
    assert "runtime.planning.plan" in loaded
    assert [name for name in COSTLY if name in loaded] == []


def test_public_names_are_there_and_lazy() -> None:
    code = "import runtime, sys; print('torch' in sys.modules, [getattr(runtime, name) for name in runtime.__all__])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("False ")


def test_an_unknown_public_name_is_explained() -> None:
    import runtime

    with pytest.raises(AttributeError, match="public names: main, Run, Job"):
        _ = runtime.mian


def test_a_run_on_a_laptop_loads_no_test_kit() -> None:
    """`slipway run` uses faults and records of `runtime.testing`; containers, clusters and HTTP servers cost 40 ms."""
    code = "import sys, runtime.local.runner; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "runtime.testing.faults.play" in loaded
    kit = [f"runtime.testing.{name}" for name in ("client", "cluster", "container", "s3_faults", "tree")]
    assert [name for name in kit if name in loaded] == []


def test_every_name_of_the_test_kit_is_what_it_says() -> None:
    """Names and modules of a package share one place: a module called like a function would hide it."""
    import runtime.testing

    for name in runtime.testing.__all__:
        assert getattr(runtime.testing, name).__class__ is not type(runtime.testing), name
    with pytest.raises(AttributeError, match="public names: Cluster, Host"):
        _ = runtime.testing.Clutser
