"""A histogram with fixed bins, whose limits are powers of two."""

import sys

import torch
from torch import Tensor

_EXPONENTS = range(-16, 16)
_POWERS = [2.0**exponent for exponent in _EXPONENTS]

#: Upper limits of the bins: 32 negative, one around 0, 32 positive. A power of two belongs to the bin farther from 0.
HISTOGRAM_LIMITS = (*(-power for power in reversed(_POWERS)), *_POWERS, sys.float_info.max)

BINS = len(HISTOGRAM_LIMITS)
# Neighbours are counted in separate bins: in a layer that is mostly 0, they would wait for each other.
_LANES, _SAME = 1024, 256
_BITS = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}


def binned(values: Tensor, room: Tensor | None = None) -> Tensor:
    """Number of elements in each bin.

    Args:
        values: float32[...] or float64[...], finite.
        room: Scratch memory, contiguous and of the same shape; used only if its dtype is that of ``values``.

    Returns:
        int64[65].

    Example:
        >>> int(binned(torch.tensor([0.0, 3.0, -1.0]))[32])
        1
    """
    # The sign and exponent bits are the bin; torch.frexp and a float comparison per unit take three times as long.
    integers, mantissa_bits = _BITS[values.dtype]
    size = 1 << (torch.iinfo(integers).bits - mantissa_bits)
    out = None if room is None or room.dtype != values.dtype else room.view(integers)
    bits = torch.bitwise_right_shift(values.contiguous().view(integers), mantissa_bits, out=out).bitwise_and_(size - 1)
    lanes = 1
    if values.dtype == torch.float32 and bits.numel() % _LANES == 0 and bits.numel() > 64 * _LANES:
        lanes = _LANES // _SAME
        bits.view(-1, _LANES).add_(torch.arange(lanes, dtype=integers, device=bits.device).repeat(_SAME) * size)
    by_sign = torch.bincount(bits.flatten(), minlength=lanes * size).view(lanes, 2, -1).sum(0)
    bias = by_sign.shape[1] // 2 - 1
    lowest, highest = bias + _EXPONENTS[0], bias + _EXPONENTS[-1]
    sides = torch.cat([by_sign[:, lowest:highest], by_sign[:, highest:].sum(1, keepdim=True)], dim=1)
    return torch.cat([sides[1].flip(0), by_sign[:, :lowest].sum().view(1), sides[0]])


def median_magnitude(histogram: Tensor) -> float:
    """The median of the absolute values, rounded up to the limit of its bin: exact within a factor of two.

    Args:
        histogram: int64[65].

    Returns:
        A power of two of at least 2^-16; NaN if the histogram is empty, infinity if the median is beyond 2^15.

    Example:
        >>> median_magnitude(binned(torch.tensor([0.1, -3.0, 100.0])))
        4.0
    """
    middle = BINS // 2
    folded = histogram[middle:].clone()
    folded[1:] += histogram[:middle].flip(0)
    total = int(folded.sum())
    if total == 0:
        return float("nan")
    place = int((folded.cumsum(0) * 2 >= total).int().argmax())
    return [*_POWERS, float("inf")][place]
