"""Weights: their size, how far the last steps moved them, and how they are distributed."""

from collections.abc import Sequence
from functools import reduce

import torch
from torch import Tensor

from xai_lightning.functional.activation import HistogramSummary, empty, histogram_summary, merge, observe
from xai_lightning.functional.representation.matrix import widened


def weight_norm(weights: Sequence[Tensor]) -> Tensor:
    """Euclidean norm of all weights of a layer together.

    Neither small nor large is good: normalisation makes many networks blind to the size of their weights. It is the
    measure for :func:`relative_update`.

    Args:
        weights: the layer's tensors, of any shapes.

    Returns:
        float64[], 0 without weights; NaN or infinite as they are.

    Example:
        >>> weight_norm([torch.tensor([[3.0]]), torch.tensor([4.0])])
        tensor(5., dtype=torch.float64)
    """
    return _norm([widened(weight) for weight in weights])


def relative_update(current: Sequence[Tensor], previous: Sequence[Tensor]) -> Tensor:
    r"""How far a layer's weights moved since they were last looked at, over how large they were.

    .. math:: \|w_t - w_{t-1}\| / \|w_{t-1}\|

    0 means unchanged (frozen, or without a gradient), 1 that they moved as far as they are long. It grows with the
    number of steps in between, and weights that go back and forth look unmoved.

    Args:
        current: the layer's tensors.
        previous: the same ones earlier.

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
        raise ValueError(f"Weights must have the shapes they had before, got {shapes[0]} after {shapes[1]}.")
    before = _norm([widened(weight) for weight in previous])
    moved = _norm([widened(now) - widened(then) for now, then in zip(current, previous, strict=True)])
    return (moved / before).where((before > 0) & moved.isfinite() & before.isfinite(), torch.nan)


def weight_histogram(weights: Sequence[Tensor]) -> HistogramSummary:
    """All weights of a layer together, in the bins of the activations' histogram.

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
