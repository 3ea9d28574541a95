"""Running statistics of one layer's activations, per unit; any split of the data merges to the same state.

A *unit* is one index of the unit dimension: a channel of an image, a feature of a vector or token. Everything is
reduced in :func:`observe`, which is made for forward hooks: nothing it returns refers to the activation (traps 90, 92).

A sample with any value that is not finite is left out whole, so that all units are reduced over equally many elements;
its values that are not finite are counted.
"""

from xai_lightning.functional.activation.histogram import HISTOGRAM_LIMITS, median_magnitude
from xai_lightning.functional.activation.moments import Moments, empty, merge, pack, union, unpack
from xai_lightning.functional.activation.observation import EVERYTHING, Measured, Workspace, observe
from xai_lightning.functional.activation.statistics import STATISTICS, Statistic, statistics
from xai_lightning.functional.activation.summary import HistogramSummary, histogram_summary

__all__ = [
    "EVERYTHING",
    "HISTOGRAM_LIMITS",
    "STATISTICS",
    "HistogramSummary",
    "Measured",
    "Moments",
    "Statistic",
    "Workspace",
    "empty",
    "histogram_summary",
    "median_magnitude",
    "merge",
    "observe",
    "pack",
    "statistics",
    "union",
    "unpack",
]
