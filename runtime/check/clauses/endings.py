"""How a job ends: exit codes, the failure file, results, SIGTERM and what follows it."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from runtime.base.errors import FAILURE_REASON_CHARS
from runtime.check.clause import API, BOTH, GUIDE, Clause, Judgement, broken, holds, untried
from runtime.check.lab import Lab, Running, Setup, Trial, has_files
from runtime.contract.paths import DEFAULT_BASE
from runtime.testing import docker

CAUSE = ("RuntimeError", "labels of shard 17 are out of range")
"""What ``programs/fail.py`` raises."""
OWN_CODE = 7
"""Of ``programs/leave.py``."""
KILLED = 137
DROPPED = "; PID 1 has no handler for SIGTERM, and the kernel drops it"
SIGN_S = 30.0
"""How long an algorithm of the image's own may take to its first line or file."""


def _success(lab: Lab) -> Judgement:
    trial = lab.base()
    failure = trial.tree.base / "output" / "failure"
    if trial.exit_code != 0:
        return broken(f"the program ended well, the container with {trial.ending}")
    if failure.exists():
        return broken(f"exit code 0, and a failure file: {failure.read_bytes()[:100]!r}")
    return holds("exit code 0, no failure file")


def failing_trial(lab: Lab) -> Trial:
    """Run a job that must fail, once."""
    if not lab.own:
        return lab.once("fail", lambda: lab.run(Setup(program="fail")))
    failing = dict(lab.job.failing) if lab.job else {}
    return lab.once("fail", lambda: lab.run(Setup(hyperparameters=failing, broken=not failing)))


def _failure(lab: Lab) -> Judgement:
    trial = failing_trial(lab)
    if trial.exit_code is None:
        return broken(f"a failing program: {trial.ending}")
    if trial.exit_code:
        return holds(f"exit code {trial.exit_code}")
    if lab.own and not (lab.job and lab.job.failing):
        return untried("the algorithm bears even a broken hyperparameters.json; say what fails it: --failing-hp")
    return broken("the program failed, the container ended with exit code 0: the platform shows Completed")


def _code(lab: Lab) -> Judgement:
    trial = lab.run(Setup(program="leave"))
    if trial.exit_code == OWN_CODE:
        return holds(f"the program ended with {OWN_CODE}, so did the container")
    return broken(f"the program ended with {OWN_CODE}; the container: {trial.ending}")


def _failure_bytes(lab: Lab) -> bytes | None:
    path = failing_trial(lab).tree.base / "output" / "failure"
    return path.read_bytes() if path.is_file() else None


def _failure_file(lab: Lab) -> Judgement:
    held = _failure_bytes(lab)
    if not held:
        return broken("no /opt/ml/output/failure" if held is None else "/opt/ml/output/failure is empty")
    try:
        text = held.decode("utf-8")
    except UnicodeDecodeError as error:
        return broken(f"/opt/ml/output/failure is no UTF-8: {error}")
    return holds(f"{len(text)} characters of UTF-8")


def _cause(lab: Lab) -> Judgement:
    text = (_failure_bytes(lab) or b"").decode("utf-8", "replace")
    missing = [word for word in CAUSE if word not in text[:FAILURE_REASON_CHARS]]
    shown = " ".join(text[:160].split())
    if missing:
        return broken(f"not in the first {FAILURE_REASON_CHARS} characters: {', '.join(missing)}; it begins {shown!r}")
    return holds(f"it begins {shown!r}")


def _results(lab: Lab) -> Judgement:
    trial = lab.base()
    if lab.own:
        found = has_files(trial.tree.base / "model")
        return holds("the model directory holds files") if found else broken("the model directory is empty at the end")
    paths = ("model/weights.bin", "output/data/notes.txt")
    missing = [name for name in paths if not (trial.tree.base / name).is_file()]
    if missing:
        return broken(f"the program wrote {', '.join(missing)}; at the end it was gone")
    return holds("model and output lie where the program put them")


def _stopped(lab: Lab) -> Trial:
    return lab.once("stop", lambda: _stop(lab))


def _stop(lab: Lab) -> Trial:
    running = lab.start(Setup(program="stop", deadline_s=lab.deadline_s + lab.grace_s))
    base = running.tree.base
    if lab.own:
        there = running.wait_for(lambda: _has_begun(running), SIGN_S) or running.container.running()
    else:
        there = running.wait_for(lambda: (base / "model" / "began.json").exists(), lab.deadline_s)
    if not there or not running.container.running():
        return running.finish("over")
    dropped = _drops_sigterm(running)
    seconds = running.container.stop(lab.grace_s)
    return running.finish(f"ended {seconds:.1f} s after SIGTERM{DROPPED if dropped else ''}")


def _drops_sigterm(running: Running) -> bool:
    """Whether PID 1 has no handler for SIGTERM: there, the kernel drops what is not handled."""
    done = docker("exec", running.container.name, "cat", "/proc/1/status")
    handled = next((line.split()[1] for line in done.stdout.splitlines() if line.startswith("SigCgt:")), None)
    return handled is not None and not int(handled, 16) >> (signal.SIGTERM - 1) & 1


def _has_begun(running: Running) -> bool:
    base = running.tree.base
    return bool(running.container.logs()) or any(has_files(base / name) for name in ("model", "output", "checkpoints"))


def _sigterm(lab: Lab) -> Judgement:
    trial = _stopped(lab)
    if trial.told == "over":
        if lab.own and trial.exit_code == 0:
            return untried("the job was over before it could be stopped; give a longer one (--hp, --job)")
        return broken(f"the program never began: {trial.ending}")
    killed = trial.exit_code is None or trial.exit_code == KILLED
    dropped = DROPPED in trial.told
    if killed:
        why = f"; PID 1{DROPPED.partition('PID 1')[2]}" if dropped else ""
        return broken(f"killed: it did not end within {lab.grace_s} s of SIGTERM{why}")
    if lab.own and dropped:
        return broken(f"{trial.told}, but only because its work was done")
    if not lab.own and trial.record("handled.json") is None:
        return broken(f"{trial.told}, but the program's handler never ran: nothing could be saved")
    return holds(f"{trial.told}{'' if lab.own else ', its handler ran'}, exit code {trial.exit_code}")


def _resume(lab: Lab) -> Judgement:
    before = _stopped(lab)
    saved = before.tree.base / "checkpoints"
    if not has_files(saved):
        if lab.own:
            return untried("the algorithm left no checkpoint when it was stopped")
        return broken("the program saved a checkpoint on SIGTERM; at the end /opt/ml/checkpoints was empty")
    trial = lab.once("resume", lambda: _restart(lab, saved))
    if lab.own:
        return (
            holds("started again with its checkpoints, it ended well") if not trial.exit_code else broken(trial.ending)
        )
    resumed = trial.record("resumed.json")
    if resumed is None or trial.exit_code != 0:
        return broken(f"started again, the program did not find its checkpoint: {trial.ending}")
    return holds(f"saved on SIGTERM, found after the restart: step {resumed['step']}")


def _restart(lab: Lab, saved: Path) -> Trial:
    """Start the job again with its checkpoints, copied as the platform copies them."""
    copy = lab.new_directory()
    shutil.copytree(saved, copy, dirs_exist_ok=True)
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o666)
    options = ("--volume", f"{copy}:{DEFAULT_BASE}/checkpoints")
    return lab.run(Setup(program="stop", options=options, environment={"CHECK_RESTARTED": "1"}))


def _zombies(lab: Lab) -> Judgement:
    trial = lab.run(Setup(program="orphan"))
    if trial.seen is None:
        return broken(f"the program did not end: {trial.ending}")
    if trial.seen["reaped"]:
        return holds("a process that lost its parent was reaped")
    state, parent = trial.seen["state"]
    return broken(f"a process that lost its parent stays as {state} under PID {parent}")


def _leftovers(lab: Lab) -> Judgement:
    trial = lab.run(Setup(program="leftover"))
    if trial.seen is None:
        return broken(f"the program did not run: {trial.ending}")
    if trial.exit_code is None:
        return broken(f"the program had ended, its child held the output: {trial.ending}")
    if trial.exit_code:
        return broken(f"the program ended well, but left a child: {trial.ending}")
    return holds("the container ended with the program, its child with it")


CLAUSES = (
    Clause(
        id="exit-success",
        title="a program that ends well ends the container with 0",
        level="must",
        why="the exit code alone decides between Completed and Failed",
        source=f"{GUIDE}, how SageMaker signals success and failure",
        tried="the first job",
        change="end `train` with the program's exit code, write /opt/ml/output/failure only on failure",
        judge=_success,
        ours=False,
    ),
    Clause(
        id="exit-failure",
        title="a failing program fails the container",
        level="must",
        why="a job that failed and shows Completed deploys a broken model",
        source=f"{GUIDE}, how SageMaker signals success and failure",
        tried="a program that raises; for an own algorithm --failing-hp, or a broken hyperparameters.json",
        change="exit with the program's code: no `|| true`, no pipe without pipefail, no bare except",
        judge=_failure,
        ours=False,
    ),
    Clause(
        id="exit-code",
        title="the program's own exit code is the container's",
        level="should",
        why="retry rules and people tell causes apart by it",
        source="usual practice",
        tried=f"a program that ends with {OWN_CODE}",
        change="pass the code on, 128 + n for death by signal n",
        judge=_code,
        toolkit="every failure ends with 1",
    ),
    Clause(
        id="failure-file",
        title="a failure leaves a readable failure file",
        level="must",
        why="it becomes FailureReason, the first thing that anybody reads",
        source=f"{GUIDE}: /opt/ml/output/failure; {API}: 1024 characters",
        tried="the failing job",
        change="write the reason to /opt/ml/output/failure as UTF-8 before the exit",
        judge=_failure_file,
        needs=("start", "exit-failure"),
        ours=False,
    ),
    Clause(
        id="failure-cause",
        title=f"the cause stands in the first {FAILURE_REASON_CHARS} characters",
        level="must",
        why="the platform cuts the rest off, and the cause of a Python traceback comes last",
        source=f"{API}: FailureReason",
        tried="an early line that looks like an error, 300 lines of progress, then a RuntimeError",
        change="write exception type and message first, then the place, then what led there",
        judge=_cause,
        needs=("start", "exit-failure", "failure-file"),
        toolkit="without a framework module it captures no message",
    ),
    Clause(
        id="results",
        title="model and output stay where the program puts them",
        level="must",
        why="the platform uploads /opt/ml/model and /opt/ml/output/data as they are at the end",
        source=f"{GUIDE}, how SageMaker processes training output",
        tried="our program writes a file to each",
        change="leave both directories alone after the program",
        judge=_results,
        ours=False,
    ),
    Clause(
        id="sigterm",
        title="SIGTERM reaches the program, and the container ends in time",
        level="must",
        why="a stop, the end of max_run and a spot interruption give 120 s; what is not saved then is lost",
        source=f"{GUIDE}: StopTrainingJob acts as docker stop -t120",
        tried="docker stop while the program works",
        change="handle SIGTERM in the program; `exec` it in shell scripts; in launchers forward it, and wait",
        judge=_sigterm,
        kinds=BOTH,
        ours=False,
        toolkit="issue 125: signals are not passed on",
    ),
    Clause(
        id="resume",
        title="a checkpoint is found after a restart",
        level="must",
        why="managed spot starts the job again with the files of /opt/ml/checkpoints",
        source=f"{GUIDE}, use checkpoints",
        tried="the stopped job's checkpoints, and the same job again",
        change="clean up nothing under /opt/ml/checkpoints at start or end",
        judge=_resume,
        needs=("start", "sigterm"),
        ours=False,
    ),
    Clause(
        id="zombies",
        title="PID 1 reaps processes that lost their parent",
        level="should",
        why="loaders and shells leave them; thousands later no process can be started",
        source="duty of PID 1; the guide rules out tini as the entrypoint",
        tried="a program that orphans a process and waits for its end",
        change="let PID 1 wait for any child, or make the launcher a subreaper that does",
        judge=_zombies,
        toolkit="it waits for its own child alone",
    ),
    Clause(
        id="leftovers",
        title="a child that holds the output does not hold the job",
        level="must",
        why="a forgotten worker or dashboard makes a job that never ends and is billed to the last",
        source="sagemaker-pytorch-training, measured: it waits for the end of the stream",
        tried="a program that ends well and leaves a child",
        change="wait for the program, not for the end of its output: no `program | tee`",
        judge=_leftovers,
    ),
)
