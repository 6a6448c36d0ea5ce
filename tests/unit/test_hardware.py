"""What a machine has, described under a root of our own."""

import os
from pathlib import Path

import pytest

from runtime.hardware import probe


def put(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def gpus(root: Path, count: int) -> None:
    for n in range(count):
        put(root, f"dev/nvidia{n}")
    for other in ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia-caps"):
        put(root, f"dev/{other}")


def test_a_bare_machine(tmp_path: Path) -> None:
    hardware = probe({}, tmp_path)
    assert hardware.cpus == len(os.sched_getaffinity(0))
    assert (hardware.memory_bytes, hardware.accelerators, hardware.accelerator_kind) == (0, 0, "none")
    assert (hardware.interfaces, hardware.shm_bytes) == ((), 0)


@pytest.mark.parametrize("count", [0, 1, 8, 16])
def test_gpus_are_counted_by_their_device_nodes(tmp_path: Path, count: int) -> None:
    gpus(tmp_path, count)
    hardware = probe({}, tmp_path)
    assert hardware.accelerators == count
    assert hardware.accelerator_kind == ("nvidia" if count else "none")


def test_gpus_of_the_driver_count_where_there_are_no_nodes(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{n}:00.0").mkdir(parents=True)
    assert probe({}, tmp_path).accelerators == 2


@pytest.mark.parametrize(
    ("shown", "count"),
    [("0,1", 2), ("3", 1), ("", 0), ("-1", 0), ("0,-1,1", 1), ("GPU-aa,GPU-bb", 2), ("0,1,2,3,4,5", 4), (" 0 , 1 ", 2)],
)
def test_cuda_visible_devices_hides_gpus_as_cuda_reads_it(tmp_path: Path, shown: str, count: int) -> None:
    gpus(tmp_path, 4)
    assert probe({"CUDA_VISIBLE_DEVICES": shown}, tmp_path).accelerators == count


@pytest.mark.parametrize(("text", "most"), [("50000 100000\n", 1), ("150000 100000\n", 2), ("max 100000\n", 10**6)])
def test_the_cgroups_quota_caps_the_cpus(tmp_path: Path, text: str, most: int) -> None:
    put(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert probe({}, tmp_path).cpus == max(1, min(most, len(os.sched_getaffinity(0))))


@pytest.mark.parametrize(("limit", "kb", "found"), [("max", 4, 4096), ("1000", 4, 1000), ("9999", 4, 4096)])
def test_memory_is_the_smaller_of_machine_and_cgroup(tmp_path: Path, limit: str, kb: int, found: int) -> None:
    put(tmp_path, "proc/meminfo", f"MemFree:  1 kB\nMemTotal:       {kb} kB\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", f"{limit}\n")
    assert probe({}, tmp_path).memory_bytes == found


def test_interfaces_are_listed(tmp_path: Path) -> None:
    for name in ("lo", "eth0"):
        (tmp_path / "sys/class/net" / name).mkdir(parents=True)
    assert probe({}, tmp_path).interfaces == ("eth0", "lo")


def test_this_machine_has_a_loopback_and_memory() -> None:
    hardware = probe({})
    assert "lo" in hardware.interfaces
    assert hardware.memory_bytes > 1 << 20
