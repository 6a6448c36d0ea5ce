"""`process convert`: source, output and share come from the processing job."""

import json
import os
import subprocess
import sys
from pathlib import Path

from runtime.data.convert.manifest import MANIFEST, merge, verify, write_manifest
from runtime.planning.program import workloads
from tests.unit.data.convert.datasets import label_folders


def start(
    base: Path, host: str, hosts: list[str], distribution: str, words: list[str]
) -> subprocess.CompletedProcess[str]:
    config = base / "config"
    config.mkdir(parents=True, exist_ok=True)
    (config / "resourceconfig.json").write_text(json.dumps({"current_host": host, "hosts": hosts}))
    raw = {
        "InputName": "raw",
        "S3Input": {
            "S3Uri": "s3://b/raw",
            "LocalPath": str(base.parent / "raw"),
            "S3DataType": "S3Prefix",
            "S3InputMode": "File",
            "S3DataDistributionType": distribution,
        },
    }
    output = {
        "OutputName": "shards",
        "S3Output": {"S3Uri": "s3://b/o", "LocalPath": str(base / "out"), "S3UploadMode": "EndOfJob"},
    }
    described = {"ProcessingInputs": [raw], "ProcessingOutputConfig": {"Outputs": [output]}}
    (config / "processingjobconfig.json").write_text(json.dumps(described))
    return subprocess.run(
        [sys.executable, "-m", "runtime.processing", "convert", *words],
        env={"PATH": os.environ["PATH"], "SAGEMAKER_BASE_DIR": str(base)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_two_hosts_divide_the_shards(tmp_path: Path) -> None:
    label_folders(tmp_path / "raw", {"a": 5, "b": 6})
    words = json.loads(Path(workloads(script="process.py")["convert"]).with_name("smoke.json").read_text())["arguments"]
    for host in ("algo-1", "algo-2"):
        done = start(tmp_path / host, host, ["algo-1", "algo-2"], "FullyReplicated", words)
        assert done.returncode == 0, done.stderr
    assert [path.name for path in (tmp_path / "algo-1" / "out").glob("*.tar")] == ["part-00000.tar"]
    parts = [tmp_path / host / "out" for host in ("algo-1", "algo-2")]
    write_manifest(tmp_path / "all", merge(parts, tmp_path / "all"))
    manifest, problems = verify(tmp_path / "all")
    assert (manifest.samples, problems) == (11, [])
    assert (tmp_path / "all" / MANIFEST).is_file()


def test_hosts_with_other_files_are_refused_with_the_way_out(tmp_path: Path) -> None:
    label_folders(tmp_path / "raw", {"a": 1})
    done = start(tmp_path / "algo-1", "algo-1", ["algo-1", "algo-2"], "ShardedByS3Key", ["--to", "tar"])
    assert done.returncode == 1
    assert "Each host has other files of the input 'raw' (ShardedByS3Key)" in done.stderr
    assert "FullyReplicated" in (tmp_path / "algo-1" / "output" / "message").read_text()
