"""What Python prints when it ends by an exception, read back: the text comes from real interpreters."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.cause.tracebacks import Raised, is_users, last_raised


@pytest.fixture
def raised_by(tmp_path: Path) -> Callable[..., Raised | None]:
    """Run a program and read what its standard error says; places are given relative to its folder."""

    def run(program: str, **modules: str) -> Raised | None:
        for name, text in modules.items():
            (tmp_path / f"{name}.py").write_text(text)
        (tmp_path / "train.py").write_text(program)
        done = subprocess.run(
            [sys.executable, "train.py"], cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        return last_raised(done.stderr.splitlines())

    return run


def told(raised: Raised | None) -> tuple[str, str]:
    assert raised is not None
    return raised.message, raised.where.rpartition("/")[2]


def test_a_plain_exception(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("def f():\n    raise ValueError('bad label 11')\nf()\n")
    assert told(raised) == ("ValueError: bad label 11", "train.py:2")
    assert raised.kind == "ValueError"
    assert raised.at_end


def test_the_place_is_the_users_last_line_and_not_the_librarys(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("import json\n\njson.loads('{')\n")
    assert raised.message.startswith("json.decoder.JSONDecodeError: Expecting property name")
    assert told(raised)[1] == "train.py:3"
    assert raised.kind == "JSONDecodeError"


def test_a_fault_in_a_module_of_the_users(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("import model\nmodel.build()\n", model="def build():\n    return {}['width']\n")
    assert told(raised) == ("KeyError: 'width'", "model.py:2")


def test_a_message_of_several_lines(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("raise RuntimeError('Error(s) in loading state_dict for Net:\\n\\tMissing key(s): \"a\".')\n")
    assert told(raised)[0] == 'RuntimeError: Error(s) in loading state_dict for Net:\nMissing key(s): "a".'


def test_a_message_whose_first_line_is_empty(raised_by: Callable[..., Raised]) -> None:
    assert "lr is negative" in told(raised_by("raise ValueError('\\n\\nlr is negative')\n"))[0]


def test_a_count_of_errors_goes_on_at_the_margin(raised_by: Callable[..., Raised]) -> None:
    program = (
        "class ValidationError(Exception): pass\nraise ValidationError('1 validation error for C\\nlr\\n  a number')\n"
    )
    assert "lr\na number" in told(raised_by(program))[0]


def test_a_traceback_behind_a_progress_bar(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("import sys\nsys.stderr.write('\\r99% [===> ]')\nraise ValueError('bad')\n")
    assert told(raised) == ("ValueError: bad", "train.py:3")


def test_what_is_printed_afterwards_is_no_part_of_it(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import atexit, sys\n"
        "atexit.register(lambda: [print('closing', n, file=sys.stderr) for n in range(300)])\n"
        "raise ValueError('bad')\n"
    )
    raised = raised_by(program)
    assert told(raised) == ("ValueError: bad", "train.py:3")
    assert not raised.at_end


def test_a_direct_cause_is_named_with_its_place(raised_by: Callable[..., Raised]) -> None:
    program = (
        "def f():\n    {}['x']\ntry:\n    f()\nexcept KeyError as error:\n    raise RuntimeError('no x') from error\n"
    )
    message, where = told(raised_by(program))
    assert message.startswith("RuntimeError: no x (caused by KeyError: 'x' at ")
    assert message.endswith("train.py:2)")
    assert where == "train.py:6"


def test_an_exception_while_handling_another(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("try:\n    1 / 0\nexcept ZeroDivisionError:\n    raise ValueError('after')\n")
    assert told(raised)[0] == "ValueError: after (while handling ZeroDivisionError: division by zero)"


def test_a_chain_of_three_ends_with_the_last(raised_by: Callable[..., Raised]) -> None:
    program = (
        "try:\n    try:\n        1 / 0\n    except ZeroDivisionError as e:\n        raise KeyError('b') from e\n"
        "except KeyError as e:\n    raise ValueError('c') from e\n"
    )
    assert told(raised_by(program))[0].startswith("ValueError: c (caused by KeyError: 'b' (caused by ZeroDivisionError")


def test_the_first_leaf_of_a_group(raised_by: Callable[..., Raised]) -> None:
    program = (
        "def leaf():\n    raise ValueError('first leaf')\n"
        "errors = []\n"
        "for one in (leaf, lambda: {}['second']):\n"
        "    try:\n        one()\n    except Exception as error:\n        errors.append(error)\n"
        "raise ExceptionGroup('two shards', errors)\n"
    )
    raised = raised_by(program)
    assert told(raised) == ("ValueError: first leaf (in ExceptionGroup: two shards (2 sub-exceptions))", "train.py:2")


def test_a_group_in_a_group(raised_by: Callable[..., Raised]) -> None:
    program = (
        "def leaf():\n    raise OSError('deep')\n"
        "try:\n    leaf()\nexcept OSError as error:\n    deep = error\n"
        "raise ExceptionGroup('outer', [ExceptionGroup('inner', [deep]), TypeError('late')])\n"
    )
    message, where = told(raised_by(program))
    assert message.startswith("OSError: deep (in ExceptionGroup: ")
    assert where == "train.py:2"


def test_a_group_whose_leaves_were_never_raised(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("raise ExceptionGroup('g', [ValueError('quiet'), TypeError('b')])\n")
    assert told(raised) == ("ValueError: quiet (in ExceptionGroup: g (2 sub-exceptions))", "train.py:1")


def test_a_task_group(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import asyncio\n"
        "async def load(n):\n    raise ValueError(f'shard {n}')\n"
        "async def main():\n    async with asyncio.TaskGroup() as group:\n        group.create_task(load(7))\n"
        "asyncio.run(main())\n"
    )
    message, where = told(raised_by(program))
    assert message.startswith("ValueError: shard 7 (in ExceptionGroup: unhandled errors in a TaskGroup")
    assert where == "train.py:3"


def test_a_syntax_error_in_the_program(raised_by: Callable[..., Raised]) -> None:
    message, where = told(raised_by("x = 1\ndef f(:\n    pass\n"))
    assert message == "SyntaxError: invalid syntax"
    assert where == "train.py:2"


def test_a_syntax_error_in_a_module(raised_by: Callable[..., Raised]) -> None:
    message, where = told(raised_by("import model\n", model="def f():\nreturn 1\n"))
    assert message.startswith("IndentationError: expected an indented block")
    assert where == "model.py:2"


def test_a_module_that_is_not_there(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("import surely_not_there\n")
    assert told(raised) == ("ModuleNotFoundError: No module named 'surely_not_there'", "train.py:1")


def test_a_deep_recursion(raised_by: Callable[..., Raised]) -> None:
    message, where = told(raised_by("def f(n):\n    return f(n + 1)\nf(0)\n"))
    assert message.startswith("RecursionError: maximum recursion depth exceeded")
    assert where == "train.py:2"


def test_a_finalizer_that_fails_at_the_end_is_not_the_cause(raised_by: Callable[..., Raised]) -> None:
    program = (
        "class Handle:\n    def __del__(self):\n        raise OSError('cannot close')\n"
        "handle = Handle()\nraise ValueError('the cause')\n"
    )
    assert told(raised_by(program)) == ("ValueError: the cause", "train.py:5")


def test_a_thread_that_fails_does_not_hide_the_cause(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import threading\n"
        "def late():\n    threading.main_thread().join()\n    raise OSError('helper')\n"
        "threading.Thread(target=late).start()\n"
        "raise ValueError('the cause')\n"
    )
    assert told(raised_by(program)) == ("ValueError: the cause", "train.py:6")


def test_a_thread_alone_is_better_than_nothing(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import os, threading\n"
        "def work():\n    raise OSError('helper')\n"
        "t = threading.Thread(target=work); t.start(); t.join(); os._exit(1)\n"
    )
    raised = raised_by(program)
    assert told(raised) == ("OSError: helper", "train.py:3")
    assert raised.aside


def test_what_a_child_raised_is_told_and_not_that_it_was_called(raised_by: Callable[..., Raised]) -> None:
    program = "import subprocess, sys\nsubprocess.run([sys.executable, 'child.py'], check=True)\n"
    raised = raised_by(program, child="raise KeyError('in the child')\n")
    assert told(raised) == ("KeyError: 'in the child'", "child.py:1")


def test_a_command_that_says_nothing_is_named(raised_by: Callable[..., Raised]) -> None:
    raised = raised_by("import subprocess\nsubprocess.run(['false'], check=True)\n")
    assert "Command '['false']' returned non-zero exit status 1" in told(raised)[0]


def test_a_pool_shows_the_workers_line(raised_by: Callable[..., Raised]) -> None:
    program = (
        "from multiprocessing import Pool\n"
        "def work(n):\n    raise ValueError(f'shard {n}')\n"
        "if __name__ == '__main__':\n    with Pool(1) as pool:\n        pool.map(work, [4])\n"
    )
    assert told(raised_by(program)) == ("ValueError: shard 4", "train.py:3")


def test_an_executor_shows_the_workers_line(raised_by: Callable[..., Raised]) -> None:
    program = (
        "from concurrent.futures import ProcessPoolExecutor\n"
        "def work(n):\n    raise ValueError(f'shard {n}')\n"
        "if __name__ == '__main__':\n    with ProcessPoolExecutor(1) as pool:\n        list(pool.map(work, [4]))\n"
    )
    assert told(raised_by(program)) == ("ValueError: shard 4", "train.py:3")


def test_a_spawned_child_and_a_parent_that_leaves_with_its_code(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import multiprocessing, sys\n"
        "def work():\n    raise ValueError('in the child')\n"
        "if __name__ == '__main__':\n"
        "    child = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    child.start(); child.join(); sys.exit(child.exitcode)\n"
    )
    assert told(raised_by(program)) == ("ValueError: in the child", "train.py:3")


def test_a_loader_worker_shows_its_own_error(raised_by: Callable[..., Raised]) -> None:
    program = (
        "from torch.utils.data import DataLoader, Dataset\n"
        "class Rows(Dataset):\n"
        "    def __len__(self):\n        return 4\n"
        "    def __getitem__(self, n):\n        raise ValueError(f'bad row {n}')\n"
        "if __name__ == '__main__':\n    next(iter(DataLoader(Rows(), num_workers=1)))\n"
    )
    message, where = told(raised_by(program))
    assert message == "ValueError: bad row 0 (in DataLoader worker process 0)"
    assert where == "train.py:6"


def test_torch_spawn_shows_the_childs_error(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import torch.multiprocessing as mp\n"
        "def work(n):\n    raise ValueError(f'rank {n} is bad')\n"
        "if __name__ == '__main__':\n    mp.spawn(work, nprocs=1)\n"
    )
    message, where = told(raised_by(program))
    assert message == "ValueError: rank 0 is bad"
    assert where == "train.py:3"


def test_a_traceback_that_was_logged_and_survived_is_marked_as_not_last(raised_by: Callable[..., Raised]) -> None:
    program = (
        "import logging, sys\ntry:\n    1 / 0\nexcept ZeroDivisionError:\n    logging.exception('once')\n"
        "print('went on', file=sys.stderr)\nsys.exit('the disk is gone')\n"
    )
    assert not raised_by(program).at_end


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no traceback at all\nException: not one either",
        "Traceback (most recent call last):",
        'Traceback (most recent call last):\n  File "a.py", line 1, in <module>\n    f(',
        '  File "a.py", line 3\nis quoted by somebody',
        "  + Exception Group Traceback (most recent call last):",
    ],
)
def test_no_whole_traceback_is_none_or_something(text: str) -> None:
    raised = last_raised(text.splitlines())
    assert raised is None or raised.message


def test_colours_are_no_part_of_it() -> None:
    lines = [HEAD, '  File \x1b[35m"/c/train.py"\x1b[0m, line \x1b[35m3\x1b[0m, in f', "\x1b[1;35mKeyError\x1b[0m: 'x'"]
    assert last_raised(lines) == Raised("KeyError: 'x'", "/c/train.py:3")


def test_the_rank_that_torch_puts_before_each_line_is_no_part_of_it() -> None:
    lines = [HEAD, '  File "/c/train.py", line 28, in <module>', "    loss.backward()", "RuntimeError: closed by peer"]
    expected = Raised("RuntimeError: closed by peer", "/c/train.py:28")
    assert last_raised([f"[rank2]: {line}" for line in lines]) == expected
    assert last_raised([*lines[:-1], "[rank]: no rank"]) == Raised("[rank]: no rank", "/c/train.py:28")


@pytest.mark.parametrize("name", ["[default{}]:", "[1,{}]<stderr>: ", "{}: ", "[algo-1 r{}] ", "[default{}]:[rank0]: "])
def test_of_several_processes_in_one_stream_the_first_that_raised_is_read(name: str) -> None:
    first = [HEAD, '  File "/c/train.py", line 28, in <module>', "    loss.backward()", "KeyError: 'first'"]
    second = [HEAD, '  File "/c/train.py", line 31, in <module>', "    step()", "RuntimeError: later"]
    mixed = [f"{name.format(rank)}{line}" for pair in zip(first, second, strict=True) for rank, line in enumerate(pair)]
    assert last_raised(["starting", *mixed, "mpirun noticed that process rank 0 exited"]) is not None
    raised = last_raised(mixed)
    assert raised is not None
    assert (raised.message, raised.where) == ("KeyError: 'first'", "/c/train.py:28")


def test_a_formatted_exception_is_whole() -> None:
    lines = [HEAD, '  File "/c/train.py", line 3, in f', "    x", "ValueError: first", "second at the margin", "a note"]
    raised = last_raised(lines, whole=True)
    assert raised == Raised("ValueError: first\nsecond at the margin\na note", "/c/train.py:3")


HEAD = "Traceback (most recent call last):"


@pytest.mark.parametrize(
    ("file", "expected"),
    [
        ("/opt/ml/code/train.py", True),
        ("/usr/lib/python3.11/json/decoder.py", False),
        ("/opt/venv/lib/python3.11/site-packages/torch/nn/modules/linear.py", False),
        ("/usr/lib/python3/dist-packages/x.py", False),
        ("<frozen importlib._bootstrap>", False),
        ("/opt/venv/lib/python3.11/site-packages/runtime/_entrypoints/language_model/train.py", True),
        (str(Path(__file__).parents[3] / "runtime/session.py"), False),
    ],
)
def test_whose_file_it_is(file: str, expected: bool) -> None:
    assert is_users(file) is expected


def test_a_formatted_exception_ends_where_the_one_begins_that_it_caused() -> None:
    import traceback

    def fails() -> None:
        try:
            raise KeyError("the first")
        except KeyError as error:
            raise ValueError("the second") from error

    with pytest.raises(ValueError, match="the second") as caught:
        fails()
    raised = last_raised("".join(traceback.format_exception(caught.value)).splitlines(), whole=True)
    assert raised is not None
    assert raised.message.startswith("ValueError: the second (caused by KeyError: 'the first'")
    assert "Traceback" not in raised.message
