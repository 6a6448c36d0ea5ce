"""Starting the reader process of a Pipe channel, and ending it with whoever started it."""

import os
import subprocess
import sys
from pathlib import Path
from typing import IO, cast

from runtime.base.env import process_environ
from runtime.data.pipe_reader import ReaderPlan
from runtime.data.pipe_wire import listen

LEAVE_S = 5.0
"""For a reader to end by itself."""


def start_reader(plan: ReaderPlan) -> tuple[bytes, "subprocess.Popen[bytes]"]:
    """Start the reader of a channel on this host; it ends with us.

    Returns:
        Its address, and the process, whose standard input is what keeps it.
    """
    listener = listen()
    root = str(Path(__file__).parents[2])
    environ = process_environ()
    path = environ.get("PYTHONPATH")
    environ |= {"PYTHONPATH": f"{root}{os.pathsep}{path}" if path else root, "OMP_NUM_THREADS": "1"}
    # -P: the working directory is the user's, and may hold a module that is called like one of ours.
    command = [sys.executable, "-P", "-m", "runtime.data.pipe_reader", plan.to_json(), str(listener.fileno())]
    with listener:
        process = subprocess.Popen(command, stdin=subprocess.PIPE, pass_fds=(listener.fileno(),), env=environ)
        return cast(bytes, listener.getsockname()), process


def end_reader(control: IO[bytes], process: "subprocess.Popen[bytes]", owner: int) -> None:
    """End a reader, and wait for it.

    Args:
        control: its standard input.
        process: it.
        owner: process id of who started it: nobody else ends it.
    """
    if os.getpid() != owner:  # a loader worker that was forked off holds a copy
        return
    control.close()
    try:
        process.wait(LEAVE_S)
    except subprocess.TimeoutExpired:  # a process that was forked off us still holds the other copy
        process.kill()
        process.wait()
