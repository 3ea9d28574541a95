"""Where fairlearn, AIF360 and torchmetrics say something else, it is shown what; AIF360 by its formulas."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from cases_fairness import made_of, value
from xai_lightning.functional.fairness import METRICS, Confusion, confusion, count, estimate
from xai_lightning.functional.fairness.inequality import generalized_entropy


def drawn(seed: int) -> SimpleNamespace:
    """Rows of three groups who are selected more and more often."""
    generator = torch.Generator().manual_seed(seed)
    groups, targets = (torch.randint(0, n, (600,), generator=generator) for n in (3, 2))
    chance = 0.2 + 0.4 * targets + 0.1 * groups
    return SimpleNamespace(
        targets=targets, predictions=(torch.rand(600, generator=generator) < chance).long(), groups=groups
    )


def counted(rows: SimpleNamespace) -> Confusion:
    return confusion(count(rows.predictions, rows.targets, rows.groups, classes=2, n_groups=3), positive=1)


@pytest.mark.filterwarnings("ignore::sklearn.exceptions.UndefinedMetricWarning")
@pytest.mark.parametrize(
    ("names", "cells"),
    [
        (("true_positive_rate", "false_negative_rate"), ([5, 0], [3, 4], [2, 0], [6, 5])),
        (("false_positive_rate", "true_negative_rate"), ([5, 4], [3, 0], [2, 5], [6, 0])),
    ],
    ids=["without positives", "without negatives"],
)
def test_fairlearn_says_0_of_both_complementary_rates_of_a_group_without_a_denominator_and_we_say_nothing(names, cells):
    """Trap 79: one of the two makes up a gap, the other hides what there may be."""
    fairlearn = pytest.importorskip("fairlearn.metrics")
    counts = made_of(*cells)
    columns = [
        (actual, predicted, group, int(counts.cells[group, actual, predicted]))
        for group in (0, 1)
        for actual in (0, 1)
        for predicted in (0, 1)
    ]
    targets, predictions, groups = (
        np.array([column[i] for column in columns for _ in range(column[3])]) for i in range(3)
    )
    for name in names:
        frame = fairlearn.MetricFrame(
            metrics=getattr(fairlearn, name), y_true=targets, y_pred=predictions, sensitive_features=groups
        )
        assert frame.by_group[1] == 0
        assert frame.difference() == frame.by_group[0]
        parts = estimate(METRICS[f"{name}_difference"], counts, error=0.05)
        assert all(part.isnan() for part in parts)


def average_odds(tpr: list[float], fpr: list[float]) -> float:
    """AIF360, as documented: half the sum of the signed differences, unprivileged less privileged."""
    return 0.5 * ((fpr[0] - fpr[1]) + (tpr[0] - tpr[1]))


def test_the_average_odds_of_aif360_cancel_where_our_mean_does_not():
    counts = made_of([40, 70], [50, 20], [60, 30], [50, 80])
    rates = [
        METRICS[f"{name}_rate_difference"].measure(counts).value[0] for name in ("true_positive", "false_positive")
    ]
    assert average_odds(*(rate.tolist() for rate in rates)) == pytest.approx(0)
    assert value("equalized_odds_difference_mean", counts) == pytest.approx(0.3)
    assert value("equalized_odds_difference", counts) == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_the_average_odds_of_aif360_are_ours_at_most(seed):
    counts = counted(drawn(3 * seed))
    two = confusion(counts.cells[:2], 1)
    rates = [METRICS[f"{name}_rate_difference"].measure(two).value[0] for name in ("true_positive", "false_positive")]
    tpr, fpr = (rate.tolist() for rate in rates)
    assert abs(average_odds(tpr, fpr)) <= value("equalized_odds_difference_mean", two) + 1e-12
    absolute = 0.5 * (abs(fpr[0] - fpr[1]) + abs(tpr[0] - tpr[1]))
    assert value("equalized_odds_difference_mean", two) == pytest.approx(absolute)


def test_aif360_divides_the_mean_log_deviation_by_the_mean_benefit_once_more():
    benefits = [1, 1, 1, 2, 2, 1]
    mean = sum(benefits) / len(benefits)
    documented = -sum(math.log(b / mean) for b in benefits) / len(benefits)
    coded = -sum(math.log(b / mean) / mean for b in benefits) / len(benefits)
    ours = generalized_entropy(made_of([0], [2], [0], [4]).cells, alpha=0).item()
    assert ours == pytest.approx(documented)
    assert (documented, coded) == pytest.approx((0.056633, 0.042475), abs=1e-6)


def test_the_disparate_impact_of_aif360_may_exceed_1_and_our_ratio_never():
    counts = made_of([60, 30], [0, 0], [40, 70], [0, 0])
    first, second = METRICS["demographic_parity_ratio"].measure(counts).value[0].tolist()
    assert first / second == pytest.approx(2)
    assert value("demographic_parity_ratio", counts) == pytest.approx(0.5)


def test_the_fairness_of_torchmetrics_is_the_ratio_under_a_name_that_the_data_make():
    """Trap 78: metric name depends on the data."""
    classification = pytest.importorskip("torchmetrics.functional.classification")
    for rows in (drawn(0), drawn(1)):
        found = classification.binary_fairness(rows.predictions, rows.targets, rows.groups, task="all")
        parity, chance = (
            [(key, float(theirs)) for key, theirs in found.items() if key.startswith(kind)] for kind in ("DP_", "EO_")
        )
        counts = counted(rows)
        for [(key, theirs)], name in ((parity, "demographic_parity_ratio"), (chance, "equal_opportunity_ratio")):
            rates = METRICS[name].measure(counts).value[0]
            assert theirs == pytest.approx(value(name, counts), abs=1e-6)
            assert key.split("_")[1:] == [str(int(rates.argmin())), str(int(rates.argmax()))]
