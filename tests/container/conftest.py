"""Every test here needs an engine and an image: without them it fails, because nothing was tested."""

from collections.abc import Iterator

import pytest

from runtime.testing import answers
from tests.container.containers import IMAGE, Containers, docker
from tests.container.slim import build_slim


@pytest.fixture(scope="session")
def _engine() -> None:
    if not answers():
        pytest.fail("no Docker engine answers. Fix: start dockerd, then make test-container", pytrace=False)


@pytest.fixture(scope="session")
def image(_engine: None) -> str:
    """The image with torch, as `make image/pytorch` left it."""
    if docker("image", "inspect", IMAGE).returncode != 0:
        pytest.fail(f"{IMAGE} is not built. Fix: make image/pytorch FLAVOUR=cpu", pytrace=False)
    return IMAGE


@pytest.fixture(scope="session")
def slim(_engine: None) -> str:
    """The image without torch, built from this checkout."""
    return build_slim()


@pytest.fixture
def containers(image: str) -> Iterator[Containers]:
    made = Containers()
    try:
        yield made
    finally:
        made.close()
