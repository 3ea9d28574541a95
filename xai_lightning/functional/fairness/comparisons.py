"""Comparisons of a quantity between groups, and their confidence limits.

The limit on the bad side of the worst pair or group is the worst of all their limits, each at the full error: it can
only fail if the limit of the truly worst pair fails (intersection-union). The limit on the good side fails if any
single limit that enters it fails, since the groups that look extreme are not known beforehand; there the error is
divided by the number of limits (for a difference or a ratio, that of the ordered pairs). The exact variant takes exact
limits of single groups at half the error, since only two groups, the truly highest and lowest, enter a gap.
"""

import math

import torch
from torch import Tensor

from xai_lightning.functional.fairness.groupwise import Groupwise, Proportions
from xai_lightning.functional.fairness.inequality import debiased_spread, kearns
from xai_lightning.functional.intervals import Interval, mover_difference, mover_quotient

# `amax` and `amin` propagate NaN, unlike pandas: one undefined group makes the metric undefined (trap 79).


def _single(of: Groupwise, error: float, exact: bool) -> Interval | None:
    return of.limits(error, exact=exact)


def _together(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Simultaneous limits of all rates of all groups: a union bound over the two limits of each of R times G rates."""
    return of.limits(error / (2 * of.value.shape[-1] * of.value.shape[-2]), exact=exact)


def _careful(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits from which simultaneous limits of all ordered pairs of groups, in all rates, are recovered."""
    if exact:
        return _together(of, error, exact)
    rates, groups = of.value.shape[-2:]
    return of.limits(error / (rates * max(1, groups * (groups - 1))), exact=False)


def difference(of: Groupwise) -> Tensor:
    """Largest minus smallest group, for the rate with the largest gap; float64[...]."""
    return (of.value.amax(dim=-1) - of.value.amin(dim=-1)).amax(dim=-1)


def difference_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`difference`, each at the one-sided error."""
    together, single = _careful(of, error, exact), _single(of, error / 2 if exact else error, exact)
    if together is None or single is None:
        return None
    if exact:
        lower = (together.lower.amax(dim=-1) - together.upper.amin(dim=-1)).amax(dim=-1)
        return Interval(lower, (single.upper.amax(dim=-1) - single.lower.amin(dim=-1)).amax(dim=-1))
    careful, pairs = (mover_difference(*_ordered_pairs(of.value, limits)) for limits in (together, single))
    highest = (_off_diagonal(limit, -math.inf).amax(dim=(-3, -2, -1)) for limit in (careful.lower, pairs.upper))
    return Interval(*highest)


def ratio(of: Groupwise) -> Tensor:
    """Smallest over largest group, for the rate with the smallest ratio; float64[...]."""
    return (of.value.amin(dim=-1) / of.value.amax(dim=-1)).amin(dim=-1)


def ratio_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`ratio`, each at the one-sided error."""
    together, single = _careful(of, error, exact), _single(of, error / 2 if exact else error, exact)
    if together is None or single is None:
        return None
    if exact:
        upper = (together.upper.amin(dim=-1) / together.lower.amax(dim=-1)).amin(dim=-1)
        return Interval((single.lower.amin(dim=-1) / single.upper.amax(dim=-1)).amin(dim=-1), upper)
    careful, pairs = (mover_quotient(*_ordered_pairs(of.value, limits)) for limits in (together, single))
    lowest = (_off_diagonal(limit, math.inf).amin(dim=(-3, -2, -1)) for limit in (pairs.lower, careful.upper))
    return Interval(*lowest)


def worst(of: Groupwise) -> Tensor:
    """Smallest value of all groups and rates; float64[...]."""
    return of.value.amin(dim=(-2, -1))


def worst_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`worst`, each at the one-sided error."""
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    return Interval(single.lower.amin(dim=(-2, -1)), together.upper.amin(dim=(-2, -1)))


def largest(of: Groupwise) -> Tensor:
    """Largest value of all groups and rates; float64[...]."""
    return of.value.amax(dim=(-2, -1))


def largest_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`largest`, each at the one-sided error."""
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    return Interval(together.lower.amax(dim=(-2, -1)), single.upper.amax(dim=(-2, -1)))


def magnitude(of: Groupwise) -> Tensor:
    """Largest absolute value; float64[...]."""
    return of.value.abs().amax(dim=(-2, -1))


def magnitude_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`magnitude`, each at the one-sided error."""
    together, single = _together(of, error, exact), _single(of, error, exact)
    if together is None or single is None:
        return None
    lower, upper = (torch.maximum(a, b) for a, b in ((together.lower, -together.upper), (single.upper, -single.lower)))
    return Interval(lower.amax(dim=(-2, -1)), upper.amax(dim=(-2, -1)))


def to_overall(of: Groupwise) -> Tensor:
    """Largest difference between a group and all groups together; float64[...]."""
    proportions = _proportions(of)
    return (proportions.value - proportions.pooled().value).abs().amax(dim=(-2, -1))


def to_overall_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`to_overall`, each at the one-sided error."""
    # A group's distance to everybody is its distance to the others times their share; the others are independent of it.
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
    """Limits of a - b; if ``joint``, they fail only if a limit of a or of b does."""
    of_a, of_b = (part.limits(error, exact=exact) for part in (a, b))
    if of_a is None or of_b is None:
        return None
    if joint:
        return Interval(of_a.lower - of_b.upper, of_a.upper - of_b.lower)
    return mover_difference(a.value, of_a, b.value, of_b)


def ratio_to_overall(of: Groupwise) -> Tensor:
    """Smallest ratio of a group to all groups together, or of all to it; float64[...]."""
    proportions = _proportions(of)
    ratio = proportions.value / proportions.pooled().value
    return torch.minimum(ratio, 1 / ratio).amin(dim=(-2, -1))


def ratio_to_overall_limits(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Limits of :func:`ratio_to_overall`, each at the one-sided error."""
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
    """Limits of the ratio of a group to everybody, 1/(s + (1 - s)/r), which grows with its ratio r to the others."""
    of_a, of_b = (part.limits(error, exact=exact) for part in (a, others))
    if of_a is None or of_b is None:
        return None
    ratio = mover_quotient(a.value, of_a, others.value, of_b)
    if joint:
        ratio = Interval(of_a.lower / of_b.upper, of_a.upper / of_b.lower)
    # with its ratio r to the others and its share s, the rate of everybody is a (s + (1 - s) / r)
    return Interval(*(1 / (a.shares + (1 - a.shares) / limit) for limit in ratio))


def mean_difference(of: Groupwise) -> Tensor:
    """Mean over the rates of largest minus smallest; float64[...]."""
    return (of.value.amax(dim=-1) - of.value.amin(dim=-1)).mean(dim=-1)


def total_variation(of: Groupwise) -> Tensor:
    """Half the sum over the rates of absolute differences, for the pair of groups with the largest; float64[...]."""
    apart = (of.value[..., :, None] - of.value[..., None, :]).abs().sum(dim=-3) / 2
    return apart.amax(dim=(-2, -1))


def size_weighted(of: Groupwise) -> Tensor:
    """Largest difference to all groups together, weighted by the share of samples that it concerns; float64[...]."""
    proportions = _proportions(of)
    everybody = proportions.rows.sum(dim=-1)
    return kearns(proportions.successes, proportions.totals, everybody).amax(dim=-1)


def spread(of: Groupwise) -> Tensor:
    """Standard deviation over the groups, corrected for sampling noise; float64[...]."""
    proportions = _proportions(of)
    return debiased_spread(proportions.successes, proportions.totals).amax(dim=-1)


def whole(of: Groupwise) -> Tensor:
    """The only value of a quantity that is not per group; float64[...]."""
    return of.value[..., 0, 0]


def none(of: Groupwise, error: float, exact: bool) -> Interval | None:
    """Return None: there are no limits in closed form."""
    return None


def _proportions(of: Groupwise) -> Proportions:
    if not isinstance(of, Proportions):
        raise TypeError(f"a comparison with all groups together needs proportions, got {type(of).__name__}")
    return of


def _ordered_pairs(value: Tensor, single: Interval) -> tuple[Tensor, Interval, Tensor, Interval]:
    """Values and limits of groups a and b, shaped to broadcast to [..., G, G]."""
    a, b = (Interval(*(limit[place] for limit in single)) for place in _PLACES)
    return value[_PLACES[0]], a, value[_PLACES[1]], b


_PLACES = ((..., slice(None), None), (..., None, slice(None)))


def _off_diagonal(pairs: Tensor, fill: float) -> Tensor:
    """``pairs`` [..., G, G] with ``fill`` where a group is compared with itself."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), fill)


def gap(low: float, high: float) -> tuple[float, float]:
    """Natural range of a gap between values in [low, high]."""
    return 0.0, high - low


def share(low: float, high: float) -> tuple[float, float]:
    """Natural range of a share."""
    return 0.0, 1.0


def same(low: float, high: float) -> tuple[float, float]:
    """The natural range of the quantity itself."""
    return low, high


def size(low: float, high: float) -> tuple[float, float]:
    """Natural range of an absolute value."""
    return 0.0, max(abs(low), abs(high))
