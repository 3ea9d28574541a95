"""Checks of samples before they are counted."""

import math

import torch
from torch import Tensor


def check_shapes(named: dict[str, Tensor]) -> None:
    """Raise if samples differ in shape.

    Args:
        named: Arguments by name, each [N] or any shape that all share.

    Raises:
        ValueError: If shapes differ.
    """
    shapes = {name: list(tensor.shape) for name, tensor in named.items()}
    if len({tensor.shape for tensor in named.values()}) > 1:
        *others, last = named
        raise ValueError(f"{', '.join(others)} and {last} must have the same shape, got {shapes}")


def check_indices(named: dict[str, Tensor], sizes: tuple[int, ...]) -> None:
    """Raise if indices are not integers in 0..size-1.

    Args:
        named: Arguments by name, integer or bool of any shape.
        sizes: Number of values of each, at least 1.

    Raises:
        ValueError: If a value is outside 0..size-1.
        TypeError: If a tensor is neither integer nor bool.
    """
    for name, tensor in named.items():
        if tensor.is_floating_point() or tensor.is_complex():
            raise TypeError(f"{name} must be integer indices, got dtype {tensor.dtype}")
    if any(tensor.numel() == 0 for tensor in named.values()):
        return
    # One transfer for all edges: each transfer synchronises with the device.
    edges = torch.stack([edge.long() for tensor in named.values() for edge in tensor.aminmax()]).tolist()
    for name, size, low, high in zip(named, sizes, edges[::2], edges[1::2], strict=True):
        if low < 0 or high >= size:
            raise ValueError(f"{name} must lie in 0..{size - 1}, got {low if low < 0 else high}")


def check_range(named: dict[str, Tensor], low: float = -math.inf, high: float = math.inf) -> None:
    """Raise if values are not finite or outside a range.

    Args:
        named: Arguments by name, real numbers of any dtype and shape.
        low: Smallest value allowed.
        high: Largest value allowed.

    Raises:
        ValueError: If a value is NaN, infinite, below ``low`` or above ``high``.
        TypeError: If a tensor is complex.
    """
    for name, tensor in named.items():
        if tensor.is_complex():
            raise TypeError(f"{name} must be real numbers, got dtype {tensor.dtype}")
        if tensor.numel() == 0:
            continue
        # `aminmax` propagates NaN, for which no comparison holds.
        for edge in torch.stack(tensor.aminmax()).tolist():
            if not (low <= edge <= high and math.isfinite(edge)):
                allowed = "be finite" if math.isinf(low) else f"be finite and lie in [{low:g}, {high:g}]"
                raise ValueError(f"{name} must {allowed}, got {edge}")


def check_groups(n_groups: int) -> None:
    """Raise if the number of groups is below 1.

    Args:
        n_groups: Number of groups G.

    Raises:
        ValueError: If it is below 1.
    """
    if n_groups < 1:
        raise ValueError(f"n_groups must be at least 1, got {n_groups!r}")
