import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import references_fairness as slow
from cases_fairness import errors
from xai_lightning.functional.intervals import (
    allowance,
    clopper_pearson,
    mover_mean,
    mover_ratio,
    newcombe,
    percentile,
    replicates,
    student_mean,
    wilson,
)

NORMAL = 0.025  # of each limit: two-sided 95 %


def of(successes: int, total: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.tensor(successes), torch.tensor(total)


def pair(a: tuple[int, int], b: tuple[int, int]) -> tuple[torch.Tensor, ...]:
    return (*of(*a), *of(*b))


def numbers(interval: tuple[torch.Tensor, torch.Tensor]) -> list[float]:
    return [limit.item() for limit in interval]


@st.composite
def observed(draw: st.DrawFn) -> tuple[int, int]:
    total = draw(st.integers(1, 2000))
    return draw(st.integers(0, total)), total


@pytest.mark.parametrize(
    ("count", "limits"),
    [
        ((81, 263), (0.2553, 0.3662)),
        ((15, 148), (0.0624, 0.1605)),
        ((0, 20), (0.0, 0.1611)),
        ((1, 29), (0.0061, 0.1718)),
    ],
)
def test_wilson_gives_the_table_of_newcombe_1998a(count, limits):
    assert numbers(wilson(*of(*count), NORMAL)) == pytest.approx(limits, abs=5e-5)


@pytest.mark.parametrize(
    ("a", "b", "limits"),
    [
        ((56, 70), (48, 80), (0.0524, 0.3339)),
        ((9, 10), (3, 10), (0.1705, 0.8090)),
        ((6, 7), (2, 7), (0.0582, 0.8062)),
        ((5, 56), (0, 29), (-0.0381, 0.1926)),
        ((0, 10), (0, 20), (-0.1611, 0.2775)),
        ((10, 10), (0, 20), (0.6791, 1.0)),
    ],
)
def test_newcombe_gives_the_table_of_newcombe_1998b(a, b, limits):
    assert numbers(newcombe(*pair(a, b), error=NORMAL)) == pytest.approx(limits, abs=5e-5)


@given(observed(), errors)
def test_wilson_inverts_the_score_test(count, error):
    assert numbers(wilson(*of(*count), error)) == pytest.approx(slow.wilson(count, error), abs=1e-9)


@given(observed(), observed(), errors)
def test_newcombe_equals_its_slow_twin(a, b, error):
    assert numbers(newcombe(*pair(a, b), error=error)) == pytest.approx(slow.newcombe(a, b, error), abs=1e-9)


@given(observed(), observed(), errors)
def test_the_ratio_limits_are_where_the_limit_of_the_weighted_difference_vanishes(a, b, error):
    assert numbers(mover_ratio(*pair(a, b), error=error)) == pytest.approx(
        slow.mover_ratio(a, b, error), rel=1e-6, abs=1e-6
    )


@given(observed(), observed(), errors)
def test_the_difference_changes_sign_when_the_groups_are_exchanged(a, b, error):
    forth, back = numbers(newcombe(*pair(a, b), error=error)), numbers(newcombe(*pair(b, a), error=error))
    assert forth == pytest.approx([-back[1], -back[0]], abs=1e-12)


@given(observed(), errors, errors)
def test_a_smaller_error_never_gives_a_narrower_interval(count, one, other):
    wide, narrow = (wilson(*of(*count), error) for error in sorted((one, other)))
    assert wide.lower <= narrow.lower <= narrow.upper <= wide.upper


@given(observed(), errors)
def test_every_interval_holds_its_estimate_within_the_natural_range(count, error):
    p = count[0] / count[1]
    lower, upper = numbers(wilson(*of(*count), error))
    assert 0 <= lower <= p <= upper <= 1
    assert (lower == 0) == (count[0] == 0)
    assert (upper == 1) == (count[0] == count[1])


def test_a_ratio_without_successes_below_has_no_upper_limit():
    lower, upper = numbers(mover_ratio(*pair((5, 20), (0, 30)), error=0.05))
    assert math.isfinite(lower)
    assert lower > 0
    assert upper == math.inf


def test_a_ratio_without_successes_above_has_the_lower_limit_zero():
    lower, upper = numbers(mover_ratio(*pair((0, 20), (6, 30)), error=0.05))
    assert lower == 0
    assert 0 < upper < math.inf


def test_nothing_over_nothing_can_be_any_ratio():
    assert numbers(mover_ratio(*pair((0, 20), (0, 30)), error=0.05)) == [0, math.inf]


def test_the_mean_of_one_proportion_has_the_limits_of_wilson():
    counts = torch.tensor([7]), torch.tensor([40])
    assert numbers(mover_mean(*counts, 0.01)) == pytest.approx(numbers(wilson(*of(7, 40), 0.01)), abs=1e-12)


def test_the_mean_of_two_proportions_has_half_the_limits_of_their_sum():
    a, b = (90, 100), (40, 50)
    (low_a, high_a), (low_b, high_b) = slow.wilson(a, 0.05), slow.wilson(b, 0.05)
    half = math.hypot(0.9 - low_a, 0.8 - low_b) / 2, math.hypot(high_a - 0.9, high_b - 0.8) / 2
    limits = numbers(mover_mean(torch.tensor([90, 40]), torch.tensor([100, 50]), 0.05))
    assert limits == pytest.approx((0.85 - half[0], 0.85 + half[1]), abs=1e-9)


def test_the_lower_limit_of_a_mean_of_ten_covers():
    generator = torch.Generator().manual_seed(0)
    p, n = torch.linspace(0.3, 0.9, 10).double(), torch.full((4000, 10), 40)
    successes = torch.binomial(n.double(), p.expand(4000, 10), generator=generator).long()
    assert (mover_mean(successes, n, 0.05).lower <= p.mean()).double().mean() >= 0.95 - 0.011


def test_a_total_of_zero_is_undefined_and_not_zero():
    """Trap 79: 0/0 becomes 0, or vanishes."""
    empty, full = torch.tensor([0, 3]), torch.tensor([0, 9])
    assert all(limit.isnan().tolist() == [True, False] for limit in wilson(empty, full, 0.05))
    assert all(limit.isnan() for limit in mover_mean(empty, full, 0.05))
    for function in (newcombe, mover_ratio):
        for other in (of(0, 4), of(1, 4), of(4, 4)):
            assert all(limit.isnan().tolist() == [True, False] for limit in function(empty, full, *other, error=0.05))
            assert all(limit.isnan().tolist() == [True, False] for limit in function(*other, empty, full, error=0.05))


def test_limits_are_infinite_when_no_error_may_be_spent():
    unlimited = [-math.inf, math.inf]
    assert numbers(wilson(*of(3, 9), 0)) == unlimited
    assert numbers(newcombe(*pair((3, 9), (9, 9)), error=0)) == unlimited
    assert numbers(mover_ratio(*pair((0, 9), (3, 9)), error=0)) == unlimited
    assert numbers(mover_mean(torch.tensor([3, 9]), torch.tensor([9, 9]), 0)) == unlimited
    assert all(limit.isnan() for limit in wilson(*of(0, 0), 0))
    assert all(limit.isnan() for limit in mover_ratio(*pair((0, 0), (3, 9)), error=0))


def test_limits_broadcast_over_leading_dimensions():
    successes, totals = torch.arange(6).reshape(2, 3), torch.full((3,), 9)
    limits = wilson(successes, totals, 0.05)
    assert limits.lower.shape == (2, 3)
    assert limits.lower[1, 2] == wilson(*of(5, 9), 0.05).lower
    assert limits.lower.dtype == torch.float64


@pytest.mark.parametrize("error", [-0.1, 0.5, 1, math.nan])
def test_an_error_outside_its_range_is_refused(error):
    with pytest.raises(ValueError, match=rf"error .* got {error}"):
        wilson(*of(1, 2), error)


@pytest.mark.parametrize(("count", "shown"), [((5, 4), "5 of 4"), ((-1, 4), "-1 of 4")])
def test_impossible_counts_are_refused(count, shown):
    with pytest.raises(ValueError, match=shown):
        wilson(*of(*count), 0.05)


def test_rates_instead_of_counts_are_refused():
    with pytest.raises(TypeError, match=r"totals must be integer counts, got dtype torch\.float32"):
        wilson(torch.tensor(1), torch.tensor(2.0), 0.05)


@pytest.mark.parametrize("horizon", [1, 3, 7, 50, 999])
@pytest.mark.parametrize("delta", [0.05, 0.1, 1 / 3])
def test_an_undisturbed_run_spends_the_same_share_every_time_to_the_last_bit(horizon, delta):
    spent, shares = 0.0, set()
    for number in range(1, horizon + 1):
        shares.add(allowance(delta, number, horizon, spent))
        spent += delta / horizon
    assert shares == {delta / horizon}
    assert allowance(delta, horizon + 1, horizon, spent) == 0


@given(st.floats(1e-4, 0.49), st.lists(st.one_of(st.none(), st.integers(1, 60)), min_size=1, max_size=60))
def test_no_run_spends_more_than_delta_whatever_happens_to_its_horizon(delta, horizons):
    spent = 0.0
    for number, horizon in enumerate(horizons, start=1):
        share = allowance(delta, number, horizon, spent)
        assert 0 <= share <= delta
        spent += share
    assert spent <= delta * (1 + 1e-9)


def test_without_a_horizon_the_shares_fall_like_one_over_the_square():
    shares = [allowance(0.05, number, None, 0.0) for number in (1, 2, 10)]
    assert shares == pytest.approx([0.0303963551, 0.0075990888, 0.000303963551], rel=1e-8)


def test_a_longer_resumed_run_divides_what_is_unspent():
    assert allowance(0.05, 6, 20, 0.025) == pytest.approx(0.025 / 15)


@pytest.mark.parametrize("spent", [0.05, 0.07, sum([0.05 / 49] * 49)])
def test_nothing_is_left_of_an_error_that_was_spent(spent):
    assert allowance(0.05, 50, 100, spent) == 0
    assert allowance(0.05, 50, None, spent) == 0


def test_a_validation_beyond_the_horizon_may_spend_nothing():
    assert allowance(0.05, 11, 10, 0.01) == 0


@pytest.mark.parametrize(
    ("arguments", "shown"),
    [
        ((0.0, 1, 10, 0.0), "delta .* got 0.0"),
        ((0.5, 1, 10, 0.0), "delta .* got 0.5"),
        ((0.05, 0, 10, 0.0), "number .* got 0"),
        ((0.05, 1, 0, 0.0), "horizon .* got 0"),
        ((0.05, 1, 10, -0.1), "spent .* got -0.1"),
        ((0.05, 1, 10, math.nan), "spent .* got nan"),
    ],
)
def test_an_impossible_plan_of_spending_is_refused(arguments, shown):
    with pytest.raises(ValueError, match=shown):
        allowance(*arguments)


# --- exact limits, means, and the bootstrap of counts


@pytest.mark.parametrize(
    ("count", "limits"),
    [((81, 263), (0.2527, 0.3676)), ((15, 148), (0.0578, 0.1617)), ((0, 20), (0, 0.1684)), ((1, 29), (0.0009, 0.1776))],
)
def test_clopper_and_pearson_give_the_table_of_newcombe_1998a(count, limits):
    found = clopper_pearson(*map(torch.tensor, count), error=0.025)
    assert [limit.item() for limit in found] == pytest.approx(limits, abs=6e-5)


def test_the_exact_limits_of_no_success_have_a_closed_form():
    found = clopper_pearson(torch.tensor([0, 0]), torch.tensor([10, 20]), error=0.025)
    assert found.upper.tolist() == pytest.approx([0.3084971, 1 - 0.025 ** (1 / 20)], abs=1e-7)
    assert clopper_pearson(torch.tensor(0), torch.tensor(20), 0.05).upper.item() == pytest.approx(0.1391083, abs=1e-7)


@given(st.integers(0, 5000), st.integers(1, 5000), st.floats(1e-6, 0.49))
def test_exact_limits_are_quantiles_of_the_beta_distribution(successes, totals, error):
    from scipy.stats import beta

    k, n = min(successes, totals), totals
    found = clopper_pearson(torch.tensor(k), torch.tensor(n), error)
    lower = beta.ppf(error, k, n - k + 1) if k else 0.0
    upper = beta.ppf(1 - error, k + 1, n - k) if k < n else 1.0
    assert [limit.item() for limit in found] == pytest.approx((lower, upper), abs=1e-9)


def test_exact_limits_of_millions_of_rows_are_right():
    from scipy.stats import beta

    k, n = 2_345_678, 10_000_000
    found = clopper_pearson(torch.tensor(k), torch.tensor(n), 0.001)
    assert found.lower.item() == pytest.approx(beta.ppf(0.001, k, n - k + 1), abs=1e-9)
    assert found.upper.item() == pytest.approx(beta.ppf(0.999, k + 1, n - k), abs=1e-9)


@pytest.mark.parametrize("freedom", [1, 2, 7, 30, 199, 201, 1000, 10**6])
@pytest.mark.parametrize("error", [0.05, 0.001, 1e-6])
def test_the_quantile_of_student_is_right(freedom, error):
    from scipy.stats import t

    value, variance, number = torch.tensor(0.0), torch.tensor(freedom + 1.0), torch.tensor(freedom + 1)
    assert student_mean(value, variance, number, error).upper.item() == pytest.approx(t.isf(error, freedom), rel=2e-5)


def test_a_mean_of_one_sample_has_no_limits_whatever_may_be_spent():
    for error in (0.05, 0.0):
        found = student_mean(torch.tensor([1.0, 1.0]), torch.tensor([math.nan, 2.0]), torch.tensor([1, 5]), error)
        assert found.lower[0].isnan()
        assert not found.lower[1].isnan()


def test_resampled_counts_are_those_of_resampled_rows():
    """Both are multinomial; the quantiles of a gap agree within the error of the simulation."""
    from scipy.stats import ks_2samp

    counts = torch.tensor([[30, 20], [60, 90]])
    cells = replicates(counts, 4000, seed=1).double()
    rows = torch.repeat_interleave(torch.arange(4), counts.reshape(-1))
    generator = torch.Generator().manual_seed(2)
    picked = rows[torch.randint(0, 200, (4000, 200), generator=generator)]
    again = torch.stack([(picked == cell).sum(dim=1) for cell in range(4)], dim=1).reshape(4000, 2, 2).double()
    gaps = [c[:, 0, 0] / c[:, 0].sum(dim=1) - c[:, 1, 0] / c[:, 1].sum(dim=1) for c in (cells, again)]
    assert ks_2samp(*(gap.numpy() for gap in gaps)).pvalue > 0.01


def test_an_undefined_replicate_lies_beyond_both_percentile_limits():
    values = torch.cat([10 + torch.arange(95.0), torch.full((4,), math.nan)])
    found = percentile(values, 0.05)
    assert found.lower == 10.0
    assert found.upper == 104.0
    assert percentile(torch.cat([values, torch.full((10,), math.nan)]), 0.05).upper == math.inf
