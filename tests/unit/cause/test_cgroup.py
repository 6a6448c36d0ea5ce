"""What the kernel counted about memory, in both generations, from files and from a real out-of-memory kill."""

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cause.cgroup import Memory, gib, read_memory

GIB = 1 << 30


def machine(root: Path, files: dict[str, str]) -> str:
    for name, text in {"proc/meminfo": f"MemTotal:  {16 << 20} kB\n", **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return str(root)


V2 = {
    "memory.events": "low 0\nhigh 0\nmax 31\noom 2\noom_kill 1\noom_group_kill 0\n",
    "memory.max": f"{2 * GIB}\n",
    "memory.peak": f"{2 * GIB}\n",
    "memory.current": f"{GIB}\n",
}
V1 = {
    "memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n",
    "memory.limit_in_bytes": f"{2 * GIB}\n",
    "memory.max_usage_in_bytes": f"{2 * GIB}\n",
    "memory.usage_in_bytes": f"{GIB}\n",
}


@pytest.mark.parametrize(("own", "below"), [("/", ""), ("/docker/abc", "/docker/abc"), ("/docker/abc", "")])
def test_version_2_with_and_without_a_namespace(tmp_path: Path, own: str, below: str) -> None:
    files = {f"sys/fs/cgroup{below}/{name}": text for name, text in V2.items()}
    root = machine(tmp_path, {"proc/self/cgroup": f"0::{own}\n", **files})
    assert read_memory(root) == Memory(1, 2 * GIB, 2 * GIB, GIB, 16 * GIB)


@pytest.mark.parametrize(("own", "below"), [("/", ""), ("/docker/abc", "/docker/abc"), ("/docker/abc", "")])
def test_version_1_with_and_without_a_namespace(tmp_path: Path, own: str, below: str) -> None:
    files = {f"sys/fs/cgroup/memory{below}/{name}": text for name, text in V1.items()}
    root = machine(tmp_path, {"proc/self/cgroup": f"9:cpu,cpuacct:{own}\n4:memory:{own}\n0::/\n", **files})
    assert read_memory(root) == Memory(3, 2 * GIB, 2 * GIB, GIB, 16 * GIB)


def test_no_limit_is_told_as_none_in_both(tmp_path: Path) -> None:
    two = {f"sys/fs/cgroup/{name}": text for name, text in {**V2, "memory.max": "max\n"}.items()}
    one = {f"sys/fs/cgroup/memory/{name}": text for name, text in V1.items()}
    one["sys/fs/cgroup/memory/memory.limit_in_bytes"] = "9223372036854771712\n"
    for name, files in (("two", two), ("one", one)):
        memory = read_memory(machine(tmp_path / name, files))
        assert memory.limit_bytes == 0
        assert memory.told() == "no limit of its own, machine 16.0 GiB, peak 2.0 GiB"


def test_a_kernel_that_says_nothing_is_known_as_such(tmp_path: Path) -> None:
    assert read_memory(machine(tmp_path, {})) == Memory(machine_bytes=16 * GIB)
    assert read_memory(str(tmp_path / "nothing")) == Memory()
    assert Memory().killed_since(Memory(oom_kills=1)) is None


def test_a_version_1_without_a_count_of_kills_does_not_guess(tmp_path: Path) -> None:
    files = {f"sys/fs/cgroup/memory/{name}": text for name, text in V1.items()}
    files["sys/fs/cgroup/memory/memory.oom_control"] = "oom_kill_disable 0\nunder_oom 0\n"
    assert read_memory(machine(tmp_path, files)).oom_kills is None


def test_kills_are_counted_from_a_moment_on() -> None:
    assert Memory(oom_kills=5).killed_since(Memory(oom_kills=3)) == 2
    assert Memory(oom_kills=5).killed_since(Memory(oom_kills=5)) == 0


def test_the_text_names_limit_and_peak() -> None:
    assert Memory(1, 2 * GIB, GIB, 0, 16 * GIB).told() == "limit 2.0 GiB, peak 1.0 GiB"
    assert Memory(1, 512 << 20, 0, 100 << 20).told() == "limit 512 MiB, in use 100 MiB"
    assert gib(3 * GIB // 2) == "1.5 GiB"


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Make a real control group of 64 MiB; a machine that lets us make none says so."""
    for parent in (Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")):
        group = parent / f"slipway-test-{os.getpid()}"
        limit = "memory.limit_in_bytes" if parent.name == "memory" else "memory.max"
        try:
            group.mkdir()
            (group / limit).write_text(str(64 << 20))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        with contextlib.suppress(OSError):
            swap = "memory.memsw.limit_in_bytes" if parent.name == "memory" else "memory.swap.max"
            (group / swap).write_text(str(64 << 20) if parent.name == "memory" else "0")
        yield group
        group.rmdir()
        return
    pytest.skip("this machine lets nobody make a control group with a memory limit (needs root)")


def test_a_real_kill_for_want_of_memory_is_counted(small_group: Path) -> None:
    """A child joins the group, measures itself, lets a child of its own be killed there, and measures again."""
    code = (
        "import os, subprocess, sys\n"
        "open(sys.argv[1] + '/cgroup.procs', 'w').write(str(os.getpid()))\n"
        "from runtime.cause.cgroup import read_memory\n"
        "before = read_memory()\n"
        "hog = 'x = [bytearray(b\"x\" * (1 << 20)) for _ in range(400)]'\n"
        "status = subprocess.run([sys.executable, '-S', '-c', hog]).returncode\n"
        "after = read_memory()\n"
        "print(status, after.killed_since(before), after.limit_bytes, after.peak_bytes > 50 << 20)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(small_group)], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.stdout.split() == [str(-signal.SIGKILL), "1", str(64 << 20), "True"], done.stderr
