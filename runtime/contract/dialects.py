r"""How hyperparameters reach a script as arguments, and as values in ``SM_HPS``. Pure.

Five dialects. ``toolkit`` gives exactly the words of sagemaker-training 5.1.4, with its damage (``1234e5`` becomes
``123400000.0``); ``lossless``, the default, gives the same words wherever nothing is lost, and the text itself where
something would be; ``v3`` spells as the drivers of SDK v3 do; ``json`` and ``none`` are for those who parse themselves.

The file does not say who wrote it, yet that decides what ``true`` is: a boolean of a framework estimator (which
JSON-encodes all values, so that its strings carry quotes), or four letters that somebody typed into the console.
"""

from __future__ import annotations

from runtime.base.frozen import cast
from runtime.base.jsontext import dumps, loads_or
from runtime.contract.hyperparameters import is_reserved, unquote

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

DIALECTS = ("lossless", "toolkit", "v3", "json", "none")


def is_encoded(hyperparameters: Mapping[str, str]) -> bool:
    r"""Tell whether the writer JSON-encoded every value, as the framework estimators of SDK v1 and v2 do.

    >>> is_encoded({"sagemaker_program": '"train.py"', "x": "true"}), is_encoded({"sagemaker_program": "train.py"})
    (True, False)
    """
    program = hyperparameters.get("sagemaker_program")
    if program:
        return program.startswith('"')
    return any(unquote(text) != text for text in hyperparameters.values())


def own(hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """Return the script's own hyperparameters as the file holds them."""
    return {name: text for name, text in hyperparameters.items() if not is_reserved(name)}


def typed(text: str) -> object:
    """Give the typed view of a value: JSON where it is JSON, else the text.

    Numbers keep their text when its meaning could be lost: ``1234e5`` may be a git hash.

    >>> typed("3"), typed("true"), typed("1234e5"), typed("[1, 2]")
    (3, True, '1234e5', [1, 2])
    """
    value = _parse(text)
    if isinstance(value, (int, float)) and not isinstance(value, bool) and dumps(value) != text:
        return text
    return value


def as_toolkit(text: str) -> object:
    """Give the value that the SageMaker toolkit makes of a text, NaN and respelt numbers included.

    >>> as_toolkit("1234e5"), as_toolkit("-Infinity"), as_toolkit("007")
    (123400000.0, -inf, '007')
    """
    if "NaN" in text or "Infinity" in text:
        import json  # takes these words, which are not JSON

        try:
            return cast(object, json.loads(text))
        except (ValueError, RecursionError):
            return text
    return _parse(text)


def _parse(text: str) -> object:
    try:
        return loads_or(text, text)
    except RecursionError:  # thousands of brackets
        return text


def values(hyperparameters: Mapping[str, str], dialect: str) -> dict[str, object]:
    """Return the script's own hyperparameters with their types, in the order of the file."""
    read = as_toolkit if dialect == "toolkit" else _typed
    return {name: read(text) for name, text in own(hyperparameters).items()}


def _typed(text: str) -> object:
    plain = unquote(text)
    return plain if plain != text else typed(text)


def arguments(hyperparameters: Mapping[str, str], dialect: str) -> tuple[str, ...]:
    """Spell the hyperparameters as command line arguments.

    Args:
        hyperparameters: all of the job's; reserved names are left out.
        dialect: one of `DIALECTS`: ``lossless`` and ``toolkit`` (sorted, ``-k`` for one letter, Python's spelling),
            ``v3`` (file order, JSON spelling), ``json`` (one argument, the whole map) or ``none``.
    """
    if dialect == "none":
        return ()
    held = values(hyperparameters, dialect)
    if dialect == "json":
        return (dumps(held),)
    if dialect == "v3":
        return tuple(word for name, value in held.items() for word in (f"--{name}", _v3(value)))
    plain = dialect == "lossless" and not is_encoded(hyperparameters)
    words: list[str] = []
    for name in sorted(held):
        text = unquote(hyperparameters[name])
        spelt = text if plain else _python(held[name])
        if not plain and dialect == "lossless" and _loses(held[name], text):
            spelt = text
        words += [_flag(name), spelt]
    return tuple(words)


def _flag(name: str) -> str:
    return f"--{name}" if len(name) > 1 else f"-{name}" if name else ""


def _loses(value: object, text: str) -> bool:
    """Tell whether Python's spelling of a list or a map would lose something of its text."""
    if isinstance(value, dict):
        held = cast("dict[str, object]", value)
        return dumps(held) != text or any(isinstance(item, (dict, list)) for item in held.values())
    return isinstance(value, list) and dumps(cast("list[object]", value)) != text


def _python(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, dict):
        return ",".join(f"{key}={item}" for key, item in sorted(cast("dict[str, object]", value).items()))
    return str(value)


def _v3(value: object) -> str:
    return value if isinstance(value, str) else dumps(value)


def respelt(hyperparameters: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the toolkit's dialect damages, each with what the script gets instead of it."""
    exact, damaged = arguments(hyperparameters, "lossless"), arguments(hyperparameters, "toolkit")
    names = sorted(own(hyperparameters))
    return {name: damaged[2 * at + 1] for at, name in enumerate(names) if damaged[2 * at + 1] != exact[2 * at + 1]}
