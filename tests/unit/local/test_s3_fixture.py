"""The fake S3 of the tests itself: what other tests take for granted."""

from tests.s3 import FakeS3


def test_a_bucket_of_ones_own_behind_the_endpoint_of_the_environment(s3: FakeS3):
    s3.put_all({"a/b": "1", "a/c": b"2"})
    assert s3.keys("a/") == ["a/b", "a/c"]
    assert s3.get("a/b") == b"1"


def test_nothing_of_other_tests_is_seen(s3: FakeS3):
    assert s3.keys() == []
