import math

import pytest
import torch

from cases_fairness import COMPAS, made_of
from xai_lightning.functional.fairness import METRICS, estimate, sample_size, score_counts, scored

PARITY = METRICS["demographic_parity_difference"]


def shared(rate: float, n: int = 100_000):
    hits = round(rate * n)
    return made_of([hits, hits], [0, 0], [n - hits, n - hits], [0, 0])


@pytest.mark.parametrize(
    ("threshold", "rate", "once", "fifty"),
    [
        (0.02, 0.05, 662, 2330),
        (0.02, 0.2, 2165, 7641),
        (0.02, 0.5, 3380, 11928),
        (0.05, 0.05, 120, 422),
        (0.05, 0.2, 346, 1222),
        (0.05, 0.5, 539, 1901),
        (0.1, 0.05, 39, 130),
        (0.1, 0.2, 87, 306),
        (0.1, 0.5, 133, 468),
        (0.2, 0.05, 15, 46),
        (0.2, 0.2, 22, 76),
        (0.2, 0.5, 32, 110),
    ],
)
def test_the_table_of_sample_sizes(threshold, rate, once, fifty):
    found = [sample_size(PARITY, shared(rate), threshold, error=error).needed for error in (0.05, 0.001)]
    assert found == [once, fifty]


@pytest.mark.parametrize("name", ["equalized_odds_difference", "demographic_parity_ratio", "worst_group_accuracy"])
@pytest.mark.parametrize("exact", [False, True])
def test_with_the_needed_number_the_bound_meets_the_threshold_and_with_one_less_not(name, exact):
    metric = METRICS[name]
    threshold = {"equalized_odds_difference": 0.1, "demographic_parity_ratio": 0.8, "worst_group_accuracy": 0.5}[name]
    half = made_of([600] * 2, [400] * 2, [400] * 2, [600] * 2)
    found = sample_size(metric, half, threshold, error=0.01, exact=exact)
    assert found.can_open
    assert found.needed <= found.smallest
    few = made_of([6] * 2, [4] * 2, [4] * 2, [6] * 2)
    report = sample_size(metric, few, threshold, error=0.01, exact=exact)
    assert not report.can_open
    assert report.needed == found.needed
    assert report.smallest == (10 if name == "equalized_odds_difference" else 20)


def test_the_report_names_the_group_and_rate_with_least_evidence():
    counts = made_of([500, 30], [100, 40], [200, 7], [900, 300])
    found = sample_size(METRICS["equalized_odds_difference"], counts, 0.1, error=0.05)
    assert (found.group, found.rate, found.smallest) == (1, 0, 37)
    assert not found.can_open


def test_a_group_without_a_denominator_can_open_nothing():
    counts = made_of([500, 0], [100, 40], [200, 0], [900, 300])
    found = sample_size(METRICS["equal_opportunity_difference"], counts, 0.1, error=0.05)
    assert (found.smallest, found.can_open) == (0, False)
    assert found.needed > 0


def test_nothing_can_open_when_nothing_may_be_spent_or_the_threshold_is_out_of_reach():
    assert sample_size(PARITY, COMPAS, 0.1, error=0)[3:] == (None, False)
    assert sample_size(METRICS["worst_group_accuracy"], COMPAS, 0.99, error=0.05)[3:] == (None, False)


def test_resampled_limits_cannot_be_foreseen():
    assert sample_size(METRICS["theil_index"], COMPAS, 0.1, error=0.05) is None


def test_the_need_of_a_mean_grows_with_the_inverse_square_of_the_threshold():
    generator = torch.Generator().manual_seed(0)
    scores = torch.rand(4000, generator=generator)
    targets = (torch.rand(4000, generator=generator) < scores).long()
    cells = scored(score_counts(scores, targets, torch.arange(4000) % 2, n_groups=2))
    metric = METRICS["calibration_in_the_large"]
    wide, narrow = (sample_size(metric, cells, t, error=0.05).needed for t in (0.1, 0.05))
    assert narrow / wide == pytest.approx(4, rel=0.1)
    sd = estimate(metric, cells, error=0.05)
    assert math.isfinite(sd.bound)
    assert wide == pytest.approx((1.645 * math.sqrt(1 / 6) / 0.1) ** 2, rel=0.1)
