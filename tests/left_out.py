"""What `make test` left out on this machine, and how to enable it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path


def engine_answers() -> bool:
    """Tell whether a Docker engine is there."""
    if shutil.which("docker") is None:
        return False
    return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0


def fuse_is_missing() -> str:
    """Say why this machine cannot mount FastFile channels; empty when it can."""
    from runtime.base.errors import UserError
    from runtime.local.inputs.mounts import check_fuse

    try:
        check_fuse(other_users=False)
    except UserError as error:
        return str(error)
    return ""


def mounts_are_missing() -> str:
    """Say why this machine makes no mount namespaces; empty when it does."""
    if shutil.which("unshare") is None:
        return "no program `unshare` (util-linux)"
    words = ["unshare", "--mount", "--map-root-user", "mount", "-t", "tmpfs", "tmpfs", "/dev/shm"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    return f"no mount namespaces here: {done.stderr.strip()}" if done.returncode else ""


def has_compose_plugin() -> bool:
    """Tell whether ``docker compose`` is there in a version that SDK v2 accepts."""
    if shutil.which("docker") is None:
        return False
    done = subprocess.run(["docker", "compose", "version"], capture_output=True, text=True, check=False)
    return "v2" in done.stdout


def left_out() -> list[str]:
    """Name each group of tests that `make test` did not run, with the way to run it."""
    lines: list[str] = []
    if engine_answers():
        lines.append("container tests: a Docker engine is there, run `make test-container`")
    else:
        lines.append(
            "container tests: no Docker engine answers; install docker.io, start dockerd, `make test-container`"
        )
    if not has_compose_plugin():
        lines.append(
            "SDKs on the plugin: no `docker compose` 2 here, and Debian 12 has no package of it; docker-compose 1 and"
            " recorded answers stand for it; install docker-compose-plugin from Docker's own repository"
        )
    if not Path("/dev/nvidia0").exists():
        lines.append("GPU tests: no NVIDIA GPU on this machine; run `pytest -m gpu` on one that has")
    if os.geteuid() != 0:
        lines.append("faults on networks and disks of containers (test_local_life): run `make test-container` as root")
    if fuse_is_missing():
        lines.append(f"FastFile mounts: {fuse_is_missing()}")
    if mounts_are_missing():
        lines.append(f"loader workers under a tiny /dev/shm: {mounts_are_missing()}; run as root, or allow namespaces")
    lines.append("long campaigns of interruptions: `make soak`")
    return lines


if __name__ == "__main__":
    sys.stdout.write("left out:\n" + "".join(f"  {line}\n" for line in left_out()))
