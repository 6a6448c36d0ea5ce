"""The log relay against a bare pipe: is every byte there, and what does passing it on cost?

One script writes lines with text of many alphabets to both streams, an error's name early among them, because the
toolkit's relay keeps every line that comes after one. All arms write unbuffered, as the launcher makes them, into a
``cat`` for each stream: the floor is ``python user.py | cat``. Times run from the script's first line to the end, CPU
is that of the whole chain; what the same arm costs without any line is taken off.
"""

import os
import re
import statistics
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import environments
from benchmarks.environments import Environment, clean_environ
from benchmarks.measure import Figure, Ratio, Result, interleave, ratio
from benchmarks.trees import HANG_S, write_tree

TOOLKIT = "sagemaker-training==5.1.4"
LINES = 50_000
GROWTH = (10_000, 20_000, 40_000)
GOAL = 1.5
GROWTH_GOAL = 1.25
GROWTH_ROUNDS = 25
"""How often the relay is woken for one line or for many is up to the scheduler, and differs from run to run."""
TEXTS = ("loss 0.1234 größer", "損失は減っています", "потери 0,12 → 0,11", "🚂 done", "plain ASCII of the usual length")
EARLY = 100
"""Line that names an error, as a harmless message of a library does."""

WRITES = """import sys, time
now = time.monotonic_ns()
sys.stdout.reconfigure(encoding="utf-8"); sys.stderr.reconfigure(encoding="utf-8")
lines, texts = int(sys.argv[1]) if len(sys.argv) > 1 else {lines}, {texts!r}
with open("{mark}", "w") as stream:
    stream.write(str(now))
for number in range(lines):
    text = "RuntimeError: retrying" if number == {early} else texts[number % len(texts)]
    (sys.stderr if number % 2 else sys.stdout).write(f"  line {{number}} {{text}}\\n")
"""
OWN_LOG = re.compile(rb"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ [A-Z]+ .*\n", re.MULTILINE)
TOOLKITS_CALL = """import sys
from sagemaker_training import process
process.check_error([sys.argv[1], sys.argv[2], sys.argv[3]], [], 1, cwd="/", capture_error=True)
"""


@dataclass(frozen=True)
class Passed:
    """What came out of one arm."""

    wall_s: float
    cpu_s: float
    streams: tuple[bytes, bytes]
    """Standard output and standard error."""


def expected(lines: int) -> tuple[bytes, bytes]:
    """Return the bytes that the script writes to each stream."""
    streams = ([], []) if lines else ([b""], [b""])
    for number in range(lines):
        text = "RuntimeError: retrying" if number == EARLY else TEXTS[number % len(TEXTS)]
        streams[number % 2].append(f"  line {number} {text}\n".encode())
    return b"".join(streams[0]), b"".join(streams[1])


def wrong_lines(lines: int, streams: tuple[bytes, bytes], *, merged: bool = False) -> int:
    """Count the lines that did not arrive as they were written, in their stream and order.

    Args:
        lines: how many were written.
        streams: what arrived.
        merged: look for every line in both streams, in any order: kinder than we are to ourselves.
    """
    wanted = [stream.splitlines(keepends=True) for stream in expected(lines)]
    if merged:
        arrived = {line for stream in streams for line in stream.splitlines(keepends=True)}
        return sum(line not in arrived for stream in wanted for line in stream)
    wrong = 0
    for ones, stream in zip(wanted, streams, strict=True):
        others = OWN_LOG.sub(b"", stream).splitlines(keepends=True)
        wrong += sum(one != other for one, other in zip(ones, others, strict=False)) + abs(len(ones) - len(others))
    return wrong


def pass_on(command: Sequence[str], environ: Mapping[str, str], mark: Path) -> Passed:
    """Run one arm to its end, each of its streams read by a ``cat`` into a file.

    Raises:
        RuntimeError: it failed, or hung and was killed.
    """
    mark.unlink(missing_ok=True)
    files = [mark.with_name(f"{mark.name}.{stream}") for stream in ("out", "err")]
    pipes = [os.pipe(), os.pipe()]
    readers: list[subprocess.Popen[bytes]] = []
    for (reading, _), file in zip(pipes, files, strict=True):
        with file.open("wb") as stream:
            readers.append(subprocess.Popen(["cat"], stdin=reading, stdout=stream))
    process = subprocess.Popen(
        list(command), env=dict(environ), stdout=pipes[0][1], stderr=pipes[1][1], start_new_session=True
    )
    for pair in pipes:
        for fd in pair:
            os.close(fd)
    guard = threading.Timer(HANG_S, process.kill)
    guard.start()
    cpu_s = 0.0
    for child in (process, *readers):
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
        cpu_s += usage.ru_utime + usage.ru_stime
    ended_ns = time.monotonic_ns()
    guard.cancel()
    streams = (files[0].read_bytes(), files[1].read_bytes())
    if process.returncode:
        raise RuntimeError(f"{command} ended with {process.returncode}: {streams[1][-2000:]!r}")
    return Passed((ended_ns - int(mark.read_text(encoding="utf-8"))) / 1e9, cpu_s, streams)


class Arm:
    """One way to pass lines on, at one number of lines; keeps what each round showed."""

    def __init__(self, command: Sequence[str], environ: Mapping[str, str], mark: Path, lines: int) -> None:
        """Prepare; see `pass_on`."""
        self.lines = lines
        self.seen: list[Passed] = []
        self._command, self._environ, self._mark = command, environ, mark

    def __call__(self) -> float:
        """Run once; returns its CPU seconds."""
        passed = pass_on(self._command, self._environ, self._mark)
        self.seen.append(passed)
        return passed.cpu_s


class Relays:
    """Makes the arms in one directory."""

    def __init__(self, root: Path, ours: Environment, bare: Environment) -> None:
        """Prepare.

        Args:
            root: for trees and marks.
            ours: with our `train`.
            bare: whose interpreter runs the script for the floor.
        """
        self._root, self._ours, self._bare = root, ours, bare

    def _script(self, name: str, lines: int) -> tuple[Path, Path]:
        mark = self._root / f"mark-{name}"
        text = WRITES.format(lines=lines, texts=TEXTS, early=EARLY, mark=mark)
        return write_tree(self._root / name, {"user.py": text}, {"slipway_profile": "off"}), mark

    def bare(self, lines: int) -> Arm:
        """Read the script's own pipes."""
        tree, mark = self._script(f"bare-{lines}", lines)
        environ = clean_environ(self._bare, {"PYTHONUNBUFFERED": "1"})
        return Arm([self._bare.python, str(tree / "code" / "user.py")], environ, mark, lines)

    def ours(self, lines: int) -> Arm:
        """Read the pipes of `train`, which runs the script."""
        tree, mark = self._script(f"ours-{lines}", lines)
        return Arm(
            [self._ours.command("train")], clean_environ(self._ours, {"SAGEMAKER_BASE_DIR": str(tree)}), mark, lines
        )

    def toolkit(self, environment: Environment, lines: int) -> Arm:
        """Read the pipes of the toolkit's process module, as its framework containers call it."""
        tree, mark = self._script(f"toolkit-{lines}", lines)
        environ = {"SAGEMAKER_BASE_DIR": str(tree), "PYTHONUNBUFFERED": "1"}
        script = str(tree / "code" / "user.py")
        command = [environment.python, "-c", TOOLKITS_CALL, environment.python, script, str(lines)]
        return Arm(command, clean_environ(environment, environ), mark, lines)


def over(ones: Arm, ones_zero: Arm, others: Arm, others_zero: Arm, of: Callable[[Passed], float]) -> Ratio:
    """Compare two arms round by round, each without what it costs at no line at all."""
    own_zero, other_zero = (statistics.median(map(of, arm.seen)) for arm in (ones_zero, others_zero))
    # The first round warms up.
    rounds = list(zip(ones.seen, others.seen, strict=True))[1:]
    pairs = [(of(one) - own_zero, of(other) - other_zero) for one, other in rounds]
    return ratio([one for one, _ in pairs], [other for _, other in pairs])


def wall(passed: Passed) -> float:
    """Return the seconds of wall time."""
    return passed.wall_s


def cpu(passed: Passed) -> float:
    """Return the seconds of CPU time."""
    return passed.cpu_s


def compare(relays: Relays, *, seconds: float, toolkit: Environment | None, absent: str) -> list[Figure]:
    """Measure `LINES` lines, against the pipe and against the toolkit."""
    arms = {"bare 0": relays.bare(0), "ours 0": relays.ours(0), "bare": relays.bare(LINES), "ours": relays.ours(LINES)}
    interleave(arms, rounds=60, seconds=seconds)
    bare, ours, bare_0, ours_0 = arms["bare"], arms["ours"], arms["bare 0"], arms["ours 0"]
    wrong = max(wrong_lines(LINES, passed.streams) for passed in ours.seen)
    peers: dict[str, tuple[float, float, float]] = {}
    if toolkit is not None:
        slow = {
            "bare": relays.bare(LINES),
            "toolkit 0": relays.toolkit(toolkit, 0),
            "toolkit": relays.toolkit(toolkit, LINES),
        }
        interleave(slow, rounds=5)
        found = [over(slow["toolkit"], slow["toolkit 0"], slow["bare"], bare_0, of).median for of in (wall, cpu)]
        spoilt = max(wrong_lines(LINES, passed.streams, merged=True) for passed in slow["toolkit"].seen)
        peers["sagemaker-training"] = (found[0], found[1], float(spoilt))
    told = [(name, values) for name, values in peers.items()]
    usual = [statistics.median(wall(passed) for passed in arm.seen) for arm in (bare, ours)]
    both = [over(ours, ours_0, bare, bare_0, of) for of in (wall, cpu)]
    note = f"{len(ours.seen) - 1} rounds of {LINES:,} lines; bare pipe {usual[0]:.3f} s, ours {usual[1]:.3f} s"
    return [
        Figure(
            "relay_wall_over_pipe",
            both[0].median,
            "ratio",
            GOAL,
            peers={name: values[0] for name, values in told},
            spread=(both[0].low, both[0].high),
            note=f"{note}{'; ' + absent if absent else ''}",
        ),
        Figure(
            "relay_cpu_over_pipe",
            both[1].median,
            "ratio",
            GOAL,
            peers={name: values[1] for name, values in told},
            spread=(both[1].low, both[1].high),
        ),
        Figure("relay_lines_wrong", float(wrong), "lines", 0.0, peers={name: values[2] for name, values in told}),
    ]


def growth(relays: Relays, toolkit: Environment | None) -> Figure:
    """Measure the CPU per line at three lengths: the same for each, if nothing of the lines before is looked at."""
    costs = interleave({f"{lines}": relays.ours(lines) for lines in (0, *GROWTH)}, rounds=GROWTH_ROUNDS)
    if toolkit is not None:
        slow = {f"toolkit {lines}": relays.toolkit(toolkit, lines) for lines in (0, GROWTH[0], GROWTH[-1])}
        costs |= interleave(slow, rounds=5)

    def per_line(prefix: str, lines: int) -> list[float]:
        zero = statistics.median(costs[f"{prefix}0"])
        return [(cost - zero) / lines for cost in costs[f"{prefix}{lines}"]]

    grown = ratio(per_line("", GROWTH[-1]), per_line("", GROWTH[0]))
    peers = {}
    if toolkit is not None:
        peers = {"sagemaker-training": ratio(per_line("toolkit ", GROWTH[-1]), per_line("toolkit ", GROWTH[0])).median}
    each = ", ".join(f"{lines:,}: {statistics.median(per_line('', lines)) * 1e6:.2f} us" for lines in GROWTH)
    return Figure(
        "relay_cpu_per_line_40k_over_10k",
        grown.median,
        "ratio",
        GROWTH_GOAL,
        peers=peers,
        spread=(grown.low, grown.high),
        note=f"CPU per line of script and relay together at {each}",
    )


def run(*, quick: bool) -> Result:
    """Measure 50,000 lines against the pipe (quick), and the peer and the growth too (full)."""
    with tempfile.TemporaryDirectory(prefix="slipway-bench-") as name:
        root = Path(name)
        relays = Relays(root, environments.ours(root / "env"), environments.bare(root / "bare"))
        toolkit, why = (None, "") if quick else environments.peer("toolkit", [[TOOLKIT]])
        absent = f"sagemaker-training is left out: {why}" if why else ""
        figures = compare(relays, seconds=25.0 if quick else 60.0, toolkit=toolkit, absent=absent)
        if not quick:
            figures.append(growth(relays, toolkit))
    return Result("relay", figures)
