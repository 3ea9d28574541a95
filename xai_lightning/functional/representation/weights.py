"""Weights: their norm, their relative update, and their histogram."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from xai_lightning.functional.activation import HistogramSummary, empty, histogram_summary, merge, observe
from xai_lightning.functional.representation.matrix import widened


def weight_norm(weights: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all weights of a layer together.

    Neither small nor large is good: with normalisation, many networks do not depend on the size of their weights. It is
    the scale for :func:`relative_update`.

    Args:
        weights: the layer's tensors, of any shapes.

    Returns:
        float64[], 0 without weights; NaN or infinite if a weight is.

    Example:
        >>> weight_norm([torch.tensor([[3.0]]), torch.tensor([4.0])])
        tensor(5., dtype=torch.float64)
    """
    return _norm([widened(weight) for weight in weights])


def relative_update(current: Sequence[Tensor], previous: Sequence[Tensor]) -> Tensor:
    r"""Distance by which a layer's weights moved since the previous observation, relative to their norm.

    .. math:: \|w_t - w_{t-1}\| / \|w_{t-1}\|

    0 means unchanged (frozen, or without a gradient), 1 that they moved by as much as their norm. It grows with the
    number of steps in between, and weights that move back and forth look unmoved.

    Args:
        current: the layer's tensors.
        previous: the same tensors at the previous observation.

    Returns:
        float64[], at least 0; NaN if the earlier weights were all 0, or a value is not finite.

    Raises:
        ValueError: if the shapes differ.

    Example:
        >>> relative_update([torch.tensor([3.0, 4.5])], [torch.tensor([3.0, 4.0])])
        tensor(0.1000, dtype=torch.float64)
    """
    shapes = [[tuple(weight.shape) for weight in weights] for weights in (current, previous)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"Weights must keep their shapes, got {shapes[0]} after {shapes[1]}.")
    before = _norm([widened(weight) for weight in previous])
    moved = _norm([widened(now) - widened(then) for now, then in zip(current, previous, strict=True)])
    return (moved / before).where((before > 0) & moved.isfinite() & before.isfinite(), torch.nan)


def weight_histogram(weights: Sequence[Tensor]) -> HistogramSummary:
    """Histogram of all weights of a layer together, in the bins of the activations' histogram.

    Args:
        weights: the layer's tensors, of any shapes.

    Returns:
        Plain numbers; values that are not finite are left out.

    Example:
        >>> weight_histogram([torch.tensor([[1.0, -3.0]]), torch.tensor([2.0])])[:5]
        (-3.0, 2.0, 3, 0.0, 14.0)
    """
    parts = [observe(weight.detach().reshape(-1, 1), unit_dim=1) for weight in weights]
    return histogram_summary(reduce(merge, parts) if parts else empty(1))


def _norm(tensors: Sequence[Tensor]) -> Tensor:
    if not any(tensor.numel() for tensor in tensors):
        return torch.zeros((), dtype=torch.float64, device="cpu")
    norms = torch.stack([torch.linalg.vector_norm(tensor) for tensor in tensors])
    total: Tensor = torch.linalg.vector_norm(norms)
    return total
