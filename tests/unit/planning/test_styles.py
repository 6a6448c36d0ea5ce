"""Who starts the ranks, and with which command; the real launchers run in tests/dist/test_styles.py."""

import os
import sys
from pathlib import Path

import pytest

from runtime.base.errors import UserError
from runtime.contract.drivers import read_drivers
from runtime.contract.job import read_job
from runtime.contract.settings import resolve
from runtime.planning.adapters import Tools, find_tools
from runtime.planning.hardware import Hardware
from runtime.planning.plan import LaunchPlan, make_plan
from runtime.planning.program import Program
from runtime.planning.styles import STYLES
from tests.conftest import Tree

ALL = Tools(mpirun="/usr/bin/mpirun", smddprun="/opt/smddprun", torch=True, smp_v1=True)
MACHINE = Hardware(cpus=8, memory_bytes=1, accelerators=4, accelerator_kind="nvidia", interfaces=("eth0", "lo"))
KEEPER = ("-I", "-m", "runtime.launch.keeper")


def plan_of(
    tree: Tree,
    tools: Tools = ALL,
    hosts: int = 2,
    current: int = 1,
    environ: dict[str, str] | None = None,
    distributed: object = None,
    **given: str,
) -> LaunchPlan:
    names = [f"algo-{n}" for n in range(1, hosts + 1)]
    tree.config("resourceconfig", {"hosts": names, "current_host": f"algo-{current}", "network_interface_name": "eth0"})
    tree.hyperparameters(**{"lr": "0.1", **given})
    environ = {"SLIPWAY_IMAGE_FILE": "/nonexistent", **(environ or {})}
    job = read_job(tree.paths, environ)
    if distributed is not None:
        tree.drivers(distributed, source_dir="src", entry_script="train.py")
    drivers = read_drivers(tree.paths, environ)
    program = Program(f"{tree.paths.code}/train.py", tree.paths.code, "sagemaker_program=train.py", drivers=drivers)
    settings = resolve(job.hyperparameters, environ)
    return make_plan(job, MACHINE, settings, program, environ, {}, lambda _: tools)


def reason(plan: LaunchPlan, name: str = "launcher") -> str:
    return next(choice.reason for choice in plan.choices if choice.name == name)


@pytest.mark.parametrize(
    ("given", "style", "why"),
    [
        ({}, "own", "default"),
        ({"slipway_launcher": "torchrun"}, "torchrun", "hyperparameter slipway_launcher"),
        ({"sagemaker_torch_distributed_enabled": "true"}, "own", "own gives torchrun's environment without its start"),
        ({"sagemaker_pytorch_ddp_enabled": "true"}, "own", "sagemaker_pytorch_ddp_enabled: own gives"),
        ({"sagemaker_mpi_enabled": "true"}, "mpi", "sagemaker_mpi_enabled"),
        ({"sagemaker_mpi_enabled": "false"}, "own", "default"),
        ({"sagemaker_mpi_enabled": "true", "sagemaker_pytorch_ddp_enabled": "true"}, "mpi", "sagemaker_mpi_enabled"),
        ({"sagemaker_mpi_enabled": "true", "slipway_launcher": "own"}, "own", "hyperparameter slipway_launcher"),
        ({"sagemaker_distributed_dataparallel_enabled": "true"}, "smddp", "sagemaker_distributed_dataparallel_enabled"),
        ({"sagemaker_mpi_enabled": "true", "mp_parameters": '{"a": 2}'}, "smp", "mp_parameters and sagemaker_mpi"),
        ({"sagemaker_mpi_enabled": "true", "mp_parameters": "{}"}, "mpi", "sagemaker_mpi_enabled"),
    ],
)
def test_our_setting_chooses_then_the_sdks_switches(tree: Tree, given: dict[str, str], style: str, why: str) -> None:
    plan = plan_of(tree, **given)
    assert plan.style == style
    assert why in reason(plan)


def test_every_style_has_a_plan_on_every_host(tree: Tree) -> None:
    for style in STYLES:
        for current in (1, 2):
            plan = plan_of(tree, current=current, slipway_launcher=style, mp_parameters='{"partitions": 2}')
            assert plan.style == style
            assert plan.ranks
            assert plan.ranks[0].rank == 4 * (current - 1)
            assert all(choice.reason for choice in plan.choices)


def test_torchrun_gets_one_agent_per_host_with_a_static_rendezvous(tree: Tree) -> None:
    plan = plan_of(tree, current=2, slipway_launcher="torchrun", slipway_stop_grace_s="60")
    assert plan.command == (
        *(sys.executable, "-P", "-m", "torch.distributed.run"),
        *("--nnodes=2", "--nproc-per-node=4", "--node-rank=1", "--master-addr=algo-1", "--master-port=7777"),
        *("--rdzv-id=local", "--max-restarts=0", "--no-python"),
        *(sys.executable, *KEEPER, "--prefix", sys.executable, f"{tree.paths.code}/train.py", "--lr", "0.1"),
    )
    (agent,) = plan.ranks
    assert (agent.rank, agent.adapter, agent.command) == (4, True, ())
    assert plan.environ["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] == "60"
    assert not {"RANK", "LOCAL_RANK"} & {*plan.environ, *agent.environ}


def test_an_outer_launchers_rank_does_not_reach_the_ranks_of_an_inner_one(tree: Tree) -> None:
    plan = plan_of(tree, environ={"RANK": "7", "LOCAL_RANK": "7"}, slipway_launcher="mpi")
    assert not {"RANK", "LOCAL_RANK"} & set(plan.environ)


def test_mpirun_runs_on_the_coordinator_and_counts_all_ranks(tree: Tree) -> None:
    """SDK v3's driver takes the processes of one host for those of all."""
    plan = plan_of(tree, slipway_launcher="mpi", sagemaker_mpi_custom_mpi_options="--verbose -x 'A=b c'")
    assert plan.command == (
        *("/usr/bin/mpirun", "--host", "algo-1:4,algo-2:4", "-np", "8", "--verbose", "-x", "A=b c"),
        *(sys.executable, *KEEPER, "--prefix", sys.executable, f"{tree.paths.code}/train.py", "--lr", "0.1"),
    )
    assert plan.environ["OMPI_MCA_plm_rsh_agent"] == f"{sys.executable} -I -m runtime.launch.remote"
    assert plan.environ["OMPI_MCA_oob_tcp_if_include"] == plan.environ["OMPI_MCA_btl_tcp_if_include"] == "eth0"


def test_the_other_hosts_wait_to_be_asked(tree: Tree) -> None:
    plan = plan_of(tree, current=2, slipway_launcher="mpi")
    assert plan.command == (sys.executable, "-I", "-m", "runtime.launch.remote", "serve")
    assert plan.environ["SM_CURRENT_HOST"] == "algo-2"


def test_mpi_on_one_host_needs_no_agent(tree: Tree) -> None:
    plan = plan_of(tree, hosts=1, slipway_launcher="mpi")
    assert plan.command[1:5] == ("--host", "localhost:4", "-np", "4")
    assert not [name for name in plan.environ if "rsh" in name or "if_include" in name]


def test_mpi4py_is_used_where_it_is(tree: Tree) -> None:
    tools = Tools(mpirun="/usr/bin/mpirun", mpi4py=True)
    words = plan_of(tree, tools, slipway_launcher="mpi").command
    at = words.index("mpi4py")
    assert words[at - 2 : at + 2] == (sys.executable, "-m", "mpi4py", f"{tree.paths.code}/train.py")


def test_parameters_of_mpi_that_the_user_set_stay(tree: Tree) -> None:
    plan = plan_of(tree, environ={"OMPI_MCA_pml": "cm"}, slipway_launcher="mpi")
    assert plan.environ["OMPI_MCA_pml"] == "cm"
    assert reason(plan, "OMPI_MCA_pml") == "set by the user"


def test_options_that_are_no_words_are_named(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"sagemaker_mpi_custom_mpi_options is .*no list of words"):
        plan_of(tree, slipway_launcher="mpi", sagemaker_mpi_custom_mpi_options="-x 'A=b")


def test_deepspeed_needs_neither_ssh_nor_a_hostfile(tree: Tree) -> None:
    plan = plan_of(tree, current=2, slipway_launcher="deepspeed")
    assert [rank.command[1:] for rank in plan.ranks] == [
        (f"{tree.paths.code}/train.py", f"--local_rank={n}", "--lr", "0.1") for n in range(4)
    ]
    assert [plan.environ[name] for name in ("CROSS_RANK", "CROSS_SIZE", "LOCAL_SIZE")] == ["1", "2", "4"]
    assert [rank.environ["RANK"] for rank in plan.ranks] == ["4", "5", "6", "7"]


def test_smddp_is_mpi_with_its_own_runner(tree: Tree) -> None:
    plan = plan_of(tree, slipway_launcher="smddp")
    at = plan.command.index("/opt/smddprun")
    assert plan.command[at + 1] == sys.executable
    assert plan.environ["SMDATAPARALLEL_USE_HOMOGENEOUS"] == "1"
    assert [plan.environ[f"SMDATAPARALLEL_SERVER_{name}"] for name in ("ADDR", "PORT")] == ["algo-1", "7592"]
    assert plan_of(tree, hosts=1, slipway_launcher="smddp").environ["SMDATAPARALLEL_USE_SINGLENODE"] == "1"


def test_version_2_of_smp_needs_torchruns_environment_only(tree: Tree) -> None:
    tools = Tools(torch=True, smp_v2=True)
    plan = plan_of(tree, tools, sagemaker_torch_distributed_enabled="true", mp_parameters='{"hybrid_shard_degree": 2}')
    assert (plan.style, len(plan.ranks), plan.ranks[0].adapter) == ("smp", 4, False)


@pytest.mark.parametrize(
    ("style", "words"),
    [
        ("mpi", "needs Open MPI (mpirun is not on PATH), which this image lacks. Fix: install it"),
        ("torchrun", "needs torch, which this image lacks"),
        ("smddp", "needs SageMaker's data parallel library (smddprun"),
        ("smp", "neither smdistributed.modelparallel nor torch.sagemaker"),
    ],
)
def test_what_the_image_lacks_is_named_with_the_way_out(tree: Tree, style: str, words: str) -> None:
    with pytest.raises(UserError) as caught:
        plan_of(tree, Tools(), slipway_launcher=style, mp_parameters='{"a": 1}')
    assert f"The launch style '{style}' (from hyperparameter slipway_launcher) needs" in str(caught.value)
    assert words in str(caught.value)


def test_smp_without_its_parameters_is_refused(tree: Tree) -> None:
    with pytest.raises(UserError, match="needs the hyperparameter mp_parameters"):
        plan_of(tree, slipway_launcher="smp")


def test_an_unknown_style_is_named_with_the_others(tree: Tree) -> None:
    with pytest.raises(UserError, match=r"slipway_launcher is 'pdsh'.*own, torchrun, mpi, deepspeed, smddp, smp"):
        plan_of(tree, slipway_launcher="pdsh")


def test_tools_are_found_without_starting_them(tmp_path: Path) -> None:
    for name in ("mpirun", "smddprun"):
        (tmp_path / name).write_text("")
        (tmp_path / name).chmod(0o755)
    packages = tmp_path / "site-packages"
    for name in ("torch/sagemaker", "mpi4py", "smdistributed/modelparallel"):
        (packages / name).mkdir(parents=True)
    found = find_tools({"PATH": f"/nowhere:{tmp_path}"}, [str(packages), str(tmp_path / "lib")])
    assert found == Tools(f"{tmp_path}/mpirun", f"{tmp_path}/smddprun", True, True, True, True)
    assert find_tools({"PATH": "/nowhere"}, []) == Tools()
    (tmp_path / "mpirun").chmod(0o644)
    if os.access(tmp_path / "mpirun", os.X_OK) is False:
        assert find_tools({"PATH": str(tmp_path)}, []).mpirun == ""


def test_mpi_of_sdk_v3_starts_a_rank_for_every_process_of_every_host(tree: Tree) -> None:
    """Its own driver starts as many as one host should have: it passes the number of one host to ``-np``."""
    asked = {"process_count_per_node": 3, "mpi_additional_options": ["--verbose", "-x", "NCCL_DEBUG=INFO"]}
    plan = plan_of(tree, distributed=asked)
    assert (plan.style, reason(plan)) == ("mpi", "distributed.json of SDK v3")
    command = list(plan.command)
    assert command[command.index("-np") + 1] == "6"
    assert command[command.index("--host") + 1] == "algo-1:3,algo-2:3"
    assert [word for word in command if word in ("--verbose", "NCCL_DEBUG=INFO")] == ["--verbose", "NCCL_DEBUG=INFO"]


def test_torchrun_of_sdk_v3_is_our_own_launcher_with_its_number_of_processes(tree: Tree) -> None:
    plan = plan_of(tree, distributed={"process_count_per_node": 3, "smp": None})
    assert (plan.style, len(plan.ranks)) == ("own", 3)
    assert "own gives torchrun's environment" in reason(plan)
    assert reason(plan, "procs_per_host") == "process_count_per_node of the SDK's distributed.json"
    assert plan_of(tree, distributed={"process_count_per_node": 3, "smp": None}, slipway_procs_per_host="2").ranks[1:]
