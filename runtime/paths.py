"""The contract's tree as one value whose root can be moved.

Nothing here touches the disk.
"""

from dataclasses import dataclass
from pathlib import Path

from runtime.env import Environ

DEFAULT_BASE = "/opt/ml"


@dataclass(frozen=True)
class Paths:
    """Directories and files of one job on one host.

    Source: "How Amazon SageMaker AI provides training information" and its neighbours in the developer guide.
    """

    base: Path
    """``/opt/ml``, or ``SAGEMAKER_BASE_DIR``."""

    @classmethod
    def from_environ(cls, environ: Environ) -> "Paths":
        """Take the root from ``SAGEMAKER_BASE_DIR``, default ``/opt/ml``."""
        return cls(Path(environ.get("SAGEMAKER_BASE_DIR") or DEFAULT_BASE))

    @property
    def config(self) -> Path:
        """The platform's JSON files."""
        return self.base / "input" / "config"

    @property
    def data(self) -> Path:
        """Parent of the channels' directories."""
        return self.base / "input" / "data"

    @property
    def code(self) -> Path:
        """The user's code, and the working directory of the ranks."""
        return self.base / "code"

    @property
    def model(self) -> Path:
        """Becomes ``model.tar.gz``, merged over the hosts."""
        return self.base / "model"

    @property
    def output(self) -> Path:
        """Parent of the failure file and of the output data."""
        return self.base / "output"

    @property
    def output_data(self) -> Path:
        """Becomes ``output.tar.gz``, merged over the hosts."""
        return self.output / "data"

    @property
    def failure(self) -> Path:
        """Its first 1,024 characters become ``FailureReason``."""
        return self.output / "failure"

    @property
    def success(self) -> Path:
        """Empty marker of the SageMaker toolkit; the platform does not read it."""
        return self.output / "success"

    @property
    def stopped(self) -> Path:
        """Ours: JSON with ``step`` and ``reason`` after a clean stop."""
        return self.output / "stopped"

    @property
    def profiler(self) -> Path:
        """Phase times and samples of the machine."""
        return self.output / "profiler"

    @property
    def state(self) -> Path:
        """Ours: what ranks tell their launcher (progress, error and stop records)."""
        return self.output / "slipway"

    @property
    def checkpoints(self) -> Path:
        """Default of ``CheckpointConfig.LocalPath``."""
        return self.base / "checkpoints"
