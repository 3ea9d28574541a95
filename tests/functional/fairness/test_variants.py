"""Exact limits, weights, several classes, strata, own metrics, and resampled limits."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from cases_fairness import COMPAS, OF_RATES, RESAMPLED, counted, made_of, metrics, samples, tallies, value
from xai_lightning.functional.fairness import (
    METRICS,
    Metric,
    confusion,
    count,
    estimate,
    has_exact_limits,
    is_resampled,
    weigh,
)
from xai_lightning.functional.fairness.resampling import resamples
from xai_lightning.functional.intervals import clopper_pearson

REPEATS = 4000


def drawn(rates: list[float], sizes: list[int], seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    p = torch.tensor(rates).double().expand(REPEATS, -1)
    return torch.binomial(torch.tensor(sizes).double().expand(REPEATS, -1), p, generator=generator).long()


def selected(rates: list[float], sizes: list[int], seed: int = 0):
    tp = drawn(rates, sizes, seed)
    fn = torch.tensor(sizes) - tp
    return made_of(tp, torch.zeros_like(tp), fn, torch.zeros_like(tp))


# --- exact


@pytest.mark.parametrize("rates", [[0.05, 0.15], [0.0, 0.1], [0.3, 0.3, 0.3, 0.4], [0.1] * 9 + [0.2]])
@pytest.mark.parametrize("size", [15, 60])
@pytest.mark.parametrize("error", [0.05, 0.005])
@pytest.mark.slow
def test_the_exact_bound_keeps_its_error_at_any_size_and_number_of_groups(rates, size, error):
    counts = selected(rates, [size] * len(rates))
    gap = estimate(METRICS["demographic_parity_difference"], counts, error=error, exact=True)
    allowed = error + 3 * math.sqrt(error / REPEATS)
    assert (gap.bound < max(rates) - min(rates)).double().mean() <= allowed
    if min(rates) > 0:
        ratio = estimate(METRICS["demographic_parity_ratio"], counts, error=error, exact=True)
        assert (ratio.bound > min(rates) / max(rates)).double().mean() <= allowed


@given(tallies(), metrics, st.sampled_from([0.05, 0.001]))
def test_exact_bounds_are_never_nearer_than_the_sample_and_hold_it(counts, name, error):
    metric = METRICS[name]
    found = estimate(metric, counts, error=error, exact=True)
    if not found.value.isnan():
        assert found.lower <= found.value <= found.upper
        assert found.bound >= found.value if metric.best == "low" else found.bound <= found.value


def test_the_exact_bound_of_a_gap_is_the_highest_upper_minus_the_lowest_lower_limit():
    counts = made_of([30, 10, 20], [0, 0, 0], [70, 90, 80], [0, 0, 0])
    limits = clopper_pearson(torch.tensor([30, 10, 20]), torch.tensor(100), 0.025)
    found = estimate(METRICS["demographic_parity_difference"], counts, error=0.05, exact=True)
    assert found.bound.item() == pytest.approx(float(limits.upper.max() - limits.lower.min()))


def test_a_metric_without_exact_limits_is_refused():
    assert not has_exact_limits(METRICS["theil_index"])
    with pytest.raises(ValueError, match="no exact limits"):
        estimate(METRICS["theil_index"], COMPAS, error=0.05, exact=True)
    assert all(has_exact_limits(METRICS[name]) for name in OF_RATES)


# --- weights


def weighed(rows, weights) -> torch.Tensor:
    columns = (torch.tensor(column) for column in (rows.predictions, rows.targets, rows.groups))
    return weigh(*columns, torch.tensor(weights), classes=2, n_groups=3)


def test_the_weighted_recalls_of_the_user_guide_of_fairlearn():
    from cases_fairness import GUIDE

    weights = torch.tensor([1, 2, 1, 3, 2, 3, 1, 2, 1, 2, 3, 1, 2, 3, 2, 3, 1, 1]).double()
    sums = weigh(GUIDE.predictions, GUIDE.targets, GUIDE.groups, weights, classes=2, n_groups=3)
    counts = confusion(sums[0], 1, sums[1])
    recalls = METRICS["equal_opportunity_difference"].measure(counts)
    assert recalls.value[0].tolist() == pytest.approx([0.5, 7 / 12, 0.25])
    assert recalls.pooled().value.item() == pytest.approx(0.4545455)
    assert value("equal_opportunity_difference", counts) == pytest.approx(7 / 12 - 0.25)


@given(samples(), metrics)
def test_equal_weights_are_the_plain_counts(rows, name):
    sums = weighed(rows, [2.0] * len(rows.groups))
    plain = estimate(METRICS[name], confusion(counted(rows), 1), error=0.01)
    heavy = estimate(METRICS[name], confusion(sums[0], 1, sums[1]), error=0.01)
    for a, b in zip(plain, heavy, strict=True):
        assert a.item() == pytest.approx(b.item(), abs=1e-9, nan_ok=True)


def test_unequal_weights_widen_the_limits_as_fewer_samples_would():
    predictions = torch.arange(400) % 2
    groups = (torch.arange(400) // 2) % 2
    weights = torch.ones(400).double()
    weights[::5] = 10
    sums = weigh(predictions, predictions, groups, weights, classes=2, n_groups=2)
    even = weigh(predictions, predictions, groups, torch.ones(400), classes=2, n_groups=2)
    gaps = [
        estimate(METRICS["demographic_parity_difference"], confusion(s[0], 1, s[1]), error=0.05) for s in (sums, even)
    ]
    assert gaps[0].bound - gaps[0].value > 1.3 * (gaps[1].bound - gaps[1].value)


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf])
def test_a_weight_that_is_negative_or_not_finite_is_refused_and_shown(wrong):
    one = torch.tensor([1, 1])
    with pytest.raises(ValueError, match=f"weights must be finite and not negative, got {wrong}"):
        weigh(one, one, torch.tensor([0, 0]), torch.tensor([1.0, wrong]), classes=2, n_groups=1)


def test_weighted_counts_have_neither_exact_nor_resampled_limits():
    sums = weighed(type("Rows", (), {"predictions": [1, 0], "targets": [1, 1], "groups": [0, 1]}), [1.0, 2.0])
    counts = confusion(sums[0][:2], 1, sums[1][:2])
    with pytest.raises(ValueError, match="no exact limits"):
        estimate(METRICS["demographic_parity_difference"], counts, error=0.05, exact=True)
    with pytest.raises(TypeError, match="cannot be resampled"):
        estimate(METRICS["theil_index"], counts, error=0.05)


# --- several classes


@given(samples(classes=3))
def test_term_by_term_odds_are_the_largest_gap_of_any_cell(rows):
    cells = counted(rows, classes=3)
    shares = cells.double() / cells.sum(dim=-1, keepdim=True)
    gap = (shares.amax(dim=0) - shares.amin(dim=0)).amax().item()
    counts = confusion(cells, 1)
    assert value("multiclass_equalized_odds_difference", counts) == pytest.approx(gap, nan_ok=True)
    sizes = cells.sum(dim=(-1, -2), keepdim=True)
    predicted = (cells.double() / sizes).sum(dim=-2)
    total = max(0.5 * (predicted[a] - predicted[b]).abs().sum().item() for a in range(3) for b in range(3))
    if (sizes > 0).all():
        assert METRICS["multiclass_demographic_parity_total_variation"].how.value(
            METRICS["multiclass_demographic_parity_total_variation"].measure(counts)
        ).item() == pytest.approx(total)


def test_with_two_classes_the_metrics_of_all_classes_are_those_of_the_favourable_one():
    pairs = {
        "multiclass_demographic_parity_difference": "demographic_parity_difference",
        "multiclass_equalized_odds_difference": "equalized_odds_difference",
        "multiclass_classwise_odds_difference": "equalized_odds_difference",
    }
    for several, one in pairs.items():
        assert value(several, COMPAS) == pytest.approx(value(one, COMPAS)), several


def test_many_classes_are_compared_from_margins():
    generator = torch.Generator().manual_seed(0)
    predictions, targets = (torch.randint(0, 70, (4000,), generator=generator) for _ in range(2))
    groups = torch.randint(0, 2, (4000,), generator=generator)
    counts = confusion(count(predictions, targets, groups, classes=70, n_groups=2), 3)
    square = torch.zeros(2, 70, 70).index_put_((groups, targets, predictions), torch.ones(4000), accumulate=True)
    shares = square.sum(dim=1) / square.sum(dim=(1, 2))[:, None]
    assert value("multiclass_demographic_parity_difference", counts) == pytest.approx(
        (shares[0] - shares[1]).abs().max().item(), abs=1e-6
    )
    with pytest.raises(ValueError, match="up to 64 classes"):
        value("multiclass_equalized_odds_difference", counts)


# --- strata


def test_a_gap_within_strata_is_that_of_the_worst_and_vanishes_where_selection_follows_the_legitimate_attribute():
    # Berkeley, 1973, two departments: who applies where makes a gap that there is in neither.
    strata = torch.stack(
        [made_of([62, 353], [0, 0], [38, 207], [0, 0]).cells, made_of([24, 8], [0, 0], [317, 97], [0, 0]).cells]
    )
    within = estimate(METRICS["demographic_parity_difference"], confusion(strata, 1), error=0.05, strata="worst")
    together = estimate(METRICS["demographic_parity_difference"], confusion(strata.sum(dim=0), 1), error=0.05)
    each = [estimate(METRICS["demographic_parity_difference"], confusion(s, 1), error=0.05) for s in strata]
    assert within.value == max(e.value for e in each)
    assert within.bound == max(e.bound for e in each)
    assert together.value > 0.3 > within.value
    assert within.lower <= max(e.lower for e in each)


def test_one_stratum_without_a_group_leaves_the_whole_undefined():
    strata = torch.stack([made_of([6, 3], [0, 0], [3, 2], [0, 0]).cells, made_of([2, 0], [0, 0], [3, 0], [0, 0]).cells])
    for name in ("demographic_parity_difference", "demographic_parity_ratio"):
        assert all(part.isnan() for part in estimate(METRICS[name], confusion(strata, 1), error=0.05, strata="worst"))


def test_the_mean_over_strata_is_weighted_by_their_size_and_its_bound_covers():
    """Unlike the worst stratum it does not grow with their number."""
    sizes, rates = [[400, 100], [60, 240]], [[0.3, 0.5], [0.6, 0.7]]
    true = (500 * 0.2 + 300 * 0.1) / 800
    cells = torch.stack([selected(r, n, seed).cells for seed, (r, n) in enumerate(zip(rates, sizes, strict=True))])
    counts = confusion(cells, 1)
    parity = METRICS["demographic_parity_difference"]
    for exact in (False, True):
        found = estimate(parity, counts, error=0.05, strata="mean", exact=exact)
        assert (found.bound < true).double().mean() <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / REPEATS)
        assert bool(((found.lower <= found.value) & (found.value <= found.upper)).all())
    each = [estimate(parity, confusion(part, 1), error=0.05) for part in cells]
    assert torch.allclose(found.value, (500 * each[0].value + 300 * each[1].value) / 800)
    shares, exact_ones = (
        torch.tensor([5 / 8, 3 / 8]).double(),
        [estimate(parity, confusion(c, 1), error=0.025, exact=True) for c in cells],
    )
    assert torch.allclose(found.bound, sum(w * e.bound for w, e in zip(shares, exact_ones, strict=True)))
    worst = estimate(parity, counts, error=0.05, strata="worst")
    assert bool((found.value <= worst.value).all())


@pytest.mark.parametrize("number", [2, 8])
def test_a_model_that_is_fair_in_all_strata_is_not_claimed_to_be_unfair_however_many_there_are(number):
    cells = torch.stack([selected([0.4, 0.4], [80, 80], seed).cells for seed in range(number)])
    found = estimate(
        METRICS["demographic_parity_difference"], confusion(cells, 1), error=0.05, level=0.2, strata="worst"
    )
    assert (found.lower > 0).double().mean() <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / len(found.lower))
    assert found.value.mean() > 0.08


@pytest.mark.parametrize("how", ["sum", True])
def test_strata_are_taken_together_in_two_ways_only(how):
    with pytest.raises(ValueError, match=f"strata must be 'worst' or 'mean', got {how!r}"):
        estimate(METRICS["accuracy_difference"], COMPAS, error=0.05, strata=how)


# --- own metrics


def test_an_own_rate_of_two_counts_has_limits_in_closed_form():
    own = Metric((lambda c: (c.tp + c.fp, c.total),), "difference")
    assert not is_resampled(own)
    expected = estimate(METRICS["demographic_parity_difference"], COMPAS, error=0.01)
    assert estimate(own, COMPAS, error=0.01) == expected


def test_an_own_quantity_is_resampled():
    own = Metric((lambda c: 5.0 * c.fn / c.total + c.fp / c.total,), "difference")
    assert is_resampled(own)
    cost = estimate(own, COMPAS, error=0.05)
    assert cost.lower < cost.value < cost.upper
    assert cost.value < cost.bound < cost.upper
    assert cost.value.item() == pytest.approx(abs((5 * 532 + 805) / 3696 - (5 * 461 + 349) / 2454))


# --- resampled


@pytest.mark.parametrize("name", RESAMPLED)
def test_resampled_limits_hold_the_value_and_are_the_same_again(name):
    first, second = (estimate(METRICS[name], COMPAS, error=0.01, replicates=500) for _ in range(2))
    assert first == second
    assert first.lower <= first.value <= first.upper
    assert first.bound >= first.value


def test_replicates_depend_on_the_seed_and_differ_from_block_to_block(monkeypatch):
    metric = METRICS["theil_index"]
    one, other = (estimate(metric, COMPAS, error=0.05, replicates=400, seed=seed) for seed in (0, 1))
    assert one.bound != other.bound
    monkeypatch.setattr("xai_lightning.functional.fairness.resampling._NUMBERS_AT_ONCE", 8 * 100)
    values = resamples(metric, COMPAS, 400, 0)
    assert values.shape == (400,)
    assert values.unique().numel() > 300
    monkeypatch.setattr("xai_lightning.functional.fairness.resampling._NUMBERS_AT_ONCE", 1 << 24)
    assert not torch.equal(resamples(metric, COMPAS, 400, 7)[:100], values[100:200])


def test_an_error_that_so_few_replicates_cannot_show_has_an_infinite_bound():
    found = estimate(METRICS["theil_index"], COMPAS, error=0.001, replicates=500)
    assert found.bound == math.inf
    assert estimate(METRICS["theil_index"], COMPAS, error=0.001, replicates=1999).bound < 1


def test_the_percentile_bound_of_mean_odds_covers():
    tpr, fpr, n = [0.8, 0.6], [0.3, 0.2], 300
    tp, fp = drawn(tpr, [n, n], 1), drawn(fpr, [n, n], 2)
    true, misses = 0.15, 0
    for i in range(400):
        counts = made_of(tp[i], fp[i], n - tp[i], n - fp[i])
        misses += estimate(METRICS["equalized_odds_difference_mean"], counts, error=0.05, replicates=399).bound < true
    assert misses / 400 <= 0.05 + 3 * math.sqrt(0.05 * 0.95 / 400)
