"""JSON text in and out, for the layers that run before the user's first line.

The module `json` would cost the launcher 6 ms, nearly all of it for regular expressions that only its pure Python
half uses. Its C half does the work for both; where a Python has no such half, and for the words of an error, we take
the module itself. Stricter than that: NaN and Infinity are no JSON and refused.
"""

from __future__ import annotations

from runtime.base.frozen import cast

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

try:
    from _json import encode_basestring_ascii, make_encoder, make_scanner
except ImportError:  # another implementation of Python
    encode_basestring_ascii = make_encoder = make_scanner = None

_SPACE = " \t\n\r"
_NOTHING = object()


def _refuse(word: str) -> object:
    raise ValueError(f"{word} is not JSON")


class _Rules:
    """What the scanner asks for."""

    strict = True
    object_hook = None
    object_pairs_hook = None
    parse_float = float
    parse_int = int
    parse_constant = staticmethod(_refuse)


_scan: Callable[[str, int], tuple[object, int]] | None = make_scanner(cast("Any", _Rules)) if make_scanner else None


def loads(text: str) -> object:
    """Read one JSON value.

    Raises:
        ValueError: it is none; a `json.JSONDecodeError` with line and column where a place can be named.
    """
    value = loads_or(text, _NOTHING)
    if value is not _NOTHING:
        return value
    import json  # knows where and why, in words

    return json.loads(text, parse_constant=_refuse)


def loads_or(text: str, default: object) -> object:
    """Read one JSON value, or return the default where the text is none."""
    if _scan is None:
        import json

        try:
            return json.loads(text, parse_constant=_refuse)
        except ValueError:
            return default
    try:
        value, end = _scan(text, len(text) - len(text.lstrip(_SPACE)))
    except (StopIteration, ValueError, SystemError):
        # SystemError: it wants to raise the exception of `json`, which nobody has imported.
        return default
    return default if text[end:].strip(_SPACE) else value


def dumps(value: object, *, compact: bool = False, sort_keys: bool = False) -> str:
    r"""Write one JSON value on one line, everything beyond ASCII as ``\\uXXXX``.

    Args:
        value: of JSON's own types.
        compact: no blanks after commas and colons.
        sort_keys: objects in the order of their keys.

    Raises:
        TypeError: something in it has no form in JSON.
    """
    if make_encoder is None or encode_basestring_ascii is None:
        import json

        return json.dumps(value, separators=(",", ":") if compact else None, sort_keys=sort_keys)
    comma, colon = (",", ":") if compact else (", ", ": ")
    encode: Any = make_encoder({}, _unknown, encode_basestring_ascii, None, colon, comma, sort_keys, False, True)
    return "".join(encode(value, 0))


def _unknown(value: object) -> object:
    raise TypeError(f"{type(value).__name__} has no form in JSON")
