"""The state of one activation, in one reduction."""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import binned
from xai_lightning.functional.activation.moments import Moments, empty, union

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**19, 2**24
# With as many rows, columns are summed downwards, which is fast for any width; else along, which is for wide ones.
_ROWS = 16


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


#: All of them, but for saturation, which needs limits.
EVERYTHING = Measured(higher=True, histogram=True, sparsity=True)


def observe(h: Tensor, unit_dim: int, keep: Tensor | None = None, measured: Measured = EVERYTHING) -> Moments:
    """Statistics of one activation, reduced over all dimensions but one.

    Blocks that fit the cache are widened to float64, centred at their own means and merged (trap 93). On an accelerator
    it waits for the device, once per 16.8 million elements.

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
    samples, values = len(h), h.detach()
    if keep is not None and not keep.all():
        samples = int(keep.reshape(len(keep), -1).any(1).sum())
        values, unit_dim = _kept(values, unit_dim, keep)
    # Metal knows no float64 (trap 93).
    values = values.cpu() if values.device.type == "mps" else values
    return _observed(values, unit_dim, samples, measured)


def _kept(values: Tensor, unit_dim: int, keep: Tensor) -> tuple[Tensor, int]:
    if unit_dim >= keep.dim():
        return values[keep], unit_dim - keep.dim() + 1
    return values.movedim(unit_dim, -1)[keep], values.dim() - keep.dim()


def _observed(values: Tensor, unit_dim: int, samples: int, measured: Measured) -> Moments:
    if values.numel() == 0:
        return empty(values.shape[unit_dim], device=values.device)
    parts = [_reduced(block, measured) for block in _blocks(values, unit_dim)]
    if None in parts:
        finite = values.isfinite()
        keep = finite.flatten(1).all(1)
        rest = min(samples, int(keep.sum()))
        return _observed(values[keep], unit_dim, rest, measured)._replace(nonfinite=(~finite).sum())
    state = union([part for part in parts if part is not None])
    return state._replace(samples=torch.full_like(state.count, samples), calls=torch.ones_like(state.count))


def _blocks(values: Tensor, unit_dim: int) -> Iterator[Tensor]:
    """``[A, U, R]``, float32 or float64, without copies where the memory allows it."""
    last = values.movedim(unit_dim, -1)
    if last.is_contiguous():
        rows = last.reshape(-1, last.shape[-1], 1)
    else:
        units, before = values.shape[unit_dim], math.prod(values.shape[:unit_dim])
        rows = values.reshape(before, units, values.numel() // (before * units))
    most = _BLOCK_ON_CPU if values.device.type == "cpu" else _BLOCK_ELSEWHERE
    places = max(1, most // rows.shape[1])
    for block in torch.split(rows, max(1, most // rows[0].numel())):
        yield from (_widened(part) for part in torch.split(block, places, dim=2))


def _widened(h: Tensor) -> Tensor:
    if h.dtype in (torch.float32, torch.float64):
        return h
    return h.float() if h.is_floating_point() else h.double()


def _reduced(block: Tensor, measured: Measured) -> Moments | None:
    """The state of one block; None if anything in it is not finite."""
    minimum, maximum = _lowest(block), _highest(block)
    low, high = torch.stack([minimum.amin(), maximum.amax()]).tolist()
    if not math.isfinite(high - low) and not (math.isfinite(high) and math.isfinite(low)):
        return None
    state = empty(block.shape[1], block.device)
    wide = block.to(torch.float64, copy=True)
    squares = torch.empty_like(wide)
    zeros, positives = _signs(block, low)
    count = block.numel() // block.shape[1]
    total = _total(wide)
    magnitude = total if low >= 0 else _total(torch.abs(wide, out=squares))
    sparsity = _sparsity(wide, squares, low) if measured.sparsity and block.shape[1] > 1 else state.sparsity
    mean = total / count
    m2, m3, m4 = _central(wide.sub_(mean[:, None]), squares, measured.higher)
    return state._replace(
        count=torch.full_like(state.count, count),
        mean=mean,
        m2=m2,
        m3=m3,
        m4=m4,
        magnitude=magnitude,
        zeros=zeros,
        positives=positives,
        minimum=minimum.double(),
        maximum=maximum.double(),
        histogram=binned(block) if measured.histogram else state.histogram,
        saturated=_beyond(block, measured.limits) if measured.limits else state.saturated,
        sparsity=sparsity,
    )


def _down(x: Tensor) -> Tensor:
    return x.reshape(len(x), -1)


def _downwards(x: Tensor) -> bool:
    return x.shape[2] == 1 or len(x) >= _ROWS


def _total(x: Tensor) -> Tensor:
    if _downwards(x):
        return _down(x).sum(0).view(x.shape[1:]).sum(1)
    return x.sum(2).sum(0)


def _lowest(x: Tensor) -> Tensor:
    if _downwards(x):
        return _down(x).amin(0).view(x.shape[1:]).amin(1)
    return x.amin(2).amin(0)


def _highest(x: Tensor) -> Tensor:
    if _downwards(x):
        return _down(x).amax(0).view(x.shape[1:]).amax(1)
    return x.amax(2).amax(0)


def _signs(block: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Zeros and positives per unit; comparisons are written as floats, which sum several times faster than bools."""
    found = torch.empty_like(block)
    zeros = _total(torch.eq(block, 0, out=found)).long()
    if low >= 0:
        return zeros, block.numel() // block.shape[1] - zeros
    return zeros, _total(torch.gt(block, 0, out=found)).long()


def _beyond(block: Tensor, limits: tuple[float, float]) -> Tensor:
    return ((block <= limits[0]) | (block >= limits[1])).sum()


def _central(deviations: Tensor, squares: Tensor, higher: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Central moments; both arguments are overwritten."""
    m2 = _total(torch.mul(deviations, deviations, out=squares))
    if not higher:
        unknown = torch.full_like(m2, math.nan)
        return m2, unknown, unknown
    return m2, _total(deviations.mul_(squares)), _total(squares.mul_(squares))


def _sparsity(wide: Tensor, scratch: Tensor, low: float) -> Tensor:
    """Vectors that are not zero, and the sums of their sparsities; ``scratch`` holds magnitudes unless all are >= 0."""
    units = wide.shape[1]
    size = (wide if low >= 0 else scratch).sum(1)
    square = torch.mul(wide, wide, out=scratch).sum(1)
    ratio = size * size / square
    hoyer = (math.sqrt(units) - ratio.sqrt()) / (math.sqrt(units) - 1)
    treves = (1 - ratio / units) / (1 - 1 / units)
    return torch.stack([(square > 0).sum().double(), hoyer.nansum(), treves.nansum()])
