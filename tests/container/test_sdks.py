"""Unmodified SDKs in local mode, through `slipway compose` in the place of docker-compose: what arrives, what fails."""

import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from runtime.testing import must
from tests.container.sdks import environ_of, find_sdk

pytestmark = pytest.mark.container

ROOT = Path(__file__).parents[2]
CLIENTS = Path(__file__).parent / "clients"
PROGRAM = """
import json, os, pathlib, socket, sys, time

base = pathlib.Path("/opt/ml")
rank = int(os.environ.get("RANK", "0"))
args = " ".join(sys.argv[1:])
seen = {
    "files": {p.name: json.loads(p.read_text()) for p in (base / "input/config").glob("*.json")},
    "train": [p.read_text() for p in sorted((base / "input/data/train").iterdir())],
    "money": os.environ.get("MONEY"), "world": os.environ.get("WORLD_SIZE"), "argv": sys.argv[1:],
    "interfaces": sorted(os.listdir("/sys/class/net")), "hostname": socket.gethostname(),
}
print("SEEN%d " % rank + json.dumps(seen), flush=True)
(base / "model" / ("of-%d" % rank)).write_text("m")
(base / "output/data/out.txt").write_text("o")
if "fail" in args and rank == int(os.environ.get("WORLD_SIZE", "1")) - 1:
    raise ValueError("told to fail")
if "late" in args and rank == 0:
    time.sleep(3)
    (base / "model" / "late").write_text("still there")
if "collect" in args:
    import torch, torch.distributed
    torch.distributed.init_process_group("gloo")
    mine = torch.tensor([rank + 1.0])
    torch.distributed.all_reduce(mine)
    print("SUM%d %g" % (rank, mine.item()), flush=True)
    torch.distributed.destroy_process_group()
"""
HYPERPARAMETERS = {"lr": 0.1, "flag": True, "word": "abc", "digits": "12", "odd": 'a $b "c" x', "map": {"a": 1}}
MONEY = "a$$b${HOME}$c"


@dataclass
class Fit:
    """What came of one call."""

    text: str
    raised: str
    model: Path
    root: Path

    def seen(self, rank: int = 0) -> Any:
        mark = f"SEEN{rank} "
        line = next(line for line in self.text.splitlines() if mark in line)
        return json.JSONDecoder().raw_decode(line.partition(mark)[2])[0]

    def members(self, name: str = "model.tar.gz") -> set[str]:
        with tarfile.open(self.model.with_name(name)) as tar:
            return {member.name.removeprefix("./") for member in tar if member.isfile()}

    @property
    def record(self) -> Any:
        (path,) = self.root.rglob("slipway/*/job.json")
        return json.loads(path.read_text())


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sdk-") as directory:
        path = Path(directory)
        (path / "src").mkdir()
        (path / "src/train.py").write_text(PROGRAM)
        (path / "data").mkdir()
        (path / "data/x").write_text("sample")
        (path / "root").mkdir()
        yield path


@pytest.fixture
def stand_in(place: Path) -> Path:
    command = [sys.executable, "-m", "runtime", "compose", "--path"]
    environ = {**os.environ, "XDG_CACHE_HOME": str(place / "cache")}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, env=environ)
    return Path(done.stdout.strip())


class Client:
    """One SDK."""

    def __init__(self, version: int, place: Path, path: Path) -> None:
        python, why = find_sdk(version)
        if python is None:
            pytest.skip(why)
        self.version, self._python, self._place, self._path = version, python, place, path

    def fit(self, image: str, *, environ: Mapping[str, str] | None = None, **job: Any) -> Fit:
        root = self._place / "root"
        whole = {
            **{"kind": "generic", "hosts": 1, "image": image, "root": str(root), "environment": {"MONEY": MONEY}},
            **{"hyperparameters": HYPERPARAMETERS, "channels": {"train": str(self._place / "data")}},
            **{"source": str(self._place / "src")},
            **job,
        }
        done = subprocess.run(
            [str(self._python), str(CLIENTS / f"v{self.version}.py"), json.dumps(whole)],
            cwd=self._place,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=1200,
            check=False,
            env=environ_of(self._place, self._path, **(environ or {})),
        )
        assert done.returncode == 0, done.stdout
        end = json.loads(done.stdout.strip().splitlines()[-1])
        model = root / "out/model.tar.gz" if self.version == 2 else root / "compressed_artifacts/model.tar.gz"
        assert must("ps", "--all", "--quiet", "--filter", f"label=slipway.tree={root}").split() == []
        return Fit(done.stdout, end["raised"], model, root)


@pytest.fixture
def v2(place: Path, stand_in: Path) -> Client:
    return Client(2, place, stand_in)


@pytest.fixture
def v3(place: Path, stand_in: Path) -> Client:
    return Client(3, place, stand_in)


class TestV2:
    def test_script_on_two_hosts(self, v2: Client, slim: str):
        done = v2.fit(slim, hosts=2)
        assert done.raised == "", done.text
        seen = done.seen()
        files = seen["files"]
        assert {name: files["hyperparameters.json"][name] for name in HYPERPARAMETERS} == {
            **{"lr": "0.1", "flag": "true", "word": '"abc"', "digits": '"12"'},
            **{"odd": json.dumps(HYPERPARAMETERS["odd"]), "map": '{"a": 1}'},
        }
        assert (seen["train"], seen["money"], seen["world"]) == (["sample"], MONEY, "2")
        resources = files["resourceconfig.json"]
        assert resources["hosts"][0].startswith("algo-1-")
        assert resources["instance_groups"][0]["hosts"] == resources["hosts"]
        assert (resources["network_interface_name"], seen["hostname"]) == ("eth0", resources["current_host"])
        assert {"of-0", "of-1"} <= done.members()
        assert "data/out.txt" in done.members("output.tar.gz")
        assert [host["exit_code"] for host in done.record["attempts"][0]["hosts"]] == [0, 0]

    def test_own_image_without_entry_point(self, v2: Client, slim: str, place: Path):
        hyperparameters = {"sagemaker_program": "train.py", "lr": 0.1, "flag": True}
        done = v2.fit(
            slim,
            source="",
            hyperparameters=hyperparameters,
            channels={"train": str(place / "data"), "code": str(place / "src")},
        )
        assert done.raised == "", done.text
        assert done.seen()["files"]["hyperparameters.json"] == {
            **{"sagemaker_program": "train.py", "lr": "0.1", "flag": "True"}
        }
        assert done.members() == {"of-0"}

    def test_a_failure_is_raised_and_told(self, v2: Client, slim: str):
        done = v2.fit(slim, hosts=2, hyperparameters={"fail": 1})
        assert "exited with code: 1" in done.raised
        assert "told to fail" in done.text
        assert "ValueError: told to fail" in done.record["failure_reason"]
        assert "Failed:" in done.text  # also the last lines reach the SDK
        assert "failure" in done.members("output.tar.gz")

    def test_no_host_is_cut_off_by_one_that_ends_early(self, v2: Client, slim: str):
        """Compose ends the job with the first host; its work was lost in silence."""
        done = v2.fit(slim, hosts=2, hyperparameters={"late": 1, "slipway_launcher": "own"})
        assert done.raised == "", done.text
        assert {"of-0", "of-1", "late"} <= done.members()

    def test_pytorch_estimator_with_torch_distributed(self, v2: Client, image: str):
        done = v2.fit(image, kind="pytorch", hosts=2, hyperparameters={"collect": 1})
        assert done.raised == "", done.text
        assert "SUM0 3" in done.text
        assert "SUM1 3" in done.text

    def test_checkpoints_and_interruptions_by_flags(self, v2: Client, slim: str, place: Path):
        (place / "src/train.py").write_text(
            "import os, pathlib, struct, time\n"
            "progress = pathlib.Path(os.environ['SLIPWAY_STATE_DIR'], 'progress').open('r+b', buffering=0)\n"
            "saved = pathlib.Path('/opt/ml/checkpoints/n')\n"
            "start = int(saved.read_text()) if saved.exists() else 0\n"
            "print('begins at', start, flush=True)\n"
            "for n in range(start, 40):\n"
            "    time.sleep(0.1)\n"
            "    saved.with_suffix('.tmp').write_text(str(n))\n"
            "    saved.with_suffix('.tmp').rename(saved)\n"
            "    progress.seek(0)\n"
            "    progress.write(struct.pack('<qd', n, time.time()))\n"
        )
        flags = f"--checkpoints {place / 'saved'} --interrupt-after step:5 --interrupt-signal KILL --shm-size 80m"
        done = v2.fit(slim, environ={"SLIPWAY_RUN_FLAGS": flags})
        assert done.raised == "", done.text
        assert [attempt["hosts"][0]["exit_code"] for attempt in done.record["attempts"]] == [137, 0]
        begins = [line.split()[-1] for line in done.text.splitlines() if "begins at" in line]
        assert len(begins) == 2
        assert int(begins[1]) >= 5
        assert (place / "saved/n").read_text() == "39"


class TestV3:
    def test_without_source_code(self, v3: Client, image: str, place: Path):
        hyperparameters = {"sagemaker_program": "train.py", "lr": 0.1, "flag": True, "odd": "a 'b' $c"}
        channels = {"train": str(place / "data"), "code": str(place / "src")}
        done = v3.fit(image, source="", hyperparameters=hyperparameters, channels=channels)
        assert done.raised == "", done.text
        seen = done.seen()
        assert seen["files"]["hyperparameters.json"] == {**hyperparameters, "lr": "0.1", "flag": "true"}
        assert (seen["train"], seen["money"]) == (["sample"], MONEY)
        assert seen["files"]["resourceconfig.json"]["network_interface_name"] in seen["interfaces"]
        assert done.members() == {"model/of-0", "of-0"} or "of-0" in done.members()

    @pytest.mark.parametrize("command", ["", "exec train"])
    def test_with_source_code(self, v3: Client, image: str, command: str):
        hyperparameters = {"lr": 0.1, "sagemaker_program": "train.py"} if command else {"lr": 0.1}
        done = v3.fit(image, command=command, hyperparameters=hyperparameters)
        assert done.raised == "", done.text
        assert done.seen()["argv"][-1] == "0.1"
        assert "of-0" in done.members()

    def test_torchrun_on_two_hosts(self, v3: Client, image: str):
        done = v3.fit(image, hosts=2, torchrun=1, hyperparameters={"collect": 1})
        assert done.raised == "", done.text
        assert "SUM0 3" in done.text
        assert "SUM1 3" in done.text

    def test_a_failure_is_raised_and_told(self, v3: Client, image: str, place: Path):
        done = v3.fit(
            image,
            source="",
            hyperparameters={"sagemaker_program": "train.py", "fail": 1},
            channels={"train": str(place / "data"), "code": str(place / "src")},
        )
        assert "code: 1" in done.raised
        assert "told to fail" in done.text
        assert "ValueError: told to fail" in done.record["failure_reason"]


def real_compose() -> tuple[Path | None, str]:
    """Find the directory of a real docker-compose 1, as the SDKs take it where there is no plugin of version 2."""
    client = shutil.which("docker-compose")
    if client is None:
        return None, "no docker-compose here. Fix: apt-get install docker-compose"
    told = subprocess.run([client, "version", "--short"], capture_output=True, text=True, check=False).stdout.strip()
    return (Path(client).parent, "") if told.startswith("1.") else (None, f"docker-compose is {told}, not 1.x")


@pytest.fixture
def compose_v1(place: Path) -> Iterator[Path]:
    directory, why = real_compose()
    if directory is None:
        pytest.skip(why)
    yield directory
    for path in (place / "root").rglob("docker-compose.yaml"):
        # The SDKs leave stopped containers and the network behind.
        words = [str(directory / "docker-compose"), "-f", str(path), "down"]
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=600)
        assert done.returncode == 0, done.stderr


class TestRealCompose:
    """Our image under what most users have today: the stand-in is a gain, no condition."""

    def test_v2_on_two_hosts(self, place: Path, compose_v1: Path, slim: str):
        done = Client(2, place, compose_v1).fit(slim, hosts=2, environment={"MONEY": "plain"})
        assert done.raised == "", done.text
        assert done.seen()["world"] == "2"
        assert done.seen()["money"] == "plain"
        assert {"of-0", "of-1"} <= done.members()

    def test_v2_failure(self, place: Path, compose_v1: Path, slim: str):
        done = Client(2, place, compose_v1).fit(slim, hosts=2, hyperparameters={"fail": 1}, environment={})
        assert "exited with code: 1" in done.raised
        assert "failure" in done.members("output.tar.gz")

    @pytest.mark.parametrize("command", ["", "exec train"])
    def test_v3(self, place: Path, compose_v1: Path, image: str, command: str):
        channels = {"train": str(place / "data"), **({} if command else {"code": str(place / "src")})}
        done = Client(3, place, compose_v1).fit(
            image,
            source=str(place / "src") if command else "",
            command=command,
            hyperparameters={"sagemaker_program": "train.py", "lr": 0.1},
            environment={},
            channels=channels,
        )
        assert done.raised == "", done.text
        assert done.seen()["argv"][-1] == "0.1"
        assert "of-0" in done.members()
