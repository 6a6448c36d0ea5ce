"""Files of ``/opt/ml/input/config`` beside those of channels, hosts and hyperparameters. Pure.

Keys: CreateTrainingJob API; listings of real jobs. What the service writes into init-config.json and
upstreamoutputdataconfig.json is documented nowhere: they are there, and empty.
"""

from collections.abc import Mapping

from runtime.contract.paths import DEFAULT_BASE
from runtime.local.request.node import Node

TENSORS = f"{DEFAULT_BASE}/output/tensors"
TENSORBOARD = f"{DEFAULT_BASE}/output/tensorboard"
"""Where the API puts them when the request names no ``LocalPath``."""


def config_files(root: Node) -> dict[str, object]:
    """Return name and content of each file that is the same on every host."""
    found: dict[str, object] = {
        "init-config.json": {},
        "upstreamoutputdataconfig.json": {},
        "trainingjobconfig.json": dict(root.value),
    }
    given: Mapping[str, tuple[str, dict[str, object]]] = {
        "DebugHookConfig": (
            "debughookconfig.json",
            {"LocalPath": TENSORS, "HookParameters": {}, "CollectionConfigurations": []},
        ),
        "ProfilerConfig": (
            "profilerconfig.json",
            {"ProfilingIntervalInMilliseconds": 500, "ProfilingParameters": {}, "DisableProfiler": False},
        ),
        "TensorBoardOutputConfig": ("tensorboardoutputconfig.json", {"LocalPath": TENSORBOARD}),
    }
    for key, (name, defaults) in given.items():
        if key in root.value:
            found[name] = {**defaults, **root.child(key).value}
    return found


def local_outputs(files: Mapping[str, object]) -> dict[str, str]:
    """Return what else a job writes for somebody to read: a short name, and the directory in the container."""
    found: dict[str, str] = {}
    for name, short in (("debughookconfig.json", "tensors"), ("tensorboardoutputconfig.json", "tensorboard")):
        if name in files:
            found[short] = Node(files[name], name).text("LocalPath")
    return found
