"""Aggregations of rates over groups, with their confidence limits.

The limit on the bad side of the worst pair or group is the worst of their limits, each at the full error: it can
only fail if the limit of the pair that truly is the worst fails (intersection-union). The limit on the good side
fails if any single limit that enters fails, since the groups that look extreme are not known beforehand; there the
error is divided by the number of limits.
"""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.intervals import Interval, mover_ratio, newcombe, wilson


class Aggregation(NamedTuple):
    """What is formed of the rates of all groups, over the last two dimensions: rates R and groups G.

    Attributes:
        value: Metric float64[...] of the rates float64[..., R, G]; NaN if any of them is.
        limits: Limits of the metric float64[...], of successes int64[..., R, G], totals int64[..., R, G] and the
            one-sided error of each limit, above 0; they may exceed the natural range.
        best: Whether low or high values are good.
        groups: Number of groups below which it is undefined.
    """

    value: Callable[[Tensor], Tensor]
    limits: Callable[[Tensor, Tensor, float], Interval]
    best: Literal["low", "high"]
    groups: int


# `amax` and `amin` pass NaN on, where pandas skips it: one undefined group makes the metric undefined (trap 79).


def _difference(rates: Tensor) -> Tensor:
    return (rates.amax(dim=-1) - rates.amin(dim=-1)).amax(dim=-1)


def _difference_limits(successes: Tensor, totals: Tensor, error: float) -> Interval:
    single = _simultaneous(successes, totals, error)
    lower = (single.lower.amax(dim=-1) - single.upper.amin(dim=-1)).amax(dim=-1)
    pairs = newcombe(*_ordered_pairs(successes, totals), error=error)
    return Interval(lower, _off_diagonal(pairs.upper, -math.inf).amax(dim=(-3, -2, -1)))


def _ratio(rates: Tensor) -> Tensor:
    return (rates.amin(dim=-1) / rates.amax(dim=-1)).amin(dim=-1)


def _ratio_limits(successes: Tensor, totals: Tensor, error: float) -> Interval:
    single = _simultaneous(successes, totals, error)
    upper = (single.upper.amin(dim=-1) / single.lower.amax(dim=-1)).amin(dim=-1)
    pairs = mover_ratio(*_ordered_pairs(successes, totals), error=error)
    return Interval(_off_diagonal(pairs.lower, math.inf).amin(dim=(-3, -2, -1)), upper)


def _worst(rates: Tensor) -> Tensor:
    return rates.amin(dim=(-2, -1))


def _worst_limits(successes: Tensor, totals: Tensor, error: float) -> Interval:
    single = _simultaneous(successes, totals, error)
    lower = wilson(successes, totals, error).lower
    return Interval(lower.amin(dim=(-2, -1)), single.upper.amin(dim=(-2, -1)))


def _simultaneous(successes: Tensor, totals: Tensor, error: float) -> Interval:
    """Limits of all rates of all groups that hold together: a union bound over two limits of R times G rates."""
    return wilson(successes, totals, error / (2 * totals.shape[-1] * totals.shape[-2]))


def _ordered_pairs(successes: Tensor, totals: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Counts of groups a and b, which broadcast to [..., R, G, G]."""
    return successes[..., :, None], totals[..., :, None], successes[..., None, :], totals[..., None, :]


def _off_diagonal(pairs: Tensor, fill: float) -> Tensor:
    """``pairs`` [..., G, G] with ``fill`` where a group is compared with itself."""
    return pairs.masked_fill(torch.eye(pairs.shape[-1], dtype=torch.bool, device=pairs.device), fill)


AGGREGATIONS: Mapping[str, Aggregation] = MappingProxyType(
    {
        "difference": Aggregation(_difference, _difference_limits, best="low", groups=2),
        "ratio": Aggregation(_ratio, _ratio_limits, best="high", groups=2),
        "worst": Aggregation(_worst, _worst_limits, best="high", groups=1),
    }
)
"""Aggregations by name. To add one, add a row."""
