"""Timing, on a clock that only moves when a callable is called."""

import json
import pathlib

import jax.numpy as jnp
import pytest

from compress.report import load_compare, measure_latency, write_latency


class FakeMachine:
    """A clock, and callables that take a fixed time on it."""

    def __init__(self):
        self.seconds = 0.0
        self.calls = []

    def clock(self):
        return self.seconds

    def callable(self, name, seconds):
        def call():
            self.calls.append(name)
            self.seconds += seconds
            return jnp.zeros(())

        return call


def test_medians_and_ratios_are_those_of_the_clock():
    machine = FakeMachine()
    result = measure_latency(
        {
            "float": machine.callable("float", 2e-3),
            "int8": machine.callable("int8", 5e-4),
        },
        clock=machine.clock,
    )
    int8 = result["entries"]["int8"]
    assert result["reference"] == "float"
    assert int8["median_us"] == pytest.approx(500)
    assert int8["iqr_us"] == pytest.approx(0, abs=1e-3)
    assert int8["ratio"] == int8["paired_ratio"] == pytest.approx(0.25)


def test_fast_callable_is_called_until_a_sample_is_long_enough():
    machine = FakeMachine()
    fast = machine.callable("fast", 1e-5)
    result = measure_latency({"fast": fast}, repetitions=3, clock=machine.clock)
    assert result["entries"]["fast"]["inner_calls"] in (50, 51)  # rounding of the sum
    assert result["entries"]["fast"]["median_us"] == pytest.approx(10)


def test_every_round_times_every_callable_once_in_changing_order():
    machine = FakeMachine()
    names = ["a", "b", "c"]
    callables = {name: machine.callable(name, 1e-3) for name in names}
    measure_latency(callables, repetitions=20, warmup=1, clock=machine.clock)
    timed = machine.calls[3 * (1 + 3) :]  # a warmup and three trial calls each
    rounds = [tuple(timed[i : i + 3]) for i in range(0, len(timed), 3)]
    assert len(rounds) == 20
    assert all(sorted(round_) == names for round_ in rounds)
    assert len(set(rounds)) > 3


def test_slow_minutes_cancel_in_the_paired_ratio():
    machine = FakeMachine()

    def slowing(factor):
        def call():
            machine.seconds += factor * (1e-3 + machine.seconds / 100)

        return call

    callables = {"float": slowing(2), "int8": slowing(1)}
    result = measure_latency(callables, clock=machine.clock)
    # Half, but for the drift within one round.
    assert result["entries"]["int8"]["paired_ratio"] == pytest.approx(0.5, abs=0.02)


def test_real_callables_give_a_result_that_survives_json():
    x = jnp.ones((4, 4))
    result = measure_latency({"matmul": lambda: x @ x}, repetitions=3)
    assert json.loads(json.dumps(result)) == result
    assert result["entries"]["matmul"]["median_us"] > 0
    assert result["machine"]["cpu"]


def test_written_latency_is_read_back(compare_dir):
    result = measure_latency({"float": lambda: jnp.zeros(()), "P": lambda: 0})
    write_latency(compare_dir, {64: result, 1: result})
    latency = load_compare(compare_dir).latency
    assert list(latency) == [1, 64]
    assert latency[1].entries["P"].ratio == result["entries"]["P"]["ratio"]


def test_latency_that_cannot_be_written_leaves_the_file_before(
    compare_dir, monkeypatch
):
    before = (compare_dir / "latency.json").read_bytes()
    monkeypatch.setattr(pathlib.Path, "replace", lambda *args: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        write_latency(compare_dir, {})
    assert (compare_dir / "latency.json").read_bytes() == before
    assert not list(compare_dir.glob(".latency*"))


@pytest.mark.parametrize(
    ("changes", "remedy"),
    [
        ({"callables": {}}, "at least one callable"),
        ({"reference": "b"}, "Add it to the callables"),
        ({"warmup": 0}, "at least 1"),
    ],
)
def test_impossible_settings_say_what_to_do(changes, remedy):
    with pytest.raises(ValueError, match=remedy):
        measure_latency(**({"callables": {"a": lambda: 0}} | changes))
