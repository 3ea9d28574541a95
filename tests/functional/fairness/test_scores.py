import math
from itertools import pairwise
from statistics import NormalDist
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import ks_2samp, wasserstein_distance
from sklearn.metrics import brier_score_loss, roc_auc_score

import cases_fairness  # noqa: F401 - sets the profile of hypothesis
from xai_lightning.functional.fairness.calibration import brier
from xai_lightning.functional.fairness.distances import coarseness
from xai_lightning.functional.fairness.ranking import (
    auc,
    auc_trials,
    auc_variance,
    bnsp_auc,
    bpsn_auc,
    xauc,
    xauc_trials,
    xauc_variance,
)
from xai_lightning.functional.fairness.scores import (
    SCORE_BINS,
    Scored,
    score_counts,
    score_distance,
    score_distribution,
    score_wasserstein,
    scored,
)
from xai_lightning.functional.intervals import wilson_of

TOY = SimpleNamespace(
    scores=torch.tensor([0.9, 0.6, 0.4, 0.2, 0.7, 0.3, 0.5, 0.1]),
    targets=torch.tensor([1, 1, 0, 0, 1, 1, 0, 0]),
    groups=torch.tensor([0, 0, 0, 0, 1, 1, 1, 1]),
)


def counted(rows: SimpleNamespace, n_groups: int = 2) -> torch.Tensor:
    return score_counts(rows.scores, rows.targets, rows.groups, n_groups=n_groups)


def drawn(size: int, n_groups: int = 3, seed: int = 0, grid: bool = False) -> SimpleNamespace:
    """Scores that rank well but not perfectly; on ``grid`` they lie at bin centres, where the grid loses nothing."""
    generator = torch.Generator().manual_seed(seed)
    groups = torch.randint(0, n_groups, (size,), generator=generator)
    targets = torch.randint(0, 2, (size,), generator=generator)
    noise = torch.randn(size, generator=generator, dtype=torch.float64)
    scores = (noise + targets + 0.3 * groups - 0.5).sigmoid()
    if grid:
        scores = ((scores * SCORE_BINS).floor() + 0.5) / SCORE_BINS
    return SimpleNamespace(scores=scores, targets=targets, groups=groups)


def of(rows: SimpleNamespace, group: int, target: int | None = None) -> torch.Tensor:
    keep = rows.groups == group
    return rows.scores[keep if target is None else keep & (rows.targets == target)]


def won(positives: torch.Tensor, negatives: torch.Tensor) -> torch.Tensor:
    """Outcome of each pair, one at a time."""
    return (positives[:, None] > negatives).double() + (positives[:, None] == negatives).double() / 2


def delong(positives: torch.Tensor, negatives: torch.Tensor) -> float:
    outcome = won(positives, negatives)
    return float(outcome.mean(1).var() / len(positives) + outcome.mean(0).var() / len(negatives))


@st.composite
def rows_of_scores(draw: st.DrawFn) -> SimpleNamespace:
    score = st.floats(0, 1) | st.integers(0, SCORE_BINS).map(lambda k: k / SCORE_BINS)
    rows = draw(st.lists(st.tuples(score, st.integers(0, 1), st.integers(0, 1)), min_size=1, max_size=50))
    scores, targets, groups = zip(*rows, strict=True)
    return SimpleNamespace(
        scores=torch.tensor(scores, dtype=torch.float64), targets=torch.tensor(targets), groups=torch.tensor(groups)
    )


@given(rows_of_scores(), st.lists(st.integers(0, 50), max_size=4), st.randoms(use_true_random=False))
def test_counts_of_any_split_in_any_order_add_up_exactly(rows, cuts, random):
    order = torch.tensor(random.sample(range(len(rows.scores)), len(rows.scores)))
    edges = sorted({0, len(order), *(min(cut, len(order)) for cut in cuts)})
    parts = [order[a:b] for a, b in pairwise(edges)]
    whole = counted(rows)
    assert torch.equal(
        sum(counted(SimpleNamespace(**{k: v[part] for k, v in vars(rows).items()})) for part in parts), whole
    )


@given(rows_of_scores())
def test_each_score_is_counted_in_its_bin_with_its_value_and_square(rows):
    slow = torch.zeros(2, 2, SCORE_BINS, 3, dtype=torch.int64)
    for score, target, group in zip(rows.scores.tolist(), rows.targets.tolist(), rows.groups.tolist(), strict=True):
        units = round(score * 2**30)
        cell = slow[group, target, min(units * SCORE_BINS // 2**30, SCORE_BINS - 1)]
        cell += torch.tensor([1, units, (units * units + 2**29) // 2**30])
    assert torch.equal(counted(rows), slow)


def test_blocks_change_nothing():
    rows = drawn(200_000)
    parts = [counted(SimpleNamespace(**{k: v[i::3] for k, v in vars(rows).items()}), 3) for i in range(3)]
    assert torch.equal(sum(parts), counted(rows, 3))


def test_the_sum_of_many_scores_is_exact():
    """A sum in floats would depend on the order: a third of a million ones less than the exact sum in float32."""
    scores = torch.full((300_000,), 0.1, dtype=torch.float64)
    counts = score_counts(scores, torch.ones(300_000).long(), torch.zeros(300_000).long(), n_groups=1)
    assert counts[..., 1].sum().item() == 300_000 * round(0.1 * 2**30)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_a_score_of_any_precision_is_counted_as_it_is(dtype):
    scores = torch.tensor([0.0, 0.25, 0.5, 1.0], dtype=dtype)
    counts = score_counts(scores, torch.tensor([0, 0, 1, 1]), torch.tensor([0, 0, 0, 0]), n_groups=1)
    assert counts[..., 1].sum().item() == 1.75 * 2**30
    assert counts[..., 2].sum().item() == (0.0625 + 0.25 + 1) * 2**30
    assert counts[0, 1, SCORE_BINS - 1, 0] == 1


def test_labels_are_scores_too():
    labels = torch.tensor([0, 1, 1])
    assert counted(SimpleNamespace(scores=labels, targets=labels.bool(), groups=labels)).sum(dim=(0, 1, 2))[0] == 3


def test_no_samples_are_no_error():
    nothing = torch.zeros(0)
    counts = score_counts(nothing, nothing.long(), nothing.long(), n_groups=2)
    assert counts.shape == (2, 2, SCORE_BINS, 3)
    assert counts.sum() == 0


@pytest.mark.parametrize("wrong", [1.5, -0.25, math.nan, math.inf, -math.inf])
def test_a_score_outside_its_range_is_refused_and_shown(wrong):
    with pytest.raises(ValueError, match=rf"scores must be finite and lie in \[0, 1\], got {wrong}"):
        counted(SimpleNamespace(scores=torch.tensor([0.5, wrong]), targets=torch.zeros(2).long(), groups=torch.ones(2)))


@pytest.mark.parametrize(("column", "wrong"), [("targets", 2), ("targets", -1), ("groups", 2), ("groups", -1)])
def test_an_index_outside_its_range_is_refused_and_shown(column, wrong):
    rows = SimpleNamespace(**{k: v.clone() for k, v in vars(TOY).items()})
    getattr(rows, column)[3] = wrong
    with pytest.raises(ValueError, match=rf"{column} must lie in 0..1, got {wrong}"):
        counted(rows)


def test_samples_of_unequal_number_are_refused():
    with pytest.raises(ValueError, match=r"same shape, got .*'groups': \[7\]"):
        score_counts(TOY.scores, TOY.targets, TOY.groups[1:], n_groups=2)


def test_groups_that_are_no_indices_are_refused():
    with pytest.raises(TypeError, match=r"groups must be integer indices, got dtype torch.float32"):
        score_counts(TOY.scores, TOY.targets, TOY.groups.float(), n_groups=2)
    with pytest.raises(TypeError, match=r"scores must be real numbers, got dtype torch.complex64"):
        score_counts(TOY.scores.to(torch.complex64), TOY.targets, TOY.groups, n_groups=2)
    with pytest.raises(ValueError, match=r"n_groups must be at least 1, got 0"):
        score_counts(TOY.scores, TOY.targets, TOY.groups, n_groups=0)
    with pytest.raises(ValueError, match=r"\[G, 2, B, 3\], got shape \[2, 2\]"):
        scored(torch.zeros(2, 2).long())


def test_the_ranking_within_and_between_the_groups_of_the_toy():
    cells = scored(counted(TOY))
    assert auc(cells).tolist() == [1, 0.75]
    between = xauc(cells)
    assert between[0, 1] == 1
    assert between[1, 0] == 0.75
    assert between[0, 1] - between[1, 0] == 0.25


def test_auc_equals_its_peer_where_the_grid_loses_nothing():
    rows = drawn(3000, grid=True)
    cells = scored(counted(rows, 3))
    for group, value in enumerate(auc(cells).tolist()):
        keep = rows.groups == group
        assert value == pytest.approx(roc_auc_score(rows.targets[keep], rows.scores[keep]), abs=1e-12)


def test_auc_is_off_by_at_most_half_the_pairs_that_meet_in_a_bin():
    rows = drawn(3000, seed=1)
    cells = scored(counted(rows, 3))
    share = cells.numbers / cells.numbers.sum(dim=-1, keepdim=True)
    meeting = share.prod(dim=-2).sum(dim=-1)
    for group, value in enumerate(auc(cells).tolist()):
        keep = rows.groups == group
        error = abs(value - roc_auc_score(rows.targets[keep], rows.scores[keep]))
        assert 0 < error <= meeting[group] / 2


def test_the_ranking_between_groups_equals_its_slow_twin():
    rows = drawn(300, grid=True)
    cells = scored(counted(rows, 3))
    positives, negatives = ([of(rows, group, target) for group in range(3)] for target in (1, 0))
    for a in range(3):
        others = [b for b in range(3) if b != a]
        low = torch.cat([negatives[b] for b in others])
        high = torch.cat([positives[b] for b in others])
        assert bnsp_auc(cells)[a].item() == pytest.approx(won(positives[a], low).mean().item(), abs=1e-12)
        assert bpsn_auc(cells)[a].item() == pytest.approx(won(high, negatives[a]).mean().item(), abs=1e-12)
        assert auc_variance(cells)[a].item() == pytest.approx(delong(positives[a], negatives[a]), rel=1e-9)
        for b in range(3):
            assert xauc(cells)[a, b].item() == pytest.approx(won(positives[a], negatives[b]).mean().item(), abs=1e-12)
            assert xauc_variance(cells)[a, b].item() == pytest.approx(delong(positives[a], negatives[b]), rel=1e-9)


def test_the_variance_of_auc_is_the_one_of_repeated_samples():
    values, variances = [], []
    for seed in range(400):
        cells = scored(counted(drawn(120, n_groups=1, seed=seed), 1))
        values.append(auc(cells))
        variances.append(auc_variance(cells))
    ratio = torch.cat(values).var() / torch.cat(variances).mean()
    assert 0.8 < ratio < 1.25  # the ratio of a sample variance to the true one has a standard error of .07


def test_as_many_trials_have_the_variance_of_auc():
    cells = scored(counted(drawn(900), 3))
    value, trials = auc(cells), auc_trials(cells)
    assert torch.allclose(value * (1 - value) / trials, auc_variance(cells), rtol=1e-12, atol=0)
    assert torch.equal(xauc_trials(cells).diagonal(), trials)
    assert (trials > 70).all()  # no fewer than half the positives or negatives


@pytest.mark.parametrize(("mean", "size"), [(0.4, 10), (1.8, 10), (1.8, 40)])
def test_limits_of_a_ranking_fail_as_often_as_they_say(mean, size):
    """Also with few samples, where the variance is often 0 and the value less its standard error would be 1."""
    repeats = 1000
    scores = torch.randn(repeats, 2 * size, generator=torch.Generator().manual_seed(size))
    scores[:, :size] += mean
    targets = (torch.arange(2 * size) < size).long().expand_as(scores)
    groups = torch.arange(repeats)[:, None].expand_as(scores)
    cells = scored(score_counts((scores - mean / 2).sigmoid(), targets, groups, n_groups=repeats))
    truth = NormalDist().cdf(mean / math.sqrt(2))
    limits = wilson_of(auc(cells), auc_trials(cells), 0.05)
    assert (limits.lower > truth).double().mean() < 0.075
    assert (limits.upper < truth).double().mean() < 0.075
    plain = auc(cells) - 1.645 * auc_variance(cells).sqrt()
    assert mean < 1 or size > 10 or (plain > truth).double().mean() > 0.1


def test_a_perfect_ranking_of_few_is_as_many_trials_as_the_smaller_class_has():
    scores, targets = torch.tensor([0.9, 0.8, 0.1, 0.2, 0.3]), torch.tensor([1, 1, 0, 0, 0])
    cells = scored(score_counts(scores, targets, torch.zeros(5).long(), n_groups=1))
    assert (auc(cells).item(), auc_variance(cells).item(), auc_trials(cells).item()) == (1, 0, 2)
    assert wilson_of(auc(cells), auc_trials(cells), 0.05).lower.item() == pytest.approx(2 / (2 + 1.6448536**2))


def test_distances_of_scores_equal_their_peers_up_to_a_bin():
    rows = drawn(2000, seed=2)
    on_grid = SimpleNamespace(**vars(rows) | {"scores": ((rows.scores * 1024).floor() + 0.5) / 1024})
    cells, coarse = scored(counted(rows, 3)), coarseness(score_distribution(scored(counted(rows, 3))))
    for a, b in [(0, 1), (1, 2), (2, 0)]:
        smirnov = score_distance(cells)[a, b].item()
        assert smirnov == pytest.approx(ks_2samp(of(on_grid, a), of(on_grid, b)).statistic, abs=1e-12)
        exact = ks_2samp(of(rows, a), of(rows, b)).statistic
        assert smirnov <= exact + 1e-12
        assert exact <= smirnov + max(coarse[a], coarse[b]) + 1e-12
        mean = score_wasserstein(cells)[a, b].item()
        assert mean == pytest.approx(wasserstein_distance(of(on_grid, a), of(on_grid, b)), abs=1e-12)
        assert mean == pytest.approx(wasserstein_distance(of(rows, a), of(rows, b)), abs=1 / SCORE_BINS)


def test_brier_equals_its_peer():
    rows = drawn(2000)
    for group, value in enumerate(brier(scored(counted(rows, 3))).tolist()):
        keep = rows.groups == group
        assert value == pytest.approx(brier_score_loss(rows.targets[keep], rows.scores[keep]), abs=1e-8)


@pytest.mark.parametrize("statistic", [auc, auc_trials, xauc, xauc_trials, bpsn_auc, bnsp_auc, score_distance])
def test_replicates_are_computed_at_once_as_one_by_one(statistic):
    cells = scored(counted(drawn(400), 3))
    generator = torch.Generator().manual_seed(0)
    draws = torch.stack([torch.poisson(cells.numbers.double(), generator) for _ in range(4)]).reshape(2, 2, 3, 2, -1)
    at_once = statistic(cells._replace(numbers=draws))
    one_by_one = [statistic(cells._replace(numbers=draw)) for draw in draws.flatten(0, 1)]
    assert torch.allclose(at_once.flatten(0, 1), torch.stack(one_by_one), rtol=0, atol=1e-12, equal_nan=True)
    assert not torch.equal(one_by_one[0], one_by_one[1])


def test_what_has_no_samples_is_undefined_and_leaves_the_others_alone():
    rows = SimpleNamespace(
        scores=torch.tensor([0.2, 0.8, 0.6, 0.9]), targets=torch.tensor([0, 1, 1, 1]), groups=torch.tensor([0, 0, 1, 1])
    )
    cells = scored(counted(rows, 3))
    assert [math.isnan(value) for value in auc(cells)] == [False, True, True]
    assert torch.equal(xauc(cells).isnan(), torch.tensor([[False, True, True], [False, True, True], [True] * 3]))
    assert torch.equal(score_distance(cells).isnan(), torch.tensor([[False, False, True]] * 2 + [[True] * 3]))
    assert torch.equal(score_wasserstein(cells).isnan(), score_distance(cells).isnan())
    assert auc_variance(cells).isnan().all()
    assert auc_trials(cells).isnan().all()
    alone = scored(counted(SimpleNamespace(**vars(TOY) | {"groups": TOY.groups * 0}), 1))
    assert bpsn_auc(alone).isnan().all()
    assert bnsp_auc(alone).isnan().all()


def test_means_of_empty_cells_are_the_centres_of_their_bins():
    cells = scored(torch.zeros(1, 2, SCORE_BINS, 3, dtype=torch.int64))
    assert isinstance(cells, Scored)
    assert cells.means[0, 0, [0, -1]].tolist() == [0.5 / SCORE_BINS, 1 - 0.5 / SCORE_BINS]
    assert torch.equal(cells.squares, cells.means.square())
