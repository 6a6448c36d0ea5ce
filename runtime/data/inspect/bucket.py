"""A look at a prefix of S3: what can be told from a listing and the first bytes of an object."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from runtime.base.errors import PlatformError, SlipwayError, UserError
from runtime.data.formats.probe import HEAD_BYTES, probe_window
from runtime.data.formats.window import Window
from runtime.data.inspect.look import Dataset, Speed
from runtime.data.inspect.survey import Sizes, Survey
from runtime.data.storage import MANY_FILES, SMALL_BYTES, Mount, Opens

TIMED = 8
"""Objects whose first byte is timed."""
READ_MOST = 64 << 20
"""Bytes of the objects that are read for their rate."""


def look_at_bucket(uri: str, *, content_type: str, seconds: float) -> Dataset:
    """List a prefix and read a little of it.

    Args:
        uri: ``s3://BUCKET/PREFIX``.
        content_type: of the objects; empty: as the first bytes of the first one say.
        seconds: bound of each half of the look.

    Raises:
        UserError: no boto3, or nothing below the prefix.
        PlatformError: S3 refuses or does not answer.
    """
    try:
        import boto3
        from botocore.exceptions import BotoCoreError, ClientError
    except ImportError as error:
        raise UserError(f"{uri} needs boto3", fix="install the extra: pip install 'slipway[local]'") from error
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    client: Any = boto3.client("s3")  # pyright: ignore[reportUnknownMemberType]
    try:
        walked, keys, sizes = _list(client, uri, bucket, prefix, seconds / 2)
        found, reason, refused = _probe(client, bucket, keys, sizes, content_type)
        speed = _time(client, bucket, keys, seconds / 2)
    except (BotoCoreError, ClientError) as error:
        raise PlatformError(f"{uri} cannot be read: {error}", fix="check the name, the region and the role") from error
    told: tuple[str, ...] = ()
    if walked.files.count >= MANY_FILES and walked.files.median < SMALL_BYTES:
        told = (
            f"{walked.files.count:,} small objects, median {walked.files.median / 1000:.1f} kB: every one is a request "
            "of its own in File and FastFile mode; pack them into tar shards of 100 to 200 MB",
        )
    return Dataset(uri, walked, Mount(uri, "S3"), found, reason, refused=refused, speed=speed, advice=told)


def _list(client: Any, uri: str, bucket: str, prefix: str, seconds: float) -> tuple[Survey, list[str], list[int]]:  # noqa: ANN401
    deadline = time.monotonic() + seconds
    keys: list[str] = []
    sizes: list[int] = []
    complete = True
    for key, size in _objects(client, bucket, prefix):
        if not keys or len(keys) % 1000 or time.monotonic() <= deadline:
            keys.append(key)
            sizes.append(size)
        else:
            complete = False
            break
    if not keys:
        raise UserError(f"There is nothing below {uri}", fix="check the bucket and the prefix")
    suffixes = Counter(PurePosixPath(key).suffix.lower() for key in keys)
    folders = len({key.rpartition("/")[0] for key in keys})
    walked = Survey(
        Path(uri), Sizes.of(np.array(sizes, np.int64)), folders, dict(suffixes.most_common(12)), complete=complete
    )
    return walked, keys, sizes


def _objects(client: Any, bucket: str, prefix: str) -> Iterator[tuple[str, int]]:  # noqa: ANN401
    for page in client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
        for entry in page.get("Contents", ()):
            if not entry["Key"].endswith("/"):  # the mark of a console's folder
                yield entry["Key"], int(entry["Size"])


def _probe(
    client: Any,  # noqa: ANN401
    bucket: str,
    keys: list[str],
    sizes: list[int],
    content_type: str,
) -> tuple[str, str, str]:
    """Return format, reason, and why it is refused."""
    key = next((key for key, size in zip(keys, sizes, strict=True) if size), keys[0])
    head = b""
    if any(sizes):
        head = client.get_object(Bucket=bucket, Key=key, Range=f"bytes=0-{HEAD_BYTES - 1}")["Body"].read()
    try:
        found = probe_window(Window.of(head, key), Path(key), content_type)
    except SlipwayError as error:
        from runtime.data.images import IMAGE_SUFFIXES, SIGNATURES

        if head.startswith(SIGNATURES) or key.lower().endswith(IMAGE_SUFFIXES):
            return "images", f"the first object is one: {key}", ""
        return "", "", str(error)
    return f"{found.format} shards", f"{found.reason} ({key})", ""


def _time(client: Any, bucket: str, keys: list[str], seconds: float) -> Speed:  # noqa: ANN401
    deadline = time.monotonic() + seconds
    firsts: list[float] = []
    amount, reading = 0, 0.0
    for key in [keys[number * len(keys) // TIMED] for number in range(TIMED)]:
        began = time.perf_counter()
        body = client.get_object(Bucket=bucket, Key=key)["Body"]
        try:
            amount += len(body.read(1))
            firsts.append(time.perf_counter() - began)
            while amount < READ_MOST and time.monotonic() < deadline and (data := body.read(1 << 20)):
                amount += len(data)
        finally:
            body.close()
        reading += time.perf_counter() - began
        if time.monotonic() > deadline:
            break
    opens = Opens(len(firsts), statistics.median(firsts) * 1000, max(firsts), min(firsts) * 1000)
    return Speed(amount / 1e6 / reading, amount / 1e6, 0.0, 0.0, opens)
