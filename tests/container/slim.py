"""A small image for faults that need no torch: the same Debian base, the same venv, our wheel; built in seconds."""

import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pip

from images import rootfs, wheels
from images.build import Workplace
from images.catalog import HOME, read_catalog
from images.engine import Engine

SLIM = "slipway-slim:test"

DOCKERFILE = """
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN --mount=type=bind,source=own,target=/build/own --mount=type=bind,source=pip,target=/build/pip \\
    python3 -m venv --without-pip /opt/venv \\
 && /opt/venv/bin/python /build/pip install --quiet --no-compile --no-cache-dir --no-index --no-deps \\
        --disable-pip-version-check --root-user-action=ignore /build/own/*.whl \\
 && PYTHONHASHSEED=0 /opt/venv/bin/python -m compileall -q --invalidation-mode unchecked-hash \\
        /opt/venv/lib/python*/site-packages/runtime \\
 && echo 'slipway:x:1000:0:slipway:/tmp:/bin/sh' >> /etc/passwd \\
 && mkdir -p /opt/ml/code /opt/ml/model /opt/ml/output/data /opt/ml/checkpoints \\
 && chgrp -R 0 /opt/ml && chmod -R g=u /opt/ml
ENV PATH=/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
WORKDIR /opt/ml
CMD ["train"]
"""


def build_slim(checkout: Path = HOME.parent) -> str:
    """Build the image from a checkout and return its tag."""
    place = Workplace(checkout, HOME.parent / ".cache")
    engine = Engine.connect(place.logs)
    base, _ = rootfs.ensure(read_catalog().rootfs, engine)
    with tempfile.TemporaryDirectory(prefix="slipway-slim-") as scratch:
        context = Path(scratch)
        (context / "own").mkdir()
        wheels.build_own(place.checkout, context / "own", place.cache, place.logs)
        # The pip of this Python, run from its folder: the image ends up without one, as the real images do.
        shutil.copytree(Path(pip.__file__).parent, context / "pip")
        (context / "Dockerfile").write_text(DOCKERFILE, encoding="utf-8")
        words = [engine.client, "build", "--quiet", "--tag", SLIM, "--build-arg", f"BASE_IMAGE={base}", str(context)]
        environ = os.environ | {"DOCKER_BUILDKIT": "1"}
        done = subprocess.run(words, capture_output=True, text=True, check=False, env=environ)
        assert done.returncode == 0, done.stderr
    return SLIM
