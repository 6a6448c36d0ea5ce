"""The shared machinery of the benchmarks; their figures are judged by running them, not here."""

import json

import pytest

from benchmarks import __main__ as command
from benchmarks import measure
from benchmarks.measure import Figure, Result


def test_rounds_are_interleaved_and_turned_around():
    order: list[str] = []

    def arm(name: str):
        def run() -> float:
            order.append(name)
            return float(len(order))

        return run

    costs = measure.interleave({"a": arm("a"), "b": arm("b")}, rounds=5, warm_up=1)
    assert "".join(order) in ("ab" + "baabbaabba", "ba" + "abbaabbaab")
    assert {name: len(values) for name, values in costs.items()} == {"a": 5, "b": 5}
    assert 1.0 not in costs["a"] + costs["b"], "the warm-up is not counted"


def test_too_few_rounds_are_refused():
    with pytest.raises(ValueError, match="at least 5"):
        measure.interleave({"a": lambda: 1.0}, rounds=4)


def test_a_budget_never_goes_below_the_least_rounds():
    assert len(measure.interleave({"a": lambda: 1.0}, rounds=100, seconds=0.0)["a"]) == measure.LEAST_ROUNDS


def test_ratios_are_taken_round_by_round():
    found = measure.ratio([1.0, 20.0, 300.0, 4000.0, 1.0], [1.0, 10.0, 100.0, 1000.0, 10.0])
    assert (found.low, found.median, found.high) == (1.0, 2.0, 3.0)


@pytest.mark.parametrize(
    ("better", "value", "goal", "met"),
    [("lower", 1.0, 1.02, True), ("lower", 1.03, 1.02, False), ("higher", 5.0, 4.0, True), ("lower", 9.0, None, True)],
)
def test_goals(better, value, goal, met):
    assert Figure("key", value, "ratio", goal, better).met is met


def test_the_object_has_the_fixed_shape_and_the_exit_status_follows_the_goals(monkeypatch, capsys):
    missed = Figure("slow", 2.0, "s", 1.0, peers={"other": 3.0})
    fine = Figure("size", 10.0, "bytes", 20.0, spread=(9.0, 11.0))

    class Module:
        figures = (missed, fine)

        @classmethod
        def run(cls, *, quick: bool) -> Result:
            assert quick
            return Result("profile", cls.figures, packages=("pytest", "no-such-package"))

    monkeypatch.setattr(command.importlib, "import_module", lambda name: Module)
    assert command.main(["profile", "--quick", "--json"]) == 1
    record = json.loads(capsys.readouterr().out)
    assert set(record) == {"name", "machine", "versions", "figures"}
    assert record["figures"]["slow"]["met"] is False
    assert record["figures"]["slow"]["peers"] == {"other": 3.0}
    assert {"value", "unit", "goal", "met", "peers"} <= set(record["figures"]["size"])
    assert {"python", "slipway", "pytest"} == set(record["versions"])
    Module.figures = (fine,)
    assert command.main(["profile", "--quick"]) == 0
    assert "9 to 11" in capsys.readouterr().out


def test_an_unknown_benchmark_is_refused_with_the_names(capsys):
    with pytest.raises(SystemExit):
        command.main(["profil"])
    assert "profile" in capsys.readouterr().err
