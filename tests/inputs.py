"""Jobs that show what they read of their channels, and a decoder of RecordIO of our own, for tests of input modes."""

import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import pytest

from runtime.local.flags import RunOptions
from runtime.local.inputs.mounts import our_mounts
from runtime.local.record import JobRecord
from runtime.local.request import ChannelSpec, GroupSpec, TrainingJobSpec
from runtime.local.runner import run_job
from tests.left_out import fuse_is_missing

needs_fuse = pytest.mark.skipif(bool(fuse_is_missing()), reason=fuse_is_missing())
SCRIPT = """
import json, os, pathlib, sys, time

base = pathlib.Path(os.environ.get("SAGEMAKER_BASE_DIR", "/opt/ml"))
host = os.environ["SM_CURRENT_HOST"]
inputs = base / "input/data"

def epoch(channel, number):
    path = inputs / f"{channel}_{number}"
    deadline = time.monotonic() + 300
    while not path.exists():
        if time.monotonic() > deadline:
            sys.exit(f"{path} does not appear")
        time.sleep(0.01)
    return path.read_bytes()

def tree(channel):
    root = inputs / channel
    return {str(p.relative_to(root)): p.read_bytes().decode("latin-1") for p in sorted(root.rglob("*")) if p.is_file()}

shown = eval(os.environ["SHOW"])
(base / "model" / f"{host}.json").write_text(json.dumps(shown))
"""


def run_use(
    place: Path, show: str, *channels: ChannelSpec, hosts: int = 1, out: str = "out", **more: Any
) -> tuple[JobRecord, dict[str, Any]]:
    """Run a job whose hosts evaluate an expression.

    Args:
        place: directory with a short name.
        show: the expression, see `SCRIPT` for what it may use.
        channels: of the job.
        hosts: of the job.
        out: name of its output directory.
        more: options of the run.

    Returns:
        The record, and what each host saw; nothing when the job did not complete.
    """
    script = place / "code/use.py"
    script.parent.mkdir(exist_ok=True)
    script.write_text(SCRIPT)
    spec = TrainingJobSpec(
        "use",
        hyperparameters={"sagemaker_program": "use.py", "slipway_profile": "off"},
        channels=channels,
        groups=(GroupSpec("homogeneousCluster", "local", hosts),),
        environment={"SHOW": show},
    )
    record = run_job(spec, RunOptions(output=place / out, code=script, as_json=True, **more))
    assert not [mount for mount in our_mounts() if mount.path.startswith(str(place))]
    return record, models(place / out) if record.status == "Completed" else {}


def models(out: Path) -> dict[str, Any]:
    """Return what each host saw."""
    seen: dict[str, Any] = {}
    with tarfile.open(out / "model.tar.gz") as tar:
        for member in tar:
            stream = tar.extractfile(member)
            assert stream is not None
            seen[member.name.removesuffix(".json")] = json.loads(stream.read())
    return seen


def written(record: JobRecord) -> list[dict[str, Any]]:
    """Return what job.json says of the inputs of the last attempt."""
    path = record.paths["job"]
    assert path is not None
    return json.loads(Path(path).read_text())["attempts"][-1]["inputs"]


def records(data: bytes) -> list[bytes]:
    """Decode RecordIO as its specification says, in the simplest way."""
    found: list[bytes] = []
    parts: list[bytes] = []
    at = 0
    while at < len(data):
        magic, lrec = struct.unpack_from("<II", data, at)
        assert magic == 0xCED7230A, f"no record at {at}"
        flag, length = lrec >> 29, lrec & ((1 << 29) - 1)
        parts.append(data[at + 8 : at + 8 + length])
        assert len(parts[-1]) == length
        at += 8 + length
        padding = -length % 4
        assert data[at : at + padding] == bytes(padding)
        at += padding
        if flag in (0, 3):
            found.append(b"".join(parts))
            parts = []
    assert not parts
    return found
