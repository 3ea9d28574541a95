"""Distances between the distributions of groups, from samples counted in bins."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

BLIND = 0.05
"""Share of a group's samples, or of its pairs, above which those of one bin must not differ."""


class Distribution(NamedTuple):
    """Samples per group and bin.

    Attributes:
        numbers: Number of samples, int64 or float64[..., G, B]; leading dimensions are replicates.
        positions: Position of the samples of each bin, ascending float64[B].
        blind: Groups for which the bins are too wide, bool[G], see :func:`unresolved`; None if unknown.
    """

    numbers: Tensor
    positions: Tensor
    blind: Tensor | None = None


def kolmogorov(distribution: Distribution) -> Tensor:
    r"""Largest distance between the distribution functions of two groups, for all pairs of groups.

    .. math:: \sup_z |F_a(z) - F_b(z)|

    0 means that both groups are distributed alike. It does not show how far apart the values are. Distribution
    functions are compared at the edges of bins only: the distance of the samples themselves exceeds it by at most the
    larger :func:`coarseness` of both groups.

    Args:
        distribution: Samples of all groups.

    Returns:
        float64[..., G, G], symmetric, fractions in [0, 1]; NaN where a group is empty.

    Example:
        >>> import torch
        >>> numbers = torch.tensor([[2, 2, 0], [0, 2, 2]])
        >>> kolmogorov(Distribution(numbers, torch.arange(3.0))).tolist()
        [[0.0, 0.5], [0.5, 0.0]]

    References:
        N. Smirnov, Table for estimating the goodness of fit of empirical distributions, Annals of Mathematical
        Statistics 19, 1948.
    """
    below = _below(distribution.numbers)
    return _pairs(below, lambda gap: gap.amax(dim=-1))


def kolmogorov_to_overall(distribution: Distribution) -> Tensor:
    r"""Largest distance between the distribution function of each group and that of all samples.

    .. math:: \sup_z |F_a(z) - F(z)|

    0 in all groups is statistical parity of numeric predictions: no threshold selects a larger share of one group. It
    does not show how far apart the values are. A group that makes up most of the samples is close to all samples, and
    distribution functions are compared at the edges of bins only, as in :func:`kolmogorov`.

    Args:
        distribution: Samples of all groups.

    Returns:
        float64[..., G], fractions in [0, 1]; NaN where a group is empty.

    Example:
        >>> import torch
        >>> numbers = torch.tensor([[2, 2, 0], [0, 2, 2]])
        >>> kolmogorov_to_overall(Distribution(numbers, torch.arange(3.0))).tolist()
        [0.25, 0.25]

    References:
        A. Agarwal, M. Dudík, Z. S. Wu, Fair regression: quantitative definitions and reduction-based algorithms,
        International Conference on Machine Learning, 2019, section 2.
    """
    overall = _below(distribution.numbers.sum(dim=-2, keepdim=True))
    return (_below(distribution.numbers) - overall).abs().amax(dim=-1)


def wasserstein(distribution: Distribution) -> Tensor:
    r"""Mean distance between the sorted samples of two groups (Wasserstein-1), for all pairs of groups.

    .. math:: \int |F_a(z) - F_b(z)|\,dz

    0 means that both groups are distributed alike. It does not show which of them has the higher values. Each sample is
    taken to lie at the position of its bin.

    Args:
        distribution: Samples of all groups.

    Returns:
        float64[..., G, G], symmetric, in the unit of the positions; NaN where a group is empty.

    Example:
        >>> import torch
        >>> numbers = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]])
        >>> wasserstein(Distribution(numbers, torch.tensor([0.0, 1, 3, 5, 6, 8]))).tolist()
        [[0.0, 5.0], [5.0, 0.0]]

    References:
        C. Villani, Topics in optimal transportation, American Mathematical Society, 2003, section 2.2.
    """
    below = _below(distribution.numbers)[..., :-1]
    steps = distribution.positions.double().diff()
    return _pairs(below, lambda gap: gap @ steps)


def coarseness(distribution: Distribution) -> Tensor:
    """Largest share of a group's samples in one bin, within which values are not distinguished.

    If it is large, a :func:`kolmogorov` distance of 0 is no evidence of equality: the values may differ within the
    bin.

    Args:
        distribution: Samples of all groups.

    Returns:
        float64[..., G], fractions in (0, 1]; NaN where a group is empty.

    Example:
        >>> import torch
        >>> coarseness(Distribution(torch.tensor([[3, 1], [2, 2]]), torch.arange(2.0))).tolist()
        [0.75, 0.5]
    """
    numbers = distribution.numbers.double()
    return numbers.amax(dim=-1) / numbers.sum(dim=-1)


def occupied(distribution: Distribution) -> Distribution:
    """The bins that hold samples; the others change no distance and cost memory in every replicate.

    Args:
        distribution: Samples of all groups.

    Returns:
        Numbers [..., G, B'] and positions [B'] of the bins with samples.

    Example:
        >>> import torch
        >>> kept = occupied(Distribution(torch.tensor([[3, 0, 1], [2, 0, 2]]), torch.arange(3.0)))
        >>> kept.positions.tolist()
        [0.0, 2.0]
    """
    keep = distribution.numbers.flatten(0, -2).any(dim=0)
    return Distribution(distribution.numbers[..., keep], distribution.positions[keep], distribution.blind)


def unresolved(numbers: Tensor, mixed: Tensor) -> Tensor:
    """Groups with too many unequal samples in one bin for distances to be meaningful.

    Values far from the origin, or scores close to 0, may all share a bin: their distances would be 0, which is no
    evidence of equality. Too many means a share above :data:`BLIND` and a number above the square root of the number of
    samples, which is the uncertainty of sampling itself.

    Args:
        numbers: Number of samples [..., G, B], of the original samples, since replicates fill bins by chance.
        mixed: Bins whose samples differ, bool[B], so that counts do not tell their order.

    Returns:
        bool[..., G].

    Example:
        >>> import torch
        >>> unresolved(torch.tensor([[100, 0], [60, 40]]), torch.tensor([False, True])).tolist()
        [False, True]
    """
    most, total = (numbers * mixed).amax(dim=-1).double(), numbers.sum(dim=-1).double()
    # in a small group, a handful of samples exceeds that share by chance
    return (most > BLIND * total) & (most > total.sqrt())


def _below(numbers: Tensor) -> Tensor:
    """Share of each group at or below each bin; the last is exactly 1, or NaN if the group is empty."""
    sums = numbers.double().cumsum(dim=-1)
    return sums / sums[..., -1:]


def _pairs(below: Tensor, reduced: Callable[[Tensor], Tensor]) -> Tensor:
    """``reduced`` distances of all pairs of groups; one group at a time, since replicates make them large."""
    groups = range(below.shape[-2])
    return torch.stack([reduced((below - below[..., a : a + 1, :]).abs()) for a in groups], dim=-2)
