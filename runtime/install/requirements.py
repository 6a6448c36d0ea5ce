"""What the image has locked, and which lines of a requirements file would replace it. Nothing is installed here."""

from __future__ import annotations

import os

from runtime.base.errors import UserError
from runtime.base.frozen import frozen
from runtime.version import __version__

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOCK_FILE = "/etc/slipway/constraints.txt"
"""Where an image says what it was built with, one ``name==version`` per line."""
TOOLS = ("pip", "setuptools", "wheel")
"""Never locked: they build packages and are not what a job computes with."""
MAX_DEPTH = 10
"""Files that include one another; more is a circle."""


@frozen
class Line:
    """One requirement and where it stands."""

    text: str
    path: str
    number: int


def canonical(name: str) -> str:
    """Return the one spelling under which a package is known. Source: PEP 503.

    >>> canonical("Typing_Extensions")
    'typing-extensions'
    """
    return "-".join(part for part in name.lower().replace("_", "-").replace(".", "-").split("-") if part)


def read_lock(path: str = LOCK_FILE) -> dict[str, str]:
    """Return the image's packages with their versions, our own among them.

    Args:
        path: the image's own list; where there is none, what is installed now counts.
    """
    found: dict[str, str] = {"slipway": __version__}
    if os.path.isfile(path):
        pinned = (line.text.partition("==") for line in read_lines(path))
        found |= {canonical(name): version.strip() for name, equals, version in pinned if equals}
    else:
        from importlib.metadata import distributions

        for item in distributions():
            name: str | None = item.metadata["Name"]
            # An interrupted installation leaves records without a name; the first on the path is what imports see.
            if name:
                found.setdefault(canonical(name), item.version)
    return {name: version for name, version in sorted(found.items()) if name not in TOOLS}


def read_lines(path: str, depth: int = 0) -> Iterator[Line]:
    """Read a requirements file and those that it includes, comments and continued lines resolved.

    Options (``--index-url`` and the like) are pip's business and come out as they are.

    Raises:
        UserError: a file cannot be read, or includes itself.
    """
    if depth > MAX_DEPTH:
        raise UserError(f"{path} is included {depth} files deep", fix="take the circle of -r lines apart")
    try:
        with open(path, encoding="utf-8-sig") as file:
            text = file.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}", fix="submit it with the code, as UTF-8") from error
    kept = ""
    for number, raw in enumerate(text.splitlines(), 1):
        line = raw.strip() if not raw.lstrip().startswith("#") else ""
        line = line.split(" #")[0].rstrip()
        if line.endswith("\\"):
            kept += line[:-1]
            continue
        line, kept = (kept + line).strip(), ""
        for option in ("-r", "--requirement"):
            if line.startswith((f"{option} ", f"{option}=")):
                yield from read_lines(_beside(path, line[len(option) + 1 :].strip()), depth + 1)
                line = ""
        if line:
            yield Line(line, path, number)


def _beside(path: str, name: str) -> str:
    return name if os.path.isabs(name) else os.path.join(os.path.dirname(path), name)


def check_lock(path: str, locked: Mapping[str, str]) -> None:
    """Refuse a file that asks for another version of a package than the image has.

    Raises:
        UserError: it does; names both versions and the ways out.
    """
    from pip._vendor.packaging.requirements import InvalidRequirement, Requirement

    for line in read_lines(path):
        try:
            # pip's own options may follow the requirement: --hash, --config-settings.
            wanted = Requirement(line.text.split(" --")[0])
        except InvalidRequirement:
            continue  # an option, a path or an address: pip says what is wrong with it
        has = locked.get(canonical(wanted.name))
        if has is None or (wanted.marker is not None and not wanted.marker.evaluate({"extra": ""})):
            continue
        if wanted.url or not wanted.specifier.contains(has, prereleases=True):
            asks = f"{wanted.name} @ {wanted.url}" if wanted.url else f"{wanted.name}{wanted.specifier}"
            raise replaced(f"{os.path.basename(line.path)} line {line.number}", asks, f"{wanted.name} {has}")


def replaced(who: str, asks: str, has: str) -> UserError:
    """Return the error for a requirement that would replace a package of the image."""
    return UserError(
        f"{who} asks for {asks}, but this image has {has}",
        allowed="What the image was built and tested with is not replaced",
        fix="drop or widen that requirement, take an image with that version, or set slipway_constraints=off to have "
        "the image's replaced at your own risk",
    )


def conflict_told(output: list[str], locked: Mapping[str, str]) -> UserError | None:
    """Find in pip's words a package that wants another version than the image's, directly or through others.

    Args:
        output: lines of pip; it names each party of a conflict on a line of its own.
        locked: the image's packages.
    """
    for line in output:
        who, depends, asks = line.strip().partition(" depends on ")
        name = asks
        for index, letter in enumerate(asks):
            if not (letter.isalnum() or letter in "._-"):
                name = asks[:index]
                break
        has = locked.get(canonical(name))
        if (
            depends
            and has is not None
            and any(f"(constraint) {name}=={has}".lower() in told.lower() for told in output)
        ):
            return replaced(who, asks, f"{name} {has}")
    return None
