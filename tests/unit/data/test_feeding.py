"""The warning that data does not keep up: when it comes, and that it names the change."""

import pytest

from runtime.data.feeding import LEAST_BATCHES, SETTLED, Feeding, Watch


def told(watch: Watch, batches: int = 1000, **each: float) -> list[str]:
    return [text for _ in range(batches) if (text := watch.add(**each))]


def watch(workers: int = 2, cpus: int = 8) -> Watch:
    return Watch(Feeding("train", workers, cpus, batch_size=32))


def test_a_loader_that_keeps_up_is_not_warned_of() -> None:
    assert told(watch(), waited_s=0.01, used_s=1.0, made_s=0.5, cpu_s=0.5) == []


def test_decoding_that_is_too_slow_names_the_number_of_workers() -> None:
    (text,) = told(watch(workers=2), waited_s=1.0, used_s=1.0, made_s=4.0, cpu_s=4.0)
    assert "channel 'train': the device waits 50% of the time for data" in text
    assert "125.00 ms a sample" in text
    assert "pass workers=4 to run.data (now 2)" in text


def test_more_workers_than_cpus_are_not_advised() -> None:
    (text,) = told(watch(workers=2, cpus=3), waited_s=3.0, used_s=1.0, made_s=8.0, cpu_s=8.0)
    assert "pass workers=3" in text
    assert "8 CPUs for each rank" in text


@pytest.mark.parametrize("cpus", [0, 1, 2])
def test_when_all_cpus_decode_the_way_out_is_less_to_decode(cpus: int) -> None:
    (text,) = told(watch(workers=2, cpus=cpus), waited_s=3.0, used_s=1.0, made_s=8.0, cpu_s=8.0)
    assert "workers=" not in text
    assert "--short-edge" in text
    assert "more CPUs" in text


def test_slow_storage_asks_for_more_requests_and_larger_files() -> None:
    (text,) = told(watch(workers=2, cpus=2), waited_s=3.0, used_s=1.0, made_s=8.0, cpu_s=0.2)
    assert "storage is slow" in text
    assert "pass workers=8" in text, "waiting needs no CPU"
    assert "100 to 200 MB" in text


def test_the_first_batches_are_not_judged() -> None:
    one = watch()
    assert told(one, SETTLED, waited_s=100.0, used_s=0.1, made_s=1.0, cpu_s=1.0) == []
    assert told(one, waited_s=0.0, used_s=1.0, made_s=1.0, cpu_s=1.0) == []


def test_a_short_look_is_not_judged() -> None:
    one = watch()
    assert told(one, SETTLED + LEAST_BATCHES - 1, waited_s=10.0, used_s=0.1, made_s=1.0, cpu_s=1.0) == []
    assert len(told(one, 1, waited_s=10.0, used_s=0.1, made_s=1.0, cpu_s=1.0)) == 1


def test_it_is_said_once() -> None:
    assert len(told(watch(), 10_000, waited_s=1.0, used_s=1.0, made_s=4.0, cpu_s=4.0)) == 1


def test_a_good_beginning_does_not_hide_a_bad_rest() -> None:
    one = watch()
    assert told(one, 5000, waited_s=0.0, used_s=1.0, made_s=1.0, cpu_s=1.0) == []
    assert len(told(one, 100, waited_s=1.0, used_s=1.0, made_s=4.0, cpu_s=4.0)) == 1


def test_no_compute_at_all_divides_by_nothing() -> None:
    (text,) = told(watch(), waited_s=1.0, used_s=0.0, made_s=1.0, cpu_s=0.1)
    assert "waits 100%" in text
