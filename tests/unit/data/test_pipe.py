"""`run.data` on Pipe channels: one reader per host, real FIFOs and sockets, ranks as threads."""

import gzip
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from runtime.base.errors import PlatformError, UserError
from runtime.data.order import Last
from runtime.data.pipe import NoLength, attributes_of
from runtime.local.inputs.order import Share
from tests.conftest import wait_for
from tests.pipes import Pipes, World, labels, open_pipe, png, run_world, wrap, written


@pytest.fixture
def pipes(tmp_path: Path) -> Iterator[Pipes]:
    made = Pipes(tmp_path)
    yield made
    made.stop()


def flat(lists: Iterable[list[int]]) -> list[int]:
    return list(itertools.chain.from_iterable(lists))


FORMS = ("jsonlines", "csv", "tar", "recordio-protobuf", "recordio-image", "tfrecord")


@pytest.mark.parametrize("wrapped", [False, True])
@pytest.mark.parametrize("form", FORMS)
def test_objects_one_after_another_are_one_stream(form: str, wrapped: bool, pipes: Pipes) -> None:
    objects = [written(form, range(begin, min(23, begin + 5))) for begin in range(0, 23, 5)]
    prefix = pipes.feed(lambda _: iter((wrap([b"", *objects]) if wrapped else b"".join(objects),)))
    data = open_pipe(prefix, wrapped=wrapped)
    assert labels(data) == list(range(23))
    assert data.epoch == 1
    assert labels(data) == list(range(23)), "the second epoch is the second FIFO"


@pytest.mark.parametrize("wrapped", [False, True])
def test_members_of_gzip_are_unpacked_one_after_another(wrapped: bool, pipes: Pipes) -> None:
    objects = [gzip.compress(written("jsonlines", range(begin, begin + 5))) for begin in (0, 5, 10)]
    prefix = pipes.feed(lambda _: iter((wrap(objects) if wrapped else b"".join(objects),)))
    assert labels(open_pipe(prefix, wrapped=wrapped)) == list(range(15))


def test_wrapped_images_and_augmented_manifests(pipes: Pipes) -> None:
    images = [png(n) for n in range(7)]
    prefix = pipes.feed(lambda _: iter((wrap(images),)))
    assert labels(open_pipe(prefix, wrapped=True)) == list(range(7)), "without a label, y is the sample's number"

    lines = list(itertools.chain.from_iterable((image, str(n + 10).encode()) for n, image in enumerate(images)))
    prefix = pipes.feed(lambda _: iter((wrap(lines),)))
    data = open_pipe(prefix, wrapped=True, attributes=("source-ref", "class"), batch_size=3)
    assert data.shape == (1, 3, 4)
    assert labels(data) == list(range(10, 17))

    prefix = pipes.feed(lambda _: iter((wrap(lines[:-1]),)))
    with pytest.raises(UserError, match=r"group 6 has 1 of 2 attributes \(source-ref, class\)"):
        labels(open_pipe(prefix, wrapped=True, attributes=("source-ref", "class")))
    prefix = pipes.feed(lambda _: iter((wrap(lines),)))
    with pytest.raises(UserError, match="attributes of an augmented manifest and RecordWrapperType None"):
        labels(open_pipe(prefix, attributes=("source-ref", "class")))


def test_attribute_names() -> None:
    assert attributes_of("train", "") == ()
    assert attributes_of("other", '{"train": ["a"]}') == ()
    for wrong in ("a,b", '["a"]', '{"train": "a"}', '{"train": []}', '{"train": [1]}'):
        with pytest.raises(UserError, match="slipway_attribute_names"):
            attributes_of("train", wrong)


def test_loader_workers_get_whole_samples_in_order(pipes: Pipes) -> None:
    prefix = pipes.feed(lambda _: iter((written("tar", range(101)),)))
    assert labels(open_pipe(prefix, workers=2, batch_size=5)) == list(range(101))


def test_a_stream_has_no_length_and_can_be_listed_all_the_same(pipes: Pipes) -> None:
    prefix = pipes.feed(lambda _: iter((written("jsonlines", range(10)),)))
    data = open_pipe(prefix)
    with pytest.raises(NoLength, match="nobody knows how many samples an epoch has"):
        len(data)
    assert data
    batches = list(data)
    assert [batch.more for batch in batches] == [True, True, False]
    assert [batch.num_samples for batch in batches] == [4, 4, 2]


def test_the_shape_may_be_asked_for_in_the_middle_of_an_epoch(pipes: Pipes) -> None:
    data = open_pipe(pipes.feed(lambda _: (written("recordio-image", range(n, n + 9)) for n in range(0, 10**6, 9))))
    batches = iter(data)
    next(batches)
    assert data.shape == (1, 3, 4)
    assert [int(label) for label in next(batches)[1]] == [4, 5, 6, 7]


def test_ranks_may_ask_for_the_shape_while_it_is_looked_for(pipes: Pipes) -> None:
    """The second one comes after the reader has begun to look, and before it has seen anything."""
    go = threading.Event()

    def pieces(_: int) -> Iterator[bytes]:
        assert go.wait(60)
        yield written("recordio-image", range(9))

    prefix = pipes.feed(pieces)
    world = World(1, 4)

    def shape(rank: int) -> tuple[int, ...]:
        return open_pipe(prefix, world=world, rank=rank).shape

    with ThreadPoolExecutor(4) as pool:
        asked = [pool.submit(shape, rank) for rank in range(4)]
        wait_for(lambda: connected(os.getpid()) >= 4, "all four have asked")
        go.set()
        assert [each.result(60) for each in asked] == [(1, 3, 4)] * 4


def connected(pid: int) -> int:
    """Count connections to readers that this process has started."""
    lines = Path("/proc/net/unix").read_text().splitlines()
    return sum(f"@slipway-pipe-{pid}-" in line and line.split()[5] == "03" for line in lines)


def test_the_shuffle_is_the_same_in_every_world_and_another_in_every_epoch(pipes: Pipes) -> None:
    def pieces(_: int) -> Iterator[bytes]:
        return iter((written("jsonlines", range(60)),))

    one = run_world([pipes.feed(pieces)], 1, shuffle=True, batch_size=12, epochs=2)[0].batches
    four = run_world([pipes.feed(pieces), pipes.feed(pieces)], 2, shuffle=True, batch_size=3, epochs=2)
    together = [flat(parts) for parts in zip(*(rank.batches for rank in four), strict=True)]
    assert one == together
    assert sorted(flat(one[:5])) == sorted(flat(one[5:])) == list(range(60))
    assert one[:5] != one[5:]


def test_an_epoch_that_is_left_early_closes_its_fifo(pipes: Pipes) -> None:
    prefix = pipes.feed(lambda epoch: (written("jsonlines", range(n, n + 9)) for n in range(epoch, 10**6, 9)))
    data = open_pipe(prefix)
    assert labels_of_first(data) == [0, 1, 2, 3]
    with pytest.raises(UserError, match="epoch 0 was begun and left"):
        labels_of_first(data)
    # What failed once stays so: the ranks are about to end.
    with pytest.raises(UserError, match="epoch 0 was begun and left"):
        labels_of_first(data)
    prefix = pipes.feed(lambda epoch: (written("jsonlines", range(n, n + 9)) for n in range(epoch, 10**6, 9)))
    data = open_pipe(prefix)
    assert labels_of_first(data) == [0, 1, 2, 3]
    data.next_epoch()
    assert labels_of_first(data) == [1, 2, 3, 4]


def labels_of_first(data: Any) -> list[int]:
    for batch in data:
        return [int(label) for label in batch[1]]
    return []


def shuffled_objects(pipe_seed: int, count: int, form: str, host: int = 0, hosts: int = 1) -> Any:
    """Make epochs as the service does: objects shuffled by a seed anew, and shared out when there are several hosts."""
    objects = [range(begin, min(count, begin + 7)) for begin in range(0, count, 7)]

    def pieces(epoch: int) -> Iterator[bytes]:
        share = Share(host, hosts, sharded=hosts > 1, seed=pipe_seed)
        return (written(form, objects[index]) for index in share.of_epoch(len(objects), epoch))

    return pieces


@given(
    count=st.integers(30, 150),
    form=st.sampled_from(FORMS),
    last=st.sampled_from(["short", "pad", "drop"]),
    shuffle=st.booleans(),
    sharded=st.booleans(),
    hosts=st.integers(1, 2),
    lives=st.lists(st.tuples(st.integers(1, 2), st.integers(1, 3), st.integers(1, 5)), min_size=1, max_size=2),
    epoch=st.integers(0, 1),
)
@settings(
    max_examples=12,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    database=None,
)
@seed(20261121)
def test_any_chain_of_worlds_gives_every_sample_once(
    count: int,
    form: str,
    last: Last,
    shuffle: bool,
    sharded: bool,
    hosts: int,
    lives: list[tuple[int, int, int]],
    epoch: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """(ranks per host, batch size, batches before the kill) of each life; the last one reads to the end."""
    pipes = Pipes(tmp_path_factory.mktemp("grid"))
    state: dict[str, Any] | None = None
    seen: Counter[int] = Counter()
    given_out = dropped = 0
    try:
        for number, (ranks, batch_size, kill) in enumerate([*lives, (1, 4, 0)]):
            final = number == len(lives)
            of = [shuffled_objects(5, count, form, host, hosts) if sharded and hosts > 1 else
                  shuffled_objects(5, count, form) for host in range(hosts)]  # fmt: skip
            prefixes = [pipes.feed(pieces) for pieces in of]
            if state is None:
                state = {**run_none(pipes, of[0], shuffle), "epoch": epoch, "shards": hosts if sharded else 1}
            world = run_world(
                prefixes,
                ranks,
                state=state,
                epochs=epoch + 1,
                stop_at=0 if final else kill,
                last=last,
                shuffle=shuffle,
                sharded=sharded,
                batch_size=batch_size,
            )
            assert len({len(rank.batches) for rank in world}) == 1, "ranks had different numbers of batches"
            assert all(size > 0 for rank in world for size in rank.sizes)
            seen.update(label for rank in world for batch in rank.batches for label in batch)
            given_out += len(world[0].batches)
            if world[0].state:
                assert len({json.dumps(rank.state) for rank in world}) == 1, "every rank has the same position"
                state = world[0].state
            if last == "drop" and len(world[0].batches) < (kill or 10**9):
                dropped = hosts * ranks * batch_size - 1 if not final else hosts * 4 - 1
                break  # the end was reached: what did not fill a batch is left out
    finally:
        pipes.stop()
    assert set(seen.values()) <= {1}, "samples came twice"
    missing = set(range(count)) - set(seen)
    assert len(missing) <= dropped, f"{len(missing)} samples never came"


def run_none(pipes: Pipes, pieces: Any, shuffle: bool) -> dict[str, Any]:
    """Return the state of a channel of which nothing was read."""
    return open_pipe(pipes.feed(pieces), shuffle=shuffle).state_dict()


def test_a_resumed_stream_must_be_the_same(pipes: Pipes) -> None:
    first = run_world([pipes.feed(shuffled_objects(1, 50, "jsonlines"))], 1, stop_at=3, shuffle=True)
    state = first[0].state
    assert state["consumed"] == 12
    again = run_world([pipes.feed(shuffled_objects(1, 50, "jsonlines"))], 1, state=state, shuffle=True)
    assert sorted(flat(first[0].batches + again[0].batches)) == list(range(50))
    with pytest.raises(UserError, match="the first 12 samples of the stream are others than in the checkpoint"):
        run_world([pipes.feed(shuffled_objects(2, 50, "jsonlines"))], 1, state=state, shuffle=True)
    with pytest.raises(UserError, match="the first 12 samples of the stream are others"):
        run_world([pipes.feed(lambda _: iter((written("jsonlines", range(5)),)))], 1, state=state, shuffle=True)
    for key, value, word in (
        ("seed", 1, "seed"),
        ("shards", 2, "number of hosts with streams"),
        ("mode", "File", "Pipe"),
    ):
        with pytest.raises(UserError, match=word):
            open_pipe(pipes.feed(lambda _: iter(())), shuffle=True).load_state_dict({**state, key: value})


def test_a_checkpoint_behind_the_last_batch_reads_nothing_again(pipes: Pipes) -> None:
    state = run_world([pipes.feed(lambda _: iter((written("jsonlines", range(8)),)))], 1)[0].state
    assert state["ended"]
    data = open_pipe(pipes.feed(lambda epoch: iter((written("jsonlines", range(10 * epoch, 10 * epoch + 4)),))))
    data.load_state_dict(state)
    assert labels(data) == []
    assert data.epoch == 1
    assert labels(data) == [10, 11, 12, 13]


@pytest.mark.parametrize("last", ["short", "pad", "drop"])
def test_a_host_with_fewer_samples_pads(last: Last, pipes: Pipes) -> None:
    prefixes = [
        pipes.feed(lambda _: iter((written("jsonlines", range(21)),))),
        pipes.feed(lambda _: iter((written("jsonlines", range(100, 105)),))),
    ]
    world = run_world(prefixes, 2, sharded=True, batch_size=2, last=last)
    assert {len(rank.batches) for rank in world} == {5 if last == "drop" else 6}
    assert all(size > 0 for rank in world for size in rank.sizes)
    seen = Counter(label for rank in world for batch in rank.batches for label in batch)
    whole = {*range(20), *range(100, 104)} if last == "drop" else {*range(21), *range(100, 105)}
    assert seen == Counter(whole)


def test_hosts_with_different_streams_of_a_replicated_channel_are_told(pipes: Pipes) -> None:
    prefixes = [pipes.feed(shuffled_objects(host, 60, "jsonlines")) for host in (1, 2)]
    with pytest.raises(UserError, match="the hosts read different samples in epoch 0"):
        run_world(prefixes, 1)
    prefixes = [pipes.feed(lambda _, n=n: iter((written("jsonlines", range(n)),))) for n in (16, 20)]
    with pytest.raises(UserError, match="the hosts read different samples in epoch 0"):
        run_world(prefixes, 1, batch_size=2)


def test_no_writer_is_told_with_the_way_out(tmp_path: Path) -> None:
    words = r"Channel 'train', epoch 0: no writer for .*train_0 within 1 s \(it is not there\)\. .*mode File"
    with pytest.raises(UserError, match=words) as told:
        labels(open_pipe(str(tmp_path / "train"), wait_s=1.0))
    assert "Is this the local mode of an SDK?" in str(told.value)
    os.mkfifo(tmp_path / "train_0")
    with pytest.raises(UserError, match=r"within 1 s \(nothing has come from it\)"):
        labels(open_pipe(str(tmp_path / "train"), wait_s=1.0))


def test_a_writer_that_stalls_is_named(tmp_path: Path) -> None:
    path = tmp_path / "train_0"
    os.mkfifo(path)
    command = ["sh", "-c", f"exec 3>{path}; head -c 4000 /dev/zero | tr '\\0' '1' >&3; echo >&3; sleep 600"]
    with subprocess.Popen(command) as writer:
        try:
            with pytest.raises(
                PlatformError, match=r"the writer of .*train_0 has stalled: nothing for 1 s after 4001 byte"
            ):
                labels(open_pipe(str(tmp_path / "train"), wait_s=1.0, content_type="text/csv"))
        finally:
            writer.kill()


def test_a_truncated_stream_and_an_empty_one(pipes: Pipes) -> None:
    whole = written("recordio-image", range(9))
    with pytest.raises(UserError, match=r"train_0, byte \d+: truncated"):
        labels(open_pipe(pipes.feed(lambda _: iter((whole[:-10],)))))
    with pytest.raises(UserError, match=r"Channel 'train' is empty: epoch 0 of its FIFO ended without a sample"):
        labels(open_pipe(pipes.feed(lambda _: iter(()))))
    with pytest.raises(UserError, match="gives no batch in epoch 0"):
        labels(open_pipe(pipes.feed(lambda _: iter((whole,))), last="drop", batch_size=10))
    with pytest.raises(UserError, match="npy, which has no borders in a raw stream"):
        labels(open_pipe(pipes.feed(lambda _: iter((b"\x93NUMPY" + bytes(99),)))))


def test_a_reader_that_is_killed_is_named_and_leaves_nothing(pipes: Pipes) -> None:
    prefix = pipes.feed(lambda _: (written("jsonlines", range(n, n + 9)) for n in range(0, 10**6, 9)))
    before = set(os.listdir("/dev/shm"))
    data = open_pipe(prefix, workers=2, batch_size=2)
    reader = next(pid for pid in children(os.getpid()) if prefix in command_of(pid))
    batches = iter(data)
    next(batches)
    os.kill(reader, signal.SIGKILL)
    with pytest.raises(PlatformError, match="The reader of Pipe channel 'train', a process of local rank 0, is lost"):
        list(batches)
    assert set(os.listdir("/dev/shm")) <= before


def test_the_reader_ends_with_its_rank(tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(
        "import sys, time\n"
        "from tests.pipes import open_pipe\n"
        f"data = open_pipe({str(tmp_path / 'train')!r}, workers=1)\n"
        "print('open', flush=True)\n"
        "for batch in data: pass\n"
    )
    with subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
    ) as rank:
        assert rank.stdout is not None
        assert rank.stdout.readline() == b"open\n"
        reader = next(pid for pid in children(rank.pid) if str(tmp_path) in command_of(pid))
        rank.kill()
        rank.wait(60)
    wait_for(lambda: str(tmp_path) not in command_of(reader), "the reader ends")


def children(parent: int) -> list[int]:
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:
                continue
            if int(stat.rpartition(")")[2].split()[1]) == parent:
                found.append(int(entry.name))
    return found


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text()
    except OSError:
        return ""
