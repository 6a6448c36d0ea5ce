"""``slipway compose``: the command lines of docker-compose and ``docker compose`` that the SDKs and people use."""

import json
import sys
from collections.abc import Sequence
from pathlib import Path

from runtime.base.env import process_environ
from runtime.base.errors import PlatformError, UserError
from runtime.base.log import Log
from runtime.local.compose.drain import drain
from runtime.local.compose.executables import install
from runtime.version import __version__

log = Log("compose")

_WITH_VALUE = {
    *("-f", "--file", "-p", "--project-name", "--project-directory", "--env-file"),
    *("--profile", "--ansi", "--progress", "--parallel", "--log-level"),
}
_ALONE = {"--verbose", "--no-ansi", "--compatibility", "--all-resources", "-D", "--debug"}
"""Options before the verb, of both docker-compose 1 and ``docker compose``; only the file matters here."""
_UP_WITH_VALUE = {
    *("-t", "--timeout", "--wait-timeout", "--exit-code-from"),
    *("--scale", "--pull", "--attach", "--no-attach"),
}
_VERBS = "up, down, ps, logs, version"
ALLOWED = f"it is slipway compose -f FILE VERB, with one of {_VERBS}, or slipway compose --path"


def main(argv: Sequence[str]) -> int:
    """Entry of ``slipway compose``.

    Returns:
        0; for ``up`` what became of the job, see `runtime.local.compose.job.up`.

    Raises:
        UserError: it is none of the command lines that it takes.
    """
    words = list(argv)
    if words in (["--path"], ["path"]):
        print(install())
        return 0
    path = _file(words)
    verb = words.pop(0) if words else ""
    if verb in ("version", "--version", "-v"):
        _version(words)
        return 0
    if verb == "up" and path is not None:
        return _up(path, words)
    if verb in ("down", "rm", "stop", "kill", "ps", "logs") and path is not None:
        from runtime.local.compose import look
        from runtime.local.compose.file import read_composition

        composition = read_composition(path, process_environ())
        if verb == "ps":
            look.ps(composition, words)
        elif verb == "logs":
            look.logs(composition, [word for word in words if not word.startswith("-")])
        else:
            look.down(composition)
        return 0
    raise UserError(f"slipway compose {' '.join(argv)}", allowed=ALLOWED)


def _file(words: list[str]) -> Path | None:
    """Take the options before the verb away, and return the file that they name."""
    files: list[str] = []
    while words and words[0].startswith("-") and words[0] not in ("-v", "--version"):
        flag, found, value = words.pop(0).partition("=")
        if flag in _ALONE:
            continue
        if flag not in _WITH_VALUE or not (found or words):
            raise UserError(f"slipway compose {flag}", allowed=ALLOWED)
        value = value if found else words.pop(0)
        files += [value] if flag in ("-f", "--file") else []
    if len(files) > 1:
        raise UserError(f"slipway compose with {len(files)} files", allowed="a job of the SDKs has one")
    return Path(files[0]) if files else None


def _version(words: Sequence[str]) -> None:
    if "--short" in words:
        print(__version__)
    elif "json" in words or "--format=json" in words:
        print(json.dumps({"version": __version__}))
    else:
        # Not "Docker Compose version v2": who looks for that may count on all of it.
        print(f"slipway compose {__version__}")


def _up(path: Path, words: Sequence[str]) -> int:
    from runtime.local.compose.job import up

    if {"-d", "--detach"} & set(words):
        log.warning("--detach is not followed: the SDK would remove the directories of the running job")
    named = [
        word
        for word, before in zip(words, ["", *words], strict=False)
        if not word.startswith("-") and before not in _UP_WITH_VALUE
    ]
    try:
        if named:
            raise UserError(f"up {' '.join(named)}", allowed="a job has all of its hosts, none is started alone")
        code = up(path, process_environ())
    except UserError as error:
        print(f"slipway compose: {error}", flush=True)
        code = 1
    except PlatformError as error:
        print(f"slipway compose: {error}", flush=True)
        code = 2
    drain(sys.stdout.fileno(), f"slipway compose ends with exit code {code}\n")
    return code
