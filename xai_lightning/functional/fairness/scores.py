"""Scores as integer counts on a fixed grid per group: the state of all statistics of scores.

The grid has :data:`SCORE_BINS` bins of equal width on [0, 1]. Beside the numbers of samples, it holds the sums of the
scores and of their squares as integers in units of 2^-30: unlike floats, integers have the same sum in any order.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.checks import check_groups, check_indices, check_range, check_shapes
from xai_lightning.functional.fairness.distances import Distribution, kolmogorov, unresolved, wasserstein

SCORE_BINS = 1024
"""Number of bins of the grid of scores."""

_BITS = 30
"""Scores are counted in units of 2^-30: 8 billion samples fit into a sum."""
_BLOCK = 1 << 16
"""Samples counted at once, so that memory does not grow with their number and they stay in the cache."""


def score_counts(
    scores: Tensor, targets: Tensor, groups: Tensor, *, n_groups: int, into: Tensor | None = None
) -> Tensor:
    """Number of samples, sum of scores and sum of their squares per group, target and bin of the score.

    The counts of several batches or ranks add up, exactly and in any order, to the counts of all samples together.
    Scores are rounded to 2^-30 first.

    Args:
        scores: Real numbers of any dtype, [N] or any shape that all three share: probabilities of the favourable
            class, in [0, 1].
        targets: Integer or bool like ``scores``, 1 if the sample is of the favourable class and 0 if not.
        groups: Integer like ``scores``, groups in 0..G-1.
        n_groups: Number of groups G, at least 1.
        into: Counts of earlier samples, int64[G, 2, 1024, 3], which are updated in place and returned.

    Returns:
        int64[G, 2, 1024, 3] on the device of the arguments, indexed [group, target, bin, column]; the columns are
        the number of samples, the sum of the scores and the sum of the squared scores, the sums in units of 2^-30.

    Raises:
        ValueError: If shapes differ, a score is not finite or outside [0, 1], a target or group is outside its range,
            ``n_groups`` is below 1, or ``into`` has another shape; ``into`` is then unchanged.
        TypeError: If targets or groups are not integers, or scores are complex.

    Example:
        >>> import torch
        >>> counts = score_counts(
        ...     torch.tensor([0.5, 0.5, 1.0]), torch.tensor([1, 1, 0]), torch.tensor([0, 0, 1]), n_groups=2
        ... )
        >>> counts[0, 1, 512].tolist(), counts[1, 0, 1023].tolist()
        ([2, 1073741824, 536870912], [1, 1073741824, 1073741824])
    """
    check_groups(n_groups)
    check_shapes({"scores": scores, "targets": targets, "groups": groups})
    check_range({"scores": scores}, 0, 1)
    check_indices({"targets": targets, "groups": groups}, (2, n_groups))
    columns = [part.reshape(-1) for part in (scores, targets, groups)]
    shape = (n_groups, 2, SCORE_BINS, 3)
    if into is None:
        into = torch.zeros(shape, dtype=torch.int64, device=scores.device)
    elif into.shape != shape:
        raise ValueError(f"into must be counts of shape {list(shape)}, got {list(into.shape)}")
    sums = into.view(-1, 3).T
    for start in range(0, scores.numel(), _BLOCK):
        _add(sums, *(part[start : start + _BLOCK] for part in columns))
    return into


class Scored(NamedTuple):
    """Samples per group, target and bin of the score, and the mean score of each cell.

    Attributes:
        numbers: Number of samples, int64 or float64[..., G, 2, B]; leading dimensions are replicates.
        means: Mean score of each cell, float64[G, 2, B]; the bin's centre if the cell is empty.
        squares: Mean squared score of each cell, float64[G, 2, B].
        sampled: For replicates, the numbers from which they were drawn, int64[G, 2, B]; None: ``numbers`` themselves.
    """

    numbers: Tensor
    means: Tensor
    squares: Tensor
    sampled: Tensor | None = None


def scored(counts: Tensor) -> Scored:
    """Numbers and mean scores from counts of scores.

    Bootstrap replicates resample the numbers only, and keep the mean score of each cell.

    Args:
        counts: int64[G, 2, B, 3], as made by :func:`score_counts`.

    Returns:
        Numbers int64[G, 2, B], means and mean squares float64[G, 2, B].

    Raises:
        ValueError: If ``counts`` has another layout.

    Example:
        >>> import torch
        >>> counts = score_counts(torch.tensor([0.25, 0.75]), torch.tensor([1, 1]), torch.tensor([0, 0]), n_groups=1)
        >>> cells = scored(counts)
        >>> int(cells.numbers.sum()), float((cells.numbers * cells.means).sum())
        (2, 1.0)
    """
    if counts.ndim != 4 or counts.shape[1] != 2 or counts.shape[3] != 3:
        raise ValueError(f"counts of scores must be [G, 2, B, 3], got shape {list(counts.shape)}")
    numbers = counts[..., 0]
    centres = _centres(counts.shape[2], counts.device)
    means, squares = (sums.double() / (numbers.double() * 2**_BITS) for sums in counts[..., 1:].unbind(-1))
    # empty cells may hold any number except NaN, which survives a multiplication by 0
    means, squares = torch.where(numbers > 0, means, centres), torch.where(numbers > 0, squares, centres**2)
    return Scored(numbers, means, squares, sampled=numbers)


def score_distribution(scored: Scored) -> Distribution:
    """Distribution of the scores of each group, whatever the target.

    Args:
        scored: Scores of all groups.

    Returns:
        Numbers [..., G, B] at the centres of the bins, and the groups for which bins are too wide, bool[G].

    Example:
        >>> import torch
        >>> scores = torch.tensor([0.25, 0.75])
        >>> counts = score_counts(scores, torch.tensor([0, 1]), torch.tensor([0, 0]), n_groups=1)
        >>> score_distribution(scored(counts)).numbers.shape
        torch.Size([1, 1024])
    """
    numbers = scored.numbers.sum(dim=-2)
    blind = unresolved(_drawn_from(scored).sum(dim=-2), mixed_bins(scored))
    return Distribution(numbers, _centres(numbers.shape[-1], numbers.device), blind)


def mixed_bins(scored: Scored) -> Tensor:
    """Bins of the grid whose scores differ, so that counts do not tell their order.

    Args:
        scored: Scores of all groups.

    Returns:
        bool[B].

    Example:
        >>> import torch
        >>> scores, none = torch.tensor([0.2501, 0.2509, 0.5, 0.5]), torch.zeros(4).long()
        >>> mixed_bins(scored(score_counts(scores, none, none, n_groups=1))).nonzero().tolist()
        [[256]]
    """
    present = _drawn_from(scored) > 0
    highest = torch.where(present, scored.means, -torch.inf).flatten(0, -2).amax(dim=0)
    lowest = torch.where(present, scored.means, torch.inf).flatten(0, -2).amin(dim=0)
    spread = torch.where(present, scored.squares - scored.means.square(), 0).flatten(0, -2).amax(dim=0)
    # scores and squares were rounded to 2^-30 before they were summed
    rounding = 2.0 ** (1 - _BITS)
    return (highest - lowest > rounding) | (spread > rounding)


def score_distance(scored: Scored) -> Tensor:
    r"""Largest distance between the distribution functions of the scores of two groups (Kolmogorov-Smirnov).

    .. math:: \sup_z |F_a(z) - F_b(z)|

    It is the demographic parity difference at the threshold where that is largest; 0 means that all thresholds select
    the same share of both groups. It does not show whether the scores are right. Distances within a bin of the grid are
    not resolved: see :func:`~xai_lightning.functional.fairness.distances.coarseness`.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G, G], symmetric, fractions in [0, 1]; NaN where a group is empty.

    Example:
        >>> import torch
        >>> scores, targets = torch.tensor([0.2, 0.4, 0.3, 0.9]), torch.tensor([0, 1, 0, 1])
        >>> counts = score_counts(scores, targets, torch.tensor([0, 0, 1, 1]), n_groups=2)
        >>> score_distance(scored(counts)).tolist()
        [[0.0, 0.5], [0.5, 0.0]]

    References:
        R. Jiang, A. Pacchiano, T. Stepleton, H. Jiang, S. Chiappa, Wasserstein fair classification, Uncertainty in
        Artificial Intelligence, 2019 (strong demographic parity).
    """
    return kolmogorov(score_distribution(scored))


def score_wasserstein(scored: Scored) -> Tensor:
    r"""Mean distance between the sorted scores of two groups (Wasserstein-1).

    .. math:: \int_0^1 |F_a(z) - F_b(z)|\,dz

    It is the demographic parity difference averaged over all thresholds; 0 means that all of them select the same share
    of both groups. It does not show whether the scores are right. It is off by at most one bin, 1/1024.

    Args:
        scored: Scores of all groups.

    Returns:
        float64[..., G, G], symmetric, probabilities in [0, 1]; NaN where a group is empty.

    Example:
        >>> import torch
        >>> scores, targets = torch.tensor([0.25, 0.5, 0.5, 0.75]), torch.tensor([0, 1, 0, 1])
        >>> counts = score_counts(scores, targets, torch.tensor([0, 0, 1, 1]), n_groups=2)
        >>> score_wasserstein(scored(counts)).tolist()
        [[0.0, 0.25], [0.25, 0.0]]

    References:
        R. Jiang, A. Pacchiano, T. Stepleton, H. Jiang, S. Chiappa, Wasserstein fair classification, Uncertainty in
        Artificial Intelligence, 2019.
    """
    return wasserstein(score_distribution(scored))


def _drawn_from(scored: Scored) -> Tensor:
    return scored.numbers if scored.sampled is None else scored.sampled


def _centres(bins: int, device: torch.device) -> Tensor:
    return (torch.arange(bins, dtype=torch.float64, device=device) + 0.5) / bins


def _add(sums: Tensor, scores: Tensor, targets: Tensor, groups: Tensor) -> None:
    """Add a block of samples to ``sums`` [3, cells], in place."""
    wide = scores if scores.dtype in (torch.float32, torch.float64) else scores.float()
    # A power of two scales without rounding, so the product is exact in float32 too.
    fixed = (wide * 2**_BITS).round().long()
    bins = (fixed * SCORE_BINS >> _BITS).clamp_max(SCORE_BINS - 1)
    cell = (groups.long() * 2 + targets.long()) * SCORE_BINS + bins
    # a square has twice the bits: rounded to the unit of the scores, so that billions of them fit into a sum
    squares = (fixed * fixed + (1 << (_BITS - 1))) >> _BITS
    for column, values in zip(sums, (torch.ones_like(fixed), fixed, squares), strict=True):
        column.index_add_(0, cell, values)
