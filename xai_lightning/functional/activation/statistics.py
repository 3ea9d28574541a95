"""The statistics of one layer that are logged, from its state."""

import math
from collections.abc import Callable, Sequence
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.activation.histogram import median_magnitude
from xai_lightning.functional.activation.moments import Moments, empty, joined
from xai_lightning.functional.tables import choose

NEARLY_DEAD = 1e-3
MASSIVE, TIMES_THE_MEDIAN = 100.0, 1000.0
_CONSTANT = 1e-24
_SILENT = 1e-12


class Pool(NamedTuple):
    """The units of a layer at all its widths, concatenated, and all its elements pooled.

    Attributes:
        counts: float64[U], elements of each unit.
        units: The state per unit, float64[U] or int64[U] as in :class:`Moments`.
        mean: float64[], over all elements.
        m2: float64[], sum of squared deviations from the mean, over all elements.
        m3: float64[], sum of their third powers.
        m4: float64[], sum of their fourth powers.
        histogram: int64[65].
        sparsity: float64[3].
        saturated: int64[].
        samples: int64[].
        calls: int64[].
    """

    counts: Tensor
    units: Moments
    mean: Tensor
    m2: Tensor
    m3: Tensor
    m4: Tensor
    histogram: Tensor
    sparsity: Tensor
    saturated: Tensor
    samples: Tensor
    calls: Tensor


class Statistic(NamedTuple):
    """A row of :data:`STATISTICS`.

    Attributes:
        compute: Computes the statistic from a pool, float64[].
        needs: The field of :class:`Measured` that must be set; empty if none.
        of: The layers for which it is defined: any, those with units, those whose output is 0 wherever a unit is off,
            or those with limits.
        worst: Whether the worst layer is that with the largest value or the largest absolute value; None does not
            compare layers.
    """

    compute: Callable[[Pool], Tensor]
    needs: Literal["", "higher", "histogram", "sparsity", "limits"] = ""
    of: Literal["layer", "units", "rectified", "bounded"] = "layer"
    worst: Literal["largest", "absolute"] | None = "largest"


def _rms(p: Pool) -> Tensor:
    return (p.m2 / p.counts.sum() + p.mean.square()).sqrt()


def _share(part: Tensor, p: Pool) -> Tensor:
    return part.sum() / p.counts.sum()


def _varies(p: Pool) -> Tensor:
    least = _CONSTANT * p.counts.sum() * p.mean.square().clamp(min=1)
    return torch.where(p.m2 > least, p.m2, math.nan)


def _skew(p: Pool) -> Tensor:
    return p.counts.sum().sqrt() * p.m3 / _varies(p) ** 1.5


def _kurtosis(p: Pool) -> Tensor:
    return p.counts.sum() * p.m4 / _varies(p) ** 2


def _dead(p: Pool) -> Tensor:
    return (p.units.positives == 0).double().mean()


def _nearly_dead(p: Pool) -> Tensor:
    return (p.units.positives / p.counts < NEARLY_DEAD).double().mean()


def _dormant(p: Pool, limit: float) -> Tensor:
    size = p.units.magnitude / p.counts
    score = torch.where(size.mean() < _SILENT, 0.0, size / size.mean())
    return (score <= limit).double().mean()


def _outlier_kurtosis(p: Pool) -> Tensor:
    square = p.units.m2 / p.counts + p.units.mean.square()
    return square.square().mean() / square.mean().square()


def _massive(p: Pool) -> Tensor:
    largest = torch.maximum(p.units.maximum.amax(), -p.units.minimum.amin())
    median = median_magnitude(p.histogram)
    found = (largest > MASSIVE) & (largest >= TIMES_THE_MEDIAN * median)
    return torch.where(p.histogram.sum() > 0, found.double(), math.nan)


def _treves_rolls(p: Pool) -> Tensor:
    return torch.where(p.units.minimum.amin() >= 0, p.sparsity[2] / p.sparsity[0], math.nan)


#: Statistics by name, in the order in which they are logged; :func:`statistics` defines them.
STATISTICS = {
    "mean": Statistic(lambda p: p.mean, worst="absolute"),
    "std": Statistic(lambda p: (p.m2 / p.counts.sum()).sqrt()),
    "rms": Statistic(_rms),
    "mean_abs": Statistic(lambda p: _share(p.units.magnitude, p)),
    "minimum": Statistic(lambda p: p.units.minimum.amin(), worst="absolute"),
    "maximum": Statistic(lambda p: p.units.maximum.amax(), worst="absolute"),
    "zero_share": Statistic(lambda p: _share(p.units.zeros, p)),
    "positive_share": Statistic(lambda p: _share(p.units.positives, p), worst=None),
    "dead_share": Statistic(_dead, of="rectified"),
    "nearly_dead_share": Statistic(_nearly_dead, of="rectified"),
    "dead_among": Statistic(lambda p: p.samples.double(), of="rectified", worst=None),
    "dormant_0": Statistic(lambda p: _dormant(p, 0.0), of="units"),
    "dormant_0.025": Statistic(lambda p: _dormant(p, 0.025), of="units"),
    "dormant_0.1": Statistic(lambda p: _dormant(p, 0.1), of="units"),
    "outlier_kurtosis": Statistic(_outlier_kurtosis, of="units"),
    "skew": Statistic(_skew, "higher", worst="absolute"),
    "kurtosis": Statistic(_kurtosis, "higher"),
    "saturated_share": Statistic(lambda p: _share(p.saturated, p), "limits", of="bounded"),
    "hoyer": Statistic(lambda p: p.sparsity[1] / p.sparsity[0], "sparsity", of="units"),
    "treves_rolls": Statistic(_treves_rolls, "sparsity", of="units"),
    "massive": Statistic(_massive, "histogram"),
}


def is_defined(name: str, *, rectified: bool = False, bounded: bool = False, units: bool = True) -> bool:
    """Whether a statistic is defined for a kind of layer, whatever the layer's outputs.

    Args:
        name: One of ``STATISTICS``.
        rectified: Whether the layer's output is 0 wherever a unit is off (ReLU); other layers have no dead units.
        bounded: Whether the layer has limits at which it saturates.
        units: Whether the layer has units.

    Raises:
        ValueError: If the name is unknown.

    Example:
        >>> is_defined("dead_share", rectified=True), is_defined("dead_share", rectified=False)
        (True, False)
    """
    kinds = {"layer": True, "units": units, "rectified": rectified and units, "bounded": bounded}
    return kinds[STATISTICS[choose("statistic", name, list(STATISTICS))].of]


def statistics(
    states: Moments | Sequence[Moments],
    names: Sequence[str] = tuple(STATISTICS),
    *,
    rectified: bool = False,
    bounded: bool = False,
    units: bool = True,
) -> dict[str, float]:
    r"""Statistics of one layer; if it was called at several widths, over all its elements and units together.

    Over all elements: ``mean``, ``std``, ``rms``, ``mean_abs``, ``minimum``, ``maximum``; ``skew``
    :math:`\sqrt n M_3 / M_2^{3/2}` and ``kurtosis`` :math:`n M_4 / M_2^2` (3 for a normal distribution), NaN if all are
    equal; ``zero_share`` and ``positive_share`` are the fractions of elements equal to and above 0,
    ``saturated_share`` that of elements at or beyond the limits; ``massive`` is 1 if the largest absolute value is
    above 100 and at least 1000 times the median (known to a factor of two, rounded up).

    Over units: ``dead_share`` is the fraction of units never above 0, ``nearly_dead_share`` that of units above 0 in
    less than a thousandth of their elements. They describe only the ``dead_among`` samples seen: a unit that never
    fired in n samples may still fire in up to about 3/n of all. ``dormant_<t>`` is the fraction of units whose mean
    absolute value is at most t times the layer's mean; in a silent layer, all are. ``outlier_kurtosis`` is
    :math:`\overline{s^4} / \overline{s^2}^2` of the units' root mean squares: 1 if all are equal, U if all but one are
    0.

    Over the non-zero vectors of all units at one position: ``hoyer`` sparsity
    :math:`(\sqrt U - |x|_1 / |x|_2) / (\sqrt U - 1)` and, for layers that are never negative, ``treves_rolls`` sparsity
    :math:`(1 - |x|_1^2 / (U |x|_2^2)) / (1 - 1/U)`: 0 if all units are equal, 1 if all but one are 0.

    None of this shows that a unit is useful, or that a dead one is harmful.

    Args:
        states: The state, or the states at each width.
        names: Names in ``STATISTICS``.
        rectified: Whether the layer's output is 0 wherever a unit is off (ReLU); other layers have no dead units.
        bounded: Whether saturation was observed.
        units: Whether the layer has units; otherwise statistics over units are NaN.

    Returns:
        The statistics in the order of ``names``; NaN for those not observed or not defined.

    Raises:
        ValueError: If a name is unknown.

    Example:
        >>> from xai_lightning.functional.activation import observe
        >>> statistics(observe(torch.tensor([[0.0, 2.0], [0.0, 4.0]]), unit_dim=1), rectified=True)["dead_share"]
        0.5

    References:
        G. Sokar et al., The dormant neuron phenomenon in deep reinforcement learning, ICML 2023. P. O. Hoyer,
        Non-negative matrix factorization with sparseness constraints, JMLR 5, 2004. W. E. Vinje and J. L. Gallant,
        Sparse coding and decorrelation in primary visual cortex during natural vision, Science 287, 2000. B. He et al.,
        Understanding and minimising outlier features in transformer training, NeurIPS 2024. M. Sun et al., Massive
        activations in large language models, COLM 2024.
    """
    rows = {name: STATISTICS[choose("statistic", name, list(STATISTICS))] for name in names}
    pool = _pooled([states] if isinstance(states, Moments) else states)
    kind = {"rectified": rectified, "bounded": bounded, "units": units}
    unknown = pool.mean.new_tensor(math.nan)
    found = [row.compute(pool) if is_defined(name, **kind) else unknown for name, row in rows.items()]
    observed = torch.stack([number.double() for number in found]).where(pool.counts.sum() > 0, math.nan)
    return dict(zip(rows, observed.tolist(), strict=True))


def _pooled(states: Sequence[Moments]) -> Pool:
    parts = [part for part in states if len(part.mean)] or [empty(1)]
    counts = torch.cat([part.count.double().expand(len(part.mean)) for part in parts])
    units = Moments(*(torch.cat(fields) if fields[0].dim() else fields[0] for fields in zip(*parts, strict=True)))
    names = ("histogram", "sparsity", "saturated", "samples", "calls")
    sums = {name: torch.stack([getattr(part, name) for part in parts]).sum(0) for name in names}
    return Pool(counts, units, *joined(counts, units), **sums)
