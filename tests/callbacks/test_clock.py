"""Which validations are left out, in hours that pass at once."""

import itertools
import time
from typing import NamedTuple

import pytest

from xai_lightning.callbacks._attribution.clock import Clock
from xai_lightning.callbacks._stopwatch import Stopwatch

BETWEEN, COST = 10.0, 2.0
"""Seconds between two validations, and of one explanation."""


class Told(NamedTuple):
    """What was told of an explained validation."""

    number: int
    share: float
    left_out: float


class Night:
    """A training of which the time is counted by hand.

    Args:
        patch: what turns the clock.
    """

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.now = 1000.0
        patch.setattr(time, "perf_counter", lambda: self.now)

    def clock(self, most: float | None) -> tuple[Clock, Stopwatch]:
        watch = Stopwatch()
        watch.begin()
        return Clock(most, watch), watch

    def train(self, made: tuple[Clock, Stopwatch], first: int, last: int, cost: float = COST) -> list[Told]:
        """What is told of validations ``first`` to ``last``."""
        (clock, watch), told = made, []
        for number in range(first, last + 1):
            self.now += BETWEEN
            if clock.due(number):
                with watch:
                    self.now += cost
                clock.note(number, *clock.read())
                told.append(Told(number, *clock.told.values()))
        return told


@pytest.fixture
def night(monkeypatch: pytest.MonkeyPatch) -> Night:
    return Night(monkeypatch)


def planned(most: float, last: int) -> list[int]:
    """The first validation, and then each at which explaining and drawing twice more would still fit."""
    found, spent, total = [1], COST, BETWEEN + COST
    while True:
        coming = 2 * COST
        passed = next(k for k in itertools.count(1) if spent + coming <= most * (total + BETWEEN * k + coming) + 1e-9)
        if found[-1] + passed > last:
            return found
        found.append(found[-1] + passed)
        spent, total = spent + COST, total + BETWEEN * passed + COST


@pytest.mark.parametrize("most", [0.01, 0.05, 0.15, 0.9])
def test_as_many_validations_are_explained_as_fit_into_the_share(most: float, night: Night) -> None:
    """Law 7: after the first, the share that was taken never exceeds the one that was allowed."""
    made = night.clock(most)
    made[0].begin(0)
    told = night.train(made, 1, 400)
    assert [one.number for one in told] == planned(most, 400)
    assert all(one.share <= most for one in told[1:])
    assert [one.left_out for one in told] == [b - a - 1 for a, b in itertools.pairwise([0, *(t.number for t in told)])]


def test_without_a_share_every_validation_is_due_and_nothing_is_kept(night: Night) -> None:
    made = night.clock(None)
    made[0].begin(0)
    (clock, watch) = made
    for number in range(1, 20):
        night.now += BETWEEN
        assert clock.due(number)
        with watch:
            night.now += COST
        assert clock.read() == (COST, BETWEEN + COST)
        clock.note(number, *clock.read())
    assert (clock.state(), clock.told) == ([], {})


@pytest.mark.parametrize("stop", [1, 2, 17, 40, 41])
def test_a_resumed_run_goes_on_with_what_was_spent_and_the_time_in_between_does_not_count(
    stop: int, night: Night
) -> None:
    """Law 7: stopped after any validation, a left-out one too."""
    made = night.clock(0.05)
    made[0].begin(0)
    told = night.train(made, 1, stop)
    state = made[0].state()
    night.now += 12 * 3600
    resumed = night.clock(0.05)
    resumed[0].load(state)
    resumed[0].begin(stop)
    assert [one.number for one in [*told, *night.train(resumed, stop + 1, 400)]] == planned(0.05, 400)


def test_another_fit_begins_anew(night: Night) -> None:
    made = night.clock(0.05)
    made[0].begin(0)
    night.train(made, 1, 30)
    night.now += 12 * 3600
    made[0].begin(30)
    again = night.train(made, 31, 430)
    assert [one.number - 30 for one in again] == planned(0.05, 400)


def test_where_explaining_is_all_that_takes_time_it_is_done_once(night: Night) -> None:
    made = night.clock(1e-6)
    made[0].begin(0)
    night.now -= BETWEEN
    assert [one.number for one in night.train(made, 1, 1, cost=1e9)] == [1]
    assert not any(made[0].due(number) for number in (2, 1000, 2**31 - 1))
    assert made[0].due(2**31 + 1)
