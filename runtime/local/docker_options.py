"""What concerns the containers of a run and stands in no request."""

from dataclasses import dataclass


@dataclass(frozen=True)
class DockerOptions:
    """Limits of each host."""

    shm_bytes: int | None = None
    """Size of /dev/shm. None: half of the machine's memory, as Linux itself does it; the engine's own 64 MiB end data
    loaders with a bus error."""
    memory_bytes: int | None = None
    """Memory, swap included. None: no limit."""
