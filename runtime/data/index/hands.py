"""The processes of a build: none but this one at first, several when there is more to do than their start takes."""

import math
import multiprocessing
import os
import time
from concurrent.futures import Future, ProcessPoolExecutor

from runtime.data.index.files import Files
from runtime.data.index.rows import Options
from runtime.data.index.tasks import Done, Share, Task
from runtime.data.index.worker import Worker
from runtime.data.orphans import end_with_parent

ALONE_S = 0.5
"""Longer than a pool of processes takes to start."""


class Hands:
    """Does tasks: at first in this very process, in several as soon as there is more to do than their start takes."""

    def __init__(self, files: Files, options: Options, share: Share, directory: str, processes: int) -> None:
        """Prepare to work in this process.

        Args:
            files: the tree.
            options: of the rows.
            share: of the tree.
            directory: for the spools.
            processes: at most; 1: never another one than this.
        """
        self._processes = processes
        self._arguments = (files, options, share, directory)
        self._worker = _make_worker(*self._arguments)
        self._alone_until = time.monotonic() + (ALONE_S if processes > 1 else math.inf)
        self._executor: ProcessPoolExecutor | None = None

    def __enter__(self) -> "Hands":
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if self._executor is not None:
            self._executor.shutdown(cancel_futures=kind is not None)
        self._worker.close()

    @property
    def at_one_time(self) -> int:
        """Tasks that are worth handing out before the first is done."""
        return 1 if time.monotonic() < self._alone_until else 2 * self._processes

    def submit(self, task: Task) -> "Future[Done]":
        """Do a task, or have it done."""
        if time.monotonic() < self._alone_until:
            future: Future[Done] = Future()
            future.set_result(self._worker.do(task))
            return future
        if self._executor is None:
            context = multiprocessing.get_context("forkserver")
            self._executor = ProcessPoolExecutor(self._processes, context, _begin, self._arguments)
        return self._executor.submit(_do, task)


def _make_worker(files: Files, options: Options, share: Share, directory: str) -> Worker:
    return Worker(files, options, share, f"{directory}/spool-{os.getpid()}-{time.time_ns()}")


_worker: Worker | None = None
"""Of a process of the pool."""


def _begin(files: Files, options: Options, share: Share, directory: str) -> None:
    global _worker
    end_with_parent()
    _worker = _make_worker(files, options, share, directory)


def _do(task: Task) -> Done:
    assert _worker is not None  # noqa: S101 - `_begin` ran
    return _worker.do(task)
