"""Confidence limits of proportions, their differences, ratios and means, and the error a run may spend on them.

Every ``error`` is the error probability of *one* limit: ``error=0.025`` gives a two-sided 95 % interval, or two
one-sided limits of 97.5 %. An error of 0 means that nothing is left to spend: the limits are then infinite, and no
threshold is met.
"""

import math
from statistics import NormalDist
from typing import NamedTuple

import torch
from torch import Tensor

_ROUNDING = 1e-9
"""Relative error up to which sums of spent errors count as equal."""


class Interval(NamedTuple):
    """Two limits, float64 and of equal shape; each holds at its own one-sided error.

    Attributes:
        lower: Lower limit, ``-inf`` if no error may be spent, NaN if undefined.
        upper: Upper limit, ``inf`` if no error may be spent, NaN if undefined.
    """

    lower: Tensor
    upper: Tensor


def wilson(successes: Tensor, totals: Tensor, error: float) -> Interval:
    r"""Limits of a proportion, by inverting the score test.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n},
        \quad z = \Phi^{-1}(1 - \text{error})

    The lower limit of no success is exactly 0, the upper limit of no failure exactly 1. The limits are approximate: the
    lower limit of a rare success (or the upper one of a rare failure) covers less often than it says, in the worst case
    79 % instead of 95 %, and 91 % instead of 99.9 %; but it needs to move by at most 2/n to cover as it says.

    Args:
        successes: int64[...], counts in 0..totals.
        totals: int64[...], number of independent trials.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], probabilities in [0, 1]; NaN where ``totals`` is 0, infinite if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5), or a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> limits = wilson(torch.tensor(81), torch.tensor(263), error=0.025)
        >>> [round(float(limit), 4) for limit in limits]
        [0.2553, 0.3662]

    References:
        E. B. Wilson, Probable inference, the law of succession, and statistical inference, Journal of the American
        Statistical Association 22, 1927.
        R. G. Newcombe, Two-sided confidence intervals for the single proportion: comparison of seven methods,
        Statistics in Medicine 17, 1998, method 3.
    """
    z = _normal_score(error)
    p = _proportion(successes, totals)
    if math.isinf(z):
        return Interval(p - z, p + z)
    n = totals.double()
    centre = p + z * z / (2 * n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)).sqrt()
    scale = 1 + z * z / n
    # Rounding would leave 1e-18 in place of 0; p is compared, not the count, because 0 of 0 must stay NaN.
    lower = torch.where(p == 0, 0.0, (centre - half) / scale)
    upper = torch.where(p == 1, 1.0, (centre + half) / scale)
    return Interval(lower, upper)


def newcombe(successes_a: Tensor, totals_a: Tensor, successes_b: Tensor, totals_b: Tensor, *, error: float) -> Interval:
    r"""Limits of the difference of two independent proportions, :math:`p_a - p_b`.

    .. math:: \hat d - \sqrt{(\hat p_a - l_a)^2 + (u_b - \hat p_b)^2},
        \quad \hat d + \sqrt{(u_a - \hat p_a)^2 + (\hat p_b - l_b)^2}

    with the Wilson limits l and u of each proportion. An interval that holds 0 does not show that the proportions
    are equal.

    Args:
        successes_a: int64[...], counts in 0..totals_a.
        totals_a: int64[...], number of independent trials.
        successes_b: int64[...], counts in 0..totals_b.
        totals_b: int64[...], number of independent trials, none shared with ``totals_a``.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], in [-1, 1]; NaN where a total is 0, infinite if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5), or a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> counts = (torch.tensor(n) for n in (56, 70, 48, 80))
        >>> [round(float(limit), 4) for limit in newcombe(*counts, error=0.025)]
        [0.0524, 0.3339]

    References:
        R. G. Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven
        methods, Statistics in Medicine 17, 1998, method 10.
        G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach,
        Statistics in Medicine 27, 2008.
    """
    p_a, p_b = _proportion(successes_a, totals_a), _proportion(successes_b, totals_b)
    a, b = wilson(successes_a, totals_a, error), wilson(successes_b, totals_b, error)
    lower = p_a - p_b - torch.hypot(p_a - a.lower, b.upper - p_b)
    upper = p_a - p_b + torch.hypot(a.upper - p_a, p_b - b.lower)
    return Interval(lower, upper)


def mover_ratio(
    successes_a: Tensor, totals_a: Tensor, successes_b: Tensor, totals_b: Tensor, *, error: float
) -> Interval:
    r"""Limits of the ratio of two independent proportions, :math:`p_a / p_b`.

    With Wilson limits l and u, and :math:`A = l_a(2\hat p_a - l_a)`, :math:`B = u_b(2\hat p_b - u_b)`,
    :math:`C = u_a(2\hat p_a - u_a)`, :math:`D = l_b(2\hat p_b - l_b)`, the roots are taken in the form that has no
    vanishing denominator:

    .. math:: \frac{A}{\hat p_a \hat p_b + \sqrt{\hat p_a^2 \hat p_b^2 - AB}},
        \quad \frac{\hat p_a \hat p_b + \sqrt{\hat p_a^2 \hat p_b^2 - CD}}{D}

    A ratio says nothing about the size of what is compared: 0.001 against 0.002 gives what 0.4 against 0.8 gives.

    Args:
        successes_a: int64[...], counts in 0..totals_a.
        totals_a: int64[...], number of independent trials.
        successes_b: int64[...], counts in 0..totals_b.
        totals_b: int64[...], number of independent trials, none shared with ``totals_a``.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], in [0, inf]. Without successes in a the lower limit is 0, without successes in b the
        upper limit is ``inf``; so 0/0, where the ratio is NaN, has the limits 0 and ``inf``. NaN where a total is
        0, infinite (``-inf``, ``inf``) if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5), or a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> counts = (torch.tensor(n) for n in (30, 100, 40, 100))
        >>> [round(float(limit), 4) for limit in mover_ratio(*counts, error=0.05)]
        [0.5438, 1.0314]

    References:
        A. Donner, G. Y. Zou, Closed-form confidence intervals for functions of the normal mean and standard
        deviation, Statistical Methods in Medical Research 21, 2012.
    """
    p_a, p_b = _proportion(successes_a, totals_a), _proportion(successes_b, totals_b)
    a, b = wilson(successes_a, totals_a, error), wilson(successes_b, totals_b, error)
    if error == 0:
        return Interval(p_a + p_b - math.inf, p_a + p_b + math.inf)
    product = p_a * p_b
    # At an estimate of 0 numerator and denominator below may vanish together; the last lines set the limits there.
    low_a, high_b = a.lower * (2 * p_a - a.lower), b.upper * (2 * p_b - b.upper)
    high_a, low_b = a.upper * (2 * p_a - a.upper), b.lower * (2 * p_b - b.lower)
    lower = low_a / (product + (product.square() - low_a * high_b).clamp(min=0).sqrt())
    upper = (product + (product.square() - high_a * low_b).clamp(min=0).sqrt()) / low_b
    undefined = (p_a + p_b).isnan()
    lower = torch.where((p_a == 0) & ~undefined, 0.0, lower)
    upper = torch.where((p_b == 0) & ~undefined, math.inf, upper)
    return Interval(lower, upper)


def mover_mean(successes: Tensor, totals: Tensor, error: float) -> Interval:
    r"""Limits of the unweighted mean of K independent proportions, such as balanced accuracy.

    .. math:: \frac1K\sum_k \hat p_k - \frac1K\sqrt{\sum_k (\hat p_k - l_k)^2},
        \quad \frac1K\sum_k \hat p_k + \frac1K\sqrt{\sum_k (u_k - \hat p_k)^2}

    with the Wilson limits l and u of each proportion.

    Args:
        successes: int64[..., K], counts in 0..totals.
        totals: int64[..., K], number of independent trials.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], in [0, 1]; NaN where any of the K totals is 0, infinite if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5), or a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> limits = mover_mean(torch.tensor([90, 40]), torch.tensor([100, 50]), error=0.05)
        >>> [round(float(limit), 4) for limit in limits]
        [0.7884, 0.893]

    References:
        G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach,
        Statistics in Medicine 27, 2008.
    """
    p = _proportion(successes, totals)
    limits = wilson(successes, totals, error)
    mean, number = p.mean(dim=-1), p.shape[-1]
    lower = mean - torch.linalg.vector_norm(p - limits.lower, dim=-1) / number
    upper = mean + torch.linalg.vector_norm(limits.upper - p, dim=-1) / number
    return Interval(lower, upper)


def allowance(delta: float, number: int, horizon: int | None, spent: float) -> float:
    r"""Error probability that one validation may spend, so that all of a run together spend at most ``delta``.

    Without a horizon validation t spends :math:`6\delta/(\pi^2 t^2)`, which sums to delta over any number of them.
    With a horizon T it spends an equal share of what is unspent, :math:`(\delta - \text{spent})/(T - t + 1)`:
    exactly :math:`\delta/T` as long as each validation spent its share; after a change of T what is left is divided
    anew. The union bound behind it allows any dependence between validations, early stopping and choice of
    checkpoint, but not feedback of the validation set into weights or data.

    Args:
        delta: Error probability of the whole run, in (0, 0.5).
        number: Number of this validation, from 1. It counts validations, not decisions: the share of one without a
            decision is spent as well.
        horizon: Number of validations the run may have, at least 1; None if unknown.
        spent: Sum of the errors allowed to the validations before this one, at least 0.

    Returns:
        Error probability in [0, delta]; 0 if nothing is left or ``number`` is beyond the horizon: limits are then
        infinite.

    Raises:
        ValueError: If an argument is outside its range.

    Example:
        >>> allowance(0.05, number=1, horizon=50, spent=0.0)
        0.001
        >>> round(allowance(0.05, number=2, horizon=None, spent=0.0304), 4)
        0.0076
        >>> allowance(0.05, number=51, horizon=50, spent=0.05)
        0.0

    References:
        O. J. Dunn, Multiple comparisons among means, Journal of the American Statistical Association 56, 1961.
    """
    _check_spending(delta, number, horizon, spent)
    unspent = delta - spent
    if unspent < _ROUNDING * delta or (horizon is not None and number > horizon):
        return 0.0
    if horizon is None:
        return min(unspent, 6 * delta / (math.pi * number) ** 2)
    share, planned = unspent / (horizon - number + 1), delta / horizon
    # The sum of what was spent carries rounding, which would let the shares of an undisturbed run wander.
    return planned if math.isclose(share, planned, rel_tol=_ROUNDING) else share


def _normal_score(error: float) -> float:
    """Upper quantile of the standard normal distribution; infinite for an error of 0."""
    if not 0 <= error < 0.5:
        raise ValueError(f"error must be a one-sided error probability in [0, 0.5), got {error!r}")
    return -NormalDist().inv_cdf(error) if error else math.inf


def _proportion(successes: Tensor, totals: Tensor) -> Tensor:
    """Checked counts as a float64 proportion, NaN where the total is 0."""
    for name, counts in (("successes", successes), ("totals", totals)):
        if counts.is_floating_point() or counts.is_complex():
            raise TypeError(f"{name} must be integer counts, got dtype {counts.dtype}")
    wrong = (successes < 0) | (successes > totals)
    if wrong.any():
        s, n = (counts.expand_as(wrong)[wrong][0].item() for counts in (successes, totals))
        raise ValueError(f"successes must lie in 0..totals, got {s} of {n}")
    return successes.double() / totals.double()


def _check_spending(delta: float, number: int, horizon: int | None, spent: float) -> None:
    if not 0 < delta < 0.5:
        raise ValueError(f"delta must be an error probability in (0, 0.5), got {delta!r}")
    if number < 1:
        raise ValueError(f"number must count validations from 1, got {number!r}")
    if horizon is not None and horizon < 1:
        raise ValueError(f"horizon must be a number of validations of at least 1, or None, got {horizon!r}")
    if not 0 <= spent < math.inf:
        raise ValueError(f"spent must be a finite sum of error probabilities of at least 0, got {spent!r}")
