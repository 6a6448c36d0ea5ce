"""The base image where no registry is at hand: mmdebstrap -> docker import, once per recipe."""

import hashlib
import json
import tempfile
from dataclasses import asdict
from pathlib import Path

from images.catalog import Rootfs
from images.engine import Engine
from images.quiet import run_step

_COMPILE = (
    # mmdebstrap dates files back, which makes Debian's own byte code stale: made anew at every start.
    'PYTHONHASHSEED=0 chroot "$1" python3 -m compileall -q -f --invalidation-mode unchecked-hash /usr/lib/python3.11'
)


def recipe(rootfs: Rootfs, archive: Path) -> list[str]:
    """Return the command that makes the tree; root is needed to run it."""
    return [
        "mmdebstrap",
        "--variant=essential",
        f"--include={','.join(rootfs.packages)}",
        *(f"--dpkgopt=path-exclude={pattern}" for pattern in rootfs.exclude),
        f"--customize-hook={_COMPILE}",
        rootfs.suite,
        str(archive),
    ]


def tag(rootfs: Rootfs) -> str:
    """Name the image after its recipe: a changed recipe is another image, an equal one is made once."""
    text = json.dumps([asdict(rootfs), recipe(rootfs, Path("rootfs.tar"))], sort_keys=True)
    return f"slipway-rootfs:{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def ensure(rootfs: Rootfs, engine: Engine) -> tuple[str, bool]:
    """Make the base image unless the engine has it.

    Returns:
        Its tag, and whether it was made now.

    Raises:
        StepFailed: mmdebstrap is missing, is not run as root, or cannot reach the Debian mirror.
    """
    name = tag(rootfs)
    if engine.has(name):
        return name, False
    with tempfile.TemporaryDirectory(prefix="slipway-rootfs-") as scratch:
        archive = Path(scratch) / "rootfs.tar"
        run_step(
            "making the base image with mmdebstrap",
            recipe(rootfs, archive),
            engine.log_dir / "rootfs.log",
            environ={"SOURCE_DATE_EPOCH": str(rootfs.source_date_epoch)},
            fix="run as root with a Debian mirror in reach, or name a base with Python 3.11: --base IMAGE",
        )
        with archive.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        engine.import_tree(archive, name, {"slipway.rootfs.sha256": digest})
    return name, True
