"""Progress: counted in steps and passes, never backwards, and the time left is true."""

from __future__ import annotations

import pytest

from lib_layerdiffusion.server.progress import Part, Rates, Tracker

STEP, PASS = 2.0, 0.5
"""Seconds that a step on all pixels and a pass on one item take in these tests."""


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def walk(parts, rates, clock, loading=3.0):
    """Runs through parts; gives (fraction, seconds left, seconds that it then took) after every unit."""
    tracker = Tracker(parts, rates, clock)
    tracker.begin()
    clock.now += loading
    seen = []
    for part in parts:
        for step in range(part.steps):
            clock.now += STEP * part.size
            tracker.report("sample", step + 1, part.steps)
            seen.append((tracker.standing(), clock.now))
        for done in range(part.passes):
            clock.now += PASS * part.pixels
            tracker.report("decode", done + 1, part.passes)
            seen.append((tracker.standing(), clock.now))
    tracker.finish()
    return [(standing, clock.now - at) for standing, at in seen]


ONE = [Part(steps=10, passes=9, size=1.0, pixels=1.0)]
CHAIN = [Part(10, 2, 2.0, 1.0), Part(10, 9, 1.0, 1.0), Part(10, 9, 1.0, 1.0)]


@pytest.mark.parametrize("parts", [ONE, CHAIN], ids=["one step", "chain"])
def test_it_counts_every_unit_of_every_part_and_never_goes_back(parts):
    seen = [standing for standing, _ in walk(parts, Rates(), Clock())]
    total = sum(part.steps + part.passes for part in parts)
    assert [standing.done for standing in seen] == list(range(1, total + 1))
    assert {standing.total for standing in seen} == {total}
    fractions = [standing.fraction for standing in seen]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert seen[-1].stage == "finishing"


@pytest.mark.parametrize("parts", [ONE, CHAIN], ids=["one step", "chain"])
def test_the_time_left_is_true_once_a_run_has_been_seen(parts):
    rates, clock = Rates(), Clock()
    walk(parts, rates, clock)
    for standing, true in walk(parts, rates, clock):
        assert standing.seconds_left == pytest.approx(true, abs=1e-6)


def test_the_first_run_guesses_and_is_right_from_the_second_pass_on():
    for standing, true in walk(ONE, Rates(), Clock()):
        if standing.stage == "decoding" and standing.done > 11:
            assert standing.seconds_left == pytest.approx(true, abs=1e-6)
        elif standing.done > 1:
            assert standing.seconds_left is not None


def test_time_passes_between_two_units():
    rates, clock = Rates(), Clock()
    walk(ONE, rates, clock)
    tracker = Tracker(ONE, rates, clock)
    tracker.begin()
    tracker.report("sample", 1, 10)
    before = tracker.standing().seconds_left
    clock.now += 1.5
    assert tracker.standing().seconds_left == pytest.approx(before - 1.5)


def test_a_larger_picture_takes_as_much_longer():
    rates, clock = Rates(), Clock()
    walk(ONE, rates, clock)
    larger = Tracker([Part(10, 9, 4.0, 4.0)], rates, clock)
    larger.report("sample", 1, 10)
    assert larger.standing().seconds_left == pytest.approx(4 * (9 * STEP + 9 * PASS))


def test_nothing_is_foretold_while_a_model_loads():
    rates, clock = Rates(), Clock()
    walk(ONE, rates, clock)
    tracker = Tracker(ONE, rates, clock)
    tracker.begin()
    clock.now += 7.0
    standing = tracker.standing()
    assert (standing.stage, standing.done, standing.fraction) == ("loading", 0, 0.0)
    assert standing.seconds_left is None


def test_one_slow_pass_does_not_change_what_is_foretold():
    clock = Clock()
    tracker = Tracker([Part(10, 20, 1.0, 1.0)], Rates(), clock)
    tracker.begin()
    for step in range(10):
        clock.now += STEP
        tracker.report("sample", step + 1, 10)
    for done in range(10):
        clock.now += 40 * PASS if done == 1 else PASS  # the machine did something else
        tracker.report("decode", done + 1, 20)
    assert tracker.standing().seconds_left == pytest.approx(10 * PASS)
