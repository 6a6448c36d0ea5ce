"""Build one image: base, wheels, a small context, docker build, size budget."""

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from images import rootfs, wheels
from images.catalog import HOME, Catalog, Flavour, Image
from images.engine import Engine
from runtime.base.errors import UserError
from runtime.version import __version__

Say = Callable[[str], None]


@dataclass(frozen=True)
class Workplace:
    """Where a build reads and keeps things."""

    checkout: Path
    cache: Path
    """May be removed at any time; the next build fills it again."""

    @property
    def logs(self) -> Path:
        """Output of the last build's steps."""
        return self.cache / "logs"


def build_arguments(catalog: Catalog, flavour: Flavour, base: str) -> dict[str, str]:
    """Return the Dockerfile's arguments: the base, and which lock."""
    return {"BASE_IMAGE": base, "FLAVOUR": flavour.name, "PYTHON_VERSION": catalog.tools.python}


def labels(image: Image, flavour: Flavour, base: str) -> dict[str, str]:
    """Return what can be read from an image without running it; nothing of it depends on the time."""
    return {
        "org.opencontainers.image.title": image.title,
        "org.opencontainers.image.version": __version__,
        "org.opencontainers.image.licenses": "Apache-2.0",
        "org.opencontainers.image.base.name": base,
        "slipway.image": image.name,
        "slipway.flavour": flavour.name,
        "slipway.lock.sha256": hashlib.sha256(flavour.lock.read_bytes()).hexdigest(),
    }


def build(name: str, flavour_name: str, base: str, catalog: Catalog, place: Workplace, say: Say) -> str:
    """Build an image and check its size.

    Args:
        name: key of images.toml.
        flavour_name: ``cpu`` or ``cuda``.
        base: an image with Python; empty: the tree that mmdebstrap makes; ``default``: the one that the
            Dockerfile pins.
        catalog: images.toml.
        place: the checkout and its cache.
        say: gets one line per step.

    Returns:
        The tag of the built image.

    Raises:
        UserError: an unknown name, a failed step (StepFailed), or an image above its budget.
    """
    image = catalog.image(name)
    flavour = image.flavour(flavour_name)
    engine = Engine.connect(place.logs)
    watch = _Watch(say)
    if not base:
        base, made = rootfs.ensure(catalog.rootfs, engine)
        watch.lap(f"base {base}", made=made)
    house, made = wheels.ensure_wheelhouse(flavour, catalog.tools, place.cache, place.logs)
    watch.lap(f"wheels of {flavour.lock.name}", made=made)
    context = _fill_context(image, flavour, house, place)
    watch.lap("our wheel", made=True)
    tag = image.tag(flavour.name)
    arguments = build_arguments(catalog, flavour, "default_root_image" if base == "default" else base)
    engine.build(tag, HOME / "Dockerfile", context, arguments, labels(image, flavour, base))
    watch.lap(f"image {tag}", made=True)
    check_budget(tag, engine.size_mb(tag) or 0.0, flavour.max_mb)
    return tag


def check_budget(tag: str, size_mb: float, max_mb: int) -> None:
    """Refuse an image that has grown beyond its budget.

    Raises:
        UserError: it is too big.
    """
    if size_mb > max_mb:
        raise UserError(
            f"{tag} has {size_mb:.0f} MB",
            allowed=f"its budget is {max_mb} MB",
            fix="find what grew (docker history), or raise max_mb in images/images.toml and say why",
        )


def _fill_context(image: Image, flavour: Flavour, house: Path, place: Workplace) -> Path:
    """Lay out what the Dockerfile mounts. Wheels are hard links: gigabytes, for nothing."""
    context = place.cache / "context" / f"{image.name}-{flavour.name}"
    shutil.rmtree(context, ignore_errors=True)
    for part in ("wheels", "locks", "own"):
        (context / part).mkdir(parents=True)
    for wheel in sorted(house.glob("*.whl")):
        os.link(wheel, context / "wheels" / wheel.name)
    shutil.copy2(flavour.lock, context / "locks" / f"{flavour.name}.txt")
    wheels.build_own(place.checkout, context / "own", place.cache, place.logs)
    return context


class _Watch:
    """Says how long each step took."""

    def __init__(self, say: Say) -> None:
        self._say = say
        self._last = time.monotonic()

    def lap(self, what: str, *, made: bool) -> None:
        now = time.monotonic()
        self._say(f"{what}: {f'{now - self._last:.1f} s' if made else 'was there'}")
        self._last = now
