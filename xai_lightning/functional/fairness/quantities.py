"""What can be said of each group beside proportions: of counts, of scores, and of errors of predicted numbers."""

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.calibration import (
    brier,
    brier_skill,
    calibration_error_squared,
    calibration_in_the_large,
    kolmogorov_calibration_error,
)
from xai_lightning.functional.fairness.counts import Confusion, per_class
from xai_lightning.functional.fairness.distances import (
    Distribution,
    kolmogorov,
    kolmogorov_to_overall,
    wasserstein,
)
from xai_lightning.functional.fairness.errors import absolute_error, mean_prediction, mean_residual, root_squared_error
from xai_lightning.functional.fairness.groupwise import Averages, Excess, Groupwise, MeanProportions, Plain, Ranked
from xai_lightning.functional.fairness.inequality import (
    between_group_entropy,
    differential_fairness,
    generalized_entropy,
)
from xai_lightning.functional.fairness.means import Means
from xai_lightning.functional.fairness.ranking import auc, auc_trials, bnsp_auc, bpsn_auc, unresolved_pairs, xauc
from xai_lightning.functional.fairness.rates import TRUSTS
from xai_lightning.functional.fairness.scores import Scored, score_distance, score_distribution, score_wasserstein

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


def _each(value: Tensor) -> Plain:
    return Plain(value[..., None, :])


def _farthest(pairs: Tensor) -> Plain:
    """Of each group the largest value with any other, of pairs [..., G, G]."""
    return _each(pairs.amax(dim=-1))


def _averages(of: Means) -> Averages:
    return Averages(*(part[..., None, :] for part in of))


def _excess(of: Scored) -> Excess:
    found, numbers = calibration_in_the_large(of), of.numbers.double().sum(dim=-1)
    positives = numbers[..., 1] / numbers.sum(dim=-1)
    parts = found.value + positives, positives, found.variance, found.number
    return Excess(*(part[..., None, :] for part in parts))


def _across(of: Scored) -> Plain:
    between = xauc(of).masked_fill(unresolved_pairs(of), math.nan)
    return _farthest(between - between.mT)


def _area(of: Scored) -> Ranked:
    blind = unresolved_pairs(of).diagonal(dim1=-2, dim2=-1)
    return Ranked(auc(of).masked_fill(blind, math.nan)[..., None, :], auc_trials(of)[..., None, :])


def _told_apart(of: Distribution, distances: Tensor) -> Tensor:
    """Distances of each group, NaN where bins hide them: they would be 0."""
    return distances if of.blind is None else distances.masked_fill(of.blind, math.nan)


def _pairs_told_apart(of: Distribution, distances: Tensor) -> Tensor:
    if of.blind is None:
        return distances
    return distances.masked_fill(of.blind[..., None, :] | of.blind[..., :, None], math.nan)


_OF_COUNTS: dict[str, Quantity] = {
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
        "inequality of the benefit between all samples, alpha = 2",
        f"how many errors there are; {TRUSTS}",
    ),
    "theil": Quantity(
        lambda c: _one(generalized_entropy(_four(c), 1.0)),
        "counts",
        (0.0, math.inf),
        0.0,
        "inequality of the benefit between all samples, alpha = 1",
        f"how many errors there are; {TRUSTS}",
    ),
    "between_group_entropy": Quantity(
        lambda c: _one(between_group_entropy(_four(c), 2.0)),
        "counts",
        (0.0, math.inf),
        0.0,
        "inequality of the mean benefit between groups, alpha = 2",
        f"errors of both kinds that balance; {TRUSTS}",
    ),
    "differential_fairness": Quantity(
        lambda c: _one(differential_fairness(_of_classes(c))),
        "counts",
        (0.0, math.inf),
        0.0,
        "largest log ratio between groups of the smoothed share predicted as a class",
        "who of them is of that class",
    ),
}

_OF_SCORES: dict[str, Quantity] = {
    "auc": Quantity(
        _area,
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the group outranks a negative of it",
        f"how its scores compare with those of other groups; what happens at a threshold; {TRUSTS}",
    ),
    "xauc_gap": Quantity(
        _across,
        "scores",
        (0.0, 1.0),
        0.0,
        "share of pairs in which a positive of the group outranks a negative of another, less the share of the reverse",
        f"how well each group is ranked by itself; {TRUSTS}",
    ),
    "bpsn_auc": Quantity(
        lambda s: _each(bpsn_auc(s).masked_fill(unresolved_pairs(s).any(dim=-2), math.nan)),
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the others outranks a negative of the group",
        f"how the group's positives are ranked; {TRUSTS}",
    ),
    "bnsp_auc": Quantity(
        lambda s: _each(bnsp_auc(s).masked_fill(unresolved_pairs(s).any(dim=-1), math.nan)),
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the group outranks a negative of the others",
        f"how the group's negatives are ranked; {TRUSTS}",
    ),
    "score_distance": Quantity(
        lambda s: _farthest(_pairs_told_apart(score_distribution(s), score_distance(s))),
        "scores",
        (0.0, 1.0),
        0.0,
        "largest distance of the distribution functions of scores to another group's",
        "whether the targets differ likewise; how far apart the scores are",
    ),
    "score_wasserstein": Quantity(
        lambda s: _farthest(_pairs_told_apart(score_distribution(s), score_wasserstein(s))),
        "scores",
        (0.0, 1.0),
        0.0,
        "mean distance that scores would have to move to be distributed as another group's",
        "whether the targets differ likewise",
    ),
    "calibration_in_the_large": Quantity(
        _excess,
        "scores",
        (-1.0, 1.0),
        0.0,
        "mean score less the share of positives",
        f"errors that cancel between low and high scores; {TRUSTS}",
    ),
    "calibration_error": Quantity(
        lambda s: _each(calibration_error_squared(s).clamp(min=0).sqrt()),
        "scores",
        (0.0, 1.0),
        0.0,
        "root of the debiased squared calibration error, ten bins of equal mass",
        f"errors that cancel within a bin; {TRUSTS}",
    ),
    "kolmogorov_calibration_error": Quantity(
        lambda s: _each(kolmogorov_calibration_error(s)),
        "scores",
        (0.0, 1.0),
        0.0,
        "largest cumulated miscalibration, without bins",
        f"at which scores; {TRUSTS}",
    ),
    "brier": Quantity(
        lambda s: _each(brier(s)),
        "scores",
        (0.0, 1.0),
        0.0,
        "mean squared error of the scores",
        f"whether base rates alone make it (they can); {TRUSTS}",
    ),
    "brier_skill": Quantity(
        lambda s: _each(brier_skill(s)),
        "scores",
        (-math.inf, 1.0),
        1.0,
        "share of the base rate's squared error that the scores take away",
        f"whether calibration or ranking is at fault; {TRUSTS}",
    ),
}

_OF_NUMBERS: dict[str, Quantity] = {
    "mean_prediction": Quantity(
        lambda r: _averages(mean_prediction(r)),
        "residuals",
        (-math.inf, math.inf),
        0.0,
        "mean prediction",
        "whether the targets differ likewise",
    ),
    "mean_residual": Quantity(
        lambda r: _averages(mean_residual(r)),
        "residuals",
        (-math.inf, math.inf),
        0.0,
        "mean of target less prediction",
        f"errors of both signs that cancel; {TRUSTS}",
    ),
    "mean_absolute_error": Quantity(
        lambda r: _averages(absolute_error(r)),
        "residuals",
        (0.0, math.inf),
        0.0,
        "mean absolute error",
        f"to which side predictions err; {TRUSTS}",
    ),
    "root_mean_squared_error": Quantity(
        lambda r: _averages(root_squared_error(r)),
        "residuals",
        (0.0, math.inf),
        0.0,
        "root mean squared error",
        f"to which side predictions err; whether a few large errors make it; {TRUSTS}",
    ),
    "prediction_distance": Quantity(
        lambda d: _each(_told_apart(d, kolmogorov_to_overall(d))),
        "predictions",
        (0.0, 1.0),
        0.0,
        "largest distance of the distribution function of predictions to that of all",
        "whether the targets differ likewise; how far apart the predictions are",
    ),
    "prediction_wasserstein": Quantity(
        lambda d: _farthest(_pairs_told_apart(d, wasserstein(d))),
        "predictions",
        (0.0, math.inf),
        0.0,
        "mean distance that predictions would have to move to be distributed as another group's",
        "whether the targets differ likewise",
    ),
    "residual_distance": Quantity(
        lambda d: _farthest(_pairs_told_apart(d, kolmogorov(d))),
        "errors",
        (0.0, 1.0),
        0.0,
        "largest distance of the distribution functions of errors to another group's",
        f"how large the errors are; {TRUSTS}",
    ),
}

QUANTITIES: Mapping[str, Quantity] = MappingProxyType({**_OF_COUNTS, **_OF_SCORES, **_OF_NUMBERS})
"""Quantities by name. To add one, add a row."""
