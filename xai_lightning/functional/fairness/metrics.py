"""Metrics of group fairness: a rate times an aggregation, with confidence limits."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.aggregations import AGGREGATIONS, Aggregation
from xai_lightning.functional.fairness.counts import Confusion
from xai_lightning.functional.fairness.rates import RATES, tally
from xai_lightning.functional.intervals import Interval


@dataclass(frozen=True)
class Metric:
    """A fairness metric: the worst, over its rates, of one aggregation over the groups.

    Args:
        rates: Names in :data:`~xai_lightning.functional.fairness.RATES`.
        aggregation: ``difference`` (largest minus smallest), ``ratio`` (smallest over largest) or ``worst``
            (smallest).
        ideal: Value of a model that treats all groups alike; for ``worst``, of a perfect one.
        best: Whether ``low`` or ``high`` values are good; it chooses the side of the gated bound.
        hides: What the metric does not show, one sentence.

    Raises:
        ValueError: If a rate or the aggregation is unknown, or ``best`` contradicts the aggregation.
    """

    rates: tuple[str, ...]
    aggregation: Literal["difference", "ratio", "worst"]
    ideal: float
    best: Literal["low", "high"]
    hides: str

    def __post_init__(self) -> None:
        unknown = [name for name in self.rates if name not in RATES]
        if unknown or not self.rates:
            raise ValueError(f"rates must name some of {', '.join(RATES)}, got {self.rates!r}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}")
        if self.best != (best := AGGREGATIONS[self.aggregation].best):
            raise ValueError(f"best must be {best!r} for the aggregation {self.aggregation!r}, got {self.best!r}")


METRICS: Mapping[str, Metric] = MappingProxyType(
    {
        "demographic_parity_difference": Metric(
            rates=("selection_rate",),
            aggregation="difference",
            ideal=0.0,
            best="low",
            hides="It ignores the targets: one group may be selected on merit and another at random.",
        ),
        "demographic_parity_ratio": Metric(
            rates=("selection_rate",),
            aggregation="ratio",
            ideal=1.0,
            best="high",
            hides="It ignores the targets and the size of the rates: 0.1 % against 0.2 % reads like 40 % against 80 %.",
        ),
        "equalized_odds_difference": Metric(
            rates=("true_positive_rate", "false_positive_rate"),
            aggregation="difference",
            ideal=0.0,
            best="low",
            hides="It trusts the targets, and does not show which kind of error differs, nor whom that favours.",
        ),
        "equal_opportunity_difference": Metric(
            rates=("true_positive_rate",),
            aggregation="difference",
            ideal=0.0,
            best="low",
            hides="It trusts the targets and ignores false positives, which may all fall on one group.",
        ),
        "accuracy_difference": Metric(
            rates=("accuracy",),
            aggregation="difference",
            ideal=0.0,
            best="low",
            hides="It does not tell errors apart: one group may bear all false positives, another all false negatives.",
        ),
        "worst_group_accuracy": Metric(
            rates=("accuracy",),
            aggregation="worst",
            ideal=1.0,
            best="high",
            hides="It shows neither the gap to other groups nor the kind of errors, and noisy targets lower it.",
        ),
    }
)
"""Metrics by name. To add one, add a row."""


class Estimate(NamedTuple):
    """A metric with its limits, each float64[...] with the leading dimensions of the counts.

    All four are NaN if the metric is undefined.

    Attributes:
        value: The metric of these samples; biased towards unfair, the more the smaller and the more the groups.
        lower: Lower end of the two-sided interval, for watching.
        upper: Upper end of the two-sided interval, for watching.
        bound: One-sided limit at the error that may be spent, for gating: from above where small is good, else from
            below.
    """

    value: Tensor
    lower: Tensor
    upper: Tensor
    bound: Tensor


def estimate(metric: Metric, confusion: Confusion, *, error: float, level: float = 0.05) -> Estimate:
    r"""A fairness metric of the population that the samples were drawn from, with confidence limits.

    The limit on the bad side of a gap, :math:`\max_{a,b}(p_a - p_b)`, is the largest upper limit of its ordered
    pairs of groups (and rates), each at the full error: it can only fail if the limit of the one pair that truly is
    the worst fails (intersection-union). The limit on the good side is :math:`\max(0, \max_a l_a - \min_b u_b)`,
    with all limits of single rates at the error divided by their number, twice the groups times the rates: it fails
    if any of them does, and which groups look extreme is not known beforehand. Ratios and smallest values have the
    sides exchanged.

    The ideal is ``metric.ideal``; what the metric does not show is ``metric.hides``. Limits speak for rows drawn
    independently from the population at hand, with correct groups. They are approximate: over two groups of 15 to
    1000 samples and gaps up to 0.3, the exact failure rate of ``bound`` is at most 9 % where 5 % is asked for,
    and 1.8 % where 0.1 % is; the worst case is a rare outcome in the smaller of two very unequal groups.

    Args:
        metric: A row of :data:`METRICS`, or another.
        confusion: Counts, each int64[..., G].
        error: One-sided error probability of ``bound``, in [0, 0.5); 0 makes it infinite, so that it meets no
            threshold.
        level: Error probability of the two-sided interval, in (0, 1).

    Returns:
        Value and limits, float64[...], in [0, 1]. All four are NaN if any group has no denominator for any rate,
        for ratios also if the rate is 0 in every group, and for differences and ratios if there are fewer than two
        groups.

    Raises:
        ValueError: If ``error`` or ``level`` is outside its range.

    Example:
        >>> import torch
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
    tallies = [tally(name, confusion) for name in metric.rates]
    successes, totals = (torch.stack(parts, dim=-2) for parts in zip(*tallies, strict=True))
    aggregation = AGGREGATIONS[metric.aggregation]
    value = aggregation.value(successes.double() / totals.double())
    if totals.shape[-1] < aggregation.groups:
        value = torch.full_like(value, math.nan)
    watched, gated = (_limits(aggregation, successes, totals, value, e) for e in (level / 2, error))
    return Estimate(value, *watched, gated.upper if metric.best == "low" else gated.lower)


def undefined(confusion: Confusion, metrics: Iterable[str]) -> int:
    """Number of rates without a denominator, over the groups and all rates that the metrics use.

    0 means that every metric has evidence from every group. It does not show how little evidence: one sample is
    enough.

    Args:
        confusion: Counts, each int64[..., G].
        metrics: Names in :data:`METRICS`; a rate that several of them use counts once.

    Returns:
        Number of pairs of a group and a rate.

    Raises:
        ValueError: If there is no metric of that name.

    Example:
        >>> import torch
        >>> counts = Confusion(*torch.tensor([[3, 0], [1, 2], [1, 0], [5, 8], [8, 8], [10, 10]]))
        >>> undefined(counts, ["demographic_parity_difference", "equalized_odds_difference"])
        1
    """
    names = list(metrics)
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise ValueError(f"metrics must name some of {', '.join(METRICS)}, got {unknown[0]!r}")
    rates = {rate for name in names for rate in METRICS[name].rates}
    return sum(int((tally(name, confusion)[1] == 0).sum()) for name in rates)


def _limits(aggregation: Aggregation, successes: Tensor, totals: Tensor, value: Tensor, error: float) -> Interval:
    """Limits within [0, 1] and on their side of the value; NaN where it is NaN, infinite if no error may be spent."""
    if error == 0:
        return Interval(value - math.inf, value + math.inf)
    lower, upper = aggregation.limits(successes, totals, error)
    # Minimum and maximum also carry a NaN of the value into limits that are defined: nobody selected, or one group.
    return Interval(torch.minimum(lower.clamp(0, 1), value), torch.maximum(upper.clamp(0, 1), value))
