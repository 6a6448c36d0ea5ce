"""Faults in words, their moments, and what hosts of engine process do then."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local.faults import ENGINE_VERBS, read_faults
from runtime.local.record import JobRecord
from runtime.local.request import CheckpointSpec, GroupSpec, TrainingJobSpec
from runtime.testing.faults.plan import Fault, parse_faults
from runtime.testing.faults.play import FaultPlayer, Played

RunSmall = Callable[..., JobRecord]
HOSTS = ("algo-1", "algo-2")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kill:algo-2@step:30", Fault("kill", "algo-2", step=30)),
        ("kill:rank:3@1.5s", Fault("kill", rank=3, after_s=1.5)),
        ("freeze:algo-1@20s+10s", Fault("freeze", "algo-1", after_s=20.0, lasting_s=10.0)),
        ("disconnect:algo-2@step:5+500ms", Fault("disconnect", "algo-2", step=5, lasting_s=0.5)),
        ("drop:algo-2@2m", Fault("drop", "algo-2", after_s=120.0)),
        ("latency:algo-2=200ms~50ms", Fault("latency", "algo-2", delay_s=0.2, jitter_s=0.05)),
        ("latency:algo-2=1s@3s+4s", Fault("latency", "algo-2", delay_s=1.0, after_s=3.0, lasting_s=4.0)),
        ("loss:algo-1=5%", Fault("loss", "algo-1", share=0.05)),
        (
            "full-disk:/opt/ml/checkpoints@step:3",
            Fault("full-disk", path="/opt/ml/checkpoints", step=3, size=256 << 20),
        ),
        ("full-disk:algo-2:/opt/ml/output=64m", Fault("full-disk", "algo-2", path="/opt/ml/output", size=64 << 20)),
        ("slow-disk:/opt/ml/output/=2m", Fault("slow-disk", path="/opt/ml/output", rate=2 << 20)),
    ],
)
def test_faults_in_words(text: str, expected: Fault):
    (found,) = parse_faults([text], HOSTS)
    assert found == Fault(**{**expected.__dict__, "text": text})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("kill", "VERB:HOST"),
        ("kil:algo-1@1s", "Did you mean 'kill'?"),
        ("kill:algo-3@1s", "no host 'algo-3'"),
        ("kill:algo-1", "does not say when"),
        ("kill:algo-1@1s+3s", "stays dead"),
        ("kill:algo-1@soon", "'soon' is no time"),
        ("kill:algo-1@step:0", "steps count from 1"),
        ("kill:algo-1=5@1s", "takes no value"),
        ("kill:rank:x@1s", "'x' is no rank"),
        ("loss:rank:1=5%", "a rank has no network"),
        ("loss:algo-1", "lacks its value"),
        ("loss:algo-1=5", "it is a percentage"),
        ("loss:algo-1=101%", "it is a percentage"),
        ("latency:algo-1=10ms~20ms", "the jitter is above the delay"),
        ("full-disk:checkpoints@1s", "no absolute path"),
        ("full-disk:/opt/ml/model=1k", "too small"),
        ("slow-disk:/opt/ml/model", "lacks its value"),
        ("random=1/2@step:0", "steps count from 1"),
    ],
)
def test_what_has_no_meaning_is_refused(text: str, expected: str):
    with pytest.raises(UserError) as caught:
        parse_faults([text], HOSTS)
    assert text in str(caught.value)
    assert expected in str(caught.value)


def test_random_faults_are_the_same_for_a_seed_and_can_be_written_down():
    first = parse_faults(["random=7/20@step:100"], HOSTS)
    assert first == parse_faults(["random=7/20@step:100"], HOSTS)
    assert first != parse_faults(["random=8/20@step:100"], HOSTS)
    assert len(first) == 20
    assert len({fault.verb for fault in first}) > 2
    assert all(1 <= (fault.step or 0) <= 100 for fault in first)
    again = parse_faults([fault.text for fault in first], HOSTS)
    assert [fault.text for fault in again] == [fault.text for fault in first]
    assert {fault.verb for fault in parse_faults(["random=1/50"], HOSTS, ("kill", "freeze"))} == {"kill", "freeze"}


class Puppet:
    """A host that notes what happens to it."""

    def __init__(self, host: str, *, up: bool = True) -> None:
        self._host, self.up, self.done = host, up, list[str]()
        self.ranks: tuple[int, ...] = ()

    @property
    def host(self) -> str:
        return self._host

    def is_up(self) -> bool:
        return self.up

    def vanish(self) -> None:
        self.done.append("vanish")

    def freeze(self) -> None:
        self.done.append("freeze")

    def unfreeze(self) -> None:
        self.done.append("unfreeze")

    def signal_rank(self, rank: int, number: int) -> bool:
        self.done.append(f"{signal.Signals(number).name} {rank}")
        return rank in self.ranks

    def unplug(self) -> None:
        raise PlatformError("no such network")

    def plug(self) -> None:
        self.done.append("plug")

    def disturb(self, fault: Fault) -> Callable[[], object]:
        self.done.append(fault.verb)
        return lambda: self.done.append(f"no {fault.verb}")

    def spoil(self, fault: Fault) -> Callable[[], object]:
        return self.disturb(fault)


def player_of(*texts: str) -> FaultPlayer:
    return FaultPlayer(parse_faults(texts, HOSTS))


def test_a_fault_comes_at_its_step_once_and_ends_in_time(monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr("runtime.testing.faults.play.time.monotonic", lambda: now[0])
    player, hosts = player_of("freeze:algo-2@step:5+2s"), [Puppet("algo-1"), Puppet("algo-2")]
    player.begin(hosts)
    player.tick(4, 1.0)
    assert (hosts[1].done, player.needs_step) == ([], True)
    player.tick(6, 1.1)
    player.tick(7, 1.2)
    assert (hosts[1].done, player.needs_step) == (["freeze"], False)
    now[0] += 2.1
    player.tick(7, 3.3)
    assert hosts[1].done == ["freeze", "unfreeze"]
    assert hosts[0].done == []
    player.begin(hosts)
    player.tick(9, 0.0)
    player.end()
    player.close()
    (played,) = player.record
    assert (played.fault, played.host, played.attempt, played.step) == ("freeze:algo-2@step:5+2s", "algo-2", 1, 6)
    assert played.ended is not None
    assert played.error is None


def test_a_fault_without_a_moment_is_there_in_every_attempt_as_soon_as_its_host_is():
    player, late = player_of("loss:algo-1=5%"), Puppet("algo-1", up=False)
    player.begin([late])
    player.tick(0, 0.0)
    assert late.done == []
    late.up = True
    player.tick(0, 0.1)
    player.tick(0, 0.2)
    player.end()
    player.begin([late])
    player.tick(0, 0.0)
    player.end()
    assert late.done == ["loss", "no loss"] * 2
    assert [played.attempt for played in player.record] == [1, 2]


def test_a_rank_is_looked_for_on_every_host():
    player, hosts = player_of("freeze:rank:3@step:1", "kill:rank:9@step:1"), [Puppet("algo-1"), Puppet("algo-2")]
    hosts[1].ranks = (3,)
    player.begin(hosts)
    player.tick(1, 0.0)
    player.end()
    frozen, killed = player.record
    assert (frozen.host, frozen.error) == ("algo-2", None)
    assert hosts[1].done == ["SIGSTOP 3", "SIGKILL 9", "SIGCONT 3"]
    assert "no host has rank 9" in (killed.error or "")
    assert player.lost() == ()


def test_what_does_not_work_and_what_never_came_is_told():
    player = player_of("disconnect:algo-1@1s", "kill:algo-2@step:9")
    player.begin([Puppet("algo-1"), Puppet("algo-2")])
    player.tick(3, 2.0)
    player.end()
    player.close()
    assert [(item.error, item.at is None) for item in player.record] == [
        ("no such network.", False),
        ("its moment never came", True),
    ]


def test_a_host_that_vanished_is_named():
    player = player_of("kill:algo-2@1s")
    player.begin([Puppet("algo-1"), Puppet("algo-2")])
    player.tick(0, 2.0)
    assert player.lost() == ("algo-2",)
    player.begin([Puppet("algo-1"), Puppet("algo-2")])
    assert player.lost() == ()


def test_what_an_engine_cannot_do_is_refused_with_the_way_out(monkeypatch: pytest.MonkeyPatch):
    spec = TrainingJobSpec("a", groups=(GroupSpec("g", "local", 2),), checkpoint=CheckpointSpec(None, "/data/saved"))
    with pytest.raises(UserError, match=r"loss cannot be played here.*Fix: use --engine docker"):
        read_faults(["loss:algo-1=5%"], spec, "process")
    assert set(ENGINE_VERBS["process"]) == {"kill", "freeze"}
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    for text in ("drop:algo-1@1s", "full-disk:/data/saved@1s"):
        with pytest.raises(UserError, match=r"needs root.*Fix: run as root"):
            read_faults([text], spec, "docker")
    assert read_faults(["disconnect:algo-1@1s"], spec, "docker")


def test_a_disk_must_be_a_hosts_own(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runtime.local.faults.can_make_disks", lambda: "")
    spec = TrainingJobSpec("a", checkpoint=CheckpointSpec(None, "/data/saved"))
    for path in ("/data/saved", "/opt/ml/model", "/opt/ml/output/data"):
        assert read_faults([f"full-disk:{path}@1s"], spec, "docker")
    for path in ("/opt/ml/input", "/tmp", "/data/saved2"):
        with pytest.raises(UserError, match="no directory of a host's own"):
            read_faults([f"full-disk:{path}@1s"], spec, "docker")


# --- whole jobs -------------------------------------------------------------------------------------------------


def told(place: Path) -> dict[str, object]:
    return json.loads((place / "out/job.json").read_text())


def test_a_host_that_is_killed_fails_the_job_and_stands_in_job_json(run_small: RunSmall, place: Path):
    began = time.time()
    record = run_small(hp={"steps": "100000"}, options={"faults": ("kill:algo-2@step:3",)})
    assert record.status == "Failed"
    assert [host.exit_code for host in record.attempts[0].hosts][1] == 137
    assert "algo-2" in (record.failure_reason or "")
    (played,) = record.faults
    assert (played.fault, played.host, played.attempt, played.error) == ("kill:algo-2@step:3", "algo-2", 1, None)
    assert played.step >= 3
    assert began < (played.at or 0) < time.time()
    assert told(place)["faults"] == [played.__dict__]


def test_a_job_with_retries_goes_on_after_a_host_was_lost(run_small: RunSmall, place: Path):
    record = run_small(hp={"steps": "40"}, options={"faults": ("kill:algo-2@step:5",)}, retries=2)
    assert record.status == "Completed", record.failure_reason
    assert [item.status for item in record.transitions].count("Restarting") == 1
    assert len(record.attempts) == 2
    assert [host.exit_code for host in record.attempts[1].hosts] == [0, 0]
    assert record.phases["interrupted"] >= 0


def test_retries_are_for_lost_hosts_and_not_for_programs_that_fail(run_small: RunSmall):
    record = run_small(hp={"steps": "5", "fail_at": "2"}, retries=3)
    assert (record.status, len(record.attempts)) == ("Failed", 1)


def test_a_killed_rank_is_the_cause(run_small: RunSmall):
    record = run_small(hp={"steps": "100000"}, options={"faults": ("kill:rank:1@step:3",)})
    assert (record.status, record.exit_code) == ("Failed", 137)
    assert "rank 1" in (record.failure_reason or "")
    (played,) = record.faults
    assert played.host == "algo-2"


def test_a_frozen_host_goes_on(run_small: RunSmall):
    record = run_small(hp={"steps": "60"}, options={"faults": ("freeze:algo-2@step:3+300ms",)})
    assert record.status == "Completed", record.failure_reason
    (played,) = record.faults
    assert played.at is not None
    assert played.ended is not None
    assert played.ended - played.at > 0.25
    assert record.attempts[0].hosts[1].seconds > 0.3


def test_a_frozen_host_is_no_obstacle_to_the_end(run_small: RunSmall, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("runtime.local.attempt.GRACE_S", 0.5)
    record = run_small(hp={"steps": "100000"}, options={"faults": ("freeze:algo-1@step:3",)}, max_run_s=4.0)
    assert record.status == "Stopped", record.failure_reason
    (played,) = record.faults
    assert (played.host, played.ended) == ("algo-1", None)


def test_a_fault_of_a_job_that_ended_before_never_came(run_small: RunSmall):
    record = run_small(hp={"steps": "3"}, options={"faults": ("kill:algo-1@step:900",)})
    assert record.status == "Completed"
    assert record.faults == [
        Played("kill:algo-1@step:900", "algo-1", 0, error="its moment never came"),
    ]
