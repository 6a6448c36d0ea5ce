"""`runtime.main`: a training function, called right, in every rank and alone on a laptop."""

import atexit
import contextlib
import gc
import inspect
import json
import os
import signal
import sys
import sysconfig
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

from runtime.base import env, log, redact
from runtime.base.errors import ExitCode, SlipwayError, Stopped, UserError, one_line
from runtime.binding import bind, from_argv
from runtime.cause.outcome import Cause, feels_like_peer_loss, write_rank_error
from runtime.cause.tracebacks import last_raised
from runtime.contract.job import Channel, Job, read_job
from runtime.contract.paths import Paths
from runtime.contract.settings import resolve
from runtime.launch import stacks
from runtime.session import Run, StopRequest
from runtime.world import Place

_log = log.Log("main")


def main(train: Callable[..., Any]) -> None:
    """Call ``train(run, **hyperparameters)`` and end this process as the contract wants.

    Under the contract the hyperparameters come from hyperparameters.json. Without it (``python train.py --lr 0.1``)
    they come from the command line, the world has one rank, and channels are the variables ``SM_CHANNEL_<NAME>``.

    Args:
        train: its first argument is the `Run`; every other one is a hyperparameter, by name, type and default.

    Raises:
        SystemExit: always with an exit code other than 0; a completed or stopped function returns instead.
    """
    environ = env.process_environ()
    redact.learn(environ)
    stop = StopRequest()
    _listen(stop)
    stacks.answer(environ.get("SLIPWAY_STACKS_DIR", ""))
    end = _End()
    atexit.register(end.leave)
    paths = Paths.from_environ(environ)
    host, rank, run = environ.get("SLIPWAY_HOST", "-"), 0, None
    log.configure(host=host)
    try:
        place = Place.from_environ(environ)
        rank = place.rank
        log.configure(host=host, rank=rank if place.world_size > 1 else None)
        job = _read(paths, environ)
        redact.learn(job.hyperparameters)
        hyperparameters = _hyperparameters(job, train)
        settings = resolve(hyperparameters, environ)
        by_prefix = "SLIPWAY_STATE_DIR" in environ and settings.prefixes_lines(place.world_size)
        log.configure(
            host="" if by_prefix else job.current_host,
            rank=place.rank if place.world_size > 1 else None,
            level=settings.log_level,
            as_json=settings.log_json,
        )
        arguments = bind(train, hyperparameters)
        run = end.run = Run(job, settings, environ, stop)
        train(run, **arguments)
        run.finish()
        _write_end(paths, environ, "completed", run.steps_done)
    except Stopped as stopped:
        _log.info(str(stopped))
        _write_end(paths, environ, "stopped", stopped.step, stopped.reason)
        if run is not None:
            run.finish()
    except SlipwayError as error:
        _fail(error, environ, host, rank, run, trace=not isinstance(error, UserError))
        end.exit(int(error.exit_code))
    except SystemExit as error:
        if error.code in (None, 0):
            end.exit(0)
        _fail(error, environ, host, rank, run, trace=False)
        if isinstance(error.code, int):
            end.exit(error.code)
        sys.stderr.write(f"{error.code}\n")
        end.exit(int(ExitCode.USER_ERROR))
    except KeyboardInterrupt:
        end.exit(128 + signal.SIGINT)
    except BaseException as error:
        _fail(error, environ, host, rank, run, trace=True)
        end.exit(int(ExitCode.USER_ERROR))


class _End:
    """How this process leaves."""

    def __init__(self) -> None:
        self.run: Run | None = None
        self._code = 0

    def exit(self, code: int) -> NoReturn:
        """Leave with this code, whatever native code thinks of it."""
        self._code = code
        sys.exit(code)

    def leave(self) -> None:
        """Be the last of the interpreter's exit functions."""
        # The interpreter's last collection goes over all of torch's objects: 0.2 s to leave instead of 1.0 s.
        gc.disable()
        gc.freeze()
        if self.run is not None and self.run.world.joined:
            # gloo may abort when it is torn down while others still use the group: the code would become 134.
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(self._code & 0xFF)


def _listen(stop: StopRequest) -> None:
    def on_term(number: int, _frame: FrameType | None) -> None:
        stop.reason = stop.reason or signal.Signals(number).name

    signal.signal(signal.SIGTERM, on_term)
    # A child of the script must end on Process.terminate(), as it does everywhere else; blocked in between, since a
    # signal that comes before the child has dropped our handler would be lost.
    os.register_at_fork(
        before=lambda: _mask(signal.SIG_BLOCK),
        after_in_parent=lambda: _mask(signal.SIG_UNBLOCK),
        after_in_child=_listen_no_more,
    )


def _mask(how: int) -> None:
    signal.pthread_sigmask(how, {signal.SIGTERM})


def _listen_no_more() -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    _mask(signal.SIG_UNBLOCK)


def _read(paths: Paths, environ: env.Environ) -> Job:
    job = read_job(paths, environ)
    if job.under_contract:
        return job
    named = {name[11:].lower(): value for name, value in environ.items() if name.startswith("SM_CHANNEL_")}
    channels = dict(job.channels) | {name: Channel(name, value) for name, value in named.items()}
    base = paths if os.path.isdir(paths.base) else Paths(f"{os.getcwd()}/opt-ml")
    return Job(base, channels=channels)


def _hyperparameters(job: Job, train: Callable[..., Any]) -> Mapping[str, str]:
    if job.under_contract:
        return job.hyperparameters
    known = [f"--{name}" for name in list(inspect.signature(train).parameters)[1:]]
    words = sys.argv[1:]
    if words and words[0] in ("-h", "--help"):
        sys.stdout.write(f"{inspect.getdoc(train) or train.__name__}\n\noptions: {' '.join(known)}\n")
        raise SystemExit(0)
    return from_argv(words, known)


def _write_end(paths: Paths, environ: env.Environ, status: str, step: int, reason: str = "") -> None:
    """Tell the launcher how this rank ended; outside a launcher there is nobody to tell."""
    if "SLIPWAY_STATE_DIR" not in environ:
        return
    record = {"status": status, "step": step, "reason": reason}
    path = Path(environ["SLIPWAY_STATE_DIR"]) / f"end-rank-{environ.get('RANK', '0')}.json"
    aside = path.with_suffix(".tmp")
    try:
        aside.write_text(json.dumps(record), encoding="utf-8")
        aside.rename(path)
    except OSError as error:
        _log.warning(f"{path} cannot be written: {error}")


def _fail(error: BaseException, environ: env.Environ, host: str, rank: int, run: Run | None, *, trace: bool) -> None:
    """Leave the error record, and say it in the log."""
    message, where = _described(error)
    code = int(error.exit_code) if isinstance(error, SlipwayError) else int(ExitCode.USER_ERROR)
    symptom = not isinstance(error, UserError) and feels_like_peer_loss(message)
    cause = Cause(host, message, code, time.time(), rank, where, consequence=symptom)
    if "TORCHELASTIC_ERROR_FILE" in environ:
        write_rank_error(environ["TORCHELASTIC_ERROR_FILE"], cause, run.whereabouts() if run is not None else None)
    if trace:
        traceback.print_exc()
    log.write("error", "main", one_line(message))
    if run is not None:
        run.abandon()


def _described(error: BaseException) -> tuple[str, str]:
    """Return the message and the place of an error, told as the launcher tells those of plain scripts."""
    if isinstance(error, SlipwayError):
        return str(error), ""
    if isinstance(error, SystemExit):
        return f"the program ended by sys.exit({error.code!r})", user_place(error)
    lines = "".join(traceback.format_exception(error)).splitlines()
    raised = last_raised(lines, whole=True)
    if raised is None:
        return f"{type(error).__name__}: {error}", user_place(error)
    return raised.message, raised.where or user_place(error)


def user_place(error: BaseException) -> str:
    """Name the last line of the user's own code in a traceback, as ``file:line``; empty when there is none."""
    ours = str(Path(__file__).parent) + os.sep
    libraries = tuple({sysconfig.get_paths()[key] + os.sep for key in ("stdlib", "purelib", "platlib")})
    place = ""
    for frame in traceback.extract_tb(error.__traceback__):
        entrypoint = f"{os.sep}_entrypoints{os.sep}" in frame.filename or not frame.filename.startswith(ours)
        if entrypoint and not frame.filename.startswith(libraries):
            place = f"{frame.filename}:{frame.lineno}"
    return place
