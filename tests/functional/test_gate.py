import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_lightning.functional.gate import Limit, decide, limits

GAP = "fairness/sex/demographic_parity_difference/bound"
finite = st.floats(-1e6, 1e6)


def one(kind: str, threshold: float, metric: float | None, *, fresh: bool = True):
    metrics = {} if metric is None else {"m": metric}
    return decide([Limit("m", kind, threshold)], metrics, {"m"} if fresh else set())


@pytest.mark.parametrize(
    ("kind", "metric", "is_open"),
    [
        ("at_most", 0.25, True),
        ("at_most", 0.5, True),
        ("at_most", 0.75, False),
        ("at_least", 0.25, False),
        ("at_least", 0.5, True),
        ("at_least", 0.75, True),
        ("above", 0.25, False),
        ("above", 0.5, False),
        ("above", 0.75, True),
    ],
)
def test_each_kind_of_limit_holds_on_its_side_and_only_the_strict_one_refuses_a_tie(kind, metric, is_open):
    """Trap 86: direction and definition."""
    assert one(kind, 0.5, metric).open == is_open


@pytest.mark.parametrize(
    ("metric", "fresh", "word"),
    [
        (None, True, "missing"),
        (None, False, "missing"),
        (0.1, False, "stale"),
        (math.nan, True, "NaN"),
        (math.inf, True, "inf"),
        (-math.inf, True, "-inf"),
    ],
)
@pytest.mark.parametrize("kind", ["at_most", "at_least", "above"])
def test_what_is_missing_stale_or_not_finite_closes_the_gate_and_is_called_so(kind, metric, fresh, word):
    """Trap 79: what is undefined must not pass, whichever side of the threshold it would fall on."""
    verdict = one(kind, 0.5, metric, fresh=fresh)
    assert not verdict.open
    assert verdict.reason.startswith(f"m is {word}")
    assert verdict.violation == math.inf


def test_the_reason_says_what_was_exceeded_and_by_how_much():
    verdict = decide(limits(at_most={GAP: 0.10}), {GAP: 0.1234}, {GAP})
    assert verdict.reason == f"{GAP} 0.1234 exceeds 0.1 by 0.0234"
    assert verdict.violation == pytest.approx(0.0234)


def test_the_reason_names_every_limit_that_does_not_hold_and_no_other():
    gate = (*limits({"a": 1.0, "b": 1.0}, {"c": 1.0}), Limit("d", "above", 1.0))
    verdict = decide(gate, {"a": 3.0, "b": 0.5, "d": 0.75}, {"a", "b", "d"})
    assert verdict.reason == (
        "a 3 exceeds 1 by 2; c is missing: it was never logged; d 0.75 must be above 1, short by 0.25"
    )
    assert [check.passed for check in verdict.checks] == [False, True, False, False]


@pytest.mark.parametrize(("number", "reason"), [(1, "the only limit holds"), (3, "all 3 limits hold")])
def test_an_open_gate_says_how_many_limits_hold(number, reason):
    names = "abc"[:number]
    verdict = decide(limits(dict.fromkeys(names, 1.0)), dict.fromkeys(names, 0.5), set(names))
    assert verdict == (True, verdict.checks, reason)


def test_a_check_keeps_what_it_was_made_of():
    check = one("at_least", 0.8, 0.75).checks[0]
    assert check[:5] == ("m", "at_least", 0.8, 0.75, False)
    assert check.reason == "m 0.75 falls short of 0.8 by 0.05"
    assert one("at_least", 0.8, None).checks[0].value is None
    assert one("at_least", 0.8, 0.9).checks[0].reason == "m 0.9 is at least 0.8"


@given(st.lists(st.tuples(st.sampled_from(["at_most", "at_least", "above"]), finite, finite), min_size=1, max_size=5))
def test_the_gate_is_open_exactly_when_nothing_is_violated(rows):
    gate = [Limit(str(i), kind, threshold) for i, (kind, threshold, _) in enumerate(rows)]
    metrics = {str(i): metric for i, (_, _, metric) in enumerate(rows)}
    verdict = decide(gate, metrics, metrics)
    holds = {"at_most": float.__le__, "at_least": float.__ge__, "above": float.__gt__}
    passed = [holds[kind](metric, threshold) for kind, threshold, metric in rows]
    assert [check.passed for check in verdict.checks] == passed
    assert verdict.open == all(passed) == (verdict.violation == 0)
    assert verdict.violation == max(check.violation for check in verdict.checks)


def test_other_metrics_do_not_matter():
    assert decide(limits({"a": 1.0}), {"a": 0.5, "z": math.nan}, {"a"}).open


def test_limits_keep_their_order_and_kind():
    assert limits({"b": 1, "a": 2.5}, {"c": -1}) == (
        Limit("b", "at_most", 1.0),
        Limit("a", "at_most", 2.5),
        Limit("c", "at_least", -1.0),
    )


def test_a_band_is_two_limits_of_one_name():
    assert len(limits({"a": 2.0}, {"a": 2.0})) == 2
    with pytest.raises(ValueError, match=r"at_least\['a'\] must not exceed at_most\['a'\], got 3 and 2"):
        limits({"a": 2.0}, {"a": 3.0})


@pytest.mark.parametrize("arguments", [(), ({},), ({}, {}), (None, {})])
def test_a_gate_without_limits_is_refused(arguments):
    with pytest.raises(ValueError, match="a gate without limits"):
        limits(*arguments)


def test_no_decision_is_made_without_limits():
    with pytest.raises(ValueError, match=r"at least one limit, got \(\)"):
        decide((), {"a": 1.0}, {"a"})


@pytest.mark.parametrize(
    ("at_most", "error", "shown"),
    [
        ({"a": True}, TypeError, r"at_most\['a'\] must be a real number, got True"),
        ({"a": "0.1"}, TypeError, r"at_most\['a'\] must be a real number, got '0.1'"),
        ({"a": None}, TypeError, "got None"),
        ({"a": math.nan}, ValueError, r"at_most\['a'\] must be finite, got nan"),
        ({"a": -math.inf}, ValueError, "got -inf"),
        ({3: 0.1}, TypeError, "names of metrics, got 3"),
        ({" ": 0.1}, ValueError, "empty name ' '"),
        ([("a", 0.1)], TypeError, r"at_most must map .* got \[\('a', 0.1\)\]"),
    ],
)
def test_limits_that_make_no_sense_are_refused_and_shown(at_most, error, shown):
    with pytest.raises(error, match=shown):
        limits(at_most)


@pytest.mark.parametrize(
    ("kind", "threshold", "metric", "relative"),
    [
        ("at_most", 0.1, 0.15, 0.5),
        ("at_most", 0.1, 0.05, 0.0),
        ("at_least", 0.8, 0.6, 0.25),
        ("at_most", -2.0, -1.0, 0.5),
        ("at_most", 0.0, 0.3, 0.3),
        ("above", 0.5, 0.25, 0.5),
        ("at_most", 0.1, None, math.inf),
        ("finite", math.nan, math.nan, math.inf),
        ("finite", math.nan, 1.0, 0.0),
    ],
)
def test_a_relative_violation_is_in_parts_of_the_threshold(kind, threshold, metric, relative):
    assert one(kind, threshold, metric).relative == pytest.approx(relative)


def test_the_largest_relative_violation_is_not_that_of_the_largest_one():
    verdict = decide(limits({"a": 100.0, "b": 0.1}), {"a": 150.0, "b": 0.3}, {"a", "b"})
    assert (verdict.violation, verdict.relative) == (50.0, pytest.approx(2.0))
