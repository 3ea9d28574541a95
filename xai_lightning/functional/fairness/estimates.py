"""Fairness metrics with their confidence limits."""

import math
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion
from xai_lightning.functional.fairness.groupwise import Groupwise
from xai_lightning.functional.fairness.metric import Metric
from xai_lightning.functional.fairness.metrics import METRICS
from xai_lightning.functional.fairness.resampling import example, resamples
from xai_lightning.functional.fairness.strata import Estimate, LimitsAt, Strata, over_strata
from xai_lightning.functional.intervals import Interval, percentile

REPLICATES = 2000
"""Bootstrap replicates: enough for an error of 0.0005, a hundredth of the usual 5 %."""


_ANY_ERROR = 0.1


def estimate(
    metric: Metric,
    evidence: Any,
    *,
    error: float,
    level: float = 0.05,
    exact: bool = False,
    replicates: int = REPLICATES,
    seed: int = 0,
    strata: Strata | None = None,
) -> Estimate:
    r"""A fairness metric of the population from which the samples were drawn, with confidence limits.

    The limit on the bad side of a gap, :math:`\max_{a,b}(p_a - p_b)`, is the largest upper limit of all ordered pairs
    of groups (and rates), each at the full error: it can only fail if the limit of the truly worst pair fails
    (intersection-union). The limit on the good side is the largest lower limit of all pairs, and fails if any of them
    does, since the groups that look extreme are not known beforehand; so the error is divided by the number of pairs,
    :math:`G(G - 1)`, times that of rates (for smallest and largest values by twice the groups times the rates). Ratios
    and smallest values have the sides exchanged.

    ``exact`` takes limits of Clopper and Pearson of single rates, which hold at any sample size and are wider: for the
    bad side those of the highest and the lowest group at half the error, for the good side
    :math:`\max_a l_a - \min_b u_b` with the error divided by twice the groups times the rates. Where there is no closed
    form (means of gaps, indices, distances of distributions), the counts are resampled, and limits are percentiles of
    the replicates.

    The ideal is ``metric.ideal``; what the metric does not show is ``metric.hides``. Limits assume rows drawn
    independently from the population at hand, with correct groups. Limits that are not exact are approximate: over two
    groups of 15 to 1000 samples and gaps up to 0.3, the exact failure rate of ``bound`` is at most 9 % for an error of
    5 %, and 1.8 % for 0.1 %; the worst case is a rare outcome in the smaller of two very unequal groups. In simulations
    of two groups of 20 to 300, limits of balanced accuracy and areas under the curve fail in up to 6 % of cases, those
    of calibration in the large in up to 5.5 %; with five or ten groups, all of them fail in at most 5 %. Limits of
    means of numbers are Student's, which ignore skewness: where the worse of two groups has 20, 40, 100 or 400
    exponentially distributed errors, the bound of its mean fails in 11, 9, 8 or 6 % of cases, and in 1.7, 1.2, 0.6 or
    0.3 % for an error of 0.1 %; so use such limits for large groups only. Quantities without variance in the sample
    (all residuals equal, say) have limits of zero width if these are Student's or resampled.

    Args:
        metric: A row of :data:`METRICS`, or your own.
        evidence: What the metric ``needs``: counts (a :class:`Confusion`), :class:`Scored` scores, or residuals.
        error: One-sided error probability of ``bound``, in [0, 0.5); 0 makes it infinite, so that it meets no
            threshold.
        level: Error probability of the two-sided interval, in (0, 1).
        exact: Whether limits must be exact; see :func:`has_exact_limits`.
        replicates: Number of bootstrap replicates where there is no closed form. Limits at an error too small for them
            to resolve (below 1 / (``replicates`` + 1)) are infinite.
        seed: Seed of the replicates.
        strata: Reduction of the first leading dimension, if that holds strata (of a legitimate attribute, say, or
            labels): the ``worst`` stratum, or, for counts, the ``mean`` weighted by the share of samples, whose limits
            are recovered from those of the strata (exact limits share the error). One undefined stratum makes the
            result undefined.

    Returns:
        Value and limits, float64[...], within the natural range of the metric. All four are NaN if any group has no
        denominator for any rate, for ratios also if the rate is 0 in every group, and for comparisons if there are
        fewer than two groups.

    Raises:
        ValueError: If ``error`` or ``level`` is outside its range, the metric has no exact limits although ``exact``
            asks for them, or ``strata`` is unknown or asks for a mean of other evidence than counts.
        TypeError: If weighted counts would have to be resampled.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness import Confusion
        >>> counts = Confusion(*torch.tensor([[60, 50], [10, 10], [20, 30], [110, 110], [170, 160], [200, 200]]))
        >>> gap = estimate(METRICS["demographic_parity_difference"], counts, error=0.05)
        >>> [round(float(part), 4) for part in gap]
        [0.05, 0.0, 0.1405, 0.1262]

    References:
        R. L. Berger, Multiparameter hypothesis testing and acceptance sampling, Technometrics 24, 1982.
        R. G. Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven
        methods, Statistics in Medicine 17, 1998.
    """
    if not 0 < level < 1:
        raise ValueError(f"level must be an error probability in (0, 1), got {level!r}")
    if not 0 <= error < 0.5:
        raise ValueError(f"error must be a one-sided error probability in [0, 0.5), got {error!r}")
    if strata not in (None, "worst", "mean"):
        raise ValueError(f"strata must be 'worst' or 'mean', got {strata!r}")
    of = metric.measure(evidence)
    value = metric.how.value(of)
    if of.value.shape[-1] < metric.how.groups:
        # the gap of a single group would be 0, although it is unknown rather than fair
        value = torch.full_like(value, math.nan)
    limits = _limits_at(metric, of, evidence, value, exact=exact, replicates=replicates, seed=seed)
    if strata is not None:
        return over_strata(strata, metric.best == "low", value, limits, _sizes(evidence), error, level, exact=exact)
    watched, gated = limits(level / 2), limits(error)
    return Estimate(value, *watched, gated.upper if metric.best == "low" else gated.lower)


def _limits_at(
    metric: Metric, of: Groupwise, evidence: Any, value: Tensor, *, exact: bool, replicates: int, seed: int
) -> LimitsAt:
    """Limits as a function of the one-sided error; replicates are drawn once."""
    if metric.how.limits(of, _ANY_ERROR, exact) is not None:
        return lambda e: _within(metric, metric.how.limits(of, e, exact) if e else None, value)
    if exact:
        raise ValueError(f"there are no exact limits for the aggregation {metric.aggregation!r} of {metric.rates!r}")
    values = resamples(metric, evidence, replicates, seed)
    return lambda e: _within(metric, percentile(values, e), value)


def _sizes(evidence: Any) -> Tensor | None:
    """Number of samples per stratum, [S, ...]; None unless the evidence is counts."""
    return evidence.total.double().sum(dim=-1) if isinstance(evidence, Confusion) else None


def has_exact_limits(metric: Metric) -> bool:
    """Whether a metric has limits that hold at any sample size: comparisons and extremes of proportions.

    Args:
        metric: A row of :data:`METRICS`, or your own.

    Example:
        >>> has_exact_limits(METRICS["demographic_parity_ratio"]), has_exact_limits(METRICS["theil_index"])
        (True, False)
    """
    return _has_limits(metric, exact=True)


def is_resampled(metric: Metric) -> bool:
    """Whether the limits of a metric come from resampling, since they have no closed form.

    Args:
        metric: A row of :data:`METRICS`, or your own.

    Example:
        >>> is_resampled(METRICS["theil_index"]), is_resampled(METRICS["demographic_parity_ratio"])
        (True, False)
    """
    return not _has_limits(metric, exact=False)


def undefined(evidence: Any, metrics: Iterable[str | Metric]) -> int:
    """Number of rates without a denominator, over all groups and all rates that the metrics use.

    0 means that every metric has evidence from every group. It does not show how little evidence there is: one sample
    is enough.

    Args:
        evidence: What the metrics need: counts, each int64[..., G], scores or residuals.
        metrics: Metrics, or names in :data:`METRICS`; a rate shared by several metrics counts once.

    Returns:
        Number of pairs of a group and a rate.

    Raises:
        ValueError: If there is no metric of that name.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness import Confusion
        >>> counts = Confusion(*torch.tensor([[3, 0], [1, 2], [1, 0], [5, 8], [8, 8], [10, 10]]))
        >>> undefined(counts, ["demographic_parity_difference", "equalized_odds_difference"])
        1
    """
    given = list(metrics)
    unknown = [name for name in given if isinstance(name, str) and name not in METRICS]
    if unknown:
        raise ValueError(f"metrics must be names among {', '.join(METRICS)}, got {unknown[0]!r}")
    rows = [METRICS[metric] if isinstance(metric, str) else metric for metric in given]
    single = {rate: Metric((rate,), "largest") for row in rows for rate in row.rates}
    return sum(int(one.measure(evidence).value.isnan().sum()) for one in single.values())


def _has_limits(metric: Metric, *, exact: bool) -> bool:
    """Whether the limits have a closed form, tried on example evidence."""
    return metric.how.limits(metric.measure(example(metric.needs)), _ANY_ERROR, exact) is not None


def _within(metric: Metric, limits: Interval | None, value: Tensor) -> Interval:
    """Limits clamped to the natural range and their side of the value; NaN where the value is, infinite if ``None``."""
    if limits is None:
        # computed from the value to keep its NaN
        return Interval(value - math.inf, value + math.inf)
    low, high = metric.reach
    spent = limits.lower.isinf() & limits.upper.isinf()
    # Minimum and maximum also propagate a NaN value to limits that are defined: nobody selected, or one group.
    lower = torch.minimum(torch.where(spent, limits.lower, limits.lower.clamp(low, high)), value)
    return Interval(lower, torch.maximum(torch.where(spent, limits.upper, limits.upper.clamp(low, high)), value))
