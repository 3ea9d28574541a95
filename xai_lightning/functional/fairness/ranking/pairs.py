"""Comparison of positives of one group with negatives of another, by bins of their scores."""

from collections.abc import Callable

import torch
from torch import Tensor

from xai_lightning.functional.fairness.scores import Scored


def classes(scored: Scored) -> tuple[Tensor, Tensor]:
    """Numbers of negatives and of positives, each float64[..., G, B]."""
    negatives, positives = scored.numbers.double().unbind(dim=-2)
    return negatives, positives


def before(numbers: Tensor) -> Tensor:
    """Number of samples below each bin, plus half of those in it."""
    return numbers.cumsum(dim=-1) - numbers / 2


def won(positives: Tensor, negatives: Tensor) -> Tensor:
    """Share of pairs in which the positive has the higher score, float64[...]; equal scores count half."""
    # Sums of whole and half numbers are exact, so that a perfect ranking gives exactly 1.
    pairs = positives.sum(dim=-1) * negatives.sum(dim=-1)
    return (positives * before(negatives)).sum(dim=-1) / pairs


def of_pairs(scored: Scored, statistic: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
    """``statistic`` of positives and negatives for all pairs of groups, one group at a time to bound memory."""
    negatives, positives = classes(scored)
    groups = range(positives.shape[-2])
    return torch.stack([statistic(positives[..., a : a + 1, :], negatives) for a in groups], dim=-2)
