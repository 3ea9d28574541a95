import math

import pytest

from cases_fairness import COMPAS, COUNTED, OF_RATES, made_of
from xai_lightning.functional.fairness import (
    METRICS,
    Metric,
    estimate,
    undefined,
)
from xai_lightning.functional.gate import Limit, decide

EVERYBODY = ["demographic_parity_ratio", "equalized_odds_difference", "worst_group_accuracy"]


@pytest.mark.parametrize(
    ("counts", "names", "missing"),
    [
        (made_of([9, 0], [5, 5], [1, 0], [5, 5]), ["equalized_odds_difference", "equal_opportunity_difference"], 1),
        (made_of([9, 9], [0, 5], [1, 1], [0, 5]), ["equalized_odds_difference"], 1),
        (made_of([9, 0], [5, 0], [1, 0], [5, 0]), EVERYBODY, 4),
    ],
    ids=["no positives", "no negatives", "no members"],
)
@pytest.mark.parametrize("error", [0.05, 0])
def test_a_group_without_evidence_makes_the_metric_undefined_and_closes_the_gate(counts, names, missing, error):
    """Trap 79: 0/0 becomes 0, or vanishes."""
    for name in names:
        parts = [part.item() for part in estimate(METRICS[name], counts, error=error)]
        assert all(map(math.isnan, parts)), name
        assert not decide([Limit("bound", "at_most", 1.0)], {"bound": parts[-1]}, {"bound"}).open
    assert undefined(counts, names) == missing


def test_a_ratio_of_nobody_to_nobody_is_undefined_and_the_difference_is_not():
    """Trap 79: nobody selected in any group."""
    counts = made_of([0, 0], [0, 0], [10, 20], [30, 40])
    assert all(part.isnan() for part in estimate(METRICS["demographic_parity_ratio"], counts, error=0.05))
    gap = estimate(METRICS["demographic_parity_difference"], counts, error=0.05)
    assert gap.value == 0
    assert gap.bound > 0


def test_a_ratio_is_zero_where_some_groups_get_nothing_and_one_does_not():
    counts = made_of([0, 0, 5], [0, 0, 5], [10, 20, 5], [30, 40, 5])
    parts = estimate(METRICS["demographic_parity_ratio"], counts, error=0.05)
    assert [part.item() for part in (parts.value, parts.lower, parts.bound)] == [0, 0, 0]
    assert 0 < parts.upper < 1


OF_GROUPS = ("between_group_generalized_entropy", "differential_fairness")


def test_a_single_group_has_no_gap_but_a_worst_accuracy():
    counts = made_of([9], [1], [1], [9])
    for name in COUNTED:
        parts = estimate(METRICS[name], counts, error=0.05, replicates=99)
        alone = METRICS[name].how.groups == 1 and name not in OF_GROUPS
        assert all(part.isnan() != alone for part in parts), name


@pytest.mark.parametrize("name", OF_RATES)
def test_no_threshold_is_met_when_no_error_may_be_spent(name):
    parts = estimate(METRICS[name], COMPAS, error=0)
    assert parts.bound == (math.inf if METRICS[name].best == "low" else -math.inf)
    assert 0 <= parts.lower <= parts.value <= parts.upper <= 1


def test_rates_without_denominator_are_counted_once_however_many_metrics_use_them():
    counts = made_of([0, 0], [2, 0], [0, 3], [2, 0])
    assert undefined(counts, ["equalized_odds_difference"]) == 2
    assert undefined(counts, ["equalized_odds_difference", "equal_opportunity_difference"]) == 2
    assert undefined(counts, ["demographic_parity_ratio"]) == 0
    assert undefined(counts, []) == 0


def test_an_unknown_metric_is_refused():
    with pytest.raises(ValueError, match="got 'equity'"):
        undefined(COMPAS, ["equity"])


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        ({"rates": ("recall",)}, r"rates .* got \('recall',\)"),
        ({"rates": ()}, r"rates .* got \(\)"),
        ({"aggregation": "mean"}, "aggregation .* got 'mean'"),
        ({"best": "high"}, "best .* 'low' .* got 'high'"),
    ],
)
def test_a_metric_that_makes_no_sense_is_refused(changes, shown):
    good = {"rates": ("accuracy",), "aggregation": "difference", "ideal": 0.0, "best": "low", "hides": "Much."}
    with pytest.raises(ValueError, match=shown):
        Metric(**(good | changes))


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [({"error": 0.5}, "error .* got 0.5"), ({"error": -1}, "error .* got -1"), ({"error": 0.1, "level": 0}, "level")],
)
def test_an_impossible_level_is_refused(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        estimate(METRICS["accuracy_difference"], COMPAS, **arguments)
