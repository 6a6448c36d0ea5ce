"""Processing jobs: no `train`, a command of the job's own, a message instead of a failure file."""

from __future__ import annotations

from runtime.check.clause import GUIDE, PROCESSING, Clause, Judgement, broken, holds, untried
from runtime.check.lab import PROCESSING_ARGUMENTS, PROCESSING_JOB, Lab, Setup

OWN_CODE = 9
MESSAGE_BYTES = 1024


def _run(lab: Lab) -> Judgement:
    trial = lab.base()
    if lab.job:
        return holds("the job that you gave ran to its end") if trial.exit_code == 0 else broken(trial.ending)
    if trial.seen is None:
        return broken(f"our script did not run: {trial.ending}")
    if trial.seen["job"] != PROCESSING_JOB:
        return broken("our script read another processingjobconfig.json than the platform wrote")
    return holds("our script ran under python3 and read its configuration")


def _arguments(lab: Lab) -> Judgement:
    argv = (lab.base().seen or {}).get("argv")
    if argv != list(PROCESSING_ARGUMENTS):
        return broken(f"sent {list(PROCESSING_ARGUMENTS)}, the script got {argv}")
    return holds(f"{len(PROCESSING_ARGUMENTS)} arguments, blanks and shell signs as they were")


def _code(lab: Lab) -> Judgement:
    trial = lab.run(Setup(program="process", environment={"CHECK_EXIT": str(OWN_CODE)}))
    if trial.exit_code == OWN_CODE:
        return holds(f"the script ended with {OWN_CODE}, so did the container")
    return broken(f"the script ended with {OWN_CODE}; the container: {trial.ending}")


def _message(lab: Lab) -> Judgement:
    path = lab.base().tree.base / "output" / "message"
    if not path.is_file():
        return untried("the job left no message") if lab.job else broken("the script wrote a message; it is gone")
    held = path.read_bytes()
    try:
        text = held[:MESSAGE_BYTES].decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < MESSAGE_BYTES - 4:
            return broken(f"the message is no UTF-8, which fails the job: {error}")
        return broken(f"a sign stands across the cut after {MESSAGE_BYTES} bytes")
    return holds(f"{len(held)} bytes of UTF-8: {text[:60]!r}")


CLAUSES = (
    Clause(
        id="process-start",
        title="the job's command runs",
        level="must",
        why="a ScriptProcessor replaces the entrypoint by python3 and a script",
        source=f"{GUIDE}, how SageMaker runs your processing container",
        tried="docker run --entrypoint python3 IMAGE SCRIPT ARGUMENTS, or the job that you gave",
        change="python3 on PATH; for a program of the image's own, give its job (--job)",
        judge=_run,
        kinds=PROCESSING,
        needs=(),
        ours=False,
    ),
    Clause(
        id="process-arguments",
        title="arguments arrive as a list",
        level="must",
        why="ContainerArguments may hold blanks, quotes and nothing at all",
        source=f"{GUIDE}: ContainerArguments",
        tried="blanks, quotes, shell signs, an empty argument",
        change="no shell between the entrypoint and the program",
        judge=_arguments,
        kinds=PROCESSING,
        needs=("process-start",),
    ),
    Clause(
        id="process-code",
        title="the script's exit code is the container's",
        level="must",
        why="the exit code alone decides between Completed and Failed",
        source=f"{GUIDE}, how your processing container reports its state",
        tried=f"a script that ends with {OWN_CODE}",
        change="end with the program's exit code",
        judge=_code,
        kinds=PROCESSING,
        needs=("process-start",),
    ),
    Clause(
        id="process-message",
        title="the message is UTF-8",
        level="must",
        why="its first kilobyte becomes ExitMessage, and other bytes fail the job",
        source=f"{GUIDE}: /opt/ml/output/message",
        tried="what the job left",
        change="write /opt/ml/output/message as UTF-8, at most 1024 bytes, cut between signs",
        judge=_message,
        kinds=PROCESSING,
        needs=("process-start",),
        ours=False,
    ),
)
