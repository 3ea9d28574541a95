"""How well scores rank positives above negatives, and how certain that is."""

from xai_lightning.functional.fairness.ranking.areas import auc, bnsp_auc, bpsn_auc, unresolved_pairs, xauc
from xai_lightning.functional.fairness.ranking.precision import auc_trials, auc_variance, xauc_trials, xauc_variance

__all__ = [
    "auc",
    "auc_trials",
    "auc_variance",
    "bnsp_auc",
    "bpsn_auc",
    "unresolved_pairs",
    "xauc",
    "xauc_trials",
    "xauc_variance",
]
