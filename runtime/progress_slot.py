"""Where a rank tells its launcher how far it is; the launcher reads it by `runtime.launch.progress`."""

import mmap
import time
from pathlib import Path

from runtime.launch.progress import PROGRESS


class ProgressSlot:
    """This rank's slot in the progress file of its host; does nothing where nobody watches."""

    def __init__(self, path: Path, local_rank: int) -> None:
        """Map the launcher's file, if it is there.

        Args:
            path: of the file.
            local_rank: counts from 0.
        """
        self._slots = _map(path)
        self._at = local_rank * PROGRESS.size
        if self._slots is not None and len(self._slots) < self._at + PROGRESS.size:
            self._slots = None

    def report(self, step: int) -> None:
        """Tell of the last finished step, and that we still move; step 0: we are here and have finished none yet."""
        if self._slots is not None:
            PROGRESS.pack_into(self._slots, self._at, step, time.time())


def _map(path: Path) -> mmap.mmap | None:
    try:
        with path.open("r+b") as stream:
            return mmap.mmap(stream.fileno(), 0)
    except (OSError, ValueError):
        return None
