"""The number of samples that a limit needs before any model can meet it."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.groupwise import Averages, Excess, Groupwise, Proportions, Ranked
from xai_lightning.functional.fairness.metric import Metric

MOST = 10**9
"""Largest number of samples per group that is reported."""
_WINDOW = 4096


class SampleSize(NamedTuple):
    """Whether the data suffice for a threshold, whatever the model.

    Attributes:
        group: Index of the group with the smallest denominator.
        rate: Index of its rate.
        smallest: That denominator, a count.
        needed: Smallest number of samples per group with which the bound of identical groups meets the threshold; None
            if a billion does not suffice.
        can_open: Whether that bound meets the threshold with the denominators at hand.
    """

    group: int
    rate: int
    smallest: int
    needed: int | None
    can_open: bool


def sample_size(
    metric: Metric, evidence: Any, threshold: float, *, error: float, exact: bool = False
) -> SampleSize | None:
    r"""Whether a bound could meet a threshold if all groups had their pooled rate.

    This is the best case, not the likely one: a true gap of 0 is almost never *estimated* as 0. For rates near 1/2 and
    a true gap of 0, about four times the number that can open a gate opens it four times in five.

    Args:
        metric: A row of the table of metrics, or your own.
        evidence: What the metric needs, with samples in at least one group.
        threshold: Largest bound allowed, or smallest where high values are good.
        error: One-sided error probability of the bound, in [0, 0.5).
        exact: Whether limits are exact.

    Returns:
        The report; None if the limits of the metric are resampled and thus unknown beforehand.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.fairness import METRICS, Confusion
        >>> counts = Confusion(*torch.tensor([[8, 160], [0, 0], [32, 640], [0, 0], [8, 160], [40, 800]]))
        >>> sample_size(METRICS["demographic_parity_difference"], counts, 0.1, error=0.05)
        SampleSize(group=0, rate=0, smallest=40, needed=87, can_open=False)

    References:
        R. G. Newcombe, Interval estimation for the difference between independent proportions: comparison of eleven
        methods, Statistics in Medicine 17, 1998.
    """
    of = metric.measure(evidence)
    numbers = _numbers(of)
    if numbers is None or metric.how.limits(of, 0.1, exact) is None:
        return None
    rate, group = divmod(int(numbers.argmin()), numbers.shape[-1])

    smallest = int(numbers.min())
    # with an error of 0 the bound is infinite, whatever the number of samples
    if error == 0:
        return SampleSize(group, rate, smallest, None, False)

    def meets(n: Tensor, whole: bool) -> Tensor:
        return _meets(metric, _alike(metric, of, n, whole or exact), threshold, error, exact)

    alike = torch.ones(numbers.shape[-2], max(2, metric.how.groups), dtype=torch.float64, device="cpu")
    roughly = _smallest(lambda n: bool(meets(n * alike, False)))
    needed = None if roughly is None else _first(roughly, lambda n: meets(n[:, None, None] * alike, True))
    return SampleSize(group, rate, smallest, needed, bool(meets(numbers, False)))


def _smallest(enough: Callable[[int], bool]) -> int | None:
    # `enough` is monotone: double until it holds, then bisect
    low, high = 1, 2
    while not enough(high):
        low, high = high, high * 2
        if high > MOST:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if enough(middle) else (middle, high)
    return high


def _first(roughly: int, enough: Callable[[Tensor], Tensor]) -> int:
    """The smallest sufficient number near ``roughly``, which was found with fractional successes: counts are whole."""
    # with whole counts the limit moves up and down in steps: the first sufficient number is near, on either side
    start = max(2, roughly - max(20, min(roughly // 5, _WINDOW)))
    near = torch.arange(start, roughly + max(20, min(roughly // 5, _WINDOW)), dtype=torch.float64, device="cpu")
    found = near[enough(near)]
    return int(found[0]) if len(found) else roughly


def _numbers(of: Groupwise) -> Tensor | None:
    """Denominators float64[R, G]; for weighted samples, the effective number of equally weighted ones."""
    if isinstance(of, Proportions):
        return torch.nan_to_num(of.totals.double().square() / of.squares.double())
    if isinstance(of, Averages | Excess):
        return of.number.double()
    return torch.nan_to_num(of.trials) if isinstance(of, Ranked) else None


def _alike(metric: Metric, of: Groupwise, numbers: Tensor, whole: bool) -> Groupwise:
    """Groups with ``numbers`` [R, G] of samples, all with the pooled values."""
    if isinstance(of, Proportions):
        successes, totals = of.pooled().value * numbers, numbers.clone()
        if whole:
            successes, totals = successes.nan_to_num().round().long(), totals.long()
        return Proportions(successes, totals, totals, totals)
    # identical groups may all be off by the same amount, but the best case of a magnitude is 0
    centre = (
        torch.zeros((), device=numbers.device) if metric.aggregation == "largest_magnitude" else _pooled(of, of.value)
    )
    if isinstance(of, Averages):
        return Averages(centre + 0 * numbers, _pooled(of, of.variance) + 0 * numbers, numbers)
    if isinstance(of, Excess):
        positives = _pooled(of, of.positives)
        shares, variance = positives + 0 * numbers, _pooled(of, of.variance) + 0 * numbers
        return Excess(centre + shares, shares, variance, numbers)
    return Ranked(centre + 0 * numbers, numbers)


def _pooled(of: Groupwise, part: Tensor) -> Tensor:
    """Mean over the groups, weighted by their numbers of samples, [R, 1]."""
    weights = _numbers(of)
    shares = torch.ones_like(part) if weights is None else weights
    return (part * shares).sum(dim=-1, keepdim=True) / shares.sum(dim=-1, keepdim=True)


def _meets(metric: Metric, of: Groupwise, threshold: float, error: float, exact: bool) -> Tensor:
    limits = metric.how.limits(of, error, exact)
    if limits is None:
        raise ValueError(f"there is no closed form for the limits of {metric.rates!r}")
    low, high = metric.reach
    if metric.best == "low":
        return limits.upper.clamp(low, high) <= threshold
    return limits.lower.clamp(low, high) >= threshold
