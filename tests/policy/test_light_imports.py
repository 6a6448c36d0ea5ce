"""What a launcher may cost: `import runtime` and the supervisor load the standard library only."""

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "boto3", "PIL", "logging", "asyncio", "inspect.numpy")


@pytest.mark.parametrize(
    "module", ["runtime", "runtime.launcher", "runtime.supervisor", "runtime.plan", "runtime.preflight"]
)
def test_neither_torch_nor_numpy_nor_boto3_is_imported(module: str) -> None:
    code = f"import sys, {module}; print(' '.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert module in loaded
    assert [name for name in HEAVY if name in loaded] == []


def test_public_names_are_there_and_lazy() -> None:
    code = "import runtime, sys; print('torch' in sys.modules, [getattr(runtime, name) for name in runtime.__all__])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert out.startswith("False ")


def test_an_unknown_public_name_is_explained() -> None:
    import runtime

    with pytest.raises(AttributeError, match="public names: main, Run, Job"):
        _ = runtime.mian
