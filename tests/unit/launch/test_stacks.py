"""Asking a process where it stands: the answer names the user's line, and nobody dies of the question."""

import subprocess
import sys
from pathlib import Path

from runtime.launch import stacks
from tests.conftest import wait_for

WAITS = """
import sys, threading, time
def helper():
    threading.Event().wait()
threading.Thread(target=helper, daemon=True).start()
def deep(n):
    if n: deep(n - 1)
    print("there", flush=True), sys.stdin.read()
deep(3)
"""


def start(path: Path, answers: bool) -> subprocess.Popen[str]:
    script = path / "user.py"
    own = f"import runtime.launch.stacks\nruntime.launch.stacks.answer({str(path)!r})\n" if answers else ""
    script.write_text(own + WAITS)
    process = subprocess.Popen([sys.executable, str(script)], stdin=-1, stdout=-1, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "there\n"
    return process


def test_the_users_line_is_named(tmp_path: Path) -> None:
    process = start(tmp_path, answers=True)
    try:
        assert stacks.ask(process.pid)
        wait_for(lambda: "in <module>" in stacks.read(str(tmp_path), process.pid), "no answer")
        dump = stacks.read(str(tmp_path), process.pid)
        assert "in helper" in dump, "all threads are shown"
        line = WAITS.splitlines().index('    print("there", flush=True), sys.stdin.read()') + 3
        assert stacks.place(dump) == f"{tmp_path / 'user.py'}:{line} in deep"
        assert process.poll() is None
    finally:
        process.kill()
        process.communicate()


def test_a_process_without_the_handler_is_left_alone(tmp_path: Path) -> None:
    process = start(tmp_path, answers=False)
    try:
        assert not stacks.ask(process.pid)
        assert process.poll() is None
        assert stacks.read(str(tmp_path), process.pid) == ""
    finally:
        process.kill()
        process.communicate()
    assert not stacks.ask(process.pid)


def test_every_python_of_a_job_answers_through_the_wheels_pth_file(tmp_path: Path) -> None:
    """A script that imports nothing of ours, started as our launcher starts it."""
    process = subprocess.Popen(
        [sys.executable, "-c", "print('there', flush=True); import sys; sys.stdin.read()"],
        stdin=-1, stdout=-1, text=True, env={"SLIPWAY_STACKS_DIR": str(tmp_path)},
    )  # fmt: skip
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "there\n"
        assert stacks.ask(process.pid)
        wait_for(lambda: "most recent call first" in stacks.read(str(tmp_path), process.pid), "no answer")
    finally:
        process.kill()
        process.communicate()


def test_files_of_those_that_nobody_asked_are_removed(tmp_path: Path) -> None:
    (tmp_path / "1.txt").write_text("")
    (tmp_path / "2.txt").write_text("a stack")
    stacks.forget_unasked(str(tmp_path))
    assert [path.name for path in tmp_path.iterdir()] == ["2.txt"]
    stacks.forget_unasked(str(tmp_path / "none"))


def test_a_dump_that_says_nothing_names_nothing() -> None:
    assert stacks.place("") == ""
    library = (
        'Current thread 0x1 (most recent call first):\n  File "/usr/lib/python3.11/selectors.py", line 4 in select\n'
    )
    assert stacks.place(library) == ""
