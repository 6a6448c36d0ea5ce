"""The end of a process in words, from its status, its last lines and the machine's counters."""

from pathlib import Path

import pytest

from runtime.cause.cgroup import Memory
from runtime.cause.explain import Facts, explain_exit, explain_text

GIB = 1 << 30


def machine(root: Path, kills: int | None) -> str:
    group = root / "sys/fs/cgroup"
    group.mkdir(parents=True)
    (root / "proc").mkdir()
    (root / "proc/meminfo").write_text(f"MemTotal: {16 << 20} kB\n")
    if kills is not None:
        (group / "memory.events").write_text(f"oom 1\noom_kill {kills}\n")
        (group / "memory.max").write_text(str(2 * GIB))
        (group / "memory.peak").write_text(str(2 * GIB))
    return str(root)


@pytest.mark.parametrize("status", [-9, 137])
@pytest.mark.parametrize(
    ("before", "now", "says"),
    [
        (0, 1, "out of memory: the kernel ended this process by SIGKILL (exit code 137); limit 2.0 GiB, peak 2.0 GiB"),
        (3, 5, "out of memory: the kernel ended this process and 1 process more by SIGKILL"),
        (3, 3, "killed by SIGKILL (exit code 137) from outside"),
        (None, None, "killed by SIGKILL (exit code 137); often out of memory"),
    ],
)
def test_a_kill_is_decoded(tmp_path: Path, status: int, before: int | None, now: int | None, says: str) -> None:
    facts = Facts(Memory(oom_kills=before), root=machine(tmp_path, now))
    said = explain_exit(status, ["loss 0.1"], [], facts)
    assert said.message.startswith(says)
    assert said.fix
    assert not said.consequence


def test_memory_that_ran_out_elsewhere_is_told_with_any_error(tmp_path: Path) -> None:
    facts = Facts(Memory(oom_kills=0), root=machine(tmp_path, 1))
    said = explain_text("EOFError: Ran out of input", facts)
    assert said.means == (
        "the kernel has ended 1 process of this container for want of memory: limit 2.0 GiB, peak 2.0 GiB"
    )
    assert "smaller batch" in said.fix


def test_a_bus_error_tells_the_state_of_shared_memory(tmp_path: Path) -> None:
    said = explain_exit(-7, [], [], Facts(root=machine(tmp_path, None)))
    assert "shared memory is full: there is no /dev/shm" in said.means
    said = explain_exit(-7, [], [], Facts())
    assert "/dev/shm has" in said.means


FATAL = """Fatal Python error: Segmentation fault

Current thread 0x00007f (most recent call first):
  File "/usr/lib/python3.11/ctypes/__init__.py", line 519 in string_at
  File "/opt/ml/code/model.py", line 12 in forward
  File "/opt/ml/code/train.py", line 40 in <module>
Extension modules: numpy.core (total: 1)""".splitlines()


def test_a_crash_is_placed_at_the_users_innermost_line() -> None:
    said = explain_exit(-11, FATAL, [], Facts())
    assert said.where == "/opt/ml/code/model.py:12"
    assert said.message == "killed by SIGSEGV (exit code 139): Fatal Python error: Segmentation fault"


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (
            ["terminate called after throwing an instance of 'c10::Error'", "  what():  bad shape", *FATAL],
            "c10::Error: bad shape",
        ),
        (["terminate called without an active exception"], "terminate called without an active exception"),
        (["python: alloc.c:12: f: Assertion `n > 0' failed."], "Assertion `n > 0' failed."),
        (["free(): invalid pointer", *FATAL], "free(): invalid pointer"),
    ],
)
def test_native_code_that_gives_up_is_quoted(lines: list[str], says: str) -> None:
    assert says in explain_exit(-6, lines, [], Facts()).message


def test_an_abort_that_a_survivor_suffers_is_a_consequence() -> None:
    lines = [
        "terminate called after throwing an instance of 'c10::DistBackendError'",
        "  what():  [Rank 0] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=7)",
    ]
    assert explain_exit(-6, lines, [], Facts()).consequence


def test_the_last_line_is_told_first_and_then_what_came_before() -> None:
    said = explain_exit(2, ["usage: train.py [-h]", "train.py: error: no such device"], [], Facts())
    assert said.message == (
        "the program ended with exit code 2: train.py: error: no such device (before it: usage: train.py [-h])"
    )


def test_a_program_that_speaks_on_standard_output_alone_is_heard() -> None:
    said = explain_exit(4, [], ["checking", "licence has expired"], Facts())
    assert said.message.endswith("without a word on standard error; its last line: licence has expired")
    trace = ["Traceback (most recent call last):", '  File "/c/train.py", line 3, in f', "KeyError: 'x'"]
    said = explain_exit(1, [], trace, Facts())
    assert (said.message, said.where) == ("KeyError: 'x'", "/c/train.py:3")


def test_a_traceback_that_was_survived_does_not_explain_another_code() -> None:
    trace = ["Traceback (most recent call last):", '  File "/c/train.py", line 3, in f', "KeyError: 'x'"]
    said = explain_exit(3, [*trace, "retrying", "giving up: quota"], [], Facts())
    assert said.message.startswith("the program ended with exit code 3: giving up: quota")
    assert "an earlier traceback: KeyError: 'x'" in said.message
    assert explain_exit(1, [*trace, "wandb: synced"], [], Facts()).message == "KeyError: 'x'"


def test_a_full_disk_names_the_room_of_each_place(tmp_path: Path) -> None:
    said = explain_text("OSError: [Errno 28] No space left on device", Facts(places=(str(tmp_path), "/nowhere")))
    assert f"free: {tmp_path} " in said.means
    assert "/nowhere unknown" in said.means
