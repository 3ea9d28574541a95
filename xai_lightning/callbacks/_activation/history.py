"""Statistics of the layers over the validations of a run, for pictures."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.activation import HISTOGRAM_LIMITS
from xai_lightning.functional.render.ridges import MOST_PANELS

MOST = 128
# statistics whose name contains one of these have a scale that is known beforehand
_SHARES = ("share", "dormant", "distance", "collapse", "excess", "hoyer", "treves", "massive")


class LayerHistory:
    """Numbers and histograms of the layers for up to `MOST` validations; when full, every second one is dropped.

    Args:
        layers: names of the layers.
        statistics: names of the statistics.
        histograms: whether histograms are kept, for up to six layers.
    """

    def __init__(self, layers: Sequence[str], statistics: Sequence[str], *, histograms: bool) -> None:
        self.layers, self.statistics = tuple(layers), tuple(statistics)
        count, most = len(self.layers), min(MOST_PANELS, len(self.layers)) * histograms
        self.ridged = [self.layers[round(i * (count - 1) / max(most - 1, 1))] for i in range(most)]
        # of fixed size from the start, so that the saved state does not grow (law 7)
        self._numbers = torch.full((MOST,), -1, dtype=torch.int64, device="cpu")
        self._values = torch.full((MOST, len(self.statistics), count), math.nan, dtype=torch.float64, device="cpu")
        self._counts = torch.zeros(MOST, most, len(HISTOGRAM_LIMITS), dtype=torch.int64, device="cpu")
        self._limits = torch.full((len(self.statistics), 2), math.nan, dtype=torch.float64, device="cpu")

    def add(self, number: int, values: Mapping[str, Mapping[str, float]], counts: Mapping[str, Sequence[int]]) -> None:
        """Add a validation at its end.

        Args:
            number: number of the validation.
            values: numbers by layer, then by statistic.
            counts: histogram counts by layer, where there are any.
        """
        if self._used == MOST:
            self._halve()
        place = self._used
        self._numbers[place] = number
        for row, statistic in enumerate(self.statistics):
            found = [values.get(layer, {}).get(statistic, math.nan) for layer in self.layers]
            self._values[place, row] = torch.tensor(found, dtype=torch.float64, device="cpu")
            self._widen(row)
        for row, layer in enumerate(self.ridged):
            if layer in counts:
                self._counts[place, row] = torch.tensor(counts[layer], device="cpu")

    def _widen(self, row: int) -> None:
        """Double the colour scale where something exceeds it: pictures can be compared, and none is a single colour."""
        if any(word in self.statistics[row] for word in _SHARES):
            self._limits[row] = torch.tensor([0.0, 1.0], device="cpu")
            return
        last = self._values[self._used - 1, row]
        finite = last[last.isfinite()]
        if not len(finite):
            return
        largest, (low, high) = float(finite.abs().max()), self._limits[row].tolist()
        if not high > 0:
            low, high = 0.0, 2 * largest or 1.0
        while high < largest:
            high *= 2
        self._limits[row] = torch.tensor([-high if low < 0 or (finite < 0).any() else 0.0, high], device="cpu")

    def numbers(self) -> list[int]:
        """Numbers of the validations kept."""
        return self._numbers[: self._used].tolist()

    def heatmap(self, statistic: str) -> tuple[list[str], Tensor, tuple[float, float]] | None:
        """Layers with the statistic, their values ``float64[M, T]`` and the ends of the scale; None without any."""
        row = self.statistics.index(statistic)
        values = self._values[: self._used, row].T
        seen = values.isfinite().any(1)
        low, high = self._limits[row].tolist()
        if not seen.any() or not -math.inf < low < high < math.inf:
            return None
        return (
            [name for name, there in zip(self.layers, seen.tolist(), strict=True) if there],
            values[seen],
            (low, high),
        )

    def ridges(self) -> Tensor:
        """Histograms of the layers in `ridged`, ``int64[M, T, B]``."""
        return self._counts[: self._used].transpose(0, 1)

    def state(self) -> dict[str, Any]:
        """Tensors, and the layers and statistics of their rows; empty before the first validation."""
        parts = {name: part.clone() for name, part in self._parts().items()}
        return {**parts, "of": self._of()} if self._used else {}

    def _of(self) -> list[list[str]]:
        return [list(self.layers), list(self.statistics)]

    def _parts(self) -> dict[str, Tensor]:
        return {"numbers": self._numbers, "values": self._values, "counts": self._counts, "limits": self._limits}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`, unless it belongs to other layers or statistics."""
        if not state or state.get("of") != self._of():
            return
        if any(state[name].shape != part.shape for name, part in self._parts().items()):
            return
        self._numbers, self._values = state["numbers"].clone(), state["values"].clone()
        self._counts, self._limits = state["counts"].clone(), state["limits"].clone()

    @property
    def _used(self) -> int:
        return int((self._numbers >= 0).sum())

    def _halve(self) -> None:
        kept = torch.arange(0, MOST, 2, device="cpu")
        for part, nothing in ((self._numbers, -1), (self._values, math.nan), (self._counts, 0)):
            rows = part[kept].clone()
            part.fill_(nothing)
            part[: len(kept)] = rows
