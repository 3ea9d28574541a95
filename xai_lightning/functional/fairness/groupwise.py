"""Quantities per group with their limits, from which aggregations are computed."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from xai_lightning.functional.intervals import Interval, clopper_pearson, mover_mean, student_mean, wilson_of


class Groupwise(Protocol):
    """R rates (or other quantities) of G groups, in the last two dimensions."""

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
        totals: Like ``successes``, number of trials.
        squares: Like ``totals``, sums of the squared weights of the trials; equal to the totals if all weights are 1.
        rows: Like ``totals``, all samples of each group, whether or not they are trials.
    """

    successes: Tensor
    totals: Tensor
    squares: Tensor
    rows: Tensor

    @property
    def value(self) -> Tensor:
        """Proportions, float64[..., R, G]; NaN where there is no trial."""
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
        """Wilson limits; if ``exact``, those of Clopper and Pearson, or None for weighted samples."""
        if exact:
            return None if self.weighted else clopper_pearson(self.successes, self.totals, error)
        # Kish's number: how many equally weighted samples these are worth
        effective = self.totals.double().square() / self.squares.double()
        return wilson_of(self.value, effective, error)

    def rest(self) -> "Proportions":
        """For each group, all other groups together, whose samples are independent of its own."""
        return Proportions(*(part.sum(dim=-1, keepdim=True) - part for part in self._parts()))

    def pooled(self) -> "Proportions":
        """All groups together, [..., R, 1]."""
        return Proportions(*(part.sum(dim=-1, keepdim=True) for part in self._parts()))

    def _parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return self.successes, self.totals, self.squares, self.rows


def joined(parts: Iterable[Groupwise]) -> Groupwise:
    """Concatenate several quantities along R.

    Raises:
        TypeError: If there are several and not all are proportions.
    """
    found = list(parts)
    if len(found) == 1:
        return found[0]
    if not all(isinstance(part, Proportions) for part in found):
        raise TypeError(
            f"several quantities of one metric must all be proportions, got "
            f"{', '.join(type(part).__name__ for part in found)}"
        )
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
        """Means, float64[..., R, G]; NaN where one of the K proportions has no trial."""
        return (self.successes.double() / self.totals.double()).mean(dim=-1)

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Limits recovered from Wilson limits (MOVER); if ``exact``, means of exact limits that share the error."""
        # the effective sample size needs sums of squared weights, which are not kept here
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
        """Student's limits; None if ``exact``."""
        return None if exact else student_mean(self.value, self.variance, self.number, error)


@dataclass(frozen=True)
class Excess:
    """Mean scores minus the shares of positives.

    The errors of a sample without positives, or with equal scores, may have no variance. The limits are therefore
    Wilson limits of the share of positives, at the effective number of samples that gives the share the variance of the
    error, made symmetric by taking the longer side. Both variances are raised by 0.5 / n, which is negligible in large
    groups.

    Args:
        scores: Mean scores, float64[..., R, G].
        positives: Shares of positives, float64[..., R, G].
        variance: Unbiased variance of score minus target, float64[..., R, G]; NaN with one sample.
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
        """Wilson limits at the effective number of samples; None if ``exact``."""
        if exact:
            return None
        little = 0.5 / self.number.double()
        spread = self.positives * (1 - self.positives)
        # the variance of one sample is unknown; that of a number in [-1, 1] is at most 1
        effective = self.number.double() * (spread + little) / (self.variance.nan_to_num(1.0) + little)
        share = wilson_of(self.positives, effective, error)
        # which of the two is the longer depends on which kind of error is rare
        half = torch.maximum(share.upper - self.positives, self.positives - share.lower)
        return Interval(self.value - half, self.value + half)


@dataclass(frozen=True)
class Ranked:
    """Quantities in [0, 1] with the variance of a proportion of ``trials``, such as the area under a curve.

    Args:
        value: float64[..., R, G].
        trials: Equivalent number of trials, float64[..., R, G].
    """

    value: Tensor
    trials: Tensor

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Wilson limits at that number of trials; None if ``exact``."""
        return None if exact else wilson_of(self.value, self.trials, error)


@dataclass(frozen=True)
class Plain:
    """Quantities whose limits have no closed form and come from resampling.

    Args:
        value: float64[..., R, G].
    """

    value: Tensor

    def limits(self, error: float, *, exact: bool) -> Interval | None:
        """Return None: there is no closed form."""
        return None
