"""The coefficient of determination: how much better predictions are than the mean of the targets."""

from statistics import NormalDist

import torch
from torch import Tensor

from xai_lightning.functional.fairness.floats import value_centres
from xai_lightning.functional.fairness.regression import Residuals
from xai_lightning.functional.fairness.utility import Floor

_CONSTANT = 1e-7
"""Targets whose relative spread is this small count as equal: float32 does not tell them apart."""


def determination(sums: Residuals, error: float) -> Floor:
    r"""Share of the variance of the targets that the predictions explain, with its lower confidence limit.

    .. math:: R^2 = 1 - \frac{\sum_i (y_i - \hat y_i)^2}{\sum_i (y_i - \bar y)^2}

    1 means that every prediction is exact, 0 that predictions are no better than the mean of the targets, and values
    below 0 that they are worse. It does not show which group bears the errors. The limit is the smallest value
    :math:`\rho` for which the paired differences :math:`(1 - \rho)(y_i - \bar y)^2 - (y_i - \hat y_i)^2` do not have a
    mean significantly above 0; it is above 0 if and only if the predictions beat the mean of the targets significantly.
    It is approximate, since it assumes that the mean of the differences is normal: in simulations, 95 % limits hold in
    .94 to .96 of cases from 30 samples on if errors are normal, and in .89 with 30 and .93 with 1000 samples if they
    have heavy tails (five degrees of freedom).

    Args:
        sums: Sums of all samples; all groups count together.
        error: One-sided error probability of the limit, in [0, 0.5).

    Returns:
        Value and lower limit, float64 scalars, at most 1; both NaN below two samples or if all targets are equal. The
        limit is ``-inf`` if ``error`` is 0, or if too few targets differ to bound the value.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5).

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness.regression import residual_sums
        >>> targets = torch.arange(100.0)
        >>> sums = residual_sums(targets + 10 * targets.sin(), targets, torch.zeros(100).long(), n_groups=1)
        >>> found = determination(sums, error=0.05)
        >>> round(float(found.value), 4), round(float(found.bound), 4)
        (0.94, 0.9271)

    References:
        E. C. Fieller, Some problems in interval estimation, Journal of the Royal Statistical Society B 16, 1954.
    """
    if not 0 <= error < 0.5:
        raise ValueError(f"error must lie in [0, 0.5), got {error!r}")
    number = sums.targets.sum().double()
    own, mean, *spreads = _moments(sums)
    if number < 2 or bool(mean <= _CONSTANT**2 * _size(sums)):
        return Floor(torch.full_like(own, torch.nan), torch.full_like(own, torch.nan))
    value = 1 - own / mean
    if error == 0:
        return Floor(value, torch.full_like(own, -torch.inf))
    scale = NormalDist().inv_cdf(1 - error) ** 2 / (number - 1)
    return Floor(value, 1 - _upper_ratio(own, mean, [scale * part for part in spreads]))


def _moments(sums: Residuals) -> list[Tensor]:
    """Means of the squared errors of the predictions (own) and of the mean, and their variances and covariance.

    Both means first, then the variance of own, the covariance and the variance of mean, all of the samples at hand.
    """
    number = sums.targets.double()
    total = number.sum()
    centres = value_centres(number.device)
    u1, u2, u3, u4, r, ru, ruu = sums.target_sums.unbind()
    # centred on the mean, via the bins' centres: raw fourth powers of targets far from 0 would lose the spread
    away = centres - ((number * centres).sum() + u1.sum()) / total
    mean = (number * away**2 + 2 * away * u1 + u2).sum() / total
    mean_mean = (number * away**4 + 4 * away**3 * u1 + 6 * away**2 * u2 + 4 * away * u3 + u4).sum() / total
    own_mean = (away**2 * r + 2 * away * ru + ruu).sum() / total
    own, own_own = r.sum() / total, sums.fourth_powers.sum() / total
    return [own, mean, own_own - own**2, own_mean - own * mean, mean_mean - mean**2]


def _size(sums: Residuals) -> Tensor:
    """Mean square of the targets."""
    number = sums.targets.double()
    centres = value_centres(number.device)
    return (number * centres**2 + 2 * centres * sums.target_sums[0] + sums.target_sums[1]).sum() / number.sum()


def _upper_ratio(own: Tensor, mean: Tensor, spreads: list[Tensor]) -> Tensor:
    """Upper limit of the ratio of two means; ``spreads``: their (co)variances times the squared normal score."""
    own_own, both, mean_mean = spreads
    square = mean**2 - mean_mean
    if bool(square <= 0):
        return torch.full_like(own, torch.inf)
    linear = own * mean - both
    rest = linear**2 - square * (own**2 - own_own)
    return (linear + rest.clamp_min(0).sqrt()) / square
