"""What is added up of one layer, and what became of a block that was to be added."""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import BINS

# What is compiled of kernels.py is kept until that file changes: a change here needs one there.
#: What became of a block: added; or not, for it is not finite, far from the shift, or beyond the range of float32.
ADDED, NOT_FINITE, FAR, UNFIT = range(4)
#: Columns of the sums per unit: powers around the shift, counts, absolute values, extremes.
S1, S2, S3, S4, ZEROS, POSITIVES, MAGNITUDE, MINIMUM, MAXIMUM = range(9)
#: Places in their last row, which is of all units: vectors that are not zero, their sparsities, saturated elements.
VECTORS, HOYER, TREVES, SATURATED = range(4)

# Absolute values whose fourth powers, and those of a thousandth of them, float32 holds.
FLOAT32 = (1e-6, 1e8)
# Squares of means beyond so many variances are taken out first: what would cancel else.
_FAR, _FAR_FOR_HIGHER = 16.0, 4.0


class Measured(NamedTuple):
    """What to observe beside mean, variance, extremes, zeros, positives and magnitudes.

    Attributes:
        higher: Third and fourth moments.
        histogram: The histogram.
        sparsity: Sparsity of the vectors over all units.
        limits: Low and high limit at or beyond which an element is saturated; None counts none.
    """

    higher: bool = False
    histogram: bool = False
    sparsity: bool = False
    limits: tuple[float, float] | None = None

    def of(self, dtype: torch.dtype) -> "Measured":
        """The same for activations of a type, which hold its limits only as rounded to that type."""
        if self.limits is None or not dtype.is_floating_point:
            return self
        low, high = torch.tensor(self.limits, dtype=torch.float64, device="cpu").to(dtype).tolist()
        return self._replace(limits=(low, high))

    @property
    def most(self) -> float:
        """Of how many variances the square of a mean may be."""
        return _FAR_FOR_HIGHER if self.higher else _FAR


#: All of them, but for saturation, which needs limits.
EVERYTHING = Measured(higher=True, histogram=True, sparsity=True)


class Table:
    """What is added up of one layer.

    Args:
        units: How many it has.
        device: Where it lives.
    """

    def __init__(self, units: int, device: torch.device) -> None:
        self.units = units
        self.sums = torch.zeros(units + 1, 9, dtype=torch.float64, device=device)
        self.sums[:, MINIMUM], self.sums[:, MAXIMUM] = math.inf, -math.inf
        self.histogram = torch.zeros(BINS, dtype=torch.int64, device=device)
        self.shift = torch.zeros(units, dtype=torch.float64, device=device)
        self.shifted, self.count = False, 0
        #: Of a block that was far from the shift: sums of differences and of their squares, float64[2, U].
        self.found = torch.zeros(2, 0, device="cpu")
        self._arrays: tuple[Any, ...] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_arrays": None}

    def arrays(self) -> tuple[Any, ...]:
        """The same memory as arrays of numpy: sums, histogram, shift as float32; and room for the sums of a block."""
        if self._arrays is None:
            own = (self.sums.numpy(), self.histogram.numpy(), self.shift.float().numpy())
            self._arrays = (*own, torch.zeros_like(self.sums).numpy())
        return self._arrays

    def copy(self) -> "Table":
        """One that can be added to alone."""
        found = object.__new__(Table)
        vars(found).update(self.__getstate__(), sums=self.sums.clone(), histogram=self.histogram.clone())
        return found

    def shift_to(self, shift: Tensor) -> None:
        """From here on, add powers around another number of each unit: float64[U]."""
        self.shift, self.shifted, self.count, self._arrays = shift, True, 0, None
        self.sums[:-1, : S4 + 1] = 0


def slack(s1: Tensor, s2: Tensor, count: int, most: float) -> Tensor:
    """Below 0 for units whose mean is far from the shift, as n delta^2 is to their M2.

    Args:
        s1: float64[U], sums of differences from the shift.
        s2: float64[U], sums of their squares.
        count: How many.
        most: Of how many variances the square of the mean difference may be.

    Returns:
        float64[U].
    """
    return torch.addcmul(s2, s1, s1, value=-(1 + most) / (most * count))
