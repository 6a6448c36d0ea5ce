"""A function's typed arguments taken from hyperparameters: strict, total, all faults in one message."""

import inspect
import json
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError, did_you_mean
from runtime.contract.hyperparameters import is_reserved, unquote


def bind(function: Callable[..., object], given: Mapping[str, str], *, skip: int = 1) -> dict[str, object]:
    """Turn hyperparameters into keyword arguments of a function.

    Args:
        function: its annotated parameters are the job's hyperparameters; a dataclass parameter takes its fields.
        given: name to text, as in hyperparameters.json; reserved names are ignored; ``a-b`` means ``a_b``.
        skip: leading parameters that are not hyperparameters (the ``run``).

    Raises:
        UserError: a name is unknown or missing, a value does not fit its type; all such faults in one message.
    """
    try:
        parameters = list(inspect.signature(function, eval_str=True).parameters.values())[skip:]
    except (NameError, TypeError) as error:
        raise UserError(
            f"The annotations of {function.__qualname__}() cannot be evaluated: {error}",
            fix="import the names that they use at run time, not under TYPE_CHECKING",
        ) from error
    values = {name.replace("-", "_"): text for name, text in given.items() if not is_reserved(name)}
    faults: list[str] = []
    bound: dict[str, object] = {}
    taken: set[str] = set()
    known: list[str] = []
    takes_any = False
    for parameter in parameters:
        if parameter.kind is parameter.VAR_KEYWORD:
            takes_any = True
        elif is_dataclass(parameter.annotation):
            names = [item.name for item in fields(parameter.annotation) if item.init]
            known += names
            taken.update(names)
            given_default = None if parameter.default is parameter.empty else parameter.default
            bound[parameter.name] = _bind_dataclass(
                cast(type, parameter.annotation), cast(object, given_default), values, faults
            )
        elif parameter.kind is not parameter.VAR_POSITIONAL:
            known.append(parameter.name)
            taken.add(parameter.name)
            if parameter.name in values:
                _convert_into(bound, parameter.name, values[parameter.name], parameter.annotation, faults)
            elif parameter.default is parameter.empty:
                faults.append(f"Hyperparameter {parameter.name!r} is missing and has no default.")
    unknown = [name for name in values if name not in taken]
    if takes_any:
        bound |= {name: unquote(values[name]) for name in unknown}
    else:
        faults += [f"Unknown hyperparameter {name!r}. {did_you_mean(name, known)}".rstrip() for name in unknown]
    if faults:
        raise UserError(" ".join(faults), fix=f"set them as {function.__qualname__}() in the script declares them")
    return bound


def _bind_dataclass(config: type, default: object, values: Mapping[str, str], faults: list[str]) -> object:
    """Take what is given; the rest comes from `default` (an instance, or None), else from the fields' own defaults."""
    hints = typing.get_type_hints(config)
    bound: dict[str, object] = {}
    before = len(faults)
    for item in fields(config):
        if not item.init:
            continue
        if item.name in values:
            _convert_into(bound, item.name, values[item.name], hints[item.name], faults)
        elif default is not None:
            bound[item.name] = getattr(default, item.name)
        elif item.default is MISSING and item.default_factory is MISSING:
            faults.append(f"Hyperparameter {item.name!r} is missing and has no default.")
    return config(**bound) if len(faults) == before else None


def _convert_into(bound: dict[str, object], name: str, text: str, annotation: object, faults: list[str]) -> None:
    try:
        bound[name] = convert(text, annotation)
    except ValueError as error:
        faults.append(f"Hyperparameter {name!r} is {unquote(text)!r}, which is not {error}.")


def convert(text: str, annotation: object) -> object:
    """Convert one text by an annotation.

    Args:
        text: as in the file, JSON-encoded or plain.
        annotation: str, int, float, bool, Path, a Literal, an Enum, ``X | None``, a union, list, tuple, dict, or none
            at all (then a string stays a string).

    Raises:
        ValueError: its text completes "... is not".
    """
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return convert(text, typing.get_args(annotation)[0])
    if origin in (types.UnionType, typing.Union):
        return _convert_union(text, typing.get_args(annotation))
    if origin is typing.Literal:
        return _convert_literal(text, typing.get_args(annotation))
    plain = unquote(text)
    if any(annotation is free for free in (inspect.Parameter.empty, str, object, typing.Any)):
        return plain
    if isinstance(annotation, type) and annotation in _SCALARS:
        return _SCALARS[annotation](plain)
    if isinstance(annotation, type) and hasattr(annotation, "__members__"):
        return _convert_enum(plain, annotation)
    if (origin or annotation) in (list, tuple, dict, Sequence, Mapping):
        return _convert_container(plain, annotation)
    raise ValueError(f"something we can convert: the annotation {annotation!r} is not supported")


def _convert_enum(text: str, kind: type) -> object:
    members = cast(Mapping[str, Any], kind.__dict__["_member_map_"])
    if text in members:
        return members[text]
    for member in members.values():  # people pass the value as often as the name
        if str(member.value) == text:
            return member
    raise ValueError(f"one of {', '.join(members)}")


def _to_int(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise ValueError("an integer") from None


def _to_float(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("a number") from None


def _to_bool(text: str) -> bool:
    if text in {"true", "True", "1"}:
        return True
    if text in {"false", "False", "0"}:
        return False
    raise ValueError("a boolean (true or false)")


_SCALARS: Mapping[type, Callable[[str], object]] = {
    int: _to_int,
    float: _to_float,
    bool: _to_bool,
    Path: Path,
}


def _convert_union(text: str, options: tuple[object, ...]) -> object:
    if types.NoneType in options and text in {"", "null", "None"}:
        return None
    rest = [option for option in options if option is not types.NoneType]
    # str accepts everything, so it is asked last.
    wants: list[str] = []
    for option in sorted(rest, key=lambda option: option is str):
        try:
            return convert(text, option)
        except ValueError as error:
            wants.append(str(error))
    raise ValueError(" or ".join(wants))


def _convert_literal(text: str, choices: tuple[object, ...]) -> object:
    plain = unquote(text)
    for choice in choices:
        if str(choice) == plain or (isinstance(choice, bool) and str(choice).lower() == plain):
            return choice
    raise ValueError(f"one of {', '.join(map(repr, choices))}")


def _convert_container(text: str, annotation: object) -> object:
    kind = typing.get_origin(annotation) or annotation
    wants_object = kind in (dict, Mapping)
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError:
        value = None
    if wants_object:
        if not isinstance(value, dict):
            raise ValueError("a JSON object")
        return _convert_object(cast(dict[str, object], value), typing.get_args(annotation))
    if not isinstance(value, list):
        raise ValueError("a JSON list")
    given = typing.get_args(annotation)
    arguments = [argument for argument in given if argument is not Ellipsis]
    if kind is tuple and given and Ellipsis not in given and len(cast(list[object], value)) != len(given):
        raise ValueError(f"a JSON list of {len(given)} items")
    # Each item goes through its own JSON text, so that a string keeps its quotes and null differs from "null".
    items = [
        convert(json.dumps(item), arguments[min(i, len(arguments) - 1)]) if arguments else item
        for i, item in enumerate(cast(list[object], value))
    ]
    return tuple(items) if kind is tuple else items


def _convert_object(value: dict[str, object], arguments: tuple[object, ...]) -> dict[object, object]:
    if len(arguments) != 2:
        return cast(dict[object, object], value)
    for_key, for_value = arguments
    whole = any(for_value is free for free in (object, typing.Any))  # then nested values stay what JSON made them
    return {
        convert(json.dumps(key), for_key): item if whole else convert(json.dumps(item), for_value)
        for key, item in value.items()
    }


def from_argv(argv: Sequence[str], known: Sequence[str]) -> dict[str, str]:
    """Read ``--name value``, ``--name=value`` and a lone ``--flag`` (true), as a laptop user types them.

    Raises:
        UserError: a word that belongs to no option.
    """
    given: dict[str, str] = {}
    words = list(argv)
    while words:
        word = words.pop(0)
        if not word.startswith("-"):
            raise UserError(f"Argument {word!r} belongs to no option", allowed=f"options: {', '.join(known)}")
        name, equals, value = word.lstrip("-").partition("=")
        if not equals:
            takes_next = words and not (words[0].startswith("--") and len(words[0]) > 2)
            value = words.pop(0) if takes_next else "true"
        given[name] = value
    return given
