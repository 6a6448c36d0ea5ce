"""The Dockerfile's dialect (Docker 20.10 and newer, no registry) and the locks, without building anything."""

import re
from pathlib import Path

import pytest

from images.build import build_arguments, labels
from images.catalog import HOME, read_catalog

CATALOG = read_catalog()
DOCKERFILE = (HOME / "Dockerfile").read_text()
INSTRUCTIONS = [
    line for line in DOCKERFILE.replace("\\\n", " ").splitlines() if line.strip() and not line.lstrip().startswith("#")
]
PIN = re.compile(r"[a-z0-9][a-z0-9._-]*==[0-9][0-9a-z.+]*")


def pins(lock: Path) -> dict[str, str]:
    lines = [line for line in lock.read_text().splitlines() if not line.startswith("#")]
    return dict(line.split("==") for line in lines)


def test_it_uses_nothing_that_an_old_builder_lacks():
    assert "# syntax" not in DOCKERFILE
    for word in ("<<", "--link", "--checksum", "ADD "):
        assert word not in DOCKERFILE.replace("COPY --link.", ""), word


def test_every_base_is_pinned_by_digest_or_an_argument():
    bases = [line.split()[1] for line in INSTRUCTIONS if line.startswith("FROM")]
    assert len(bases) == 2
    for base in bases:
        assert base.startswith("${") or re.search(r"@sha256:[0-9a-f]{64}$", base), base


def test_the_base_can_be_replaced():
    assert INSTRUCTIONS[0] == "ARG BASE_IMAGE=default_root_image"
    assert INSTRUCTIONS[1].endswith(" AS default_root_image")


def test_train_is_the_command_and_there_is_no_entrypoint():
    assert INSTRUCTIONS[-1] == 'CMD ["train"]'
    assert not [line for line in INSTRUCTIONS if line.startswith(("ENTRYPOINT", "USER"))]


def test_apt_leaves_nothing_behind():
    for line in INSTRUCTIONS:
        assert "apt-get" not in line or "rm -rf /var/lib/apt/lists/*" in line


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_both_flavours_pass_exactly_the_arguments_that_the_dockerfile_declares(flavour: str):
    declared = {line.split()[1].split("=")[0] for line in INSTRUCTIONS if line.startswith("ARG")}
    given = build_arguments(CATALOG, CATALOG.image("pytorch").flavour(flavour), "base:1")
    assert set(given) == declared
    assert given["FLAVOUR"] == flavour


@pytest.mark.parametrize("flavour", ["cpu", "cuda"])
def test_a_lock_pins_every_line_in_order(flavour: str):
    text = CATALOG.image("pytorch").flavour(flavour).lock.read_text()
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    assert all(PIN.fullmatch(line) for line in lines)
    assert lines == sorted(lines)
    assert len(pins(CATALOG.image("pytorch").flavour(flavour).lock)) == len(lines)


def test_flavours_differ_only_in_what_cuda_needs():
    image = CATALOG.image("pytorch")
    cpu, cuda = pins(image.flavour("cpu").lock), pins(image.flavour("cuda").lock)
    assert cpu.pop("torch") == f"{cuda.pop('torch')}+cpu"
    assert cpu.items() <= cuda.items()
    extra = set(cuda) - set(cpu)
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in extra)
    assert {"nvidia-nccl-cu13", "nvidia-cudnn-cu13", "triton"} <= extra


def test_images_and_the_checkout_use_the_same_versions():
    checkout = {
        name.lower().replace("_", "-"): version
        for name, _, version in (
            line.partition("==") for line in (HOME.parent / "constraints.txt").read_text().splitlines()
        )
    }
    locked = pins(CATALOG.image("pytorch").flavour("cuda").lock)
    shared = set(locked) & set(checkout)
    assert {"torch", "numpy", "pillow"} <= shared
    assert {name: locked[name] for name in shared} == {name: checkout[name] for name in shared}


def test_labels_name_flavour_and_lock_and_no_time():
    image = CATALOG.image("pytorch")
    first = labels(image, image.flavour("cpu"), "base:1")
    assert first == labels(image, image.flavour("cpu"), "base:1")
    assert first["slipway.flavour"] == "cpu"
    assert first["slipway.lock.sha256"] != labels(image, image.flavour("cuda"), "base:1")["slipway.lock.sha256"]
    assert len(first) <= 10
