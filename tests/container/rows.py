"""The rows of the fault suite: each brings a job into a phase, does one thing to it, and judges every host."""

import random
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from runtime.testing import Cluster, Limits, wait_until
from tests.container.scripts import OBEYS, SAYS
from tests.container.stage import (
    HANG_S,
    SUSPECT_S,
    Result,
    Row,
    Stage,
    judge,
    judge_completed,
    judge_stop,
    order,
    wait_for_ranks,
)

PLACES = {"coordinator": 1, "middle": 2, "last": 3}
"""Which of three hosts."""

# --- one host or one rank dies --------------------------------------------------------------------------------------


def _cluster_in_phase(stage: Stage, phase: str, victim: int, *, torch: bool, procs: int) -> tuple[Cluster, list[int]]:
    """Bring three hosts into a phase; return them with the numbers of those that were started."""
    if phase == "before":
        # One host never comes, so that nobody can start; the victim and one other know each other.
        there = [victim, 1 if victim != 1 else 3]
        cluster = stage.cluster(3, torch=torch, procs=procs, slipway_log_level="debug")
        cluster.start(*there)
        for me, other in (there, reversed(there)):
            cluster[me].wait_for_line(f"algo-{other} is there")
        return cluster, there
    late = {"late": (victim - 1) * procs} if phase == "during" else {}
    cluster = stage.cluster(3, torch=torch, procs=procs, **late)
    cluster.start()
    wait_for_ranks(list(cluster), procs, "joining" if phase == "during" else "ready")
    return cluster, [1, 2, 3]


def lose_host(place: str, phase: str, stage: Stage, *, torch: bool) -> Result:
    """SIGKILL for a whole container."""
    victim = PLACES[place]
    cluster, there = _cluster_in_phase(stage, phase, victim, torch=torch, procs=1)
    began = cluster[victim].kill()
    others = [number for number in there if number != victim]
    return judge(cluster.endings(*others, deadline_s=HANG_S), began, named=[f"host algo-{victim}"], code=2)


def stop_host(place: str, phase: str, stage: Stage, *, torch: bool) -> Result:
    """SIGTERM for a container, as the platform sends it."""
    victim = PLACES[place]
    cluster, there = _cluster_in_phase(stage, phase, victim, torch=torch, procs=1)
    began = cluster[victim].kill(signal.SIGTERM)
    return judge_stop(cluster.endings(*there, deadline_s=HANG_S), began)


def lose_rank(place: str, phase: str, number: signal.Signals, stage: Stage, *, torch: bool) -> Result:
    """A signal for a single rank, from outside of the launcher."""
    victim, procs = PLACES[place], 1 if torch else 2
    cluster, there = _cluster_in_phase(stage, phase, victim, torch=torch, procs=procs)
    rank = (victim - 1) * procs
    began = cluster[victim].kill_rank(rank, number)
    named = [f"algo-{victim} rank {rank}", number.name]
    return judge(cluster.endings(*there, deadline_s=HANG_S), began, named=named, code=128 + number)


def rank_ends(place: str, phase: str, text: str, reason: str, code: int, stage: Stage, *, torch: bool) -> Result:
    """A single rank ends by its own doing."""
    victim, procs = PLACES[place], 1 if torch else 2
    cluster, there = _cluster_in_phase(stage, phase, victim, torch=torch, procs=procs)
    began = time.time()
    order(cluster[victim], (victim - 1) * procs, text)
    named = [f"algo-{victim}", reason]
    return judge(cluster.endings(*there, deadline_s=HANG_S), began, named=named, code=code)


def leaves_before_joining(place: str, stage: Stage) -> Result:
    """A rank ends with 0 while the others wait for it; only the script's own timeout can end their wait."""
    victim = PLACES[place]
    cluster = stage.cluster(3, torch=True, late=victim - 1, join_s=10)
    cluster.start()
    wait_for_ranks(list(cluster), mark="joining")
    began = time.time()
    order(cluster[victim], victim - 1, "os._exit(0)")
    named = [f"algo-{victim}", "exit code 0"]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, code=1)


def matrix() -> list[Row]:
    """Every death, of every place, in every phase that it can meet."""
    rows: list[Row] = []
    for torch in (False, True):
        kind = "DDP" if torch else "plain"
        # Without torch there is nothing to initialise: "during" would be "after" by another name.
        for phase in ("during", "after") if torch else ("before", "after"):
            when = {"before": "before the ranks start", "during": "during initialisation", "after": "at work"}[phase]
            for place in PLACES:
                deaths: dict[str, Callable[[Stage], Result]] = {
                    f"kill -9 of the {place} host": partial(lose_host, place, phase, torch=torch),
                    f"SIGTERM of the {place} host": partial(stop_host, place, phase, torch=torch),
                }
                if phase != "before":
                    for number in (signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM):
                        run = partial(lose_rank, place, phase, number, torch=torch)
                        deaths[f"{number.name} of one rank, {place} host"] = run
                    text = "sys.exit('no labels in shard 7')"
                    run = partial(rank_ends, place, phase, text, "no labels in shard 7", 1, torch=torch)
                    deaths[f"exit 1 of one rank, {place} host"] = run
                if torch and phase == "after":
                    run = partial(rank_ends, place, phase, "os._exit(0)", "exit code 0", 1, torch=torch)
                    deaths[f"exit 0 too early, {place} host"] = run
                rows += [Row(f"{name}, {when} ({kind})", run, torch=torch) for name, run in deaths.items()]
    for place in PLACES:
        name = f"exit 0 too early, {place} host, during initialisation, joining limited to 10 s (DDP)"
        rows.append(Row(name, partial(leaves_before_joining, place), torch=True, target_s=26.0))
    return rows


# --- a host falls silent --------------------------------------------------------------------------------------------


def silence(place: str, how: str, limit_s: float | None, stage: Stage, *, torch: bool) -> Result:
    """A host of three is there but cannot be heard, or cannot hear."""
    victim = PLACES[place]
    settings = {} if limit_s is None else {"slipway_silence_s": f"{limit_s:g}"}
    cluster = stage.cluster(3, torch=torch, **settings)
    cluster.start()
    wait_for_ranks(list(cluster))
    host = cluster[victim]
    faults: dict[str, Callable[[], float]] = {
        "frozen": host.freeze,
        "network disconnected": host.disconnect,
        "all packets lost": host.drop,
        "hears nothing": partial(host.drop, outgoing=False),
        "cannot be heard": partial(host.drop, incoming=False),
    }
    began = faults[how]()
    others = [number for number in PLACES.values() if number != victim]
    result = judge(
        cluster.endings(*others, deadline_s=HANG_S),
        began,
        named=[f"algo-{victim}"],
        reason=[f"host algo-{victim}"],
        code=2,
    )
    if how == "frozen":
        host.unfreeze()
    (own,) = cluster.endings(victim, deadline_s=HANG_S)
    own_s = own.at - began
    problems = list(result.problems)
    if own.exit_code == 0 or not own.failure:
        problems.append(f"{own.host}, the victim: exit code {own.exit_code}, {own.failure!r}; its log:\n{own.text}")
    exit_s = result.exit_s if how == "frozen" else max(result.exit_s or 0.0, own_s)
    notes = f"the victim itself: {own.failure}"
    return Result(result.notice_s, exit_s, result.cause, tuple(problems), notes)


def partition(stage: Stage) -> Result:
    """Two hosts of three lose each other; both still hear the third."""
    cluster = stage.cluster(3, slipway_silence_s="2")
    cluster.start()
    wait_for_ranks(list(cluster))
    began = cluster[2].drop(peer=cluster[3].address)
    endings = cluster.endings(deadline_s=HANG_S)
    # Both sides are right about the other; which of them was first is chance, but all must tell the same.
    blamed = [host for host in ("algo-2", "algo-3") if f"host {host}" in endings[0].failure]
    return judge(endings, began, named=[f"host {blamed[0] if blamed else 'algo-2'}"], code=2)


def silence_of_two(how: str, stage: Stage) -> Result:
    """One of two hosts falls silent: the other cannot know which of them is cut off, but names it."""
    cluster = stage.cluster(2, slipway_silence_s="2")
    cluster.start()
    wait_for_ranks(list(cluster))
    began = cluster[2].freeze() if how == "frozen" else cluster[2].drop()
    result = judge(cluster.endings(1, deadline_s=HANG_S), began, named=["algo-2"], code=2)
    if how == "frozen":
        cluster[2].unfreeze()
    (own,) = cluster.endings(2, deadline_s=HANG_S)
    if own.exit_code == 0 or not own.failure:
        problem = f"{own.host}, the victim: exit code {own.exit_code}, {own.failure!r}; its log:\n{own.text}"
        return replace(result, problems=(*result.problems, problem))
    return replace(result, notes=f"the victim itself: {own.failure}")


def silences() -> list[Row]:
    """Every way to fall silent, at a limit of 2 s and at the default."""
    rows: list[Row] = []
    for how in ("frozen", "network disconnected", "all packets lost", "hears nothing", "cannot be heard"):
        for place in PLACES:
            run = partial(silence, place, how, 2.0, torch=False)
            rows.append(Row(f"{how}: {place} host, limit 2 s (plain)", run, target_s=5.0, notice_target_s=SUSPECT_S))
    for how in ("frozen", "network disconnected", "all packets lost"):
        run = partial(silence, "middle", how, None, torch=False)
        name = f"{how}: middle host, default limit (plain)"
        rows.append(Row(name, run, target_s=13.0, notice_target_s=SUSPECT_S, minutes=0.5))
        run = partial(silence, "coordinator", how, 2.0, torch=True)
        name = f"{how}: coordinator host, limit 2 s (DDP)"
        rows.append(Row(name, run, torch=True, target_s=5.0, notice_target_s=SUSPECT_S))
    for how in ("frozen", "all packets lost"):
        run = partial(silence_of_two, how)
        rows.append(Row(f"{how}: one of two hosts, limit 2 s (plain)", run, target_s=5.0, notice_target_s=SUSPECT_S))
    rows.append(Row("two of three hosts lose each other, limit 2 s (plain)", partition, target_s=5.0))
    return rows


# --- hosts that do not come together --------------------------------------------------------------------------------


def never_comes(place: str, stage: Stage) -> Result:
    """A host that the platform never starts."""
    victim = PLACES[place]
    cluster = stage.cluster(3, slipway_host_wait_s="3")
    others = [number for number in PLACES.values() if number != victim]
    began = time.time()
    cluster.start(*others)
    return judge(cluster.endings(*others, deadline_s=HANG_S), began, named=[f"algo-{victim}", "did not come"], code=2)


def late_names(stage: Stage) -> Result:
    """Names that resolve only after 5 s."""
    cluster = stage.cluster(3, names=False)
    cluster.start()
    began = time.time()
    wait_until(lambda: time.time() > began + 5, "5 s without names")
    for host in cluster:
        assert host.running(), host.logs()
        assert not list((host.tree.base / "model").iterdir()), "ranks work before any name resolves"
    published = time.time()
    cluster.publish()
    wait_for_ranks(list(cluster))
    ready = max(host.tree.model(f"ready-{rank}").stat().st_mtime for rank, host in enumerate(cluster))
    for rank, host in enumerate(cluster):
        order(host, rank, "sys.exit(0)")
    return judge_completed(
        cluster.endings(deadline_s=HANG_S), f"ranks at work {ready - published:.2f} s after the names"
    )


def missing_name(stage: Stage) -> Result:
    """The coordinator's name never resolves."""
    cluster = stage.cluster(3, names=False, slipway_host_wait_s="4")
    began = time.time()
    cluster.start()
    cluster.publish(2, 3)
    result = judge(cluster.endings(2, 3, deadline_s=HANG_S), began, named=["algo-1", "does not resolve"], code=2)
    (own,) = cluster.endings(1, deadline_s=HANG_S)
    if own.exit_code != 2 or "did not come" not in own.failure:
        problem = f"{own.host}: exit code {own.exit_code}, {own.failure!r}; its log:\n{own.text}"
        return replace(result, problems=(*result.problems, problem))
    return result


def port_taken(place: str, stage: Stage) -> Result:
    """Something else listens on the launchers' port of one host."""
    victim = PLACES[place]
    cluster = stage.cluster(3, slipway_host_wait_s="20")
    listener = "import socket, time; s = socket.socket(); s.bind(('', 7778)); s.listen(); open('/tmp/taken', 'w'); "
    occupied = f'python3 -c "{listener}time.sleep(600)" & until test -e /tmp/taken; do :; done; exec train'
    began = time.time()
    cluster.start(victim, command=("sh", "-c", occupied))
    cluster.start()
    named = [f"algo-{victim}", "7778"]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, code=2)


def meetings() -> list[Row]:
    """Rows of hosts that do not find each other."""
    rows = [
        Row(f"the {place} host never comes, limit 3 s", partial(never_comes, place), target_s=8.0) for place in PLACES
    ]
    rows += [
        Row(f"port 7778 of the {place} host is taken", partial(port_taken, place), target_s=6.0) for place in PLACES
    ]
    rows.append(Row("names resolve after 5 s", late_names, target_s=None))
    rows.append(Row("the coordinator's name never resolves, limit 4 s", missing_name, target_s=9.0))
    return rows


# --- resources ------------------------------------------------------------------------------------------------------


def out_of_memory(place: str, stage: Stage) -> Result:
    """The kernel kills a rank for the container's memory limit."""
    victim = PLACES[place]
    cluster = stage.cluster(3)
    cluster.start(victim, limits=Limits(memory_mb=96))
    cluster.start()
    wait_for_ranks(list(cluster))
    began = time.time()
    order(cluster[victim], victim - 1, "hog = [bytearray(b'x' * (1 << 20)) for _ in range(10_000)]")
    named = [f"algo-{victim} rank {victim - 1}", "out of memory: "]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, reason=[*named, "96 MiB"], code=137)


def full_disk(stage: Stage) -> Result:
    """A script's disk is full."""
    cluster = stage.cluster(2)
    cluster.start(1)
    cluster.start(2, limits=Limits(tmpfs={"/opt/ml/checkpoints": 4}))
    wait_for_ranks(list(cluster))
    cluster[2].fill("/opt/ml/checkpoints")
    began = time.time()
    order(cluster[2], 1, "open('/opt/ml/checkpoints/step-3', 'wb').write(b'x' * 100_000)")
    named = ["algo-2 rank 1", "No space left on device"]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, code=1)


def full_state_disk(stage: Stage) -> Result:
    """The disk of our own records is full when a rank fails; the failure file itself is on another."""
    cluster = stage.cluster(2)
    cluster.start(1)
    cluster.start(2, limits=Limits(tmpfs={"/opt/ml/output/slipway": 1}))
    wait_for_ranks(list(cluster))
    cluster[2].fill("/opt/ml/output/slipway")
    began = time.time()
    order(cluster[2], 1, "raise ValueError('labels start at 1')")
    named = ["algo-2 rank 1", "ValueError: labels start at 1"]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, code=1)


def full_output_disk(stage: Stage) -> Result:
    """Nothing can be written to /opt/ml/output of one host: its log and exit code, and all other hosts, must tell."""
    cluster = stage.cluster(2)
    cluster.start(1)
    cluster.start(2, limits=Limits(tmpfs={"/opt/ml/output": 1}))
    wait_for_ranks(list(cluster))
    cluster[2].fill("/opt/ml/output")
    began = time.time()
    order(cluster[2], 1, "raise ValueError('labels start at 1')")
    named = ["algo-2 rank 1", "ValueError: labels start at 1"]
    result = judge(cluster.endings(1, deadline_s=HANG_S), began, named=named, code=1)
    (own,) = cluster.endings(2, deadline_s=HANG_S)
    if own.exit_code != 1 or own.first(*named) is None:
        problem = f"{own.host}, the victim: exit code {own.exit_code}; its log:\n{own.text}"
        return replace(result, problems=(*result.problems, problem))
    return replace(result, exit_s=max(result.exit_s or 0.0, own.at - began))


def stop_of_all(torch: bool, stage: Stage) -> Result:
    """What the platform does: SIGTERM to every host, though not quite at the same moment."""
    cluster = stage.cluster(3, torch=torch)
    cluster.start()
    wait_for_ranks(list(cluster))
    began = cluster.kill(signal.SIGTERM)
    return judge_stop(cluster.endings(deadline_s=HANG_S), began)


def stop_of_the_deaf(stage: Stage) -> Result:
    """A rank that ignores SIGTERM: killed when the grace is over, and the other hosts do not wait longer."""
    cluster = stage.cluster(2, slipway_stop_grace_s="3")
    cluster.start()
    wait_for_ranks(list(cluster))
    order(cluster[2], 1, "signal.signal(signal.SIGTERM, signal.SIG_IGN); (model / 'deaf').touch()")
    cluster[2].wait_for_file("model/deaf")
    began = cluster[1].kill(signal.SIGTERM)
    endings = cluster.endings(deadline_s=HANG_S)
    deaf = endings[1]
    problems = () if "did not end within 3 s" in deaf.failure else (f"{deaf.failure!r}; its log:\n{deaf.text}",)
    return Result(None, max(ending.at for ending in endings) - began, deaf.failure, problems)


# --- mistakes of the program ----------------------------------------------------------------------------------------


def failing_import(stage: Stage) -> Result:
    """A module that one host lacks."""
    script = "import os\nif os.environ['RANK'] == '1':\n    import sklaern\n" + "import time\ntime.sleep(600)\n"
    cluster = stage.cluster(3, script)
    began = time.time()
    cluster.start()
    named = ["algo-2 rank 1", "No module named 'sklaern'"]
    return judge(cluster.endings(deadline_s=HANG_S), began, named=named, code=1)


def failing_requirements(line: str, named: Sequence[str], stage: Stage) -> Result:
    """A requirement that the image cannot fulfil, on hosts without a way out."""
    cluster = stage.cluster(2, {"train.py": OBEYS, "requirements.txt": f"{line}\n"}, torch=True)
    began = time.time()
    cluster.start()
    # pip asks a name service that does not answer five times, as long as the resolver likes.
    return judge(cluster.endings(), began, named=named, code=1)


def frozen_rank(stage: Stage) -> Result:
    """A rank stands still while its launcher lives: only a deadline of the user's own ends a script without reports."""
    cluster = stage.cluster(3, script=SAYS, slipway_output_silence_s="3")
    cluster.start()
    wait_for_ranks(list(cluster))
    began = cluster[2].kill_rank(1, signal.SIGSTOP)
    return judge(cluster.endings(deadline_s=HANG_S), began, named=["algo-2", "rank 1"])


def mismatched_collective(stage: Stage) -> Result:
    """One rank brings a tensor of another shape."""
    cluster = stage.cluster(3, torch=True)
    cluster.start()
    wait_for_ranks(list(cluster))
    began = time.time()
    for number, host in enumerate(cluster):
        order(host, number, f"dist.all_reduce(torch.zeros({1000 if number == 1 else 10}))")
    return judge(cluster.endings(deadline_s=HANG_S), began, named=["rank"])


# --- without privileges ---------------------------------------------------------------------------------------------

LOCKED_DOWN = Limits(user="1000:0", read_only=True, no_capabilities=True, tmpfs={"/tmp": 64})


def locked_down_loss(stage: Stage) -> Result:
    """A launcher without root, capabilities and a root file system to write to watches as well."""
    cluster = stage.cluster(3, procs=2, limits=LOCKED_DOWN)
    cluster.start()
    wait_for_ranks(list(cluster), 2)
    began = cluster[2].kill()
    return judge(cluster.endings(1, 3, deadline_s=HANG_S), began, named=["host algo-2"], code=2)


def locked_down_alone(stage: Stage) -> Result:
    """Nor does it need an interface."""
    cluster = stage.cluster(1, procs=2, limits=LOCKED_DOWN, network=False)
    cluster.start()
    wait_for_ranks(list(cluster), 2)
    for rank in (0, 1):
        order(cluster[1], rank, "(model / f'written-{rank}').write_text('weights'); sys.exit(0)")
    result = judge_completed(cluster.endings(deadline_s=HANG_S))
    missing = [rank for rank in (0, 1) if not cluster[1].tree.model(f"written-{rank}").exists()]
    return replace(result, problems=(*result.problems, *(f"rank {rank} wrote no model" for rank in missing)))


# --- many hosts -----------------------------------------------------------------------------------------------------


def ten_hosts(victim: int, stage: Stage) -> Result:
    """One of ten is killed."""
    cluster = stage.cluster(10)
    cluster.start()
    wait_for_ranks(list(cluster))
    began = cluster[victim].kill()
    others = [number for number in range(1, 11) if number != victim]
    return judge(cluster.endings(*others, deadline_s=HANG_S), began, named=[f"host algo-{victim} "], code=2)


# --- false alarms ---------------------------------------------------------------------------------------------------


def _carry_on(cluster: Cluster, notes: str) -> Result:
    """Nothing may have ended; let the ranks finish."""
    for rank, host in enumerate(cluster):
        assert host.running(), host.logs()
        order(host, rank, "sys.exit(0)")
    return judge_completed(cluster.endings(deadline_s=HANG_S), notes)


def _let_pass(seconds: float) -> None:
    until = time.monotonic() + seconds
    wait_until(lambda: time.monotonic() > until, f"{seconds:g} s", seconds + 60)


def held_gil(seconds: int, stage: Stage) -> Result:
    """A rank holds its GIL, as native code may; PyDLL keeps it during the call."""
    cluster = stage.cluster(2)
    cluster.start()
    wait_for_ranks(list(cluster))
    order(cluster[2], 1, f"(model / 'held').touch(); ctypes.PyDLL(None).sleep({seconds}); (model / 'freed').touch()")
    cluster[2].wait_for_file("model/freed")
    return _carry_on(cluster, f"{seconds} s")


def network_pause(seconds: float, stage: Stage) -> Result:
    """A host is cut off for less than the default limit."""
    cluster = stage.cluster(3)
    cluster.start()
    wait_for_ranks(list(cluster))
    cluster[1].drop()
    _let_pass(seconds)
    cluster[1].heal()
    _let_pass(12)
    return _carry_on(cluster, f"{seconds:g} s")


def random_pauses(count: int, seed: int, stage: Stage) -> Result:
    """Hosts are frozen for moments below the limit, one after the other."""
    chance = random.Random(seed)
    cluster = stage.cluster(3, slipway_silence_s="3")
    cluster.start()
    wait_for_ranks(list(cluster))
    for _ in range(count):
        host = cluster[chance.randint(1, 3)]
        host.freeze()
        _let_pass(chance.uniform(0.1, 1.2))
        host.unfreeze()
        _let_pass(chance.uniform(0.0, 0.3))
    return _carry_on(cluster, f"{count} pauses of 0.1-1.2 s at a limit of 3 s, seed {seed}")


def full_load(seconds: float, stage: Stage) -> Result:
    """More computing processes than CPUs on every host."""
    cluster = stage.cluster(2)
    cluster.start()
    wait_for_ranks(list(cluster))
    for host in cluster:
        host.load_cpu(4)
    _let_pass(seconds)
    return _carry_on(cluster, f"{seconds:g} s with 4 busy processes on each of 2 hosts")


def specials() -> list[Row]:
    """Rows that stand alone."""
    rows = [Row(f"out of memory: {place} host", partial(out_of_memory, place)) for place in PLACES]
    rows += [
        Row("a full disk of the script's", full_disk),
        Row("a full disk of our records", full_state_disk),
        Row("an import that fails on one host", failing_import, target_s=6.0),
        Row("no disk left for the failure file", full_output_disk),
        Row("SIGTERM of all hosts (plain)", partial(stop_of_all, False)),
        Row("SIGTERM of all hosts (DDP)", partial(stop_of_all, True), torch=True),
        Row("SIGTERM ignored by a rank, grace 3 s", stop_of_the_deaf, target_s=6.0),
        Row(
            "a requirement that would replace the image's torch",
            partial(failing_requirements, "torch==1.13.0", ["torch", "1.13.0"]),
            torch=True,
            target_s=10.0,
        ),
        Row(
            "a requirement that does not exist, and pip's own patience",
            partial(failing_requirements, "no-such-package-of-slipway==1.0", ["no-such-package-of-slipway"]),
            torch=True,
            target_s=None,
            minutes=1.5,
        ),
        Row("uid 1000, read-only root: kill -9 of the middle host", locked_down_loss),
        Row("uid 1000, read-only root, no network: the job completes", locked_down_alone, target_s=None),
        Row("a rank stands still, user's deadline of 3 s", frozen_rank, target_s=8.0),
        Row("a mismatched collective", mismatched_collective, torch=True),
        Row("ten hosts: kill -9 of the coordinator", partial(ten_hosts, 1)),
        Row("ten hosts: kill -9 of the fifth", partial(ten_hosts, 5)),
        Row("ten hosts: kill -9 of the last", partial(ten_hosts, 10)),
    ]
    return rows


def false_alarms() -> list[Row]:
    """Rows in which nothing may end."""
    return [
        Row("no alarm: GIL held for 10 s", partial(held_gil, 10), target_s=None),
        Row("no alarm: network pause of 5 s, default limit", partial(network_pause, 5.0), target_s=None),
        Row("no alarm: random pauses", partial(random_pauses, 5, 1), target_s=None),
        Row("no alarm: 200 random pauses", partial(random_pauses, 200, 2), target_s=None, minutes=4),
        Row("no alarm: full CPU load", partial(full_load, 8.0), target_s=None),
        Row("no alarm: full CPU load for 10 minutes", partial(full_load, 600.0), target_s=None, minutes=10),
        Row("no alarm: full CPU load for an hour", partial(full_load, 3600.0), target_s=None, minutes=60),
    ]


def all_rows() -> Sequence[Row]:
    """Return the whole campaign."""
    return [*matrix(), *silences(), *meetings(), *specials(), *false_alarms()]


def short_rows(seed: int) -> Sequence[Row]:
    """Return what every change meets: a sample of the matrix and of the silences, and what stands alone."""
    chance = random.Random(seed)
    plain = [row for row in matrix() if not row.torch]
    groups = [row for row in matrix() if row.torch]
    silent = [row for row in silences() if not row.minutes]
    alone = [row for row in (*meetings(), *specials(), *false_alarms()) if not row.minutes]
    # One of each family whose members differ by the place only.
    families: dict[str, list[Row]] = {}
    for row in alone:
        family = row.name
        for place in (*PLACES, "fifth"):
            family = family.replace(place, "...")
        families.setdefault(family, []).append(row)
    chosen = [*chance.sample(plain, 6), *chance.sample(groups, 4), *chance.sample(silent, 4)]
    return [*chosen, *(chance.choice(members) for members in families.values())]
