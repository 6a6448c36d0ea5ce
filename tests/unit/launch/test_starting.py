"""The ranks' first moments, in which the launcher leaves them the CPUs."""

import os
import threading
import time

import pytest

from runtime.launch.spawn import Spawned
from runtime.launch.starting import Started

HANG_S = 60.0


@pytest.fixture
def pipes():
    made = [os.pipe() for _ in range(3)]
    yield made
    for pair in made:
        for fd in pair:
            os.close(fd)


@pytest.mark.parametrize("which", [0, 1, 2], ids=["a signal", "standard output", "standard error"])
def test_the_wait_ends_with_the_first_sign(pipes, which):
    wake, out, err = (reading for reading, _ in pipes)
    started = Started((Spawned(1, out, err),), "mark")
    waiting = threading.Thread(target=started.let_run, args=(wake, HANG_S))
    began = time.monotonic()
    waiting.start()
    os.write(pipes[which][1], b"x")
    waiting.join(HANG_S)
    assert time.monotonic() - began < HANG_S
    assert os.read(pipes[which][0], 1) == b"x", "nothing is taken from those who look after it later"


def test_a_silent_rank_is_waited_for_no_longer_than_told(pipes):
    wake, out, err = (reading for reading, _ in pipes)
    began = time.monotonic()
    Started((Spawned(1, out, err),), "mark").let_run(wake, 0.05)
    assert 0.05 <= time.monotonic() - began < HANG_S
