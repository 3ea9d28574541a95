"""The state of one activation."""

import torch
from torch import Tensor

from xai_lightning.functional.activation.accumulator import Accumulator
from xai_lightning.functional.activation.moments import Moments
from xai_lightning.functional.activation.table import EVERYTHING, Measured
from xai_lightning.functional.precision import exact_device


def observe(h: Tensor, unit_dim: int, keep: Tensor | None = None, measured: Measured = EVERYTHING) -> Moments:
    """Statistics of one activation, reduced over all dimensions but one.

    Blocks that fit the cache are summed in their own type, or in float32 if it is narrower, around a shift near the
    mean, and merged in float64 (trap 93): of float32, moments are right to about 1e-7 of their size, and of float64 to
    1e-13; counts and extremes are exact. On an accelerator it waits for the device, thrice per 16.8 million elements.
    On the CPU, float32 and what is narrower take a single pass where numba is installed; its loops are compiled first,
    which takes seconds.

    Args:
        h: float[N, ..., U, ...], the activation, real; neither changed nor kept.
        unit_dim: Dimension of the units, not 0; negative ones count from the end.
        keep: bool[N, ...], what to observe, all by default: samples, or positions within them, of as many leading
            dimensions as one likes, the units' left out. The others (padding, duplicates) leave no trace.
        measured: What to observe beside the rest.

    Returns:
        The state, on the device of ``h``; the empty one if nothing is kept.

    Raises:
        ValueError: If ``unit_dim`` names no dimension or that of the samples, or ``keep`` is not bool[N, ...].
        TypeError: If ``h`` is not real.

    Example:
        >>> state = observe(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), unit_dim=1)
        >>> state.mean, state.positives
        (tensor([0., 3.], dtype=torch.float64), tensor([0, 2]))

    References:
        T. F. Chan, G. H. Golub and R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, Stanford technical report STAN-CS-79-773, 1979.
    """
    values, unit_dim, samples = selected(h, unit_dim, keep)
    layer = Accumulator(values.shape[unit_dim], measured, values.device)
    layer.add(values, unit_dim, samples)
    return layer.state()


def selected(h: Tensor, unit_dim: int, keep: Tensor | None = None) -> tuple[Tensor, int, int]:
    """What :func:`observe` observes of ``h``, the dimension of its units, and of how many samples it is.

    Args:
        h: float[N, ..., U, ...].
        unit_dim: Dimension of the units.
        keep: bool[N, ...], as in :func:`observe`.

    Returns:
        What is left, float[M, ..., U, ...], the dimension of its units, and the number of samples.

    Raises:
        ValueError: As :func:`observe`.
        TypeError: As :func:`observe`.
    """
    if unit_dim == 0 or not -h.dim() < unit_dim < h.dim():
        raise ValueError(f"`unit_dim` must be a dimension of shape {tuple(h.shape)} after the first, got {unit_dim}.")
    unit_dim %= h.dim()
    shape = h.shape[:unit_dim] + h.shape[unit_dim + 1 :]
    if keep is not None and (keep.dtype != torch.bool or keep.dim() == 0 or keep.shape != shape[: keep.dim()]):
        raise ValueError(
            f"`keep` must be bool of shape {tuple(shape)} or of its first dimensions, got {keep.dtype} of shape "
            f"{tuple(keep.shape)}."
        )
    if h.is_complex() or h.is_quantized or h.layout != torch.strided:
        raise TypeError(f"`h` must be real and dense, got {h.dtype}, {h.layout}; observe its parts or magnitude.")
    samples, values = len(h), h.detach().resolve_neg()
    if keep is not None and not keep.all():
        samples = int(keep.reshape(len(keep), -1).any(1).sum())
        values, unit_dim = _kept(values, unit_dim, keep)
    return values.to(exact_device(values.device)), unit_dim, samples


def _kept(values: Tensor, unit_dim: int, keep: Tensor) -> tuple[Tensor, int]:
    if unit_dim >= keep.dim():
        return values[keep], unit_dim - keep.dim() + 1
    return values.movedim(unit_dim, -1)[keep], values.dim() - keep.dim()
