"""One launcher and its ranks: real processes, real signals, plain Python in the ranks, one cause in the end."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import Cluster, HostProcess, wait_for

Make = Callable[..., Cluster]


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and waits for its parent is not alive."""
    try:
        with open(f"/proc/{pid}/stat") as stream:
            return stream.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def pid_of(host: HostProcess, name: str) -> int:
    wait_for(lambda: host.marks(name), f"no mark {name}")
    return int(host.marks(name)[0].read_text())


def run_one(cluster: Make, script: str, **options: object) -> HostProcess:
    job = cluster(script, **options)
    job.start()
    job[1].wait()
    return job[1]


def code_of(host: HostProcess) -> int:
    assert host.process is not None
    return host.process.returncode


def test_a_rank_that_ends_well_completes_the_job(cluster: Make) -> None:
    host = run_one(cluster, "print('out'); print('err', file=sys.stderr)")
    assert code_of(host) == 0
    assert Path(host.tree.paths.success).exists()
    assert not Path(host.tree.paths.failure).exists()
    assert not Path(host.tree.paths.stopped).exists()
    assert {"out", "err"} <= set(host.text.splitlines())


def test_every_rank_is_told_its_place(cluster: Make) -> None:
    host = run_one(
        cluster,
        "mark(f'place-{RANK}', ' '.join(os.environ[n] for n in"
        " ('RANK', 'LOCAL_RANK', 'WORLD_SIZE', 'LOCAL_WORLD_SIZE', 'MASTER_ADDR')))",
        procs=3,
    )
    assert [path.read_text() for path in host.marks("place-*")] == [
        f"{n} {n} 3 3 {host_address(host)}" for n in range(3)
    ]


def host_address(host: HostProcess) -> str:
    assert host.process is not None
    return "127." + host.marks("place-0")[0].read_text().rpartition(" 127.")[2]


def test_lines_of_several_ranks_carry_their_rank_and_of_one_rank_nothing(cluster: Make) -> None:
    several = run_one(cluster, "print(f'I am {RANK}')", procs=2)
    assert {"[algo-1 r0] I am 0", "[algo-1 r1] I am 1"} <= set(several.text.splitlines())
    alone = run_one(cluster, "print('  as it is  ')")
    assert "  as it is  " in alone.text.splitlines()


@pytest.mark.parametrize(
    ("ending", "code"), [("sys.exit(3)", 3), ("sys.exit(255)", 255), ("print('b'); sys.exit(1)", 1)]
)
def test_the_users_exit_code_is_ours(cluster: Make, ending: str, code: int) -> None:
    host = run_one(cluster, ending)
    assert code_of(host) == code
    assert host.failure.startswith(f"algo-1 rank 0: the program ended with exit code {code}")
    assert not Path(host.tree.paths.success).exists()


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT, signal.SIGTERM])
def test_death_by_a_signal_is_128_plus_n_and_named(cluster: Make, number: signal.Signals) -> None:
    host = run_one(cluster, f"os.kill(os.getpid(), {int(number)})")
    assert code_of(host) == 128 + number
    assert f"algo-1 rank 0: killed by {number.name} (exit code {128 + number})" in host.failure


def test_the_last_words_of_the_failed_rank_are_the_reason(cluster: Make) -> None:
    host = run_one(cluster, "raise KeyError('lost label')")
    assert host.failure.startswith("algo-1 rank 0: KeyError: 'lost label' at ")
    assert "code/train.py:" in host.failure
    assert "Traceback (most recent call last):" in host.text


def test_what_is_printed_at_exit_does_not_hide_the_exception(cluster: Make) -> None:
    host = run_one(
        cluster, "import atexit\natexit.register(lambda: print('noise', file=sys.stderr))\nraise KeyError('lost label')"
    )
    assert host.failure.startswith("algo-1 rank 0: KeyError: 'lost label' at ")


def test_the_failure_file_of_the_script_is_the_reason(cluster: Make) -> None:
    words = "open(os.environ['SM_OUTPUT_FAILURE'], 'w').write('the licence has expired')\nsys.exit(5)"
    host = run_one(cluster, words)
    assert code_of(host) == 5
    assert "the licence has expired" in host.failure


def test_who_leaves_early_without_an_error_is_named(cluster: Make) -> None:
    """What the other rank feels is no cause; that somebody had left is."""
    script = """
if os.environ['RANK'] == '1':
    mark('gone')
    sys.exit(0)
while not (MARKS / 'gone').exists():
    time.sleep(0.01)
time.sleep(0.3)
sys.exit('RuntimeError: gloo/transport/tcp/pair.cc: Connection closed by peer')
"""
    host = run_one(cluster, script, procs=2)
    assert host.failure.startswith("algo-1: rank 1 ended with exit code 0 while other ranks were still at work")


def test_a_torchelastic_record_is_the_reason(cluster: Make) -> None:
    record = {"message": {"message": "ValueError: from the record", "extraInfo": {"timestamp": 1}}}
    host = run_one(
        cluster,
        f"open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w').write({json.dumps(record)!r})\nsys.exit(9)",
    )
    assert (code_of(host), host.failure) == (9, "algo-1 rank 0: ValueError: from the record")


def test_one_failed_rank_ends_the_others_and_the_job(cluster: Make) -> None:
    script = """
mark(f"pid-{RANK}", os.getpid())
if RANK == 1:
    while not all((MARKS / f"pid-{n}").exists() for n in range(3)): time.sleep(0.01)
    sys.exit(7)
linger()
"""
    host = run_one(cluster, script, procs=3)
    assert code_of(host) == 7
    assert host.failure.startswith("algo-1 rank 1: ")
    assert not any(is_alive(pid_of(host, f"pid-{n}")) for n in range(3))


def test_the_cause_wins_over_a_consequence_that_came_earlier(cluster: Make) -> None:
    """A survivor may crash before the rank that it depended on has been reaped."""
    script = """
if RANK == 0:
    mark("felt")
    sys.exit("RuntimeError: [gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
if RANK == 1:
    while not (MARKS / "felt").exists(): time.sleep(0.01)
    time.sleep(0.3)  # the symptom is seen well before the cause
    sys.stderr.write("ValueError: the real one"); sys.exit(5)
linger()
"""
    host = run_one(cluster, script, procs=3)
    assert code_of(host) == 5
    assert host.failure == "algo-1 rank 1: the program ended with exit code 5: ValueError: the real one"
    assert "a consequence: waiting for the cause" in host.text


def test_a_consequence_without_a_cause_is_reported_after_all(cluster: Make) -> None:
    host = run_one(cluster, "sys.exit('Connection reset by peer')")
    assert code_of(host) == 1
    assert "Connection reset by peer" in host.failure


def test_a_rank_that_ignores_the_end_is_killed(cluster: Make) -> None:
    script = """
if RANK == 0:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    mark("pid-0", os.getpid())
    linger()
while not (MARKS / "pid-0").exists(): time.sleep(0.01)
sys.exit(4)
"""
    host = run_one(cluster, script, procs=2)
    assert code_of(host) == 4
    assert host.failure.startswith("algo-1 rank 1")
    assert not is_alive(pid_of(host, "pid-0"))


WITH_CHILD = """
child = subprocess.Popen([sys.executable, "-S", "-c", '''
import os, pathlib, signal, sys, time
def told(number, frame):
    pathlib.Path(sys.argv[1], "child-told").write_text("x")
signal.signal(signal.SIGTERM, told)
pathlib.Path(sys.argv[1], "child-ready").write_text("x")
end = time.monotonic() + 30
while time.monotonic() < end: time.sleep(0.01)
''', str(MARKS)])
mark("pid-child", child.pid)
while not (MARKS / "child-ready").exists(): time.sleep(0.01)
"""


def test_sigterm_goes_to_the_ranks_and_not_to_their_children(cluster: Make) -> None:
    """A loader worker must live while its rank saves."""
    script = (
        WITH_CHILD
        + """
def stop(number, frame):
    mark("alive" if child.poll() is None and not (MARKS / "child-told").exists() else "dead")
    mark("saved")
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
mark("ready")
linger()
"""
    )
    job = cluster(script)
    job.start()
    host = job[1]
    wait_for(lambda: host.marks("ready"), "the rank did not start")
    host.signal(signal.SIGTERM)
    assert host.wait() == 0
    assert host.marks("saved")
    assert host.marks("alive")
    assert not host.marks("child-told")
    assert not is_alive(pid_of(host, "pid-child")), "the child was left behind"
    stopped = json.loads(Path(host.tree.paths.stopped).read_text())
    assert stopped == {"step": 0, "reason": "SIGTERM"}
    assert not Path(host.tree.paths.success).exists()
    assert not Path(host.tree.paths.failure).exists()


def test_sigint_stops_as_well(cluster: Make) -> None:
    job = cluster("signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))\nmark('ready')\nlinger()")
    job.start()
    wait_for(lambda: job[1].marks("ready"), "the rank did not start")
    job[1].signal(signal.SIGINT)
    assert job[1].wait() == 0
    assert json.loads(Path(job[1].tree.paths.stopped).read_text())["reason"] == "SIGINT"


@pytest.mark.parametrize("handler", ["signal.SIG_DFL", "lambda *_: sys.exit(143)"])
def test_a_rank_that_dies_of_the_stop_went_as_asked(cluster: Make, handler: str) -> None:
    job = cluster(f"signal.signal(signal.SIGTERM, {handler})\nmark('ready')\nlinger()")
    job.start()
    wait_for(lambda: job[1].marks("ready"), "the rank did not start")
    job[1].signal(signal.SIGTERM)
    assert job[1].wait() == 0
    assert Path(job[1].tree.paths.stopped).exists()


def test_a_rank_that_fails_while_stopping_fails_the_job(cluster: Make) -> None:
    job = cluster("signal.signal(signal.SIGTERM, lambda *_: sys.exit('cannot save'))\nmark('ready')\nlinger()")
    job.start()
    wait_for(lambda: job[1].marks("ready"), "the rank did not start")
    job[1].signal(signal.SIGTERM)
    assert job[1].wait() == 1
    assert "cannot save" in job[1].failure
    assert not Path(job[1].tree.paths.stopped).exists()


def test_the_grace_ends_and_the_cause_says_so(cluster: Make) -> None:
    job = cluster("signal.signal(signal.SIGTERM, signal.SIG_IGN)\nmark('ready')\nlinger()", stop_grace_s=1)
    job.start()
    wait_for(lambda: job[1].marks("ready"), "the rank did not start")
    job[1].signal(signal.SIGTERM)
    assert job[1].wait() == 137
    assert job[1].failure == "algo-1 rank 0: did not end within 1 s of SIGTERM and was killed"


def test_a_second_signal_ends_at_once_and_the_cause_says_so(cluster: Make) -> None:
    script = "signal.signal(signal.SIGTERM, lambda *_: mark('told'))\nmark('ready')\nlinger()"
    job = cluster(script)
    job.start()
    wait_for(lambda: job[1].marks("ready"), "the rank did not start")
    job[1].signal(signal.SIGINT)
    wait_for(lambda: job[1].marks("told"), "the rank was not told")
    job[1].signal(signal.SIGINT)
    assert job[1].wait() == 137
    assert "killed by a second Ctrl-C (SIGINT)" in job[1].failure
    assert "out of memory" not in job[1].failure


def test_what_ranks_leave_behind_is_ended_and_holds_up_nobody(cluster: Make) -> None:
    """The child keeps the rank's pipes open: the end must not wait for it."""
    host = run_one(cluster, WITH_CHILD + "print('last words', end='')")
    assert code_of(host) == 0
    assert "last words" in host.text
    wait_for(lambda: not is_alive(pid_of(host, "pid-child")), "the child was left alive")  # a kill takes its time


def test_orphans_are_reaped_where_we_are_the_init(cluster: Make) -> None:
    """As PID 1 we inherit every orphan; a subreaper is the same without a container."""
    script = """
subprocess.run(["/bin/sh", "-c", f"(exec sleep 0.05) & echo $! > {MARKS}/.orphan; mv {MARKS}/.orphan {MARKS}/orphan"])
orphan = int((MARKS / "orphan").read_text())
end = time.monotonic() + 10
while os.path.exists(f"/proc/{orphan}") and time.monotonic() < end: time.sleep(0.01)
mark("reaped" if not os.path.exists(f"/proc/{orphan}") else "zombie")
"""
    job = cluster(script)
    wrapper = job[1].tree.base.parent / "as_init.py"
    wrapper.write_text(
        "import ctypes, runpy\n"
        "assert ctypes.CDLL(None).prctl(36, 1, 0, 0, 0) == 0  # PR_SET_CHILD_SUBREAPER\n"
        "runpy.run_module('runtime.launch.launcher', run_name='__main__')\n"
    )
    job.start(launcher=[str(wrapper)])
    assert job[1].wait() == 0
    assert job[1].marks("reaped")


def test_records_of_an_earlier_run_in_the_same_tree_are_not_believed(cluster: Make) -> None:
    job = cluster("sys.exit(0)")
    paths = job[1].tree.paths
    Path(paths.state).mkdir(parents=True)
    (Path(paths.state) / "end-rank-0.json").write_text('{"status": "stopped", "step": 99, "reason": "old"}')
    (Path(paths.state) / "error-rank-0.json").write_text('{"message": "old error"}')
    for stale in (Path(paths.failure), Path(paths.stopped), Path(paths.success)):
        stale.write_text("old")
    job.start()
    assert job[1].wait() == 0
    assert Path(paths.success).exists()
    assert not Path(paths.stopped).exists()
    assert not Path(paths.failure).exists()


def test_a_stop_before_the_start_is_a_stop_at_step_0_whatever_an_earlier_run_left(cluster: Make) -> None:
    job = cluster("mark('started')", hosts=2)
    for number in (1, 2):
        state = Path(job[number].tree.paths.state)
        state.mkdir(parents=True)
        (state / f"end-rank-{number - 1}.json").write_text('{"status": "completed", "step": 99, "reason": ""}')
        (state / "progress").write_bytes(b"\x63" + bytes(15))
    job.start(1)
    wait_for(lambda: listens(job, 1), "algo-1 does not listen")
    job[1].signal(signal.SIGTERM)
    assert job[1].wait() == 0
    assert json.loads(Path(job[1].tree.paths.stopped).read_text()) == {"step": 0, "reason": "SIGTERM"}
    assert not Path(job[1].tree.paths.success).exists()


def listens(job: Cluster, number: int) -> bool:
    """Whether a host's launcher has opened its port, as the kernel lists it."""
    address = job.environ["SLIPWAY_HOST_ADDRESSES"].split(",")[number - 1].partition("=")[2]
    word = "".join(f"{int(part):02X}" for part in reversed(address.split(".")))
    sought = f"{word}:{int(job.environ['SLIPWAY_PEER_PORT']):04X}"
    with open("/proc/net/tcp") as stream:
        return any(line.split()[1] == sought and line.split()[3] == "0A" for line in stream)


def test_a_stop_agreed_by_the_ranks_is_a_stop_without_any_signal(cluster: Make) -> None:
    script = """
record = '{"status": "stopped", "step": 12, "reason": "spot"}'
pathlib.Path(os.environ["SLIPWAY_STATE_DIR"], f"end-rank-{RANK}.json").write_text(record)
"""
    host = run_one(cluster, script, procs=2)
    assert code_of(host) == 0
    assert json.loads(Path(host.tree.paths.stopped).read_text())["step"] == 12
    assert not Path(host.tree.paths.success).exists()


def test_a_program_that_cannot_be_started_is_our_error(cluster: Make) -> None:
    job = cluster("pass")
    hyperparameters = json.loads((Path(job[1].tree.paths.config) / "hyperparameters.json").read_text())
    big = {f"part_{n}": "x" * 100_000 for n in range(40)}
    job[1].tree.hyperparameters(**hyperparameters, **big)
    job.start()
    assert job[1].wait() == 2
    assert "Rank 0 cannot be started" in job[1].failure
    assert "Argument list too long" in job[1].failure


def test_the_sampler_ends_with_the_job(cluster: Make) -> None:
    # The samples begin when the rank runs: it waits for them.
    there = "os.path.exists(os.environ['SAGEMAKER_BASE_DIR'] + '/output/profiler/system-algo-1.jsonl')"
    host = run_one(cluster, f"while not {there}: time.sleep(0.01)", profile="on")
    assert code_of(host) == 0
    (samples,) = Path(host.tree.paths.profiler).glob("system-algo-1.jsonl")
    wait_for(lambda: not holders(str(samples)), "somebody still writes samples")


def holders(path: str) -> list[int]:
    """Processes that hold a file open."""
    found: list[int] = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            names = [os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")]
        except OSError:
            continue
        if path in names:
            found.append(int(pid))
    return found


def test_who_goes_on_after_others_have_ended_is_remarked_upon(cluster: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    job = cluster("if RANK == 1: sys.exit(0)\nmark('waits')\nlinger()", procs=2)
    wrapper = job[1].tree.base.parent / "soon.py"
    wrapper.write_text(
        "from runtime.launch import standstill\nstandstill.REMARK_S = 0.5\nstandstill.LOOK_S = 0.1\n"
        "from runtime.launch.launcher import main\nimport sys\nsys.exit(main())\n"
    )
    job.start(launcher=[str(wrapper)])
    assert job[1].process is not None
    assert job[1].process.stdout is not None
    said = next(line for line in job[1].process.stdout if "would wait for ever" in line)
    assert "rank 1 ended with exit code 0, 1 ranks of this host are still at work" in said
    job[1].signal(signal.SIGTERM)
    job[1].wait()


# --- standing still ---------------------------------------------------------------------------------------------

REPORTS = """
import struct
from runtime.launch import stacks
stacks.answer(os.environ["SLIPWAY_STACKS_DIR"])
def report(step):
    with open(pathlib.Path(os.environ["SLIPWAY_STATE_DIR"], "progress"), "r+b") as slots:
        slots.seek(16 * int(os.environ["LOCAL_RANK"]))
        slots.write(struct.pack("<qd", step, time.time()))
def stand_still():
    linger()
"""


def test_a_rank_that_makes_no_progress_ends_the_job_and_is_named_with_its_place(cluster: Make) -> None:
    script = REPORTS + "for step in range(8 if RANK == 2 else 9): report(step); time.sleep(0.01)\nstand_still()"
    job = cluster(script, hosts=2, procs=2, progress_s=2)
    job.start()
    assert (job[1].wait(), job[2].wait()) == (2, 2)
    assert job[1].failure == job[2].failure
    assert job[1].failure.startswith("algo-2 rank 2: no progress for ")
    assert "after step 7" in job[1].failure
    assert "slipway_progress_s" in job[1].failure
    line = 'File "{}", line'.format(Path(job[2].tree.paths.code) / "train.py")
    assert line in job[2].text, "the log holds the stacks"
    assert "in stand_still" in job[1].text, "of every host"


def test_the_place_where_a_rank_stands_is_told(cluster: Make) -> None:
    job = cluster(REPORTS + "report(0)\nreport(1)\nstand_still()", progress_s=1)
    job.start()
    assert job[1].wait() == 2
    assert "and stands at" in job[1].failure
    assert "train.py" in job[1].failure
    assert "in linger" in job[1].failure


def test_a_first_step_may_take_longer(cluster: Make) -> None:
    job = cluster(REPORTS + "report(0)\ntime.sleep(4)\nreport(1)", progress_s=1, first_step_s=600)
    job.start()
    assert job[1].wait() == 0
    stuck = cluster(REPORTS + "report(0)\nstand_still()", first_step_s=1)
    stuck.start()
    assert stuck[1].wait() == 2
    assert "no progress for" in stuck[1].failure
    assert "after step 0" in stuck[1].failure
    assert "(limit 1 s;" in stuck[1].failure


def test_a_silent_script_is_only_warned_of(cluster: Make) -> None:
    job = cluster("print('hello')\ntime.sleep(6)", progress_s=1)
    job.start()
    assert job[1].wait() == 0
    assert "no rank of this host has printed a line for" in job[1].text
    assert "slipway_output_silence_s" in job[1].text
    assert "most recent call first" in job[1].text, "with its stacks"
    assert "train.py" in job[1].text


def test_a_silent_script_is_ended_when_the_user_sets_a_limit(cluster: Make) -> None:
    job = cluster("def mute():\n    linger()\nmute()", output_silence_s=2)
    job.start()
    assert job[1].wait() == 2
    assert "no line of output for" in job[1].failure
    assert "slipway_output_silence_s" in job[1].failure


# --- several hosts ----------------------------------------------------------------------------------------------


def test_two_hosts_complete_together(cluster: Make) -> None:
    job = cluster("mark(f'rank-{RANK}')", hosts=2, procs=2)
    job.start()
    assert (job[1].wait(), job[2].wait()) == (0, 0)
    assert [path.name for path in job[1].marks("rank-*")] == ["rank-0", "rank-1"]
    assert [path.name for path in job[2].marks("rank-*")] == ["rank-2", "rank-3"]
    assert "all 2 hosts are there" in job[1].text


def test_one_failed_rank_fails_both_hosts_with_the_same_cause_and_code(cluster: Make) -> None:
    script = """
mark("pid-rank", os.getpid())
if RANK == 1:
    while not (MARKS.parents[1] / "algo-1/marks/pid-rank").exists(): time.sleep(0.01)
    sys.exit(42)
linger()
"""
    job = cluster(script, hosts=2)
    job.start()
    assert (job[1].wait(), job[2].wait()) == (42, 42)
    assert job[1].failure == job[2].failure
    assert job[1].failure.startswith("algo-2 rank 1: the program ended with exit code 42")
    assert not is_alive(pid_of(job[1], "pid-rank"))


def test_hosts_that_plan_different_worlds_do_not_wait_for_each_other(cluster: Make) -> None:
    job = cluster("linger()", hosts=2)
    for number, ranks in ((1, "2"), (2, "3")):  # as hosts with different hardware find out by themselves
        job[number].tree.hyperparameters(sagemaker_program="train.py", slipway_profile="off", slipway_silence_s="10")
        job.start(number, SLIPWAY_PROCS_PER_HOST=ranks)
    assert (job[1].wait(), job[2].wait()) == (1, 1)
    for host in (job[1], job[2]):
        assert "ranks for each host and a world of" in host.failure
        assert "slipway_procs_per_host" in host.failure


def test_a_long_reason_reaches_the_other_host_too(cluster: Make) -> None:
    """A model that does not fit its checkpoint lists thousands of names."""
    script = """
if RANK == 1:
    import json
    text = "RuntimeError: Error(s) in loading state_dict: " + "missing.key " * 20000
    record = {"message": {"message": text, "extraInfo": {"timestamp": 1}}}
    open(os.environ["TORCHELASTIC_ERROR_FILE"], "w").write(json.dumps(record))
    sys.exit(6)
linger()
"""
    job = cluster(script, hosts=2)
    job.start()
    assert (job[1].wait(), job[2].wait()) == (6, 6)
    assert job[1].failure == job[2].failure
    assert job[1].failure.startswith("algo-2 rank 1: RuntimeError: Error(s) in loading state_dict")


def test_a_killed_host_is_named_by_the_other(cluster: Make) -> None:
    job = cluster("mark('pid-rank', os.getpid())\nlinger()", hosts=2, procs=2)
    job.start()
    for number in (1, 2):
        pid_of(job[number], "pid-rank")
    job[2].signal(signal.SIGKILL)
    assert job[1].wait() == 2
    assert job[1].failure.startswith("algo-2: host algo-2 (ranks 2-3) was lost: ")
    assert job[2].wait() == -9


def test_a_frozen_host_is_named_after_its_silence(cluster: Make) -> None:
    job = cluster("mark('pid-rank', os.getpid())\nlinger()", hosts=2, silence_s=1)
    job.start()
    for number in (1, 2):
        pid_of(job[number], "pid-rank")
    job[2].signal(signal.SIGSTOP)
    assert job[1].wait() == 2
    assert job[1].failure == "algo-2: host algo-2 (rank 1) was lost: no sign for 1 s"
    job[2].signal(signal.SIGKILL)
    job[2].signal(signal.SIGCONT)
    job[2].wait()


def test_a_host_that_never_comes_is_named_after_the_wait(cluster: Make) -> None:
    job = cluster("mark('started')", hosts=3, host_wait_s=10)
    job.start(1, 2)
    codes = job[1].wait(), job[2].wait()
    assert codes == (2, 2)
    for number in (1, 2):
        assert "Host 'algo-3' did not come within 10 s: it did not connect to port" in job[number].failure
        assert "Fix: allow traffic inside the security group" in job[number].failure
        assert not job[number].marks("started")
    assert "did" in job[1].failure


def test_another_jobs_launcher_is_refused(cluster: Make) -> None:
    job = cluster("pass", hosts=2, host_wait_s=1)
    job.start(1)
    job.start(2, TRAINING_JOB_NAME="another")
    assert (job[1].wait(), job[2].wait()) == (2, 2)
    assert "refused a connection that calls itself" in job[1].text + job[2].text
    assert "did not come within 1 s" in job[1].failure
    assert "did not come within 1 s" in job[2].failure


def test_a_stop_of_one_host_stops_all_and_each_saves(cluster: Make) -> None:
    script = "signal.signal(signal.SIGTERM, lambda *_: (mark('saved'), sys.exit(0)))\nmark('ready')\nlinger()"
    job = cluster(script, hosts=2)
    job.start()
    for number in (1, 2):
        wait_for(lambda n=number: job[n].marks("ready"), "not started")
    job[1].signal(signal.SIGTERM)
    assert (job[1].wait(), job[2].wait()) == (0, 0)
    assert json.loads(Path(job[2].tree.paths.stopped).read_text())["reason"] == "SIGTERM on algo-1"
    for number in (1, 2):
        assert job[number].marks("saved")
        assert not Path(job[number].tree.paths.failure).exists()


def test_a_stop_while_hosts_are_awaited_stops_those_that_are_there(cluster: Make) -> None:
    """algo-3 never comes; algo-2 is told to stop; algo-1 must neither wait on nor start alone."""
    job = cluster("mark('started')", hosts=3, host_wait_s=60, log_level="debug")
    job.start(1, 2)
    assert job[2].process is not None
    assert job[2].process.stdout is not None
    assert any("algo-1 is there" in line for line in job[2].process.stdout), "algo-2 ended before it met algo-1"
    job[2].signal(signal.SIGTERM)
    assert (job[1].wait(), job[2].wait()) == (0, 0)
    for number in (1, 2):
        assert Path(job[number].tree.paths.stopped).exists()
        assert not job[number].marks("started")
        assert not Path(job[number].tree.paths.failure).exists()


def test_the_same_mistake_on_all_hosts_holds_up_nobody(cluster: Make) -> None:
    job = cluster(hosts=3, host_wait_s=600, log_level="debug")
    job.start()
    assert [job[n].wait(25) for n in (1, 2, 3)] == [1, 1, 1], "within less than the time of an announcement"
    assert all("train.py is not there" in job[n].failure for n in (1, 2, 3))


def test_a_taken_port_is_named(cluster: Make) -> None:
    import socket

    job = cluster("mark('started')", hosts=2)
    address = job.environ["SLIPWAY_HOST_ADDRESSES"].split(",")[0].partition("=")[2]
    with socket.socket() as other:
        other.bind((address, int(job.environ["SLIPWAY_PEER_PORT"])))
        other.listen()
        job.start()
        assert job[1].wait() == 2
        assert job[2].wait() == 2
    assert "cannot be used" in job[1].failure
    assert "slipway_peer_port" in job[1].failure
    assert job[2].failure == job[1].failure, "who cannot listen can still tell"
