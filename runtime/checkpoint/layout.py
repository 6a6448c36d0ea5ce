"""Names and completeness of checkpoints on disk.

step-00000050.1f3a9c/        never overwritten: the suffix is of the run that wrote it
    state.pt                 what all ranks share (model, optimizer, data position, ...), by rank 0
    rank-00000.pt ...        what is a rank's own (random number generators)
    MANIFEST.json            names, sizes and digests of all files; written last: without it there is no checkpoint
"""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError
from runtime.base.log import Log

log = Log("checkpoint")

FORMAT = 1
MANIFEST = "MANIFEST.json"
STATE = "state.pt"
_NAME = re.compile(r"step-(\d{8,})\.([0-9a-f]{6})")


@dataclass(frozen=True)
class FileFacts:
    """One file of a checkpoint."""

    name: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """What a complete checkpoint consists of."""

    step: int
    world_size: int
    """Ranks that wrote it."""
    files: tuple[FileFacts, ...]
    job: str = ""
    runtime: str = ""
    """Version of Slipway that wrote it."""
    beginning: int = 0
    """How often the work in this directory was begun anew; a later beginning is newer, whatever its steps."""

    def facts(self, name: str) -> FileFacts | None:
        """Find a file by name."""
        return next((file for file in self.files if file.name == name), None)


def checkpoint_name(step: int, run_id: str) -> str:
    """Name a checkpoint's directory.

    >>> checkpoint_name(50, "1f3a9c")
    'step-00000050.1f3a9c'
    """
    return f"step-{step:08d}.{run_id}"


def checkpoint_step(name: str) -> int:
    """Return the step in a checkpoint's name; 0 when it is no such name.

    >>> checkpoint_step("step-00000050.1f3a9c")
    50
    """
    found = _NAME.fullmatch(name)
    return int(found[1]) if found else 0


def directories(root: Path) -> list[str]:
    """List the directories that are named like checkpoints, complete or not."""
    try:
        return sorted(entry.name for entry in root.iterdir() if _NAME.fullmatch(entry.name))
    except OSError:
        return []


def rank_file(rank: int) -> str:
    """Name a rank's own file."""
    return f"rank-{rank:05d}.pt"


def to_json(manifest: Manifest) -> str:
    """Spell a manifest."""
    return json.dumps(
        {
            "format": FORMAT,
            "step": manifest.step,
            "world_size": manifest.world_size,
            "job": manifest.job,
            "runtime": manifest.runtime,
            "beginning": manifest.beginning,
            "files": [{"name": f.name, "bytes": f.num_bytes, "sha256": f.sha256} for f in manifest.files],
        },
        indent=1,
    )


def read_manifest(directory: Path) -> Manifest | None:
    """Read a checkpoint's manifest; None when it is absent or damaged, so that there is no checkpoint.

    Raises:
        UserError: a newer runtime wrote it; taking an older checkpoint instead would lose work silently.
    """
    try:
        value: object = json.loads((directory / MANIFEST).read_text(encoding="utf-8"))
        record = cast(Mapping[str, Any], value)
        if record["format"] > FORMAT:
            raise UserError(
                f"Checkpoint {directory} has format {record['format']}, written by Slipway {record.get('runtime')}",
                allowed=f"this runtime reads formats up to {FORMAT}",
                fix="use the newer image, or begin anew with slipway_resume=off",
            )
        files = tuple(FileFacts(str(f["name"]), int(f["bytes"]), str(f["sha256"])) for f in record["files"])
        return Manifest(
            int(record["step"]),
            int(record["world_size"]),
            files,
            str(record["job"]),
            str(record["runtime"]),
            int(record.get("beginning", 0)),
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None


def candidates(root: Path, *, refuse_newer: bool = True) -> dict[str, Manifest]:
    """List complete-looking checkpoints by name, the newest first.

    Names that vanish while we look (a sync agent's markers, retention) are no error.

    Args:
        root: directory of checkpoints.
        refuse_newer: False leaves out what a newer runtime wrote, for those who do not want to resume from it.

    Raises:
        UserError: a newer runtime wrote one of them, and `refuse_newer`.
    """
    found: dict[str, Manifest] = {}
    for name in directories(root):
        try:
            manifest = read_manifest(root / name)
        except UserError:
            if refuse_newer:
                raise
            continue
        if manifest is None:
            log.debug(f"{name} is incomplete (no readable {MANIFEST}): ignored")
        else:
            found[name] = manifest
    return dict(sorted(found.items(), key=lambda item: (item[1].beginning, item[1].step, item[0]), reverse=True))
