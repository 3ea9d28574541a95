"""Float64 on devices that have it, and on the CPU for those that do not, such as Apple's GPUs (trap 93)."""

from functools import lru_cache

import torch
from torch import Tensor

CPU = torch.device("cpu")


def exact(values: Tensor) -> Tensor:
    """The values in float64, on their own device, or on the CPU if theirs has no float64.

    Example:
        >>> exact(torch.tensor([1, 2]))
        tensor([1., 2.], dtype=torch.float64)
    """
    return values.to(exact_device(values.device)).double()


def exact_device(device: torch.device) -> torch.device:
    """The device for float64 copies of a device's tensors: itself, or the CPU if it has no float64.

    Example:
        >>> exact_device(torch.device("cpu"))
        device(type='cpu')
    """
    return device if _has_float64(device.type) else CPU


def widest(device: torch.device) -> torch.dtype:
    """The type for precise values that must stay on a device: float64, or float32 where it has no float64.

    Example:
        >>> widest(torch.device("cpu"))
        torch.float64
    """
    return torch.float64 if _has_float64(device.type) else torch.float32


def moved(values: Tensor, device: torch.device) -> Tensor:
    """The values moved to a device, float64 as its `widest` type.

    Example:
        >>> moved(torch.tensor([0.5], dtype=torch.float64), torch.device("cpu")).dtype
        torch.float64
    """
    return values.to(device, widest(device)) if values.dtype == torch.float64 else values.to(device)


@lru_cache
def _has_float64(kind: str) -> bool:
    """Whether the device has float64: found by trying, not by name, once per type of device."""
    try:
        torch.empty(0, dtype=torch.float64, device=kind)
    except (TypeError, RuntimeError):
        return False
    return True
