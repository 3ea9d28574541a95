"""Means of independent samples, with the variance and number that confidence limits need."""

from typing import NamedTuple

import torch
from torch import Tensor


class Means(NamedTuple):
    """Mean of a quantity in each group, float64[..., G].

    The variance of the mean is ``variance / number``; groups share no samples, so the variance of a difference is
    the sum of variances.

    Attributes:
        value: Mean, NaN without samples.
        variance: Unbiased variance of one sample, NaN below two samples.
        number: Number of samples.
    """

    value: Tensor
    variance: Tensor
    number: Tensor


def means(value: Tensor, deviations: Tensor, number: Tensor) -> Means:
    """Means with the variance computed from their sums of squared deviations.

    Args:
        value: float64[..., G], mean of each group.
        deviations: float64[..., G], sum of the squared deviations from it; values below 0 (from rounding) count as 0.
        number: float64[..., G], number of samples.

    Returns:
        The means, NaN where there is no sample, with variances that are NaN below two samples.

    Example:
        >>> import torch
        >>> [float(part) for part in means(*torch.tensor([[2.0], [6.0], [4.0]], dtype=torch.float64))]
        [2.0, 2.0, 4.0]
    """
    nothing = torch.full_like(value, torch.nan)
    variance = torch.where(number < 2, nothing, deviations.clamp_min(0) / (number - 1))
    return Means(torch.where(number < 1, nothing, value), variance, number)
