"""The contract's files of one host, on this machine: written as the platform writes them, read as it reads them."""

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

INTERFACE = "eth0"
"""What a container on a network of the engine's own has."""


@dataclass(frozen=True)
class ContractTree:
    """One host's /opt/ml."""

    base: Path

    @classmethod
    def write(
        cls,
        base: Path,
        script: str | Mapping[str, str] = "",
        *,
        host: str = "algo-1",
        hosts: Sequence[str] = ("algo-1",),
        hyperparameters: Mapping[str, str] | None = None,
        channels: Mapping[str, Path] | None = None,
    ) -> "ContractTree":
        """Write a new tree; any user may read and write it.

        Args:
            base: directory that does not exist yet.
            script: text of the program, or all files of the code (name to text, ``train.py`` is the program); they
                travel as the channel ``code``. Empty: no program.
            host: name of this host.
            hosts: all hosts of the job.
            hyperparameters: as strings, the way the service sends them.
            channels: name to a directory that is copied.
        """
        config = base / "input" / "config"
        config.mkdir(parents=True)
        values = dict(hyperparameters or {})
        channel = {"TrainingInputMode": "File", "S3DistributionType": "FullyReplicated", "RecordWrapperType": "None"}
        inputs = dict.fromkeys(channels or {}, channel)
        code = base / "input" / "data" / "code"
        if script:
            code.mkdir(parents=True)
            for name, text in ({"train.py": script} if isinstance(script, str) else script).items():
                (code / name).write_text(text, encoding="utf-8")
            values["sagemaker_program"] = "train.py"
            inputs["code"] = channel
        for name, source in (channels or {}).items():
            shutil.copytree(source, base / "input" / "data" / name)
        resources = {"current_host": host, "hosts": list(hosts), "network_interface_name": INTERFACE}
        for name in ("model", "output", "checkpoints"):
            (base / name).mkdir()
        for name, value in (("hyperparameters", values), ("inputdataconfig", inputs), ("resourceconfig", resources)):
            (config / f"{name}.json").write_text(json.dumps(value), encoding="utf-8")
        for path in (base, *base.rglob("*")):
            path.chmod(0o777 if path.is_dir() else 0o666)  # whatever user the container runs as
        return cls(base)

    @property
    def failure(self) -> str:
        """The failure file's text; empty without one."""
        path = self.base / "output" / "failure"
        return path.read_text(encoding="utf-8") if path.exists() else ""

    @property
    def succeeded(self) -> bool:
        """Whether the success file is there."""
        return (self.base / "output" / "success").exists()

    @property
    def stopped(self) -> Mapping[str, object] | None:
        """The record of a clean stop; None without one."""
        path = self.base / "output" / "stopped"
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None

    def model(self, name: str) -> Path:
        """A file in the model directory."""
        return self.base / "model" / name
