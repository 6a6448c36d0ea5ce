"""The sampler: parsing of recorded files, and the process as the supervisor starts it."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from runtime.launch.ranks import SAMPLER
from runtime.profile import sampler

STAT = """cpu  7564 20 2237 371073 451 7 66 2545 500 0
cpu0 2428 0 809 187372 58 0 26 1269 0 0
intr 344019 0 0 0
"""
MEMINFO = """MemTotal:       24684096 kB
MemFree:        23415992 kB
MemAvailable:   24147420 kB
Buffers:           12528 kB
"""
DISKSTATS = """   7       0 loop0 10 0 8000 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 259       0 nvme0n1 500 0 1000 90 300 0 2000 80 0 60 170
 259       1 nvme0n1p1 490 0 990 90 300 0 2000 80 0 60 170
 259       2 nvme1n1 5 0 10 9 3 0 20 8 0 6 17
 253       0 dm-0 490 0 990 90 300 0 2000 80 0 60 170
"""
XEN_DISKSTATS = " 202       1 xvda1 490 0 990 90 300 0 2000 80 0 60 170\n"
NET_DEV = """Inter-|   Receive                                                |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier
    lo:    3245   30 0 0 0 0 0 0     3245   30 0 0 0 0 0 0
  eth0: 255394246 5898 0 0 0 0 0 0 303485 3365 0 0 0 0 0 0
  eth1:1000    1 0 0 0 0 0 0   500    1 0 0 0 0 0 0
veth1a: 77     1 0 0 0 0 0 0    55    1 0 0 0 0 0 0
"""


class TestParsing:
    def test_cpu_counts_guests_once_and_stolen_time_as_neither_busy_nor_idle(self):
        busy, waiting, total = sampler.parse_cpu(STAT) or pytest.fail("no cpu line")
        assert busy == 7564 + 20 + 2237 + 7 + 66
        assert waiting == 451
        assert total == busy + waiting + 371073 + 2545

    def test_memory_is_what_cannot_be_reclaimed(self):
        assert sampler.parse_memory(MEMINFO) == ((24684096 - 24147420) * 1024, 24684096 * 1024)

    def test_disks_count_partitions_and_stacked_devices_once(self):
        assert sampler.parse_disks(DISKSTATS) == ((1000 + 10) * 512, (2000 + 20) * 512)

    def test_a_xen_partition_without_its_disk_is_the_disk(self):
        assert sampler.parse_disks(XEN_DISKSTATS) == (990 * 512, 2000 * 512)

    @pytest.mark.parametrize(
        ("name", "expected"),
        [("nvme0n1p2", True), ("nvme0n10", False), ("sda1", True), ("xvda1", False), ("sda", False)],
    )
    def test_partitions(self, name, expected):
        assert sampler.is_partition(name, {"nvme0n1", "sda"}) is expected

    def test_network_counts_the_outer_interfaces(self):
        assert sampler.parse_network(NET_DEV) == (255394246 + 1000, 303485 + 500)

    @pytest.mark.parametrize(
        "parse", [sampler.parse_cpu, sampler.parse_memory, sampler.parse_disks, sampler.parse_network]
    )
    @pytest.mark.parametrize("text", ["", "nonsense\n", "cpu  1 2\n"])
    def test_a_file_that_is_missing_or_strange_gives_none(self, parse, text):
        assert parse(text) is None

    def test_cgroup_v2_is_looked_for_up_to_the_root(self):
        assert sampler.memory_cgroups("0::/docker/abc\n") == [
            (f"/sys/fs/cgroup{group}/memory.max", f"/sys/fs/cgroup{group}/memory.current", stat)
            for group, stat in (
                ("/docker/abc", "/sys/fs/cgroup/docker/abc/memory.stat"),
                ("/docker", "/sys/fs/cgroup/docker/memory.stat"),
                ("", "/sys/fs/cgroup/memory.stat"),
            )
        ]

    def test_cgroup_v1_uses_the_memory_controller_alone(self):
        places = sampler.memory_cgroups("8:pids:/a\n4:cpu,memory:/b\n")
        assert [place[0] for place in places] == [
            "/sys/fs/cgroup/memory/b/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
        ]

    def test_limit_and_reclaimable(self):
        assert sampler.parse_limit("max\n") is None
        assert sampler.parse_limit("1024\n") == 1024
        assert sampler.reclaimable("anon 5\ninactive_file 7\n") == 7
        assert sampler.reclaimable("inactive_file 7\ntotal_inactive_file 9\n") == 9

    def test_a_counter_that_went_back_gives_no_negative_rate(self):
        assert sampler.rates((100.0, 100.0), (50.0, 200.0), 2.0) == (0.0, 50.0)
        assert sampler.rates(None, (50.0, 200.0), 2.0) == (None, None)

    def test_a_line_is_json_and_says_null_for_what_is_unknown(self):
        line = sampler.encode({"t": 12.3456, "cpu_pct": 50.126, "mem_bytes": 1e9, "net_rx_bps": None})
        value = json.loads(line)
        assert tuple(value) == sampler.FIELDS
        assert (value["t"], value["cpu_pct"], value["mem_bytes"]) == (12.346, 50.13, 1_000_000_000)
        assert value["net_rx_bps"] is None

    def test_the_header_survives_any_host_name(self):
        assert json.loads(sampler.header('a"\\b', 0.5, 7.0))["host"] == 'a"\\b'

    def test_late_ticks_are_left_out_and_the_grid_stays(self):
        assert sampler.next_due(10.0, 0.5, 10.01) == 10.5
        assert sampler.next_due(10.0, 0.5, 11.2) == 11.5


def start(out: Path, parent: int, interval_ms: int = 10) -> subprocess.Popen[bytes]:
    words = [
        "--out",
        str(out),
        "--interval-ms",
        str(interval_ms),
        "--parent",
        str(parent),
        "--disk",
        str(out.parent),
    ]
    return subprocess.Popen([sys.executable, "-I", "-S", str(SAMPLER), *words], stderr=subprocess.PIPE)


def wait_for_lines(out: Path, count: int, deadline_s: float = 120.0) -> list[str]:
    end = time.monotonic() + deadline_s
    while time.monotonic() < end:
        lines = out.read_text().splitlines() if out.exists() else []
        if len(lines) >= count:
            return lines
        time.sleep(0.005)
    raise AssertionError(f"{out} has fewer than {count} lines after {deadline_s} s")


class TestProcess:
    def test_it_writes_a_header_then_samples_until_sigterm(self, tmp_path):
        out = tmp_path / "profiler" / "system-algo-1.jsonl"
        out.parent.mkdir()
        with start(out, os.getpid()) as process:
            lines = wait_for_lines(out, 4)
            rss = int((Path("/proc") / str(process.pid) / "statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
            process.terminate()
            process.wait(10)
            assert process.stderr is not None
            assert process.stderr.read() == b""
        head, first, second = (json.loads(line) for line in lines[:3])
        assert (head["format"], head["host"], head["interval_ms"]) == (1, "algo-1", 10)
        assert set(first) == set(sampler.FIELDS)
        assert 0 <= first["mem_pct"] <= 100
        assert first["disk_free_bytes"] > 0
        assert second["t"] > first["t"] > head["started"] - 0.001
        assert rss < 20e6, "goal P1: a sampler takes at most 20 MB"

    def test_it_ends_when_its_parent_is_gone(self, tmp_path):
        out = tmp_path / "system-a.jsonl"
        go_between = (
            "import os, subprocess, sys\n"
            "p = subprocess.Popen([*sys.argv[1:], '--parent', str(os.getpid())])\n"
            "print(p.pid, flush=True)\n"
            "sys.stdin.read()\n"
        )
        words = [sys.executable, "-I", "-S", str(SAMPLER), "--out", str(out), "--interval-ms", "60000"]
        parent = subprocess.Popen(
            [sys.executable, "-c", go_between, *words, "--disk", str(tmp_path)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with parent:
            assert parent.stdout is not None
            pid = int(parent.stdout.readline())
            wait_for_lines(out, 1)
            parent.kill()
        end = time.monotonic() + 10
        while is_alive(pid):
            assert time.monotonic() < end, "an orphan must end within seconds, whatever its interval"
            time.sleep(0.02)

    def test_a_wrong_parent_ends_it_at_once(self, tmp_path):
        with start(tmp_path / "system-a.jsonl", parent=1) as process:
            assert process.wait(10) == 0

    def test_a_full_disk_ends_it_quietly(self):
        full = Path("/dev/full")
        if not full.exists():
            pytest.skip("this machine has no /dev/full")
        with start(full, os.getpid()) as process:
            assert process.wait(10) == 0
            assert process.stderr is not None
            assert process.stderr.read() == b""

    def test_wrong_words_are_named(self, capsys):
        assert sampler.main(["--out", "x"]) == 2
        assert "--interval-ms" in capsys.readouterr().err

    def test_it_imports_three_light_modules_and_nothing_of_ours(self):
        tree = ast.parse(Path(SAMPLER).read_text())
        imports = [node for node in ast.walk(tree) if isinstance(node, ast.Import | ast.ImportFrom)]
        names = {alias.name for node in imports if isinstance(node, ast.Import) for alias in node.names}
        assert names == {"os", "sys", "time"}
        assert not [node for node in imports if isinstance(node, ast.ImportFrom)]


def is_alive(pid: int) -> bool:
    """Tell whether a process runs; a zombie that nobody has reaped does not."""
    try:
        return (Path("/proc") / str(pid) / "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
