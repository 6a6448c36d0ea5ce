"""The streams and mounts of containers, without an engine; and what its refusals become."""

from pathlib import Path

import pytest

from runtime.base.errors import PlatformError
from runtime.local.containers import LONGEST_LINE, Docker, Mount, mounts_in_order, whole_lines


def test_lines_of_two_streams_stay_whole():
    pieces = [
        (b"one\ntw", None),
        (None, b"err"),
        (b"o\nthree", b"or\n"),
        (None, b"bar\r"),
        (None, b"end"),
        (b"!", None),
    ]
    assert list(whole_lines(pieces)) == [b"one\n", b"two\n", b"error\n", b"bar\r", b"three!", b"end"]
    assert list(whole_lines([(None, b"x" * LONGEST_LINE), (b"a\n", None)])) == [b"x" * LONGEST_LINE, b"a\n"]
    assert list(whole_lines([])) == []


def test_outer_mounts_come_first():
    mounts = [Mount(Path("/c"), "/opt/ml/input/data/x"), Mount(Path("/a"), "/opt/ml/input")]
    assert [mount.target for mount in mounts_in_order(mounts)] == ["/opt/ml/input", "/opt/ml/input/data/x"]


class Refused(Exception):
    """As the SDK's APIError: the status of HTTP, and what the engine says."""

    def __init__(self, status_code: int) -> None:
        super().__init__()
        self.status_code, self.explanation = status_code, "no such thing"


class RefusingApi:
    """The SDK's client of an engine that refuses everything."""

    def __init__(self, status_code: int) -> None:
        self._status_code = status_code

    def __getattr__(self, name: str) -> object:
        def refuse(*_: object, **__: object) -> None:
            raise Refused(self._status_code)

        return refuse


class RefusingDocker(Docker):
    def __init__(self, status_code: int) -> None:
        self._errors = type("errors", (), {"DockerException": Refused, "NotFound": Refused})
        self._api = RefusingApi(status_code)


def test_what_is_gone_needs_no_end():
    for docker in (RefusingDocker(404), RefusingDocker(409)):
        docker.kill("c", "SIGTERM")
        docker.remove("c")
    RefusingDocker(404).remove_network("n")
    with pytest.raises(PlatformError, match="could not remove network n: no such thing"):
        RefusingDocker(409).remove_network("n")  # containers are still in it
    with pytest.raises(PlatformError, match="could not send SIGTERM: no such thing"):
        RefusingDocker(500).kill("c", "SIGTERM")
    with pytest.raises(PlatformError, match="could not start the container"):
        RefusingDocker(404).start("c")
