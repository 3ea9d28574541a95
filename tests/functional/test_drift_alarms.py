"""When the alarm of drift rings: rates by simulation, against a slow twin, and across a checkpoint."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

import references_drift as slow
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.functional import drift
from xai_lightning.functional.drift.forecast import score
from xai_lightning.functional.student import student

NOISE = 0.3


@pytest.mark.parametrize("freedom", [1, 2, 3, 6, 7, 8, 9, 18, 19])
def test_students_distribution_agrees_with_scipy(freedom: int) -> None:
    for t in (-30.0, -2.5, -0.1, 0.0, 0.4, 3.0, 12.0):
        assert student(t, freedom) == pytest.approx(stats.t.cdf(t, freedom), abs=1e-13)


def courses(runs: int, length: int, *, carried: float = 0.0, seed: int = 0) -> np.ndarray:
    """Log drift float64[R, T]: noise of which each value correlates with the one before."""
    fresh = np.random.default_rng(seed).standard_normal((runs, length))
    found = fresh.copy()
    for t in range(1, length):
        found[:, t] = carried * found[:, t - 1] + math.sqrt(1 - carried**2) * fresh[:, t]
    return NOISE * found


def alarms(course: np.ndarray, steps: int = 1) -> list[int]:
    state, found = drift.Cusum(), []
    for i, value in enumerate(course.tolist(), start=1):
        state = drift.advance(state, math.exp(value), steps)
        found += [i] if state.alarm else []
    return found


def share_found(at: int, along: Callable[..., Any] = np.zeros_like, **options: float) -> float:
    """Of 250 runs in which drift jumps sixfold at ``at``, the share that rings within three validations."""
    jumped = courses(250, at + 2, **options) + along(np.arange(1.0, at + 3))  # type: ignore[arg-type]
    jumped[:, at - 1 :] += math.log(6)
    return float(np.mean([any(ring >= at for ring in alarms(course)) for course in jumped]))


@pytest.mark.parametrize(("carried", "most"), [(0.0, 0.01), (0.3, 0.015), (0.6, 0.025), (0.8, 0.04)])
def test_the_alarm_rarely_rings_for_noise_also_where_values_resemble_the_one_before(
    carried: float, most: float
) -> None:
    """Within 50 validations. A mean of ten with values taken for independent rang in 1, 8, 38 and 70 % of runs."""
    assert np.mean([bool(alarms(course)) for course in courses(400, 50, carried=carried)]) <= most


@pytest.mark.parametrize("carried", [0.0, 0.6])
def test_the_alarm_rarely_rings_on_falling_curves(carried: float) -> None:
    t = np.arange(1, 51)
    falls = (-0.02 * t, -0.1 * t, -np.log(t), -2 * np.log(t))
    for curve in (*falls, np.log(np.exp(-0.1 * t) + 0.05), np.log(1 / t + 0.05)):
        assert np.mean([bool(alarms(curve + course)) for course in courses(80, 50, carried=carried)]) <= 0.01


@pytest.mark.parametrize(
    ("at", "carried", "least"), [(20, 0.0, 0.75), (35, 0.0, 0.78), (20, 0.6, 0.82), (35, 0.6, 0.85)]
)
def test_a_sixfold_jump_rings_within_three_validations(at: int, carried: float, least: float) -> None:
    assert share_found(at, carried=carried) >= least


@pytest.mark.parametrize(
    ("curve", "carried", "least"),
    [
        (lambda t: np.log(1 / t + 0.05), 0.0, 0.33),
        (lambda t: np.log(1 / t + 0.05), 0.6, 0.7),
        (lambda t: -np.log(t), 0.0, 0.28),
        (lambda t: -np.log(t), 0.6, 0.65),
    ],
)
def test_a_jump_rings_while_drift_still_falls(curve: Callable[..., Any], carried: float, least: float) -> None:
    """At validation 20; against their mean, which is far above the last of them, 0 to 10 % of these jumps rang."""
    assert share_found(20, along=curve, carried=carried) >= least


@pytest.mark.parametrize(("second", "least"), [(47, 0.4), (56, 0.85)])
def test_a_second_jump_rings_too_as_the_first_is_not_among_what_is_expected(second: int, least: float) -> None:
    jumped = courses(300, second + 2, carried=0.6)
    jumped[:, 34:] += math.log(6)
    jumped[:, second - 1 :] += math.log(6)
    assert np.mean([any(ring >= second for ring in alarms(course)) for course in jumped]) >= least


@pytest.mark.parametrize("carried", [0.0, 0.6, 0.95])
@pytest.mark.parametrize("slope", [-2.0, -0.5, 0.0, 1.0])
def test_scores_are_those_of_a_slow_twin(carried: float, slope: float) -> None:
    moments = np.cumsum(np.random.default_rng(1).integers(1, 9, 21))
    for course in courses(4, 21, carried=carried) + slope * np.log(moments):
        for first in (0, 7, 12, 17):
            recent, value, when = course[first:-1].tolist(), float(course[-1]), moments[first:].tolist()
            assert score(value, recent, when) == pytest.approx(slow.score(value, recent, when), abs=1e-9)


def test_scores_do_not_depend_on_units_and_are_normal_where_nothing_changes() -> None:
    course = courses(1, 21)[0]
    recent, value = course[:-1].tolist(), float(course[-1])
    when = range(1, 22)
    other = score(5 * value - 3, [5 * each - 3 for each in recent], [7 * each for each in when])
    assert other == pytest.approx(score(value, recent, when), abs=1e-9)
    scores = [score(float(each[-1]), each[:-1].tolist(), when) for each in courses(2000, 21, carried=0.6)]
    assert abs(np.mean(scores)) < 0.06
    assert np.std(scores) == pytest.approx(1, abs=0.06)


def test_values_that_do_not_vary_have_a_least_deviation() -> None:
    when = range(1, 14)
    assert score(2.0, [2.0] * 12, when) == pytest.approx(0, abs=1e-9)
    assert score(3.0, [2.0] * 12, when) == pytest.approx(8.2, abs=0.1)
    assert math.isfinite(score(1e300, [2.0] * 12, when))


def test_what_falls_as_before_is_as_predicted_and_six_deviations_above_is_not() -> None:
    when = np.arange(1.0, 22)
    for curve in (-np.log(when), when**-0.5, 1 / when):
        noisy = 2 * curve + 0.05 * np.random.default_rng(2).standard_normal(21)
        value, recent = float(noisy[-1]), noisy[:-1].tolist()
        assert abs(score(value, recent, when.tolist())) < 1.5
        assert score(value + 0.3, recent, when.tolist()) > 3


def test_the_alarm_begins_anew_and_leaves_out_what_is_no_drift() -> None:
    state = drift.Cusum()
    for value in np.exp(courses(1, 25)[0]).tolist():
        state = drift.advance(state, value, 5)
    assert len(state.recent) == 20
    skipped = drift.advance(drift.advance(state, 0.0, 5), math.nan, 5)
    assert skipped.recent == state.recent
    assert (state.passed, skipped.passed, state.moments) == (125, 135, tuple(range(30, 130, 5)))
    assert not skipped.alarm
    rung = drift.advance(skipped, 1e9, 5)
    assert rung.alarm
    assert rung.score > 5
    assert rung._replace(alarm=False, score=0.0) == drift.Cusum(score=0.0, passed=140)
    assert drift.advance(drift.Cusum(), 0.5, 4).recent == (math.log(0.25),)


# --- across a checkpoint


def follow(course: Course, values: list[float], first: int) -> list[float]:
    """What the alarm cumulated after each of the mean drifts ``values``."""
    found = []
    for i, value in enumerate(values, start=first):
        distances = torch.full((20,), value)
        course.follow(distances, distances, i, 0)
        course.step = i
        found.append(course.cusum.statistic)
    return found


def test_an_alarm_that_goes_on_from_a_checkpoint_cumulates_the_same() -> None:
    values = np.exp(courses(1, 30, carried=0.6, seed=3)[0]).tolist()
    whole = Course()
    expected = follow(whole, values, 1)
    for cut in range(1, 30):
        begun = Course()
        follow(begun, values[:cut], 1)
        resumed = Course.of(begun.state())
        assert follow(resumed, values[cut:], cut + 1) == expected[cut:]
        assert resumed.cusum == whole.cusum


def test_steps_of_a_further_trainer_which_counts_from_zero_are_its_own() -> None:
    course = Course()
    for step in (100, 200, 100, 200):
        follow(course, [0.1], step)
    assert course.cusum.recent == pytest.approx([math.log(0.01)] * 4)
    assert course.cusum.moments == (100, 200, 300, 400)


@pytest.mark.parametrize("what", ["statistic", "excess"])
def test_what_earlier_rules_cumulated_is_not_taken_up(what: str) -> None:
    """They kept no moments; the first counted up to 5, and would ring at once."""
    found = Course.of({**Course().state(), "cusum": [-1.0] * 10, what: 4.9}).cusum
    assert found == drift.Cusum()._replace(score=found.score)
