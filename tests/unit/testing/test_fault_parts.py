"""Parts of faults that need no root: which commands and files they are."""

import subprocess
from pathlib import Path
from typing import Any

import pytest

from runtime.base.errors import UserError
from runtime.testing.container import top_of_rank
from runtime.testing.faults import network
from runtime.testing.faults.disk import CGROUP, disks_of, put_away_left, throttles
from runtime.testing.faults.network import ContainerNetwork
from runtime.testing.faults.packets import _attribute, _messages, _packet_number


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Commands in the container's network name space, which all do well; without ``nsenter`` and its arguments."""
    made: list[str] = []

    def run(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        assert words[:4] == ["nsenter", "--target", "1", "--net"]
        made.append(" ".join(words[4:]))
        out = "1: lo: <UP>\n7: eth0@if8: <UP>\n" if words[4] == "ip" else ""
        return subprocess.CompletedProcess(words, 0, out, "")

    monkeypatch.setattr(network.subprocess, "run", run)
    return made


def test_latency_is_the_kernels_own_where_it_has_it(calls: list[str]):
    undo = ContainerNetwork(1, "c").delay(0.2, 0.05)
    undo()
    assert [call for call in calls if call.startswith("tc")] == [
        "tc qdisc replace dev eth0 root netem delay 200ms 50ms",
        "tc qdisc del dev eth0 root",
    ]


def test_only_what_was_begun_is_taken_back(calls: list[str]):
    one = ContainerNetwork(1, "c").drop(peer="10.0.0.2", outgoing=False)
    two = ContainerNetwork(1, "c").drop()
    one()
    assert calls == [
        "iptables --wait -A INPUT ! -i lo -s 10.0.0.2 -j DROP",
        "iptables --wait -A INPUT ! -i lo -j DROP",
        "iptables --wait -A OUTPUT ! -o lo -j DROP",
        "iptables --wait -D INPUT ! -i lo -s 10.0.0.2 -j DROP",
    ]
    two()
    assert len(calls) == 6


def test_who_may_not_is_told_what_to_do(monkeypatch: pytest.MonkeyPatch):
    def refuse(words: list[str], **_: Any) -> subprocess.CompletedProcess[str]:
        return subprocess.CompletedProcess(words, 1, "", "nsenter: cannot open /proc/1/ns/net: Permission denied\n")

    monkeypatch.setattr(network.subprocess, "run", refuse)
    with pytest.raises(UserError, match=r"network of c cannot be changed: iptables: .*Permission denied.*run as root"):
        ContainerNetwork(1, "c").drop()
    monkeypatch.setattr(network.os, "geteuid", lambda: 1000)
    assert "needs root" in network.can_reach_in()


def test_a_packet_is_found_among_messages_of_the_kernel():
    header = _attribute(1, (7).to_bytes(4, "big") + b"\x08\x00\x03")
    body = b"\0\0\0\x4d" + _attribute(9, b"xyz") + header
    message = (16 + len(body)).to_bytes(4, "little") + (0x0300).to_bytes(2, "little") + bytes(10) + body
    ((kind, found), (_, again)) = _messages(message + message)
    assert (kind, _packet_number(found), _packet_number(again)) == (0x0300, 7, 7)
    assert _messages(message[:-1])[0][1] == body[:-1]
    assert _messages(b"\0" * 20) == []
    assert _packet_number(b"\0" * 8) is None


def test_control_groups_of_both_versions_are_slowed():
    first = ["9:memory:/docker/abc", "5:blkio:/docker/abc", "0::/"]
    names = ("blkio.throttle.write_bps_device", "blkio.throttle.read_bps_device")
    assert throttles(first, "7:3", 1000) == [(CGROUP / "blkio/docker/abc" / name, "7:3 1000") for name in names]
    second = ["0::/system.slice/docker-abc.scope"]
    path = CGROUP / "system.slice/docker-abc.scope/io.max"
    assert throttles(second, "7:3", 1000) == [(path, "7:3 rbps=1000 wbps=1000")]
    assert throttles(second, "7:3", 0) == [(path, "7:3 rbps=max wbps=max")]


def test_what_is_no_disk_is_left_alone(tmp_path: Path):
    odd = disks_of(tmp_path / "algo-1") / "0"
    odd.mkdir(parents=True)
    (odd / "file").write_text("x")
    put_away_left(tmp_path / "algo-1")
    assert (odd / "file").exists()


def test_a_rank_is_told_from_its_children():
    assert top_of_rank("12 10\n13 12\n14 12\n") == 12
    assert top_of_rank("") is None
