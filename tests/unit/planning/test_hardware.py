"""What a machine has, described under a root of our own."""

import os
from pathlib import Path

import pytest

from runtime.planning.hardware import Hardware, count_by_nvml, probe


def put(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def look(root: Path, **environ: str) -> Hardware:
    return probe(environ, str(root))


def gpus(root: Path, count: int) -> None:
    for n in range(count):
        put(root, f"dev/nvidia{n}")
    for other in ("nvidiactl", "nvidia-uvm", "nvidia-modeset", "nvidia-caps"):
        put(root, f"dev/{other}")


def test_a_bare_machine(tmp_path: Path) -> None:
    hardware = look(tmp_path)
    assert hardware.cpus == len(os.sched_getaffinity(0))
    assert (hardware.memory_bytes, hardware.accelerators, hardware.accelerator_kind) == (0, 0, "none")
    assert (hardware.interfaces, hardware.routes, hardware.shm_bytes) == ((), (), 0)
    assert (hardware.locked_bytes, hardware.open_files) == (-1, -1)


@pytest.mark.parametrize("count", [0, 1, 8, 16])
def test_gpus_are_counted_by_their_device_nodes(tmp_path: Path, count: int) -> None:
    gpus(tmp_path, count)
    hardware = look(tmp_path)
    assert (hardware.accelerators, hardware.gpus, hardware.neurons) == (count, count, 0)
    assert hardware.accelerator_kind == ("nvidia" if count else "none")


def test_gpus_of_the_driver_count_where_there_are_no_nodes(tmp_path: Path) -> None:
    for n in range(2):
        (tmp_path / f"proc/driver/nvidia/gpus/0000:0{n}:00.0").mkdir(parents=True)
    assert look(tmp_path).accelerators == 2


@pytest.mark.parametrize(
    ("shown", "count"),
    [
        ("0,1", 2),
        ("3", 1),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("GPU-aa,GPU-bb", 2),
        ("0,1,2,3,4,5", 4),
        (" 0 , 1 ", 2),
        ("7", 0),
        ("1,9,0", 1),
        ("none", 0),
        ("MIG-11,MIG-22", 1),
        ("MIG-GPU-aa/1/0", 1),
        ("0,MIG-11", 1),
    ],
)
def test_cuda_visible_devices_hides_gpus_as_cuda_reads_it(tmp_path: Path, shown: str, count: int) -> None:
    gpus(tmp_path, 4)
    hardware = look(tmp_path, CUDA_VISIBLE_DEVICES=shown)
    assert hardware.accelerators == count
    assert f"CUDA_VISIBLE_DEVICES={shown}" in hardware.accelerator_source


@pytest.mark.parametrize(("shown", "count"), [("GPU-aa", 1), ("GPU-a", 0), ("GPU-ab1,GPU-z", 1), ("GPU-ab,GPU-aa", 2)])
def test_uuids_are_checked_against_the_drivers_list(tmp_path: Path, shown: str, count: int) -> None:
    """A beginning is enough when it fits one GPU only; everything from the first misfit on is ignored."""
    gpus(tmp_path, 2)
    for n, uuid in enumerate(("GPU-aa11", "GPU-ab12")):
        put(tmp_path, f"proc/driver/nvidia/gpus/0000:0{n}:00.0/information", f"Model: \t H100\nGPU UUID: \t {uuid}\n")
    assert look(tmp_path, CUDA_VISIBLE_DEVICES=shown).accelerators == count


@pytest.mark.parametrize(("sliced", "count"), [((0, 1), 1), ((0,), 1), ((), 2)])
def test_a_gpu_in_mig_mode_is_one_instance_at_most(tmp_path: Path, sliced: tuple[int, ...], count: int) -> None:
    gpus(tmp_path, 2)
    for n in (0, 1):
        put(tmp_path, f"proc/driver/nvidia/capabilities/gpu{n}/mig/monitor")
    for n in sliced:
        put(tmp_path, f"proc/driver/nvidia/capabilities/gpu{n}/mig/gi1/ci0/access")
    hardware = look(tmp_path)
    assert hardware.accelerators == count
    assert ("MIG mode" in hardware.accelerator_source) == bool(sliced)


def test_neuron_devices_are_counted_in_cores(tmp_path: Path) -> None:
    for n in range(2):
        put(tmp_path, f"dev/neuron{n}")
    assert (look(tmp_path).accelerator_kind, look(tmp_path).neurons, look(tmp_path).gpus) == ("neuron", 4, 0)
    for core in range(4):
        (tmp_path / f"sys/devices/virtual/neuron_device/neuron0/neuron_core{core}").mkdir(parents=True)
    put(tmp_path, "sys/devices/virtual/neuron_device/neuron1/core_count", "8\n")
    assert look(tmp_path).accelerators == 12
    assert look(tmp_path, NEURON_RT_VISIBLE_CORES="0-3,8").accelerators == 5
    assert look(tmp_path, NEURON_RT_NUM_CORES="2").accelerators == 2


def test_amd_gpus_are_those_that_the_container_was_given(tmp_path: Path) -> None:
    put(tmp_path, "dev/kfd")
    for n, name in enumerate(("0", "21947", "21948", "21949")):  # the first node is the CPU
        put(tmp_path, f"sys/class/kfd/kfd/topology/nodes/{n}/gpu_id", f"{name}\n")
    for n in (128, 129):
        put(tmp_path, f"dev/dri/renderD{n}")
    assert (look(tmp_path).accelerator_kind, look(tmp_path).gpus) == ("amd", 2)
    assert look(tmp_path, HIP_VISIBLE_DEVICES="1").accelerators == 1


class Library:
    """NVIDIA's, as far as we call it."""

    def __init__(self, ready: int, count: int) -> None:
        self._ready, self._count, self.shut = ready, count, False

    def nvmlInit_v2(self) -> int:
        return self._ready

    def nvmlDeviceGetCount_v2(self, place: object) -> int:
        place._obj.value = self._count  # type: ignore[attr-defined]
        return 0

    def nvmlShutdown(self) -> int:
        self.shut = True
        return 0


def test_the_drivers_library_is_asked_where_there_are_no_nodes() -> None:
    library = Library(0, 3)
    assert count_by_nvml(lambda: library) == 3
    assert library.shut
    assert count_by_nvml(lambda: Library(9, 3)) == 0

    def missing() -> object:
        raise OSError

    assert count_by_nvml(missing) == 0


@pytest.mark.parametrize(("text", "most"), [("50000 100000\n", 1), ("150000 100000\n", 2), ("max 100000\n", 10**6)])
def test_the_cgroups_quota_caps_the_cpus(tmp_path: Path, text: str, most: int) -> None:
    put(tmp_path, "sys/fs/cgroup/cpu.max", text)
    assert look(tmp_path).cpus == max(1, min(most, len(os.sched_getaffinity(0))))


@pytest.mark.parametrize(("quota", "most"), [("50000", 1), ("-1", 10**6)])
def test_the_first_generation_of_cgroups_counts_too(tmp_path: Path, quota: str, most: int) -> None:
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_quota_us", f"{quota}\n")
    put(tmp_path, "sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "1000\n")
    assert look(tmp_path).cpus == max(1, min(most, len(os.sched_getaffinity(0))))
    assert look(tmp_path).memory_bytes == 1000


def test_the_least_limit_on_the_way_up_holds(tmp_path: Path) -> None:
    """Without a namespace of its own, a process sees the whole tree and its place in it."""
    put(tmp_path, "proc/self/cgroup", "0::/slice/job\n")
    put(tmp_path, "sys/fs/cgroup/slice/job/memory.max", "max\n")
    put(tmp_path, "sys/fs/cgroup/slice/memory.max", "5000\n")
    put(tmp_path, "sys/fs/cgroup/slice/job/cpu.max", "100000 100000\n")
    assert (look(tmp_path).memory_bytes, look(tmp_path).cpus) == (5000, 1)


def test_a_path_from_outside_of_the_container_leads_nowhere(tmp_path: Path) -> None:
    put(tmp_path, "proc/self/cgroup", "5:memory:/docker/abc\n4:cpu,cpuacct:/docker/abc\n0::/../..\n")
    put(tmp_path, "sys/fs/cgroup/memory/memory.limit_in_bytes", "7000\n")
    assert look(tmp_path).memory_bytes == 7000


@pytest.mark.parametrize(
    ("limit", "kb", "found"), [("max", 4, 4096), ("1000", 4, 1000), ("9999", 4, 4096), ("9223372036854771712", 4, 4096)]
)
def test_memory_is_the_smaller_of_machine_and_cgroup(tmp_path: Path, limit: str, kb: int, found: int) -> None:
    put(tmp_path, "proc/meminfo", f"MemFree:  1 kB\nMemTotal:       {kb} kB\n")
    put(tmp_path, "sys/fs/cgroup/memory.max", f"{limit}\n")
    assert look(tmp_path).memory_bytes == found


def test_interfaces_that_are_up_are_listed(tmp_path: Path) -> None:
    for name, flags, state in (("lo", "0x9", "unknown"), ("eth0", "0x1003", "up"), ("eth1", "0x1002", "down")):
        put(tmp_path, f"sys/class/net/{name}/flags", f"{flags}\n")
        put(tmp_path, f"sys/class/net/{name}/operstate", f"{state}\n")
    put(tmp_path, "sys/class/net/eth2/flags", "0x1003\n")
    put(tmp_path, "sys/class/net/eth2/operstate", "down\n")  # just set up: its state follows later
    put(tmp_path, "sys/class/net/bonding_masters", "")
    (tmp_path / "sys/class/net/old").mkdir()  # a kernel that hides flags and state
    assert look(tmp_path).interfaces == ("eth0", "eth2", "lo", "old")


def test_limits_of_the_process(tmp_path: Path) -> None:
    put(
        tmp_path,
        "proc/self/limits",
        "Limit                     Soft Limit           Hard Limit           Units     \n"
        "Max open files            1024                 524288               files     \n"
        "Max locked memory         8388608              8388608              bytes     \n",
    )
    assert (look(tmp_path).open_files, look(tmp_path).locked_bytes) == (1024, 8388608)
    put(tmp_path, "proc/self/limits", "Max locked memory         unlimited            unlimited            bytes\n")
    assert look(tmp_path).locked_bytes == -1


def test_the_network_is_looked_at_when_somebody_asks(tmp_path: Path) -> None:
    route = "Iface Destination Gateway Flags RefCnt Use Metric Mask MTU\neth0 00000000 0 0003 0 0 0 00000000 0\n"
    put(tmp_path, "proc/net/route", route)
    assert [item.interface for item in look(tmp_path).routes] == ["eth0"]
    alone = probe({}, str(tmp_path), network=False)
    assert (alone.routes, alone.fabric) == ((), None)


def test_this_machine_has_a_loopback_and_memory() -> None:
    hardware = probe({})
    assert "lo" in hardware.interfaces
    assert hardware.memory_bytes > 1 << 20
    assert hardware.open_files > 0
