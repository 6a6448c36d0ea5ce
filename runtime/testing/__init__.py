"""Faults on real containers: a cluster of hosts on a private network, what can happen to them, what they then did.

For tests on a developer's machine, ours and yours; it talks to a Docker engine through its command-line client and is
never imported inside an image. The parts:

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

from runtime.testing.cluster import Cluster, Host
from runtime.testing.container import Container, Ending, Limits, LogLine
from runtime.testing.docker import PATIENCE_S, answers, docker, must, wait_until
from runtime.testing.faults import Disk, FaultPlayer, Played
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
