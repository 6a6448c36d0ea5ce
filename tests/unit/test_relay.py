"""Lines of ranks: exact, at once, bounded, and never in the job's way."""

import contextlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.relay import LONGEST_LINE_BYTES, TAIL_LINES, Relay


class Pipe:
    """One pipe between a writer (the test) and the relay, and the file that stands for our own output."""

    def __init__(self, sink: Path, prefix: bytes = b"") -> None:
        source, self.writer = os.pipe()
        self.sink = os.open(sink, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._path = sink
        self.relay = Relay(source, self.sink, prefix)

    def say(self, data: bytes) -> None:
        os.write(self.writer, data)
        while self.relay.pump():
            pass

    def hang_up(self) -> None:
        os.close(self.writer)
        self.writer = -1
        while self.relay.pump():
            pass

    @property
    def heard(self) -> bytes:
        return self._path.read_bytes()

    def close(self) -> None:
        for descriptor in (self.writer, self.sink):
            if descriptor >= 0:
                os.close(descriptor)
        self.relay.close()


@pytest.fixture
def pipe(tmp_path: Path) -> Iterator[Callable[[bytes], Pipe]]:
    with contextlib.ExitStack() as stack:

        def make(prefix: bytes = b"") -> Pipe:
            made = Pipe(tmp_path / "sink", prefix)
            stack.callback(made.close)
            return made

        yield make


def test_lines_arrive_as_they_were_written(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    text = b"plain\n\n  spaces  \ttab\r\nbytes \xff\x00\n\xc3\xbc\n"
    one.say(text)
    assert one.heard == text


def test_a_line_arrives_at_once_and_half_a_line_waits_for_its_end(pipe: Callable[..., Pipe]) -> None:
    one = pipe(b"[h r0] ")
    one.say(b"first\nhal")
    assert one.heard == b"[h r0] first\n"
    one.say(b"f\n")
    assert one.heard == b"[h r0] first\n[h r0] half\n"


def test_the_last_line_without_a_newline_is_not_lost(pipe: Callable[..., Pipe]) -> None:
    one = pipe(b"> ")
    one.say(b"no newline")
    one.hang_up()
    assert one.heard == b"> no newline\n"
    assert one.relay.ended


def test_nothing_said_gives_nothing(pipe: Callable[..., Pipe]) -> None:
    one = pipe(b"> ")
    one.hang_up()
    assert one.heard == b""


def test_a_line_up_to_the_limit_is_one_line_and_a_longer_one_comes_in_pieces(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    for _ in range(LONGEST_LINE_BYTES // (1 << 15)):
        one.say(b"x" * (1 << 15))
    one.say(b"\n")
    assert one.heard == b"x" * LONGEST_LINE_BYTES + b"\n"
    two = pipe()
    before = len(two.heard)
    for _ in range(2 * LONGEST_LINE_BYTES // (1 << 15)):
        two.say(b"y" * (1 << 15))
    two.say(b"\n")
    heard = two.heard[before:]
    assert heard.replace(b"\n", b"") == b"y" * (2 * LONGEST_LINE_BYTES)
    assert all(len(line) <= LONGEST_LINE_BYTES + (1 << 16) for line in heard.split(b"\n"))


def test_a_drain_does_not_wait_for_who_still_holds_the_pipe(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    holder = subprocess.Popen(
        [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"], stdin=subprocess.PIPE, stdout=one.writer
    )
    assert holder.stdin is not None
    os.write(one.writer, b"last words")
    one.relay.drain()
    assert one.heard == b"last words\n"
    assert not one.relay.ended
    holder.stdin.close()
    holder.wait(timeout=60)


def test_a_drain_of_an_endless_writer_ends(pipe: Callable[..., Pipe], tmp_path: Path) -> None:
    one = pipe()
    writer = subprocess.Popen(["yes"], stdout=one.writer)
    try:
        one.relay.drain()
    finally:
        writer.kill()
        writer.wait()
    assert set(one.heard.split(b"\n")) <= {b"y", b""}


@pytest.mark.parametrize("lines", [3, TAIL_LINES, TAIL_LINES + 25])
def test_the_end_of_standard_error_is_kept(pipe: Callable[..., Pipe], lines: int) -> None:
    one = pipe()
    one.relay._sink, real = 2, one.relay._sink
    said = [f"line {n}" for n in range(lines)]
    kept = os.dup(2)
    os.dup2(real, 2)
    try:
        one.say("\n".join(said).encode() + b"\n")
        one.say(b"bad \xff\n")
    finally:
        os.dup2(kept, 2)
        os.close(kept)
    assert list(one.relay.tail) == [*said, "bad \ufffd"][-TAIL_LINES:]


def test_standard_output_keeps_no_tail(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    one.say(b"word\n")
    assert list(one.relay.tail) == []


def test_nobody_who_reads_our_log_is_no_error(tmp_path: Path) -> None:
    source, writer = os.pipe()
    reader, sink = os.pipe()
    os.close(reader)
    relay = Relay(source, sink, b"")
    os.write(writer, b"word\n")
    assert relay.pump()
    for descriptor in (writer, sink):
        os.close(descriptor)
    relay.close()
