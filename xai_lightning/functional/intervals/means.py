"""Confidence limits of means, from their variance."""

import math
from functools import cache

import torch
from torch import Tensor

from xai_lightning.functional.intervals.mover import Interval
from xai_lightning.functional.intervals.proportions import normal_score
from xai_lightning.functional.student import student_quantile

_MANY = 200
"""Degrees of freedom above which three terms of the expansion give the quantile to 1e-6."""


def student_mean(value: Tensor, variance: Tensor, number: Tensor, error: float) -> Interval:
    r"""Limits of the mean of independent samples, by Student's t.

    .. math:: \bar x \pm t_{n-1}(1 - \text{error}) \sqrt{s^2 / n}

    Approximate where the samples are few and not normal.

    Args:
        value: Mean of the samples, float64[...].
        variance: Unbiased variance of one sample, float64[...].
        number: Number of samples, [...].
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...]; NaN where there are fewer than two samples, infinite if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5).

    Example:
        >>> import torch
        >>> limits = student_mean(torch.tensor(1.0), torch.tensor(8.0), torch.tensor(8), error=0.025)
        >>> [round(float(limit), 4) for limit in limits]
        [-1.3646, 3.3646]

    References:
        Student, The probable error of a mean, Biometrika 6, 1908.
    """
    score = normal_score(error)
    if math.isinf(score):
        undefined = (number < 2) | value.isnan()
        return Interval(*(torch.where(undefined, math.nan, side * math.inf) for side in (-1.0, 1.0)))
    scores = torch.tensor(
        [student_score(error, int(n) - 1) for n in number.reshape(-1).tolist()], dtype=torch.float64, device="cpu"
    )
    half = scores.reshape(number.shape).to(value.device) * (variance / number).sqrt()
    return Interval(value - half, value + half)


@cache
def student_score(error: float, freedom: int) -> float:
    """Upper quantile of Student's t; NaN below one degree of freedom.

    Args:
        error: Probability above the quantile, in (0, 0.5).
        freedom: Degrees of freedom.

    Example:
        >>> round(student_score(0.025, 7), 4), round(student_score(0.025, 1000), 4)
        (2.3646, 1.9623)

    References:
        M. Abramowitz, I. A. Stegun, Handbook of mathematical functions, 1964, 26.7.5.
    """
    if freedom < 1:
        return math.nan
    if freedom <= _MANY:
        return student_quantile(1 - error, freedom)
    z, v = normal_score(error), float(freedom)
    first, second = (z**3 + z) / 4, (5 * z**5 + 16 * z**3 + 3 * z) / 96
    return z + first / v + second / v**2 + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384 / v**3
