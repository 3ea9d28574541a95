"""Which statistics of activations are logged, under which names."""

import math
from collections.abc import Iterable, Sequence

from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.functional.activation import STATISTICS, Measured
from xai_lightning.functional.tables import choose

GROWTH, CALLS, HISTOGRAM = "rms_growth", "calls", "histogram"
CHEAP = (*STATISTICS, GROWTH, CALLS, HISTOGRAM)
DEFAULT = (
    "mean",
    "std",
    "rms",
    "mean_abs",
    "minimum",
    "maximum",
    "zero_share",
    "positive_share",
    "dead_share",
    "dead_among",
    GROWTH,
)


class Wanted:
    """The chosen statistics.

    Args:
        statistics: ``"default"``, ``"cheap"``: all; or names.
        also: names of further ones.

    Raises:
        ValueError: if a name is unknown.
    """

    def __init__(self, statistics: str | Sequence[str], also: Sequence[str] = ()) -> None:
        sets = {"default": DEFAULT, "cheap": CHEAP}
        if isinstance(statistics, str):
            names: Sequence[str] = sets[choose("set of statistics", statistics, list(sets))]
        else:
            names = [choose("statistic", name, CHEAP) for name in dict.fromkeys(statistics)]
        if not names:
            raise ValueError(f"statistics must name at least one; got {statistics!r}")
        self.computed = tuple(name for name in dict.fromkeys([*names, *also]) if name in STATISTICS)
        self.histogram = HISTOGRAM in names
        self.calls = CALLS in names
        self.growth = GROWTH in names
        self._needs = {STATISTICS[name].needs for name in self.computed}

    def direct(self, *, fit: bool) -> list[str]:
        """Names of the numbers per layer; there is no growth outside of ``fit``."""
        return [*self.computed, *[GROWTH] * (self.growth and fit), *[CALLS] * self.calls]

    def worst(self, *, fit: bool) -> dict[str, bool]:
        """Names of which the worst layer is logged, and whether it is that of the largest absolute value."""
        found = {name: STATISTICS[name].worst for name in self.computed}
        names = {name: how == "absolute" for name, how in found.items() if how is not None}
        return names | dict.fromkeys([GROWTH] * (self.growth and fit), False)

    def measured(self, layer: Layer) -> Measured:
        """What must be observed of a layer."""
        return Measured(
            higher="higher" in self._needs,
            histogram=self.histogram or "histogram" in self._needs,
            sparsity="sparsity" in self._needs and layer.units is not None,
            limits=layer.limits if "limits" in self._needs else None,
        )


def largest(values: Iterable[float]) -> float:
    """The largest number; undefined ones lose."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)
