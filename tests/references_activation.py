"""Slow twins of `xai_lightning.functional.activation`: loops over Python floats, written from the definitions."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def observe(h: Tensor, unit_dim: int, keep: Sequence[bool] | None = None) -> dict[str, Any]:
    samples = [x for i, x in enumerate(h.double()) if keep is None or keep[i]]
    finite = [x for x in samples if bool(torch.isfinite(x).all())]
    units = [_elements(finite, unit_dim % h.dim() - 1, u) for u in range(h.shape[unit_dim])]
    everything = [value for unit in units for value in unit]
    means = [math.fsum(unit) / len(unit) if unit else 0.0 for unit in units]
    return {
        "count": len(units[0]) if units else 0,
        "mean": means,
        **{f"m{k}": [_moment(unit, mean, k) for unit, mean in zip(units, means, strict=True)] for k in (2, 3, 4)},
        "magnitude": [math.fsum(map(abs, unit)) for unit in units],
        "zeros": [sum(x == 0 for x in unit) for unit in units],
        "positives": [sum(x > 0 for x in unit) for unit in units],
        "histogram": [sum(bin_of(x) == b for x in everything) for b in range(65)],
        "minimum": [min(unit, default=math.inf) for unit in units],
        "maximum": [max(unit, default=-math.inf) for unit in units],
        "samples": len(finite),
        "nonfinite": sum(not math.isfinite(value) for x in samples for value in x.flatten().tolist()),
    }


def _moment(unit: list[float], mean: float, power: int) -> float:
    return math.fsum((x - mean) ** power for x in unit)


def _elements(samples: list[Tensor], dim: int, unit: int) -> list[float]:
    return [value for x in samples for value in x.select(dim, unit).flatten().tolist()]


def bin_of(value: float) -> int:
    """0..31 negative from far to near, 32 around zero, 33..64 positive from near to far."""
    if abs(value) < 2.0**-16:
        return 32
    exponent = min(15, math.frexp(abs(value))[1] - 1)
    return 33 + exponent + 16 if value > 0 else 31 - exponent - 16


def statistics(h: Tensor, unit_dim: int) -> dict[str, float]:
    """Of a layer that is rectified and finite, with at least two units, limits 0 and 3."""
    dim = unit_dim % h.dim()
    units = [_elements(list(h.double()), dim - 1, u) for u in range(h.shape[dim])]
    everything = [value for unit in units for value in unit]
    n, mean = len(everything), math.fsum(everything) / len(everything)
    m2, m3, m4 = (_moment(everything, mean, k) for k in (2, 3, 4))
    size = [math.fsum(map(abs, unit)) / len(unit) for unit in units]
    typical = math.fsum(size) / len(size)
    square = [math.fsum(x * x for x in unit) / len(unit) for unit in units]
    varies = m2 > 1e-24 * n * max(1, mean**2)
    vectors = [v for v in h.double().movedim(dim, -1).reshape(-1, h.shape[dim]).tolist() if any(v)]
    return {
        "mean": mean,
        "std": math.sqrt(m2 / n),
        "rms": math.sqrt(math.fsum(x * x for x in everything) / n),
        "mean_abs": math.fsum(map(abs, everything)) / n,
        "minimum": min(everything),
        "maximum": max(everything),
        "zero_share": sum(x == 0 for x in everything) / n,
        "positive_share": sum(x > 0 for x in everything) / n,
        "dead_share": sum(all(x <= 0 for x in unit) for unit in units) / len(units),
        "nearly_dead_share": sum(sum(x > 0 for x in unit) / len(unit) < 1e-3 for unit in units) / len(units),
        "dead_among": len(h),
        **{f"dormant_{t:g}": dormant(size, typical, t) for t in (0, 0.025, 0.1)},
        "outlier_kurtosis": divided(sum(s * s for s in square) / len(square), (sum(square) / len(square)) ** 2),
        "skew": math.sqrt(n) * m3 / m2**1.5 if varies else math.nan,
        "kurtosis": n * m4 / m2**2 if varies else math.nan,
        "saturated_share": sum(x <= 0 or x >= 3 for x in everything) / n,
        "hoyer": divided(sum(map(hoyer, vectors)), len(vectors)),
        "treves_rolls": divided(sum(map(treves_rolls, vectors)), len(vectors)),
    }


def divided(a: float, b: float) -> float:
    return a / b if b else math.nan


def dormant(size: list[float], typical: float, limit: float) -> float:
    """Share of units that are dormant; all of a silent layer."""
    return 1.0 if typical < 1e-12 else sum(s / typical <= limit for s in size) / len(size)


def hoyer(v: list[float]) -> float:
    d, one, two = len(v), math.fsum(map(abs, v)), math.sqrt(math.fsum(x * x for x in v))
    return (math.sqrt(d) - one / two) / (math.sqrt(d) - 1)


def treves_rolls(v: list[float]) -> float:
    """Sparseness of responses that are not negative, from their mean and their mean square."""
    n = len(v)
    a = (math.fsum(v) / n) ** 2 / (math.fsum(x * x for x in v) / n)
    return (1 - a) / (1 - 1 / n)
