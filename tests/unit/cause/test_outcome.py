"""One cause out of many records, and the files that the platform reads."""

import json
from pathlib import Path

import pytest

from runtime.base.errors import FAILURE_REASON_CHARS, PlatformError, UserError
from runtime.cause.outcome import (
    Cause,
    Outcome,
    cause_from_error,
    cause_of_exit,
    feels_like_peer_loss,
    first_cause,
    read_rank_error,
    write_outcome,
    write_rank_error,
)
from runtime.contract.paths import Paths


def cause(at: float, *, consequence: bool = False, message: str = "x", rank: int | None = None) -> Cause:
    return Cause("algo-1", message, 1, at, rank, consequence=consequence)


def test_the_first_in_time_is_reported() -> None:
    assert first_cause([cause(3), cause(1), cause(2)]).time == 1


def test_a_consequence_is_never_reported_while_a_cause_is_known() -> None:
    assert first_cause([cause(1, consequence=True), cause(9)]).time == 9
    assert first_cause([cause(2, consequence=True), cause(1, consequence=True)]).time == 1


@pytest.mark.parametrize(
    "text",
    [
        "RuntimeError: [../third_party/gloo/gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:9",
        "torch.distributed.DistBackendError: NCCL error in: ...",
        "torch.distributed.DistNetworkError: Connection reset by peer",
        "BrokenPipeError: [Errno 32] Broken pipe",
    ],
)
def test_what_a_survivor_feels_is_a_consequence(text: str) -> None:
    assert feels_like_peer_loss(text)
    assert cause_of_exit("algo-1", 0, 1, None, [text], 1.0).consequence


def test_an_own_mistake_is_a_cause() -> None:
    assert not feels_like_peer_loss("ValueError: bad label 11")


def test_the_text_names_host_rank_message_and_place_in_one_line() -> None:
    told = Cause("algo-2", "ValueError: bad\n label", 1, 1.0, 3, "/opt/ml/code/train.py:7")
    assert told.text() == "algo-2 rank 3: ValueError: bad label at /opt/ml/code/train.py:7"
    assert Cause("algo-2", "no port", 2, 1.0).text() == "algo-2: no port"


def test_what_it_means_and_what_to_do_follow_the_place() -> None:
    told = Cause("algo-1", "MemoryError.", 1, 1.0, 0, "a.py:3", means="no memory", fix="use less")
    assert told.text() == "algo-1 rank 0: MemoryError. at a.py:3 (no memory). Fix: use less"


def test_a_long_message_leaves_room_for_place_meaning_and_remedy() -> None:
    told = Cause("algo-1", "E: " + "x" * 5000, 1, 1.0, 0, "/very" * 99 + "/train.py:3", means="m" * 900, fix="f" * 900)
    text = told.text()
    assert len(text) == FAILURE_REASON_CHARS
    assert text.startswith("algo-1 rank 0: E: xxx")
    assert "/very/train.py:3 (mmm" in text
    assert ". Fix: fff" in text


def test_the_text_is_cut_in_characters_and_not_in_bytes() -> None:
    text = Cause("algo-1", "日本" * 2000, 1, 1.0, 0).text()
    assert len(text) == FAILURE_REASON_CHARS
    assert len(text.encode()) > 2 * FAILURE_REASON_CHARS


def test_secrets_are_masked_in_all_that_is_written(tmp_path: Path) -> None:
    secret = "hf_" + "aB3dE6gH9" * 4
    told = Cause("algo-1", f"HTTPError: denied for {secret}", 1, 1.0, 0, means=f"seen {secret}")
    assert secret not in told.text()
    assert secret not in str(told.short())
    write_rank_error(str(tmp_path / "e.json"), told)
    assert secret not in (tmp_path / "e.json").read_text()


def test_a_rank_record_is_nobody_elses_to_read(tmp_path: Path) -> None:
    write_rank_error(str(tmp_path / "e.json"), cause(1), {"step": 7})
    assert (tmp_path / "e.json").stat().st_mode & 0o777 == 0o600
    assert json.loads((tmp_path / "e.json").read_text())["run"] == {"step": 7}


def test_a_long_text_keeps_its_beginning() -> None:
    text = Cause("algo-1", "first words " + "x" * 5000, 1, 1.0, 0).text()
    assert len(text) == FAILURE_REASON_CHARS
    assert text.startswith("algo-1 rank 0: first words")


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (-9, 137, "killed by SIGKILL (exit code 137)"),
        (-7, 135, "killed by SIGBUS (exit code 135)"),
        (-11, 139, "killed by SIGSEGV (exit code 139)"),
        (-40, 168, "killed by signal 40 (exit code 168)"),
        (3, 3, "the program ended with exit code 3 without a word on standard error"),
    ],
)
def test_an_end_without_a_record_is_explained(status: int, code: int, words: str) -> None:
    found = cause_of_exit("algo-1", 2, status, None, [], 5.0)
    assert (found.exit_code, found.rank, found.time) == (code, 2, 5.0)
    assert words in found.message


def test_the_last_words_on_standard_error_are_kept() -> None:
    found = cause_of_exit("algo-1", 0, 1, None, ["Traceback:", "KeyError: 'x'", "", "  "], 1.0)
    assert found.message == "the program ended with exit code 1: KeyError: 'x' (before it: Traceback:)"


def test_a_record_wins_but_the_exit_code_is_the_real_one() -> None:
    record = Cause("", "ValueError: bad", 1, 4.0, where="train.py:3")
    found = cause_of_exit("algo-2", 5, 42, record, ["noise"], 9.0)
    assert (found.host, found.rank, found.exit_code, found.message, found.time) == (
        "algo-2",
        5,
        42,
        "ValueError: bad",
        4.0,
    )


def test_our_record_makes_the_round_trip(tmp_path: Path) -> None:
    told = Cause("algo-1", 'say "hi" to \udcff', 3, 1.5, 7, "a.py:1", consequence=True)
    write_rank_error(tmp_path / "new/error.json", told)
    assert read_rank_error(tmp_path / "new/error.json") == told


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"message": {"message": "ValueError: x", "extraInfo": {"timestamp": 12}}}, "ValueError: x"),
        ({"message": {"message": "ValueError: x", "extraInfo": {"timestamp": "12"}}}, "ValueError: x"),
        ({"message": "SignalException: died"}, "SignalException: died"),
    ],
)
def test_torchelastics_record_is_understood(tmp_path: Path, record: object, message: str) -> None:
    (tmp_path / "e.json").write_text(json.dumps(record))
    found = read_rank_error(tmp_path / "e.json")
    assert found is not None
    assert found.message == message


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "7",
        "{}",
        '{"message": {}}',
        '{"slipway": {"host": "a"}}',
        '{"slipway": 3}',
        '{"message": {"message": "x", "extraInfo": "text"}}',
        '{"message": {"message": "x", "extraInfo": {"timestamp": "soon"}}}',
    ],
)
def test_an_unreadable_record_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "e.json").write_text(text)
    assert read_rank_error(tmp_path / "e.json") is None
    assert read_rank_error(tmp_path / "missing.json") is None


def test_a_full_disk_does_not_hide_the_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    write_rank_error(tmp_path / "file/below/error.json", cause(1))
    assert (tmp_path / "file").read_text() == ""


def test_errors_of_ours_keep_their_exit_code() -> None:
    assert cause_from_error(UserError("u"), "h").exit_code == 1
    assert cause_from_error(PlatformError("p"), "h").exit_code == 2
    other = cause_from_error(KeyError("k"), "h", 3)
    assert (other.exit_code, other.message, other.rank) == (2, "KeyError: 'k'", 3)


def test_completed_leaves_success_alone(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_outcome(Outcome("completed", step=3), paths)
    assert Path(paths.success).read_bytes() == b""
    assert sorted(path.name for path in Path(paths.output).iterdir()) == ["success"]


def test_stopped_leaves_neither_success_nor_failure(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_outcome(Outcome("stopped", step=3, reason="SIGTERM"), paths)
    assert json.loads(Path(paths.stopped).read_text()) == {"step": 3, "reason": "SIGTERM"}
    assert sorted(path.name for path in Path(paths.output).iterdir()) == ["stopped"]


def test_failed_leaves_the_reason_in_utf8(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    write_outcome(Outcome("failed", 1, cause(1, message="größe 'caf\udce9.png'")), paths)
    assert Path(paths.failure).read_text(encoding="utf-8").startswith("algo-1: größe 'caf")
    assert sorted(path.name for path in Path(paths.output).iterdir()) == ["failure"]


def test_a_failure_file_of_the_users_script_is_kept(tmp_path: Path) -> None:
    paths = Paths(tmp_path)
    Path(paths.output).mkdir()
    Path(paths.failure).write_text("mine")
    write_outcome(Outcome("failed", 1, cause(1)), paths)
    assert Path(paths.failure).read_text() == "mine"


def test_an_output_that_cannot_be_written_is_said_in_the_log(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "output").write_text("a file")
    write_outcome(Outcome("failed", 1, cause(1)), Paths(tmp_path))
    assert "cannot write to" in capsys.readouterr().err
