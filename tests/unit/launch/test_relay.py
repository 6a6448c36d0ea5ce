"""Lines of ranks: exact, at once, bounded, and never in the job's way."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.launch import relay as relay_module
from runtime.launch.loop import Loop
from runtime.launch.relay import LONGEST_LINE_BYTES, PENDING_BYTES, PIECE_BYTES, TAIL_BYTES, Relay, Sink, open_sinks
from tests.conftest import Cluster, wait_for


class Pipe:
    """One pipe between a writer (the test) and the relay, and the file that stands for our own output."""

    def __init__(self, sink: Path, prefix: bytes = b"", **more: object) -> None:
        source, self.writer = os.pipe()
        self.sink = os.open(sink, os.O_RDWR | os.O_CREAT | os.O_APPEND)
        self._path = sink
        self.relay = Relay(source, Sink(self.sink), prefix, **more)

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
def pipe(tmp_path: Path) -> Iterator[Callable[..., Pipe]]:
    with contextlib.ExitStack() as stack:

        def make(prefix: bytes = b"", **more: object) -> Pipe:
            made = Pipe(tmp_path / "sink", prefix, **more)
            stack.callback(made.close)
            return made

        yield make


# --- lines --------------------------------------------------------------------------------------------------------


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


@pytest.mark.parametrize("seed", range(8))
def test_any_text_cut_anywhere_arrives_line_by_line(pipe: Callable[..., Pipe], seed: int) -> None:
    """Pieces end within lines, within letters, between CR and LF: every line is still what was written."""
    draw = random.Random(seed)
    alphabet = ["a", "ü", "日", " ", "\t", "\x00", "", "error", "x" * 200]
    lines = ["".join(draw.choices(alphabet, k=draw.randrange(9))) + draw.choice(["", "\r"]) for _ in range(300)]
    text = "".join(f"{line}\n" for line in lines).encode()
    one = pipe(b"> ")
    position = 0
    while position < len(text):
        size = draw.choice([1, 2, 3, 50, 4000])
        one.say(text[position : position + size])
        position += size
    one.hang_up()
    assert one.heard == b"".join(b"> " + line.encode() + b"\n" for line in lines)


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
    assert all(len(line) <= LONGEST_LINE_BYTES + PIECE_BYTES for line in heard.split(b"\n"))


def test_dots_without_a_newline_do_not_cost_more_and_more(pipe: Callable[..., Pipe]) -> None:
    def seconds(one: Pipe, dots: int) -> float:
        began = time.process_time()
        for _ in range(dots):
            one.say(b".")
        return time.process_time() - began

    one = pipe()
    first = seconds(one, 20_000)
    for _ in range(LONGEST_LINE_BYTES // (1 << 16)):
        one.say(b"." * (1 << 15))
    # 25 times the line behind it: a copy of it for each dot would show.
    assert seconds(one, 20_000) < 5 * first + 0.5


# --- progress bars ------------------------------------------------------------------------------------------------


class Clock:
    now = 100.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    held = Clock()
    monkeypatch.setattr(relay_module.time, "monotonic", lambda: held.now)
    return held


def test_a_bar_is_one_line_a_second_and_its_last_state(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe(b"> ")
    for percent in range(101):
        one.say(f"\r {percent}%|####| {percent}/100".encode())
        clock.now += 0.03
    one.say(b"\n")
    lines = one.heard.decode().splitlines()
    assert lines[0] == ">  0%|####| 0/100"
    assert lines[-1] == ">  100%|####| 100/100"
    assert 4 <= len(lines) <= 5
    assert all(line.startswith(">  ") and line.count("%") == 1 for line in lines)


def test_a_bar_that_ends_its_states_with_the_carriage_return(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe()
    for percent in range(0, 101, 10):
        one.say(f"{percent}%\r".encode())
        clock.now += 0.5
    one.say(b"\nnext line\n")
    lines = one.heard.decode().splitlines()
    assert lines[-2:] == ["100%", "next line"]
    assert len(lines) <= 8
    assert lines == sorted(set(lines), key=lines.index)


def test_a_state_that_was_held_back_is_shown_by_the_clock(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe()
    one.say(b"\r1%")
    one.say(b"\r2%")
    assert one.heard == b"1%\n"
    one.relay.tick(clock.now + 0.5)
    assert one.heard == b"1%\n"
    one.relay.tick(clock.now + 1.0)
    assert one.heard == b"1%\n2%\n"
    one.relay.tick(clock.now + 9.0)
    assert one.heard == b"1%\n2%\n"


def test_a_bar_that_is_cut_off_shows_its_last_state(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe()
    one.say(b"\r1%\r2%\r")
    one.say(b"3%")
    one.hang_up()
    assert one.heard.splitlines()[-1] == b"3%"


def test_a_bar_that_wipes_itself_leaves_its_last_state(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe()
    one.say(b"\r50%")
    one.say(b"\r100%")
    one.say(b"\r     \r")
    one.say(b"epoch 1 done\n")
    assert one.heard.splitlines()[-1] == b"epoch 1 done"
    assert b"  " not in one.heard


def test_nested_bars_do_not_flood_the_log(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe()
    for step in range(200):
        one.say(f"\router {step // 20}\n\rinner {step % 20}\x1b[A".encode())
        clock.now += 0.01
    one.say(b"\n\n")
    assert len(one.heard.splitlines()) < 210
    assert b"\r" not in one.heard


def test_the_tail_holds_states_and_not_every_stroke(pipe: Callable[..., Pipe], clock: Clock) -> None:
    one = pipe(tail_bytes=TAIL_BYTES)
    one.say(b"".join(b"\r%d%%" % n for n in range(100)) + b"\nValueError: x\n")
    assert one.relay.tail == ["99%", "ValueError: x"]


def test_a_real_bar_of_tqdm(pipe: Callable[..., Pipe]) -> None:
    one = pipe(b"> ")
    code = "import tqdm\nfor _ in tqdm.tqdm(range(5000), mininterval=0): pass\nprint('done')"
    done = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=True, timeout=300
    )
    for at in range(0, len(done.stdout), 1000):  # a pipe holds less than all of it
        one.say(done.stdout[at : at + 1000])
    one.hang_up()
    lines = one.heard.decode().splitlines()
    assert any("100%" in line and "5000/5000" in line for line in lines)
    assert len(lines) < 300


def test_at_a_terminal_bytes_pass_as_they_come(pipe: Callable[..., Pipe]) -> None:
    one = pipe(raw=True, tail_bytes=TAIL_BYTES)
    one.say(b"\r 1%")
    assert one.heard == b"\r 1%"
    one.say(b"\r 2%\nhalf")
    one.hang_up()
    assert one.heard == b"\r 1%\r 2%\nhalf"


# --- the end ------------------------------------------------------------------------------------------------------


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


def test_a_drain_of_an_endless_writer_ends(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    writer = subprocess.Popen(["yes"], stdout=one.writer)
    try:
        one.relay.drain()
    finally:
        writer.kill()
        writer.wait()
    assert set(one.heard.split(b"\n")) <= {b"y", b""}


@pytest.mark.parametrize("lines", [3, 400, 4000])
def test_the_end_is_kept_for_who_must_explain_it(pipe: Callable[..., Pipe], lines: int) -> None:
    one = pipe(tail_bytes=TAIL_BYTES)
    said = [f"line {n} " + "." * 40 for n in range(lines)]
    for begin in range(0, lines, 100):
        one.say("\n".join(said[begin : begin + 100]).encode() + b"\n")
    one.say(b"bad \xff\n")
    kept = one.relay.tail
    assert kept[-1] == "bad \ufffd"
    assert kept[1:-1] == said[len(said) - len(kept[1:-1]) :]
    assert sum(map(len, kept)) <= TAIL_BYTES * 5 // 4
    assert len(kept) > min(lines, 1000)


def test_nothing_is_kept_unless_it_is_asked_for(pipe: Callable[..., Pipe]) -> None:
    one = pipe()
    one.say(b"word\n")
    assert one.relay.tail == []


# --- our own reader -----------------------------------------------------------------------------------------------


def test_nobody_who_reads_our_log_is_no_error() -> None:
    source, writer = os.pipe()
    reader, end = os.pipe()
    os.close(reader)
    sink = Sink(end)
    relay = Relay(source, sink)
    for _ in range(3):
        os.write(writer, b"word\n")
        assert relay.pump()
    assert not sink.full
    for descriptor in (writer, end):
        os.close(descriptor)
    relay.close()


class Stuck:
    """Our output is a pipe that nobody reads until the test does."""

    def __init__(self) -> None:
        self.reader, self.end = os.pipe()
        self.source, self.writer = os.pipe()
        self.loop = Loop()
        self.sink = Sink(self.end, self.loop)
        self.relay = Relay(self.source, self.sink, b"> ", tail_bytes=TAIL_BYTES)
        self.relay.resume(self.loop)
        os.set_blocking(self.writer, False)
        os.set_blocking(self.reader, False)
        self.written = b""

    def write_until_full(self) -> int:
        """Play a rank that writes as much as it can, while the loop turns; return how much that was."""
        number = 0
        idle = 0
        while idle < 5:
            line = f"line {number} {'.' * 90}\n".encode()
            try:
                os.write(self.writer, line)
                self.written += line
                number, idle = number + 1, 0
            except BlockingIOError:
                idle += 1
                self.loop.turn(0)
        return len(self.written)

    def read_all(self) -> bytes:
        heard = b""
        idle = 0
        while idle < 5:
            try:
                heard += os.read(self.reader, 1 << 16)
                idle = 0
            except BlockingIOError:
                idle += 1
                self.loop.turn(0)
        return heard

    def close(self) -> None:
        for descriptor in (self.reader, self.end, self.writer):
            with contextlib.suppress(OSError):
                os.close(descriptor)
        self.relay.close()


@pytest.fixture
def stuck() -> Iterator[Stuck]:
    made = Stuck()
    yield made
    made.close()


def test_a_reader_who_takes_nothing_stops_the_rank_and_not_us(stuck: Stuck) -> None:
    taken = stuck.write_until_full()
    assert stuck.sink.full
    # Two pipes of 64 KiB, our store, and one piece on its way: bounded, whatever the rank has to say.
    assert taken < PENDING_BYTES + 4 * PIECE_BYTES + (1 << 18)
    began = time.process_time()
    for _ in range(20):
        stuck.loop.turn(0.01)
    # Twenty turns of ten milliseconds wait; a loop that spins would use them all.
    assert time.process_time() - began < 0.1


def test_a_reader_who_comes_back_gets_every_line_in_order(stuck: Stuck) -> None:
    stuck.write_until_full()
    heard = stuck.read_all()
    assert not stuck.sink.full
    stuck.write_until_full()
    heard += stuck.read_all()
    assert heard.replace(b"> ", b"") == stuck.written


def test_the_last_words_of_a_rank_are_heard_though_nobody_reads_ours(stuck: Stuck) -> None:
    stuck.write_until_full()
    os.set_blocking(stuck.writer, True)
    stuck.relay.drain()
    with contextlib.suppress(BlockingIOError):
        os.write(stuck.writer, b"ValueError: the cause\n")
    stuck.relay.drain()
    assert stuck.relay.tail[-1] == "ValueError: the cause"


def test_the_end_waits_for_a_slow_reader_and_not_for_a_dead_one(stuck: Stuck, tmp_path: Path) -> None:
    stuck.write_until_full()
    began = time.monotonic()
    stuck.sink.finish(stuck_s=0.05)
    assert time.monotonic() - began < 60
    assert stuck.sink.full
    os.set_blocking(stuck.reader, True)
    with (tmp_path / "heard").open("wb") as heard:
        reader = subprocess.Popen(["cat"], stdin=stuck.reader, stdout=heard)
    stuck.sink.finish(stuck_s=60)
    stuck.sink.write("our own last word\n")
    os.close(stuck.end)
    os.close(stuck.reader)
    assert reader.wait(timeout=120) == 0
    *lines, last = (tmp_path / "heard").read_bytes().splitlines(keepends=True)
    assert last == b"our own last word\n"
    assert stuck.written.startswith(b"".join(lines).replace(b"> ", b""))
    assert len(lines) * 100 > PENDING_BYTES


def test_lines_of_two_ranks_are_never_mixed_within_a_line() -> None:
    reader, end = os.pipe()
    loop = Loop()
    sink = Sink(end, loop)
    relays: list[Relay] = []
    writers: list[subprocess.Popen[bytes]] = []
    for name in ("a", "b", "c"):
        source, writer = os.pipe()
        code = f"import sys\nfor n in range(4000): sys.stdout.write('{name}' * 150 + '\\n')"
        writers.append(subprocess.Popen([sys.executable, "-S", "-c", code], stdout=writer))
        os.close(writer)
        relays.append(Relay(source, sink, f"[{name}] ".encode()))
        relays[-1].resume(loop)
    heard = subprocess.Popen(["cat"], stdin=reader, stdout=subprocess.PIPE)
    os.close(reader)
    out: list[bytes] = []
    import threading

    drain = threading.Thread(target=lambda: out.append(heard.communicate(timeout=300)[0]))
    drain.start()
    deadline = time.monotonic() + 300
    while not all(relay.ended for relay in relays):
        assert time.monotonic() < deadline
        loop.turn(0.1)
    sink.finish(stuck_s=60)
    os.close(end)
    drain.join()
    for writer in writers:
        assert writer.wait(timeout=60) == 0
    for relay in relays:
        relay.close()
    lines = out[0].split(b"\n")[:-1]
    assert len(lines) == 12000
    assert set(lines) == {b"[" + name + b"] " + name * 150 for name in (b"a", b"b", b"c")}


def test_our_own_words_wait_in_the_same_queue_and_are_bounded(stuck: Stuck) -> None:
    stuck.write_until_full()
    for _ in range(10_000):
        stuck.sink.write("a log line of our own\n")
    stuck.relay.close()
    stuck.relay = Relay(os.dup(stuck.reader), stuck.sink)
    assert len(stuck.read_all()) < PENDING_BYTES + 8 * PIECE_BYTES


def test_one_pipe_for_both_outputs_is_one_sink() -> None:
    code = (
        "from runtime.launch.relay import open_sinks; import sys; a, b = open_sinks(); print(a is b, file=sys.stderr)"
    )
    together = subprocess.run(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=True
    )
    apart = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (together.stdout, apart.stderr) == ("True\n", "False\n")
    assert callable(open_sinks)


# --- under a real `train` -------------------------------------------------------------------------------------------


def test_nobody_reads_our_log_and_the_job_ends_all_the_same(cluster: Callable[..., Cluster]) -> None:
    """The reader of host 1's output is stuck for ever: its rank stops, host 2 hears from it, a stop ends both."""
    script = (
        "if HOST == 'algo-1':\n"
        "    mark('began')\n"
        "    for n in range(100_000): print('x' * 200)\n"
        "    mark('wrote-all')\n"
        "else:\n"
        "    linger()\n"
    )
    job = cluster(script, hosts=2, silence_s=3)
    job.start()
    wait_for(lambda: job[1].marks("began"), "the rank of host 1 begins to write")
    first = job[1].process
    assert first is not None
    assert first.stdout is not None
    # Longer than the limit of silence: the watch of host 1 must go on though its output does not.
    with pytest.raises(subprocess.TimeoutExpired):
        first.wait(timeout=6)
    assert job[1].marks("wrote-all") == []
    assert job[2].process is not None
    assert job[2].process.poll() is None
    job[1].signal(signal.SIGTERM)
    assert first.wait(timeout=120) == 0
    assert job[2].wait() == 0
    assert "lost" not in job[2].text


def test_a_bar_under_train_is_folded_and_raw_on_demand(cluster: Callable[..., Cluster]) -> None:
    script = "for n in range(2000): sys.stderr.write(f'\\r{n + 1}/2000')\nsys.stderr.write('\\n')"
    job = cluster(script)
    job.start()
    assert job[1].wait() == 0
    assert "2000/2000\n" in job[1].text
    assert job[1].text.count("/2000") < 200
    job = cluster(script, progress_bars="raw")
    job.start()
    assert job[1].wait() == 0
    # Python reads a carriage return as the end of a line, which here it is not; the number of states tells.
    assert job[1].text.count("/2000") == 2000


def test_fifty_thousand_lines_are_exact(cluster: Callable[..., Cluster]) -> None:
    script = "print('Exception: none')\nfor n in range(50_000): print(f'  größe {n} 日本語\\t')"
    job = cluster(script)
    job.start()
    assert job[1].wait() == 0
    lines = [line for line in job[1].text.split("\n") if line.startswith("  größe")]
    assert lines == [f"  größe {n} 日本語\t" for n in range(50_000)]
