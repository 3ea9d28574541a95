"""Running statistics of one layer's activations, per unit; any split of the data merges to the same state.

A *unit* is one index of the unit dimension: a channel of an image, a feature of a vector or token. Everything is
reduced in :func:`observe`, which is made for forward hooks: nothing it returns refers to the activation (traps 90, 92).

A sample with any value that is not finite is left out whole, so that all units are reduced over equally many elements;
its values that are not finite are counted.
"""

import math
import sys
from functools import reduce
from typing import NamedTuple

import torch
from torch import Tensor

_EXPONENTS = range(-16, 16)
_POWERS = [2.0**exponent for exponent in _EXPONENTS]

#: Upper limits of the bins: 32 negative, one around 0, 32 positive. A power of two belongs to the bin farther from 0.
HISTOGRAM_LIMITS = (*(-power for power in reversed(_POWERS)), *_POWERS, sys.float_info.max)

_BINS = len(HISTOGRAM_LIMITS)
_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**18, 2**24
_BITS = {torch.float32: (torch.int32, 23), torch.float64: (torch.int64, 52)}


class Moments(NamedTuple):
    """What was observed of one layer.

    Attributes:
        count: int64[], elements observed per unit.
        mean: float64[U], 0 if nothing was observed.
        m2: float64[U], sum of squared deviations from the mean.
        zeros: int64[U], elements equal to 0.
        positives: int64[U], elements above 0.
        histogram: int64[65], elements of all units in the bins of ``HISTOGRAM_LIMITS``.
        minimum: float64[], ``inf`` if nothing was observed.
        maximum: float64[], ``-inf`` if nothing was observed.
        nonfinite: int64[], values that were not finite; their samples are in none of the other fields.
    """

    count: Tensor  # type: ignore[assignment]  # tuple.count, which nobody calls on a state
    mean: Tensor
    m2: Tensor
    zeros: Tensor
    positives: Tensor
    histogram: Tensor
    minimum: Tensor
    maximum: Tensor
    nonfinite: Tensor


class HistogramSummary(NamedTuple):
    """A histogram as TensorBoard's ``add_histogram_raw`` takes it: ``add_histogram_raw(name, **summary._asdict())``."""

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    bucket_limits: list[float]
    bucket_counts: list[int]


def observe(h: Tensor, unit_dim: int, keep: Tensor | None = None) -> Moments:
    """Statistics of one activation, reduced over all dimensions but one.

    Blocks that fit the cache are widened to float64, reduced in two passes and merged (trap 93). On an accelerator it
    waits for the device, once per 16.8 million elements.

    Args:
        h: float[N, ..., U, ...], the activation, real; neither changed nor kept.
        unit_dim: Dimension of the units, not 0; negative ones count from the end.
        keep: bool[N], samples to observe, all by default; the others (padding, duplicates) leave no trace.

    Returns:
        The state, on the device of ``h``; the empty one if no sample is kept.

    Raises:
        ValueError: If ``unit_dim`` names no dimension or that of the samples, or ``keep`` is not bool[N].
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
    if keep is not None and (keep.dtype != torch.bool or keep.shape != h.shape[:1]):
        raise ValueError(f"`keep` must be bool[{len(h)}], got {keep.dtype} of shape {tuple(keep.shape)}.")
    values = h.detach() if keep is None or keep.all() else h.detach()[keep]
    # Metal knows no float64 (trap 93).
    values = values.cpu() if values.device.type == "mps" else values
    if values.numel() == 0:
        return empty(values.shape[unit_dim], device=values.device)
    elements = _BLOCK_ON_CPU if values.device.type == "cpu" else _BLOCK_ELSEWHERE
    blocks = torch.split(values, max(1, elements * len(values) // values.numel()))
    return reduce(merge, [_reduced(_widened(block), unit_dim % h.dim()) for block in blocks])


def merge(a: Moments, b: Moments) -> Moments:
    r"""State of the union of two sets of data, by pairwise updating.

    .. math:: \mu = (n_a \mu_a + n_b \mu_b) / n,\quad M = M_a + M_b + (\mu_b - \mu_a)^2\, n_a n_b / n

    Args:
        a: One state.
        b: Another state of the same layer, on the same device.

    Returns:
        The merged state; the order of the two does not matter.

    Raises:
        ValueError: If the numbers of units differ.

    Example:
        >>> part = observe(torch.tensor([[1.0], [2.0]]), unit_dim=1)
        >>> merge(part, part).count
        tensor(4)
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(f"Only states of one layer merge, got {len(a.mean)} and {len(b.mean)} units.")
    names = ("count", "zeros", "positives", "histogram", "nonfinite")
    sums = {name: getattr(a, name) + getattr(b, name) for name in names}
    part_a, part_b = (state.count.double() / sums["count"].clamp(min=1) for state in (a, b))
    return Moments(
        mean=part_a * a.mean + part_b * b.mean,
        m2=a.m2 + b.m2 + (b.mean - a.mean).square() * (part_a * part_b * sums["count"]),
        minimum=torch.minimum(a.minimum, b.minimum),
        maximum=torch.maximum(a.maximum, b.maximum),
        **sums,
    )


def empty(units: int, device: torch.device | str | None = None) -> Moments:
    """State of a layer of which nothing was observed; merging it changes nothing.

    Args:
        units: Number of units.
        device: Where the state lives, by default the CPU.

    Returns:
        The empty state.

    Example:
        >>> empty(3).count
        tensor(0)
    """
    mean, m2 = torch.zeros(2, units, dtype=torch.float64, device=device)
    count, nonfinite = torch.zeros(2, dtype=torch.int64, device=device)
    histogram = torch.zeros(_BINS, dtype=torch.int64, device=device)
    infinity = torch.full((), math.inf, dtype=torch.float64, device=device)
    return Moments(count, mean, m2, mean.long(), mean.long(), histogram, infinity, -infinity, nonfinite)


def pack(moments: Moments) -> Tensor:
    """The state as one vector, of a length that only the number of units decides, for ``all_gather``.

    Args:
        moments: The state.

    Returns:
        float64[69 + 4 U]; counts below 2^53 are exact.

    Example:
        >>> pack(empty(3)).shape
        torch.Size([81])
    """
    return torch.cat([field.double().flatten() for field in moments])


def unpack(vector: Tensor, units: int) -> Moments:
    """The state that :func:`pack` packed.

    Args:
        vector: float64[69 + 4 U].
        units: Number of units U.

    Returns:
        The state, on the device of ``vector``.

    Raises:
        ValueError: If the vector has another length.

    Example:
        >>> unpack(pack(observe(torch.tensor([[1.0, -1.0]]), unit_dim=1)), units=2).positives
        tensor([1, 0])
    """
    like = empty(units)
    sizes = [field.numel() for field in like]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"A state of {units} units has shape ({sum(sizes)},), got {tuple(vector.shape)}.")
    fields = zip(torch.split(vector, sizes), like, strict=True)
    return Moments(*(packed.view_as(field).to(field.dtype, copy=True) for packed, field in fields))


def statistics(moments: Moments, *, rectified: bool) -> dict[str, float]:
    """Numbers to log for one layer.

    ``mean``, ``std`` and ``rms`` are over all elements of the layer, ``zero_share`` is the fraction of elements equal
    to 0, ``dead_share`` that of units never above 0: seen n times, one may still fire in up to about 3/n of all cases.

    Args:
        moments: The state.
        rectified: Whether the layer's output is 0 wherever a unit is off (ReLU); the others have no dead units.

    Returns:
        The five numbers; all NaN if nothing was observed, ``dead_share`` also NaN unless ``rectified``.

    Example:
        >>> statistics(observe(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), unit_dim=1), rectified=True)["dead_share"]
        0.5

    References:
        G. Sokar et al., The dormant neuron phenomenon in deep reinforcement learning, ICML 2023 (threshold 0).
    """
    variance = moments.m2 / moments.count
    numbers = {
        "mean": moments.mean.mean(),
        "std": (variance.mean() + (moments.mean - moments.mean.mean()).square().mean()).sqrt(),
        "rms": (variance + moments.mean.square()).mean().sqrt(),
        "zero_share": (moments.zeros / moments.count).mean(),
        "dead_share": (moments.positives == 0).double().mean() if rectified else variance.new_tensor(math.nan),
    }
    observed = torch.stack(list(numbers.values())).where(moments.count > 0, math.nan)
    return dict(zip(numbers, observed.tolist(), strict=True))


def histogram_summary(moments: Moments) -> HistogramSummary:
    """The histogram of all elements of the layer, for TensorBoard.

    Args:
        moments: The state.

    Returns:
        Plain numbers; all 0 if nothing was observed, for TensorBoard knows no NaN there (trap 64).

    Example:
        >>> histogram_summary(observe(torch.tensor([[1.0, -3.0]]), unit_dim=1))[:5]
        (-3.0, 1.0, 2, -2.0, 10.0)
    """
    number = int(moments.histogram.sum())
    return HistogramSummary(
        min=moments.minimum.item() if number else 0.0,
        max=moments.maximum.item() if number else 0.0,
        num=number,
        sum=(moments.mean.sum() * moments.count).item(),
        sum_squares=(moments.m2.sum() + moments.mean.square().sum() * moments.count).item(),
        bucket_limits=list(HISTOGRAM_LIMITS),
        bucket_counts=moments.histogram.tolist(),
    )


def _widened(h: Tensor) -> Tensor:
    if h.is_complex() or h.is_quantized:
        raise TypeError(f"`h` must be real, got {h.dtype}; observe its parts or magnitude.")
    return h if h.dtype in _BITS else h.float() if h.is_floating_point() else h.double()


def _reduced(block: Tensor, dim: int) -> Moments:
    raw = _exponent_counts(block)
    nonfinite = raw.view(2, -1)[:, -1].sum()
    if nonfinite:
        return observe(block, dim, keep=block.isfinite().flatten(1).all(1))._replace(nonfinite=nonfinite)
    minimum, maximum = block.aminmax()
    return Moments(*_unit_moments(block.double(), dim), _binned(raw), minimum.double(), maximum.double(), nonfinite)


def _unit_moments(block: Tensor, dim: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    others = [d for d in range(block.dim()) if d != dim]
    count = torch.full((), block.numel() // block.shape[dim], device=block.device)
    mean = block.mean(others, keepdim=True)
    m2 = (block - mean).square_().sum(others)
    signs = block.sign()
    balance, nonzeros = signs.sum(others).long(), signs.abs_().sum(others).long()
    return count, mean.flatten(), m2, count - nonzeros, (nonzeros + balance) // 2


def _exponent_counts(block: Tensor) -> Tensor:
    # The sign and exponent bits are the bin; torch.frexp and a float comparison per unit took three times as long.
    integers, mantissa_bits = _BITS[block.dtype]
    size = 1 << (torch.iinfo(integers).bits - mantissa_bits)
    bits = (block.view(integers) >> mantissa_bits).bitwise_and_(size - 1)
    return torch.bincount(bits.flatten(), minlength=size)


def _binned(raw: Tensor) -> Tensor:
    by_sign = raw.view(2, -1)
    bias = by_sign.shape[1] // 2 - 1
    lowest, highest = bias + _EXPONENTS[0], bias + _EXPONENTS[-1]
    sides = torch.cat([by_sign[:, lowest:highest], by_sign[:, highest:].sum(1, keepdim=True)], dim=1)
    return torch.cat([sides[1].flip(0), by_sign[:, :lowest].sum().view(1), sides[0]])
