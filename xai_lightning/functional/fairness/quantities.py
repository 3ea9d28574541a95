"""What can be said of each group beside proportions: the rows whose limits come from means or from resampling."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion, per_class
from xai_lightning.functional.fairness.groupwise import Groupwise, MeanProportions, Plain
from xai_lightning.functional.fairness.inequality import (
    between_group_entropy,
    differential_fairness,
    generalized_entropy,
)

Needs = Literal["counts", "scores", "residuals"]


class Quantity(NamedTuple):
    """A quantity of every group, or of all together, that is not a proportion.

    Attributes:
        of: Makes it of the counts, scores or residuals.
        needs: What it is made of.
        reach: Its natural range.
        ideal: Its value for a perfect model.
        meaning: In a few words.
        hides: What it does not show, the middle of a sentence.
    """

    of: Callable[[Any], Groupwise]
    needs: Needs
    reach: tuple[float, float]
    ideal: float
    meaning: str
    hides: str


def _four(c: Confusion) -> Tensor:
    """The favourable class against the rest, [..., G, 2, 2], indexed [group, actual, predicted]."""
    return torch.stack([torch.stack([c.tn, c.fp], dim=-1), torch.stack([c.fn, c.tp], dim=-1)], dim=-2)


def _one(value: Tensor) -> Plain:
    return Plain(value[..., None, None])


def _recalls(c: Confusion) -> MeanProportions:
    if c.cells is None:
        raise ValueError("balanced accuracy needs counts of all classes; make them with confusion(counts, positive)")
    correct, _, actual = per_class(c.cells)
    return MeanProportions(correct[..., None, :, :], actual[..., None, :, :])


def _of_classes(c: Confusion) -> Tensor:
    return _four(c) if c.cells is None else c.cells


QUANTITIES: Mapping[str, Quantity] = MappingProxyType(
    {
        "balanced_accuracy": Quantity(
            _recalls, "counts", (0.0, 1.0), 1.0, "mean recall over the classes", "which class bears the errors"
        ),
        "error_balance": Quantity(
            lambda c: Plain((c.fn.double() / c.fp.double())[..., None, :]),
            "counts",
            (0.0, math.inf),
            1.0,
            "false negatives per false positive",
            "how many errors there are; it is unbounded, and undefined without a false positive",
        ),
        "generalized_entropy": Quantity(
            lambda c: _one(generalized_entropy(_four(c), 2.0)),
            "counts",
            (0.0, math.inf),
            0.0,
            "inequality of the benefit between all samples, alpha = 2",
            "who bears it; it may fall when accuracy falls, so never gate on it",
        ),
        "theil": Quantity(
            lambda c: _one(generalized_entropy(_four(c), 1.0)),
            "counts",
            (0.0, math.inf),
            0.0,
            "inequality of the benefit between all samples, alpha = 1",
            "who bears it, and whether the targets are right",
        ),
        "between_group_entropy": Quantity(
            lambda c: _one(between_group_entropy(_four(c), 2.0)),
            "counts",
            (0.0, math.inf),
            0.0,
            "the part of it that is due to the groups",
            "how many errors of both kinds there are, if they balance",
        ),
        "differential_fairness": Quantity(
            lambda c: _one(differential_fairness(_of_classes(c))),
            "counts",
            (0.0, math.inf),
            0.0,
            "largest log ratio of smoothed class shares",
            "the targets; it is governed by the rarest class",
        ),
    }
)
"""Quantities by name. To add one, add a row."""
