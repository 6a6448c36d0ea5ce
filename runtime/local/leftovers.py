"""What a run leaves at a Docker engine, told from what a living run uses: labels, the guard's work, ``slipway clean``.

A run that is killed cannot clean up. Its guard (`runtime.local.guard`), a process of its own, does it within seconds;
where that was killed too, ``slipway clean`` finds the rest by the labels.
"""

import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from runtime.base.errors import PlatformError
from runtime.base.log import Log
from runtime.local.containers import ContainerSpec, Docker, Found, Mount
from runtime.testing.faults.disk import put_away_left

log = Log("local")

JOB, RUN, HOST = "slipway.job", "slipway.run", "slipway.host"
"""Labels of everything that we make: the job's name, one run of it, the host's name."""
PID, STARTED, PLACE = "slipway.pid", "slipway.started", "slipway.place"
"""Labels that name the process whose run it is, so that a reused process id is not taken for it."""
TREE, OWNER = "slipway.tree", "slipway.owner"
"""Labels of a container: the directory that it writes to, and who shall own what is in it, ``uid:gid``."""
PROC = Path("/proc")
LEAVE_S = 6.0
"""From SIGTERM to SIGKILL for containers whose run is dead: nobody waits for them, and all of it, the guard's own start
included, is to be over within 10 s."""


def process_started(pid: int, proc: Path = PROC) -> str:
    """Return when a process started, in a form that stays the same while it lives; empty when there is none."""
    if not proc.is_dir():  # macOS
        done = subprocess.run(["ps", "-o", "lstart=", "-p", str(pid)], capture_output=True, text=True, check=False)
        return done.stdout.strip()
    try:
        stat = (proc / str(pid) / "stat").read_bytes()
    except OSError:
        return ""
    fields = stat.rpartition(b")")[2].split()
    return "" if fields[0] in (b"Z", b"X") else fields[19].decode()


def place_of_processes(proc: Path = PROC) -> str:
    """Name the machine, its boot and the process name space in which our process ids mean something."""
    boot = space = "-"
    if proc.is_dir():
        boot = (proc / "sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = os.readlink(proc / "self/ns/pid")
    return f"{socket.gethostname()} {boot} {space}"


def labels_of(job: str, run: str) -> dict[str, str]:
    """Compose the labels of everything that this process makes for a run."""
    pid = os.getpid()
    return {JOB: job, RUN: run, PID: str(pid), STARTED: process_started(pid), PLACE: place_of_processes()}


def verdict(labels: Mapping[str, str], here: str, started: Callable[[int], str]) -> str:
    """Judge whether the run of a container or network still lives.

    Args:
        labels: what it carries.
        here: see `place_of_processes`.
        started: see `process_started`.

    Returns:
        ``alive``, ``dead``, or ``unknown``: it is of another machine, or of another process name space.
    """
    host, _, rest = labels.get(PLACE, "").partition(" ")
    our_host, _, our_rest = here.partition(" ")
    boot, _, space = rest.partition(" ")
    our_boot, _, our_space = our_rest.partition(" ")
    if host != our_host:
        return "unknown"
    if boot != our_boot:
        return "dead"  # this machine has been started anew since
    if space != our_space:
        return "unknown"
    pid = labels.get(PID, "")
    return "alive" if pid.isdigit() and started(int(pid)) == labels.get(STARTED) else "dead"


@dataclass
class Cleaned:
    """What ``slipway clean`` found."""

    containers: list[str] = field(default_factory=list[str])
    """Names of what was removed."""
    networks: list[str] = field(default_factory=list[str])
    alive: list[str] = field(default_factory=list[str])
    """Jobs that run: left alone."""
    unknown: list[str] = field(default_factory=list[str])
    """Jobs of other machines or name spaces: left alone."""


def clean(docker: Docker, *, everything: bool = False) -> Cleaned:
    """Remove what dead runs left; what a living run uses is never touched.

    Args:
        docker: the engine.
        everything: also what nobody here can judge.
    """
    done = Cleaned()
    here = place_of_processes()

    def is_dead(item: Found) -> bool:
        judged = verdict(item.labels, here, process_started)
        told = {"alive": done.alive, "unknown": done.unknown}.get(judged)
        if told is not None and not (everything and judged == "unknown"):
            if item.labels[JOB] not in told:
                told.append(item.labels[JOB])
            return False
        return True

    dead = [item for item in docker.containers(JOB) if is_dead(item)]
    networks = [item for item in docker.networks(JOB) if is_dead(item)]
    end(docker, dead, LEAVE_S)
    put_away_disks(dead)
    hand_back_all(docker, dead)
    for item in dead:
        docker.remove(item.id)
        done.containers.append(item.name)
    for item in networks:
        docker.remove_network(item.id)
        done.networks.append(item.name)
    return done


def end(docker: Docker, containers: Sequence[Found], seconds: float) -> None:
    """End containers: SIGTERM to all, SIGKILL to those that still run after some seconds."""
    running = [item for item in containers if item.running]
    for item in running:
        docker.kill(item.id, "SIGTERM")
    waits = [threading.Thread(target=_wait, args=(docker, item.id), daemon=True) for item in running]
    for wait in waits:
        wait.start()
    deadline = time.monotonic() + seconds
    for item, wait in zip(running, waits, strict=True):
        wait.join(max(0.0, deadline - time.monotonic()))
        if wait.is_alive():
            docker.kill(item.id, "SIGKILL")
    for item, wait in zip(running, waits, strict=True):
        wait.join(LEAVE_S)
        if wait.is_alive():
            log.warning(f"container {item.name} does not end {LEAVE_S:g} s after SIGKILL")


def _wait(docker: Docker, container: str) -> None:
    other = docker.again()
    try:
        other.wait(container)
    except PlatformError as error:
        log.warning(str(error))
    finally:
        other.close()


def sweep(docker: Docker, run: str) -> None:
    """End and remove everything of one run whose process is dead, what it was just making included."""
    quiet = 0
    while quiet < 2:  # a request may still be on its way to the engine when its client dies
        containers = docker.containers(f"{RUN}={run}")
        end(docker, containers, LEAVE_S)
        put_away_disks(containers)
        hand_back_all(docker, containers)
        for item in containers:
            docker.remove(item.id)
        networks = [] if containers else docker.networks(f"{RUN}={run}")
        for item in networks:
            docker.remove_network(item.id)
        quiet = 0 if containers or networks else quiet + 1
        if not (containers or networks):
            time.sleep(0.5)


def put_away_disks(items: Sequence[Found]) -> None:
    """Take away the small disks of hosts that have ended, see `runtime.testing.faults.disk`."""
    for item in items:
        tree = item.labels.get(TREE)
        if tree:
            put_away_left(Path(tree))


def hand_back_all(docker: Docker, items: Sequence[Found]) -> None:
    """Hand back the trees that the labels of containers name, those of one owner at one time."""
    trees: dict[str, list[Path]] = {}
    images: dict[str, str] = {}
    for item in items:
        tree, owner = item.labels.get(TREE), item.labels.get(OWNER, "")
        if tree and owner and Path(tree).is_dir():
            trees.setdefault(owner, []).append(Path(tree))
            images[owner] = item.id
    for owner, held in trees.items():
        hand_back(docker, images[owner], held, owner)


def foreign(trees: Sequence[Path], uid: int) -> bool:
    """Tell whether anything in these trees belongs to somebody else than `uid`."""
    for tree in trees:
        for parent, directories, names in os.walk(tree):
            for name in (*directories, *names):
                try:
                    if os.lstat(os.path.join(parent, name)).st_uid != uid:
                        return True
                except FileNotFoundError:
                    continue
    return False


def hand_back(docker: Docker, container: str, trees: Sequence[Path], owner: str) -> None:
    """Give trees that containers wrote to as root back to the user, by ``chown`` of the same image.

    Args:
        docker: the engine.
        container: one that ran; its image is on the machine for certain.
        trees: directories of this machine.
        owner: ``uid:gid``.
    """
    if not foreign(trees, int(owner.partition(":")[0])):
        return
    targets = [f"/slipway/{index}" for index in range(len(trees))]
    try:
        spec = ContainerSpec(
            name=f"slipway-owner-{os.getpid()}-{time.time_ns():x}",
            image=docker.image_of(container),
            mounts=tuple(Mount(tree, target) for tree, target in zip(trees, targets, strict=True)),
            labels=labels_of("owner", "owner"),
            entrypoint=("chown", "-R", owner),
            command=tuple(targets),
            user="0",
        )
        made = docker.create(spec)
        try:
            docker.start(made)
            code = docker.wait(made)
        finally:
            docker.remove(made)
        if code:
            log.warning(f"files that the containers wrote still belong to root: chown ended with exit code {code}")
    except PlatformError as error:
        log.warning(f"files that the containers wrote still belong to root: {error}")
