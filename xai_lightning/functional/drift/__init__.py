"""Drift of explanations: how far explanations of the same samples moved, and how certain that is."""

from xai_lightning.functional.drift.alarms import CONSECUTIVE, SETTLED_BELOW, Cusum, advance, converged
from xai_lightning.functional.drift.groups import attribution_gap, drift_gap, equal_treatment_auc
from xai_lightning.functional.drift.maps import CELLS, ZERO_MAP, normalised, pool
from xai_lightning.functional.drift.measures import (
    MEASURES,
    cosine,
    effective_features,
    effective_number,
    jensen_shannon,
    magnitude,
    top_k,
    weighted_jaccard,
)
from xai_lightning.functional.drift.noise import Denoised, denoised, noise_floor
from xai_lightning.functional.drift.pictures import IMAGE_MEASURES, centre_of_mass, ssim, structural_similarity
from xai_lightning.functional.drift.predictions import FEWEST, Agreement, agreement
from xai_lightning.functional.drift.ranking import ndcg, ndcg_adjusted
from xai_lightning.functional.drift.similarity import similarity, thinned
from xai_lightning.functional.drift.summaries import (
    Interval,
    Summary,
    bootstrap,
    global_importance,
    share,
    summarise,
)

__all__ = [
    "CELLS",
    "CONSECUTIVE",
    "FEWEST",
    "IMAGE_MEASURES",
    "MEASURES",
    "SETTLED_BELOW",
    "ZERO_MAP",
    "Agreement",
    "Cusum",
    "Denoised",
    "Interval",
    "Summary",
    "advance",
    "agreement",
    "attribution_gap",
    "bootstrap",
    "centre_of_mass",
    "converged",
    "cosine",
    "denoised",
    "drift_gap",
    "effective_features",
    "effective_number",
    "equal_treatment_auc",
    "global_importance",
    "jensen_shannon",
    "magnitude",
    "ndcg",
    "ndcg_adjusted",
    "noise_floor",
    "normalised",
    "pool",
    "share",
    "similarity",
    "ssim",
    "structural_similarity",
    "summarise",
    "thinned",
    "top_k",
    "weighted_jaccard",
]
