"""Processing jobs: what a request may hold, the files that the service writes, outputs, messages, exit codes."""

import copy
import json
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.contract.paths import Paths
from runtime.contract.processing_job import read_processing_job
from runtime.local import results
from runtime.local.flags import RunOptions
from runtime.local.record import JobRecord
from runtime.local.request import ProcessingJobSpec, parse_request
from runtime.local.runner import run_job

SCRIPT = """
import json, os, pathlib, sys
base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
host = json.loads((base / "config/resourceconfig.json").read_text())["current_host"]
raw, out = pathlib.Path(sys.argv[sys.argv.index("--from") + 1]), base / "processing/output/made"
out.joinpath(f"of-{host}.txt").write_text(" ".join(sorted(p.name for p in raw.iterdir())))
out.joinpath("same.txt").write_text(host)
(base / "output/message").write_text(os.environ["GREETING"])
print("words", sys.argv[1:])
"""


@pytest.fixture
def place() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="sl-") as directory:
        yield Path(directory)


@pytest.fixture
def request_of(place: Path) -> Callable[..., dict[str, Any]]:
    """Compose a request as a ScriptProcessor of the SDK sends it."""
    (place / "raw").mkdir()
    for name in ("a", "b", "c"):
        (place / "raw" / name).write_text(name)
    (place / "code").mkdir()
    (place / "code" / "prepare.py").write_text(SCRIPT)

    def compose(script: str = SCRIPT, **changes: Any) -> dict[str, Any]:
        (place / "code" / "prepare.py").write_text(textwrap.dedent(script))
        request: dict[str, Any] = {
            "ProcessingJobName": "prepare-1",
            "RoleArn": "arn:aws:iam::111122223333:role/r",
            "AppSpecification": {
                "ImageUri": "slipway-processing:cpu",
                "ContainerEntrypoint": ["python3", "/opt/ml/processing/input/code/prepare.py"],
                "ContainerArguments": ["--from", "/opt/ml/processing/input/raw", "--note", "a b $x"],
            },
            "ProcessingInputs": [
                {
                    "InputName": "raw",
                    "AppManaged": False,
                    "S3Input": {
                        "LocalPath": "/opt/ml/processing/input/raw",
                        "S3Uri": f"file://{place}/raw",
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                        "S3DataDistributionType": "FullyReplicated",
                        "S3CompressionType": "None",
                    },
                },
                {
                    "InputName": "code",
                    "S3Input": {
                        "LocalPath": "/opt/ml/processing/input/code",
                        "S3Uri": str(place / "code" / "prepare.py"),
                        "S3DataType": "S3Prefix",
                        "S3InputMode": "File",
                    },
                },
            ],
            "ProcessingOutputConfig": {
                "Outputs": [
                    {
                        "OutputName": "made",
                        "S3Output": {
                            "LocalPath": "/opt/ml/processing/output/made",
                            "S3Uri": f"file://{place}/made",
                            "S3UploadMode": "EndOfJob",
                        },
                    }
                ]
            },
            "ProcessingResources": {
                "ClusterConfig": {"InstanceCount": 1, "InstanceType": "ml.m5.large", "VolumeSizeInGB": 30}
            },
            "Environment": {"GREETING": "all well"},
            "StoppingCondition": {"MaxRuntimeInSeconds": 3600},
        }
        return copy.deepcopy(request) | changes

    return compose


def run(place: Path, request: dict[str, Any]) -> JobRecord:
    spec, _ = parse_request(request)
    return run_job(spec, RunOptions(output=place / "out"))


def output_of(request: dict[str, Any]) -> dict[str, Any]:
    return request["ProcessingOutputConfig"]["Outputs"][0]["S3Output"]


def test_a_script_reads_inputs_and_leaves_outputs(place: Path, request_of: Callable[..., dict[str, Any]]):
    record = run(place, request_of())
    assert (record.kind, record.status, record.exit_code) == ("processing", "Completed", 0), record.failure_reason
    assert record.exit_message == "all well"
    assert (place / "made/of-algo-1.txt").read_text() == "a b c"
    log = (place / "out/logs/algo-1.log").read_text()
    assert "'--note', 'a b $x'" in log, "arguments are a list, whatever they hold"
    told = json.loads((place / "out/job.json").read_text())
    assert (told["kind"], told["exit_message"]) == ("processing", "all well")
    assert "RoleArn" in told["without_effect"]
    assert not (place / "out/.work").exists()


def test_hosts_share_a_sharded_input_and_a_later_one_wins(place: Path, request_of: Callable[..., dict[str, Any]]):
    request = request_of()
    request["ProcessingInputs"][0]["S3Input"]["S3DataDistributionType"] = "ShardedByS3Key"
    request["ProcessingResources"]["ClusterConfig"]["InstanceCount"] = 2
    assert run(place, request).status == "Completed"
    assert (place / "made/of-algo-1.txt").read_text() == "a c"
    assert (place / "made/of-algo-2.txt").read_text() == "b"
    assert (place / "made/same.txt").read_text() == "algo-2"


def test_what_a_host_finds_is_what_our_own_reader_expects(place: Path, request_of: Callable[..., dict[str, Any]]):
    script = """
        import os, pathlib, shutil
        base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        shutil.copytree(base / "config", base / "processing/output/made/config")
        assert not (base / "input").exists() and not (base / "model").exists()
        assert "TRAINING_JOB_NAME" not in os.environ
    """
    assert run(place, request_of(script)).status == "Completed"
    job = read_processing_job(Paths(str(place / "made")))
    assert (job.name, job.current_host, job.hosts) == ("prepare-1", "algo-1", ("algo-1",))
    assert job.arn.startswith("arn:aws:sagemaker:local:000000000000:processing-job/prepare-1")
    assert job.inputs["raw"].uri == f"file://{place}/raw"
    assert job.entrypoint == ("python3", "/opt/ml/processing/input/code/prepare.py")
    config = json.loads((place / "made/config/processingjobconfig.json").read_text())
    assert config["ProcessingInputs"][1]["S3Input"]["S3DataDistributionType"] == "FullyReplicated"
    assert config["ProcessingInputs"][1]["AppManaged"] is False
    assert config["StoppingCondition"] == {"MaxRuntimeInSeconds": 3600}
    resources = json.loads((place / "made/config/resourceconfig.json").read_text())
    assert resources == {"current_host": "algo-1", "hosts": ["algo-1"]}


def test_a_failure_keeps_its_exit_code_and_message(place: Path, request_of: Callable[..., dict[str, Any]]):
    script = """
        import os, pathlib, sys
        base = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"])
        (base / "processing/output/made/half").write_text("x")
        (base / "output/message").write_text("column 'price' is missing")
        sys.exit(7)
    """
    record = run(place, request_of(script))
    assert (record.status, record.exit_code) == ("Failed", 7)
    assert record.failure_reason == "algo-1 ended with exit code 7: column 'price' is missing"
    assert not (place / "made").exists(), "EndOfJob uploads nothing of a job that failed"
    assert record.paths["work"], "its trees are kept to look into"


def test_a_message_that_is_no_text_fails_the_job(place: Path, request_of: Callable[..., dict[str, Any]]):
    script = """
        import os, pathlib
        pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "output/message").write_bytes(b"\\xff\\xfe")
    """
    record = run(place, request_of(script))
    assert (record.status, record.exit_code) == ("Failed", 0)
    assert "no UTF-8" in (record.failure_reason or "")


def test_a_message_is_cut_between_letters(tmp_path: Path):
    (tmp_path / "output").mkdir()
    (tmp_path / "output/message").write_text("é" * 600)
    assert results.exit_message([Paths(str(tmp_path / "none")), Paths(str(tmp_path))]) == "é" * 512


def test_a_link_in_an_output_fails_the_job(place: Path, request_of: Callable[..., dict[str, Any]]):
    script = """
        import os, pathlib
        out = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "processing/output/made")
        (out / "there").write_text("x")
        (out / "latest").symlink_to("there")
    """
    record = run(place, request_of(script))
    assert record.status == "Failed"
    assert record.failure_reason == "Output 'made' holds a link, latest: the service does not follow it"


def test_continuous_outputs_come_while_the_job_runs_and_also_from_a_failure(
    place: Path, request_of: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(results, "CONTINUOUS_S", 0.05)
    script = f"""
        import os, pathlib, sys, time
        out = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"], "processing/output/made")
        (out / "first").write_text("1")
        deadline = time.monotonic() + 300
        while not pathlib.Path({str(place / "made/first")!r}).exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        (out / "last").write_text("2")
        sys.exit(3 if time.monotonic() < deadline else 4)
    """
    request = request_of(script)
    output_of(request)["S3UploadMode"] = "Continuous"
    record = run(place, request)
    assert (record.status, record.exit_code) == ("Failed", 3), "3: the first file was there before the job ended"
    assert (place / "made/last").read_text() == "2"


def test_a_job_that_runs_too_long_is_stopped(place: Path, request_of: Callable[..., dict[str, Any]]):
    request = request_of("import time; time.sleep(600)", StoppingCondition={"MaxRuntimeInSeconds": 1})
    record = run(place, request)
    assert record.status == "Stopped"
    assert record.failure_reason == "MaxRuntimeExceeded: the job ran longer than 1 s"
    assert [item.status for item in record.transitions][-1] == "MaxRuntimeExceeded"


def test_the_copied_code_is_not_the_users_own(place: Path, request_of: Callable[..., dict[str, Any]]):
    script = "import pathlib; pathlib.Path(__file__).with_name('new').write_text('x')"
    assert run(place, request_of(script)).status == "Completed"
    assert sorted(path.name for path in (place / "code").iterdir()) == ["prepare.py"]


def input_with(**changes: Any) -> dict[str, Any]:
    s3 = {"LocalPath": "/opt/ml/processing/input/x", "S3Uri": "/tmp", "S3DataType": "S3Prefix"}
    return {"InputName": "x", "S3Input": s3 | changes}


def output_with(**changes: Any) -> dict[str, Any]:
    s3 = {"LocalPath": "/opt/ml/processing/out", "S3Uri": "/nowhere", "S3UploadMode": "EndOfJob"}
    return {"Outputs": [{"OutputName": "o", "S3Output": s3 | changes}]}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ProcessingJobName": "a b"}, "ProcessingJobName is 'a b'"),
        ({"AppSpecifications": {}}, "'AppSpecification'"),
        ({"AppSpecification": {"ContainerEntrypoint": "bash"}}, "ContainerEntrypoint is 'bash' (str)"),
        ({"AppSpecification": {"ContainerArguments": ["x" * 257]}}, "ContainerArguments[0] has 257 characters"),
        ({"AppSpecification": {"ContainerArguments": ["x"] * 101}}, "ContainerArguments has 101 words"),
        ({"Environment": {"A": "x" * 257}}, "Environment.A has 257 characters"),
        ({"ProcessingInputs": [input_with(LocalPath="/data")]}, "below /opt/ml/processing/"),
        ({"ProcessingInputs": [input_with(LocalPath="/opt/ml/processing/../../x")]}, "is an absolute path"),
        ({"ProcessingInputs": [input_with(S3InputMode="FastFile")]}, "S3InputMode is 'FastFile'"),
        ({"ProcessingInputs": [input_with(), input_with()]}, "names 'x' 2 times"),
        (
            {
                "ProcessingInputs": [
                    input_with(),
                    input_with(LocalPath="/opt/ml/processing/input/x/y") | {"InputName": "y"},
                ]
            },
            "lies inside of input 'x'",
        ),
        ({"ProcessingInputs": [{"InputName": "q", "DatasetDefinition": {}}]}, "Athena and Redshift"),
        ({"ProcessingOutputConfig": output_with(S3UploadMode="Later")}, "S3UploadMode is 'Later'"),
        ({"ProcessingOutputConfig": output_with(LocalPath="/opt/ml/config")}, "a directory of the job's own"),
        ({"ProcessingOutputConfig": output_with(LocalPath="/data")}, "use --engine docker"),
        (
            {"ProcessingOutputConfig": {"Outputs": [{"OutputName": "o", "FeatureStoreOutput": {}}]}},
            "no feature store here",
        ),
        ({"ProcessingResources": {"ClusterConfig": {"InstanceCount": 0}}}, "InstanceCount is 0"),
        ({"NetworkConfig": {"EnableNetworkIsolation": True}}, "network isolation"),
        ({"HyperParameters": {}}, "unknown key HyperParameters"),
    ],
)
def test_what_is_wrong_is_named(request_of: Callable[..., dict[str, Any]], changes: dict[str, Any], expected: str):
    with pytest.raises(UserError) as caught:
        parse_request(request_of(**changes))
    assert expected in str(caught.value)


def test_what_containers_can_do_beside(request_of: Callable[..., dict[str, Any]]):
    request = request_of(
        NetworkConfig={"EnableNetworkIsolation": True, "VpcConfig": {"Subnets": ["s"]}},
        ProcessingOutputConfig=output_with(LocalPath="/data"),
    )
    request["ProcessingResources"]["ClusterConfig"] = {
        "InstancePreferences": [{"InstanceType": "ml.c5.large", "InstanceCount": 2}, {"InstanceType": "ml.m5.large"}]
    }
    spec, _ = parse_request(request, "docker")
    assert isinstance(spec, ProcessingJobSpec)
    assert spec.network_isolation
    assert (spec.groups[0].instance_type, spec.hosts) == ("ml.c5.large", ("algo-1", "algo-2"))
    assert spec.outputs[0].local_path == "/data"
    assert "NetworkConfig.VpcConfig" in spec.without_effect


def test_a_request_file_and_flags(place: Path, request_of: Callable[..., dict[str, Any]]):
    request = request_of()
    request["ProcessingInputs"][0]["S3Input"]["S3Uri"] = "/no/such/place"
    path = place / "request.json"
    path.write_text(json.dumps(request))
    (place / "other").mkdir()
    (place / "other/z").write_text("z")
    words = ["run", str(path), "--channel", f"raw={place}/other", "--hosts", "2", "--env", "GREETING=hello"]
    done = subprocess.run(
        [sys.executable, "-m", "runtime", *words, "--output", str(place / "out"), "--json"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    told = json.loads(done.stdout)
    assert (told["exit_message"], len(told["attempts"][0]["hosts"])) == ("hello", 2)
    assert (place / "out/outputs/made/of-algo-2.txt").read_text() == "z", "--output decides where outputs go"
    refused = subprocess.run(
        [sys.executable, "-m", "runtime", *words, "--hp", "a=b"],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert refused.returncode == 1
    assert "--hp with a CreateProcessingJob request" in refused.stderr
