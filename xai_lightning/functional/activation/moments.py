"""The state of one observed layer, and how states merge."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import BINS


class Moments(NamedTuple):
    """The observed statistics of one layer.

    Moments that were not requested are NaN, counts that were not requested are 0.

    Attributes:
        count: int64[], elements observed per unit.
        mean: float64[U], 0 if nothing was observed.
        m2: float64[U], sum of squared deviations from the mean.
        m3: float64[U], sum of their third powers.
        m4: float64[U], sum of their fourth powers.
        magnitude: float64[U], sum of absolute values.
        zeros: int64[U], elements equal to 0.
        positives: int64[U], elements above 0.
        minimum: float64[U], ``inf`` if nothing was observed.
        maximum: float64[U], ``-inf`` if nothing was observed.
        histogram: int64[65], elements of all units in the bins of ``HISTOGRAM_LIMITS``.
        saturated: int64[], elements at or beyond the given limits.
        sparsity: float64[3], number of non-zero vectors over all units, and the sums of their sparsities by Hoyer and
            by Treves and Rolls.
        samples: int64[], samples of which anything was observed; each call counts its samples anew.
        calls: int64[], observations that were merged.
        nonfinite: int64[], non-finite values; their samples are left out of all other fields.
    """

    count: Tensor  # type: ignore[assignment]  # tuple.count, which nobody calls on a state
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor
    magnitude: Tensor
    zeros: Tensor
    positives: Tensor
    minimum: Tensor
    maximum: Tensor
    histogram: Tensor
    saturated: Tensor
    sparsity: Tensor
    samples: Tensor
    calls: Tensor
    nonfinite: Tensor


_ADDED = ("magnitude", "zeros", "positives", "histogram", "saturated", "sparsity", "samples", "calls", "nonfinite")


def union(states: Sequence[Moments]) -> Moments:
    r"""State of the union of several sets of data.

    .. math:: \mu = \sum_i n_i \mu_i / n,\quad \delta_i = \mu_i - \mu,\quad M_2 = \sum_i M_{2i} + n_i \delta_i^2

    .. math:: M_3 = \sum_i M_{3i} + 3 \delta_i M_{2i} + n_i \delta_i^3,\quad
       M_4 = \sum_i M_{4i} + 4 \delta_i M_{3i} + 6 \delta_i^2 M_{2i} + n_i \delta_i^4

    Args:
        states: At least one, all of the same layer and on the same device.

    Returns:
        The merged state; up to rounding, the order does not matter.

    Raises:
        ValueError: If there are no states, or their numbers of units differ.

    Example:
        >>> from xai_lightning.functional.activation import observe
        >>> parts = [observe(torch.tensor([[float(i)]]), unit_dim=1) for i in range(3)]
        >>> union(parts).m2
        tensor([2.], dtype=torch.float64)

    References:
        T. F. Chan, G. H. Golub and R. J. LeVeque, Updating formulae and a pairwise algorithm for computing sample
        variances, Stanford technical report STAN-CS-79-773, 1979. P. Pebay, Formulas for robust, one-pass parallel
        computation of covariances and arbitrary-order statistical moments, Sandia report SAND2008-6212, 2008.
    """
    units = [len(state.mean) for state in states]
    if len(set(units)) != 1:
        raise ValueError(
            f"Only states with equal numbers of units merge, got {' and '.join(map(str, units)) or 'no'} units."
        )
    if len(states) == 1:
        return states[0]
    stacked = Moments(*(torch.stack(fields) for fields in zip(*states, strict=True)))
    mean, m2, m3, m4 = joined(stacked.count[:, None].double(), stacked)
    return Moments(
        count=stacked.count.sum(0),
        mean=mean,
        m2=m2,
        m3=m3,
        m4=m4,
        minimum=stacked.minimum.amin(0),
        maximum=stacked.maximum.amax(0),
        **{name: getattr(stacked, name).sum(0) for name in _ADDED},
    )


def joined(counts: Tensor, parts: Moments) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Mean and central moments of several parts together, merged over the first dimension.

    Args:
        counts: float64[R, 1] or float64[R, ...], elements of each part.
        parts: Mean and moments of each part, float64[R, ...].

    Returns:
        Mean, M2, M3 and M4, float64[...].
    """
    mean = (counts / counts.sum(0).clamp(min=1) * parts.mean).sum(0)
    delta = parts.mean - mean
    square = delta * delta
    m2 = (parts.m2 + counts * square).sum(0)
    m3 = (parts.m3 + delta * (3 * parts.m2 + counts * square)).sum(0)
    m4 = (parts.m4 + 4 * delta * parts.m3 + square * (6 * parts.m2 + counts * square)).sum(0)
    return mean, m2, m3, m4


def merge(a: Moments, b: Moments) -> Moments:
    """State of the union of two sets of data: :func:`union`.

    Args:
        a: One state.
        b: Another state of the same layer, on the same device.

    Returns:
        The merged state; the order of the two does not matter.

    Raises:
        ValueError: If the numbers of units differ.

    Example:
        >>> from xai_lightning.functional.activation import observe
        >>> part = observe(torch.tensor([[1.0], [2.0]]), unit_dim=1)
        >>> merge(part, part).count
        tensor(4)
    """
    return union([a, b])


def empty(units: int, device: torch.device | str = "cpu") -> Moments:
    """State of a layer that was not observed; merging it changes nothing.

    Args:
        units: Number of units.
        device: Device of the state.

    Returns:
        The empty state.

    Example:
        >>> empty(3).count
        tensor(0)
    """
    nothing = torch.zeros(units, dtype=torch.float64, device=device)
    count = torch.zeros((), dtype=torch.int64, device=device)
    infinity = torch.full_like(nothing, math.inf)
    return Moments(
        count,
        *(nothing,) * 5,
        *(nothing.long(),) * 2,
        infinity,
        -infinity,
        histogram=torch.zeros(BINS, dtype=torch.int64, device=device),
        saturated=count,
        sparsity=torch.zeros(3, dtype=torch.float64, device=device),
        samples=count,
        calls=count,
        nonfinite=count,
    )


def pack(moments: Moments) -> Tensor:
    """Pack a state into one vector, whose length depends on the number of units only, for ``all_gather``.

    Args:
        moments: The state.

    Returns:
        float64[73 + 9 U]; counts below 2^53 are exact.

    Example:
        >>> pack(empty(3)).shape
        torch.Size([100])
    """
    return torch.cat([field.double().flatten() for field in moments])


def unpack(vector: Tensor, units: int) -> Moments:
    """Unpack a state from :func:`pack`.

    Args:
        vector: float64[73 + 9 U].
        units: Number of units U.

    Returns:
        The state, on the device of ``vector``.

    Raises:
        ValueError: If the vector has another length.

    Example:
        >>> from xai_lightning.functional.activation import observe
        >>> unpack(pack(observe(torch.tensor([[1.0, -1.0]]), unit_dim=1)), units=2).positives
        tensor([1, 0])
    """
    like = empty(units)
    sizes = [field.numel() for field in like]
    if vector.shape != (sum(sizes),):
        raise ValueError(f"A state of {units} units has shape ({sum(sizes)},), got {tuple(vector.shape)}.")
    fields = zip(torch.split(vector, sizes), like, strict=True)
    return Moments(*(packed.view_as(field).to(field.dtype, copy=True) for packed, field in fields))
