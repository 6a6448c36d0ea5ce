"""How flags change a request: parts that more than one of them needs. Pure."""

import copy
from pathlib import Path
from typing import Any, cast

from runtime.base.env import Environ
from runtime.base.errors import UserError


def absolute(path: str) -> Path:
    """Return the absolute path of what a user wrote."""
    return Path(path).expanduser().absolute()


def section(request: dict[str, Any], key: str) -> dict[str, Any]:
    """Return a copy of an object of the request, which takes its place, or a new one.

    Raises:
        UserError: it is no object.
    """
    value = copy.copy(request.get(key, {}))
    if not isinstance(value, dict):
        raise UserError(f"{key} is {value!r} ({type(value).__name__})", allowed="it is an object")
    request[key] = value
    return cast(dict[str, Any], value)


def pair(text: str, flag: str, form: str = "KEY=VALUE") -> tuple[str, str]:
    """Split what a flag was given.

    Raises:
        UserError: it has another form.
    """
    name, found, value = text.partition("=")
    if not found or not name:
        raise UserError(f"{flag} {text}", allowed=f"it is {flag} {form}")
    return name, value


def variable(text: str, environ: Environ) -> tuple[str, str]:
    """Read what ``--env`` was given; a name alone takes its value from here.

    Raises:
        UserError: it is not set here.
    """
    if "=" in text:
        return pair(text, "--env")
    if text not in environ:
        raise UserError(f"--env {text}: it is not set here", fix=f"set it, or write --env {text}=VALUE")
    return text, environ[text]
