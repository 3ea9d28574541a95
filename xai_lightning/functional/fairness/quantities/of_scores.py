"""Quantities of scores and targets."""

import math

from xai_lightning.functional.fairness.calibration import (
    brier,
    brier_skill,
    calibration_error_squared,
    calibration_in_the_large,
    kolmogorov_calibration_error,
)
from xai_lightning.functional.fairness.groupwise import Excess, Plain, Ranked
from xai_lightning.functional.fairness.quantities.quantity import Quantity, each, farthest, pairs_told_apart
from xai_lightning.functional.fairness.ranking import auc, auc_trials, bnsp_auc, bpsn_auc, unresolved_pairs, xauc
from xai_lightning.functional.fairness.rates import TRUSTS
from xai_lightning.functional.fairness.scores import Scored, score_distance, score_distribution, score_wasserstein


def _excess(of: Scored) -> Excess:
    found, numbers = calibration_in_the_large(of), of.numbers.double().sum(dim=-1)
    positives = numbers[..., 1] / numbers.sum(dim=-1)
    parts = found.value + positives, positives, found.variance, found.number
    return Excess(*(part[..., None, :] for part in parts))


def _across(of: Scored) -> Plain:
    between = xauc(of).masked_fill(unresolved_pairs(of), math.nan)
    return farthest(between - between.mT)


def _area(of: Scored) -> Ranked:
    blind = unresolved_pairs(of).diagonal(dim1=-2, dim2=-1)
    return Ranked(auc(of).masked_fill(blind, math.nan)[..., None, :], auc_trials(of)[..., None, :])


OF_SCORES: dict[str, Quantity] = {
    "auc": Quantity(
        _area,
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the group outranks a negative of the same group",
        f"how its scores compare with those of other groups; what happens at a threshold; {TRUSTS}",
    ),
    "xauc_gap": Quantity(
        _across,
        "scores",
        (0.0, 1.0),
        0.0,
        "share of pairs in which a positive of the group outranks a negative of another, minus the reverse",
        f"how well each group is ranked by itself; {TRUSTS}",
    ),
    "bpsn_auc": Quantity(
        lambda s: each(bpsn_auc(s).masked_fill(unresolved_pairs(s).any(dim=-2), math.nan)),
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the others outranks a negative of the group",
        f"how the group's positives are ranked; {TRUSTS}",
    ),
    "bnsp_auc": Quantity(
        lambda s: each(bnsp_auc(s).masked_fill(unresolved_pairs(s).any(dim=-1), math.nan)),
        "scores",
        (0.0, 1.0),
        1.0,
        "share of pairs in which a positive of the group outranks a negative of the others",
        f"how the group's negatives are ranked; {TRUSTS}",
    ),
    "score_distance": Quantity(
        lambda s: farthest(pairs_told_apart(score_distribution(s), score_distance(s))),
        "scores",
        (0.0, 1.0),
        0.0,
        "largest distance between the distribution function of scores and another group's",
        "whether the targets differ in the same way; how far apart the scores are",
    ),
    "score_wasserstein": Quantity(
        lambda s: farthest(pairs_told_apart(score_distribution(s), score_wasserstein(s))),
        "scores",
        (0.0, 1.0),
        0.0,
        "mean distance that scores would have to move to be distributed like another group's",
        "whether the targets differ in the same way",
    ),
    "calibration_in_the_large": Quantity(
        _excess,
        "scores",
        (-1.0, 1.0),
        0.0,
        "mean score minus the share of positives: above 0, scores are too high (the sign is opposite to that of `MR`)",
        f"errors that cancel between low and high scores; {TRUSTS}",
    ),
    "calibration_error": Quantity(
        lambda s: each(calibration_error_squared(s).clamp(min=0).sqrt()),
        "scores",
        (0.0, 1.0),
        0.0,
        "square root of the debiased squared calibration error, in ten bins of equal mass",
        f"errors that cancel within a bin; {TRUSTS}",
    ),
    "kolmogorov_calibration_error": Quantity(
        lambda s: each(kolmogorov_calibration_error(s)),
        "scores",
        (0.0, 1.0),
        0.0,
        "largest cumulative difference of scores and outcomes, without bins",
        f"at which scores it occurs; {TRUSTS}",
    ),
    "brier": Quantity(
        lambda s: each(brier(s)),
        "scores",
        (0.0, 1.0),
        0.0,
        "mean squared error of the scores",
        f"whether base rates alone cause it (they can); {TRUSTS}",
    ),
    "brier_skill": Quantity(
        lambda s: each(brier_skill(s)),
        "scores",
        (-math.inf, 1.0),
        1.0,
        "share of the base rate's squared error that the scores remove",
        f"whether calibration or ranking is at fault; {TRUSTS}",
    ),
}
