"""Ordered bins for numbers of any magnitude, without a declared range.

A bin holds the values whose float32 bit patterns agree in their first 15 bits: sign, exponent and six bits of the
significand. The width of a bin is between 1/127 and 1/64 of its values, so values are known to about 1 % of their
distance from 0.
"""

import torch
from torch import Tensor

VALUE_BINS = 1 << 15
"""Number of bins; the upper half holds 0 and positive values."""

_LARGEST = torch.finfo(torch.float32).max
_FRACTION = 6
_BIAS = 127


def value_bins(values: Tensor) -> Tensor:
    """Bin of each value, ascending with the value.

    Args:
        values: float64 of any shape, finite; values beyond the range of float32 fall into the first or last bin.

    Returns:
        int64 like ``values``, in 0..32767.

    Example:
        >>> import torch
        >>> value_bins(torch.tensor([-1.0, -0.0, 0.0, 1.0, 1.01, 1.02], dtype=torch.float64)).tolist()
        [8255, 16384, 16384, 24512, 24512, 24513]
    """
    # Adding 0 turns -0 into 0: equal values must share a bin.
    bits = (values.clamp(-_LARGEST, _LARGEST).float() + 0.0).view(torch.int32) >> 17
    # bit patterns of positive numbers are ordered like the numbers, those of negative ones in reverse
    return torch.where(bits < 0, ~bits, bits + VALUE_BINS // 2).long()


def value_centres(device: torch.device | None = None) -> Tensor:
    """Middle of each bin.

    Args:
        device: Device of the result.

    Returns:
        float64[32768], ascending and finite.

    Example:
        >>> import torch
        >>> value_centres()[24512].item()
        1.0078125
    """
    magnitude = torch.arange(VALUE_BINS // 2, device=device)
    exponent, fraction = magnitude >> _FRACTION, magnitude % (1 << _FRACTION)
    # Subnormal numbers have no leading one, and the exponent of the smallest normal number.
    leading = (exponent > 0).double()
    significand = leading + (fraction.double() + 0.5) / (1 << _FRACTION)
    above = significand * torch.exp2((exponent.clamp_min(1) - _BIAS).double())
    return torch.cat([-above.flip(0), above])
