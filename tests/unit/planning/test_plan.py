"""What would be launched and why."""

import json
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.base.frozen import replace
from runtime.contract.job import read_job
from runtime.contract.settings import resolve
from runtime.planning.fabric import Fabric
from runtime.planning.hardware import Hardware
from runtime.planning.plan import LaunchPlan, make_plan
from runtime.planning.program import Program
from tests.conftest import Tree

CPU = Hardware(cpus=8, memory_bytes=1, interfaces=("eth0", "lo"))
GPU = Hardware(cpus=96, memory_bytes=1, accelerators=8, accelerator_kind="nvidia", interfaces=("eth0", "lo"))


def plan_of(
    tree: Tree,
    hardware: Hardware = CPU,
    environ: dict[str, str] | None = None,
    addresses: dict[str, str] | None = None,
    **hyperparameters: str,
) -> LaunchPlan:
    if hyperparameters:
        tree.hyperparameters(**hyperparameters)
    environ = {"SLIPWAY_IMAGE_FILE": "/nonexistent", **(environ or {})}
    job = read_job(tree.paths, environ)
    program = Program(f"{tree.paths.code}/train.py", tree.paths.code, "sagemaker_program=train.py")
    return make_plan(job, hardware, resolve(job.hyperparameters, environ), program, environ, addresses or {})


def choice(plan: LaunchPlan, name: str) -> tuple[str, str]:
    (found,) = [choice for choice in plan.choices if choice.name == name]
    return found.value, found.reason


def test_one_rank_without_accelerators(tree: Tree) -> None:
    Path(tree.paths.config).mkdir(parents=True)
    plan = plan_of(tree)
    assert len(plan.ranks) == 1
    assert (plan.environ["WORLD_SIZE"], plan.environ["MASTER_ADDR"]) == ("1", "127.0.0.1")
    assert choice(plan, "OMP_NUM_THREADS")[0] == "8"
    assert "no accelerator" in choice(plan, "procs_per_host")[1]


def test_one_rank_per_gpu_and_the_cpus_divided(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    plan = plan_of(tree, GPU)
    assert [rank.environ["RANK"] for rank in plan.ranks] == [str(n) for n in range(16, 24)]
    assert [rank.environ["LOCAL_RANK"] for rank in plan.ranks] == [str(n) for n in range(8)]
    assert (plan.environ["WORLD_SIZE"], plan.environ["LOCAL_WORLD_SIZE"]) == ("32", "8")
    assert (plan.environ["GROUP_RANK"], plan.environ["GROUP_WORLD_SIZE"]) == ("2", "4")
    assert (plan.environ["MASTER_ADDR"], plan.environ["MASTER_PORT"]) == ("algo-1", "7777")
    assert plan.environ["OMP_NUM_THREADS"] == "12"


def test_each_rank_has_its_own_error_file(tree: Tree) -> None:
    plan = plan_of(tree, slipway_procs_per_host="3")
    assert len({rank.environ["TORCHELASTIC_ERROR_FILE"] for rank in plan.ranks}) == 3
    assert choice(plan, "procs_per_host") == ("3", "hyperparameter slipway_procs_per_host")


def test_the_mpi_hyperparameter_counts_when_ours_is_silent(tree: Tree) -> None:
    assert len(plan_of(tree, GPU, sagemaker_mpi_num_of_processes_per_host="4").ranks) == 4
    plan = plan_of(tree, GPU, sagemaker_mpi_num_of_processes_per_host="4", slipway_procs_per_host="2")
    assert len(plan.ranks) == 2


@pytest.mark.parametrize("text", ["0", "-1", "two", "1.5", ""])
def test_an_impossible_number_of_ranks_is_named_with_its_origin(tree: Tree, text: str) -> None:
    with pytest.raises(UserError, match=r"slipway_procs_per_host is .*\(from SLIPWAY_PROCS_PER_HOST\).*'auto' or a nu"):
        plan_of(tree, environ={"SLIPWAY_PROCS_PER_HOST": text}, lr="1")


def test_what_the_user_set_wins_and_the_log_says_so(tree: Tree) -> None:
    plan = plan_of(tree, environ={"OMP_NUM_THREADS": "3", "PYTHONPATH": "/mine", "MINE": "kept"}, lr="1")
    assert choice(plan, "OMP_NUM_THREADS") == ("3", "set by the user")
    assert plan.environ["OMP_NUM_THREADS"] == "3"
    assert plan.environ["PYTHONPATH"] == f"{tree.paths.code}:/mine"
    assert plan.environ["MINE"] == "kept"


def test_an_interface_that_does_not_exist_is_replaced_by_one_that_does(tree: Tree) -> None:
    """SDK v3's local mode writes `ethwe` even where no such interface exists."""
    tree.config("resourceconfig", {"hosts": ["a", "b"], "current_host": "a", "network_interface_name": "ethwe"})
    plan = plan_of(tree)
    assert plan.environ["NCCL_SOCKET_IFNAME"] == plan.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    assert choice(plan, "network_interface")[1].startswith("'ethwe' of resourceconfig.json does not exist here; the")
    lost = plan_of(tree, replace(CPU, interfaces=("lo",)))
    assert not {"NCCL_SOCKET_IFNAME", "GLOO_SOCKET_IFNAME"} & set(lost.environ)
    assert choice(lost, "network_interface")[0] == "-"


def test_an_interface_of_the_users_own_stays(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    plan = plan_of(tree, environ={"NCCL_SOCKET_IFNAME": "=ens7"})
    assert (plan.environ["NCCL_SOCKET_IFNAME"], plan.environ["GLOO_SOCKET_IFNAME"]) == ("=ens7", "eth0")
    assert choice(plan, "NCCL_SOCKET_IFNAME")[1] == "set by the user"


def test_an_interface_that_exists_is_exported_with_its_reason(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    plan = plan_of(tree)
    assert plan.environ["NCCL_SOCKET_IFNAME"] == plan.environ["GLOO_SOCKET_IFNAME"] == "eth0"
    assert "present on this host" in choice(plan, "NCCL_SOCKET_IFNAME")[1]


def test_given_addresses_are_used_instead_of_names(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    plan = plan_of(tree, addresses={"algo-1": "127.9.9.1"})
    assert plan.environ["MASTER_ADDR"] == "127.9.9.1"
    assert plan.environ["GLOO_SOCKET_IFNAME"] == "lo"
    assert "NCCL_SOCKET_IFNAME" not in plan.environ


def test_an_outer_torchruns_variables_do_not_leak_in(tree: Tree) -> None:
    plan = plan_of(tree, environ={"RANK": "7", "WORLD_SIZE": "9", "MASTER_ADDR": "old"}, lr="1")
    whole = {**plan.environ, **plan.ranks[0].environ}
    assert (whole["RANK"], whole["WORLD_SIZE"], whole["MASTER_ADDR"]) == ("0", "1", "127.0.0.1")


def test_settings_of_ours_are_not_in_the_argv(tree: Tree) -> None:
    plan = plan_of(tree, slipway_sample="3", lr="0.1", sagemaker_region="eu")
    assert plan.command[2:] == ("--lr", "0.1")


def test_every_choice_has_a_reason(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    assert all(choice.reason for choice in plan_of(tree, GPU).choices)


def test_the_fabric_of_the_host_decides_not_the_type(tree: Tree) -> None:
    tree.golden("resourceconfig_service_four_hosts")
    held = json.loads(Path(tree.paths.config, "resourceconfig.json").read_text())
    held["instance_groups"][0]["instance_type"] = "ml.p5.48xlarge"
    tree.config("resourceconfig", held)
    with_efa = replace(GPU, fabric=Fabric(efa_devices=32, efa_usable=True, plugin="/x.so"))
    plan = plan_of(tree, with_efa, environ={"FI_EFA_USE_HUGE_PAGE": "1"})
    assert (plan.environ["FI_PROVIDER"], plan.environ["FI_EFA_USE_DEVICE_RDMA"]) == ("efa", "1")
    assert choice(plan, "FI_EFA_USE_HUGE_PAGE") == ("1", "set by the user")
    assert "NCCL_PROTO" not in plan.environ
    without = plan_of(tree, replace(GPU, fabric=Fabric()))
    assert not [name for name in without.environ if name.startswith("FI_")]
    assert "at least 32 EFA devices, 0 are visible" in " ".join(without.warnings)


def test_warnings_of_limits_and_of_variables_that_do_harm(tree: Tree) -> None:
    tight = replace(GPU, shm_bytes=64 << 20, open_files=1024)
    told = " ".join(plan_of(tree, tight, environ={"RDMAV_FORK_SAFE": "1"}, lr="1").warnings)
    assert "(/dev/shm) has 64 MiB" in told
    assert "may open 1024 files" in told
    assert "RDMAV_FORK_SAFE is set by the user" in told
    assert plan_of(tree, CPU, lr="1").warnings == ()


def two_groups(tree: Tree, first: str, second: str) -> None:
    groups = [
        {"instance_group_name": "one", "instance_type": first, "hosts": ["algo-1"]},
        {"instance_group_name": "two", "instance_type": second, "hosts": ["algo-2"]},
    ]
    held = {"hosts": ["algo-1", "algo-2"], "current_host": "algo-1", "instance_groups": groups}
    tree.config("resourceconfig", {**held, "current_group_name": "one", "network_interface_name": "eth0"})


@pytest.mark.parametrize(("first", "second"), [("p4d.24xlarge", "g5.12xlarge"), ("c5.xlarge", "p5.48xlarge")])
def test_hosts_with_different_numbers_of_ranks_are_refused(tree: Tree, first: str, second: str) -> None:
    """They would wait for each other until the rendezvous gives up."""
    two_groups(tree, f"ml.{first}", f"ml.{second}")
    with pytest.raises(UserError, match=r"different numbers of accelerators.*set slipway_procs_per_host, or name"):
        plan_of(tree, GPU)
    assert plan_of(tree, GPU, slipway_procs_per_host="2").topology.world_size == 4
    groups = '["one"]'
    assert plan_of(tree, GPU, sagemaker_distribution_instance_groups=groups).topology.world_size == 8


def test_types_that_nobody_knows_are_a_warning(tree: Tree) -> None:
    two_groups(tree, "ml.p4d.24xlarge", "ml.p9.48xlarge")
    (told,) = plan_of(tree, GPU).warnings
    assert "ml.p4d.24xlarge 8, ml.p9.48xlarge unknown" in told


def test_a_host_outside_of_the_world_runs_one_process_alone(tree: Tree) -> None:
    """Settings that were made for those who train do not multiply those who feed them."""
    tree.golden("resourceconfig_heterogeneous")
    held = json.loads(Path(tree.paths.config, "resourceconfig.json").read_text())
    tree.config("resourceconfig", {**held, "current_host": "algo-1", "current_group_name": "feeders"})
    groups = '["trainers"]'
    plan = plan_of(
        tree,
        slipway_procs_per_host="8",
        sagemaker_distribution_instance_groups=groups,
        sagemaker_mpi_enabled="true",
        slipway_group_programs='{"feeders": "feed.py"}',
    )
    assert (len(plan.ranks), plan.topology.world_size, plan.style) == (1, 1, "own")
    assert plan.topology.all_hosts == ("algo-1", "algo-2", "algo-3")
    assert "outside of the distribution groups" in choice(plan, "world_size")[1]
    assert plan.environ["MASTER_ADDR"] == "127.0.0.1"
