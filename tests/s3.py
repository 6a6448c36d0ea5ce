"""An S3 of our own for tests: moto's server, which listens where both this machine and containers reach it.

Two fixtures, each with a fresh bucket, and with credentials and endpoint in the environment of the test:

- ``s3``: on this machine's loopback;
- ``bridge_s3``: on the gateway of Docker's own bridge, for containers that get its address from somebody else than us.
"""

import logging
import socket
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest

CREDENTIALS = {
    "AWS_ACCESS_KEY_ID": "AKIASLIPWAYTEST",
    "AWS_SECRET_ACCESS_KEY": "dummy-secret-of-the-tests",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}
UNSET = ("AWS_PROFILE", "AWS_REGION", "AWS_SESSION_TOKEN", "S3_ENDPOINT_URL", "AWS_ENDPOINT_URL", "SAGEMAKER_REGION")


@dataclass(frozen=True)
class FakeS3:
    """A server and one bucket of it."""

    endpoint: str
    bucket: str
    client: Any
    """boto3's, for what the methods here do not do."""

    @property
    def environ(self) -> dict[str, str]:
        """What a client needs in its environment."""
        return {**CREDENTIALS, "AWS_ENDPOINT_URL_S3": self.endpoint}

    def uri(self, key: str = "") -> str:
        return f"s3://{self.bucket}/{key}"

    def put(self, **objects: str | bytes) -> None:
        """Store objects; in a keyword a double underscore is a slash. For other keys: `put_all`."""
        self.put_all({name.replace("__", "/"): content for name, content in objects.items()})

    def put_all(self, objects: dict[str, str | bytes]) -> None:
        for key, content in objects.items():
            body = content.encode() if isinstance(content, str) else content
            self.client.put_object(Bucket=self.bucket, Key=key, Body=body)

    def put_many(self, objects: dict[str, bytes]) -> None:
        """Store thousands of objects, past the server: each request to it would cost 10 ms."""
        from moto.core import DEFAULT_ACCOUNT_ID
        from moto.s3.models import s3_backends

        backend = s3_backends[DEFAULT_ACCOUNT_ID]["aws"]
        for key, body in objects.items():
            backend.put_object(self.bucket, key, body)

    def get(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def keys(self, prefix: str = "") -> list[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        return [item["Key"] for page in pages for item in page.get("Contents", ())]


def serve(address: str) -> Iterator[str]:
    """Run the server in a thread of this process; yields its endpoint."""
    from moto.moto_server.threaded_moto_server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)  # a line for every request drowns what a test printed
    server = ThreadedMotoServer(ip_address=address, port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        yield f"http://{host}:{port}"
    finally:
        server.stop()


def bucket_at(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    """Make a fresh bucket, and point this process and its children to the server."""
    import boto3
    from botocore.config import Config

    for name in UNSET:
        monkeypatch.delenv(name, raising=False)
    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    # Neither the developer's own settings nor those of the machine.
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nonexistent/config")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent/credentials")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
    client = boto3.client("s3", config=Config(s3={"addressing_style": "path"}, max_pool_connections=32))
    bucket = f"test-{uuid4().hex[:20]}"
    client.create_bucket(Bucket=bucket)
    return FakeS3(endpoint, bucket, client)


@pytest.fixture(scope="session")
def _loopback_server() -> Iterator[str]:
    yield from serve("127.0.0.1")


@pytest.fixture(scope="session")
def _bridge_server() -> Iterator[str]:
    yield from serve(bridge_gateway())


def bridge_gateway() -> str:
    """Return this machine's address on the default bridge of its Docker engine."""
    from runtime.testing import must

    gateway = must("network", "inspect", "bridge", "--format", "{{(index .IPAM.Config 0).Gateway}}").strip()
    with socket.socket() as probe:
        probe.bind((gateway, 0))  # fails here, and says so, where the engine is on another machine
    return gateway


@pytest.fixture
def s3(_loopback_server: str, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    return bucket_at(_loopback_server, monkeypatch)


@pytest.fixture
def bridge_s3(_bridge_server: str, monkeypatch: pytest.MonkeyPatch) -> FakeS3:
    return bucket_at(_bridge_server, monkeypatch)
