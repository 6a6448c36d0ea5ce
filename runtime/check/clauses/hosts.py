"""Jobs of two hosts on a private network."""

from __future__ import annotations

from runtime.check.clause import GUIDE, Clause, Judgement, broken, holds
from runtime.check.lab import Lab, Setup

HOSTS = ("algo-1", "algo-2")


def _meet(lab: Lab) -> Judgement:
    network = lab.network()
    running = [lab.start(Setup(program="meet", host=host, hosts=HOSTS, network=network)) for host in HOSTS]
    trials = [one.finish() for one in running]
    for host, other, trial in zip(HOSTS, reversed(HOSTS), trials, strict=True):
        if trial.exit_code != 0:
            return broken(f"{host}: {trial.ending}")
        if lab.own:
            continue
        if trial.seen is None:
            return broken(f"{host}: the program did not run: {trial.ending}")
        if trial.seen["met"] != [other] or trial.seen["me"] != host:
            return broken(f"{host}: it took itself for {trial.seen['me']} and met {trial.seen['met']}")
    return holds("both hosts ran and ended well" if lab.own else "both programs met the other one by its name")


def _part(lab: Lab) -> Judgement:
    network = lab.network()
    setups = [Setup(program="part", host=host, hosts=HOSTS, network=network) for host in HOSTS]
    first, last = (lab.start(setup) for setup in setups)
    both = all(one.wait_for(lambda one=one: one.tree.model("began.json").exists()) for one in (first, last))
    if both:
        (last.tree.base / "output" / "part").touch()
    gone = last.finish()
    left = first.finish(within_s=lab.deadline_s / 2)
    if not both:
        return broken(f"the programs did not begin: {left.ending}")
    if left.exit_code is None:
        return broken(f"algo-2 ended with {gone.exit_code}; algo-1 worked on until it was killed")
    if left.exit_code == 0:
        return broken("algo-2 failed; algo-1 ended with exit code 0")
    return holds(f"algo-2 ended with {gone.exit_code}, then algo-1 with {left.exit_code}")


CLAUSES = (
    Clause(
        id="hosts",
        title="two hosts start and find each other",
        level="must",
        why="a job of several instances starts the same container on each, with the others' names",
        source=f"{GUIDE}: resourceconfig.json",
        tried="containers algo-1 and algo-2 on a private network; their programs shake hands",
        change="leave resourceconfig.json and the network alone; wait for names that do not resolve yet",
        judge=_meet,
        ours=False,
    ),
    Clause(
        id="host-lost",
        title="a host that fails ends the others",
        level="should",
        why="the rest waits in a collective, for half an hour or for ever, and every instance is billed",
        source="PyTorch issues 111646 and 146371",
        tried="the program of algo-2 fails while that of algo-1 would work on",
        change="tell the other hosts; a launcher with a heartbeat does",
        judge=_part,
        needs=("start", "hosts"),
        toolkit="hosts know nothing of each other",
    ),
)
