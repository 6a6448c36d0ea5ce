"""Every environment variable that is read or written stands in one table."""

import ast
import re
from pathlib import Path

from runtime.base.env import VARIABLES
from runtime.contract.settings import NAMES

ROOT = Path(__file__).parents[2]
FOREIGN = ROOT / "runtime" / "check" / "programs"
"""Scripts that the checker gives to other people's images: they read what those were given."""
MODULES = sorted(path for path in (ROOT / "runtime").rglob("*.py") if path.parent != FOREIGN)
FAMILIES = re.compile(r"(SM_|SAGEMAKER_|SLIPWAY_|NCCL_|GLOO_|TORCHELASTIC_|OMP_|CUDA_|ROLE_|GROUP_|MASTER_)[A-Z0-9_]+")
LISTED = {variable.name for variable in VARIABLES} | {f"SLIPWAY_{name.upper()}" for name in NAMES}


def _constants(path: Path) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


def test_every_variable_that_is_named_is_listed() -> None:
    assert MODULES
    families = tuple(name.removesuffix("*") for name in LISTED if name.endswith("*"))
    unlisted = {
        f"{path.relative_to(ROOT)}: {text}"
        for path in MODULES
        for text in _constants(path)
        if FAMILIES.fullmatch(text) and text not in LISTED and not text.startswith(families)
    }
    assert unlisted == set()


def test_only_env_touches_the_environment() -> None:
    offenders = [
        str(path.relative_to(ROOT))
        for path in MODULES
        if path.name != "env.py" and re.search(r"os\.(environ|getenv|putenv)", path.read_text(encoding="utf-8"))
    ]
    assert offenders == []


def test_every_variable_says_what_it_means() -> None:
    assert all(variable.meaning and variable.set_by for variable in VARIABLES)
    assert len({variable.name for variable in VARIABLES}) == len(VARIABLES)
