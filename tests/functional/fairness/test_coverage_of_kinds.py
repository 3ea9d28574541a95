"""How often limits of means, rankings, calibration and comparisons with everybody fail, at 2, 5 and 10 groups."""

import math
from statistics import NormalDist

import pytest
import torch

from cases_fairness import made_of
from xai_lightning.functional.fairness import (
    METRICS,
    Scored,
    estimate,
    residual_sums,
    sample_size,
    score_counts,
    scored,
)
from xai_lightning.functional.fairness.groupwise import Averages, Excess

REPEATS = 1500
SPREAD = 3 * math.sqrt(0.05 * 0.95 / REPEATS)


def missed(name: str, bounds: torch.Tensor, true: float) -> float:
    worse = bounds < true - 1e-9 if METRICS[name].best == "low" else bounds > true + 1e-9
    return worse.double().mean().item()


def binomial(rates: list[float], sizes: list[int], seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    of = torch.tensor(rates).double().expand(REPEATS, -1)
    return torch.binomial(torch.tensor(sizes).double().expand(REPEATS, -1), of, generator=generator).long()


def steps(low: float, high: float, n_groups: int) -> list[float]:
    return [low + (high - low) * i / (n_groups - 1) for i in range(n_groups)]


def bound(name: str, of, error: float = 0.05) -> torch.Tensor:
    return estimate(METRICS[name], of, error=error).bound


n_groups_of = pytest.mark.parametrize("n_groups", [2, 5, 10])


@n_groups_of
@pytest.mark.parametrize("size", [40, 300])
def test_bounds_of_balanced_accuracy_and_of_ratios_to_everybody_fail_as_often_as_they_say(n_groups, size):
    tpr, fpr, sizes = steps(0.9, 0.6, n_groups), steps(0.2, 0.3, n_groups), [size] * n_groups
    tp, fp = binomial(tpr, sizes, 0), binomial(fpr, sizes, 1)
    counts = made_of(tp, fp, size - tp, size - fp)
    balanced = [(1 + t - f) / 2 for t, f in zip(tpr, fpr, strict=True)]
    selected = [(t + f) / 2 for t, f in zip(tpr, fpr, strict=True)]
    whole = sum(selected) / n_groups
    truth = {
        "balanced_accuracy_difference": max(balanced) - min(balanced),
        "worst_group_balanced_accuracy": min(balanced),
        "demographic_parity_ratio_to_overall": min(min(s / whole, whole / s) for s in selected),
        "demographic_parity_difference_to_overall": max(abs(s - whole) for s in selected),
    }
    for name, true in truth.items():
        assert missed(name, bound(name, counts), true) <= 0.05 + SPREAD, name


@n_groups_of
@pytest.mark.parametrize("size", [40, 160])
@pytest.mark.slow
def test_bounds_of_the_area_under_the_curve_fail_as_often_as_they_say(n_groups, size):
    means, repeats, block = steps(1.6, 0.6, n_groups), 600, 100
    aucs = [NormalDist().cdf(mean / math.sqrt(2)) for mean in means]
    generator, found = torch.Generator().manual_seed(0), {"auc_difference": [], "worst_group_auc": []}
    targets = (torch.arange(size) < size // 2).long().expand(block, n_groups, size)
    groups = torch.arange(block * n_groups).reshape(block, n_groups, 1).expand(-1, -1, size)
    for _ in range(repeats // block):
        noise = torch.randn(block, n_groups, size, generator=generator)
        scores = (noise + targets * torch.tensor(means)[:, None]).sigmoid()
        cells = score_counts(scores, targets, groups, n_groups=block * n_groups)
        of = Scored(*(part.reshape(block, n_groups, *part.shape[1:]) for part in scored(cells)))
        for name, bounds in found.items():
            bounds.append(bound(name, of))
    spread = 3 * math.sqrt(0.05 * 0.95 / repeats)
    assert missed("auc_difference", torch.cat(found["auc_difference"]), max(aucs) - min(aucs)) <= 0.05 + spread
    assert missed("worst_group_auc", torch.cat(found["worst_group_auc"]), min(aucs)) <= 0.05 + spread


def averages(draws: list[torch.Tensor]) -> Averages:
    """Groups with their own draws [REPEATS, n], as the sums of numbers would give them."""
    parts = [(draw.mean(1), draw.var(1), torch.full_like(draw[:, 0], draw.shape[1])) for draw in draws]
    return Averages(*(torch.stack(part, dim=1)[:, None].double() for part in zip(*parts, strict=True)))


def of_averages(name: str, of: Averages | Excess, error: float = 0.05) -> torch.Tensor:
    found = METRICS[name].how.limits(of, error, False)
    assert found is not None
    return found.upper if METRICS[name].best == "low" else found.lower


def test_averages_are_what_the_sums_give():
    """So that the simulations below speak of what is counted."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(2, 50, generator=generator, dtype=torch.float64)
    sums = residual_sums(torch.zeros(100), values.reshape(-1), torch.arange(100) // 50, n_groups=2)
    for name, of in (("mean_residual_difference", values), ("mean_absolute_error_difference", values.abs())):
        expected = of_averages(name, averages([row.expand(1, -1) for row in of]))
        assert bound(name, sums).item() == pytest.approx(expected.item(), rel=1e-9)


@n_groups_of
@pytest.mark.parametrize(("size", "skewed"), [(20, 0.15), (100, 0.1), (400, 0.065 + SPREAD)])
def test_bounds_of_means_fail_as_often_as_they_say_and_of_skewed_errors_more_often(n_groups, size, skewed):
    generator = torch.Generator().manual_seed(size)
    normal = [torch.randn(REPEATS, size, generator=generator) + mean for mean in steps(0, 0.3, n_groups)]
    for name in ("mean_residual_difference", "worst_group_mean_residual"):
        assert missed(name, of_averages(name, averages(normal)), 0.3) <= 0.05 + SPREAD, name
    scales = steps(1, 1.5, n_groups)
    errors_of = [-torch.rand(REPEATS, size, generator=generator).log() * scale for scale in scales]
    truth = {"mean_absolute_error_difference": 0.5, "mean_absolute_error_ratio": 2 / 3}
    truth["worst_group_mean_absolute_error"] = 1.5
    for name, true in truth.items():
        assert missed(name, of_averages(name, averages(errors_of)), true) <= skewed, name


def calibrated(scores: list[torch.Tensor], rates: list[torch.Tensor], seed: int = 0) -> Excess:
    generator, parts = torch.Generator().manual_seed(seed), []
    for score, true in zip(scores, rates, strict=True):
        hits = (torch.rand(true.shape, generator=generator) < true).double()
        off = score - hits
        parts.append((score.mean(1), hits.mean(1), off.var(1), score[:, 0] * 0 + score.shape[1]))
    return Excess(*(torch.stack(part, dim=1)[:, None].double() for part in zip(*parts, strict=True)))


@n_groups_of
@pytest.mark.parametrize("size", [20, 100, 400])
@pytest.mark.parametrize("concentration", [math.inf, 2.0, 0.4], ids=["equal scores", "spread", "sharp"])
@pytest.mark.slow
def test_bounds_of_calibration_in_the_large_fail_as_often_as_they_say(n_groups, size, concentration):
    torch.manual_seed(0)
    scores = [torch.full((REPEATS, size), 0.1) for _ in range(n_groups)]
    if concentration < math.inf:
        beta = torch.distributions.Beta(concentration * 0.1, concentration * 0.9)
        scores = [beta.sample((REPEATS, size)) for _ in range(n_groups)]
    shares = steps(1, 0.3, n_groups)
    of = calibrated(scores, [score * share for score, share in zip(scores, shares, strict=True)])
    for name in ("calibration_in_the_large", "calibration_in_the_large_difference"):
        assert missed(name, of_averages(name, of), 0.07) <= 0.05 + SPREAD, name


def test_a_group_without_a_positive_has_limits_though_its_errors_have_no_variance():
    """A tenth is positive and none of twenty came: equal errors would look certain."""
    scores, targets = torch.full((40,), 0.02), torch.zeros(40).long()
    of = scored(score_counts(scores, targets, torch.arange(40) // 20, n_groups=2))
    parts = estimate(METRICS["calibration_in_the_large"], of, error=0.05)
    square = NormalDist().inv_cdf(0.95) ** 2
    assert parts.value.item() == pytest.approx(0.02, abs=1e-3)
    assert parts.bound.item() == pytest.approx(0.02 + square / (20 + square), abs=1e-3)


@pytest.mark.parametrize("name", ["calibration_in_the_large", "calibration_in_the_large_difference"])
def test_with_the_needed_number_calibration_in_the_large_meets_its_limit_and_with_fewer_not(name):
    """Of groups that are alike: equal scores of which a quarter is positive."""

    def alike(size: int) -> Scored:
        scores = torch.full((2 * size,), 0.25)
        targets = (torch.arange(2 * size) % 4 == 0).long()
        return scored(score_counts(scores, targets, torch.arange(2 * size) // size, n_groups=2))

    needed = sample_size(METRICS[name], alike(40), 0.05, error=0.05).needed
    assert needed is not None
    assert not sample_size(METRICS[name], alike(40), 0.05, error=0.05).can_open
    # the variance of forty is estimated too large by a fortieth
    enough, less = 4 * math.ceil(needed / 4) + 4, 4 * math.floor(needed * 0.95 / 4)
    assert bound(name, alike(enough)) <= 0.05 < bound(name, alike(less))
