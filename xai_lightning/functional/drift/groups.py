"""Explanations of groups: whose move more, whose rest on other features, and whether they reveal the group."""

import math
from functools import partial

import torch
from torch import Tensor

from xai_lightning.functional.drift.summaries import Interval, bootstrap
from xai_lightning.functional.precision import exact
from xai_lightning.functional.student import student_quantile

SMALLEST, LEAST_PER_GROUP, RIDGE, PERMUTATIONS, LEVEL = 8, 50, 1e-2, 200, 0.025
UNKNOWN = Interval(math.nan, math.nan, math.nan)


def drift_gap(distances: Tensor, groups: Tensor) -> Interval:
    r"""Largest minus smallest mean drift among groups: whose explanations are less stable.

    Like any maximum minus a minimum, it is too large on average where groups do not differ, the more so the smaller the
    groups are. The limits are not: the lower one is above 0 only if some group is shown to differ from another.

    .. math:: \max(0, \max_a l_a - \min_b u_b),\qquad
        \max_{a \ne b} m_a - m_b + \sqrt{(u_a - m_a)^2 + (m_b - l_b)^2}

    l and u are Student limits of a group's mean m: at .025 / 2G for the lower limit, and at .025 for the upper, for
    which only the deciding pair is tested.

    Args:
        distances: float64[N], one per sample; NaN is left out.
        groups: int64[N], numbered from 0; a negative number means no group.

    Returns:
        The gap and its 95 % limits, over groups with at least 8 samples; NaN with fewer than two.

    Example:
        >>> drift_gap(torch.tensor([0.0] * 8 + [1.0] * 8), torch.tensor([0] * 8 + [1] * 8))
        Interval(value=1.0, lower=1.0, upper=1.0)

    References:
        G. Y. Zou, A. Donner, Construction of confidence limits about effect measures, Statistics in Medicine 27, 2008.
    """
    held = ~distances.isnan() & (groups >= 0)
    parts = [distances[held & (groups == g)].double() for g in torch.unique(groups[held]).tolist()]
    parts = [part for part in parts if len(part) >= SMALLEST]
    if len(parts) < 2:
        return UNKNOWN
    means = torch.stack([part.mean() for part in parts])
    sure, each = _reach(parts, LEVEL / (2 * len(parts))), _reach(parts, LEVEL)
    apart = means[:, None] - means[None] + (each[:, None].square() + each[None].square()).sqrt()
    # no group is compared with itself: its own uncertainty would appear as a gap
    apart.fill_diagonal_(-math.inf)
    lower = max(0.0, float((means - sure).max() - (means + sure).min()))
    return Interval(float(means.max() - means.min()), lower, float(apart.max()))


def _reach(parts: list[Tensor], level: float) -> Tensor:
    """Distance from each group's mean to its one-sided limits."""
    found = [part.std() / math.sqrt(len(part)) * student_quantile(1 - level, len(part) - 1) for part in parts]
    return torch.stack(found)


def attribution_gap(importance: Tensor, groups: Tensor, *, seed: int = 0) -> tuple[float, float]:
    """How differently two or more groups are explained: the largest total variation between their mean shares.

    0 means that the features carry the same shares of attribution in all groups, 1 that two groups share no feature.

    Args:
        importance: float[N, V], absolute attribution of each variable, at least 0.
        groups: int64[N], numbered from 0; a negative number means no group.
        seed: seed of the private generator.

    Returns:
        The gap, and its average if groups were assigned at random. For groups that are explained alike, half of the
        gaps exceed that average, and 1 in 20 exceeds it by half as much again (with a few features; by a tenth with
        hundreds). NaN with fewer than two groups of at least 8 samples.

    Example:
        >>> shares = torch.tensor([[1.0, 0.0]] * 8 + [[0.0, 1.0]] * 8)
        >>> attribution_gap(shares, torch.tensor([0] * 8 + [1] * 8))[0]
        1.0
    """
    sizes = exact(importance.detach())
    held = sizes.isfinite().all(1) & (sizes.sum(1) > 0) & (groups >= 0)
    shares, of = sizes[held] / sizes[held].sum(1, keepdim=True), groups[held]
    numbers = of.bincount() if len(of) else of
    large = (numbers >= SMALLEST).nonzero().flatten()
    if len(large) < 2:
        return math.nan, math.nan
    generator = torch.Generator().manual_seed(seed)
    found = _variation(shares, of, large)
    shuffled = [of[torch.randperm(len(of), generator=generator, device="cpu")] for _ in range(PERMUTATIONS)]
    return found, sum(_variation(shares, each, large) for each in shuffled) / PERMUTATIONS


def _variation(shares: Tensor, of: Tensor, groups: Tensor) -> float:
    means = torch.stack([shares[of == group].mean(0) for group in groups])
    return float((means[:, None] - means[None]).abs().sum(2).max() / 2)


def equal_treatment_auc(
    maps: Tensor, member: Tensor, *, least: int = LEAST_PER_GROUP, repeats: int = 1000, seed: int = 0
) -> Interval:
    """How well a linear model predicts from a sample's explanation alone whether it belongs to a group.

    0.5 means that explanations do not reveal membership, 1 that they give it away. A model is fitted on each half of
    the samples and evaluated on the other, and both values are averaged, as are their limits: pooling the folds would
    give too narrow an interval. A high value does not say in which way a group is treated differently.

    Args:
        maps: float[N, D], canonical maps.
        member: bool[N], whether each sample belongs to the group.
        least: number of samples needed both inside and outside the group.
        repeats: number of bootstrap samples.
        seed: seed of the halves and the bootstrap.

    Returns:
        Area under the ROC curve and its limits; NaN with fewer samples.

    References:
        C. Mougan et al., Beyond demographic parity: redefining equal treatment, 2023.
    """
    finite = maps.isfinite().all(1)
    x, y = exact(maps[finite].detach()), member[finite].bool()
    if min(int(y.sum()), int((~y).sum())) < least:
        return UNKNOWN
    # directions only: a group that is predicted with more confidence has larger maps
    x = x / x.norm(dim=1, keepdim=True).clamp(min=1e-12)
    half, generator = torch.zeros(len(x), dtype=torch.int64, device=x.device), torch.Generator().manual_seed(seed)
    for group in (y, ~y):
        where = group.nonzero().flatten()
        # split within each group, or one half may have no members
        half[where[torch.randperm(len(where), generator=generator, device="cpu")]] = (
            torch.arange(len(where), device=x.device) % 2
        )
    found = []
    for part in (0, 1):
        scores, inside = _linear(x[half != part], y[half != part], x[half == part]), y[half == part]
        found.append(bootstrap(partial(_resampled_auc, scores, inside), len(scores), repeats=repeats, seed=seed))
    return Interval(*((a + b) / 2 for a, b in zip(*found, strict=True)))


def _linear(x: Tensor, y: Tensor, unseen: Tensor) -> Tensor:
    """Scores of unseen samples by a ridge regression on standardised features."""
    mean, deviation = x.mean(0), x.std(0).clamp(min=1e-12)
    design, target = (x - mean) / deviation, y.double() - y.double().mean()
    # with more features than samples any labels can be fitted
    penalty = RIDGE * len(x) * max(1.0, x.shape[1] / len(x))
    weights = torch.linalg.solve(
        design.T @ design + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device), design.T @ target
    )
    scores: Tensor = ((unseen - mean) / deviation) @ weights
    return scores


def _resampled_auc(scores: Tensor, member: Tensor, index: Tensor) -> Tensor:
    return _auc(scores[index], member[index])


def _auc(scores: Tensor, member: Tensor) -> Tensor:
    """Area under the ROC curve of each row; ties count half."""
    order = scores.sort(dim=1)
    low = torch.searchsorted(order.values, scores, right=False)
    high = torch.searchsorted(order.values, scores, right=True)
    ranks = (low + high + 1).double() / 2
    inside = member.double().sum(1)
    total: Tensor = (ranks * member).sum(1) - inside * (inside + 1) / 2
    return total / (inside * (member.shape[1] - inside))
