"""What Python says when a program ends by an exception, read back from its standard error.

A plain script tells us nothing else. The reader knows CPython's forms (chains, groups, syntax errors, notes) and those
of the processes between us and the fault: loader workers, pools, spawned children, launchers. It looks at tracebacks
only, never for words such as "error" in the log.
"""

from __future__ import annotations

import os

from runtime.base.frozen import frozen, replace

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = "Traceback (most recent call last):"
CAUSED = "The above exception was the direct cause of the following exception:"
HANDLED = "During handling of the above exception, another exception occurred:"
ASIDE = (
    "Exception ignored in",
    "Exception in thread ",
    "Error in atexit._run_exitfuncs",
    "--- Logging error ---",
    "Error in sys.excepthook",
)
"""What stands before a traceback that does not end a program."""
MESSENGERS = ("ChildFailedError", "CalledProcessError", "ProcessExitedException", "BrokenProcessPool")
"""Exceptions which only say that another process failed: what that process said itself comes before them."""
SYNTAX = ("SyntaxError", "IndentationError", "TabError")
CHAIN_CHARS = 200
"""How much of the root of a chain is added to the message."""
MESSAGE_LINES = 12
"""Lines of a message that goes on; what follows is detail."""


@frozen
class Raised:
    """One uncaught exception."""

    message: str
    """``Type: text``, lines kept; for a chain with its root, for a group its first leaf."""
    where: str = ""
    """``file:line`` of the last frame in the user's own code; empty when there is none."""
    at_end: bool = True
    """Whether nothing was printed after it."""
    aside: bool = False
    """It ended no program: ignored in a finalizer, in a thread, while logging."""
    messenger: bool = False
    """It only says that another process failed."""

    @property
    def kind(self) -> str:
        """Name of the exception's type, without its module."""
        return self.message.split(":", 1)[0].split("(", 1)[0].strip().rsplit(".", 1)[-1]


def last_raised(lines: Sequence[str], *, whole: bool = False) -> Raised | None:
    """Find the exception that ended the program, whatever was printed after it.

    Args:
        lines: end of its standard error, oldest first, without newlines.
        whole: the lines are one formatted exception and nothing else, so that its message goes on to their end.

    Returns:
        None without a whole traceback.
    """
    if any("\x1b[" in line for line in lines):  # FORCE_COLOR makes Python 3.13 and others write colours
        import re

        lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in lines]
    # Once a process group exists, torch puts the rank before each line of what ends the program.
    found = _read_all(_of_one_process([_without_rank(line) for line in lines]), whole)
    ends = [raised for raised in found if not raised.aside]
    if not ends:
        return found[-1] if found else None
    last = ends[-1]
    told = [raised for raised in ends if not raised.messenger]
    if last.messenger and told:
        return replace(told[-1], at_end=last.at_end)
    return last


def _of_one_process(lines: Sequence[str]) -> Sequence[str]:
    """Take the lines of the first process that raised, where a launcher puts a name before each line of several.

    Such as ``[default0]:`` of torchrun, ``[1,0]<stderr>: `` of mpirun, ``0: `` of srun, and our own.
    """
    for number, line in enumerate(lines):
        name, head, rest = line.partition(HEAD)
        frame = f'{name}  File "'
        named = name.strip(" +|-")  # without it, the tree of an exception group
        if head and named and not rest.strip() and any(one.startswith(frame) for one in lines[number + 1 :]):
            return [_without_rank(one[len(name) :]) for one in lines if one.startswith(name)]
    return lines


def _without_rank(line: str) -> str:
    if not line.startswith("[rank"):
        return line
    number, mark, rest = line[5:].partition("]: ")
    return rest if mark and number.isdigit() else line


def _read_all(lines: Sequence[str], whole: bool) -> list[Raised]:
    found: list[Raised] = []
    link = ""
    before = ""
    number = 0
    while number < len(lines):
        line = lines[number]
        block = _block_at(lines, number, whole)
        if block is None:
            link = CAUSED if line == CAUSED else HANDLED if line == HANDLED else "" if line.strip() else link
            before = line if line.strip() else before
            number += 1
            continue
        raised, number = block
        if link and found:
            raised = _chained(found.pop(), raised, link)
        found.append(replace(raised, aside=raised.aside or before.startswith(ASIDE)))
        link = before = ""
    return found


def _block_at(lines: Sequence[str], number: int, whole: bool) -> tuple[Raised, int] | None:
    """Read the traceback that begins at a line; its successor's number comes with it."""
    line = lines[number]
    if line.lstrip(" +|").startswith(f"Exception Group {HEAD}"):
        return _group(lines, number)
    # It may follow a progress bar, whose line has no end.
    if line.rstrip().endswith(HEAD) and not line.startswith(f"Original {HEAD}"):
        return _plain(lines, number + 1, whole)
    if line.startswith('  File "') and line.rstrip().rpartition(", line ")[2].isdigit():
        # A syntax error in the program itself comes without a head.
        read = _plain(lines, number, whole)
        return read if read is not None and read[0].kind in SYNTAX else None
    return None


def _plain(lines: Sequence[str], begin: int, whole: bool) -> tuple[Raised, int] | None:
    end = begin
    while end < len(lines) and (not lines[end] or lines[end][0].isspace()):
        end += 1
    if end == len(lines):
        return None
    where = _user_place(lines[begin:end])
    said = lines[end].strip()
    after = end + 1
    if after < len(lines) and lines[after].startswith(f"Original {HEAD}"):
        return _in_worker(lines, said, after, where, whole)
    rest, after = _message_goes_on(lines, said, after, whole)
    message = "\n".join([said, *rest])
    kind = said.split(":", 1)[0].rsplit(".", 1)[-1]
    raised = Raised(message, where, after >= _last_said(lines), messenger=kind in MESSENGERS)
    return raised, after


def _message_goes_on(lines: Sequence[str], said: str, after: int, whole: bool) -> tuple[list[str], int]:
    if whole:
        end = next((number for number in range(after, len(lines)) if lines[number] in (CAUSED, HANDLED)), len(lines))
        return [line for line in lines[after:end] if line.strip()][:MESSAGE_LINES], end
    rest: list[str] = []
    # A message of several lines goes on indented, or in a list; what is printed at exit begins at the margin.
    # "1 validation error for Config" and an empty first line announce more at the margin.
    margin = 3 if said.endswith(":") or "validation error" in said else 0
    while after < len(lines) and len(rest) < MESSAGE_LINES:
        line = lines[after]
        if not line[:1].isspace() and line.strip():
            if not margin or line.startswith((HEAD, "-- Process ")):
                break
            margin -= 1
        elif not line.strip() and not (margin and not rest):
            break
        if line.strip():
            rest.append(line.strip())
        after += 1
    return rest, after


def _in_worker(lines: Sequence[str], said: str, head: int, where: str, whole: bool) -> tuple[Raised, int]:
    """Read ``Caught ValueError in DataLoader worker process 0.`` and what the worker itself raised."""
    inner = _plain(lines, head + 1, whole)
    if inner is None:
        return Raised(said, where), len(lines)
    raised, after = inner
    place = said.partition(" in ")[2].rstrip(".")
    return replace(raised, message=f"{raised.message} (in {place})", where=raised.where or where), after


def _chained(first: Raised, last: Raised, link: str) -> Raised:
    """Join an exception and the one that followed from it: the last is what ended the program."""
    # A pool raises what its worker raised once more: the same words, but only the worker's frames lead to the fault.
    if _flat(first.message).endswith(_flat(last.message)):
        return replace(last, where=first.where or last.where)
    if first.kind in ("RemoteTraceback", "_RemoteTraceback"):
        return last
    root = _flat(first.message)[:CHAIN_CHARS]
    at = f" at {first.where}" if first.where and link == CAUSED else ""
    how = "caused by" if link == CAUSED else "while handling"
    return replace(last, message=f"{last.message} ({how} {root}{at})", where=last.where or first.where)


def _flat(message: str) -> str:
    return " ".join(message.replace('"""', " ").split())


def _group(lines: Sequence[str], begin: int) -> tuple[Raised, int] | None:
    """Read an exception group: its own line, and its first leaf, which says what happened.

    The tree is drawn with ``|`` and ``+``; ``+--- 1 ---`` opens the first part of a group, deeper for a group in it,
    and the first rule with another number, or none, ends the first leaf.
    """
    end = begin
    while end < len(lines) and lines[end].lstrip()[:1] in ("|", "+"):
        end += 1
    named = ""
    leaf: list[str] = []
    opened = False
    for line in lines[begin + 1 : end]:
        drawn = line.lstrip()
        if drawn.startswith(("+-", "+ -")):
            if drawn.strip("+- ") != "1":
                break
            leaf, opened = [], True
        elif opened:
            leaf.append(drawn[2:])
        elif drawn[2:3].strip() and not named:
            named = drawn[2:].strip()
    if not opened:
        return None
    raised = last_raised(leaf, whole=True)
    if raised is None:
        said = [line.strip() for line in leaf if line.strip()]
        raised = Raised("\n".join(said[:MESSAGE_LINES]) or named, _user_place(lines[begin:end]))
    return replace(raised, message=f"{raised.message} (in {named})", at_end=end >= _last_said(lines)), end


def _user_place(lines: Sequence[str]) -> str:
    place = ""
    for line in lines:
        name, found, rest = line.strip(" |").partition('", line ')
        if not found or not name.startswith('File "'):
            continue
        file, number = name[6:], rest.split(",", 1)[0].strip()
        if number.isdigit() and is_users(file):
            place = f"{file}:{number}"
    return place


def is_users(file: str) -> bool:
    """Tell whether a file is the user's own code: no installed package, no part of Python, none of ours.

    Workloads of ours count as the user's: they are what the job runs.
    """
    entrypoint = "/_entrypoints/" in file
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__))) + os.sep
    library = "-packages/" in file or "/lib/python3." in file or file.startswith(("<", ours))
    return entrypoint or not library


def _last_said(lines: Sequence[str]) -> int:
    """Return the number after the last line that says anything."""
    number = len(lines)
    while number and not lines[number - 1].strip():
        number -= 1
    return number
