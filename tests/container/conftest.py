"""Every test here needs an engine and the image: without them it fails, because nothing was tested."""

from collections.abc import Iterator

import pytest

from tests.container.containers import IMAGE, Containers, docker


@pytest.fixture(scope="session")
def _image() -> None:
    if docker("info").returncode != 0:
        pytest.fail("no Docker engine answers. Fix: start dockerd, then make test-container", pytrace=False)
    if docker("image", "inspect", IMAGE).returncode != 0:
        pytest.fail(f"{IMAGE} is not built. Fix: make image/pytorch FLAVOUR=cpu", pytrace=False)


@pytest.fixture
def containers(_image: None) -> Iterator[Containers]:
    made = Containers()
    try:
        yield made
    finally:
        made.close()
