"""Group fairness: counts per group, rates of the counts, metrics of the rates with confidence limits.

Counts are the only state. They add up over batches and ranks; rates and metrics do not, so they are formed once, at
the end.
"""

from xai_lightning.functional.fairness.counts import SQUARE_LIMIT, Confusion, confusion, count
from xai_lightning.functional.fairness.metrics import METRICS, Estimate, Metric, estimate, undefined
from xai_lightning.functional.fairness.rates import RATES, Rate, rate
from xai_lightning.functional.fairness.utility import Floor, balanced_accuracy

__all__ = [
    "METRICS",
    "RATES",
    "SQUARE_LIMIT",
    "Confusion",
    "Estimate",
    "Floor",
    "Metric",
    "Rate",
    "balanced_accuracy",
    "confusion",
    "count",
    "estimate",
    "rate",
    "undefined",
]
