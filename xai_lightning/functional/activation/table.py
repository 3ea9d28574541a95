"""The running sums of one layer, and the possible outcomes of adding a block."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import BINS

# These constants are compiled into the loops of kernels.py, which are compiled anew when this file changes.
#: Outcomes of adding a block: added; or not, since it is not finite, far from the shift, or out of float32's range.
ADDED, NOT_FINITE, FAR, UNFIT = range(4)
#: Columns of the sums per unit: powers around the shift, counts, absolute values, extremes.
S1, S2, S3, S4, ZEROS, POSITIVES, MAGNITUDE, MINIMUM, MAXIMUM = range(9)
#: Columns of the last row, which is for all units: non-zero vectors, their two sparsities, saturated elements.
VECTORS, HOYER, TREVES, SATURATED = range(4)

# Range of absolute values whose fourth powers, and those of a thousandth of them, float32 can represent.
FLOAT32 = (1e-6, 1e8)
# If the square of a mean exceeds this many variances, the shift moves first, to avoid cancellation.
_FAR, _FAR_FOR_HIGHER = 16.0, 4.0


class Measured(NamedTuple):
    """The optional statistics to observe, beside mean, variance, extremes, zeros, positives and magnitudes.

    Attributes:
        higher: Third and fourth moments.
        histogram: The histogram.
        sparsity: Sparsity of the vectors over all units.
        limits: Low and high limit at or beyond which an element is saturated; None does not count saturation.
    """

    higher: bool = False
    histogram: bool = False
    sparsity: bool = False
    limits: tuple[float, float] | None = None

    def of(self, dtype: torch.dtype) -> "Measured":
        """The same with limits rounded to the dtype of the activations, as saturated activations are."""
        if self.limits is None or not dtype.is_floating_point:
            return self
        low, high = torch.tensor(self.limits, dtype=torch.float64, device="cpu").to(dtype).tolist()
        return self._replace(limits=(low, high))

    @property
    def most(self) -> float:
        """Largest squared distance of a mean from the shift, in variances."""
        return _FAR_FOR_HIGHER if self.higher else _FAR


#: Everything except saturation, which needs limits.
EVERYTHING = Measured(higher=True, histogram=True, sparsity=True)


class Table:
    """The running sums of one layer.

    Args:
        units: Number of units.
        device: Device of the sums.
    """

    def __init__(self, units: int, device: torch.device) -> None:
        self.units = units
        self.sums = torch.zeros(units + 1, 9, dtype=torch.float64, device=device)
        self.sums[:, MINIMUM], self.sums[:, MAXIMUM] = math.inf, -math.inf
        self.histogram = torch.zeros(BINS, dtype=torch.int64, device=device)
        self.shift = torch.zeros(units, dtype=torch.float64, device=device)
        self.shifted, self.count = False, 0
        #: For a block far from the shift: sums of differences from it and of their squares, float64[2, U].
        self.found = torch.zeros(2, 0, device="cpu")
        self._arrays: tuple[Any, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": None}

    def arrays(self) -> tuple[Any, ...]:
        """Sums and histogram as numpy views, the shift as float32, and scratch memory for the sums of a block."""
        if self._arrays is None:
            own = (self.sums.numpy(), self.histogram.numpy(), self.shift.float().numpy())
            self._arrays = (*own, torch.zeros_like(self.sums).numpy())
        return self._arrays

    def copy(self) -> "Table":
        """An independent copy, with sums of its own."""
        found = object.__new__(Table)
        vars(found).update(self.__getstate__(), sums=self.sums.clone(), histogram=self.histogram.clone())
        return found

    def shift_to(self, shift: Tensor) -> None:
        """Restart the sums of powers around a new shift per unit, float64[U]."""
        self.shift, self.shifted, self.count, self._arrays = shift, True, 0, None
        self.sums[:-1, : S4 + 1] = 0


def slack(s1: Tensor, s2: Tensor, count: int, most: float) -> Tensor:
    """Negative for units whose mean is far from the shift: n delta^2 is more than ``most`` times their M2.

    Args:
        s1: float64[U], sums of differences from the shift.
        s2: float64[U], sums of their squares.
        count: Number of differences per unit.
        most: Largest squared distance of the mean from the shift, in variances.

    Returns:
        float64[U].
    """
    return torch.addcmul(s2, s1, s1, value=-(1 + most) / (most * count))
