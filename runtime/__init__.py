"""Slipway's in-container runtime: the public names, loaded when they are asked for.

``import runtime`` costs milliseconds: torch, numpy and boto3 are never imported by it.
"""

from runtime.version import __version__

TYPE_CHECKING = False  # `typing` would cost the launcher 9 ms
if TYPE_CHECKING:
    from runtime.base.errors import PlatformError, UserError
    from runtime.contract.job import Channel, Job
    from runtime.rank import main
    from runtime.session import Run

__all__ = ["main", "Run", "Job", "Channel", "UserError", "PlatformError", "__version__"]

_HOMES = {
    "main": "runtime.rank",
    "Run": "runtime.session",
    "Job": "runtime.contract.job",
    "Channel": "runtime.contract.job",
    "UserError": "runtime.base.errors",
    "PlatformError": "runtime.base.errors",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'runtime' has no attribute {name!r}; public names: {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return sorted(__all__)
