"""The last lines of a program whose reader stops with it."""

import fcntl
import os
import stat
import struct
import termios
import time

DRAIN_S = 10.0
"""For the reader of our output to take it: a bound for one that does not read."""


def drain(descriptor: int, last: str) -> None:
    """Wait until the reader of a pipe has taken all lines before the last one, and has begun to read that.

    The SDKs read a line, then look whether we have ended, and drop what is unread then. Who reads by lines goes back
    to the pipe only when all lines before were handled.
    """
    deadline = time.monotonic() + DRAIN_S
    if stat.S_ISFIFO(os.fstat(descriptor).st_mode):
        for text in ("", last):
            os.write(descriptor, text.encode())
            while time.monotonic() < deadline:
                waiting = fcntl.ioctl(descriptor, termios.FIONREAD, struct.pack("i", 0))
                if not struct.unpack("i", waiting)[0]:
                    break
                time.sleep(0.005)
