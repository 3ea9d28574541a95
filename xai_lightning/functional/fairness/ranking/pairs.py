"""Positives of one group against negatives of another, by bins of their scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from xai_lightning.functional.fairness.scores import Scored


def classes(scored: Scored) -> tuple[Tensor, Tensor]:
    """Numbers of negatives and of positives, each float64[..., G, B]."""
    negatives, positives = scored.numbers.double().unbind(dim=-2)
    return negatives, positives


def before(numbers: Tensor) -> Tensor:
    """Number of samples below each bin, and half of those in it."""
    return numbers.cumsum(dim=-1) - numbers / 2


def won(positives: Tensor, negatives: Tensor) -> Tensor:
    """Share of the pairs that the positive wins, equal scores counted half: float64[...]."""
    # Whole and half numbers throughout, so that a perfect ranking gives exactly 1.
    pairs = positives.sum(dim=-1) * negatives.sum(dim=-1)
    return (positives * before(negatives)).sum(dim=-1) / pairs


def of_pairs(scored: Scored, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``statistic`` of the positives of each group against the negatives of all; replicates make all pairs large."""
    negatives, positives = classes(scored)
    groups = range(positives.shape[-2])
    return torch.stack([statistic(positives[..., a : a + 1, :], negatives) for a in groups], dim=-2)
