"""What a quantity is: made of some evidence, of every group or of all together."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.distances import Distribution
from xai_lightning.functional.fairness.groupwise import Groupwise, Plain

Needs = Literal["counts", "scores", "residuals", "predictions", "errors"]
"""Evidence: ``Confusion``, ``Scored``, ``Residuals``, and ``Distribution`` of the predictions and of the residuals."""


class Quantity(NamedTuple):
    """A quantity of every group, or of all together, that is not a proportion.

    Attributes:
        of: Makes it of the evidence.
        needs: What it is made of.
        reach: Its natural range.
        ideal: Its value for a perfect model.
        meaning: In a few words.
        hides: What it does not show: parts of a sentence, between semicolons.
    """

    of: Callable[[Any], Groupwise]
    needs: Needs
    reach: tuple[float, float]
    ideal: float
    meaning: str
    hides: str


def each(value: Tensor) -> Plain:
    """Of each group its own, of values [..., G]."""
    return Plain(value[..., None, :])


def farthest(pairs: Tensor) -> Plain:
    """Of each group the largest value with any other, of pairs [..., G, G]."""
    return each(pairs.amax(dim=-1))


def told_apart(of: Distribution, distances: Tensor) -> Tensor:
    """Distances of each group, NaN where bins hide them: they would be 0."""
    return distances if of.blind is None else distances.masked_fill(of.blind, torch.nan)


def pairs_told_apart(of: Distribution, distances: Tensor) -> Tensor:
    """The same of distances of pairs of groups, [..., G, G]."""
    if of.blind is None:
        return distances
    return distances.masked_fill(of.blind[..., None, :] | of.blind[..., :, None], torch.nan)
