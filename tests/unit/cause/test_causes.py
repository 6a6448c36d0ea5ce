"""The golden set of faults: whatever ends a script, the failure file says it within its first 1,024 characters.

Every case is a real script under a real `train`. ``# HERE`` marks the line that the reason must name.
"""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from runtime.base.errors import FAILURE_REASON_CHARS
from tests.conftest import MARK, Cluster


@dataclass(frozen=True)
class Fault:
    script: str
    says: tuple[str, ...]
    """All of them stand in the failure file."""
    code: int = 1
    hides: tuple[str, ...] = ()
    """None of them does."""
    module: str = ""
    """Text of model.py beside the script; then ``# HERE`` is looked for in there first."""


PRINTS = "import sys\ndef say(*words): print(*words, file=sys.stderr)\n"

FAULTS = {
    # --- exceptions ---------------------------------------------------------------------------------------------------
    "exception": Fault("raise ValueError('bad label 11')  # HERE", ("ValueError: bad label 11",)),
    "exception in a module": Fault(
        "import model\nmodel.build()",
        ("KeyError: 'width'", "model.py"),
        module="def build():\n    return {}['width']  # HERE\n",
    ),
    "library's exception": Fault("import json\njson.loads('{')  # HERE", ("JSONDecodeError: Expecting property name",)),
    "early word": Fault(
        f"{PRINTS}say('Exception: 0 so far, Error rate 0')\nfor n in range(300): say('step', n, 'loss 0.1')\n"
        "raise RuntimeError('the real one')  # HERE",
        ("RuntimeError: the real one",),
        hides=("so far",),
    ),
    "noise afterwards": Fault(
        f"{PRINTS}import atexit\natexit.register(lambda: [say('uploading', n, 'x' * 80) for n in range(300)])\n"
        "raise RuntimeError('the real one')  # HERE",
        ("RuntimeError: the real one",),
        hides=("uploading",),
    ),
    "progress bar before": Fault(
        "import sys\nfor n in range(5000): sys.stderr.write(f'\\r{n}/5000 [=====>      ]')\n"
        "raise RuntimeError('mid-epoch')  # HERE",
        ("RuntimeError: mid-epoch",),
    ),
    "several lines": Fault(
        "raise RuntimeError('Error(s) in loading state_dict for Net:\\n\\tMissing key(s): \"head.weight\".')  # HERE",
        ('Missing key(s): "head.weight"', "the checkpoint belongs to another model", "Fix: build the model as it was"),
    ),
    "empty first line": Fault(
        "raise ValueError('\\n\\nthe learning rate is negative')", ("learning rate is negative",)
    ),
    "direct cause": Fault(
        "try:\n    {}['x']\nexcept KeyError as error:\n    raise RuntimeError('no column') from error  # HERE",
        ("RuntimeError: no column", "caused by KeyError: 'x'"),
    ),
    "while handling": Fault(
        "try:\n    1 / 0\nexcept ZeroDivisionError:\n    open('/nowhere/x')  # HERE",
        ("FileNotFoundError", "/nowhere/x", "while handling ZeroDivisionError"),
    ),
    "group": Fault(
        "def leaf():\n    raise ValueError('first of two')  # HERE\n"
        "found = []\n"
        "for one in (leaf, lambda: 1 / 0):\n    try: one()\n    except Exception as error: found.append(error)\n"
        "raise ExceptionGroup('shards', found)",
        ("ValueError: first of two", "ExceptionGroup: shards (2 sub-exceptions)"),
    ),
    "task group": Fault(
        "import asyncio\nasync def load():\n    raise OSError('shard 7 is cut off')  # HERE\n"
        "async def main():\n    async with asyncio.TaskGroup() as group: group.create_task(load())\n"
        "asyncio.run(main())",
        ("OSError: shard 7 is cut off",),
    ),
    "syntax": Fault("x = 1\ndef f(:  # HERE\n    pass", ("SyntaxError: invalid syntax",)),
    "syntax in a module": Fault(
        "import model", ("IndentationError: expected an indented block",), module="def f():\nreturn 1  # HERE\n"
    ),
    "recursion": Fault("def f(n): return f(n + 1)  # HERE\nf(0)", ("RecursionError", "calls itself without end")),
    "long and not ASCII": Fault("raise ValueError('größe ' + '日本' * 3000)  # HERE", ("ValueError: größe 日本",)),
    "not even text": Fault("raise ValueError('file \\udce9.jpg')", ("ValueError: file",)),
    "finalizer after it": Fault(
        "class Handle:\n    def __del__(self): raise OSError('late')\n"
        "handle = Handle()\nraise ValueError('the cause')  # HERE",
        ("ValueError: the cause",),
        hides=("late",),
    ),
    # --- exits --------------------------------------------------------------------------------------------------------
    "code 3": Fault("import sys\nsys.exit(3)", ("ended with exit code 3 without a word",), code=3),
    "text": Fault("import sys\nsys.exit('no data for 2024')", ("no data for 2024",)),
    "hard exit": Fault(f"{PRINTS}import os\nsay('disk check failed')\nos._exit(7)", ("disk check failed",), code=7),
    "words on standard output": Fault(
        "print('licence has expired', flush=True)\nimport os\nos._exit(9)", ("licence has expired",), code=9
    ),
    "argument": Fault(
        "import argparse\np = argparse.ArgumentParser()\np.add_argument('--lr', required=True)\np.parse_args([])",
        ("the following arguments are required: --lr", "`slipway plan` shows the words"),
        code=2,
    ),
    "survived traceback": Fault(
        f"{PRINTS}import logging\ntry: 1 / 0\nexcept ZeroDivisionError: logging.exception('once')\n"
        "say('went on')\nsay('quota used up')\nsys.exit(4)",
        ("exit code 4: quota used up",),
        code=4,
    ),
    "printed traceback": Fault(
        "import sys, traceback\ntry: 1 / 0  # HERE\n"
        "except ZeroDivisionError:\n    traceback.print_exc()\n    sys.exit(5)",
        ("ZeroDivisionError: division by zero",),
        code=5,
    ),
    "own failure file": Fault(
        "import os, sys\nwith open(os.environ['SAGEMAKER_BASE_DIR'] + '/output/failure', 'w') as file:\n"
        "    file.write('in my own words')\nsys.exit(6)",
        ("in my own words",),
        code=6,
    ),
    "error file of torchelastic": Fault(
        "import json, os, sys, time\ntold = {'message': 'ValueError: as torchrun tells it'}\n"
        "told['extraInfo'] = {'timestamp': str(int(time.time()))}\n"
        "with open(os.environ['TORCHELASTIC_ERROR_FILE'], 'w') as file: json.dump({'message': told}, file)\n"
        "sys.exit(1)",
        ("ValueError: as torchrun tells it",),
    ),
    "runtime.main": Fault(
        "import runtime\ndef train(run):\n    raise ValueError('in the function')  # HERE\nruntime.main(train)",
        ("ValueError: in the function",),
    ),
    "unknown hyperparameter": Fault(
        "import runtime\ndef train(run, epochs: int): pass\nruntime.main(train)",
        ("Hyperparameter 'epochs' is missing", "Fix: "),
    ),
    # --- imports ------------------------------------------------------------------------------------------------------
    "no module": Fault(
        "import surely_not_installed  # HERE",
        ("No module named 'surely_not_installed'", "Fix: name the package in requirements.txt"),
    ),
    "no name": Fault("from json import parse  # HERE", ("cannot import name 'parse'", "pin it in requirements.txt")),
    "shared library": Fault(
        "import ctypes\nctypes.CDLL('libsurely.so.1')  # HERE",
        ("libsurely.so.1: cannot open shared object file", "does not fit this image"),
    ),
    # --- signals ------------------------------------------------------------------------------------------------------
    "SEGV": Fault("import ctypes\nctypes.string_at(0)", ("killed by SIGSEGV", "native code"), code=139),
    "SEGV with stacks": Fault(
        "import ctypes, faulthandler\nfaulthandler.enable()\nctypes.string_at(0)  # HERE",
        ("killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        code=139,
    ),
    "SEGV under runtime.main": Fault(
        "import ctypes, runtime\ndef train(run):\n    ctypes.string_at(0)  # HERE\nruntime.main(train)",
        ("killed by SIGSEGV", "Segmentation fault"),
        code=139,
    ),
    "ABRT": Fault("import os\nos.abort()", ("killed by SIGABRT",), code=134),
    "C++": Fault(
        f"{PRINTS}import os\nsay(\"terminate called after throwing an instance of 'std::length_error'\")\n"
        "say('  what():  vector too long')\nos.abort()",
        ("std::length_error: vector too long",),
        code=134,
    ),
    "BUS": Fault("import os, signal\nos.kill(os.getpid(), signal.SIGBUS)", ("SIGBUS", "/dev/shm", "Fix:"), code=135),
    "FPE": Fault("import os, signal\nos.kill(os.getpid(), signal.SIGFPE)", ("divided by zero",), code=136),
    "ILL": Fault("import os, signal\nos.kill(os.getpid(), signal.SIGILL)", ("built for another processor",), code=132),
    "KILL from outside": Fault(
        "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", ("killed by SIGKILL",), code=137
    ),
    "a shell's child killed": Fault("import sys\nsys.exit(137)", ("killed by SIGKILL",), code=137),
    # --- resources ----------------------------------------------------------------------------------------------------
    "no memory": Fault(
        "import resource\nresource.setrlimit(resource.RLIMIT_AS, (1 << 28, 1 << 28))\nx = bytearray(1 << 29)  # HERE",
        ("MemoryError", "this host has not that much memory", "smaller batch per rank"),
    ),
    "full disk": Fault(
        "with open('/dev/full', 'w') as file:\n    file.write('x' * 100000)  # HERE",
        ("No space left on device", "a disk is full", "free: ", "VolumeSizeInGB"),
    ),
    "open files": Fault(
        "import os, resource\nresource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))\n"
        "held = [os.open('/dev/null', 0) for _ in range(30)]  # HERE",
        ("Too many open files", "the limit of open files is reached", "nofile"),
    ),
    "no channel": Fault(
        "open('/opt/ml/input/data/trian/x.csv')  # HERE",
        ("/opt/ml/input/data/trian", "compare with the job's InputDataConfig"),
    ),
    "port": Fault(
        "import socket\na = socket.create_server(('127.0.0.1', 0))\nsocket.create_server(a.getsockname()[:2])  # HERE",
        ("Address already in use", "the port is taken on this host"),
    ),
    # --- other processes ----------------------------------------------------------------------------------------------
    "child program": Fault(
        "import subprocess, sys\nsubprocess.run([sys.executable, 'model.py'], check=True)",
        ("KeyError: 'in the child'", "model.py"),
        module="raise KeyError('in the child')  # HERE\n",
    ),
    "silent command": Fault(
        "import subprocess\nsubprocess.run(['false'], check=True)  # HERE", ("Command '['false']' returned non-zero",)
    ),
    "pool": Fault(
        "from multiprocessing import Pool\ndef work(n):\n    raise ValueError(f'shard {n}')  # HERE\n"
        "if __name__ == '__main__':\n    with Pool(1) as pool: pool.map(work, [4])",
        ("ValueError: shard 4",),
    ),
    "spawned child": Fault(
        "import multiprocessing, sys\ndef work():\n    raise ValueError('in the child')  # HERE\n"
        "if __name__ == '__main__':\n    child = multiprocessing.get_context('spawn').Process(target=work)\n"
        "    child.start(); child.join(); sys.exit(child.exitcode)",
        ("ValueError: in the child",),
    ),
    "thread": Fault(
        "import os, threading\ndef work():\n    raise OSError('prefetch failed')  # HERE\n"
        "t = threading.Thread(target=work); t.start(); t.join(); os._exit(1)",
        ("OSError: prefetch failed",),
    ),
    "loader worker": Fault(
        "from torch.utils.data import DataLoader, Dataset\nclass Rows(Dataset):\n    def __len__(self): return 4\n"
        "    def __getitem__(self, n):\n        raise ValueError(f'bad row {n}')  # HERE\n"
        "if __name__ == '__main__': next(iter(DataLoader(Rows(), num_workers=1)))",
        ("ValueError: bad row 0 (in DataLoader worker process 0)",),
    ),
    "loader worker killed": Fault(
        "import os, signal\nfrom torch.utils.data import DataLoader, Dataset\nclass Rows(Dataset):\n"
        "    def __len__(self): return 4\n    def __getitem__(self, n): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if __name__ == '__main__': next(iter(DataLoader(Rows(), num_workers=1)))  # HERE",
        ("is killed by signal: Killed", "a loader worker was killed", "fewer loader workers"),
    ),
    # --- engines, in their own words ----------------------------------------------------------------------------------
    "CUDA memory": Fault(
        "class OutOfMemoryError(RuntimeError): pass\nOutOfMemoryError.__module__ = 'torch'\n"
        "raise OutOfMemoryError('CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total of 22 GiB')  # HERE",
        ("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB", "gradient accumulation"),
    ),
    "CUDA assertion": Fault(
        "raise RuntimeError('CUDA error: device-side assert triggered\\nCUDA kernel errors might be asynchronous')",
        ("label or token id", "CUDA_LAUNCH_BLOCKING=1"),
    ),
    "bus error in a worker": Fault(
        "raise RuntimeError('DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that')",
        ("shared memory is full", "/dev/shm has", "--shm-size"),
    ),
    "two ranks on a GPU": Fault(
        "raise RuntimeError('NCCL error in: init.cpp:1, ncclInvalidUsage: Duplicate GPU detected : rank 1')",
        ("two ranks use the same GPU", "set_device"),
    ),
    "peer": Fault(
        "raise RuntimeError('[/pytorch/gloo/transport/tcp/pair.cc:534] Connection closed by peer [10.0.0.2]:9')",
        ("Connection closed by peer", "the connection to another rank was lost"),
    ),
    # --- secrets ------------------------------------------------------------------------------------------------------
    "secret of the environment": Fault(
        "import os\nraise OSError('401 Client Error for ' + os.environ['HF_TOKEN'])",
        ("401 Client Error for [redacted]", "check the token"),
        hides=("open-sesame",),
    ),
    "secret in a URL": Fault(
        "raise OSError('cannot clone https://me:open-sesame@git.example/x')",
        ("[redacted]@git.example",),
        hides=("sesame",),
    ),
}


def place_of(fault: Fault) -> str:
    for name, text in (("model.py", fault.module), ("train.py", MARK + fault.script)):
        for number, line in enumerate(text.splitlines(), 1):
            if "# HERE" in line:
                return f"{name}:{number}"
    return ""


def test_the_set_is_large_enough() -> None:
    assert len(FAULTS) >= 50


@pytest.mark.parametrize("name", FAULTS)
def test_the_cause_is_in_the_first_1024_characters(name: str, cluster: Callable[..., Cluster]) -> None:
    fault = FAULTS[name]
    job = cluster(fault.script)
    if fault.module:
        job[1].tree.script(fault.module, "model.py")
    job.start(HF_TOKEN="open-sesame-1")  # noqa: S106 - no secret at all
    assert job[1].wait() == fault.code, job[1].text
    reason = job[1].failure
    assert len(reason) <= FAILURE_REASON_CHARS
    assert "\n" not in reason
    if name != "own failure file":
        assert reason.startswith("algo-1 rank 0: ")
    missing = [words for words in fault.says if words not in reason]
    assert missing == [], reason
    assert [words for words in fault.hides if words in reason] == []
    assert place_of(fault) in reason, reason
    if name != "own failure file":
        assert reason in job[1].text  # the log and the file tell the same


def test_the_record_holds_what_a_second_run_needs(cluster: Callable[..., Cluster]) -> None:
    job = cluster("raise ValueError('bad')")
    tree = job[1].tree
    hyperparameters = json.loads((Path(tree.paths.config) / "hyperparameters.json").read_text())
    tree.hyperparameters(**hyperparameters, seed="17", api_key="open-sesame", lr='"0.1"')
    job.start()
    assert job[1].wait() == 1
    path = Path(tree.paths.state) / "failure.json"
    text = path.read_text()
    record = json.loads(text)
    assert path.stat().st_mode & 0o777 == 0o600
    assert record["reason"] == job[1].failure
    assert (record["exit_code"], record["cause"]["rank"]) == (1, 0)
    assert record["job"]["seed"] == {"seed": "17"}
    assert record["job"]["digest"].startswith("sha256:")
    assert {"python", "slipway", "torch"} <= set(record["versions"])
    assert "open-sesame" not in text


def test_the_record_says_how_far_the_rank_was(cluster: Callable[..., Cluster]) -> None:
    script = (
        "import runtime\ndef train(run):\n    for _ in range(3): run.step(loss=1.0)\n    raise ValueError('bad')\n"
        "runtime.main(train)"
    )
    job = cluster(script)
    job.start()
    assert job[1].wait() == 1
    record = json.loads((Path(job[1].tree.paths.state) / "failure.json").read_text())
    assert record["run"]["step"] == 3
    assert record["run"]["data"] == []


def test_what_is_seen_in_passing_is_said_before_the_fault(cluster: Callable[..., Cluster]) -> None:
    job = cluster("raise ValueError('bad')")
    job.start(DATA_PREFIX="${STAGE}/data")
    assert job[1].wait() == 1
    assert "environment variable DATA_PREFIX holds '${STAGE}/data': nothing expands it here" in job[1].text


def test_the_digest_tells_jobs_apart_and_hosts_not(cluster: Callable[..., Cluster]) -> None:
    def digests(lr: str, key: str) -> set[str]:
        job = cluster("raise ValueError('bad')", hosts=2)
        for host in job.hosts.values():
            given = json.loads((Path(host.tree.paths.config) / "hyperparameters.json").read_text())
            host.tree.hyperparameters(**given, lr=lr, api_key=key)
        job.start()
        for host in job.hosts.values():
            host.wait()
        records = [Path(host.tree.paths.state) / "failure.json" for host in job.hosts.values()]
        return {json.loads(path.read_text())["job"]["digest"] for path in records}

    first, same, other = digests("0.1", "one-key"), digests("0.1", "another"), digests("0.2", "one-key")
    assert len(first) == 1
    assert first == same
    assert first != other


def test_an_earlier_record_does_not_outlive_a_good_run(cluster: Callable[..., Cluster]) -> None:
    job = cluster("pass")
    state = Path(job[1].tree.paths.state)
    state.mkdir(parents=True)
    (state / "failure.json").write_text("{}")
    job.start()
    assert job[1].wait() == 0
    assert not (state / "failure.json").exists()


# --- a real out-of-memory kill --------------------------------------------------------------------------------------


@pytest.fixture
def small_group() -> Iterator[Path]:
    """Make a real control group of 128 MiB; a machine that lets us make none says so."""
    for parent, limit, swap in (
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes", "memory.memsw.limit_in_bytes"),
        (Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"),
    ):
        group = parent / f"slipway-causes-{os.getpid()}"
        try:
            group.mkdir()
            (group / limit).write_text(str(128 << 20))
        except OSError:
            with contextlib.suppress(OSError):
                group.rmdir()
            continue
        with contextlib.suppress(OSError):
            (group / swap).write_text(str(128 << 20) if "memsw" in swap else "0")
        yield group
        group.rmdir()
        return
    pytest.skip("this machine lets nobody make a control group with a memory limit (needs root)")


HOG = "held = []\nwhile True: held.append(bytearray(b'x' * (1 << 20)))"


def test_out_of_memory_is_told_from_a_kill(cluster: Callable[..., Cluster], small_group: Path) -> None:
    """The launcher and its rank live in a group of 128 MiB, as in a small container."""
    enter = (
        f"import os, sys; open({str(small_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, '-m', 'runtime.launch.launcher'])"
    )
    job = cluster(HOG)
    job.start(launcher=("-c", enter))
    assert job[1].wait() == 128 + signal.SIGKILL
    assert "out of memory: the kernel ended this process by SIGKILL (exit code 137); limit 128 MiB" in job[1].failure
    assert "Fix: use a smaller batch per rank" in job[1].failure
    job = cluster("import os, signal\nos.kill(os.getpid(), signal.SIGKILL)")
    job.start(launcher=("-c", enter))
    assert job[1].wait() == 128 + signal.SIGKILL
    assert "killed by SIGKILL (exit code 137) from outside (the kernel counts no out-of-memory kill" in job[1].failure


def test_a_child_that_memory_killed_is_told_of(cluster: Callable[..., Cluster], small_group: Path) -> None:
    enter = (
        f"import os, sys; open({str(small_group / 'cgroup.procs')!r}, 'w').write(str(os.getpid()));"
        "os.execv(sys.executable, [sys.executable, '-m', 'runtime.launch.launcher'])"
    )
    script = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {HOG!r}], check=True)"
    job = cluster(script)
    job.start(launcher=("-c", enter))
    assert job[1].wait() == 1
    assert "the kernel has ended 1 process of this container for want of memory: limit 128 MiB" in job[1].failure


def test_the_script_itself_runs_as_it_would_alone(tmp_path: Path) -> None:
    """The faults are real: each script without `train` ends with the code that the set names."""
    (tmp_path / "marks").mkdir()
    for name in ("code 3", "ABRT", "exception", "argument"):
        (tmp_path / "train.py").write_text(FAULTS[name].script)
        done = subprocess.run([sys.executable, "train.py"], cwd=tmp_path, capture_output=True, timeout=300, check=False)
        code = 128 - done.returncode if done.returncode < 0 else done.returncode
        assert code == FAULTS[name].code
