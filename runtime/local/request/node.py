"""Reads one object of a request, and names the path of a key in every error. Pure."""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import cast

from runtime.base.errors import UserError


class Node:
    """One object of the request, with the path that leads to it, for error texts."""

    def __init__(self, value: object, path: str = "") -> None:
        """Take the value at `path`, which must be an object; keys are checked by `runtime.local.request.keys`."""
        if not isinstance(value, Mapping):
            raise wrong_shape(path or "the request", value, "an object")
        self.value = cast(Mapping[str, object], value)
        self.path = path

    def at(self, key: str) -> str:
        """Return the path of a key, for error texts."""
        return f"{self.path}.{key}" if self.path else key

    def text(self, key: str, default: str | None = None, choices: Iterable[str] = ()) -> str:
        """Return a string; without a default it must be there."""
        value = self.value.get(key, default)
        if value is None and key not in self.value:
            raise UserError(f"The request lacks {self.at(key)}", allowed="it is a string")
        if not isinstance(value, str):
            raise wrong_shape(self.at(key), value, "a string")
        if choices and value not in choices:
            raise UserError(f"{self.at(key)} is {value!r}", allowed=f"it is one of {', '.join(choices)}")
        return value

    def whole(self, key: str, default: int | None, least: int = 1) -> int:
        """Return an integer of at least `least`; without a default it must be there."""
        value = self.value.get(key, default)
        if value is None and key not in self.value:
            raise UserError(f"The request lacks {self.at(key)}", allowed=f"it is an integer of at least {least}")
        if not isinstance(value, int) or isinstance(value, bool) or value < least:
            raise wrong_shape(self.at(key), value, f"an integer of at least {least}")
        return value

    def seconds(self, key: str) -> float | None:
        """Return a number of seconds above 0; None when the request says nothing."""
        value = self.value.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise wrong_shape(self.at(key), value, "a number of seconds above 0")
        return float(value)

    def flag(self, key: str) -> bool:
        """Return true or false; false when the request says nothing."""
        value = self.value.get(key, False)
        if not isinstance(value, bool):
            raise wrong_shape(self.at(key), value, "true or false")
        return value

    def child(self, key: str) -> "Node":
        """Return the object of a key; an empty one when the request says nothing."""
        return Node(self.value.get(key, {}), self.at(key))

    def children(self, key: str) -> list["Node"]:
        """Return the objects in the list of a key."""
        return [Node(item, f"{self.at(key)}[{index}]") for index, item in enumerate(self._list(key))]

    def texts(self, key: str) -> tuple[str, ...]:
        """Return the strings in the list of a key."""
        for index, item in enumerate(self._list(key)):
            if not isinstance(item, str):
                raise wrong_shape(f"{self.at(key)}[{index}]", item, "a string")
        return tuple(cast(list[str], self._list(key)))

    def variables(self, longest: int) -> dict[str, str]:
        """Return ``Environment``, whose names have a form that the API demands, and a shell too."""
        found = self.strings("Environment", longest)
        for name in found:
            if not VARIABLE.fullmatch(name) or len(name) > longest:
                raise UserError(
                    f"Environment has the name {name!r}",
                    allowed=f"the API takes letters, digits and '_', no digit first, at most {longest}",
                )
        return found

    def strings(self, key: str, longest: int) -> dict[str, str]:
        """Return a map of strings, each of at most `longest` characters."""
        node = self.child(key)
        for name, value in node.value.items():
            if not isinstance(value, str):
                raise wrong_shape(node.at(name), value, "a string, as the API wants them")
            if len(value) > longest:
                raise UserError(
                    f"{node.at(name)} has {len(value)} characters", allowed=f"the API takes at most {longest}"
                )
        return cast(dict[str, str], dict(node.value))

    def _list(self, key: str) -> list[object]:
        value = self.value.get(key, [])
        if not isinstance(value, list):
            raise wrong_shape(self.at(key), value, "a list")
        return cast(list[object], value)


VARIABLE = re.compile("[a-zA-Z_][a-zA-Z0-9_]*")
"""Source: botocore's model, TrainingEnvironmentKey and ProcessingEnvironmentKey."""


def wrong_shape(path: str, value: object, wanted: str) -> UserError:
    """Compose the error for a value of a wrong type or range."""
    return UserError(f"{path} is {value!r} ({type(value).__name__})", allowed=f"it is {wanted}")


def local_path(uri: str, where: str, fix: str = "copy it here and name its directory") -> Path:
    """Turn a ``file://`` URI or a plain path into an absolute path.

    Args:
        uri: as in the request.
        where: path of the key, for the error.
        fix: what to do about another scheme.

    Raises:
        UserError: another scheme; the path is not checked.
    """
    scheme, found, rest = uri.partition("://")
    if not found:
        rest = uri
    elif scheme != "file":
        raise UserError(f"{where} is {uri!r}", allowed="this version's local platform takes file:// only", fix=fix)
    if not rest:
        raise UserError(f"{where} is {uri!r}", allowed="it is file:// and a path, or a path")
    return Path(rest).expanduser().absolute()
