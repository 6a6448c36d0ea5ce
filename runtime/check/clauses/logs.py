"""What a job prints."""

from __future__ import annotations

from runtime.check.clause import Clause, Judgement, broken, holds
from runtime.check.clauses.endings import failing_trial
from runtime.check.lab import SECRET_HYPERPARAMETER, SECRET_VARIABLE, Lab, Running, Setup, Trial

LINES = 2000
"""Of ``programs/look.py``."""
BAR_BYTES = 4000 * 99
"""About what ``programs/bars.py`` writes."""
MUCH = 0.25


def _spoken(lab: Lab) -> Trial:
    return lab.once("speak", lambda: _listen(lab))


def _listen(lab: Lab) -> Trial:
    """Answer each line when it is in the log; the first one that does not come ends the trial."""
    running = lab.start(Setup(program="speak", deadline_s=3 * lab.deadline_s))
    heard: list[str] = []
    for name, line in (("flushed", "said and flushed"), ("buffered", "said and left to the buffer")):
        if not running.wait_for(lambda line=line: line in running.container.logs(), lab.deadline_s / 2):
            running.container.kill() if running.container.running() else None
            break
        heard.append(name)
        _answer(running, name)
    return running.finish(" ".join(heard))


def _answer(running: Running, name: str) -> None:
    (running.tree.base / "output" / f"answer-{name}").touch()


def _immediate(lab: Lab) -> Judgement:
    trial = _spoken(lab)
    if "flushed" in trial.told:
        return holds("a flushed line was in the log while the program waited")
    return broken(f"a flushed line did not come within {lab.deadline_s / 2:g} s while the program ran")


def _unbuffered(lab: Lab) -> Judgement:
    trial = _spoken(lab)
    if "buffered" in trial.told:
        return holds("a line of print() was in the log at once")
    return broken("a line of print() stayed in Python's buffer while the program ran")


def _exact(lab: Lab) -> Judgement:
    printed = lab.base().log.replace("\r\n", "\n").splitlines()
    wanted = [f"check line {number} of {LINES}:   Grüße, 你好" for number in range(1, LINES + 1)]
    got = [line[line.index("check line ") :] for line in printed if "check line " in line]
    if got == wanted:
        return holds(f"{LINES} lines, each once, in order, whole")
    if sorted(got) == sorted(wanted):
        return broken(f"{LINES} lines, out of order")
    exact = len(set(got) & set(wanted))
    return broken(f"{exact} of {LINES} lines arrived as they were printed")


def _secrets(lab: Lab) -> Judgement:
    texts = {"log": lab.base().log}
    if not lab.own:
        failing = failing_trial(lab)
        texts |= {"log of a failing job": failing.log, "failure file": failing.failure}
    for where, text in texts.items():
        shown = [name for name, value in _SECRETS.items() if value in text]
        if shown:
            line = next(line for line in text.splitlines() if any(value in line for value in _SECRETS.values()))
            return broken(f"the {where} shows {' and '.join(shown)}, first in {line[:60].strip()!r}...")
    return holds(f"neither the hyperparameter db_password nor the variable WANDB_API_KEY shows: {', '.join(texts)}")


_SECRETS = {"the hyperparameter db_password": SECRET_HYPERPARAMETER, "the variable WANDB_API_KEY": SECRET_VARIABLE}


def _bars(lab: Lab) -> Judgement:
    trial = lab.run(Setup(program="bars"))
    if trial.seen is None:
        return broken(trial.ending)
    size = len(trial.log.encode())
    told = f"{BAR_BYTES // 1000} kB of progress bar became {size // 1000} kB of log"
    if "bar over" not in trial.log:
        return broken(f"{told}; the line after the bar is lost")
    return holds(told) if size < MUCH * BAR_BYTES else broken(told)


CLAUSES = (
    Clause(
        id="log-immediate",
        title="a line is in the log when it is flushed",
        level="must",
        why="people stop jobs that seem to hang, and metrics are read from the log",
        source="sagemaker-pytorch-training, measured: lines come at the end of the job",
        tried="a program that prints a line and waits until the checker has seen it",
        change="pass lines on as they come: no block buffer between program and log",
        judge=_immediate,
    ),
    Clause(
        id="log-unbuffered",
        title="print() needs no flush",
        level="should",
        why="Python keeps 8 KiB back when its output is no terminal",
        source="sagemaker-training-toolkit issue 6",
        tried="the same, without the flush",
        change="ENV PYTHONUNBUFFERED=1",
        judge=_unbuffered,
        needs=("start", "log-immediate"),
        toolkit="it sets nothing",
    ),
    Clause(
        id="log-exact",
        title="lines arrive whole and in order",
        level="must",
        why="metrics are found by regular expressions over lines",
        source="sagemaker-pytorch-training, measured: lines are split at 64 KiB",
        tried=f"{LINES} lines with leading blanks and other alphabets",
        change="pass bytes on until the end of a line, and decode nothing",
        judge=_exact,
    ),
    Clause(
        id="log-secrets",
        title="secrets of the job are not printed",
        level="must",
        why="logs are kept for years and read by many",
        source="sagemaker-training toolkit, issues of its users: tokens in CloudWatch",
        tried="hyperparameter db_password and variable WANDB_API_KEY: are their values in a log or the failure file?",
        change="print neither hyperparameters nor environment, or mask by name first",
        judge=_secrets,
        ours=False,
        toolkit="it prints all hyperparameters at the start",
    ),
    Clause(
        id="log-bars",
        title="progress bars do not flood the log",
        level="should",
        why="each redraw is stored and paid for; the log of a long job becomes unreadable",
        source="sagemaker-containers pull request 127",
        tried="4000 redraws by carriage return",
        change="fold what ends with a carriage return, or pass it on every few seconds",
        judge=_bars,
        toolkit="it passes every redraw on",
    ),
)
