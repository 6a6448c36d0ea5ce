"""Frozen records for the layers that run before the user's first line.

`dataclasses` would cost the launcher 13 ms (it imports `inspect` and compiles a method per class), as much as a whole
bare Python; see docs/adr. This is the small part of it that we use: keyword and positional arguments, defaults,
factories, equality, hash, repr, `replace` and `asdict`. Code inside a rank uses `dataclasses`.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any, TypeVar, dataclass_transform
    from typing import cast as cast

    T = TypeVar("T")
else:  # what only a type checker needs

    def cast(_kind: object, value: T) -> T:
        """Stand in for `typing.cast`."""
        return value

    def dataclass_transform(**_told: object) -> Callable[[T], T]:
        """Stand in for `typing.dataclass_transform`, which would import `typing`."""
        return lambda decorator: decorator


class _Factory:
    def __init__(self, make: Callable[[], object]) -> None:
        self.make = make


def field(*, default_factory: Callable[[], Any]) -> Any:  # noqa: ANN401 - as dataclasses.field
    """Give a field a new default for every instance."""
    return _Factory(default_factory)


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def frozen(cls: type[T]) -> type[T]:  # noqa: C901 - one closure for each method that it makes
    """Make an immutable record of a class with annotated fields; ``__post_init__`` runs when there is one."""
    names = tuple(cls.__annotations__)
    defaults = {name: cls.__dict__[name] for name in names if name in cls.__dict__}
    post_init = getattr(cls, "__post_init__", None)

    def __init__(self: object, *args: object, **given: object) -> None:
        if len(args) > len(names):
            raise TypeError(f"{cls.__name__}() takes {len(names)} arguments, {len(args)} were given")
        values = dict(zip(names, args, strict=False))
        for name in names[len(args) :]:
            if name in given:
                values[name] = given.pop(name)
            elif name not in defaults:
                raise TypeError(f"{cls.__name__}() lacks the argument {name!r}")
            else:
                default = defaults[name]
                values[name] = default.make() if isinstance(default, _Factory) else default
        if given:
            raise TypeError(f"{cls.__name__}() takes no {', '.join(given)} here")
        self.__dict__.update(values)
        if post_init is not None:
            post_init(self)

    def __setattr__(self: object, name: str, value: object) -> None:
        raise AttributeError(f"{cls.__name__} is frozen: {name} cannot be set")

    def __delattr__(self: object, name: str) -> None:
        raise AttributeError(f"{cls.__name__} is frozen: {name} cannot be deleted")

    def fields_of(self: object) -> tuple[object, ...]:
        return tuple(self.__dict__[name] for name in names)

    def __eq__(self: object, other: object) -> bool:
        return fields_of(self) == fields_of(other) if type(other) is type(self) else NotImplemented

    def __hash__(self: object) -> int:
        return hash(fields_of(self))

    def __repr__(self: object) -> str:
        return f"{cls.__name__}({', '.join(f'{name}={self.__dict__[name]!r}' for name in names)})"

    for method in (__init__, __setattr__, __delattr__, __eq__, __hash__, __repr__):
        setattr(cls, method.__name__, method)
    cls.__match_args__ = names  # pyright: ignore[reportAttributeAccessIssue] - as a dataclass has it
    return cls


def names_of(record: object) -> tuple[str, ...]:
    """Return the names of a record's fields (or of its class's), in their order."""
    return cast("tuple[str, ...]", getattr(record, "__match_args__"))  # noqa: B009 - typed as nothing special


def replace(record: T, **changes: Any) -> T:  # noqa: ANN401 - as dataclasses.replace
    """Return a copy with some fields changed."""
    return type(record)(**{name: getattr(record, name) for name in names_of(record)} | changes)


def asdict(record: object) -> dict[str, Any]:
    """Return the fields as a dictionary, records inside of it as well; tuples become lists, as in JSON."""
    return {name: _plain(getattr(record, name)) for name in names_of(record)}


def _plain(value: Any) -> Any:  # noqa: ANN401 - whatever a field holds
    if isinstance(value, tuple | list):
        return [_plain(item) for item in cast("list[Any]", value)]
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in cast("dict[Any, Any]", value).items()}
    return asdict(value) if hasattr(value, "__match_args__") else value
