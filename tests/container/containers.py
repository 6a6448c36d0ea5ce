"""Single containers for the tests of the image: started through the docker client, waited for, always removed."""

import itertools
import os
from collections.abc import Sequence

from runtime.contract.paths import DEFAULT_BASE as BASE
from runtime.testing import Container, docker, must, wait_until
from runtime.testing import ContractTree as Tree

IMAGE = "slipway-pytorch:cpu"
make_tree = Tree.write

__all__ = ["IMAGE", "Container", "Containers", "Tree", "docker", "make_tree", "wait_until"]

_numbers = itertools.count(1)


class Containers:
    """Makes containers and networks with names of their own, and removes what it made."""

    def __init__(self, image: str = IMAGE) -> None:
        self._image = image
        self._prefix = f"slipway-test-{os.getpid()}"
        self._containers: list[str] = []
        self._networks: list[str] = []
        self._trees: list[Tree] = []

    def run(
        self,
        *command: str,
        tree: Tree | None = None,
        host: str = "algo-1",
        network: str = "none",
        options: Sequence[str] = (),
    ) -> Container:
        """Start a container in the background.

        Args:
            command: what to run in the image; none: the image's own command.
            tree: mounted as /opt/ml.
            host: the name under which other containers of the network find it.
            network: ``none``, or one made by `network`.
            options: further options of ``docker run``.
        """
        name = f"{self._prefix}-{next(_numbers)}-{host}"
        words = ["run", "--detach", "--name", name, "--hostname", host, "--network", network]
        if network != "none":
            words += ["--network-alias", host]
        if tree is not None:
            words += ["--volume", f"{tree.base}:{BASE}"]
            self._trees.append(tree)
        self._containers.append(name)
        must(*words, *options, self._image, *command)
        return Container(name)

    def network(self) -> str:
        """Make a private network without a way out."""
        name = f"{self._prefix}-{next(_numbers)}"
        must("network", "create", "--internal", name)
        self._networks.append(name)
        return name

    def close(self) -> None:
        """Remove everything; files that root wrote in a container become the test user's again."""
        for name in self._containers:
            docker("rm", "--force", "--volumes", name)
        for name in self._networks:
            docker("network", "rm", name)
        if os.getuid() != 0:
            for tree in self._trees:
                owner = f"{os.getuid()}:{os.getgid()}"
                docker("run", "--rm", "--volume", f"{tree.base}:{BASE}", self._image, "chown", "-R", owner, BASE)
