"""Proportions within each group."""

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import NamedTuple

from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion


class Rate(NamedTuple):
    """A proportion within a group, as two functions of its counts.

    Attributes:
        numerator: Counts of successes, int64[..., G].
        denominator: Counts of trials, int64[..., G]; where it is 0 the rate is undefined.
    """

    numerator: Callable[[Confusion], Tensor]
    denominator: Callable[[Confusion], Tensor]


RATES: Mapping[str, Rate] = MappingProxyType(
    {
        "selection_rate": Rate(lambda c: c.tp + c.fp, lambda c: c.total),
        "true_positive_rate": Rate(lambda c: c.tp, lambda c: c.tp + c.fn),
        "false_positive_rate": Rate(lambda c: c.fp, lambda c: c.fp + c.tn),
        "false_negative_rate": Rate(lambda c: c.fn, lambda c: c.tp + c.fn),
        "positive_predictive_value": Rate(lambda c: c.tp, lambda c: c.tp + c.fp),
        "accuracy": Rate(lambda c: c.correct, lambda c: c.total),
    }
)
"""Rates by name. To add one, add a row."""


def rate(name: str, confusion: Confusion) -> Tensor:
    """One rate of every group.

    The numerator over the denominator of the row ``name`` of :data:`RATES`. Whether a rate is high for good or ill
    depends on what the favourable class stands for. A rate without a denominator is NaN: no evidence is neither 0
    nor fair.

    Args:
        name: A name in :data:`RATES`.
        confusion: Counts, each int64[..., G].

    Returns:
        float64[..., G], fractions in [0, 1]; NaN where the denominator is 0.

    Raises:
        ValueError: If there is no rate of that name.

    Example:
        >>> import torch
        >>> counts = Confusion(*torch.tensor([[3, 0], [1, 2], [1, 0], [5, 8], [8, 8], [10, 10]]))
        >>> rate("true_positive_rate", counts).tolist()
        [0.75, nan]
    """
    successes, totals = tally(name, confusion)
    return successes.double() / totals.double()


def tally(name: str, confusion: Confusion) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of one rate of every group.

    Args:
        name: A name in :data:`RATES`.
        confusion: Counts, each int64[..., G].

    Returns:
        Two counts, each int64[..., G].

    Raises:
        ValueError: If there is no rate of that name.

    Example:
        >>> import torch
        >>> counts = Confusion(*torch.tensor([[3], [1], [1], [5], [8], [10]]))
        >>> [int(part) for part in tally("accuracy", counts)]
        [8, 10]
    """
    if name not in RATES:
        raise ValueError(f"rate must be one of {', '.join(RATES)}, got {name!r}")
    return RATES[name].numerator(confusion), RATES[name].denominator(confusion)
