"""Confidence limits of proportions, and of their differences, ratios and means.

Every ``error`` is the error probability of *one* limit: ``error=0.025`` gives a two-sided 95 % interval, or two
one-sided limits of 97.5 %. An error of 0 means that nothing is left to spend: the limits are then infinite, and no
threshold is met.
"""

import math
from statistics import NormalDist

import torch
from torch import Tensor

from xai_lightning.functional.intervals.mover import Interval, mover_difference, mover_quotient

_BISECTIONS = 45
"""Halvings that narrow the unit interval to 3e-14."""


def wilson(successes: Tensor, totals: Tensor, error: float) -> Interval:
    r"""Limits of a proportion, by inverting the score test.

    .. math:: \frac{\hat p + z^2/2n \pm z\sqrt{\hat p(1-\hat p)/n + z^2/4n^2}}{1 + z^2/n},
        \quad z = \Phi^{-1}(1 - \text{error})

    Without successes the lower limit is exactly 0, without failures the upper limit is exactly 1. The limits are
    approximate: the lower limit of a rare success (or the upper limit of a rare failure) falls short of its nominal
    coverage, in the worst case with 79 % instead of 95 %, or 91 % instead of 99.9 %; moving it by at most 2/n restores
    the coverage.

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
    return wilson_of(_proportion(successes, totals), totals.double(), error)


def wilson_of(proportion: Tensor, number: Tensor, error: float) -> Interval:
    """Wilson limits of a proportion given as a number, such as that of weighted counts at their effective sample size.

    With Kish's effective sample size, the squared sum of the weights over the sum of their squares, the limits are an
    approximation, which is good if the weights do not depend on the outcome.

    Args:
        proportion: float64[...], in [0, 1] or NaN.
        number: float64[...], the equivalent number of independent trials, not negative.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], as for :func:`wilson`.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5).

    Example:
        >>> import torch
        >>> limits = wilson_of(torch.tensor(0.3), torch.tensor(100.0), error=0.025)
        >>> [round(float(limit), 4) for limit in limits]
        [0.2189, 0.3958]

    References:
        L. Kish, Survey sampling, 1965, section 8.2.
    """
    z, p, n = normal_score(error), proportion.double(), number.double()
    if math.isinf(z):
        return Interval(p - z, p + z)
    centre = p + z * z / (2 * n)
    half = z * (p * (1 - p) / n + z * z / (4 * n * n)).sqrt()
    scale = 1 + z * z / n
    # Rounding would leave 1e-18 in place of 0; p is compared, not the count, because 0 of 0 must stay NaN.
    lower = torch.where(p == 0, 0.0, (centre - half) / scale)
    upper = torch.where(p == 1, 1.0, (centre + half) / scale)
    return Interval(lower, upper)


def clopper_pearson(successes: Tensor, totals: Tensor, error: float) -> Interval:
    r"""Exact limits of a proportion, at which the binomial tail from the count outwards has the probability ``error``.

    .. math:: P(X \ge k \mid l) = \text{error} = P(X \le k \mid u)

    Their coverage is never below the nominal one, so they are wider than those of :func:`wilson`, more so the fewer the
    samples. The tail is summed term by term.

    Args:
        successes: int64[...], counts in 0..totals.
        totals: int64[...], number of independent trials.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...], probabilities in [0, 1], to 1e-9; NaN where ``totals`` is 0, infinite if ``error`` is 0.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5), or a count is negative or above its total.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> limits = clopper_pearson(torch.tensor(81), torch.tensor(263), error=0.025)
        >>> [round(float(limit), 4) for limit in limits]
        [0.2527, 0.3676]

    References:
        C. J. Clopper, E. S. Pearson, The use of confidence or fiducial limits illustrated in the case of the binomial,
        Biometrika 26, 1934.
    """
    p = _proportion(successes, totals)
    if math.isinf(z := normal_score(error)):
        return Interval(p - z, p + z)
    k, n = (counts.expand_as(p).reshape(-1) for counts in (successes, totals))
    # Simulations and replicates contain few distinct counts, each many times.
    pairs = torch.stack([torch.cat([k, n - k]), torch.cat([n, n])])
    distinct, places = torch.unique(pairs, dim=1, return_inverse=True)
    lower = _exact_lower(distinct[0], distinct[1], error)[places].reshape(2, *p.shape)
    return Interval(torch.where(p.isnan(), p, lower[0]), torch.where(p.isnan(), p, 1 - lower[1]))


def _exact_lower(successes: Tensor, totals: Tensor, error: float) -> Tensor:
    """Lower limits float64[M] of counts int64[M], by bisection; 0 without a success."""
    k, n = successes.double()[:, None], totals.double()[:, None]
    # More than twelve standard deviations above the count, the tail is negligible.
    width = int(min(12 * float(n.max().sqrt()) + 60, float((n - k).max()) + 1)) if n.numel() else 1
    j = (k + torch.arange(width, dtype=torch.float64, device=k.device)).minimum(n)
    beyond = k + torch.arange(width, device=k.device) > n
    ways = (torch.lgamma(n + 1) - torch.lgamma(j + 1) - torch.lgamma(n - j + 1)).masked_fill(beyond, -math.inf)
    low, high = torch.zeros_like(k), k / n.clamp(min=1)
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        tail = (ways + torch.xlogy(j, middle) + torch.xlogy(n - j, 1 - middle)).logsumexp(dim=-1, keepdim=True)
        low, high = torch.where(tail < math.log(error), middle, low), torch.where(tail < math.log(error), high, middle)
    return ((low + high) / 2)[:, 0]


def newcombe(successes_a: Tensor, totals_a: Tensor, successes_b: Tensor, totals_b: Tensor, *, error: float) -> Interval:
    r"""Limits of the difference of two independent proportions, :math:`p_a - p_b`.

    .. math:: \hat d - \sqrt{(\hat p_a - l_a)^2 + (u_b - \hat p_b)^2},
        \quad \hat d + \sqrt{(u_a - \hat p_a)^2 + (\hat p_b - l_b)^2}

    with the Wilson limits l and u of each proportion. An interval that contains 0 does not show that the proportions
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
    return mover_difference(p_a, a, p_b, b)


def mover_ratio(
    successes_a: Tensor, totals_a: Tensor, successes_b: Tensor, totals_b: Tensor, *, error: float
) -> Interval:
    r"""Limits of the ratio of two independent proportions, :math:`p_a / p_b`.

    With Wilson limits l and u, and :math:`A = l_a(2\hat p_a - l_a)`, :math:`B = u_b(2\hat p_b - u_b)`,
    :math:`C = u_a(2\hat p_a - u_a)`, :math:`D = l_b(2\hat p_b - l_b)`, the roots are taken in the form that has no
    vanishing denominator:

    .. math:: \frac{A}{\hat p_a \hat p_b + \sqrt{\hat p_a^2 \hat p_b^2 - AB}},
        \quad \frac{\hat p_a \hat p_b + \sqrt{\hat p_a^2 \hat p_b^2 - CD}}{D}

    A ratio does not show the size of the proportions: 0.001 and 0.002 have the same ratio as 0.4 and 0.8.

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
    return mover_quotient(p_a, a, p_b, b)


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


def normal_score(error: float) -> float:
    """Upper quantile of the standard normal distribution; infinite for an error of 0."""
    if not 0 <= error < 0.5:
        raise ValueError(f"error must be a one-sided error probability in [0, 0.5), got {error!r}")
    return -NormalDist().inv_cdf(error) if error else math.inf


def _proportion(successes: Tensor, totals: Tensor) -> Tensor:
    """Checked counts as a float64 proportion, NaN where the total is 0."""
    for name, counts in (("successes", successes), ("totals", totals)):
        if counts.is_floating_point() or counts.is_complex() or counts.dtype == torch.bool:
            raise TypeError(f"{name} must be integer counts, got dtype {counts.dtype}")
    try:
        torch.broadcast_shapes(successes.shape, totals.shape)  # type: ignore[no-untyped-call]
    except RuntimeError as error:
        got = f"{list(successes.shape)} and {list(totals.shape)}"
        raise ValueError(f"successes and totals must have shapes that broadcast, got {got}") from error
    wrong = (successes < 0) | (successes > totals)
    if wrong.any():
        s, n = (counts.expand_as(wrong)[wrong][0].item() for counts in (successes, totals))
        raise ValueError(f"successes must lie in 0..totals, got {s} of {n}")
    return successes.double() / totals.double()
