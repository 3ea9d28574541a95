"""Aggregations of a quantity over groups, with their confidence limits.

The limit on the bad side of the worst pair or group is the worst of their limits, each at the full error: it can
only fail if the limit of the pair that truly is the worst fails (intersection-union). The limit on the good side
fails if any single limit that enters fails, since the groups that look extreme are not known beforehand; there the
error is divided by the number of limits. The exact variant takes exact limits of single groups at half the error,
since only two groups, the truly highest and lowest, enter a gap.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.groupwise import Groupwise, Proportions
from xai_lightning.functional.fairness.inequality import debiased_spread, kearns
from xai_lightning.functional.intervals import Interval, mover_difference, mover_quotient

Limits = Callable[[Groupwise, float, bool], Interval | None]


class Aggregation(NamedTuple):
    """What is formed of the quantity of all groups.

    Attributes:
        value: Metric float64[...] of values [..., R, G]; NaN if any of them is.
        limits: Limits of the metric, float64[...], of the quantity, the one-sided error of each limit, above 0, and
            whether they are to be exact; they may exceed the natural range. None if there is no closed form.
        best: Whether low or high values are good.
        groups: Number of groups below which it is undefined.
        reach: Natural range of the metric, of that of the quantity.
        ideal: Value if all groups are alike; None if that is the quantity's own ideal.
        formula: In plain signs; ``{0}`` stands for the quantity.
        hides: What it does not show: parts of a sentence, between semicolons.
    """

    value: Callable[[Groupwise], Tensor]
    limits: Limits
    best: Literal["low", "high"]
    groups: int
    reach: Callable[[float, float], tuple[float, float]]
    ideal: float | None
    formula: str
    hides: str


# `amax` and `amin` pass NaN on, where pandas skips it: one undefined group makes the metric undefined (trap 79).


def _single(of: Groupwise, error: float, exact: bool) -> Interval | None:
    return of.limits(error, exact=exact)


def _together(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of all rates of all groups that hold together: a union bound over two limits of R times G rates."""
    return of.limits(error / (2 * of.value.shape[-1] * of.value.shape[-2]), exact=exact)


def _difference(of: Groupwise) -> Tensor:
    return (of.value.amax(dim=-1) - of.value.amin(dim=-1)).amax(dim=-1)


def _difference_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    together, single = _together(of, error, exact), _single(of, error / 2 if exact else error, exact)
    if together is None or single is None:
        return None
    lower = (together.lower.amax(dim=-1) - together.upper.amin(dim=-1)).amax(dim=-1)
    if exact:
        return Interval(lower, (single.upper.amax(dim=-1) - single.lower.amin(dim=-1)).amax(dim=-1))
    pairs = mover_difference(*_ordered_pairs(of.value, single))
    return Interval(lower, _off_diagonal(pairs.upper, -math.inf).amax(dim=(-3, -2, -1)))


def _ratio(of: Groupwise) -> Tensor:
    return (of.value.amin(dim=-1) / of.value.amax(dim=-1)).amin(dim=-1)


def _ratio_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    together, single = _together(of, error, exact), _single(of, error / 2 if exact else error, exact)
    if together is None or single is None:
        return None
    upper = (together.upper.amin(dim=-1) / together.lower.amax(dim=-1)).amin(dim=-1)
    if exact:
        return Interval((single.lower.amin(dim=-1) / single.upper.amax(dim=-1)).amin(dim=-1), upper)
    pairs = mover_quotient(*_ordered_pairs(of.value, single))
    return Interval(_off_diagonal(pairs.lower, math.inf).amin(dim=(-3, -2, -1)), upper)


def _worst(of: Groupwise) -> Tensor:
    return of.value.amin(dim=(-2, -1))


def _worst_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    return Interval(single.lower.amin(dim=(-2, -1)), together.upper.amin(dim=(-2, -1)))


def _largest(of: Groupwise) -> Tensor:
    return of.value.amax(dim=(-2, -1))


def _largest_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    return Interval(together.lower.amax(dim=(-2, -1)), single.upper.amax(dim=(-2, -1)))


def _magnitude(of: Groupwise) -> Tensor:
    return of.value.abs().amax(dim=(-2, -1))


def _magnitude_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    lower, upper = (torch.maximum(a, b) for a, b in ((together.lower, -together.upper), (single.upper, -single.lower)))
    return Interval(lower.amax(dim=(-2, -1)), upper.amax(dim=(-2, -1)))


def _to_overall(of: Groupwise) -> Tensor:
    proportions = _proportions(of)
    return (proportions.value - proportions.pooled().value).abs().amax(dim=(-2, -1))


def _to_overall_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    # A group's distance to everybody is its distance to the others times their share, and those are independent of it.
    proportions = _proportions(of)
    others, left = proportions.rest(), 1 - proportions.shares
    shared = error / (4 * of.value.shape[-1] * of.value.shape[-2])
    wide = _apart(proportions, others, shared, exact=exact, joint=True)
    narrow = _apart(proportions, others, error / 2 if exact else error, exact=exact, joint=exact)
    if wide is None or narrow is None:
        return None
    lower = torch.maximum(left * wide.lower, -left * wide.upper)
    upper = torch.maximum(left * narrow.upper, -left * narrow.lower)
    return Interval(lower.amax(dim=(-2, -1)), upper.amax(dim=(-2, -1)))


def _apart(a: Proportions, b: Proportions, error: float, *, exact: bool, joint: bool) -> Interval | None:
    """Limits of a - b; ``joint``: such that they fail only if a limit of a or of b does."""
    of_a, of_b = (part.limits(error, exact=exact) for part in (a, b))
    if of_a is None or of_b is None:
        return None
    if joint:
        return Interval(of_a.lower - of_b.upper, of_a.upper - of_b.lower)
    return mover_difference(a.value, of_a, b.value, of_b)


def _ratio_to_overall(of: Groupwise) -> Tensor:
    proportions = _proportions(of)
    ratio = proportions.value / proportions.pooled().value
    return torch.minimum(ratio, 1 / ratio).amin(dim=(-2, -1))


def _ratio_to_overall_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    proportions = _proportions(of)
    others = proportions.rest()
    shared = error / (4 * of.value.shape[-1] * of.value.shape[-2])
    wide = _against(proportions, others, shared, exact=exact, joint=True)
    narrow = _against(proportions, others, error / 2 if exact else error, exact=exact, joint=exact)
    if wide is None or narrow is None:
        return None
    lower = torch.minimum(narrow.lower, 1 / narrow.upper)
    upper = torch.minimum(wide.upper, 1 / wide.lower)
    return Interval(lower.amin(dim=(-2, -1)), upper.amin(dim=(-2, -1)))


def _against(a: Proportions, others: Proportions, error: float, *, exact: bool, joint: bool) -> Interval | None:
    """Limits of the ratio of a group to everybody, which grows with its ratio r to the others: 1/(w + (1 - w)/r)."""
    of_a, of_b = (part.limits(error, exact=exact) for part in (a, others))
    if of_a is None or of_b is None:
        return None
    ratio = mover_quotient(a.value, of_a, others.value, of_b)
    if joint:
        ratio = Interval(of_a.lower / of_b.upper, of_a.upper / of_b.lower)
    return Interval(*(1 / (a.shares + (1 - a.shares) / limit) for limit in ratio))


def _mean_difference(of: Groupwise) -> Tensor:
    return (of.value.amax(dim=-1) - of.value.amin(dim=-1)).mean(dim=-1)


def _total_variation(of: Groupwise) -> Tensor:
    apart = (of.value[..., :, None] - of.value[..., None, :]).abs().sum(dim=-3) / 2
    return apart.amax(dim=(-2, -1))


def _size_weighted(of: Groupwise) -> Tensor:
    proportions = _proportions(of)
    everybody = proportions.rows.sum(dim=-1)
    return kearns(proportions.successes, proportions.totals, everybody).amax(dim=-1)


def _spread(of: Groupwise) -> Tensor:
    proportions = _proportions(of)
    return debiased_spread(proportions.successes, proportions.totals).amax(dim=-1)


def _whole(of: Groupwise) -> Tensor:
    return of.value[..., 0, 0]


def _none(of: Groupwise, error: float, exact: bool) -> Interval | None:
    return None


def _proportions(of: Groupwise) -> Proportions:
    if not isinstance(of, Proportions):
        raise TypeError(f"a comparison with everybody together needs proportions, got {type(of).__name__}")
    return of


def _ordered_pairs(value: Tensor, single: Interval) -> tuple[Tensor, Interval, Tensor, Interval]:
    """Groups a and b with their limits, which broadcast to [..., G, G]."""
    a, b = (Interval(*(limit[place] for limit in single)) for place in _PLACES)
    return value[_PLACES[0]], a, value[_PLACES[1]], b


_PLACES = ((..., slice(None), None), (..., None, slice(None)))


def _off_diagonal(pairs: Tensor, fill: float) -> Tensor:
    """``pairs`` [..., G, G] with ``fill`` where a group is compared with itself."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), fill)


def _gap(low: float, high: float) -> tuple[float, float]:
    return 0.0, high - low


def _share(low: float, high: float) -> tuple[float, float]:
    return 0.0, 1.0


def _same(low: float, high: float) -> tuple[float, float]:
    return low, high


def _size(low: float, high: float) -> tuple[float, float]:
    return 0.0, max(abs(low), abs(high))


AGGREGATIONS: Mapping[str, Aggregation] = MappingProxyType(
    {
        "difference": Aggregation(
            _difference,
            _difference_limits,
            best="low",
            groups=2,
            reach=_gap,
            ideal=0.0,
            formula="max_a {0}_a - min_b {0}_b",
            hides="which groups differ; how those between the two extremes fare",
        ),
        "ratio": Aggregation(
            _ratio,
            _ratio_limits,
            best="high",
            groups=2,
            reach=_share,
            ideal=1.0,
            formula="min_a {0}_a / max_b {0}_b",
            hides="which groups differ; how large the two are (0.1 % to 0.2 % reads like 40 % to 80 %)",
        ),
        "difference_to_overall": Aggregation(
            _to_overall,
            _to_overall_limits,
            best="low",
            groups=2,
            reach=_gap,
            ideal=0.0,
            formula="max_a |{0}_a - {0}|",
            hides="which group differs; how far a group is off that makes up most of the data",
        ),
        "ratio_to_overall": Aggregation(
            _ratio_to_overall,
            _ratio_to_overall_limits,
            best="high",
            groups=2,
            reach=_share,
            ideal=1.0,
            formula="min_a min({0}_a / {0}, {0} / {0}_a)",
            hides="which group differs; how large the two are; how far a group is off that makes up most of the data",
        ),
        "worst": Aggregation(
            _worst,
            _worst_limits,
            best="high",
            groups=1,
            reach=_same,
            ideal=None,
            formula="min_a {0}_a",
            hides="which group it is; how the others fare",
        ),
        "largest": Aggregation(
            _largest,
            _largest_limits,
            best="low",
            groups=1,
            reach=_same,
            ideal=None,
            formula="max_a {0}_a",
            hides="which group it is; how the others fare",
        ),
        "largest_magnitude": Aggregation(
            _magnitude,
            _magnitude_limits,
            best="low",
            groups=1,
            reach=_size,
            ideal=0.0,
            formula="max_a |{0}_a|",
            hides="which group it is; to which side it errs; how the others fare",
        ),
        "mean_difference": Aggregation(
            _mean_difference,
            _none,
            best="low",
            groups=2,
            reach=_gap,
            ideal=0.0,
            formula="max_a {0}_a - min_b {0}_b",
            hides="which groups differ; a large gap of one rate beside a small one of another",
        ),
        "total_variation": Aggregation(
            _total_variation,
            _none,
            best="low",
            groups=2,
            reach=_share,
            ideal=0.0,
            formula="max_{{a,b}} 1/2 sum_k |{0}_a - {0}_b|",
            hides="which groups and classes differ",
        ),
        "size_weighted": Aggregation(
            _size_weighted,
            _none,
            best="low",
            groups=2,
            reach=_gap,
            ideal=0.0,
            formula="max_a (n_a / N) |{0}_a - {0}|",
            hides="which group differs; harm to a small group (its weight makes it invisible)",
        ),
        "spread": Aggregation(
            _spread,
            _none,
            best="low",
            groups=2,
            reach=_gap,
            ideal=0.0,
            formula="sqrt(max(0, Var_a({0}_a) - mean_a {0}_a (1 - {0}_a) / (n_a - 1)))",
            hides="which groups differ; the largest gap (which is larger)",
        ),
        "whole": Aggregation(
            _whole,
            _none,
            best="low",
            groups=1,
            reach=_same,
            ideal=None,
            formula="{0}",
            hides="who bears it",
        ),
    }
)
"""Aggregations by name. To add one, add a row."""
