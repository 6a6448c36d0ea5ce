"""The contract's tree as one value whose root can be moved.

Nothing here touches the disk.
"""

from __future__ import annotations

import os

from runtime.base.frozen import frozen

TYPE_CHECKING = False
if TYPE_CHECKING:
    from runtime.base.env import Environ

DEFAULT_BASE = "/opt/ml"


@frozen
class Paths:
    """Directories and files of one job on one host.

    Source: "How Amazon SageMaker AI provides training information" and its neighbours in the developer guide.
    """

    base: str
    """``/opt/ml``, or ``SAGEMAKER_BASE_DIR``."""

    @classmethod
    def from_environ(cls, environ: Environ) -> Paths:
        """Take the root from ``SAGEMAKER_BASE_DIR``, default ``/opt/ml``."""
        return cls(os.path.abspath(environ.get("SAGEMAKER_BASE_DIR") or DEFAULT_BASE))

    @property
    def config(self) -> str:
        """The platform's JSON files."""
        return f"{self.base}/input/config"

    @property
    def data(self) -> str:
        """Parent of the channels' directories."""
        return f"{self.base}/input/data"

    @property
    def code(self) -> str:
        """The user's code, and the working directory of the ranks."""
        return f"{self.base}/code"

    @property
    def model(self) -> str:
        """Becomes ``model.tar.gz``, merged over the hosts."""
        return f"{self.base}/model"

    @property
    def output(self) -> str:
        """Parent of the failure file and of the output data."""
        return f"{self.base}/output"

    @property
    def output_data(self) -> str:
        """Becomes ``output.tar.gz``, merged over the hosts."""
        return f"{self.output}/data"

    @property
    def failure(self) -> str:
        """Its first 1,024 characters become ``FailureReason``."""
        return f"{self.output}/failure"

    @property
    def success(self) -> str:
        """Empty marker of the SageMaker toolkit; the platform does not read it."""
        return f"{self.output}/success"

    @property
    def stopped(self) -> str:
        """Ours: JSON with ``step`` and ``reason`` after a clean stop."""
        return f"{self.output}/stopped"

    @property
    def profiler(self) -> str:
        """Phase times and samples of the machine."""
        return f"{self.output}/profiler"

    @property
    def state(self) -> str:
        """Ours: what ranks tell their launcher (progress, error and stop records)."""
        return f"{self.output}/slipway"

    @property
    def stacks(self) -> str:
        """Ours: where the Python processes of the job write their stacks when they are asked for them."""
        return f"{self.state}/stacks"

    @property
    def checkpoints(self) -> str:
        """Default of ``CheckpointConfig.LocalPath``."""
        return f"{self.base}/checkpoints"
