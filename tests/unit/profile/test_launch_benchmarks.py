"""The form of the launcher's benchmarks, without what they measure: their figures are judged by running them."""

import os
import signal
import subprocess
import sys
import time

import pytest

from benchmarks import __main__ as command
from benchmarks import crowd, growth, launch, relay, start, trees
from benchmarks.environments import Environment
from benchmarks.relay import EARLY, Passed

KEYS = {
    "start": ("first_line_ratio_bare", "first_line_s", "supervisor_rss_bytes", "first_line_ratio_toolkit"),
    "launch": ("launch_ratio_bare", "launch_ratio_torchrun_static", "growth_cpu_64_over_2", "growth_rss_64_bytes"),
    "relay": ("relay_wall_over_pipe", "relay_cpu_over_pipe", "relay_lines_wrong"),
}


def test_the_commands_names_are_those_of_the_readme():
    assert set(KEYS) <= set(command.names())
    assert not set(command.names()) & {"crowd", "environments", "growth", "trees", "measure"}
    text = (trees.Path(command.__file__).parent / "README.md").read_text(encoding="utf-8")
    for name, keys in KEYS.items():
        assert f"\n## {name}\n" in text
        assert all(f"| `{key}` |" in text for key in keys)


def test_engine_belongs_to_launch_alone(capsys):
    with pytest.raises(SystemExit):
        command.main(["start", "--engine", "process"])
    assert "belongs to launch" in capsys.readouterr().err


def test_lines_are_compared_byte_by_byte_in_their_stream():
    out, err = relay.expected(200)
    assert relay.wrong_lines(200, (out, err)) == 0
    log = b"2026-01-01T00:00:00Z INFO localhost launch: completed in 0.1 s\n"
    assert relay.wrong_lines(200, (out, log + err)) == 0, "our own log is none of the script's lines"
    assert relay.wrong_lines(200, (err, out)) == 200
    assert relay.wrong_lines(200, (out.replace("ö".encode(), b"?"), err)) == 19
    assert relay.wrong_lines(200, (out, err[:-1])) == 1
    assert relay.wrong_lines(200, (out[: -len(out.splitlines(keepends=True)[-1])], err)) == 1
    assert relay.wrong_lines(200, (err + out, b""), merged=True) == 0
    assert relay.wrong_lines(200, (out.replace(b"  line", b"line"), err), merged=True) == 100
    assert b"RuntimeError" in out.splitlines()[EARLY // 2]


def test_what_no_line_costs_is_taken_off():
    def arm(*walls: float) -> relay.Arm:
        made = relay.Arm([], {}, trees.Path(), 0)
        made.seen = [Passed(wall, 0.0, (b"", b"")) for wall in walls]
        return made

    ours, bare = arm(9.0, 3.0, 3.0, 3.0, 3.0, 3.0), arm(9.0, 2.0, 2.0, 2.0, 2.0, 2.0)
    assert relay.over(ours, arm(1.0, 1.0), bare, arm(0.0, 0.0), relay.wall).median == 1.0


def test_the_script_of_the_relay_writes_what_is_expected(tmp_path):
    text = relay.WRITES.format(lines=300, texts=relay.TEXTS, early=EARLY, mark=tmp_path / "mark")
    (tmp_path / "user.py").write_text(text, encoding="utf-8")
    passed = relay.pass_on([sys.executable, str(tmp_path / "user.py")], dict(os.environ), tmp_path / "mark")
    assert passed.streams == relay.expected(300)
    assert passed.wall_s > 0
    assert passed.cpu_s > 0


def test_a_start_is_timed_by_the_scripts_own_clock(tmp_path):
    mark = tmp_path / "mark"
    (tmp_path / "user.py").write_text(start.FIRST_LINE.format(mark=mark), encoding="utf-8")
    timed = start.Start([sys.executable, str(tmp_path / "user.py")], dict(os.environ), mark)
    began = time.monotonic()
    assert 0 < timed() <= time.monotonic() - began
    (tmp_path / "user.py").write_text("raise SystemExit('no such file')", encoding="utf-8")
    with pytest.raises(RuntimeError, match="no such file"):
        timed()


def test_a_processs_numbers_are_the_kernels():
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:
        resident, private = trees.memory(process.pid)
        assert resident >= private > 0
        assert trees.run_s(process.pid) > 0
        assert trees.cpu_s(process.pid) >= 0
        assert process.pid in trees.children(os.getpid())
        process.communicate(b"\n")


def test_a_wait_names_what_did_not_come():
    with pytest.raises(TimeoutError, match="the moon"):
        trees.wait_until(lambda: False, "the moon", limit_s=0.05)


@pytest.fixture
def installed() -> Environment:
    return Environment(trees.Path(sys.prefix))


def test_a_crowd_notices_the_end_of_one_and_leaves_nothing(tmp_path, installed):
    many = crowd.Crowd(tmp_path, installed, [3, 1], {"slipway_silence_s": "30"})
    try:
        assert [len(job) for job in many.jobs] == [3, 1]
        assert all(member.mark.exists() and member.ranks for member in many.members)
        assert growth._until_noticed(many.jobs[0], signal.SIGKILL) >= 0
        assert many.jobs[1][0].process.poll() is None, "another job is none of its business"
    finally:
        many.close()
    assert not any(trees.Path(f"/proc/{member.pid}").exists() for member in many.members)


def test_an_engine_that_is_wanted_and_absent_is_an_error(monkeypatch):
    monkeypatch.setattr(launch, "answers", lambda: False)
    with pytest.raises(RuntimeError, match="no Docker engine"), launch.engine_for("docker"):
        pass
    with launch.engine_for("") as (engine, why):
        assert isinstance(engine, launch.Processes)
        assert why == "no Docker engine answers"
