"""Numbers of any size in ordered bins that need no declared range.

A bin holds the values whose float32 bit patterns agree in their first 15 bits: sign, exponent and six bits of the
significand. A bin is between 1/127 and 1/64 of its values wide, so they are known to about 1 %, relative to their
distance from 0.
"""

import torch
from torch import Tensor

VALUE_BINS = 1 << 15
"""Number of bins; the upper half holds 0 and what is above."""

_LARGEST = torch.finfo(torch.float32).max
_FRACTION = 6
_BIAS = 127


def value_bins(values: Tensor) -> Tensor:
    """Bin of each value, ascending with the value.

    Args:
        values: float64 of any shape, finite; beyond the range of float32 the last bin at either end.

    Returns:
        int64 like ``values``, in 0..32767.

    Example:
        >>> import torch
        >>> value_bins(torch.tensor([-1.0, -0.0, 0.0, 1.0, 1.01, 1.02], dtype=torch.float64)).tolist()
        [8255, 16384, 16384, 24512, 24512, 24513]
    """
    # Adding 0 turns -0 into 0: equal values must share a bin.
    bits = (values.clamp(-_LARGEST, _LARGEST).float() + 0.0).view(torch.int32) >> 17
    # bits of positive numbers are in the order of the numbers, those of negative ones in the reverse
    return torch.where(bits < 0, ~bits, bits + VALUE_BINS // 2).long()


def value_centres(device: torch.device | None = None) -> Tensor:
    """Middle of each bin.

    Args:
        device: Where the result lies.

    Returns:
        float64[32768], ascending and finite.

    Example:
        >>> import torch
        >>> value_centres()[24512].item()
        1.0078125
    """
    magnitude = torch.arange(VALUE_BINS // 2, device=device)
    exponent, fraction = magnitude >> _FRACTION, magnitude % (1 << _FRACTION)
    # Below the smallest normal number there is no leading one, and the exponent stays that of the smallest.
    leading = (exponent > 0).double()
    significand = leading + (fraction.double() + 0.5) / (1 << _FRACTION)
    above = significand * torch.exp2((exponent.clamp_min(1) - _BIAS).double())
    return torch.cat([-above.flip(0), above])
