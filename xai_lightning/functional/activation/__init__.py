"""Running statistics of one layer's activations, per unit; any split of the data merges to the same state.

A *unit* is one index of the unit dimension: a channel of an image, a feature of a vector or token. All reductions run
in :class:`Accumulator`, which suits forward hooks: it keeps no reference to an activation (traps 90, 92).

A sample with any non-finite value is left out entirely, so that all units are reduced over equally many elements; its
non-finite values are counted.
"""

from xai_lightning.functional.activation.accumulator import Accumulator
from xai_lightning.functional.activation.blocks import Workspace
from xai_lightning.functional.activation.histogram import HISTOGRAM_LIMITS, median_magnitude
from xai_lightning.functional.activation.moments import Moments, empty, merge, pack, union, unpack
from xai_lightning.functional.activation.observation import observe, selected
from xai_lightning.functional.activation.statistics import STATISTICS, Statistic, is_defined, statistics
from xai_lightning.functional.activation.summary import HistogramSummary, histogram_summary
from xai_lightning.functional.activation.table import EVERYTHING, Measured

__all__ = [
    "EVERYTHING",
    "HISTOGRAM_LIMITS",
    "STATISTICS",
    "Accumulator",
    "HistogramSummary",
    "Measured",
    "Moments",
    "Statistic",
    "Workspace",
    "empty",
    "histogram_summary",
    "is_defined",
    "median_magnitude",
    "merge",
    "observe",
    "pack",
    "selected",
    "statistics",
    "union",
    "unpack",
]
