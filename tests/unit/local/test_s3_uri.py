"""Which objects a prefix means, and what they are called on disk."""

import pytest

from runtime.base.errors import UserError
from runtime.local.s3.uri import S3Object, S3Uri, is_s3, lay_out, parse_s3_uri


def objects(*keys: str, size: int = 1) -> list[S3Object]:
    return [S3Object(key, 0 if key.endswith("/") else size, "e") for key in keys]


def names(prefix: str, *keys: str) -> list[str]:
    return list(lay_out(S3Uri("b", prefix), objects(*keys)))


def test_what_is_an_address():
    assert is_s3("s3://b/k")
    assert is_s3("S3://b")
    assert not is_s3("file:///k")
    assert parse_s3_uri("s3://my.bucket/a b/ü?x#y", "here") == S3Uri("my.bucket", "a b/ü?x#y")
    assert parse_s3_uri("s3://bucket", "here") == S3Uri("bucket", "")
    for wrong in ("s3://", "s3:///key", "s3://b u/k", "s3://-b/k"):
        with pytest.raises(UserError, match="here is"):
            parse_s3_uri(wrong, "here")


def test_below_takes_a_folder_with_and_without_its_slash():
    assert str(S3Uri("b", "out").below("job", "output")) == "s3://b/out/job/output"
    assert str(S3Uri("b", "out/").below("job")) == "s3://b/out/job"
    assert str(S3Uri("b").below("job")) == "s3://b/job"


def test_a_folder_with_or_without_its_slash_means_what_is_in_it():
    for prefix in ("data/train", "data/train/"):
        assert names(prefix, "data/train/", "data/train/a/1", "data/train/2") == ["a/1", "2"]


def test_a_prefix_also_matches_longer_names_which_stay_whole():
    assert names("data/pre", "data/pre/a", "data/prefix2/b", "data/pre.csv") == ["a", "prefix2/b", "pre.csv"]


def test_a_prefix_that_is_one_object():
    assert names("data/train.csv", "data/train.csv") == ["train.csv"]
    assert names("", "a", "b/c") == ["a", "b/c"]


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        (("d/a", "d/a/b"), "d/a is an object, and d/a/b lies below it"),
        (("d//a",), "empty part"),
        (("d/../../etc/passwd",), "'.' or '..'"),
        (("d/./a",), "'.' or '..'"),
        (("d/x/", "d/x/\0"), "'.' or '..'"),
    ],
)
def test_keys_that_no_directory_can_hold_are_named(keys: tuple[str, ...], told: str):
    with pytest.raises(UserError) as error:
        lay_out(S3Uri("b", "d/"), objects(*keys))
    assert told in str(error.value)


def test_a_folder_with_content_is_no_folder():
    with pytest.raises(UserError, match="empty part"):
        lay_out(S3Uri("b", "d/"), [S3Object("d/x/", 5, "e")])


def test_two_keys_with_one_name():
    with pytest.raises(UserError, match="both become 'prefix2/b'"):
        lay_out(S3Uri("b", "pre"), objects("pre/prefix2/b", "prefix2/b"))
