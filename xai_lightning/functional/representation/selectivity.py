"""Selectivity of single units for classes, and for groups beyond the class; and the samples that activate them most.

In this module a *cell* is one group within one class.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.representation.matrix import checked

LEAST_PER_CLASS, LEAST_PER_CELL = 10, 5
_CONSTANT = 1e-24


class GroupSelectivity(NamedTuple):
    """How much units encode a group beyond the class, each float64[U]; NaN where it is undefined.

    Attributes:
        value: Share of the variance within classes that the group explains, in [0, 1].
        chance: Its expectation if groups were permuted at random within each class.
    """

    value: Tensor
    chance: Tensor


def class_sums(h: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor]:
    """Sums by class for :func:`class_selectivity`; those of several batches add up, so not all samples need be held.

    Args:
        h: float[N, U], activations.
        labels: int64[N], classes from 0; negative values mean no class, and are left out.
        classes: number of classes K.

    Returns:
        float64[K, U], sums, and int64[K], counts.

    Raises:
        ValueError: if there is not one label below K for each row.

    Example:
        >>> class_sums(torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([0, 1, 1]), classes=2)[0].tolist()
        [[1.0], [6.0]]
    """
    x = checked(h)
    _check_codes("labels", labels, len(x))
    if len(labels) and int(labels.max()) >= classes:
        raise ValueError(f"`labels` must be below {classes} classes, got {int(labels.max())}.")
    held = labels >= 0
    of = labels[held].to(x.device)
    return x.new_zeros(classes, x.shape[1]).index_add_(0, of, x[held]), of.bincount(minlength=classes)


def class_selectivity(sums: Tensor, counts: Tensor, *, least: int = LEAST_PER_CLASS) -> Tensor:
    r"""How much more a unit fires for its favourite class than for the others on average.

    .. math:: (\mu_{max} - \mu_{-max}) / (\mu_{max} + \mu_{-max})

    with the largest mean activation over classes, and the mean of the other classes' means. 0 means that all classes
    activate the unit equally, 1 that only one does. It is above 0 by chance, more so the fewer samples a class has. A
    network may do well without selective units, so neither value is good.

    Args:
        sums: float64[K, U], sums of activations by class (:func:`class_sums`).
        counts: int64[K], samples by class.
        least: classes with fewer samples are left out.

    Returns:
        float64[U] in [0, 1]; NaN for a unit that never fired or has a negative mean for some class, and for all units
        with fewer than two classes.

    Raises:
        ValueError: if the shapes do not fit.

    Example:
        >>> class_selectivity(torch.tensor([[30.0, 20.0], [10.0, 20.0]]), torch.tensor([10, 10]))
        tensor([0.5000, 0.0000], dtype=torch.float64)

    References:
        A. S. Morcos et al., On the importance of single directions for generalization, ICLR 2018, section 2.3 (with a
        constant in the denominator, which is left out here, so that the scale does not matter).
    """
    if sums.dim() != 2 or counts.shape != sums.shape[:1]:
        got = f"{tuple(sums.shape)} and {tuple(counts.shape)}"
        raise ValueError(f"`sums` and `counts` must be float64[K, U] and int64[K], got shapes {got}.")
    large = counts >= max(1, least)
    means = sums[large].double() / counts[large][:, None]
    if len(means) < 2:
        return means.new_full((sums.shape[1],), torch.nan)
    best = means.amax(0)
    others = (means.sum(0) - best) / (len(means) - 1)
    found = (best - others) / (best + others)
    return found.clamp(0, 1).where((means.amin(0) >= 0) & (best > 0) & best.isfinite(), torch.nan)


def group_selectivity(h: Tensor, labels: Tensor, groups: Tensor, *, least: int = LEAST_PER_CELL) -> GroupSelectivity:
    r"""How much each unit encodes the group beyond the class: the explained share of the variance within classes.

    .. math:: \eta^2 = \sum_y \sum_g n_{yg} (\mu_{yg} - \mu_y)^2 / \sum_y \sum_i (h_i - \mu_y)^2

    Samples are compared with samples of the same class only, so that a unit which encodes the class, and thereby a
    group in which that class is more frequent, does not exceed chance. 0 means that groups do not differ in their mean,
    1 that within each class the unit is a function of the group. If groups are permuted at random within each class,
    the expected value is exactly

    .. math:: \sum_y S_y (G_y - 1) / (n_y - 1) / \sum_y S_y,\quad S_y = \sum_i (h_i - \mu_y)^2

    with the numbers of groups G and samples n of class y; only a larger value is evidence. It does not detect a
    difference in spread alone, one outlier may hide a difference, and a group that is encoded is not necessarily used.
    Activations may have any sign. The largest of many units exceeds chance by itself: see :func:`largest_by_chance`.

    Args:
        h: float[N, U], activations, one row per sample (rows of one sample are not independent).
        labels: int64[N], classes from 0; negative values mean no class, and are left out.
        groups: int64[N], groups from 0; negative values mean no group, and are left out.
        least: cells with fewer samples are left out, and then classes with fewer than two groups.

    Returns:
        Value and chance; NaN for a unit that is constant within each class or not finite, and for all units if nothing
        is left.

    Raises:
        ValueError: if there is not one label and group for each row.

    Example:
        >>> labels, groups = torch.tensor([0, 1]).repeat_interleave(10), torch.tensor([0, 1]).repeat(10)
        >>> h = torch.stack([groups + 5.0 * labels, 5.0 * labels + torch.arange(20) // 2 % 5], dim=1)
        >>> found = group_selectivity(h, labels, groups)
        >>> found.value.tolist(), round(found.chance[0].item(), 4)
        ([1.0, 0.0], 0.1111)

    References:
        R. A. Fisher, Statistical methods for research workers, 1925 (correlation ratio); its mean under permutation:
        E. J. G. Pitman, Significance tests which may be applied to samples from any populations III, Biometrika 29,
        1938.
    """
    cells = _cells(h, labels, groups, least)
    return GroupSelectivity(_explained(cells, cells.cell), _by_chance(cells))


def largest_by_chance(
    h: Tensor,
    labels: Tensor,
    groups: Tensor,
    *,
    least: int = LEAST_PER_CELL,
    repeats: int = 50,
    seed: int = 0,
) -> Tensor:
    """Expected largest :func:`group_selectivity` of all units if no unit encoded the group.

    It is estimated by random permutations of the groups within each class.

    Args:
        h: float[N, U], as for :func:`group_selectivity`.
        labels: int64[N], likewise.
        groups: int64[N], likewise.
        least: likewise.
        repeats: number of permutations, R.
        seed: seed of the private generator.

    Returns:
        float64[], NaN if no unit has a value.

    Raises:
        ValueError: if there is not one label and group for each row, or ``repeats`` is below 1.

    Example:
        >>> labels, groups = torch.zeros(20, dtype=torch.int64), torch.tensor([0, 1]).repeat(10)
        >>> h = torch.randn(20, 50, generator=torch.Generator().manual_seed(0))
        >>> chance = group_selectivity(h, labels, groups).chance.mean()
        >>> bool(largest_by_chance(h, labels, groups) > 3 * chance)
        True
    """
    if repeats < 1:
        raise ValueError(f"`repeats` must be at least 1, got {repeats}.")
    cells = _cells(h, labels, groups, least)
    generator = torch.Generator().manual_seed(seed)
    order = torch.argsort(cells.stratum, stable=True)
    total = cells.x.new_zeros(())
    for _ in range(repeats):
        random = torch.rand(len(order), generator=generator, dtype=torch.float64, device="cpu").to(order.device)
        shuffled = torch.argsort(random)
        within = shuffled[torch.argsort(cells.stratum[shuffled], stable=True)]
        dealt = torch.empty_like(cells.cell)
        dealt[order] = cells.cell[within]
        found = _explained(cells, dealt)
        total += found.nan_to_num(-torch.inf).amax() if len(found) else torch.nan
    return (total / repeats).where(total.isfinite(), torch.nan)


def most_selective(selectivity: Tensor, count: int) -> Tensor:
    """Units with the largest values, the largest first; undefined ones are left out.

    Args:
        selectivity: float64[U].
        count: largest number of units.

    Returns:
        int64[V], at most ``count`` units; ties are in the order of the units.

    Example:
        >>> most_selective(torch.tensor([0.2, torch.nan, 0.9]), 3)
        tensor([2, 0])
    """
    order = selectivity.nan_to_num(-torch.inf).argsort(descending=True, stable=True)
    return order[selectivity[order].isfinite()][:count]


def top_samples(h: Tensor, units: Tensor, count: int) -> Tensor:
    """The samples that activate given units most, the strongest first.

    Args:
        h: float[N, U], activations, one row per sample.
        units: int64[V], indices of units.
        count: largest number of samples per unit.

    Returns:
        int64[V, min(count, N)], rows of ``h``; ties are in the order of the rows, and non-finite values come last.

    Raises:
        ValueError: if ``h`` is not a matrix.

    Example:
        >>> top_samples(torch.tensor([[1.0], [3.0], [2.0]]), torch.tensor([0]), 2)
        tensor([[1, 2]])
    """
    x = checked(h)[:, units.to(h.device)]
    return x.where(x.isfinite(), -torch.inf).argsort(dim=0, descending=True, stable=True)[:count].T


class _Cells(NamedTuple):
    """Samples of sufficiently large cells, minus the mean of their class, with their class and cell."""

    x: Tensor
    stratum: Tensor
    cell: Tensor
    sizes: Tensor
    group_counts: Tensor
    spread: Tensor


def _cells(h: Tensor, labels: Tensor, groups: Tensor, least: int) -> _Cells:
    x = checked(h)
    _check_codes("labels", labels, len(x))
    _check_codes("groups", groups, len(x))
    held, stratum, cell, of = _kept(labels.to(x.device), groups.to(x.device), max(1, least))
    x, sizes = x[held], cell.bincount()
    strata = stratum.bincount()
    # a mean far larger than all differences must not hide them
    x = x - x[:1]
    means = x.new_zeros(len(strata), x.shape[1]).index_add_(0, stratum, x) / strata[:, None]
    size = x.square().sum(0)
    x = x - means[stratum]
    spread = x.new_zeros(len(strata), x.shape[1]).index_add_(0, stratum, x.square())
    constant = spread.sum(0) <= _CONSTANT * size
    return _Cells(x, stratum, cell, sizes, of.bincount(minlength=len(strata)), spread.masked_fill(constant, 0.0))


def _kept(labels: Tensor, groups: Tensor, least: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mask of the kept rows, ``bool[N]``; class and cell of each, numbered from 0; the class of each cell."""
    pairs = torch.stack([labels, groups], dim=1)
    cells, cell, numbers = torch.unique(pairs, dim=0, return_inverse=True, return_counts=True)
    large = (cells >= 0).all(1) & (numbers >= least)
    # a class with a single remaining cell has nothing to compare
    large &= (cells[:, :1] == cells[large][None, :, 0]).sum(1) >= 2
    held = large[cell]
    cell = (large.cumsum(0) - 1)[cell[held]]
    _, of_cell = torch.unique(cells[large][:, 0], return_inverse=True)
    return held, of_cell[cell], cell, of_cell


def _explained(cells: _Cells, cell: Tensor) -> Tensor:
    sums = cells.x.new_zeros(len(cells.sizes), cells.x.shape[1]).index_add_(0, cell, cells.x)
    between = (sums.square() / cells.sizes[:, None]).sum(0)
    total = cells.spread.sum(0)
    return (between / total).clamp(max=1.0).where(total > 0, torch.nan)


def _by_chance(cells: _Cells) -> Tensor:
    free = (cells.group_counts - 1) / (cells.stratum.bincount() - 1).clamp(min=1)
    total = cells.spread.sum(0)
    return ((cells.spread * free[:, None]).sum(0) / total).where(total > 0, torch.nan)


def _check_codes(name: str, codes: Tensor, samples: int) -> None:
    if codes.shape != (samples,) or codes.is_floating_point() or codes.dtype == torch.bool:
        raise ValueError(f"`{name}` must be int64[{samples}], got {codes.dtype} of shape {tuple(codes.shape)}.")
