"""Group fairness: counts per group, rates from the counts, and metrics of the rates with confidence limits.

Counts are the only state. They add up over batches and ranks; rates and metrics do not, so they are computed once, at
the end.
"""

from xai_lightning.functional.fairness.aggregations import AGGREGATIONS, Aggregation
from xai_lightning.functional.fairness.calibration import Reliability, reliability
from xai_lightning.functional.fairness.counts import SQUARE_LIMIT, Confusion, confusion, count, weigh
from xai_lightning.functional.fairness.determination import determination
from xai_lightning.functional.fairness.estimates import (
    REPLICATES,
    estimate,
    has_exact_limits,
    is_resampled,
    undefined,
)
from xai_lightning.functional.fairness.metric import Metric, PerGroup
from xai_lightning.functional.fairness.metrics import METRICS
from xai_lightning.functional.fairness.quantities import QUANTITIES, Quantity
from xai_lightning.functional.fairness.rates import RATES, Rate, rate
from xai_lightning.functional.fairness.regression import Residuals, distribution, residual_sums
from xai_lightning.functional.fairness.sample_size import SampleSize, sample_size
from xai_lightning.functional.fairness.scores import SCORE_BINS, Scored, score_counts, scored
from xai_lightning.functional.fairness.strata import Estimate, Strata
from xai_lightning.functional.fairness.utility import Floor, balanced_accuracy

__all__ = [
    "AGGREGATIONS",
    "METRICS",
    "QUANTITIES",
    "RATES",
    "REPLICATES",
    "SCORE_BINS",
    "SQUARE_LIMIT",
    "Aggregation",
    "Confusion",
    "Estimate",
    "Floor",
    "Metric",
    "PerGroup",
    "Quantity",
    "Rate",
    "Reliability",
    "Residuals",
    "SampleSize",
    "Scored",
    "Strata",
    "balanced_accuracy",
    "confusion",
    "count",
    "determination",
    "distribution",
    "estimate",
    "has_exact_limits",
    "is_resampled",
    "rate",
    "reliability",
    "residual_sums",
    "sample_size",
    "score_counts",
    "scored",
    "undefined",
    "weigh",
]
