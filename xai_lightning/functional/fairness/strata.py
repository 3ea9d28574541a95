"""The estimates of several strata combined into one."""

from collections.abc import Callable
from typing import Literal, NamedTuple

from torch import Tensor

from xai_lightning.functional.intervals import Interval

Strata = Literal["worst", "mean"]
LimitsAt = Callable[[float], Interval]
"""Limits of a metric, float64[S, ...], as a function of the one-sided error of each."""


class Estimate(NamedTuple):
    """A metric with its limits, each float64[...] with the leading dimensions of the counts.

    All four are NaN if the metric is undefined.

    Attributes:
        value: The metric of these samples; biased towards unfair, more so the smaller and the more numerous the groups.
        lower: Lower end of the two-sided interval, for watching.
        upper: Upper end of the two-sided interval, for watching.
        bound: One-sided limit at the error that may be spent, for gating: an upper limit where small values are good,
            else a lower limit.
    """

    value: Tensor
    lower: Tensor
    upper: Tensor
    bound: Tensor


def over_strata(
    how: Strata,
    low: bool,
    value: Tensor,
    limits: LimitsAt,
    sizes: Tensor | None,
    error: float,
    level: float,
    *,
    exact: bool,
) -> Estimate:
    r"""The worst stratum, or the mean over strata by their share of the samples.

    The limit on the bad side of the worst stratum is the worst limit of all strata, each at the full error, as for
    groups (intersection-union); the limit on the good side fails if that of any stratum does, so the strata share the
    error. Limits of the mean, :math:`\sum_s w_s \hat d_s \pm \sqrt{\sum_s w_s^2 (u_s - \hat d_s)^2}`, are recovered
    from those of the strata, which share no sample; the shares are taken as known. Exact limits of the mean are means
    of limits that share the error.

    Args:
        how: ``worst`` or ``mean``.
        low: Whether low values are good.
        value: Metric of each stratum, float64[S, ...].
        limits: Its limits.
        sizes: Number of samples per stratum, [S, ...]; None if unknown, as for labels.
        error: One-sided error probability of the bound.
        level: Error probability of the two-sided interval.
        exact: Whether the limits are exact.

    Returns:
        float64[...]; NaN where any stratum is.

    Raises:
        ValueError: If the mean is asked for without sizes.

    References:
        G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general approach,
        Statistics in Medicine 27, 2008.
    """
    if how == "worst":
        watched, joint, gated = limits(level / 2), limits(level / 2 / len(value)), limits(error)
        sides = (joint.lower, watched.upper, gated.upper) if low else (watched.lower, joint.upper, gated.lower)
        return Estimate(*(part.amax(dim=0) if low else part.amin(dim=0) for part in (value, *sides)))
    if sizes is None:
        raise ValueError(f"strata={how!r} needs the sizes of the strata, which only counts have; got {sizes!r}")
    shares = sizes / sizes.sum(dim=0)
    watched, gated = (_of_mean(value, limits, shares, e, exact) for e in (level / 2, error))
    return Estimate((shares * value).sum(dim=0), *watched, gated.upper if low else gated.lower)


def _of_mean(value: Tensor, limits: LimitsAt, shares: Tensor, error: float, exact: bool) -> Interval:
    if exact:
        single = limits(error / len(value))
        return Interval(*((shares * limit).sum(dim=0) for limit in single))
    single, centre = limits(error), (shares * value).sum(dim=0)
    below, above = ((shares * part).square().sum(dim=0).sqrt() for part in (value - single.lower, single.upper - value))
    return Interval(centre - below, centre + above)
