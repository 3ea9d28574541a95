"""Predictions that are numbers: sums per group, and what they say of predictions and errors.

All sums are taken around the middles of bins (:mod:`~xai_lightning.functional.fairness.floats`) that hold the values.
Sums of raw powers would lose the spread of targets that lie far from 0, and a shift by the mean of what came first
would make the sums of two ranks differ.
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
"""Spread within a bin, as part of its centre, up to which its values are equal: float32 tells no more apart."""
_BLOCK = 1 << 16
"""Samples that are counted at once, so that memory does not grow with them."""


class Residuals(NamedTuple):
    """Sums over samples, per group G and bin B; those of several batches or ranks add up field by field.

    A residual is r, the target less the prediction. u is the distance of a value from the middle of its bin.

    Attributes:
        predictions: int64[G, B], number of samples by prediction.
        prediction_sums: float64[2, G, B], sums of u and of its square.
        residuals: int64[G, B], number of samples by residual.
        residual_sums: float64[2, G, B], sums of u and of its square.
        fourth_powers: float64[G], sum of the fourth powers of the residuals.
        targets: int64[B], number of samples of all groups by target.
        target_sums: float64[7, B], sums of u, its square, cube and fourth power, and of the squared residual alone,
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

    Numbers of samples are equal in any split and order of the samples, sums of floats up to rounding.

    Args:
        predictions: Real numbers of any dtype, [N] or any shape that all three share, finite.
        targets: Real numbers like ``predictions``, finite.
        groups: Integer like ``predictions``, groups in 0..G-1.
        n_groups: Number of groups G, at least 1.
        origin: Subtracted from predictions and targets first. Distributions are resolved to about 1 % of the distance
            from it, so a value among the targets resolves best; all sums that are added up need the same.
        into: Sums that are added to, in place, in place of new ones: 1.5 megabytes per group need not be made for each
            batch.

    Returns:
        The sums, on the device of the arguments; ``into`` itself if it is given.

    Raises:
        ValueError: If shapes differ, a prediction, a target or ``origin`` is not finite, a group is outside its range,
            ``n_groups`` is below 1, or ``into`` has another number of groups. ``into`` is then as before.
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
    """Sums of the samples of both.

    Args:
        a: Sums of some samples.
        b: Sums of others, of the same groups and with the same origin.

    Returns:
        Sums of all of them.

    Raises:
        ValueError: If the numbers of groups differ.

    Example:
        >>> import torch
        >>> one = residual_sums(torch.ones(2), torch.zeros(2), torch.tensor([0, 1]), n_groups=2)
        >>> merge(one, one).residuals.sum(dim=1).tolist()
        [2, 2]
    """
    if len(a.residuals) != len(b.residuals):
        raise ValueError(f"sums must be of equally many groups, got {len(a.residuals)} and {len(b.residuals)}")
    return Residuals(*(left + right for left, right in zip(a, b, strict=True)))


def distribution(sums: Residuals, of: Literal["predictions", "residuals"]) -> Distribution:
    """Distribution of the predictions or the residuals of each group, in the bins that hold any.

    A bin lies at the mean of its samples. Of predictions, ``kolmogorov_to_overall`` is statistical parity and
    ``wasserstein`` the distance in units of the target; of residuals, ``kolmogorov`` is the parity of errors (all in
    :mod:`~xai_lightning.functional.fairness.distances`). Values that differ by less than about 1 % of their distance
    from the origin (of residuals: from 0) are not told apart; ``coarseness`` says how many may not be.

    Args:
        sums: Sums of all samples.
        of: ``predictions`` (less the origin) or ``residuals``.

    Returns:
        Numbers int64[G, B'], positions float64[B'], and for which groups bins are too wide bool[G].

    Raises:
        ValueError: If ``of`` is neither.

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
    # A bin is 1/127 of its centre wide at least: this is far below it, and far above the rounding of its sums.
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
        # from the bin's centre: added up as they are, squares of large values would swallow small ones
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
