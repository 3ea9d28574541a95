"""Quantities of counts of predicted and actual classes."""

import math

import torch
from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion, cells_of, per_class
from xai_lightning.functional.fairness.groupwise import MeanProportions, Plain
from xai_lightning.functional.fairness.inequality import (
    between_group_entropy,
    differential_fairness,
    generalized_entropy,
)
from xai_lightning.functional.fairness.quantities.quantity import Quantity
from xai_lightning.functional.fairness.rates import TRUSTS


def _four(c: Confusion) -> Tensor:
    """Counts of the favourable class against the rest, [..., G, 2, 2], indexed [group, actual, predicted]."""
    return torch.stack([torch.stack([c.tn, c.fp], dim=-1), torch.stack([c.fn, c.tp], dim=-1)], dim=-2)


def _one(value: Tensor) -> Plain:
    return Plain(value[..., None, None])


def _recalls(c: Confusion) -> MeanProportions:
    correct, _, actual = per_class(cells_of(c, "balanced accuracy"))
    return MeanProportions(correct[..., None, :, :], actual[..., None, :, :])


def _of_classes(c: Confusion) -> Tensor:
    return _four(c) if c.cells is None else c.cells


OF_COUNTS: dict[str, Quantity] = {
    "balanced_accuracy": Quantity(
        _recalls, "counts", (0.0, 1.0), 1.0, "mean recall over the classes", f"which class bears the errors; {TRUSTS}"
    ),
    "error_balance": Quantity(
        lambda c: Plain((c.fn.double() / c.fp.double())[..., None, :]),
        "counts",
        (0.0, math.inf),
        1.0,
        "false negatives per false positive",
        f"how many errors there are; {TRUSTS}",
    ),
    "generalized_entropy": Quantity(
        lambda c: _one(generalized_entropy(_four(c), 2.0)),
        "counts",
        (0.0, math.inf),
        0.0,
        "inequality of the benefit among all samples, alpha = 2",
        f"how many errors there are; {TRUSTS}",
    ),
    "theil": Quantity(
        lambda c: _one(generalized_entropy(_four(c), 1.0)),
        "counts",
        (0.0, math.inf),
        0.0,
        "inequality of the benefit among all samples, alpha = 1",
        f"how many errors there are; {TRUSTS}",
    ),
    "between_group_entropy": Quantity(
        lambda c: _one(between_group_entropy(_four(c), 2.0)),
        "counts",
        (0.0, math.inf),
        0.0,
        "inequality of the mean benefit between groups, alpha = 2",
        f"false positives and false negatives that cancel; {TRUSTS}",
    ),
    "differential_fairness": Quantity(
        lambda c: _one(differential_fairness(_of_classes(c))),
        "counts",
        (0.0, math.inf),
        0.0,
        "largest log ratio between groups of the smoothed share predicted as a class",
        "who belongs to which class",
    ),
}
