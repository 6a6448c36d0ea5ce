"""``make demo``: a whole job on real data. 2 hosts x 2 ranks learn handwritten digits, lose their machines, go on.

Needs neither Docker nor AWS. It prints the command that it runs, so that it can be run again with other words.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

HOME = Path("slipway-runs")
OUTPUT = HOME / "demo"
DIGITS = HOME / "digits"
LEAST_ACCURACY = 0.95
"""Of the last validation; a linear model reaches 0.9 on these images."""
FLAGS = (
    "--entrypoint image_classification --hosts 2 --procs-per-host 2 --interrupt-after step:50 "
    "--hp network=cnn --hp epochs=20 --hp lr=0.003 --hp batch_size=16"
)


def main() -> int:
    """Run the demo.

    Returns:
        0 when the job is complete and has learnt, else 1, or the exit code of ``slipway run``.
    """
    from examples.digits import write_digits

    say("1,797 real handwritten digits become two channels of label folders")
    data = write_digits(DIGITS)
    if OUTPUT.exists():
        say(f"{OUTPUT} of an earlier demo is removed")
        shutil.rmtree(OUTPUT)
    words = ["run", *shlex.split(FLAGS)]
    words += [f"--channel=train={data / 'train'}", f"--channel=validation={data / 'validation'}", f"--output={OUTPUT}"]
    say("2 hosts with 2 ranks each; after step 50 all machines are taken away, as managed spot does")
    say(f"slipway {shlex.join(words)}")
    code = run([sys.executable, "-m", "runtime", *words])
    if code:
        return code
    job = json.loads((OUTPUT / "job.json").read_text(encoding="utf-8"))
    accuracy = job["metrics"].get("validation_accuracy")
    if accuracy is None or accuracy < LEAST_ACCURACY:
        say(f"the job is {job['status']}, but its validation accuracy is {accuracy}; expected {LEAST_ACCURACY}")
        return 1
    resumed = [attempt["resumed_step"] for attempt in job["attempts"] if attempt["resumed_step"] is not None]
    went_on = f", interrupted and resumed from step {resumed[-1]}" if resumed else ""
    say(f"{job['status']}{went_on}: validation accuracy {accuracy:.3f}")
    if job["paths"]["report"]:
        say(f"open {job['paths']['report']}, or read {OUTPUT / 'job.json'}")
    return 0


def run(command: list[str]) -> int:
    """Run a command to its end; Ctrl-C is its business, and it hears of it from the terminal itself."""
    with subprocess.Popen(command, env=os.environ) as process:
        while True:
            try:
                return process.wait()
            except KeyboardInterrupt:
                continue


def say(text: str) -> None:
    """Print one line of the demo's own."""
    sys.stdout.write(f"demo: {text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
