"""EFA and NCCL variables: from what is here, one table, each with its reason."""

from pathlib import Path

import pytest

from runtime.planning.fabric import RULES, Fabric, look, variables, version, warnings
from runtime.planning.instances import INSTANCES, family

NEW = Fabric(8, True, 0, "/opt/x.so", (1, 49, 0), (2, 1, 0), (1, 16, 0), (2, 27, 3), (6, 1, 0))
OLD = Fabric(4, True, 0, "/opt/x.so", (1, 20, 0), (1, 16, 1), (1, 5, 0), (2, 19, 3), (5, 10, 0))
UNKNOWN = Fabric(4, True, 0, "/opt/x.so")


def names(fabric: Fabric, instance_type: str, kind: str = "nvidia", hosts: int = 2, nproc: int = 8) -> dict[str, str]:
    return {name: value for name, value, _ in variables(fabric, kind, instance_type, hosts, nproc)}


def put(root: Path, name: str, text: str = "") -> None:
    (root / name).parent.mkdir(parents=True, exist_ok=True)
    (root / name).write_text(text)


def device(root: Path, name: str, driver: str) -> None:
    home = root / "sys/class/infiniband" / name / "device"
    home.mkdir(parents=True)
    (root / f"sys/bus/pci/drivers/{driver}").mkdir(parents=True, exist_ok=True)
    (home / "driver").symlink_to(root / f"sys/bus/pci/drivers/{driver}")


@pytest.mark.parametrize(
    "instance_type", ["ml.p5.48xlarge", "ml.p5en.48xlarge", "ml.p6-b200.48xlarge", "ml.p4d.24xlarge"]
)
def test_new_libraries_need_next_to_nothing(instance_type: str) -> None:
    assert names(NEW, instance_type) == {"FI_EFA_USE_HUGE_PAGE": "0"}


def test_old_libraries_get_what_the_cheat_sheet_says() -> None:
    assert names(OLD, "ml.p4d.24xlarge") == {
        "FI_PROVIDER": "efa",
        "NCCL_PROTO": "simple",
        "FI_EFA_USE_DEVICE_RDMA": "1",
        "FI_EFA_FORK_SAFE": "1",
        "FI_EFA_USE_HUGE_PAGE": "0",
        "FI_EFA_SET_CUDA_SYNC_MEMOPS": "0",
    }


def test_unknown_versions_get_what_does_no_harm_and_no_protocol() -> None:
    given = names(UNKNOWN, "ml.p5.48xlarge")
    assert given == {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1", "FI_EFA_USE_HUGE_PAGE": "0"}


def test_old_libfabric_alone_still_needs_to_be_told_of_rdma() -> None:
    fabric = Fabric(4, True, 0, "/x.so", (1, 25), (1, 17, 1), (1, 7, 3), (2, 18), (6, 1))
    assert names(fabric, "ml.p4de.24xlarge")["FI_EFA_USE_DEVICE_RDMA"] == "1"
    assert "libfabric before 1.18" in next(
        reason for name, _, reason in variables(fabric, "nvidia", "ml.p4de.24xlarge", 2, 8) if "RDMA" in name
    )


def test_efa_without_gpudirect_is_not_told_of_rdma() -> None:
    assert "FI_EFA_USE_DEVICE_RDMA" not in names(UNKNOWN, "ml.g5.48xlarge")


def test_one_host_needs_no_fabric() -> None:
    assert names(OLD, "ml.p4d.24xlarge", hosts=1) == {}


@pytest.mark.parametrize("instance_type", ["ml.g5.48xlarge", "ml.g6.12xlarge", "ml.g6e.48xlarge"])
def test_gpus_without_nvlink_copy_through_shared_memory(instance_type: str) -> None:
    assert names(Fabric(), instance_type, hosts=1) == {"NCCL_SHM_USE_CUDA_MEMCPY": "1"}
    assert names(Fabric(), instance_type, hosts=1, nproc=1) == {}


def test_a_type_with_efa_but_no_device_gets_nothing_but_a_warning() -> None:
    """The stock lists go by the type's name, and then hang where the container has no device."""
    assert names(Fabric(), "ml.p5.48xlarge") == {}
    (told,) = warnings(Fabric(), "nvidia", "ml.p5.48xlarge", 2, -1)
    assert "at least 32 EFA devices, 0 are visible" in told
    assert warnings(Fabric(), "nvidia", "ml.p5.48xlarge", 1, -1) == []


def test_the_plugin_on_a_host_without_efa_is_kept_away() -> None:
    fabric = Fabric(plugin="/opt/amazon/ofi-nccl/lib64/libnccl-net.so")
    assert names(fabric, "ml.g5.xlarge") == {"NCCL_SHM_USE_CUDA_MEMCPY": "1", "NCCL_NET": "Socket"}
    assert names(fabric, "ml.g5.xlarge", hosts=1, nproc=1) == {}
    assert names(Fabric(other_rdma=2, plugin="/x.so"), "local") == {}
    assert names(fabric, "local", kind="none") == {}


def test_trainium() -> None:
    assert names(NEW, "ml.trn2.48xlarge", "neuron") == {"FI_PROVIDER": "efa", "FI_EFA_USE_DEVICE_RDMA": "1"}
    assert "FI_EFA_FORK_SAFE" in names(OLD, "ml.trn1.32xlarge", "neuron")


def test_warnings_name_what_is_missing() -> None:
    told = " ".join(warnings(Fabric(32, False), "nvidia", "ml.p5.48xlarge", 2, 65536))
    assert "/dev/infiniband has none" in told
    assert "no aws-ofi-nccl plugin" in told
    assert "(memlock) is 64 KiB" in told
    told = " ".join(
        warnings(Fabric(32, True, 0, "/x", ofi_nccl=(1, 7, 1), nccl=(2, 17)), "nvidia", "ml.p5.48xlarge", 2, -1)
    )
    assert "nccl 2.17 is too old for ml.p5.48xlarge: 2.18 is the least" in told
    assert "ofi_nccl 1.7.1 is too old" in told
    assert warnings(NEW, "nvidia", "ml.p6-b200.48xlarge", 2, -1) == []


def test_every_row_has_a_reason_and_rdmav_is_never_set() -> None:
    assert all(rule.reason for rule in RULES)
    assert not [rule for rule in RULES if rule.variable.startswith("RDMAV")]
    assert all(reason.endswith("]") for _, _, reason in variables(OLD, "nvidia", "ml.p4d.24xlarge", 2, 8))


def test_a_bare_machine_has_no_fabric(tmp_path: Path) -> None:
    assert look(str(tmp_path), []) == Fabric()


def test_devices_and_versions_are_read_from_files(tmp_path: Path) -> None:
    for name in ("rdmap0s6", "rdmap1s6"):
        device(tmp_path, name, "efa")
    device(tmp_path, "mlx5_0", "mlx5_core")
    put(tmp_path, "dev/infiniband/uverbs0")
    put(tmp_path, "opt/amazon/ofi-nccl/lib64/libnccl-net.so")
    put(
        tmp_path,
        "opt/amazon/efa_installed_packages",
        "# EFA installer version: 1.38.0\n# Debug packages installed: no\n# Packages installed:\n"
        "ibacm_54.0-1_amd64 libfabric-aws-bin_1.22.0amzn4.0_amd64 libfabric1-aws_1.22.0amzn4.0_amd64 "
        "libnccl-ofi_1.13.2-1_amd64 openmpi40-aws_4.1.7-1_amd64\n",
    )
    put(tmp_path, "proc/sys/kernel/osrelease", "5.15.0-1070-aws\n")
    packages = tmp_path / "usr/lib/python3/dist-packages"
    (packages / "nvidia_nccl_cu12-2.27.3.dist-info").mkdir(parents=True)
    assert look(str(tmp_path), [str(packages)]) == Fabric(
        efa_devices=2,
        efa_usable=True,
        other_rdma=1,
        plugin="/opt/amazon/ofi-nccl/lib64/libnccl-net.so",
        installer=(1, 38, 0),
        libfabric=(1, 22, 0),
        ofi_nccl=(1, 13, 2),
        nccl=(2, 27, 3),
        kernel=(5, 15, 0),
    )


def test_packages_of_amazon_linux_and_pkgconfig(tmp_path: Path) -> None:
    device(tmp_path, "efa_0", "efa")
    listed = "EFA installer version: 1.30.0\nlibnccl-ofi-1.9.1-1.amzn2.x86_64\n"
    put(tmp_path, "opt/amazon/efa_installed_packages", listed)
    put(
        tmp_path,
        "opt/amazon/efa/lib64/pkgconfig/libfabric.pc",
        "prefix=/opt\nName: libfabric\nVersion: 1.19.0amzn3.0\n",
    )
    found = look(str(tmp_path), [])
    assert (found.installer, found.ofi_nccl, found.libfabric) == ((1, 30, 0), (1, 9, 1), (1, 19, 0))
    assert not found.efa_usable


@pytest.mark.parametrize(
    ("text", "numbers"), [("1.2.3", (1, 2, 3)), ("2.1amzn3", (2, 1)), ("", ()), ("v1", ()), ("7", (7,)), ("1.a", (1,))]
)
def test_versions(text: str, numbers: tuple[int, ...]) -> None:
    assert version(text) == numbers


def test_the_types_that_stock_lists_lack_are_known() -> None:
    for name in (
        "p5e.48xlarge",
        "p5en.48xlarge",
        "p6-b200.48xlarge",
        "p6e-gb200.36xlarge",
        "g6e.48xlarge",
        "trn2.48xlarge",
    ):
        assert f"ml.{name}" in INSTANCES
    assert all(name.startswith("ml.") and item.processes > 0 for name, item in INSTANCES.items())
    assert (family("ml.p5en.48xlarge"), family("local")) == ("p5en", "")
