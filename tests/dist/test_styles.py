"""The field's own launchers for real: torchrun, mpirun and DeepSpeed's form, on two hosts of this machine."""

import json
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Cluster, free_port, wait_for

needs_mpi = pytest.mark.skipif(shutil.which("mpirun") is None, reason="no mpirun here: apt-get install openmpi-bin")

REPORT = """
import json
names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "GROUP_RANK", "SM_CURRENT_HOST")
mark(f"rank-{RANK}", json.dumps([os.environ[name] for name in names]))
print("line of", RANK, "söß", flush=True)
print("error line of", RANK, file=sys.stderr, flush=True)
"""
ALL_REDUCE = """
import torch, torch.distributed as dist
dist.init_process_group("gloo")
total = torch.tensor([dist.get_rank() + 1.0])
dist.all_reduce(total)
mark(f"sum-{RANK}", int(total.item()))
dist.destroy_process_group()
"""
TOGETHER = """
def others(count=4):
    "Wait until every rank of both hosts has come so far."
    mark(f"here-{RANK}")
    deadline = time.monotonic() + 120
    home = pathlib.Path(os.environ["SAGEMAKER_BASE_DIR"]).parent
    while len(list(home.glob("*/marks/here-*"))) < count and time.monotonic() < deadline:
        time.sleep(0.01)
"""

STYLES = [pytest.param("torchrun"), pytest.param("mpi", marks=needs_mpi)]


@pytest.fixture
def start(cluster: Callable[..., Cluster]) -> Callable[..., Cluster]:
    """Start a job on ports of its own: torchrun listens on all addresses, and outlives a launcher that we kill."""

    def make(script: str, *, style: str, hosts: int = 2, procs: int = 2) -> Cluster:
        ports = {"master_port": free_port(), "remote_port": free_port()}
        job = cluster(script, hosts=hosts, procs=procs, launcher=style, **ports)
        job.start()
        return job

    return make


def codes(job: Cluster) -> list[int]:
    return [host.wait(240) for host in job.hosts.values()]


def texts(job: Cluster) -> str:
    return "\n".join(host.text for host in job.hosts.values())


def failures(job: Cluster) -> list[str]:
    return [host.failure for host in job.hosts.values()]


def no_rank_is_left(job: Cluster) -> bool:
    for host in job.hosts.values():
        for mark in host.marks("pid-*"):
            try:
                state = Path(f"/proc/{mark.read_text()}/stat").read_text().rpartition(")")[2].split()[0]
            except FileNotFoundError:
                continue
            if state != "Z":
                return False
    return True


def wait_until_ready(job: Cluster, ranks: int = 4) -> None:
    def come() -> bool:
        for host in job.hosts.values():
            assert host.process is not None
            if host.process.poll() is not None:
                host.wait()
                pytest.fail(f"{host.name} ended too early:\n{host.text}")
        return sum(len(host.marks("ready-*")) for host in job.hosts.values()) == ranks

    wait_for(come, "not all ranks came", 240)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("style", STYLES)
def test_every_rank_knows_who_it_is(start: Callable[..., Cluster], style: str, hosts: int) -> None:
    job = start(REPORT, style=style, hosts=hosts)
    assert codes(job) == [0] * hosts, texts(job)
    seen = {}
    for n in range(1, hosts + 1):
        for mark in job[n].marks("rank-*"):
            seen[mark.name] = json.loads(mark.read_text())
            assert seen[mark.name][-1] == f"algo-{n}"
    world = str(2 * hosts)
    assert seen == {
        f"rank-{rank}": [str(rank), str(rank % 2), world, "2", str(rank // 2), f"algo-{rank // 2 + 1}"]
        for rank in range(2 * hosts)
    }
    for rank in range(2 * hosts):
        prefix = f"[algo-{rank // 2 + 1} r{rank}] "
        assert f"{prefix}line of {rank} söß\n" in texts(job)
        assert f"{prefix}error line of {rank}\n" in texts(job)


@pytest.mark.parametrize("style", [*STYLES, pytest.param("deepspeed")])
def test_process_groups_form(start: Callable[..., Cluster], style: str) -> None:
    job = start(ALL_REDUCE, style=style)
    assert codes(job) == [0, 0], texts(job)
    sums = [mark.read_text() for host in job.hosts.values() for mark in host.marks("sum-*")]
    assert sums == ["10"] * 4


@pytest.mark.parametrize("failing", [0, 3])
@pytest.mark.parametrize("style", STYLES)
def test_the_cause_and_the_exit_code_of_the_script_come_through(
    start: Callable[..., Cluster], style: str, failing: int
) -> None:
    """Both launchers know nothing but exit codes, and torchrun makes a 1 of them."""
    script = TOGETHER + (
        "mark(f'pid-{RANK}', os.getpid())\nothers()\n"
        f"if RANK == {failing}:\n"
        "    import atexit\n"
        "    atexit.register(lambda: os._exit(42))\n"
        "    raise ValueError('no such thing')\n"
        "linger()\n"
    )
    job = start(script, style=style)
    assert codes(job) == [42, 42], texts(job)
    for failure in failures(job):
        assert failure.startswith(f"algo-{failing // 2 + 1} rank {failing}: ValueError: no such thing at "), texts(job)
    wait_for(lambda: no_rank_is_left(job), "a rank stayed")


@pytest.mark.parametrize("style", STYLES)
def test_a_rank_that_is_killed_is_named(start: Callable[..., Cluster], style: str) -> None:
    script = TOGETHER + "mark(f'pid-{RANK}', os.getpid())\nothers()\nif RANK == 3: os.kill(os.getpid(), 11)\nlinger()\n"
    job = start(script, style=style)
    assert codes(job) == [139, 139], texts(job)
    for failure in failures(job):
        assert failure.startswith("algo-2 rank 3: "), failure
        assert "SIGSEGV" in failure
    wait_for(lambda: no_rank_is_left(job), "a rank stayed")


@pytest.mark.parametrize("style", STYLES)
def test_a_stop_reaches_every_rank_once_and_leaves_it_time_to_save(start: Callable[..., Cluster], style: str) -> None:
    script = TOGETHER + (
        "asked = []\n"
        "signal.signal(signal.SIGTERM, lambda *_: asked.append(1))\n"
        "others()\n"
        "mark(f'ready-{RANK}')\n"
        "deadline = time.monotonic() + 240\n"
        "while not asked and time.monotonic() < deadline: time.sleep(0.01)\n"
        "until = time.monotonic() + 3\n"
        "while time.monotonic() < until: time.sleep(0.01)\n"
        "mark(f'saved-{RANK}', len(asked))\n"
    )
    job = start(script, style=style)
    wait_until_ready(job)
    job[2].signal(signal.SIGTERM)
    assert codes(job) == [0, 0], texts(job)
    saved = [mark.read_text() for host in job.hosts.values() for mark in host.marks("saved-*")]
    assert saved == ["1"] * 4, texts(job)
    assert "stopped after step 0" in job[1].text
    assert not [host.name for host in job.hosts.values() if Path(host.tree.paths.failure).exists()]


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("victim", [1, 2])
def test_a_host_that_is_lost_ends_the_others_and_is_named(
    start: Callable[..., Cluster], style: str, victim: int
) -> None:
    script = TOGETHER + "mark(f'pid-{RANK}', os.getpid())\nothers()\nmark(f'ready-{RANK}')\nlinger()\n"
    job = start(script, style=style)
    wait_until_ready(job)
    job[victim].signal(signal.SIGKILL)
    other = job[3 - victim]
    assert other.wait(240) == 2, other.text
    assert f"host algo-{victim} (ranks {2 * victim - 2}-{2 * victim - 1}) was lost" in other.failure


@needs_mpi
def test_mpi_ends_at_once_when_its_work_is_done(start: Callable[..., Cluster]) -> None:
    """The toolkit sleeps for 30 s on every host, and starts sshd even for one."""
    job = start("pass", style="mpi", hosts=1, procs=1)
    assert codes(job) == [0], texts(job)
    assert "sshd" not in job[1].text


def test_deepspeeds_argument_is_given_to_each_rank(start: Callable[..., Cluster]) -> None:
    script = 'mark(f"argv-{RANK}", sys.argv[1:])\nmark(f"cross-{RANK}", os.environ["CROSS_RANK"])\n'
    job = start(script, style="deepspeed")
    assert codes(job) == [0, 0], texts(job)
    assert [mark.read_text() for mark in job[2].marks("argv-*")] == ["['--local_rank=0']", "['--local_rank=1']"]
    assert [mark.read_text() for mark in job[2].marks("cross-*")] == ["1", "1"]
