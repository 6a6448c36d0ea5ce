"""Downloads from a real server: what comes, what is kept, what breaks off, and what is said when nothing comes."""

import logging
import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local.s3 import cache as module
from runtime.local.s3 import parse_s3_uri
from runtime.local.s3.cache import S3Cache, cache_directory
from runtime.local.s3.client import S3Client
from runtime.testing.s3_faults import S3FaultProxy, S3Faults
from tests.s3 import FakeS3

Fetch = Callable[[str], Path]


@pytest.fixture
def client(s3: FakeS3) -> S3Client:
    return S3Client(s3.environ)


@pytest.fixture
def fetch(s3: FakeS3, client: S3Client, tmp_path: Path) -> Fetch:
    return lambda prefix: S3Cache(tmp_path / "cache", client).fetch(
        parse_s3_uri(s3.uri(prefix), "x"), "Channel 'train'"
    )


@pytest.fixture
def gets(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Every object that is read, and from where."""
    seen: list[tuple[str, int]] = []
    copy = S3Client.copy

    def spy(self: S3Client, bucket: str, item, start: int, *rest: object) -> None:
        seen.append((item.key, start))
        copy(self, bucket, item, start, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(S3Client, "copy", spy)
    return seen


def content(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_prefix_becomes_a_directory(s3: FakeS3, fetch: Fetch):
    s3.put_all({"d/a": b"1", "d/deep/er/b": b"22", "d/": b"", "d/empty": b"", "dx": b"3", "other": b"4"})
    assert content(fetch("d/")) == {"a": b"1", "deep/er/b": b"22", "empty": b""}
    assert content(fetch("d")) == {"a": b"1", "deep/er/b": b"22", "empty": b"", "dx": b"3"}
    assert content(fetch("d/a")) == {"a": b"1"}


def test_many_objects_come_page_by_page(s3: FakeS3, client: S3Client):
    s3.put_many({f"many/{number:05d}": b"x" for number in range(2203)})
    keys = [item.key for item in client.objects(parse_s3_uri(s3.uri("many"), "x"))]
    assert keys == [f"many/{number:05d}" for number in range(2203)]


def test_awkward_keys(s3: FakeS3, fetch: Fetch):
    keys = ["a b+c%20", "ü/日本", "-x", "q?a=b&c", "quote'\"<>", "tilde~", "hash#1", ".hidden"]
    s3.put_all({f"d/{key}": key for key in keys})
    assert content(fetch("d")) == {key: key.encode() for key in keys}


def test_a_second_run_downloads_what_has_changed_and_nothing_else(
    s3: FakeS3, fetch: Fetch, gets: list[tuple[str, int]]
):
    s3.put_all({"d/a": b"1", "d/b": b"2", "d/c": b"3"})
    first = fetch("d")
    assert len(gets) == 3
    assert fetch("d") == first
    assert len(gets) == 3
    s3.put_all({"d/b": b"changed", "d/e": b"5"})
    s3.client.delete_object(Bucket=s3.bucket, Key="d/c")
    gets.clear()
    assert content(fetch("d")) == {"a": b"1", "b": b"changed", "e": b"5"}
    assert sorted(key for key, _ in gets) == ["d/b", "d/e"]
    assert content(first) == {"a": b"1", "b": b"2", "c": b"3"}, "a job that runs keeps what it had"


def test_another_prefix_shares_what_is_here(s3: FakeS3, fetch: Fetch, gets: list[tuple[str, int]]):
    s3.put_all({"d/a": b"1", "d/e/b": b"2"})
    fetch("d")
    gets.clear()
    assert content(fetch("d/e")) == {"b": b"2"}
    assert gets == []


def test_what_a_job_changed_is_not_given_to_the_next_one(s3: FakeS3, fetch: Fetch):
    s3.put_all({"d/a": b"1", "d/b": b"2"})
    tree = fetch("d")
    (tree / "a").chmod(0o644)
    (tree / "a").write_bytes(b"9")
    (tree / "new").write_bytes(b"added")
    assert content(fetch("d")) == {"a": b"1", "b": b"2"}


def test_a_download_goes_on_where_it_broke_off(
    s3: FakeS3, fetch: Fetch, gets: list[tuple[str, int]], monkeypatch: pytest.MonkeyPatch
):
    big = os.urandom(3 << 20)
    s3.put_all({"d/big": big})
    stream = S3Client._stream

    def broken(self: S3Client, *args: object):
        for number, piece in enumerate(stream(self, *args)):  # type: ignore[arg-type]
            if number:
                raise OSError("pulled the plug")  # as a disk, or a killed run, would end it
            yield piece

    monkeypatch.setattr(S3Client, "_stream", broken)
    with pytest.raises(PlatformError, match="pulled the plug"):
        fetch("d")
    monkeypatch.setattr(S3Client, "_stream", stream)
    gets.clear()
    assert content(fetch("d")) == {"big": big}
    assert gets == [("d/big", 1 << 20)]


def test_a_slow_and_failing_s3_gives_the_same_bytes(s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    data = {f"d/{number}": os.urandom(20_000 * number) for number in range(12)}
    s3.put_all(data)
    faults = S3Faults(latency_s=0.002, slow_down=0.1, reset=0.2, truncate=0.3, seed=3, most=3)
    with S3FaultProxy(s3.endpoint, faults) as proxy:
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", proxy.url)
        tree = S3Cache(tmp_path, S3Client({"AWS_ENDPOINT_URL_S3": proxy.url})).fetch(
            parse_s3_uri(s3.uri("d"), "x"), "Channel 'x'"
        )
    assert {f"d/{name}": body for name, body in content(tree).items()} == data
    assert min(proxy.played[name] for name in ("slow-down", "reset", "truncate")) > 0, proxy.played


def test_two_runs_at_one_time_share_one_cache(s3: FakeS3, client: S3Client, tmp_path: Path):
    s3.put_all({f"d/{number}": os.urandom(1000) for number in range(40)})
    trees: list[Path] = []
    uri = parse_s3_uri(s3.uri("d"), "x")
    threads = [
        threading.Thread(target=lambda: trees.append(S3Cache(tmp_path, client).fetch(uri, "Channel 'x'")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(trees) == 4
    assert len(set(trees)) == 1
    assert len(content(trees[0])) == 40
    assert not list(tmp_path.rglob("*.part"))


class TestErrors:
    def test_an_empty_prefix_names_what_is_near(self, s3: FakeS3, fetch: Fetch):
        s3.put_all({"data/train/a": "1", "data/test/b": "2"})
        with pytest.raises(UserError) as error:
            fetch("data/trian/deep")
        assert str(error.value) == (
            f"Channel 'train' is 's3://{s3.bucket}/data/trian/deep', and no object begins so. "
            f"s3://{s3.bucket}/data/ holds test/, train/. Fix: did you mean s3://{s3.bucket}/data/train/?"
        )

    def test_an_empty_bucket(self, fetch: Fetch):
        with pytest.raises(UserError, match="the bucket is empty"):
            fetch("x")

    def test_no_such_bucket_names_a_near_one(self, s3: FakeS3, client: S3Client, tmp_path: Path):
        with pytest.raises(UserError) as error:
            S3Cache(tmp_path, client).fetch(parse_s3_uri(f"s3://{s3.bucket[:-1]}x/d", "x"), "Channel 'x'")
        assert f"Bucket '{s3.bucket[:-1]}x' is not there" in str(error.value)
        assert f"Did you mean '{s3.bucket}'?" in str(error.value)

    def test_an_endpoint_that_is_down(self, s3: FakeS3, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
        down = S3Client({"AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9"})
        with pytest.raises(PlatformError, match=r"S3 \(http://127.0.0.1:9\) does not answer") as error:
            S3Cache(tmp_path, down).fetch(parse_s3_uri(s3.uri("d"), "x"), "Channel 'x'")
        assert "AWS_ENDPOINT_URL_S3" in str(error.value)

    def test_no_room(self, s3: FakeS3, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
        s3.put_all({"d/a": b"12345"})
        monkeypatch.setattr(module, "HEADROOM", 1 << 60)
        with pytest.raises(UserError, match="No space for the inputs: 5 bytes"):
            fetch("d")

    def test_a_name_too_long_for_a_disk(self, s3: FakeS3, fetch: Fetch):
        s3.put_all({f"d/{'x' * 300}": b"1"})
        with pytest.raises(UserError, match="longer than 255 bytes"):
            fetch("d")

    def test_an_object_that_changes_meanwhile(self, s3: FakeS3, client: S3Client):
        s3.put_all({"d": b"before"})
        item = client.head(parse_s3_uri(s3.uri("d"), "x"))
        s3.put_all({"d": b"after!"})
        with pytest.raises(UserError, match="was changed while it was read"):
            client.read(s3.bucket, item, 0, 6)

    def test_a_profile_that_is_not_there(self, s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setenv("AWS_PROFILE", "nobody")
        with pytest.raises(UserError, match="nobody"):
            S3Client({})

    @pytest.mark.parametrize(
        ("code", "status", "told"),
        [
            ("AccessDenied", 403, "access is denied"),
            ("InvalidAccessKeyId", 403, "access is denied"),
            ("ExpiredToken", 400, "credentials have expired"),
            ("PermanentRedirect", 301, "S3 refuses: PermanentRedirect"),
        ],
    )
    def test_refusals(
        self, s3: FakeS3, client: S3Client, monkeypatch: pytest.MonkeyPatch, code: str, status: int, told
    ):
        from botocore.exceptions import ClientError

        answer = {"Error": {"Code": code, "Message": "no"}, "ResponseMetadata": {"HTTPStatusCode": status}}

        def refuse(**_: object) -> None:
            raise ClientError(answer, "HeadObject")  # type: ignore[arg-type]

        monkeypatch.setattr(client._client, "head_object", refuse)
        with pytest.raises(UserError, match=told):
            client.head(parse_s3_uri(s3.uri("d"), "x"))


def test_the_beginning_of_an_object_is_read_alone(s3: FakeS3, client: S3Client):
    s3.put_all({"d": bytes(range(200))})
    item = client.head(parse_s3_uri(s3.uri("d"), "x"))
    assert client.read(s3.bucket, item, 10, 5) == bytes(range(10, 15))
    assert client.read(s3.bucket, item, 195, 50) == bytes(range(195, 200))
    assert client.read(s3.bucket, item, 200, 50) == b""


def test_endpoints_by_every_name(s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("AWS_ENDPOINT_URL_S3")
    assert S3Client({}).endpoint == ""
    assert S3Client({"S3_ENDPOINT_URL": s3.endpoint}).endpoint == s3.endpoint
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3.endpoint)
    assert S3Client({}).endpoint == s3.endpoint
    with pytest.raises(UserError, match="http"):
        S3Client({"S3_ENDPOINT_URL": "nonsense"})


def test_a_grant_holds_what_a_container_needs_and_shows_nothing(s3: FakeS3, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("AWS_SESSION_TOKEN", "tok")
    grant = S3Client(s3.environ).grant()
    assert grant.variables("http://1.2.3.4:5") == {
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "AKIASLIPWAYTEST",
        "AWS_SECRET_ACCESS_KEY": "dummy-secret-of-the-tests",
        "AWS_SESSION_TOKEN": "tok",
        "AWS_ENDPOINT_URL_S3": "http://1.2.3.4:5",
        "S3_ENDPOINT_URL": "http://1.2.3.4:5",
    }
    assert "secret" not in repr(grant)


def test_without_credentials_requests_are_unsigned(s3: FakeS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    s3.put_all({"d/a": b"1"})
    s3.client.put_object_acl(Bucket=s3.bucket, Key="d/a", ACL="public-read")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    client = S3Client({})
    assert content(S3Cache(tmp_path, client).fetch(parse_s3_uri(s3.uri("d"), "x"), "x")) == {"a": b"1"}
    assert client.grant().environ["AWS_EC2_METADATA_DISABLED"] == "true"


def test_where_downloads_are_kept():
    assert cache_directory({"SLIPWAY_CACHE_DIR": "/c"}) == Path("/c")
    assert cache_directory({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/slipway")
    assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/slipway")


def test_nothing_of_boto3_is_logged_at_our_root(s3: FakeS3, fetch: Fetch):
    s3.put_all({"d/a": b"1"})
    before = list(logging.getLogger().handlers)
    fetch("d")
    assert logging.getLogger().handlers == before


def test_a_file_system_without_hard_links(s3: FakeS3, fetch: Fetch, monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object) -> None:
        raise PermissionError(module.errno.EPERM, "no links here")

    monkeypatch.setattr(module.os, "link", refuse)
    s3.put_all({"d/a": b"1", "d/e/b": b"2"})
    first = fetch("d")
    assert content(first) == {"a": b"1", "e/b": b"2"}
    assert fetch("d") == first


def test_another_user_can_read_whatever_our_umask(s3: FakeS3, fetch: Fetch):
    s3.put_all({"d/deep/a": b"1"})
    before = os.umask(0o077)
    try:
        tree = fetch("d")
    finally:
        os.umask(before)
    assert [oct(path.stat().st_mode & 0o777) for path in (tree, tree / "deep", tree / "deep/a")] == [
        "0o755",
        "0o755",
        "0o444",
    ]
