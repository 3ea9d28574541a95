"""Numeric predictions: sums per group, and the distributions of predictions and errors.

All sums are centred on the middles of the bins (:mod:`~xai_lightning.functional.fairness.floats`) that hold the values.
Sums of raw powers would lose the spread of targets far from 0, and sums centred on the mean of the first samples could
not be added across ranks.
"""

from functools import partial
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.checks import check_groups, check_indices, check_range, check_shapes
from xai_lightning.functional.fairness.distances import Distribution, occupied, unresolved
from xai_lightning.functional.fairness.floats import VALUE_BINS, value_bins, value_centres
from xai_lightning.functional.precision import exact_device

_EQUAL = 1e-6
"""Spread within a bin, relative to its centre, up to which its values count as equal: the precision of float32."""
_BLOCK = 1 << 16
"""Samples counted at once, so that memory does not grow with their number."""


class Residuals(NamedTuple):
    """Sums over samples, per group G and bin B; those of several batches or ranks add up field by field.

    A residual r is target minus prediction. u is the signed distance of a value from the middle of its bin.

    Attributes:
        predictions: int64[G, B], number of samples by prediction.
        prediction_sums: float64[2, G, B], sums of u and of its square.
        residuals: int64[G, B], number of samples by residual.
        residual_sums: float64[2, G, B], sums of u and of its square.
        fourth_powers: float64[G], sum of the fourth powers of the residuals.
        targets: int64[B], number of samples of all groups by target.
        target_sums: float64[7, B], sums of u, its square, cube and fourth power, and of the squared residual, alone,
            times u and times the square of u.
    """

    predictions: Tensor
    prediction_sums: Tensor
    residuals: Tensor
    residual_sums: Tensor
    fourth_powers: Tensor
    targets: Tensor
    target_sums: Tensor


def residual_sums(
    predictions: Tensor,
    targets: Tensor,
    groups: Tensor,
    *,
    n_groups: int,
    origin: float = 0.0,
    into: Residuals | None = None,
) -> Residuals:
    """Sums of predictions, targets and residuals per group.

    Any split and order of the samples gives equal numbers of samples, and sums of floats that are equal up to rounding.

    Args:
        predictions: Real numbers of any dtype, [N] or any shape that all three share, finite.
        targets: Real numbers like ``predictions``, finite.
        groups: Integer like ``predictions``, groups in 0..G-1.
        n_groups: Number of groups G, at least 1.
        origin: Subtracted from predictions and targets first. Distributions are resolved to about 1 % of the distance
            from it, so a value among the targets resolves best; all sums that are added up need the same origin.
        into: Sums to update in place, instead of allocating new ones (1.5 megabytes per group) for each batch.

    Returns:
        The sums, on the device of the arguments; ``into`` itself if it is given.

    Raises:
        ValueError: If shapes differ, a prediction, a target or ``origin`` is not finite, a group is outside its range,
            ``n_groups`` is below 1, or ``into`` has another number of groups. ``into`` is then unchanged.
        TypeError: If groups are not integers, or predictions or targets are complex.

    Example:
        >>> import torch
        >>> sums = residual_sums(
        ...     torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 3.0, 3.0]), torch.tensor([0, 0, 1]), n_groups=2
        ... )
        >>> sums.residuals.sum(dim=1).tolist(), sums.fourth_powers.tolist()
        ([2, 1], [1.0, 1.0])
    """
    check_groups(n_groups)
    check_shapes({"predictions": predictions, "targets": targets, "groups": groups})
    check_range({"predictions": predictions, "targets": targets, "origin": torch.tensor(origin, device="cpu")})
    check_indices({"groups": groups}, (n_groups,))
    if into is not None and len(into.residuals) != n_groups:
        raise ValueError(f"into must be sums of {n_groups} groups, got {len(into.residuals)}")
    home = exact_device(predictions.device)
    sums = _nothing(n_groups, home) if into is None else into
    columns = [part.reshape(-1).to(home) for part in (predictions, targets, groups)]
    for start in range(0, predictions.numel(), _BLOCK):
        predicted, actual, group = (part[start : start + _BLOCK] for part in columns)
        _add(sums, predicted.double() - origin, actual.double() - origin, group.long())
    return sums


def merge(a: Residuals, b: Residuals) -> Residuals:
    """Sums of the samples of both arguments.

    Args:
        a: Sums of some samples.
        b: Sums of other samples, for the same groups and with the same origin.

    Returns:
        Sums of all samples.

    Raises:
        ValueError: If the numbers of groups differ.

    Example:
        >>> import torch
        >>> one = residual_sums(torch.ones(2), torch.zeros(2), torch.tensor([0, 1]), n_groups=2)
        >>> merge(one, one).residuals.sum(dim=1).tolist()
        [2, 2]
    """
    if len(a.residuals) != len(b.residuals):
        raise ValueError(f"sums must have the same number of groups, got {len(a.residuals)} and {len(b.residuals)}")
    return Residuals(*(left + right for left, right in zip(a, b, strict=True)))


def distribution(sums: Residuals, of: Literal["predictions", "residuals"]) -> Distribution:
    """Distribution of the predictions or the residuals of each group, in the bins that hold any.

    The position of a bin is the mean of its samples. For predictions, ``kolmogorov_to_overall`` measures statistical
    parity and ``wasserstein`` the distance in units of the target; for residuals, ``kolmogorov`` measures parity of
    errors (all in :mod:`~xai_lightning.functional.fairness.distances`). Values that differ by less than about 1 % of
    their distance from the origin (residuals: from 0) are not distinguished; ``coarseness`` tells how many at most.

    Args:
        sums: Sums of all samples.
        of: ``predictions`` (less the origin) or ``residuals``.

    Returns:
        Numbers int64[G, B'], positions float64[B'], and the groups for which bins are too wide, bool[G].

    Raises:
        ValueError: If ``of`` is something else.

    Example:
        >>> import torch
        >>> sums = residual_sums(torch.tensor([1.0, 2.0]), torch.zeros(2), torch.tensor([0, 1]), n_groups=2)
        >>> parts = distribution(sums, "predictions")
        >>> parts.numbers.tolist(), parts.positions.tolist()
        ([[1, 0], [0, 1]], [1.0, 2.0])
    """
    if of not in ("predictions", "residuals"):
        raise ValueError(f"of must be 'predictions' or 'residuals', got {of!r}")
    numbers = sums.predictions if of == "predictions" else sums.residuals
    moments = sums.prediction_sums if of == "predictions" else sums.residual_sums
    centres, total = value_centres(numbers.device), numbers.sum(dim=0).clamp_min(1)
    mean, square = (moment.sum(dim=0) / total for moment in moments)
    # A bin is at least 1/127 of its centre wide: far above this threshold, which is far above the rounding of sums.
    mixed = (square - mean.square()).clamp_min(0).sqrt() > _EQUAL * centres.abs()
    return occupied(Distribution(numbers, centres + mean, unresolved(numbers, mixed)))


def _nothing(n_groups: int, device: torch.device) -> Residuals:
    whole = partial(torch.zeros, dtype=torch.int64, device=device)
    real = partial(torch.zeros, dtype=torch.float64, device=device)
    return Residuals(
        predictions=whole((n_groups, VALUE_BINS)),
        prediction_sums=real((2, n_groups, VALUE_BINS)),
        residuals=whole((n_groups, VALUE_BINS)),
        residual_sums=real((2, n_groups, VALUE_BINS)),
        fourth_powers=real((n_groups,)),
        targets=whole((VALUE_BINS,)),
        target_sums=real((7, VALUE_BINS)),
    )


def _add(sums: Residuals, predicted: Tensor, actual: Tensor, group: Tensor) -> None:
    """Add a block of samples, in place."""
    centres = value_centres(predicted.device)
    residual = actual - predicted
    squared = residual.square()
    for values, numbers, moments in (
        (predicted, sums.predictions, sums.prediction_sums),
        (residual, sums.residuals, sums.residual_sums),
    ):
        bins = value_bins(values)
        # centred on the bin: in a sum of raw squares, large values would swallow small ones
        u = values - centres[bins]
        _scatter(numbers, moments, group * VALUE_BINS + bins, [u, u.square()])
    sums.fourth_powers.index_add_(0, group, squared.square())
    bins = value_bins(actual)
    u = actual - centres[bins]
    u2 = u.square()
    powers = [u, u2, u2 * u, u2.square(), squared, squared * u, squared * u2]
    _scatter(sums.targets, sums.target_sums, bins, powers)


def _scatter(numbers: Tensor, moments: Tensor, cell: Tensor, values: list[Tensor]) -> None:
    numbers.view(-1).index_add_(0, cell, torch.ones_like(cell))
    for column, value in zip(moments, values, strict=True):
        column.view(-1).index_add_(0, cell, value)
