"""The state of one activation, in one reduction."""

import math
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import BINS, binned
from xai_lightning.functional.activation.moments import Moments, empty, union

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**19, 2**24
# Absolute values whose fourth powers, and those of a thousandth of them, float32 holds.
_FLOAT32 = (1e-6, 1e8)
# Squares of means beyond so many variances are taken out first: what would cancel else.
_FAR, _FAR_FOR_HIGHER = 16.0, 4.0
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


class Workspace:
    """Room for what is computed of a block on the way, made once: to take it anew costs more than to fill it.

    On the CPU only, where it holds at most three blocks of each type; it is pickled without them.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_rooms": {}}

    def like(self, x: Tensor, use: str, dtype: torch.dtype | None = None) -> Tensor:
        """Room of the shape of ``x``, and of its type unless another is named; what it holds is forgotten."""
        dtype = dtype or x.dtype
        if x.device.type != "cpu":
            return torch.empty_like(x, dtype=dtype)
        room = self._rooms.get((use, dtype))
        if room is None or len(room) < x.numel():
            room = self._rooms[use, dtype] = torch.empty(x.numel(), dtype=dtype)
        return room[: x.numel()].view(x.shape)


def observe(
    h: Tensor,
    unit_dim: int,
    keep: Tensor | None = None,
    measured: Measured = EVERYTHING,
    workspace: Workspace | None = None,
) -> Moments:
    """Statistics of one activation, reduced over all dimensions but one.

    Blocks that fit the cache are summed in their own type, or in float32 if it is narrower, around a shift near the
    mean, and merged in float64 (trap 93): of float32, moments are right to about 1e-7 of their size, and of float64 to
    1e-13; counts and extremes are exact. On an accelerator it waits for the device, thrice per 16.8 million elements.

    Args:
        h: float[N, ..., U, ...], the activation, real; neither changed nor kept.
        unit_dim: Dimension of the units, not 0; negative ones count from the end.
        keep: bool[N, ...], what to observe, all by default: samples, or positions within them, of as many leading
            dimensions as one likes, the units' left out. The others (padding, duplicates) leave no trace.
        measured: What to observe beside the rest.
        workspace: That of earlier calls.

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
    return _observed(values, unit_dim, samples, measured, workspace or Workspace())


def _kept(values: Tensor, unit_dim: int, keep: Tensor) -> tuple[Tensor, int]:
    if unit_dim >= keep.dim():
        return values[keep], unit_dim - keep.dim() + 1
    return values.movedim(unit_dim, -1)[keep], values.dim() - keep.dim()


def _observed(values: Tensor, unit_dim: int, samples: int, measured: Measured, workspace: Workspace) -> Moments:
    if values.numel() == 0:
        return empty(values.shape[unit_dim], device=values.device)
    parts = [_reduced(_widened(block, workspace), measured, workspace) for block in _blocks(values, unit_dim)]
    if None in parts:
        finite = values.isfinite()
        keep = finite.flatten(1).all(1)
        rest = min(samples, int(keep.sum()))
        return _observed(values[keep], unit_dim, rest, measured, workspace)._replace(nonfinite=(~finite).sum())
    state = union([part for part in parts if part is not None])
    once = torch.tensor([samples, 1], device=values.device)
    return state._replace(samples=once[0], calls=once[1])


def _blocks(values: Tensor, unit_dim: int) -> Iterator[Tensor]:
    """``[A, U, R]``, without copies where the memory allows it."""
    last = values.movedim(unit_dim, -1)
    if last.is_contiguous():
        rows = last.reshape(-1, last.shape[-1], 1)
    else:
        units, before = values.shape[unit_dim], math.prod(values.shape[:unit_dim])
        rows = values.reshape(before, units, values.numel() // (before * units))
    most = _BLOCK_ON_CPU if values.device.type == "cpu" else _BLOCK_ELSEWHERE
    if rows.numel() <= most:
        yield rows
        return
    places = max(1, most // rows.shape[1])
    for block in torch.split(rows, max(1, most // rows[0].numel())):
        yield from torch.split(block, places, dim=2)


def _widened(h: Tensor, workspace: Workspace, to: torch.dtype | None = None) -> Tensor:
    """In float32 or float64: as it is, or a copy."""
    dtype = to or (torch.float32 if h.is_floating_point() else torch.float64)
    if h.dtype in (dtype, torch.float64):
        return h
    return workspace.like(h, "wide", dtype).copy_(h)


def _reduced(block: Tensor, measured: Measured, workspace: Workspace) -> Moments | None:
    """The state of one block; None if anything in it is not finite."""
    minimum, maximum = _along(block, "amin"), _along(block, "amax")
    low, high = float(minimum.amin()), float(maximum.amax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return None
    # fourth powers of what lies outside would leave the range of float32
    fits = _FLOAT32[0] < max(-low, high) < _FLOAT32[1] or high == low == 0
    work = block if fits else _widened(block, workspace, torch.float64)
    scratch = workspace.like(work, "scratch")
    counts = torch.tensor([block.numel() // block.shape[1], 0], device=block.device)
    zeros, positives = _signs(work, scratch, low)
    sparse = measured.sparsity and block.shape[1] > 1
    size = work if low >= 0 else torch.abs(work, out=scratch)
    magnitude = None if size is work else _along(size, "sum")
    sparsity = _sparsity(work, size, workspace) if sparse else work.new_zeros(3, dtype=torch.float64)
    # from here on, the scratch is free again
    mean, *higher = central(work, measured.higher, workspace)
    return Moments(
        counts[0],
        mean,
        *higher,
        mean * counts[0] if magnitude is None else magnitude,
        zeros,
        positives,
        minimum.double(),
        maximum.double(),
        histogram=binned(block, scratch) if measured.histogram else counts.new_zeros(BINS),
        saturated=_beyond(block, measured.limits) if measured.limits else counts[1],
        sparsity=sparsity,
        samples=counts[1],
        calls=counts[1],
        nonfinite=counts[1],
    )


def central(x: Tensor, higher: bool, workspace: Workspace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    r"""Mean and central moments per unit, from sums of powers around 0, or around the mean of units that lie far off.

    .. math:: M_2 = S_2 - n \delta^2,\quad M_3 = S_3 - 3 \delta S_2 + 2 n \delta^3,\quad
       M_4 = S_4 - 4 \delta S_3 + 6 \delta^2 S_2 - 3 n \delta^4,\quad \delta = S_1 / n

    So what cancels is a few times what is left at most, and so are the rounding errors of float32 sums.

    Args:
        x: float32[A, U, R] or float64[A, U, R].
        higher: Whether to compute the third and fourth moments; else they are NaN.
        workspace: Its rooms "scratch" and "powers" are used.

    Returns:
        Mean, M2, M3 and M4, float64[U].
    """
    found = torch.stack(_around_zero(x, higher, workspace))
    count = x.numel() // x.shape[1]
    most = _FAR_FOR_HIGHER if higher else _FAR
    far = (found[0].square() * count > most * found[1]).nonzero().flatten()
    if len(far):
        # exact in the type of x wherever it is near the mean (Sterbenz)
        shift = found[0][far].to(x.dtype)
        rest = x.index_select(1, far).sub_(shift[:, None])
        found[:, far] = torch.stack(_around_zero(rest, higher, workspace))
        found[0, far] += shift.double()
    mean, m2, m3, m4 = found
    return mean, m2.clamp_(min=0), m3, m4


def _around_zero(x: Tensor, higher: bool, workspace: Workspace) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    count = x.numel() // x.shape[1]
    powers = torch.mul(x, x, out=workspace.like(x, "powers"))
    delta, s2 = _along(x, "sum") / count, _along(powers, "sum")
    square = delta * delta
    m2 = s2 - count * square
    if not higher:
        unknown = torch.full_like(m2, math.nan)
        return delta, m2, unknown, unknown
    s3 = _along(torch.mul(powers, x, out=workspace.like(x, "scratch")), "sum")
    s4 = _along(powers.mul_(powers), "sum")
    m3 = s3 - delta * (3 * s2 - 2 * count * square)
    m4 = s4 - 4 * delta * s3 + square * (6 * s2 - 3 * count * square)
    return delta, m2, m3, m4


def _along(x: Tensor, what: Literal["sum", "amin", "amax"]) -> Tensor:
    """One number per unit, float64[U] of a sum: columns first where there are enough rows, or rows are short."""
    if x.shape[2] == 1 or len(x) >= _ROWS:
        first, dim = getattr(x.reshape(len(x), -1), what)(0).view(x.shape[1:]), 1
    else:
        first, dim = getattr(x, what)(2), 0
    found: Tensor = getattr(first.double() if what == "sum" else first, what)(dim)
    return found


def _signs(x: Tensor, scratch: Tensor, low: float) -> tuple[Tensor, Tensor]:
    """Zeros and positives per unit; comparisons are written as floats, which sum several times faster than bools."""
    zeros = _along(torch.eq(x, 0, out=scratch), "sum").long()
    if low >= 0:
        return zeros, x.numel() // x.shape[1] - zeros
    return zeros, _along(torch.gt(x, 0, out=scratch), "sum").long()


def _beyond(block: Tensor, limits: tuple[float, float]) -> Tensor:
    return ((block <= limits[0]) | (block >= limits[1])).sum()


def _sparsity(x: Tensor, size: Tensor, workspace: Workspace) -> Tensor:
    """Vectors that are not zero, and the sums of their sparsities."""
    units = x.shape[1]
    square = torch.mul(x, x, out=workspace.like(x, "powers")).sum(1).double()
    ratio = size.sum(1).double().square() / square
    hoyer = (math.sqrt(units) - ratio.sqrt()) / (math.sqrt(units) - 1)
    treves = (1 - ratio / units) / (1 - 1 / units)
    return torch.stack([(square > 0).sum().double(), hoyer.nansum(), treves.nansum()])
