"""The directory for PATH: a ``docker-compose`` that is ours, and the ``docker`` that makes the SDKs choose it."""

import hashlib
import os
import shlex
import sys
from pathlib import Path

from runtime.base.env import process_environ
from runtime.local.environment import package_path
from runtime.version import __version__

DOCKER_COMPOSE = """\
#!/bin/sh
# Written by `slipway compose --path`: docker-compose for local mode of the SageMaker SDKs.
{path}exec {python} -P -m runtime compose "$@"
"""
DOCKER = """\
#!/bin/sh
# Written by `slipway compose --path`: the SDKs would prefer `docker compose` to the docker-compose beside this file.
if [ "$1" = compose ]; then
  echo "docker compose: slipway stands in for it, as docker-compose" >&2
  exit 1
fi
IFS=:
for directory in $PATH; do
  if [ -x "$directory/docker" ] && ! [ "$directory/docker" -ef "$0" ]; then
    exec "$directory/docker" "$@"
  fi
done
echo "docker: the command-line client is not installed" >&2
exit 127
"""


def install(home: Path | None = None) -> Path:
    """Write the executables ``docker-compose`` and ``docker`` for this Python, and return their directory.

    Args:
        home: below it the directory is made; None: the user's cache.
    """
    environ = process_environ()
    cache = home or Path(environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    ours = package_path()
    known = hashlib.sha256(f"{sys.executable} {ours} {__version__}".encode()).hexdigest()[:8]
    directory = cache / "slipway" / f"compose-{known}"
    directory.mkdir(parents=True, exist_ok=True)
    path = f"PYTHONPATH={shlex.quote(ours)}${{PYTHONPATH:+:$PYTHONPATH}} " if ours else ""
    texts = {
        "docker-compose": DOCKER_COMPOSE.format(python=shlex.quote(sys.executable), path=path),
        "docker": DOCKER,
    }
    for name, text in texts.items():
        partial = directory / f".{name}.{os.getpid()}"
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o755)
        partial.replace(directory / name)
    return directory
