"""Confidence limits, and the error probability that a run may spend on them."""

from xai_lightning.functional.intervals.bootstrap import percentile, replicates
from xai_lightning.functional.intervals.means import student_mean
from xai_lightning.functional.intervals.mover import Interval, mover_difference, mover_quotient
from xai_lightning.functional.intervals.proportions import (
    clopper_pearson,
    mover_mean,
    mover_ratio,
    newcombe,
    wilson,
    wilson_of,
)
from xai_lightning.functional.intervals.spending import allowance

__all__ = [
    "Interval",
    "allowance",
    "clopper_pearson",
    "mover_difference",
    "mover_mean",
    "mover_quotient",
    "mover_ratio",
    "newcombe",
    "percentile",
    "replicates",
    "student_mean",
    "wilson",
    "wilson_of",
]
