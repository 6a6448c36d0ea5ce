"""Small pure parts: interruptions, projection, addresses, the container's environment, the summary."""

import json
import socket
from pathlib import Path
from typing import Any, ClassVar

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local.chronicle import PhaseClock
from runtime.local.environment import container_environ, threads_per_rank
from runtime.local.interruption import parse_interruption
from runtime.local.network import free_ports, loopback_addresses
from runtime.local.projection import project
from runtime.local.record import AttemptRecord, HostRecord, InterruptionRecord, JobRecord, read_record
from runtime.local.request import GroupSpec, TrainingJobSpec
from runtime.local.summary import describe, steps_per_second


class TestInterruption:
    def test_at_a_step(self):
        item = parse_interruption("step:50", "TERM")
        assert not item.due(49, 1e9)
        assert item.due(50, 0.0)
        assert item.due(53, 0.0)  # two steps may pass between two looks

    def test_after_seconds(self):
        item = parse_interruption("2.5s", "KILL")
        assert not item.due(10**9, 2.4)
        assert item.due(0, 2.5)
        assert (item.after, item.signal) == ("2.5s", "KILL")

    @pytest.mark.parametrize("text", ["50", "step:", "step:0", "step:-1", "s", "1m", "step:5s"])
    def test_anything_else_is_refused(self, text: str):
        with pytest.raises(UserError, match="step:N"):
            parse_interruption(text, "TERM")


class TestProjection:
    SUMMARY: ClassVar[dict[str, Any]] = {
        "steps": 10,
        "step_s_median": 0.5,
        "seconds": 8.0,
        "epochs": 1,
        "global_batch": 10,
        "channels": {
            "train": {"samples": 100, "samples_in_channel": 5000},
            "validation": {"samples": 100, "samples_in_channel": 90000},
        },
    }

    def test_steps_scale_and_start_up_does_not(self):
        result = project(self.SUMMARY)
        assert result is not None
        assert (result.channel, result.steps, result.startup_s) == ("train", 500, 3.0)
        assert result.seconds == 3.0 + 500 * 0.5
        assert "3.0 s start-up + 500 x 0.5 s = 253.0 s" in result.arithmetic

    def test_the_containers_own_time_counts_as_start_up(self):
        result = project(self.SUMMARY, container_s=15.0)
        assert result is not None
        assert (result.startup_s, result.seconds) == (10.0, 260.0)

    def test_whole_batches_are_counted_when_the_batch_is_known(self):
        channels = {"train": {"samples": 200, "samples_in_channel": 1437}}
        changes = {"steps": 4, "epochs": 2, "global_batch": 128, "channels": channels}
        result = project({**self.SUMMARY, **changes})
        assert result is not None
        assert result.steps == 24  # 2 x ceil(1437 / 128); by proportion it would be 29

    def test_a_cut_epoch_scales_by_proportion(self):
        result = project({**self.SUMMARY, "steps": 5, "epochs": 3})
        assert result is not None
        assert result.steps == 250

    def test_without_a_train_channel_the_largest_decides(self):
        channels = {"a": {"samples": 5, "samples_in_channel": 5}, "b": {"samples": 5, "samples_in_channel": 50}}
        result = project({**self.SUMMARY, "channels": channels})
        assert result is not None
        assert (result.channel, result.steps) == ("b", 100)

    @pytest.mark.parametrize("change", [{"steps": 0}, {"channels": {}}, {"seconds": None}, {"channels": [1]}])
    def test_nothing_from_nothing(self, change: dict[str, object]):
        assert project({**self.SUMMARY, **change}) is None


class TestNetwork:
    def test_two_runs_of_one_moment_have_different_blocks(self):
        blocks = {loopback_addresses(["algo-1"], pid)["algo-1"] for pid in range(1000, 11000)}
        assert len(blocks) == 10000

    def test_addresses_can_be_bound_and_ports_are_free(self):
        addresses = loopback_addresses([f"algo-{n}" for n in range(1, 201)], 4321)
        assert len(set(addresses.values())) == 200
        ports = free_ports(2)
        assert len(set(ports)) == 2
        for port in ports:
            with socket.socket() as sock:
                sock.bind((addresses["algo-200"], port))


class TestEnvironment:
    HERE: ClassVar[dict[str, str]] = {
        "PATH": "/bin",
        "HOME": "/home/u",
        "AWS_SECRET_ACCESS_KEY": "s",
        "SLIPWAY_SILENCE_S": "3",
        "MY": "x",
    }

    def compose(self, spec: TrainingJobSpec, here: dict[str, str]) -> dict[str, str]:
        return container_environ(spec, Path("/base"), {"algo-1": "127.1.1.2"}, (4000, 4001), here, 8)

    def test_only_what_a_program_needs_passes(self):
        values = self.compose(TrainingJobSpec("job"), self.HERE)
        assert values["HOME"] == "/home/u"
        assert values["PATH"].endswith(":/bin")
        assert not {"AWS_SECRET_ACCESS_KEY", "SLIPWAY_SILENCE_S", "MY", "OMP_NUM_THREADS"} & set(values)
        assert (values["SLIPWAY_MASTER_PORT"], values["SLIPWAY_PEER_PORT"]) == ("4000", "4001")
        assert values["SLIPWAY_HOST_ADDRESSES"] == "algo-1=127.1.1.2"
        assert (values["SAGEMAKER_BASE_DIR"], values["TRAINING_JOB_NAME"]) == ("/base", "job")

    def test_the_user_wins_but_for_the_wiring(self):
        environment = {"MY": "y", "OMP_NUM_THREADS": "5", "SLIPWAY_PEER_PORT": "9", "SAGEMAKER_BASE_DIR": "/z"}
        values = self.compose(TrainingJobSpec("job", environment=environment), {**self.HERE, "OMP_NUM_THREADS": "1"})
        assert (values["MY"], values["OMP_NUM_THREADS"], values["SLIPWAY_PEER_PORT"]) == ("y", "5", "9")
        assert values["SAGEMAKER_BASE_DIR"] == "/base"

    def test_hosts_share_the_machines_cpus(self):
        spec = TrainingJobSpec(
            "job", groups=(GroupSpec("g", "local", 2),), hyperparameters={"slipway_procs_per_host": "2"}
        )
        assert threads_per_rank(spec, 8) == 2
        assert threads_per_rank(spec, 2) == 1
        assert self.compose(spec, self.HERE)["OMP_NUM_THREADS"] == "2"


def attempt(number: int, **changes: object) -> AttemptRecord:
    values: dict[str, object] = {"interrupted": None, "resumed_step": None, "last_step": 0, "hosts": []}
    return AttemptRecord(attempt=number, started=1.0, ended=2.0, **{**values, **changes})  # type: ignore[arg-type]


class TestSummary:
    def test_a_failure_comes_first(self):
        record = JobRecord("job", status="Failed", failure_reason="algo-2 rank 3: ValueError: no")
        assert describe(record).strip().splitlines()[0] == "Failed: algo-2 rank 3: ValueError: no"

    def test_an_interrupted_job(self):
        hosts = [HostRecord("algo-1", 0, 10.0), HostRecord("algo-2", 0, 9.0)]
        record = JobRecord(
            "job",
            status="Completed",
            attempts=[
                attempt(1, interrupted=InterruptionRecord("KILL", "step:5", 1.5), last_step=6, hosts=hosts),
                attempt(2, resumed_step=4, last_step=24, hosts=hosts),
            ],
            metrics={"accuracy": 0.5},
            paths={"model": "/o/model.tar.gz", "report": None},
        )
        text = describe(record)
        assert "interrupted by KILL after step:5" in text
        assert "resumed from step 4, ended after step 24" in text
        assert steps_per_second(record) == 2.0
        assert "accuracy=0.5" in text
        assert "/o/model.tar.gz" in text
        assert "report" not in text


class TestRecord:
    def test_what_is_written_is_json_everywhere_and_read_again(self, tmp_path: Path):
        record = JobRecord("job", metrics={"loss": float("nan"), "accuracy": 1.0})
        record.write(tmp_path / "job.json")
        text = (tmp_path / "job.json").read_text()
        assert "NaN" not in text
        assert json.loads(text)["metrics"] == {"loss": None, "accuracy": 1.0}
        assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
        again = read_record(tmp_path / "job.json")
        assert again is not None
        assert again["name"] == "job"

    def test_the_keys_are_the_promised_ones(self):
        assert list(JobRecord("job").as_json()) == [
            *("format", "name", "kind", "status", "failure_reason", "exit_message", "exit_code", "attempts"),
            *("transitions", "phases", "training_seconds", "billable_seconds", "savings_percent", "metrics"),
            *(
                "final_metrics",
                "faults",
                "projection",
                "without_effect",
                "checkpoint_sync",
                "s3_faults",
                "uploaded",
                "paths",
                "describe",
            ),
        ]

    @pytest.mark.parametrize("text", ["[]", "{}", "{", '{"format": 2, "name": "x"}'])
    def test_a_strange_file_is_never_overwritten(self, tmp_path: Path, text: str):
        (tmp_path / "job.json").write_text(text)
        with pytest.raises(UserError, match=r"job\.json"):
            read_record(tmp_path / "job.json")

    def test_every_moment_has_one_phase_and_waits_are_not_billed(self, monkeypatch: pytest.MonkeyPatch):
        now = iter([0.0, 2.0, 3.5, 10.0])
        monkeypatch.setattr("runtime.local.chronicle.time.monotonic", lambda: next(now))
        record = JobRecord("job")
        clock = PhaseClock(record.phases)
        for phase in ("training", "interrupted", "uploading"):
            clock.enter(phase)
        record.bill()
        assert record.phases == {
            "preparing": 2.0,
            "image": 0.0,
            "downloading": 0.0,
            "starting": 0.0,
            "training": 1.5,
            "interrupted": 6.5,
            "uploading": 0.0,
        }
        assert record.billable_seconds == 4


def test_a_job_json_that_cannot_be_written_is_told_and_nothing_is_left_of_it(tmp_path: Path) -> None:
    record = JobRecord("a", "training")
    (tmp_path / "job.json").mkdir()
    with pytest.raises(PlatformError, match=r"job.json cannot be written: .* Fix: make room there"):
        record.write(tmp_path / "job.json")
    assert [path.name for path in tmp_path.iterdir()] == ["job.json"]
