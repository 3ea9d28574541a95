"""A quantity of every group with its limits: what aggregations are formed of."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xai_lightning.functional.intervals import Interval, clopper_pearson, mover_mean, student_mean, wilson_of


class Groupwise(Protocol):
    """Rates (or other quantities) R of groups G, over the last two dimensions."""

    @property
    def value(self) -> Tensor:
        """float64[..., R, G]; NaN where a group has no evidence."""

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Limits float64[..., R, G] of each value at a one-sided error; None if there is no closed form."""


@dataclass(frozen=True)
class Proportions:
    """Proportions within groups that share no sample.

    Args:
        successes: int64[..., R, G], or sums of weights float64[..., R, G].
        totals: Like ``successes``, trials.
        squares: Like ``totals``, sums of the squared weights of the trials; the totals themselves if all weigh 1.
        rows: Like ``totals``, all samples of each group, whether or not a trial.
    """

    successes: Tensor
    totals: Tensor
    squares: Tensor
    rows: Tensor

    @property
    def value(self) -> Tensor:
        """Proportions, float64[..., R, G]; NaN where there was no trial."""
        return self.successes.double() / self.totals.double()

    @property
    def weighted(self) -> bool:
        """Whether samples carry weights."""
        return self.totals.is_floating_point()

    @property
    def shares(self) -> Tensor:
        """Share of each group in the trials, float64[..., R, G]."""
        return self.totals.double() / self.totals.double().sum(dim=-1, keepdim=True)

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Limits of Wilson, or those of Clopper and Pearson, which weighted samples have not."""
        if exact:
            return None if self.weighted else clopper_pearson(self.successes, self.totals, error)
        # Kish's number: how many equally weighted samples these are worth
        effective = self.totals.double().square() / self.squares.double()
        return wilson_of(self.value, effective, error)

    def rest(self) -> "Proportions":
        """For each group the samples of all others together, which are independent of its own."""
        return Proportions(*(part.sum(dim=-1, keepdim=True) - part for part in self._parts()))

    def pooled(self) -> "Proportions":
        """All groups together, [..., R, 1]."""
        return Proportions(*(part.sum(dim=-1, keepdim=True) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.successes, self.totals, self.squares, self.rows


def joined(parts: Iterable[Groupwise]) -> Groupwise:
    """Several quantities as one, along R.

    Raises:
        TypeError: If there are several, and not all are proportions.
    """
    found = list(parts)
    if len(found) == 1:
        return found[0]
    if not all(isinstance(part, Proportions) for part in found):
        raise TypeError(f"only proportions can share a metric, got {', '.join(type(part).__name__ for part in found)}")
    stacks = zip(*(part._parts() for part in found if isinstance(part, Proportions)), strict=True)
    return Proportions(*(torch.cat(stack, dim=-2) for stack in stacks))


@dataclass(frozen=True)
class MeanProportions:
    """Unweighted means of K proportions per group, such as balanced accuracy.

    Args:
        successes: int64[..., R, G, K].
        totals: Like ``successes``.
    """

    successes: Tensor
    totals: Tensor

    @property
    def value(self) -> Tensor:
        """Means, float64[..., R, G]; NaN where one of the K has no trial."""
        return (self.successes.double() / self.totals.double()).mean(dim=-1)

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Recovered from the limits of Wilson; exact: means of exact limits that share the error."""
        # no sums of squared weights are kept here, without which nobody knows what the samples are worth
        if self.totals.is_floating_point():
            return None
        if not exact:
            return mover_mean(self.successes, self.totals, error)
        single = clopper_pearson(self.successes, self.totals, error / self.totals.shape[-1])
        return Interval(single.lower.mean(dim=-1), single.upper.mean(dim=-1))


@dataclass(frozen=True)
class Averages:
    """Means over the samples of each group.

    Args:
        value: Means, float64[..., R, G].
        variance: Unbiased variance of one sample, float64[..., R, G].
        number: Samples, [..., R, G].
    """

    value: Tensor
    variance: Tensor
    number: Tensor

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Student's limits; there are no exact ones."""
        return None if exact else student_mean(self.value, self.variance, self.number, error)


@dataclass(frozen=True)
class Excess:
    """Means of scores less the shares of positives.

    A sample without a positive, or with equal scores, may have errors without any variance. So the limits are those
    of Wilson of the share of positives, among as many samples as give it the variance of the error, and as far to one
    side as to the other; both variances are raised by half a sample's share, which large groups do not notice.

    Args:
        scores: Mean scores, float64[..., R, G].
        positives: Shares of positives, float64[..., R, G].
        variance: Unbiased variance of a score less its target, float64[..., R, G]; NaN of one sample.
        number: Samples, [..., R, G].
    """

    scores: Tensor
    positives: Tensor
    variance: Tensor
    number: Tensor

    @property
    def value(self) -> Tensor:
        """Differences, float64[..., R, G]."""
        return self.scores - self.positives

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Limits of Wilson of that number of samples; there are no exact ones."""
        if exact:
            return None
        little = 0.5 / self.number.double()
        spread = self.positives * (1 - self.positives)
        # one sample has no variance; that of a number in [-1, 1] is at most 1
        effective = self.number.double() * (spread + little) / (self.variance.nan_to_num(1.0) + little)
        share = wilson_of(self.positives, effective, error)
        # which of the two is the longer depends on which kind of error is rare
        half = torch.maximum(share.upper - self.positives, self.positives - share.lower)
        return Interval(self.value - half, self.value + half)


@dataclass(frozen=True)
class Ranked:
    """Quantities in [0, 1] that vary as a share of so many trials would, such as the area under a curve.

    Args:
        value: float64[..., R, G].
        trials: Number of trials, float64[..., R, G].
    """

    value: Tensor
    trials: Tensor

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Limits of Wilson of that number of trials; there are no exact ones."""
        return None if exact else wilson_of(self.value, self.trials, error)


@dataclass(frozen=True)
class Plain:
    """Quantities whose limits have no closed form: resampling gives them.

    Args:
        value: float64[..., R, G].
    """

    value: Tensor

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """None."""
        return None
