"""Processes of a pool that end with the one that started them, also when it is killed."""

import multiprocessing
import os
import threading


def end_with_parent() -> None:
    """Let this process of a pool end when its parent does; call it as the pool's initializer, or in it.

    Whoever waits for work would wait for ever: the kernel's signal for a parent's death comes from the server that
    forks, and that lives as long as its children do.
    """
    threading.Thread(target=_watch, name="orphan watch", daemon=True).start()


def _watch() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
