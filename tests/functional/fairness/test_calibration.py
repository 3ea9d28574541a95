import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchmetrics.functional.classification import binary_calibration_error

import cases_fairness  # noqa: F401 - sets the profile of hypothesis
from xai_lightning.functional.fairness.calibration import (
    brier,
    brier_skill,
    calibration_error_squared,
    calibration_in_the_large,
    expected_calibration_error,
    kolmogorov_calibration_error,
    reliability,
)
from xai_lightning.functional.fairness.scores import SCORE_BINS, Scored, score_counts, scored

NORMS = ("l1", "l2", "max")
EACH = [
    brier,
    brier_skill,
    calibration_error_squared,
    expected_calibration_error,
    kolmogorov_calibration_error,
    lambda cells: calibration_in_the_large(cells).value,
    lambda cells: calibration_in_the_large(cells).variance,
    lambda cells: reliability(cells).observed,
]


def cells_of(scores, targets, groups=None, n_groups: int = 1) -> Scored:
    scores, targets = torch.as_tensor(scores), torch.as_tensor(targets)
    groups = torch.zeros_like(targets) if groups is None else torch.as_tensor(groups)
    return scored(score_counts(scores, targets, groups, n_groups=n_groups))


def drawn(size: int, seed: int = 0, tilt: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    """Scores, uniform, and outcomes that follow them if ``tilt`` is 1."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(size, generator=generator, dtype=torch.float64)
    return scores, (torch.rand(size, generator=generator, dtype=torch.float64) < scores**tilt).long()


def calibrated(size: int, repeats: int) -> Scored:
    """Perfectly calibrated scores, one group for each repetition."""
    scores, targets = drawn(size * repeats, seed=size)
    groups = torch.arange(repeats).repeat_interleave(size)
    return cells_of(scores, targets, groups, repeats)


def runs(scores: list[float], bins: int) -> list[list[int]]:
    """Samples in bins of equal mass, one sample at a time; equal grid cells stay together, by their middle."""
    grid = [min(int(score * SCORE_BINS), SCORE_BINS - 1) for score in scores]
    used = min(bins, max(1, len(scores) // 2))
    parts: list[list[int]] = [[] for _ in range(bins)]
    for i, cell in enumerate(grid):
        middle = sum(other < cell for other in grid) + grid.count(cell) / 2
        parts[min(int(middle * used / len(scores)), used - 1)].append(i)
    return parts


def slow_squared_error(scores: list[float], targets: list[int], bins: int) -> float:
    total, weight = 0.0, 0
    for part in runs(scores, bins):
        n = len(part)
        if n < 2:
            continue
        observed = sum(targets[i] for i in part) / n
        gap = sum(scores[i] for i in part) / n - observed
        total += n * (gap**2 - observed * (1 - observed) / (n - 1))
        weight += n
    return total / weight


@pytest.mark.parametrize(("norm", "expected"), [("l1", 0.29), ("l2", 0.2918), ("max", 0.3167)])
def test_the_calibration_error_that_torchmetrics_documents(norm, expected):
    cells = cells_of([0.25, 0.25, 0.55, 0.75, 0.75], [0, 0, 1, 1, 1])
    assert expected_calibration_error(cells, bins=2, norm=norm).item() == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize("norm", NORMS)
def test_the_expected_calibration_error_equals_its_peer(norm):
    scores, targets = drawn(3000, tilt=2)
    found = expected_calibration_error(cells_of(scores, targets), bins=16, norm=norm).item()
    assert found == pytest.approx(binary_calibration_error(scores, targets, n_bins=16, norm=norm).item(), abs=1e-6)


def test_the_expected_calibration_error_with_bins_that_do_not_fit_the_grid_is_off_by_what_lies_at_the_edges():
    scores, targets = drawn(20_000, tilt=2)
    found = expected_calibration_error(cells_of(scores, targets)).item()
    assert found == pytest.approx(binary_calibration_error(scores, targets, n_bins=15).item(), abs=15 / SCORE_BINS)


@pytest.mark.parametrize(
    ("size", "repeats", "raw"), [(30, 2000, 0.205), (100, 1000, 0.121), (300, 600, 0.071), (1000, 300, 0.039)]
)
def test_calibrated_scores_show_a_raw_error_in_small_groups_and_none_once_it_is_debiased(size, repeats, raw):
    cells = calibrated(size, repeats)
    assert expected_calibration_error(cells).mean().item() == pytest.approx(raw, abs=0.003)
    debiased = calibration_error_squared(cells)
    assert abs(debiased.mean()) < 3.5 * debiased.std() / math.sqrt(repeats)
    assert debiased.mean() < 0.1 * raw**2


def test_calibrated_scores_of_a_large_group_show_little():
    assert expected_calibration_error(calibrated(10_000, 40)).mean().item() == pytest.approx(0.012, abs=0.001)


def test_the_debiased_error_finds_what_is_there():
    """Outcomes follow the squared score: the mean of (p - p^2)^2 over uniform p is 1/30."""
    scores, targets = drawn(100_000, tilt=2)
    assert calibration_error_squared(cells_of(scores, targets)).item() == pytest.approx(1 / 30, abs=0.001)


@given(st.lists(st.tuples(st.floats(0, 1, width=16), st.integers(0, 1)), min_size=2, max_size=40), st.integers(1, 12))
def test_the_debiased_error_equals_its_slow_twin(rows, bins):
    scores, targets = (list(column) for column in zip(*rows, strict=True))
    cells = cells_of(torch.tensor(scores, dtype=torch.float64), targets)
    expected = slow_squared_error(scores, targets, bins)
    assert calibration_error_squared(cells, bins).item() == pytest.approx(expected, abs=1e-8)
    shown = reliability(cells, bins)
    assert shown.number[0].tolist() == [len(part) for part in runs(scores, bins)]
    for k, part in enumerate(runs(scores, bins)):
        if part:
            assert shown.score[0, k].item() == pytest.approx(sum(scores[i] for i in part) / len(part), abs=1e-8)
            assert shown.observed[0, k].item() == pytest.approx(sum(targets[i] for i in part) / len(part), abs=1e-12)
        else:
            assert shown.score[0, k].isnan()
            assert shown.observed[0, k].isnan()


@given(st.lists(st.tuples(st.floats(0, 1), st.integers(0, 1)), min_size=2, max_size=40))
def test_means_of_scores_equal_their_slow_twins(rows):
    scores, targets = (torch.tensor(column, dtype=torch.float64) for column in zip(*rows, strict=True))
    cells = cells_of(scores, targets.long())
    error = scores - targets
    large = calibration_in_the_large(cells)
    assert large.value.item() == pytest.approx(error.mean().item(), abs=1e-9)
    assert large.variance.item() == pytest.approx(error.var().item(), abs=1e-8)
    assert large.number.item() == len(rows)
    assert brier(cells).item() == pytest.approx(error.square().mean().item(), abs=1e-8)
    spread = targets.var(correction=0)
    if spread > 0:
        skill = 1 - error.square().mean() / spread
        assert brier_skill(cells).item() == pytest.approx(skill.item(), rel=1e-7, abs=1e-7)
    else:
        assert brier_skill(cells).isnan().all()


def test_the_mean_error_of_large_groups_is_exact():
    """The sum of a million scores is one of integers: nothing is lost but the rounding of each to 2^-30."""
    scores, targets = drawn(1_000_000)
    error = scores - targets
    large = calibration_in_the_large(cells_of(scores, targets))
    assert large.value.item() == pytest.approx(error.mean().item(), abs=1e-11)
    assert large.variance.item() == pytest.approx(error.var().item(), abs=1e-11)


def test_the_cumulated_error_equals_its_slow_twin_where_the_grid_loses_nothing():
    scores, targets = drawn(600, tilt=1.5)
    scores = ((scores * SCORE_BINS).floor() + 0.5) / SCORE_BINS
    order = scores.argsort()
    sums = (scores - targets)[order].cumsum(0) / len(scores)
    ends = torch.cat([scores[order].diff() > 0, torch.ones(1, dtype=torch.bool)])
    found = kolmogorov_calibration_error(cells_of(scores, targets))
    assert found.item() == pytest.approx(sums[ends].abs().max().item(), abs=1e-12)
    assert found >= calibration_in_the_large(cells_of(scores, targets)).value.abs() - 1e-12


@pytest.mark.parametrize("statistic", EACH)
def test_replicates_are_computed_at_once_as_one_by_one(statistic):
    scores, targets = drawn(500)
    cells = cells_of(scores, targets, torch.arange(500) % 3, 3)
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.poisson(cells.numbers.double(), generator) for _ in range(4)]).reshape(2, 2, 3, 2, -1)
    at_once = statistic(cells._replace(numbers=draws)).flatten(0, 1)
    one_by_one = [statistic(cells._replace(numbers=draw)) for draw in draws.flatten(0, 1)]
    assert torch.allclose(at_once, torch.stack(one_by_one), rtol=0, atol=1e-12, equal_nan=True)
    assert not torch.equal(one_by_one[0], one_by_one[1])


@pytest.mark.parametrize("statistic", EACH)
def test_a_group_without_samples_is_undefined_and_changes_nothing_for_the_others(statistic):
    scores, targets = drawn(200)
    groups = torch.arange(200) % 2
    two, three = (statistic(cells_of(scores, targets, groups, n)) for n in (2, 3))
    assert torch.equal(two, three[:2])
    assert three[2].isnan().all()


@pytest.mark.parametrize("norm", NORMS)
def test_no_samples_have_no_calibration_error(norm):
    nothing = cells_of(torch.zeros(0), torch.zeros(0).long())
    assert expected_calibration_error(nothing, norm=norm).isnan().all()


def test_a_single_sample_has_a_mean_but_no_variance():
    cells = cells_of([0.25], [1])
    large = calibration_in_the_large(cells)
    assert large.value.item() == -0.75
    assert large.variance.isnan().all()
    assert calibration_error_squared(cells).isnan().all()


def test_what_no_bins_can_be_formed_of_is_refused():
    cells = cells_of([0.3], [1])
    for statistic in (calibration_error_squared, expected_calibration_error, reliability):
        with pytest.raises(ValueError, match="bins must be at least 1, got 0"):
            statistic(cells, bins=0)
    with pytest.raises(ValueError, match=r"norm must be .* got 'l3'"):
        expected_calibration_error(cells, norm="l3")
