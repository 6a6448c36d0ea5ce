"""What the code needs besides the image, in the real image: no network, wheels that travel with the job."""

from pathlib import Path

import pytest

from tests.container.containers import Containers, make_tree
from tests.wheels import wheel

pytestmark = pytest.mark.container

SHOW = """
import os, numpy, small
with open(os.environ["SM_MODEL_DIR"] + "/seen", "w") as file:
    print(small.version, small.__file__, numpy.__file__, file=file)
"""


@pytest.fixture
def house(tmp_path: Path) -> Path:
    wheel(tmp_path / "house", "small", "1.0", "numpy>=1")
    wheel(tmp_path / "house", "torch", "2.5.1")
    wheel(tmp_path / "house", "needy", "1.0", "torch==2.5.1")
    return tmp_path / "house"


@pytest.mark.parametrize(
    ("options", "place"),
    [((), "/opt/venv/"), (("--user", "1000:0", "--read-only", "--tmpfs", "/tmp"), "/tmp/slipway-packages-")],
    ids=["root", "plain user on a read-only root"],
)
def test_a_wheelhouse_is_enough(
    containers: Containers, tmp_path: Path, house: Path, options: tuple[str, ...], place: str
):
    files = {"train.py": SHOW, "requirements.txt": "small\n"}
    tree = make_tree(tmp_path / "ml", files, channels={"wheelhouse": house})
    container = containers.run("train", tree=tree, options=options)
    assert container.exit_code() == 0, container.logs()
    version, small, numpy = tree.model("seen").read_text().split()
    assert version == "1.0"
    assert small.startswith(place)
    assert numpy.startswith("/opt/venv/")


@pytest.mark.parametrize(
    ("requirement", "who"), [("torch==2.5.1", "requirements.txt line 1"), ("needy", "needy 1.0")], ids=["it", "another"]
)
def test_the_images_torch_is_not_replaced(
    containers: Containers, tmp_path: Path, house: Path, requirement: str, who: str
):
    files = {"train.py": SHOW, "requirements.txt": f"{requirement}\nsmall\n"}
    tree = make_tree(tmp_path / "ml", files, channels={"wheelhouse": house})
    container = containers.run("train", tree=tree)
    assert container.exit_code() == 1, container.logs()
    assert f"{who} asks for torch==2.5.1, but this image has torch 2." in tree.failure
    assert "slipway_constraints=off" in tree.failure
    assert "Successfully installed" not in container.logs()


def test_a_package_of_the_users_needs_no_network_to_be_built(containers: Containers, tmp_path: Path):
    setup = "from setuptools import setup\nsetup(name='mine', version='1.0', py_modules=['mine', 'train'])\n"
    script = "import mine, os\nopen(os.environ['SM_MODEL_DIR'] + '/seen', 'w').write(mine.word + ' ' + __name__)\n"
    tree = make_tree(tmp_path / "ml", {"train.py": script, "setup.py": setup, "mine.py": "word = 'here'\n"})
    container = containers.run("train", tree=tree)
    assert container.exit_code() == 0, container.logs()
    assert tree.model("seen").read_text() == "here __main__"


def test_requirements_without_a_network_say_what_to_do(containers: Containers, tmp_path: Path):
    tree = make_tree(tmp_path / "ml", {"train.py": SHOW, "requirements.txt": "nowhere-to-be-had\n"})
    # One attempt: pip's five would only make the test slower.
    container = containers.run("train", tree=tree, options=("--env", "PIP_RETRIES=0"))
    assert container.exit_code() == 1, container.logs()
    assert "Installing requirements.txt failed: " in tree.failure
    assert "nowhere-to-be-had" in tree.failure
    assert "without a network use a wheelhouse" in tree.failure
