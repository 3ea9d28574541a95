"""Which activation statistics are logged, under which names."""

import math
from collections.abc import Iterable, Sequence

from xai_lightning._lightning import MisconfigurationException
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
#: Default for layers in which dead units are undefined: no unit of a GELU is ever off, but some hardly respond.
INSTEAD = "dormant_0.025"
KINDS = {
    "units": "layers with known units",
    "rectified": "ReLUs and the like",
    "bounded": "tanh, sigmoid and the like",
}


class Wanted:
    """The chosen statistics.

    Args:
        statistics: ``"default"``, ``"cheap"`` (all of them), or names.
        also: names of further statistics.

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
        everywhere = tuple(name for name in dict.fromkeys([*names, *also]) if name in STATISTICS)
        self._instead = INSTEAD if statistics == "default" and INSTEAD not in everywhere else None
        self.computed = everywhere if self._instead is None else (*everywhere, self._instead)
        self.histogram = HISTOGRAM in names
        self.calls = CALLS in names
        self.growth = GROWTH in names
        self._needs = {STATISTICS[name].needs for name in self.computed}

    def direct(self, layer: Layer, *, fit: bool) -> list[str]:
        """Names of the numbers logged for a layer of this kind; there is no growth outside ``fit``."""
        return [*self.own(layer), *[GROWTH] * (self.growth and fit), *[CALLS] * self.calls]

    def worst(self, layers: Sequence[Layer], *, fit: bool) -> dict[str, bool]:
        """Names for which the worst layer is logged, and whether that is the one with the largest absolute value."""
        some = {name for layer in layers for name in self.own(layer)}
        found = {name: STATISTICS[name].worst for name in self.computed if name in some}
        names = {name: how == "absolute" for name, how in found.items() if how is not None}
        return names | dict.fromkeys([GROWTH] * (self.growth and fit), False)

    def own(self, layer: Layer) -> list[str]:
        """Names of the statistics of a layer of this kind."""
        has = [name for name in self.computed if layer.has(name)]
        return [name for name in has if name != self._instead or "dead_share" not in has]

    def absent(self, layers: Sequence[Layer], *, alone: bool) -> str:
        """The statistics that no layer can have, the layers that could, and any substitute, in words; empty if none.

        Args:
            layers: the watched layers.
            alone: whether nothing but these statistics is logged.

        Raises:
            MisconfigurationException: if nothing is left to log.
        """
        lacking = [name for name in self.computed if not any(layer.has(name) for layer in layers)]
        by_kind = {kind: [name for name in lacking if STATISTICS[name].of == kind] for kind in KINDS}
        said = ", ".join(f"{', '.join(names)} (only for {KINDS[kind]})" for kind, names in by_kind.items() if names)
        if alone and len(lacking) == len(self.computed) and not (self.histogram or self.calls or self.growth):
            watched = ", ".join(layer.name for layer in layers[:8])
            raise MisconfigurationException(
                f"ActivationMonitor would log nothing: {said} cannot be computed for any of {watched}; name other "
                "layers=[...], or choose statistics that every layer with units has, such as 'dormant_0.025'"
            )
        stands_in = said and self._instead is not None and self._instead not in lacking
        return f"{said}; it logs {self._instead} instead" if stands_in else said

    def measured(self, layer: Layer) -> Measured:
        """What must be measured in a layer."""
        return Measured(
            higher="higher" in self._needs,
            histogram=self.histogram or "histogram" in self._needs,
            sparsity="sparsity" in self._needs and layer.units is not None,
            limits=layer.limits if "limits" in self._needs else None,
        )


def largest(values: Iterable[float]) -> float:
    """The largest number, ignoring NaN; NaN if there is no other."""
    return max((value for value in values if not math.isnan(value)), default=math.nan)
