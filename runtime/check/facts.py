"""What the engine and a look around tell about an image."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, cast

from runtime.base.errors import UserError
from runtime.testing import docker, must

_LOOK = r"""
for word in bash chmod cat tar python3 python pip3 pip train; do
  command -v $word >/dev/null 2>&1 && echo "have $word"
done
echo "uid $(id -u 2>/dev/null)"
touch ./.slipway-check 2>/dev/null && rm -f ./.slipway-check && echo "writes here"
find /opt/ml -type f 2>/dev/null | head -n 50 | sed 's/^/baked /'
find / -xdev -maxdepth 8 -name 'sagemaker_training-*-info' 2>/dev/null | head -n 1 | sed 's/^/toolkit /'
true
"""


@dataclass(frozen=True)
class Layer:
    """One step of an image's history."""

    created_by: str
    size: int
    """Bytes."""


@dataclass(frozen=True)
class Facts:
    """One image."""

    image: str
    config: Mapping[str, Any]
    """``Config`` of ``docker image inspect``."""
    size: int
    """Bytes, uncompressed."""
    layers: int

    @classmethod
    def read(cls, image: str) -> Facts:
        """Ask the engine.

        Raises:
            UserError: it does not have the image.
        """
        done = docker("image", "inspect", image)
        if done.returncode != 0:
            raise UserError(
                f"The engine has no image {image!r}: {done.stderr.strip()}", fix=f"docker pull {image}, or build it"
            )
        found: dict[str, Any] = json.loads(done.stdout)[0]
        return cls(image, found["Config"], int(found["Size"]), len(found["RootFS"].get("Layers") or ()))

    @property
    def entrypoint(self) -> tuple[str, ...]:
        """ENTRYPOINT; empty without one."""
        return tuple(self.config.get("Entrypoint") or ())

    @property
    def command(self) -> tuple[str, ...]:
        """CMD; empty without one."""
        return tuple(self.config.get("Cmd") or ())

    @property
    def labels(self) -> Mapping[str, str]:
        """LABELs."""
        return cast("Mapping[str, str]", self.config.get("Labels") or {})

    @property
    def environment(self) -> Mapping[str, str]:
        """ENV."""
        return dict(entry.partition("=")[::2] for entry in self.config.get("Env") or ())

    @cached_property
    def history(self) -> tuple[Layer, ...]:
        """How it was built, the last step first."""
        form = '{"by": {{json .CreatedBy}}, "size": {{json .Size}}}'
        lines = must("history", "--no-trunc", "--human=false", "--format", form, self.image).splitlines()
        rows = [json.loads(line) for line in lines if line]
        return tuple(Layer(str(row["by"]), int(row["size"])) for row in rows)

    @cached_property
    def _look(self) -> tuple[str, ...] | None:
        words = ("run", "--rm", "--network=none", "--entrypoint=sh", self.image, "-c", _LOOK)
        done = docker(*words)
        return tuple(done.stdout.splitlines()) if done.returncode == 0 else None

    @property
    def shell(self) -> bool:
        """Whether it has one; without, nothing below is known."""
        return self._look is not None

    def _told(self, mark: str) -> tuple[str, ...]:
        return tuple(line.removeprefix(mark) for line in self._look or () if line.startswith(mark))

    @property
    def commands(self) -> frozenset[str]:
        """Of those that clients look for, the ones on PATH."""
        return frozenset(self._told("have "))

    @property
    def user(self) -> str:
        """User id that it runs as."""
        return next(iter(self._told("uid ")), "")

    @property
    def writes_here(self) -> bool:
        """Whether its user may write to its working directory."""
        return bool(self._told("writes here"))

    @property
    def baked(self) -> tuple[str, ...]:
        """Files below /opt/ml, at most 50."""
        return self._told("baked ")

    @property
    def toolkit(self) -> str:
        """Version of sagemaker-training; empty without it."""
        found = re.search(r"sagemaker_training-([\w.]+?)\.(?:dist|egg)-info", " ".join(self._told("toolkit ")))
        return found.group(1) if found else ""
