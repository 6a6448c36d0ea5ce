"""Faults on real containers: a cluster of hosts on a private network, what can happen to them, what they then did.

For tests on a developer's machine, ours and yours; it talks to a Docker engine through its command-line client and is
never imported inside an image. What ``slipway run`` needs of it stands beside it in modules of their own, so each part
is loaded when it is asked for. The parts:

- `ContractTree`: what the platform writes for one host, and what the host leaves behind;
- `Cluster` and `Host`: containers of one job, and the faults as verbs;
- `Limits`: memory, shared memory, processes, user, read-only root;
- `Ending` and `LogLine`: what was seen, with the times of the engine's clock;
- `S3FaultProxy` and `S3Faults`: a slow or failing S3;
- `FaultPlayer`: faults by name, at a step or a time (`Cluster.play`), as ``slipway run --fault`` plays them;
- `wait_until`: a wait with a deadline that says what it waited for.

    with Cluster("my-image:cpu", home, hosts=3, script=SCRIPT) as cluster:
        cluster.start()
        cluster["algo-2"].wait_for_file("model/ready-1")
        began = cluster["algo-3"].kill()
        for ending in cluster.endings("algo-1", "algo-2"):
            assert "algo-3" in ending.failure
            assert ending.at - began < 3
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.testing.client import PATIENCE_S, answers, docker, must, wait_until
    from runtime.testing.cluster import Cluster, Host
    from runtime.testing.container import Container, Ending, Limits, LogLine
    from runtime.testing.faults.disk import Disk
    from runtime.testing.faults.play import FaultPlayer, Played
    from runtime.testing.s3_faults import S3FaultProxy, S3Faults, parse_s3_faults
    from runtime.testing.tree import ContractTree

__all__ = [
    "Cluster",
    "Host",
    "Container",
    "ContractTree",
    "Disk",
    "Ending",
    "FaultPlayer",
    "Limits",
    "LogLine",
    "PATIENCE_S",
    "Played",
    "S3FaultProxy",
    "S3Faults",
    "answers",
    "docker",
    "must",
    "parse_s3_faults",
    "wait_until",
]

_HOMES = {
    "Cluster": "cluster",
    "Host": "cluster",
    "Container": "container",
    "ContractTree": "tree",
    "Disk": "faults.disk",
    "Ending": "container",
    "FaultPlayer": "faults.play",
    "Limits": "container",
    "LogLine": "container",
    "PATIENCE_S": "client",
    "Played": "faults.play",
    "S3FaultProxy": "s3_faults",
    "S3Faults": "s3_faults",
    "answers": "client",
    "docker": "client",
    "must": "client",
    "parse_s3_faults": "s3_faults",
    "wait_until": "client",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'runtime.testing' has no attribute {name!r}; public names: {', '.join(__all__)}")
    import importlib

    return getattr(importlib.import_module(f"runtime.testing.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted(__all__)
