"""The definition of a fairness metric: a quantity per group combined with an aggregation."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from xai_lightning.functional.fairness.aggregations import AGGREGATIONS, Aggregation
from xai_lightning.functional.fairness.counts import Confusion
from xai_lightning.functional.fairness.groupwise import Groupwise, Plain, Proportions, joined
from xai_lightning.functional.fairness.quantities import QUANTITIES, Needs, Quantity
from xai_lightning.functional.fairness.rates import RATES, Rate, proportions

PerGroup = Callable[[Confusion], "Tensor | tuple[Tensor, Tensor]"]
"""A user's own quantity: maps counts, each int64[..., G], to float64[..., G] or to its numerator and denominator."""


@dataclass(frozen=True)
class Metric:
    """A fairness metric: the worst, over its rates, of one aggregation over the groups.

    Args:
        rates: Names in :data:`~xai_lightning.functional.fairness.RATES` or
            :data:`~xai_lightning.functional.fairness.QUANTITIES`, or callables that compute a quantity per group from a
            :class:`~xai_lightning.functional.fairness.Confusion`: float64[..., G], or a pair of counts int64[..., G],
            successes and trials, which has limits in closed form.
        aggregation: A name in :data:`~xai_lightning.functional.fairness.AGGREGATIONS`.
        ideal: Value for a model that treats all groups alike; for the worst or largest value, for a perfect model. By
            default, the rate and the aggregation decide.
        best: Whether ``low`` or ``high`` values are good; chooses the side of the gated bound. By default, the
            aggregation decides.
        hides: What the metric does not show, one sentence.
        differs: What other libraries call it, and how their definitions differ.
        caution: What to beware of.

    Raises:
        ValueError: If a rate or the aggregation is unknown, or ``best`` contradicts the aggregation.

    Example:
        >>> Metric(("selection_rate",), "difference").ideal
        0.0
    """

    rates: tuple[str | PerGroup, ...]
    aggregation: str
    ideal: float | None = None
    best: Literal["low", "high"] | None = None
    hides: str = ""
    differs: str = ""
    caution: str = ""

    def __post_init__(self) -> None:
        known = [*RATES, *QUANTITIES]
        unknown = [rate for rate in self.rates if not callable(rate) and rate not in known]
        if unknown or not self.rates:
            raise ValueError(f"rates must be callables or names among {', '.join(known)}, got {self.rates!r}")
        if self.aggregation not in AGGREGATIONS:
            raise ValueError(f"aggregation must be one of {', '.join(AGGREGATIONS)}, got {self.aggregation!r}")
        best = AGGREGATIONS[self.aggregation].best
        if self.best not in (best, None):
            raise ValueError(f"best must be {best!r} for the aggregation {self.aggregation!r}, got {self.best!r}")
        derived = {"best": best, "ideal": self._ideal(), "hides": self.hides or self._hides()}
        for name, value in derived.items():
            object.__setattr__(self, name, value)

    @property
    def how(self) -> Aggregation:
        """The row of the aggregation."""
        return AGGREGATIONS[self.aggregation]

    @property
    def needs(self) -> Needs:
        """Its evidence: ``counts``, ``scores``, ``residuals``, ``predictions`` or ``errors``."""
        first = self._rows()[0]
        return first.needs if isinstance(first, Quantity) else "counts"

    @property
    def reach(self) -> tuple[float, float]:
        """Its natural range; the range of a callable is unknown and taken as all numbers."""
        row = self._rows()[0]
        if isinstance(row, Rate):
            return self.how.reach(0.0, 1.0)
        return self.how.reach(*(row.reach if isinstance(row, Quantity) else (-math.inf, math.inf)))

    def measure(self, evidence: Any) -> Groupwise:
        """Its quantity for every group, [..., R, G].

        Args:
            evidence: The evidence that it :attr:`needs`.
        """
        return joined(_measure(row, evidence) for row in self._rows())

    def _rows(self) -> "list[Rate | Quantity | PerGroup]":
        return [rate if callable(rate) else RATES.get(rate) or QUANTITIES[rate] for rate in self.rates]

    def _ideal(self) -> float:
        if self.ideal is not None:
            return self.ideal
        if self.how.ideal is not None:
            return self.how.ideal
        row = self._rows()[0]
        return row.ideal if isinstance(row, Quantity) else 1.0 * (self.how.best == "high")

    def _hides(self) -> str:
        rows = [row for row in self._rows() if isinstance(row, Rate | Quantity)]
        # Another of several rates may show what one of them hides.
        of_rows = [row.hides.split("; ") for row in rows]
        common = [part for part in (of_rows or [[]])[0] if all(part in parts for parts in of_rows)]
        return f"It does not show {_either(list(dict.fromkeys([*self.how.hides.split('; '), *common])))}."


def _either(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])}{',' * (len(parts) > 2)} or {parts[-1]}"


def _measure(row: "Rate | Quantity | PerGroup", evidence: Any) -> Groupwise:
    if isinstance(row, Rate):
        return proportions(row, evidence)
    if isinstance(row, Quantity):
        return row.of(evidence)
    found = row(evidence)
    if isinstance(found, Tensor):
        return Plain(found.double()[..., None, :])
    successes, totals = (part[..., None, :] for part in found)
    squares = totals if evidence.squares is None else row(evidence.squares)[1][..., None, :]
    return Proportions(successes, totals, squares, evidence.total[..., None, :])
