import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance

import cases_fairness  # noqa: F401 - sets the profile of hypothesis
from xai_lightning.functional.fairness.determination import determination
from xai_lightning.functional.fairness.distances import (
    coarseness,
    kolmogorov,
    kolmogorov_to_overall,
    wasserstein,
)
from xai_lightning.functional.fairness.errors import (
    absolute_error,
    mean_prediction,
    mean_residual,
    root_squared_error,
    squared_error,
)
from xai_lightning.functional.fairness.floats import VALUE_BINS, value_bins, value_centres
from xai_lightning.functional.fairness.regression import Residuals, distribution, merge, residual_sums

STATISTICS = (mean_prediction, mean_residual, absolute_error, squared_error, root_squared_error)
FAR = pytest.mark.parametrize("mean", [0.0, 1.0, -1e4, 1e4])


def drawn(size: int = 3000, mean: float = 0.0, seed: int = 0, n_groups: int = 3) -> SimpleNamespace:
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, n_groups, (size,), generator=generator)
    targets = mean + groups + torch.randn(size, generator=generator, dtype=torch.float64)
    predictions = targets + 0.2 * groups + 0.5 * torch.randn(size, generator=generator, dtype=torch.float64)
    return SimpleNamespace(predictions=predictions, targets=targets, groups=groups)


def summed(rows: SimpleNamespace, n_groups: int = 3, **options) -> Residuals:
    return residual_sums(rows.predictions, rows.targets, rows.groups, n_groups=n_groups, **options)


def part(rows: SimpleNamespace, keep) -> SimpleNamespace:
    return SimpleNamespace(**{name: column[keep] for name, column in vars(rows).items()})


def alone(predictions, targets) -> Residuals:
    return residual_sums(predictions, targets, torch.zeros(len(targets)).long(), n_groups=1)


def close(a: Residuals, b: Residuals, tolerance: float = 1e-6) -> bool:
    found = [(statistic(a), statistic(b)) for statistic in STATISTICS]
    found.append((determination(a, 0.05), determination(b, 0.05)))
    return all(torch.allclose(x, y, rtol=tolerance, atol=0) for left, right in found for x, y in zip(left, right))  # noqa: B905


@FAR
def test_means_and_variances_equal_their_slow_twins(mean):
    rows = drawn(mean=mean)
    sums = summed(rows)
    for group in range(3):
        mine = part(rows, rows.groups == group)
        residual = mine.targets - mine.predictions
        slow = [mine.predictions, residual, residual.abs(), residual.square()]
        for statistic, values in zip(STATISTICS[:4], slow, strict=True):
            found = statistic(sums)
            assert found.value[group].item() == pytest.approx(values.mean().item(), rel=1e-9)
            assert found.variance[group].item() == pytest.approx(values.var().item(), rel=1e-6)
            assert found.number[group].item() == len(values)
        root = residual.square().mean().sqrt()
        assert root_squared_error(sums).value[group].item() == pytest.approx(root.item(), rel=1e-9)


@FAR
def test_what_is_far_off_has_the_variance_that_it_has(mean):
    """Predictions of 0 for targets at 1e4: squared errors of 1e8, whose spread is 4e8."""
    rows = drawn(mean=mean)
    residual = rows.targets
    sums = alone(torch.zeros_like(residual), residual)
    assert mean_residual(sums).variance.item() == pytest.approx(residual.var().item(), rel=1e-6)
    assert absolute_error(sums).variance.item() == pytest.approx(residual.abs().var().item(), rel=1e-6)
    assert squared_error(sums).variance.item() == pytest.approx(residual.square().var().item(), rel=1e-6)


@FAR
@pytest.mark.parametrize("parts", [3, 300])
def test_sums_of_any_split_in_any_order_agree(mean, parts):
    rows = drawn(mean=mean)
    whole, order = summed(rows), torch.randperm(3000, generator=torch.Generator().manual_seed(1))
    merged = summed(part(rows, order[:0]))
    for i in range(parts):
        merged = merge(summed(part(rows, order[i::parts])), merged)
    assert close(merged, whole)
    assert all(torch.equal(a, b) for a, b in zip(merged, whole, strict=True) if a.dtype == torch.int64)


def test_sums_that_are_added_to_in_place_are_those_of_all():
    rows = drawn()
    sums = summed(part(rows, slice(0, 1000)))
    again = summed(part(rows, slice(1000, 3000)), into=sums)
    assert again is sums
    assert close(sums, summed(rows))


def test_a_refused_batch_leaves_the_sums_as_they_were():
    rows = drawn(100)
    sums = summed(rows)
    before = [field.clone() for field in sums]
    rows.predictions[3] = math.nan
    with pytest.raises(ValueError, match="predictions must be finite, got nan"):
        summed(rows, into=sums)
    assert all(torch.equal(a, b) for a, b in zip(sums, before, strict=True))


def test_the_origin_changes_the_bins_and_nothing_else():
    rows = drawn(mean=1e4)
    plain, moved = summed(rows), summed(rows, origin=1e4)
    assert torch.allclose(mean_prediction(moved, origin=1e4).value, mean_prediction(plain).value, rtol=1e-12)
    assert torch.allclose(squared_error(moved).variance, squared_error(plain).variance, rtol=1e-6)
    assert torch.allclose(determination(moved, 0.05).bound, determination(plain, 0.05).bound, rtol=1e-6)
    coarse, fine = (coarseness(distribution(sums, "predictions")) for sums in (plain, moved))
    assert coarse.min() > 0.9
    assert fine.max() < 0.03


@pytest.mark.parametrize("of", ["predictions", "residuals"])
def test_distances_equal_their_peers_within_the_resolution(of):
    rows = drawn()
    values = rows.predictions if of == "predictions" else rows.targets - rows.predictions
    found = distribution(summed(rows), of)
    coarse = coarseness(found)
    for a in range(3):
        mine = values[rows.groups == a]
        overall = kolmogorov_to_overall(found)[a].item()
        assert overall == pytest.approx(ks_2samp(mine, values).statistic, abs=coarse.max().item())
        for b in range(3):
            other = values[rows.groups == b]
            exact, smirnov = ks_2samp(mine, other).statistic, kolmogorov(found)[a, b].item()
            assert smirnov - 1e-12 <= exact <= smirnov + max(coarse[a], coarse[b]) + 1e-12
            size = (mine.abs().mean() + other.abs().mean()).item() / 64
            assert wasserstein(found)[a, b].item() == pytest.approx(wasserstein_distance(mine, other), abs=size)


def test_distances_of_few_values_are_exact():
    predictions = torch.tensor([0.0, 1, 3, 5, 6, 8])
    found = distribution(
        residual_sums(predictions, torch.zeros(6), torch.tensor([0, 0, 0, 1, 1, 1]), n_groups=2), "predictions"
    )
    assert found.positions.tolist() == predictions.tolist()
    assert wasserstein(found)[0, 1] == 5
    assert kolmogorov(found)[0, 1] == 1
    assert kolmogorov_to_overall(found).tolist() == [0.5, 0.5]


def test_replicates_of_a_distribution_are_computed_at_once_as_one_by_one():
    found = distribution(summed(drawn()), "predictions")
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.poisson(found.numbers.double(), generator) for _ in range(3)])
    for statistic in (kolmogorov, kolmogorov_to_overall, wasserstein, coarseness):
        one_by_one = torch.stack([statistic(found._replace(numbers=draw)) for draw in draws])
        assert torch.allclose(statistic(found._replace(numbers=draws)), one_by_one, rtol=0, atol=1e-12)


def test_bins_are_ordered_and_their_middles_lie_within_them():
    values = torch.cat([-torch.logspace(30, -44, 4000), torch.zeros(1), torch.logspace(-44, 30, 4000)]).double()
    bins = value_bins(values)
    assert (bins.diff() >= 0).all()
    assert torch.equal(value_bins(value_centres()[64:-64]), torch.arange(VALUE_BINS)[64:-64])
    normal = values.abs() > 1e-37
    away = (values - value_centres()[bins]).abs()
    assert (away[normal] <= values[normal].abs() / 128 + 1e-45).all()
    assert value_bins(torch.tensor([-1e300, 1e300, -1e-300], dtype=torch.float64)).tolist() == [64, 32703, 16384]


def test_equal_values_share_a_bin_whatever_the_sign_of_zero():
    found = distribution(
        residual_sums(torch.tensor([-0.0, 0.0]), torch.zeros(2), torch.tensor([0, 1]), n_groups=2), "predictions"
    )
    assert kolmogorov(found).tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.int64, torch.uint8])
def test_numbers_of_any_precision_are_widened_first(dtype):
    values = torch.tensor([1, 2, 4, 250], dtype=dtype)
    sums = alone(values, torch.zeros(4, dtype=dtype))
    assert mean_residual(sums).value.item() == -257 / 4
    assert sums.fourth_powers.item() == 1 + 16 + 256 + 250**4


@FAR
def test_the_explained_share_equals_its_slow_twin(mean):
    rows = drawn(mean=mean)
    residual, spread = (rows.targets - rows.predictions).square(), (rows.targets - rows.targets.mean()).square()
    found = determination(summed(rows), error=0.05)
    assert found.value.item() == pytest.approx(1 - (residual.sum() / spread.sum()).item(), rel=1e-9)

    def score(limit: float) -> float:
        """Studentised mean of the paired differences, were the explained share ``limit``."""
        difference = (1 - limit) * spread - residual
        return (difference.mean() / (difference.var() / len(difference)).sqrt()).item()

    assert score(found.bound.item()) == pytest.approx(1.6448536, rel=1e-5)


@pytest.mark.parametrize("size", [30, 100, 1000])
@pytest.mark.parametrize("slope", [0.5, 0.9])
@pytest.mark.slow
def test_the_limit_of_the_explained_share_fails_as_often_as_it_says(size, slope):
    """With slope .5 and this noise the predictions are exactly as good as the mean of the targets."""
    share, noise = {0.5: (0.0, 0.75), 0.9: (0.9, 0.09)}[slope]
    failed, repeats = 0, 400
    generator = torch.Generator().manual_seed(size)
    for _ in range(repeats):
        targets, errors = torch.randn(2, size, generator=generator, dtype=torch.float64)
        bound = determination(alone(slope * targets + math.sqrt(noise) * errors + 1e4, targets + 1e4), 0.05).bound
        failed += int(bound > share)
    assert 0.015 < failed / repeats < 0.085


def test_a_constant_prediction_is_no_better_than_the_mean():
    targets = drawn().targets
    found = determination(alone(torch.full_like(targets, targets.mean()), targets), 0.05)
    assert found.value.item() == pytest.approx(0, abs=1e-12)
    assert found.bound <= 1e-12


def test_the_explained_share_of_equal_targets_is_undefined():
    for value in (0.0, 3.3, 1e4):
        found = determination(alone(torch.randn(50), torch.full((50,), value)), 0.05)
        assert found.value.isnan()
        assert found.bound.isnan()
    nearly = 1e4 + 1e-5 * drawn(50).targets
    assert determination(alone(nearly, nearly), 0.05).value.isnan()
    assert determination(alone(torch.zeros(0), torch.zeros(0)), 0.05).value.isnan()
    assert determination(alone(torch.zeros(1), torch.ones(1)), 0.05).bound.isnan()


def test_without_error_to_spend_nothing_is_shown():
    assert determination(summed(drawn()), 0.0).bound == -math.inf
    rare = torch.tensor([0.0] * 9 + [1])
    assert determination(alone(rare + 0.1, rare), 0.05).bound == -math.inf
    with pytest.raises(ValueError, match=r"error must lie in \[0, 0.5\), got 0.5"):
        determination(summed(drawn()), 0.5)


def test_groups_without_samples_are_undefined_and_change_nothing_for_the_others():
    rows = drawn(100)
    three, four = summed(rows), summed(rows, n_groups=4)
    for statistic in STATISTICS:
        for a, b in zip(statistic(three)[:2], statistic(four)[:2], strict=True):
            assert torch.equal(a, b[:3])
            assert b[3].isnan()
    assert kolmogorov(distribution(four, "residuals"))[3].isnan().all()
    assert kolmogorov_to_overall(distribution(four, "predictions")).isnan().tolist() == [False] * 3 + [True]


def test_exact_predictions_have_no_error_and_no_variance():
    sums = alone(torch.arange(5.0), torch.arange(5.0))
    for statistic in (mean_residual, absolute_error, squared_error, root_squared_error):
        found = statistic(sums)
        assert (found.value.item(), found.variance.item()) == (0, 0)
    single = alone(torch.ones(1), torch.ones(1))
    assert root_squared_error(single).variance.isnan().all()


@given(st.sampled_from([math.nan, math.inf, -math.inf]), st.sampled_from(["predictions", "targets"]))
def test_what_is_not_finite_is_refused_and_shown(wrong, column):
    rows = drawn(10)
    getattr(rows, column)[4] = wrong
    with pytest.raises(ValueError, match=f"{column} must be finite, got {wrong}"):
        summed(rows)


def test_what_cannot_be_added_up_is_refused():
    rows = drawn(10)
    with pytest.raises(ValueError, match="origin must be finite, got nan"):
        summed(rows, origin=math.nan)
    with pytest.raises(ValueError, match=r"groups must lie in 0..0, got 2"):
        summed(rows, n_groups=1)
    with pytest.raises(ValueError, match=r"same shape, got .*'groups': \[9\]"):
        residual_sums(rows.predictions, rows.targets, rows.groups[1:], n_groups=3)
    with pytest.raises(ValueError, match="same number of groups, got 3 and 4"):
        merge(summed(rows), summed(rows, n_groups=4))
    with pytest.raises(ValueError, match="into must be sums of 4 groups, got 3"):
        summed(rows, n_groups=4, into=summed(rows))
    with pytest.raises(ValueError, match=r"of must be .* got 'targets'"):
        distribution(summed(rows), "targets")
