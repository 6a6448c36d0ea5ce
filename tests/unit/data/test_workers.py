"""Loader workers: what they make comes over whole and in order; however anybody ends, nothing is left behind."""

import gc
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from runtime.base.errors import PlatformError, UserError
from runtime.data.workers import AHEAD, Workers, WorkerTraceback
from tests.left_out import mounts_are_missing

HANG_S = 120.0


def wait_until(reached: Any, what: str) -> None:
    deadline = time.monotonic() + HANG_S
    while not reached():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("count", [1, 2, 5])
def test_values_come_in_the_order_of_the_items(count: int) -> None:
    def make(item: int) -> int:
        time.sleep(0.01 if item % 3 == 0 else 0)
        return item * item

    workers = Workers(make, iter(range(40)), count, "the test")
    assert [made.value for made in workers] == [item * item for item in range(40)]


def test_fewer_items_than_workers() -> None:
    assert [made.value for made in Workers(abs, iter([-1]), 4, "the test")] == [1]
    assert list(Workers(abs, iter(()), 3, "the test")) == []


def test_a_worker_works_in_another_process() -> None:
    pids = {made.value for made in Workers(lambda _: os.getpid(), iter(range(6)), 2, "the test")}
    assert len(pids) == 2
    assert os.getpid() not in pids


CONTENTS: dict[str, Any] = {
    "floats": torch.arange(1000, dtype=torch.float32).reshape(10, 100),
    "half": torch.arange(7, dtype=torch.bfloat16),
    "flags": torch.tensor([True, False, True]),
    "number": torch.tensor(3.5),
    "empty": torch.empty(0, 4),
    "strided": torch.arange(24).reshape(4, 6).t(),
    "array": np.arange(12, dtype=np.int16).reshape(3, 4),
    "fortran": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "none": np.empty((0, 3)),
    "objects": np.array([{"a": 1}, None], dtype=object),
    "record": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
    "complex": torch.tensor([1 + 2j]),
    "words": ["a caption", "ein Täxt"],
    "bytes": b"\x00" * 100_000,
    "deep": {"list": [torch.ones(3), {"x": (1, None)}]},
}


@pytest.mark.parametrize("name", CONTENTS)
def test_contents_come_over_whole(name: str) -> None:
    wanted = CONTENTS[name]
    (made,) = Workers(lambda _: (wanted, wanted), iter([0]), 1, "the test")
    for got in made.value:
        same(got, wanted)


def same(got: Any, wanted: Any) -> None:
    assert type(got) is type(wanted)
    if isinstance(wanted, torch.Tensor):
        assert got.dtype == wanted.dtype
        assert torch.equal(got, wanted)
    elif isinstance(wanted, np.ndarray):
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)
    elif isinstance(wanted, dict):
        assert got.keys() == wanted.keys()
        for key in wanted:
            same(got[key], wanted[key])
    elif isinstance(wanted, list | tuple):
        assert len(got) == len(wanted)
        for one, other in zip(got, wanted, strict=True):
            same(one, other)
    else:
        assert got == wanted


def test_tensors_outlive_the_workers_and_may_be_written() -> None:
    kept = [made.value for made in Workers(lambda item: torch.full((1000,), item), iter(range(8)), 2, "the test")]
    gc.collect()
    for number, tensor in enumerate(kept):
        tensor += 1
        assert tensor.tolist() == [number + 1] * 1000


def test_a_batch_larger_than_dev_shm_may_be() -> None:
    """64 MiB is what a container has that nobody told otherwise."""
    (made,) = Workers(lambda _: torch.ones(80 << 18), iter([0]), 1, "the test")
    assert int(made.value.sum()) == 80 << 18


def test_nothing_of_it_lies_in_dev_shm() -> None:
    workers = Workers(lambda item: torch.full((100_000,), item), iter(range(4)), 1, "the test")
    held = next(workers)
    maps = Path("/proc/self/maps").read_text()
    assert "memfd:slipway-batch" in maps
    assert held.value[0] == 0
    workers.close()


def test_no_more_is_taken_than_there_are_places() -> None:
    taken: list[int] = []

    def items() -> Iterator[int]:
        for number in range(1000):
            taken.append(number)
            yield number

    workers = Workers(abs, items(), 3, "the test")
    assert len(taken) == 3 * AHEAD
    for _ in range(10):
        next(workers)
    assert len(taken) == 3 * AHEAD + 10
    workers.close()


def test_an_error_comes_over_as_it_was_with_its_place() -> None:
    def make(item: int) -> int:
        if item == 2:
            raise KeyError("the field")
        return item

    workers = Workers(make, iter(range(5)), 2, "the test")
    assert [next(workers).value, next(workers).value] == [0, 1]
    with pytest.raises(KeyError, match="the field") as caught:
        next(workers)
    assert isinstance(caught.value.__cause__, WorkerTraceback)
    assert "in make" in str(caught.value.__cause__)
    workers.close()


def test_an_error_of_ours_keeps_its_text() -> None:
    def make(item: int) -> int:
        raise UserError(f"item {item} is wrong", fix="mend it")

    with pytest.raises(UserError, match=r"^item 0 is wrong. Fix: mend it.$"):
        next(Workers(make, iter(range(5)), 1, "the test"))


def test_an_error_that_cannot_be_pickled_comes_over_as_text() -> None:
    class Odd(Exception):
        def __init__(self, one: int, two: int) -> None:
            super().__init__(f"{one} and {two}")

    def make(_: int) -> int:
        raise Odd(1, 2)

    with pytest.raises(RuntimeError, match="Odd: 1 and 2"):
        next(Workers(make, iter(range(5)), 1, "the test"))


def test_what_cannot_be_sent_says_so() -> None:
    with pytest.raises(UserError, match="cannot be sent to its rank"):
        next(Workers(lambda _: lambda: None, iter(range(5)), 1, "the test"))


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (signal.SIGKILL, "SIGKILL, as the kernel does when memory is used up"),
        (signal.SIGBUS, "was ended by SIGBUS"),
        (signal.SIGSEGV, "was ended by SIGSEGV"),
    ],
)
def test_a_worker_that_is_killed_is_told_with_the_signal(number: signal.Signals, words: str) -> None:
    def make(item: int) -> int:
        if item == 3:
            os.kill(os.getpid(), number)
            signal.pause()
        return item

    workers = Workers(make, iter(range(10)), 2, "channel 'train'")
    with pytest.raises(PlatformError, match=f"of channel 'train' .*{words}"):
        list(workers)


def test_a_worker_that_leaves_is_told_with_its_code() -> None:
    with pytest.raises(PlatformError, match="ended with exit code 7"):
        list(Workers(lambda _: os._exit(7), iter(range(3)), 1, "the test"))


@pytest.mark.parametrize("how", ["close", "forget"])
def test_no_worker_is_left_when_its_values_are_not_wanted_any_more(how: str) -> None:
    workers = Workers(lambda _: os.getpid(), iter(range(100)), 3, "the test")
    pids = {next(workers).value for _ in range(3)}
    assert len(pids) == 3
    if how == "close":
        workers.close()
    del workers
    gc.collect()
    assert not [pid for pid in pids if lives(pid)]


def test_a_stuck_worker_does_not_hold_up_the_end() -> None:
    def make(item: int) -> int:
        if item:
            time.sleep(3600)
        return os.getpid()

    workers = Workers(make, iter(range(10)), 1, "the test")
    pid = next(workers).value
    workers.close()
    assert not lives(pid)


SCRIPT = """
import os, sys, torch
from runtime.data.workers import Workers

workers = Workers(lambda _: (os.getpid(), torch.ones(1 << 20)), iter(range(10**9)), 3, "the test")
pids = {next(workers).value[0] for _ in range(3)}
print(*pids, flush=True)
for made in workers:
    pass
"""


def test_kill_9_of_the_rank_ends_its_workers_and_leaves_nothing_in_dev_shm() -> None:
    before = set(os.listdir("/dev/shm"))
    rank = subprocess.Popen([sys.executable, "-c", SCRIPT], stdout=subprocess.PIPE, text=True)
    assert rank.stdout is not None
    pids = [int(word) for word in rank.stdout.readline().split()]
    assert len(pids) == 3
    rank.kill()
    rank.wait(HANG_S)
    rank.stdout.close()
    for pid in pids:
        wait_until(lambda pid=pid: not lives(pid), "a worker outlives its rank")
    # Others on this machine may use it at the same time; torch's names hold the number of their process.
    mine = {str(pid) for pid in (*pids, rank.pid)}
    left = {name for name in set(os.listdir("/dev/shm")) - before if mine & set(name.split("_"))}
    assert not left


def test_a_worker_does_not_print_again_what_the_rank_has_not_printed_yet() -> None:
    script = (
        "import sys\nfrom runtime.data.workers import Workers\n"
        "sys.stdout.write('once\\n')\nassert len(list(Workers(abs, iter(range(3)), 2, 'it'))) == 3\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=HANG_S, check=True)
    assert done.stdout == "once\n"


def test_the_time_of_making_is_told() -> None:
    def make(_: int) -> int:
        time.sleep(0.05)
        return sum(range(200_000))

    (made,) = Workers(make, iter([0]), 1, "the test")
    assert made.seconds >= 0.05
    assert 0 < made.cpu_s < made.seconds


BIG = """
import torch
from runtime.data.workers import Workers

for made in Workers(lambda _: torch.ones(1 << 18), iter(range(6)), 2, "the test"):
    assert int(made.value.sum()) == 1 << 18
print("done")
"""


def test_a_dev_shm_of_64_kilobytes_is_enough() -> None:
    if why := mounts_are_missing():
        pytest.skip(why)
    # In a mount namespace of its own: nobody else sees the small one.
    script = 'mount -t tmpfs -o size=64k tmpfs /dev/shm && exec "$@"'
    words = ["unshare", "--mount", "--map-root-user", "bash", "-c", script, "bash", sys.executable, "-c", BIG]
    done = subprocess.run(words, capture_output=True, text=True, timeout=HANG_S, check=False)
    assert done.stdout == "done\n", done.stderr
