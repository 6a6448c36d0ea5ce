"""Ends the containers of a run whose process was killed: ``python -m runtime.local.guard RUN``.

A shell holds the reading end of a pipe. The run writes a line when it has cleaned up itself; when the pipe ends
without one, the run is dead, and the shell becomes the program below. It leads a session of its own and ignores what a
terminal sends, so that it outlives whatever ended the run. A Python that waits in its place would cost every start
some 30 ms of CPU, just when the containers come up.
"""

import os
import sys

DONE = b".\n"
WATCH = 'trap "" HUP INT QUIT TERM; read -r _ && exit 0; exec "$0" "$@"'
"""What is ignored stays so in the program that follows."""


class Guard:
    """The run's end of the pipe."""

    def __init__(self, run: str) -> None:
        """Start the process that watches this one.

        Args:
            run: value of the label that everything of the run carries.
        """
        import subprocess

        from runtime.base.env import process_environ
        from runtime.local.environment import package_path

        here = process_environ()
        path = os.pathsep.join(part for part in (package_path(), here.get("PYTHONPATH", "")) if part)
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", WATCH, sys.executable, "-P", "-m", "runtime.local.guard", run],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,  # its warnings would come when the prompt is back
            start_new_session=True,
            env={**here, **({"PYTHONPATH": path} if path else {})},
        )

    def dismiss(self) -> None:
        """Say that all is cleaned up, and see it go."""
        # Somebody may have ended it: then there is nothing left to watch.
        self._process.communicate(DONE)


def main(run: str) -> int:
    """Clean up after a run that could not do so itself."""
    from runtime.local.containers import Docker
    from runtime.local.inputs.mounts import clean_mounts
    from runtime.local.leftovers import sweep

    sweep(Docker(), run)
    clean_mounts()  # where its process was killed too
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
