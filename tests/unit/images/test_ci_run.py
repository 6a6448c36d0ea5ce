""".ci/run with stand-ins for its tools: order of the phases, and what a failure does."""

import os
import subprocess
from pathlib import Path

CI_RUN = Path(__file__).parents[3] / ".ci" / "run"
TOOLS = ("make", "git", "docker", "dockerd", "iptables", "mmdebstrap", "apt-get")


def run_ci(home: Path, **scripts: str) -> tuple[int, str, list[str]]:
    """Run it with every tool replaced; return its exit code, its output, and the calls of make, dockerd and apt-get."""
    calls = home / "calls"
    calls.touch()
    for tool in TOOLS:
        logged = f'echo "{tool} $*" >> {calls}\n' if tool in ("make", "dockerd", "apt-get") else ""
        (home / tool).write_text(f"#!/bin/sh\n{logged}{scripts.get(tool, 'exit 0')}\n")
        (home / tool).chmod(0o755)
    environ = {**os.environ, "PATH": f"{home}:{os.environ['PATH']}", "CI": "true"}
    done = subprocess.run([CI_RUN], env=environ, capture_output=True, text=True, check=False, timeout=60)
    return done.returncode, done.stdout, calls.read_text().replace("--no-print-directory ", "").splitlines()


def test_phases_run_in_order_and_tell_their_seconds(tmp_path: Path):
    code, output, calls = run_ci(tmp_path)
    assert code == 0, output
    made = [call for call in calls if call.startswith("make")]
    assert made == ["make setup", "make check", "make test", "make test-container"]
    assert not [call for call in calls if call.startswith("dockerd")]
    for name in ("packages", "setup", "check", "test", "engine", "test-container"):
        assert f"== {name}: ok, " in output


def test_a_failed_phase_does_not_hide_the_next_and_fails_the_run(tmp_path: Path):
    code, output, calls = run_ci(tmp_path, make='test "$2" != check')
    assert code == 1
    assert calls[-1] == "make test-container"
    assert "== check: FAILED (1), " in output
    assert output.rstrip().endswith("== failed: check")


def test_an_engine_that_cannot_start_is_shown_with_its_log(tmp_path: Path):
    code, output, calls = run_ci(tmp_path, docker="exit 1", dockerd="echo no cgroups here; exit 1")
    assert code == 1
    assert "== engine: FAILED (1), " in output
    assert "no cgroups here" in output
    assert [call for call in calls if call.startswith("dockerd")] == [
        "dockerd --storage-driver overlay2",
        "dockerd --storage-driver vfs",
    ]


def test_an_engine_of_our_own_is_stopped_at_the_end(tmp_path: Path):
    pid = tmp_path / "pid"
    code, output, _ = run_ci(
        tmp_path, docker=f"test -e {pid}", dockerd=f"echo $$ > {pid}.new; mv {pid}.new {pid}; exec sleep 600"
    )
    assert code == 0, output
    assert f"process {pid.read_text().strip()} with overlay2" in output
    assert not Path("/proc", pid.read_text().strip()).exists()
