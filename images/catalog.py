"""images.toml as typed data: which images there are, and what they are built from. Pure, after one read."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from runtime.base.errors import UserError, did_you_mean

HOME = Path(__file__).parent
"""Directory of images.toml; the paths in it are relative to this."""


@dataclass(frozen=True)
class Rootfs:
    """The Debian tree that stands in for a base image from a registry."""

    suite: str
    packages: tuple[str, ...]
    exclude: tuple[str, ...]
    """Paths of the packages that are not unpacked, as patterns of dpkg."""
    source_date_epoch: int
    """Unix seconds; later file times are set to it."""


@dataclass(frozen=True)
class BuildTools:
    """What every image is built with."""

    python: str
    """Version of the base's interpreter, such as ``3.11``."""
    glibc_minor: int
    """Newest manylinux tag that runs on the base: glibc 2.N."""
    pip: str
    """Version of the pip that installs the wheels inside the build."""


@dataclass(frozen=True)
class Flavour:
    """One build of an image; only the lock differs."""

    name: str
    """``cpu`` or ``cuda``."""
    lock: Path
    max_mb: int
    """Size budget in decimal megabytes, uncompressed."""


@dataclass(frozen=True)
class Image:
    """One image of the suite."""

    name: str
    title: str
    flavours: Mapping[str, Flavour]

    def tag(self, flavour: str) -> str:
        """Return the name under which the engine keeps it."""
        return f"slipway-{self.name}:{flavour}"

    def flavour(self, name: str) -> Flavour:
        """Look a flavour up.

        Raises:
            UserError: this image has no such flavour.
        """
        if name not in self.flavours:
            raise UserError(f"Image {self.name!r} has no flavour {name!r}", allowed=did_you_mean(name, self.flavours))
        return self.flavours[name]


@dataclass(frozen=True)
class Catalog:
    """Everything in images.toml."""

    rootfs: Rootfs
    tools: BuildTools
    images: Mapping[str, Image]

    def image(self, name: str) -> Image:
        """Look an image up.

        Raises:
            UserError: there is no such image.
        """
        if name not in self.images:
            raise UserError(f"Unknown image {name!r}", allowed=did_you_mean(name, self.images))
        return self.images[name]


def read_catalog(path: Path = HOME / "images.toml") -> Catalog:
    """Read the list of images.

    Raises:
        UserError: it is no TOML, or a key is missing.
    """
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from error
    try:
        rootfs, tools = table["rootfs"], table["build"]
        return Catalog(
            Rootfs(
                suite=rootfs["suite"],
                packages=tuple(sorted(rootfs["packages"])),
                exclude=tuple(sorted(rootfs["exclude"])),
                source_date_epoch=rootfs["source_date_epoch"],
            ),
            BuildTools(python=tools["python"], glibc_minor=tools["glibc_minor"], pip=tools["pip"]),
            {name: _image(name, value, path.parent) for name, value in table["image"].items()},
        )
    except KeyError as error:
        raise UserError(f"{path} has no key {error}", fix="see the comments in images/images.toml") from error


def _image(name: str, table: Mapping[str, Any], home: Path) -> Image:
    flavours = cast(Mapping[str, Mapping[str, Any]], table["flavour"])
    return Image(
        name,
        table["title"],
        {word: Flavour(word, home / value["lock"], value["max_mb"]) for word, value in flavours.items()},
    )
