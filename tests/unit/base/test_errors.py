"""Exit codes, the one form of a message, and the near misses."""

import pytest

from runtime.base.errors import ExitCode, PlatformError, SlipwayError, Stopped, UserError, did_you_mean, one_line


def test_a_message_says_what_happened_what_is_allowed_and_what_to_do_in_this_order() -> None:
    error = UserError("lr is 'fast'", allowed="it is a number", fix="write 0.1")
    assert str(error) == "lr is 'fast'. it is a number. Fix: write 0.1."


def test_full_stops_are_not_doubled_and_questions_get_none() -> None:
    assert str(UserError("It broke.", allowed="", fix="Mend it.")) == "It broke. Fix: Mend it."
    assert str(UserError("Unknown 'epoch'", allowed="Did you mean 'epochs'?")) == (
        "Unknown 'epoch'. Did you mean 'epochs'?"
    )


@pytest.mark.parametrize(("kind", "code"), [(UserError, ExitCode.USER_ERROR), (PlatformError, ExitCode.PLATFORM_ERROR)])
def test_each_kind_has_its_exit_code(kind: type[SlipwayError], code: ExitCode) -> None:
    assert kind("x").exit_code == code
    assert issubclass(kind, SlipwayError)


def test_a_stop_passes_through_except_exception() -> None:
    stop = Stopped(step=7, reason="SIGTERM")
    assert not isinstance(stop, Exception)
    assert (stop.step, stop.reason) == (7, "SIGTERM")
    assert "step 7" in str(stop)
    assert "SIGTERM" in str(stop)


def test_did_you_mean_lists_few_choices_and_guesses() -> None:
    assert did_you_mean("epoch", ["epochs", "lr"]) == "Choices: 'epochs', 'lr'. Did you mean 'epochs'?"
    assert did_you_mean("zzz", ["epochs"]) == "Choices: 'epochs'."
    assert did_you_mean("zzz", []) == ""


def test_did_you_mean_lists_many_choices_only_when_it_has_no_guess() -> None:
    many = [f"option{n}" for n in range(11)]
    assert did_you_mean("zzz", many).startswith("Choices: 'option0', 'option1'")
    assert did_you_mean("option10", many) == "Did you mean 'option10'?"


def test_one_line_folds_and_cuts_at_the_limit_of_the_failure_reason() -> None:
    assert one_line(" a\n\n b\tc ") == "a b c"
    assert one_line("x" * 1024) == "x" * 1024
    cut = one_line("x" * 1025)
    assert len(cut) == 1024
    assert cut.endswith("x…")


def test_one_line_can_always_be_written_as_utf8() -> None:
    """A file name that is no UTF-8 reaches an error's text as a lone surrogate."""
    text = one_line("cannot open 'caf\udce9.png'")
    assert "caf" in text
    text.encode("utf-8")
