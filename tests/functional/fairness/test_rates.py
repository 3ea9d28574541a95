import math

import pytest
import torch
from hypothesis import given

import references_fairness as slow
from cases_fairness import COMPAS, GUIDE, counted, samples, tallies, value
from xai_lightning.functional.fairness import (
    METRICS,
    RATES,
    Confusion,
    confusion,
    count,
    estimate,
    rate,
)


def test_the_published_rates_of_compas():
    expected = {
        "false_positive_rate": (0.448468, 0.234543),
        "false_negative_rate": (0.279853, 0.477226),
        "positive_predictive_value": (0.629715, 0.591335),
        "selection_rate": (0.588203, 0.348003),
        "accuracy": (0.638258, 0.669927),
    }
    for name, rates in expected.items():
        assert rate(name, COMPAS).tolist() == pytest.approx(rates, abs=1e-6), name


@given(samples(classes=2) | samples(classes=3))
def test_rates_equal_their_slow_twin(rows):
    classes = max(2, max(rows.predictions + rows.targets) + 1)
    squares = counted(rows, classes=classes)
    counts = confusion(squares, positive=1)
    for name, row in RATES.items():
        if classes > 2 and not row.per_class:
            continue
        twin = [slow.rates(name, square) for square in squares.tolist()]
        expected = [[s / n if n else math.nan for s, n in each] for each in zip(*twin, strict=True)]
        found = rate(name, counts)
        found = found if row.per_class else found[None]
        for values, right in zip(found.tolist(), expected, strict=True):
            assert values == pytest.approx(right, nan_ok=True), name


@given(tallies())
def test_the_identity_of_chouldechova_holds_in_every_group(counts):
    p = (counts.tp + counts.fn).double() / counts.total
    ppv, fnr = rate("positive_predictive_value", counts), rate("false_negative_rate", counts)
    usable = (counts.tp > 0) & (counts.fp + counts.tn > 0)
    right = p / (1 - p) * (1 - ppv) / ppv * (1 - fnr)
    assert torch.allclose(rate("false_positive_rate", counts)[usable], right[usable], rtol=0, atol=1e-12)


def test_exchanging_the_favourable_class_exchanges_the_meaning_of_the_rates():
    """Trap 85: threshold, positive class, multi-class."""
    squares = count(GUIDE.predictions, GUIDE.targets, GUIDE.groups, classes=2, n_groups=3)
    ones, zeros = confusion(squares, positive=1), confusion(squares, positive=0)
    assert torch.allclose(rate("selection_rate", zeros), 1 - rate("selection_rate", ones))
    assert torch.allclose(rate("true_positive_rate", zeros), 1 - rate("false_positive_rate", ones))
    assert torch.equal(rate("accuracy", zeros), rate("accuracy", ones))
    assert value("demographic_parity_difference", zeros) == pytest.approx(value("demographic_parity_difference", ones))


def test_an_unknown_rate_is_refused():
    with pytest.raises(ValueError, match="got 'precision'"):
        rate("precision", COMPAS)


@pytest.mark.parametrize("metric", ["multiclass_equalized_odds_difference", "balanced_accuracy_difference"])
def test_counts_of_one_class_alone_are_shown_to_whom_all_are_needed(metric):
    one = Confusion(*torch.tensor([[3, 1], [1, 2], [1, 0], [5, 8], [8, 9], [10, 11]]), positive=2)
    with pytest.raises(ValueError, match=r"needs counts of all classes, got those of class 2 .*confusion\(counts"):
        estimate(METRICS[metric], one, error=0.05)
