"""Limits of a difference or ratio from those of its two parts: the method of variance estimates recovery (MOVER)."""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class Interval(NamedTuple):
    """Two limits, float64 and of equal shape; each holds at its own one-sided error.

    Attributes:
        lower: Lower limit, ``-inf`` if no error may be spent, NaN if undefined.
        upper: Upper limit, ``inf`` if no error may be spent, NaN if undefined.
    """

    lower: Tensor
    upper: Tensor


def mover_difference(value_a: Tensor, a: Interval, value_b: Tensor, b: Interval) -> Interval:
    r"""Limits of the difference a - b of two independent quantities of any kind.

    .. math:: \hat d - \sqrt{(\hat a - l_a)^2 + (u_b - \hat b)^2},
        \quad \hat d + \sqrt{(u_a - \hat a)^2 + (\hat b - l_b)^2}

    An interval that contains 0 does not show that the two are equal.

    Args:
        value_a: Estimate float64[...].
        a: Limits of ``value_a``, each at the desired one-sided error.
        value_b: Estimate float64[...], independent of ``value_a``.
        b: Limits of ``value_b``, at the same error.

    Returns:
        Limits, float64[...], at that error; NaN where a value is.

    Example:
        >>> import torch
        >>> x, y = torch.tensor(3.0), torch.tensor(1.0)
        >>> [float(v) for v in mover_difference(x, Interval(x - 3, x + 3), y, Interval(y - 4, y + 4))]
        [-3.0, 7.0]

    References:
        G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach,
        Statistics in Medicine 27, 2008.
    """
    difference = value_a - value_b
    lower = difference - torch.hypot(value_a - a.lower, b.upper - value_b)
    upper = difference + torch.hypot(a.upper - value_a, value_b - b.lower)
    return Interval(lower, upper)


def mover_quotient(value_a: Tensor, a: Interval, value_b: Tensor, b: Interval) -> Interval:
    r"""Limits of the ratio a / b of two independent, non-negative quantities.

    With :math:`A = l_a(2\hat a - l_a)`, :math:`B = u_b(2\hat b - u_b)`, :math:`C = u_a(2\hat a - u_a)`,
    :math:`D = l_b(2\hat b - l_b)` the roots are taken in the form that has no vanishing denominator:

    .. math:: \frac{A}{\hat a \hat b + \sqrt{\hat a^2 \hat b^2 - AB}}, \quad
        \frac{\hat a \hat b + \sqrt{\hat a^2 \hat b^2 - CD}}{D}

    Args:
        value_a: Estimate float64[...], at least 0.
        a: Limits of ``value_a``, each at the desired one-sided error.
        value_b: Estimate float64[...], at least 0, independent of ``value_a``.
        b: Limits of ``value_b``, at the same error.

    Returns:
        Limits, float64[...], in [0, inf]. For an estimate a = 0 the lower limit is 0, for b = 0 the upper limit is
        ``inf``; so 0/0, where the ratio is NaN, has the limits 0 and ``inf``. NaN where a value is; infinite (``-inf``,
        ``inf``) where the limits of a are.

    Example:
        >>> import torch
        >>> x, y = torch.tensor(0.3), torch.tensor(0.4)
        >>> limits = mover_quotient(x, Interval(x - 0.1, x + 0.1), y, Interval(y - 0.1, y + 0.1))
        >>> [round(float(v), 4) for v in limits]
        [0.4734, 1.1266]

    References:
        A. Donner, G. Y. Zou, Closed-form confidence intervals for functions of the normal mean and standard
        deviation, Statistical Methods in Medical Research 21, 2012.
    """
    product = value_a * value_b
    # For an estimate of 0, numerator and denominator below may both be 0; the lines after them then set the limits.
    low_a, high_b = a.lower * (2 * value_a - a.lower), b.upper * (2 * value_b - b.upper)
    high_a, low_b = a.upper * (2 * value_a - a.upper), b.lower * (2 * value_b - b.lower)
    lower = low_a / (product + (product.square() - low_a * high_b).clamp(min=0).sqrt())
    upper = (product + (product.square() - high_a * low_b).clamp(min=0).sqrt()) / low_b
    undefined = product.isnan()
    lower = torch.where((value_a == 0) & ~undefined, 0.0, lower)
    upper = torch.where(((value_b == 0) | (b.lower <= 0)) & ~undefined, math.inf, upper)
    spent = torch.isinf(a.lower) & ~undefined
    return Interval(torch.where(spent, -math.inf, lower), torch.where(spent, math.inf, upper))
