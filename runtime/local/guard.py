"""Ends the containers of a run whose process was killed: ``python -m runtime.local.guard RUN``.

It holds the reading end of a pipe. The run writes one byte when it has cleaned up itself; when the pipe ends
without that byte, the run is dead. It leads a session of its own and ignores what a terminal sends, so that it
outlives whatever ended the run, and it imports next to nothing until it is needed.
"""

import os
import signal
import sys

DONE = b"."


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
            [sys.executable, "-P", "-m", "runtime.local.guard", run],
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
    """Wait for the end of the run, and clean up after one that could not do so itself."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_IGN)
    if os.read(0, 1):
        return 0
    from runtime.local.containers import Docker
    from runtime.local.inputs.mounts import clean_mounts
    from runtime.local.leftovers import sweep

    sweep(Docker(), run)
    clean_mounts()  # where its process was killed too
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
