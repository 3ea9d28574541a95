"""The definition of a quantity: computed from some evidence, for every group or for all together."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.distances import Distribution
from xai_lightning.functional.fairness.groupwise import Groupwise, Plain

Needs = Literal["counts", "scores", "residuals", "predictions", "errors"]
"""Evidence: ``Confusion``, ``Scored``, ``Residuals``, or the ``Distribution`` of predictions or of residuals."""


class Quantity(NamedTuple):
    """A quantity of every group, or of all together, that is not a proportion.

    Attributes:
        of: Computes it from the evidence.
        needs: The evidence that it is computed from.
        reach: Its natural range.
        ideal: Its value for a perfect model.
        meaning: Definition in a few words.
        hides: What it does not show: parts of a sentence, separated by semicolons.
    """

    of: Callable[[Any], Groupwise]
    needs: Needs
    reach: tuple[float, float]
    ideal: float
    meaning: str
    hides: str


def each(value: Tensor) -> Plain:
    """A quantity from its values per group, [..., G]."""
    return Plain(value[..., None, :])


def farthest(pairs: Tensor) -> Plain:
    """A quantity that is each group's largest value with any other group, from pairs [..., G, G]."""
    return each(pairs.amax(dim=-1))


def told_apart(of: Distribution, distances: Tensor) -> Tensor:
    """Distances of each group, NaN where bins are too wide to show them: they would be 0."""
    return distances if of.blind is None else distances.masked_fill(of.blind, torch.nan)


def pairs_told_apart(of: Distribution, distances: Tensor) -> Tensor:
    """Distances of pairs of groups, [..., G, G], NaN where the bins are too wide for either group."""
    if of.blind is None:
        return distances
    return distances.masked_fill(of.blind[..., None, :] | of.blind[..., :, None], torch.nan)
