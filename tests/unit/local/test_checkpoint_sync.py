"""The sync agent: what it brings away and in which order, its markers, and every way in which it ends too early."""

import io
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import pytest

from runtime.base.errors import PlatformError, UserError
from runtime.local.checkpoints import agent as module
from runtime.local.checkpoints.agent import SyncAgent, SyncReport, adopt, restore
from runtime.local.checkpoints.plan import ORDERS, SyncPlan, parse_sync
from runtime.local.checkpoints.stores import CheckpointStore, DirectoryStore, S3Store
from runtime.local.links import Rooms
from runtime.local.s3 import parse_s3_uri
from runtime.local.s3.client import S3Client
from tests.conftest import wait_for
from tests.s3 import FakeS3

UPLOADING, UPLOADED = module.UPLOADING, module.UPLOADED


def write(root: Path, **files: str) -> None:
    """Write files; a double underscore in a keyword is a slash."""
    for name, content in files.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f"{path.name}.sagemaker-ignore")  # as a careful program does it
        aside.write_text(content)
        aside.replace(path)


def listing(root: Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file())


class Memory:
    """A store that tells in which order it was used, and that can be held up or refuse."""

    uri = "memory"

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.order: list[str] = []
        self.hold = ""
        self.held, self.let_go = threading.Event(), threading.Event()
        self.refuse: Exception | None = None

    def list(self) -> dict[str, module.os.stat_result]:
        return {}

    def get(self, name: str, target: Path) -> None:
        raise AssertionError(name)

    def put(self, stream: BinaryIO, name: str) -> None:
        if self.refuse is not None:
            raise self.refuse
        if name == self.hold:
            self.held.set()
            assert self.let_go.wait(120)
        self.files[name] = stream.read()
        self.order.append(name)

    def remove(self, name: str) -> None:
        del self.files[name]
        self.order.append(f"-{name}")


Begin = Callable[..., SyncAgent]


@pytest.fixture
def store() -> Memory:
    return Memory()


@pytest.fixture
def begin(tmp_path: Path, store: Memory) -> Iterator[Begin]:
    """Begin to sync tmp_path/host to the store."""
    agents: list[SyncAgent] = []
    (tmp_path / "host").mkdir()

    def make(
        plan: SyncPlan | None = None,
        known: dict | None = None,
        step: Callable[[], int] = lambda: 0,
        rooms: Rooms | None = None,
    ) -> SyncAgent:
        agent = SyncAgent("algo-1", tmp_path / "host", store, known or {}, plan or SyncPlan(), step, rooms)  # type: ignore[arg-type]
        agents.append(agent)
        return agent

    yield make
    store.let_go.set()
    for agent in agents:
        agent.vanish()
        agent._thread.join(60)


def until(condition: Callable[[], object]) -> None:
    wait_for(condition, "the agent")


class TestWhileTheJobRuns:
    def test_files_appear_are_marked_change_and_vanish(self, tmp_path: Path, store: Memory, begin: Begin):
        host = tmp_path / "host"
        write(host, s1__w="1", latest="s1")
        begin()
        until(lambda: store.files == {"s1/w": b"1", "latest": b"s1"})
        until(lambda: listing(host) == ["latest", f"latest{UPLOADED}", "s1/w", f"s1/w{UPLOADED}"])
        write(host, latest="s2")
        until(lambda: store.files["latest"] == b"s2")
        (host / "s1" / "w").unlink()
        until(lambda: store.files == {"latest": b"s2"})
        until(lambda: listing(host) == ["latest", f"latest{UPLOADED}"])

    def test_uploading_is_marked_while_it_lasts_and_uploaded_is_not(self, tmp_path: Path, store: Memory, begin: Begin):
        host = tmp_path / "host"
        store.hold = "w"
        write(host, w="1")
        begin()
        assert store.held.wait(120)
        assert listing(host) == ["w", f"w{UPLOADING}"]
        store.let_go.set()
        until(lambda: listing(host) == ["w", f"w{UPLOADED}"])

    def test_what_is_written_meanwhile_is_stored_half_and_again(self, tmp_path: Path, store: Memory, begin: Begin):
        host = tmp_path / "host"
        store.hold = "w"
        with (host / "w").open("w") as stream:
            stream.write("half")
            stream.flush()
            begin()
            assert store.held.wait(120)
            store.hold = ""
            store.let_go.set()
            until(lambda: store.files.get("w") == b"half")
            stream.write(" and whole")
        until(lambda: store.files["w"] == b"half and whole")
        until(lambda: listing(host) == ["w", f"w{UPLOADED}"])

    def test_a_file_that_vanishes_while_it_is_stored(self, tmp_path: Path, store: Memory, begin: Begin):
        host = tmp_path / "host"
        store.hold = "d/w"
        write(host, d__w="1")
        agent = begin()
        assert store.held.wait(120)
        for path in (host / "d").iterdir():
            path.unlink()
        (host / "d").rmdir()
        store.let_go.set()
        until(lambda: store.order == ["d/w", "-d/w"])
        assert agent.finish().lost == 0
        assert listing(host) == []

    def test_what_is_no_regular_file_or_to_be_ignored_stays(self, tmp_path: Path, store: Memory, begin: Begin):
        host = tmp_path / "host"
        module.os.mkfifo(host / "fifo")
        write(host, w="1")
        (host / "x.sagemaker-ignore").touch()
        begin()
        until(lambda: store.files)
        assert list(store.files) == ["w"]

    def test_what_was_restored_is_not_stored_again_but_its_removal_is(
        self, tmp_path: Path, begin: Begin, store: Memory
    ):
        host = tmp_path / "host"
        write(host, old="1")
        store.files["old"] = b"1"
        agent = begin(known=module.scan(host))
        write(host, new="2")
        until(lambda: "new" in store.files)
        (host / "old").unlink()
        report = agent.finish()
        assert store.order == ["new", "-old"]
        assert report == SyncReport("algo-1", 1, 1, 1, 1, 0, "flushed")

    def test_a_store_that_fails_for_a_while_is_asked_again(self, tmp_path: Path, store: Memory, begin: Begin, capfd):
        store.refuse = PlatformError("S3 is down")
        write(tmp_path / "host", w="1")
        agent = begin()
        told = ""

        def warned() -> bool:
            nonlocal told
            told += capfd.readouterr().err
            return "S3 is down" in told

        until(warned)
        store.refuse = None
        until(lambda: store.files == {"w": b"1"})
        assert agent.finish().end == "flushed"

    def test_a_store_that_fails_at_the_end_fails_the_job(self, tmp_path: Path, store: Memory, begin: Begin):
        store.refuse = UserError("no access")
        write(tmp_path / "host", w="1")
        with pytest.raises(UserError, match="no access"):
            begin().finish()


class TestFaults:
    def test_it_lags_and_catches_up_at_the_end(self, tmp_path: Path, store: Memory, begin: Begin):
        agent = begin(SyncPlan(lag_s=3600))
        write(tmp_path / "host", w="1")
        until(lambda: "w" in agent._since)
        assert store.files == {}
        assert agent.finish().end == "flushed"
        assert store.files == {"w": b"1"}

    def test_it_stops_and_tells_nobody_until_the_end(self, tmp_path: Path, store: Memory, begin: Begin, capfd):
        agent = begin(SyncPlan(stop_after=2, order="name"))
        write(tmp_path / "host", a="1", b="2", c="3")
        agent._thread.join(120)
        assert store.order == ["a", "b"]
        assert "lost" not in capfd.readouterr().err
        report = agent.finish()
        assert (report.end, report.lost) == ("stopped", 1)
        assert "1 files" in capfd.readouterr().err

    def test_it_dies_at_a_step_with_the_upload_under_way(self, tmp_path: Path, begin: Begin):
        step = [0]
        agent = begin(SyncPlan(die_at_step=5, rate=1000, order="name"), step=lambda: step[0])
        write(tmp_path / "host", a="1", b="2" * 100_000)
        until(lambda: (tmp_path / "host" / f"b{UPLOADING}").exists())
        step[0] = 5
        assert agent.finish() == SyncReport("algo-1", 0, 1, 1, 0, 1, "died")

    def test_it_vanishes_with_its_machine(self, tmp_path: Path, store: Memory, begin: Begin):
        write(tmp_path / "host", a="1" * 100_000)
        agent = begin(SyncPlan(rate=1000))
        until(lambda: (tmp_path / "host" / f"a{UPLOADING}").exists())
        agent.vanish()
        report = agent.finish()
        assert (report.end, report.lost, store.files) == ("cut off", 1, {})

    def test_a_reclaimed_machine_has_no_more_time_than_it_has(self, tmp_path: Path, store: Memory, begin: Begin):
        write(tmp_path / "host", small="1", large="2" * 1_000_000)
        agent = begin(SyncPlan(rate=1000, order="small-first"))
        until(lambda: (tmp_path / "host" / f"large{UPLOADING}").exists())
        report = agent.finish(0.3)
        assert (report.end, report.lost, store.order) == ("cut off", 1, ["small"])

    def test_half_an_upload_leaves_the_store_as_it_was(self, tmp_path: Path):
        (tmp_path / "host").mkdir()
        there = DirectoryStore(tmp_path / "store")
        there.put(io.BytesIO(b"old"), "w")
        write(tmp_path / "host", w="new" * 100_000)
        agent = SyncAgent("algo-1", tmp_path / "host", there, {}, SyncPlan(rate=1000), lambda: 0)
        until(lambda: (tmp_path / "host" / f"w{UPLOADING}").exists())
        agent.vanish()
        agent.finish()
        assert listing(tmp_path / "store") == ["w"]
        assert (tmp_path / "store" / "w").read_bytes() == b"old"


class TestPlan:
    def test_orders(self):
        sizes = [("MANIFEST.json", 10), ("b", 300), ("a", 200)]
        assert SyncPlan(order="small-first").arrange(sizes, 1) == ["MANIFEST.json", "a", "b"]
        assert SyncPlan(order="large-first").arrange(sizes, 1) == ["b", "a", "MANIFEST.json"]
        assert SyncPlan(order="name").arrange(sizes, 1) == ["MANIFEST.json", "a", "b"]
        many = [(str(number), 1) for number in range(50)]
        assert SyncPlan(seed=1).arrange(many, 1) == SyncPlan(seed=1).arrange(many[::-1], 1)
        assert SyncPlan(seed=1).arrange(many, 1) != SyncPlan(seed=2).arrange(many, 1)
        assert SyncPlan(seed=1).arrange(many, 1) != SyncPlan(seed=1).arrange(many, 2)

    def test_settings(self):
        assert parse_sync("lag=1.5s,rate=50m,order=name,seed=3,stop-after=2") == SyncPlan(1.5, 50 << 20, "name", 3, 2)
        assert parse_sync("die-at=20s").die_at_s == 20
        assert parse_sync("die-at=step:7").healthy() == SyncPlan()

    @pytest.mark.parametrize(
        ("text", "told"),
        [
            ("lagg=3s", "Did you mean 'lag'"),
            ("lag", "lag=30s"),
            ("rate=0", "bytes per second"),
            ("order=big", "small-first"),
            ("die-at=step:0", "at least 1"),
            ("stop-after=-1", "number of files"),
            ("", "Choices"),
        ],
    )
    def test_what_is_wrong_is_said(self, text: str, told: str):
        with pytest.raises(UserError) as error:
            parse_sync(text)
        assert told in str(error.value)
        assert set(ORDERS) >= {SyncPlan().order}


@pytest.fixture(params=["directory", "s3"])
def real(request: pytest.FixtureRequest, tmp_path: Path) -> CheckpointStore:
    if request.param == "directory":
        return DirectoryStore(tmp_path / "store")
    s3: FakeS3 = request.getfixturevalue("s3")
    return S3Store(S3Client(s3.environ), parse_s3_uri(s3.uri("jobs/one"), "x"))


class TestStores:
    def test_all_hosts_get_all_and_their_work_is_merged(self, tmp_path: Path, real: CheckpointStore):
        hosts = [tmp_path / "algo-1", tmp_path / "algo-2"]
        agents = [
            SyncAgent(host.name, host, real, known, SyncPlan(), lambda: 0)
            for host, known in zip(hosts, restore(real, hosts), strict=True)
        ]
        write(hosts[0], s5__rank0="a", s5__MANIFEST="{}", same="one")
        write(hosts[1], s5__rank1="b", s5__deep__er="c")
        assert [agent.finish().end for agent in agents] == ["flushed"] * 2
        later = [tmp_path / "next-1", tmp_path / "next-2", tmp_path / "next-3"]
        known = restore(real, later)
        for host, state in zip(later, known, strict=True):
            assert listing(host) == ["s5/MANIFEST", "s5/deep/er", "s5/rank0", "s5/rank1", "same"]
            assert (host / "s5/deep/er").read_text() == "c"
            assert set(state) == set(listing(host))

    def test_retention_is_mirrored(self, tmp_path: Path, real: CheckpointStore):
        real.put(io.BytesIO(b"1"), "s1/w")
        real.put(io.BytesIO(b"2"), "s2/w")
        [known] = restore(real, [tmp_path / "host"])
        (tmp_path / "host/s1/w").unlink()
        report = SyncAgent("algo-1", tmp_path / "host", real, known, SyncPlan(), lambda: 0).finish()
        assert (report.uploaded, report.removed) == (0, 1)
        assert list(real.list()) == ["s2/w"]

    def test_what_a_cut_off_run_left_is_adopted_and_nothing_removed(self, tmp_path: Path, real: CheckpointStore):
        real.put(io.BytesIO(b"1"), "s1/w")
        real.put(io.BytesIO(b"2"), "s2/w")
        restore(real, [tmp_path / "host"])
        (tmp_path / "host/s1/w").unlink()
        write(tmp_path / "host", s3__w="3", s3__v="half")
        (tmp_path / f"host/s3/w{UPLOADED}").touch()
        assert adopt(real, tmp_path / "host") == 2
        assert sorted(real.list()) == ["s1/w", "s2/w", "s3/v", "s3/w"]

    def test_a_large_file_and_an_empty_one(self, tmp_path: Path, real: CheckpointStore):
        body = module.os.urandom(9 << 20)
        real.put(io.BytesIO(body), "big")
        real.put(io.BytesIO(b""), "empty")
        restore(real, [tmp_path / "host"])
        assert (tmp_path / "host/big").read_bytes() == body
        assert (tmp_path / "host/empty").read_bytes() == b""


def test_a_prefix_without_a_slash_also_restores_what_others_keep(s3: FakeS3, tmp_path: Path, capfd):
    s3.put_all({"jobs/one/w": "1", "jobs/one-more/w": "2"})
    store = S3Store(S3Client(s3.environ), parse_s3_uri(s3.uri("jobs/one"), "x"))
    [known] = restore(store, [tmp_path / "host"])
    assert listing(tmp_path / "host") == ["one-more/w", "w"]
    assert "end the S3Uri with '/'" in capfd.readouterr().err
    (tmp_path / "host/one-more/w").unlink()
    SyncAgent("algo-1", tmp_path / "host", store, known, SyncPlan(), lambda: 0).finish()
    assert s3.keys() == ["jobs/one-more/w", "jobs/one/w"], "what is of others stays"


def test_a_directory_store_keeps_no_empty_directories(tmp_path: Path):
    store = DirectoryStore(tmp_path / "store")
    store.put(io.BytesIO(b"1"), "a/b/c")
    store.put(io.BytesIO(b"1"), "a/d")
    store.remove("a/b/c")
    assert [path.name for path in (tmp_path / "store").rglob("*")] == ["a", "d"]
    store.remove("a/d")
    store.remove("a/d")
    assert list((tmp_path / "store").iterdir()) == []


def test_a_place_that_takes_no_checkpoints_is_told_before_the_job_runs(tmp_path: Path):
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", tmp_path / "file/below", Path("/proc/none")):
        with pytest.raises(UserError, match=f"cannot be kept in {directory}: .*--checkpoints DIR"):
            DirectoryStore(directory).require_writable()
    DirectoryStore(tmp_path / "new/store").require_writable()
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_directory_that_vanished_is_not_taken_for_the_file(tmp_path: Path, begin: Begin, store: Memory):
    (tmp_path / "file").touch()
    for directory in (tmp_path / "file", Path("/proc/none")):
        with pytest.raises(PlatformError, match="cannot be written"):
            DirectoryStore(directory).put(io.BytesIO(b"1"), "a")


def test_a_container_s_link_is_stored_as_what_it_leads_to_there(
    tmp_path: Path, begin: Begin, store: Memory, capfd: pytest.CaptureFixture[str]
):
    host = tmp_path / "host"
    write(host, five="5")
    (tmp_path / "ours").write_text("ours")
    (host / "last").symlink_to("/opt/ml/checkpoints/five")
    (host / "theirs").symlink_to(tmp_path / "ours")
    (host / "folder").symlink_to(tmp_path, target_is_directory=True)
    agent = begin(rooms={"/opt/ml/checkpoints": host})
    assert agent.finish().lost == 0
    assert store.files == {"five": b"5", "last": b"5"}
    assert (
        "2 links among the checkpoints of algo-1 (folder …) are not synced: they lead out of the host's own"
        in capfd.readouterr().err
    )


def test_no_room_is_said_before_anything_is_copied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    store = DirectoryStore(tmp_path / "store")
    store.put(io.BytesIO(b"12345"), "w")
    monkeypatch.setattr(module.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 9})())
    with pytest.raises(UserError, match="10 bytes for 2 hosts"):
        restore(store, [tmp_path / "a", tmp_path / "b"])


def test_nothing_is_stored_again_while_nothing_changes(tmp_path: Path, begin: Begin, store: Memory):
    write(tmp_path / "host", **{f"d{number}__w": "1" for number in range(200)})
    agent = begin()
    until(lambda: len(store.files) == 200)
    turns = agent._turn
    until(lambda: agent._turn > turns + 2)
    assert len(store.order) == 200
