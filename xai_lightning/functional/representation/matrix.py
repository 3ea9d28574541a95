"""Bounded matrices of activations: one row per sample or position, one column per unit."""

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact


def sample_matrix(h: Tensor, unit_dim: int, *, most: int) -> tuple[Tensor, Tensor]:
    """Evenly spaced rows of an activation, at most ``most``; the same rows for every activation of the same shape.

    Each position of a picture or sequence is a row of its own, as in the running statistics. Positions of one sample
    resemble each other: many rows of few samples hold less independent information than their number suggests.

    Args:
        h: float[N, ..., U, ...], the activation.
        unit_dim: dimension of the units, not 0; negative ones count from the end.
        most: largest number of rows, at least 1.

    Returns:
        float[R, U], a copy, and int64[R], the sample that each row belongs to.

    Raises:
        ValueError: if ``unit_dim`` names no dimension or that of the samples, or ``most`` is below 1.

    Example:
        >>> rows, samples = sample_matrix(torch.arange(12.0).view(2, 2, 3), 1, most=3)
        >>> rows.tolist(), samples.tolist()
        ([[0.0, 3.0], [2.0, 5.0], [7.0, 10.0]], [0, 0, 1])
    """
    if unit_dim == 0 or not -h.dim() < unit_dim < h.dim():
        raise ValueError(f"`unit_dim` must be a dimension of shape {tuple(h.shape)} after the first, got {unit_dim}.")
    if most < 1:
        raise ValueError(f"`most` must be at least 1 row, got {most}.")
    moved = h.detach().movedim(unit_dim, -1)
    places = moved.shape[:-1]
    total = places.numel()
    count = min(most, total)
    chosen = torch.arange(count, device=h.device) * total // max(1, count)
    index = torch.unravel_index(chosen, places)
    return moved[index].clone(), index[0]


def per_sample(h: Tensor, unit_dim: int) -> Tensor:
    """One row per sample, the mean over its positions, for measures that need a label per row.

    Args:
        h: float[N, ..., U, ...], the activation.
        unit_dim: dimension of the units, not 0; negative ones count from the end.

    Returns:
        float64[N, U].

    Raises:
        ValueError: if ``unit_dim`` names no dimension or that of the samples.

    Example:
        >>> per_sample(torch.arange(12.0).view(2, 2, 3), 1).tolist()
        [[1.0, 4.0], [7.0, 10.0]]
    """
    if unit_dim == 0 or not -h.dim() < unit_dim < h.dim():
        raise ValueError(f"`unit_dim` must be a dimension of shape {tuple(h.shape)} after the first, got {unit_dim}.")
    others = [d for d in range(1, h.dim()) if d != unit_dim % h.dim()]
    wide = widened(h)
    return wide.mean(others) if others else wide


def bytes_needed(samples: int, units: int, *, layers: int = 1, references: int = 0, itemsize: int = 4) -> int:
    """The peak memory of the measures of this package, known before anything is computed.

    One matrix per layer is kept, and per reference either another matrix or its :func:`kernel`, whichever is smaller.
    The measures of one layer work on four copies in float64 and three square matrices of the smaller side; the
    comparison of all layers works on two square matrices per layer.

    Args:
        samples: rows N of each matrix.
        units: columns U of the widest layer.
        layers: number of observed layers.
        references: number of earlier states kept per layer for comparison.
        itemsize: bytes per kept value.

    Returns:
        Bytes, without what torch needs to run.

    Raises:
        ValueError: if a number is negative.

    Example:
        >>> bytes_needed(512, 512, layers=8, references=3) / 2**20
        78.0
    """
    numbers = (samples, units, layers, references, itemsize)
    if min(numbers) < 0:
        raise ValueError(f"Numbers of samples, units, layers, references and bytes must be at least 0, got {numbers}.")
    smaller = min(samples, units)
    kept = layers * samples * (units + references * smaller) * itemsize
    one_layer = 8 * (4 * samples * units + 3 * smaller**2)
    compared = 8 * ((2 * layers + 4) * samples**2 + 3 * samples * units)
    return kept + max(one_layer, compared)


def widened(h: Tensor) -> Tensor:
    """The values in float64, detached; on the CPU if the device has no float64 (trap 93).

    Raises:
        TypeError: if they are not real.
    """
    if h.is_complex() or h.is_quantized:
        raise TypeError(f"`h` must be real, got {h.dtype}; pass its parts or its magnitude.")
    return exact(h.detach())


def checked(h: Tensor) -> Tensor:
    """A matrix of activations, validated and in float64.

    Raises:
        ValueError: if it is not [N, U].
        TypeError: if it is not real.
    """
    if h.dim() != 2:
        raise ValueError(f"`h` must be float[N, U], one row per sample, got shape {tuple(h.shape)}.")
    return widened(h)


def centred(x: Tensor) -> Tensor:
    """Columns minus their means; a column of equal values becomes exactly 0, however large they are (trap 93)."""
    if len(x) == 0:
        return x
    moved = x - x[:1]
    return moved.sub_(moved.mean(0, keepdim=True))


def scaled(x: Tensor) -> Tensor:
    """Values divided by their largest absolute value, so that no power overflows; NaN if one is not finite."""
    largest = x.abs().amax() if x.numel() else x.new_zeros(())
    return x / largest.where(largest > 0, 1.0).where(largest.isfinite(), torch.nan)
