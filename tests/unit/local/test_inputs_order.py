"""Which objects a host gets in which epoch, and manifests."""

import json
import os
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.base.errors import UserError
from runtime.local.inputs.content import list_items, tree_of
from runtime.local.inputs.manifest import parse_manifest
from runtime.local.inputs.objects import Stores, split_uri
from runtime.local.inputs.order import Share

counts = st.integers(0, 400)
hosts = st.integers(1, 9)
seeds = st.one_of(st.none(), st.integers(0, 2**63))


@given(count=counts, num_hosts=hosts, epoch=st.integers(0, 50), seed=seeds)
def test_shards_are_disjoint_complete_and_differ_by_one_at_most(count, num_hosts, epoch, seed):
    parts = [list(Share(index, num_hosts, True, seed).of_epoch(count, epoch)) for index in range(num_hosts)]
    assert sorted(number for part in parts for number in part) == list(range(count))
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@given(count=counts, num_hosts=hosts, epoch=st.integers(0, 50), seed=seeds)
def test_replicated_hosts_get_everything_in_one_order(count, num_hosts, epoch, seed):
    orders = [list(Share(index, num_hosts, False, seed).of_epoch(count, epoch)) for index in range(num_hosts)]
    assert all(order == orders[0] for order in orders)
    assert sorted(orders[0]) == list(range(count))
    if seed is None:
        assert orders[0] == list(range(count))
    assert list(Share(0, num_hosts, False, seed).of_epoch(count, epoch)) == orders[0]


def test_a_seed_gives_another_order_in_every_epoch_and_the_same_in_every_run():
    orders = [tuple(Share(seed=7).of_epoch(50, epoch)) for epoch in range(20)]
    assert len(set(orders)) == 20
    assert orders[3] != tuple(Share(seed=8).of_epoch(50, 3))
    # Written down: a job that is repeated in a year reads the same data in the same order.
    assert list(Share(seed=7).of_epoch(8, 0)) == [6, 3, 2, 1, 7, 0, 4, 5]


def test_a_shuffled_shard_changes_from_epoch_to_epoch():
    first, second = (set(Share(0, 4, True, 5).of_epoch(100, epoch)) for epoch in (0, 1))
    assert len(first) == len(second) == 25
    assert first != second


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('["a"]', "line 1, column 2", '{"prefix"'),
        ('{"prefix": "x"}', "line 1, column 1", "JSON list"),
        ('[{"prefix": "/d/"},\n "a",\n 3]', "line 3, column 2", "names of objects"),
        ('[{"prefix": "/d/"},\n "a",\n "b" "c"]', "line 3, column 6", "separated"),
        ('[{"prefix": "/d/"},\n "a",\n "a"]', "line 3, column 2", "twice"),
        ('[{"prefix": "/d/"}, "../a"]', "line 1, column 21", "out of the prefix"),
        ('[{"prefix": "/d/"}, ""]', "line 1, column 21", "names of objects"),
        ('[{"prefix": "/d/"}]', "line 1", "no object"),
        ('[{"prefix": "/d/"}, "a"', "line 1, column 24", "ends with"),
        ('[{"prefix": "/d/"}, "a"] x', "line 1, column 26", "nothing comes after"),
        ('[{"prefix": "/d/"},\n  "a\n"]', "line 2", "JSON"),
        ("", "line 1, column 1", "JSON list"),
        ("[" * 100000, "line 1", "flat"),
    ],
)
def test_a_malformed_manifest_is_told_with_its_place(text, place, what):
    with pytest.raises(UserError) as caught:
        parse_manifest(text, "s3://b/m")
    assert place in str(caught.value)
    assert what in str(caught.value)
    assert "s3://b/m" in str(caught.value)


names = st.text(st.characters(blacklist_categories=("Cs",)), min_size=1, max_size=12).filter(
    lambda name: name.strip("/") and ".." not in name.split("/")
)


@given(st.lists(names, min_size=1, max_size=20, unique=True), st.integers(0, 4), st.booleans())
def test_any_manifest_that_json_can_write_is_read_back(listed, indent, ascii_only):
    text = json.dumps([{"prefix": "s3://b/p/"}, *listed], indent=indent or None, ensure_ascii=ascii_only)
    manifest = parse_manifest(text, "m")
    assert manifest.prefix == "s3://b/p/"
    assert list(manifest.names) == listed


def test_a_prefix_that_ends_inside_a_name_keeps_that_name():
    manifest = parse_manifest('[{"prefix": "/data/img_"}, "1.png", "x/2.png"]', "m")
    assert manifest.paths == ("img_1.png", "img_x/2.png")


def test_a_directory_is_listed_in_the_order_of_its_keys(tmp_path):
    for name in ("b.txt", "a/z", "a.txt", "ä", "Z", "a/b/c"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "a/loop").symlink_to(tmp_path)
    items = list_items(str(tmp_path), "S3Prefix", Stores())
    assert [item.path for item in items] == ["Z", "a.txt", "a/b/c", "a/z", "b.txt", "ä"]
    assert [item.size for item in items] == [1, 5, 5, 3, 5, 2]


def test_an_empty_prefix_is_no_channel(tmp_path):
    with pytest.raises(UserError, match="holds no object"):
        list_items(str(tmp_path), "S3Prefix", Stores())


def test_a_manifest_that_names_what_is_not_there(tmp_path):
    (tmp_path / "m").write_text(json.dumps([{"prefix": f"{tmp_path}/"}, "here", "gone"]))
    (tmp_path / "here").write_text("x")
    with pytest.raises(UserError, match="gone"):
        list_items(str(tmp_path / "m"), "ManifestFile", Stores())


def test_one_name_cannot_be_a_file_and_a_directory(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "d").mkdir()
    (tmp_path / "d/a").write_text("x")
    (tmp_path / "m").write_text(json.dumps([{"prefix": f"{tmp_path}/"}, "a", "d/a"]))
    items = list_items(str(tmp_path / "m"), "ManifestFile", Stores())
    for pair in ([items[0], replace(items[1], path="a/b")], [replace(items[1], path="a/b"), items[0]]):
        with pytest.raises(UserError, match="directory of"):
            tree_of(pair, print)


def test_a_name_that_is_no_text_is_left_out_of_a_mount_and_told(tmp_path):
    (tmp_path / "good").write_text("x")
    (tmp_path / os.fsdecode(b"bad-\xff")).write_text("x")
    told: list[str] = []
    tree = tree_of(list_items(str(tmp_path), "S3Prefix", Stores()), told.append)
    assert list(tree) == ["good"]
    assert len(told) == 1


@pytest.mark.parametrize("uri", ["http://x/y", "s3://", "file://host/a"])
def test_other_schemes_are_refused(uri):
    with pytest.raises(UserError, match="names no data"):
        split_uri(uri)
