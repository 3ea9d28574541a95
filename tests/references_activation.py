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
        "m2": [math.fsum((x - mean) ** 2 for x in unit) for unit, mean in zip(units, means, strict=True)],
        "zeros": [sum(x == 0 for x in unit) for unit in units],
        "positives": [sum(x > 0 for x in unit) for unit in units],
        "histogram": [sum(bin_of(x) == b for x in everything) for b in range(65)],
        "minimum": min(everything, default=math.inf),
        "maximum": max(everything, default=-math.inf),
        "nonfinite": sum(not math.isfinite(value) for x in samples for value in x.flatten().tolist()),
    }


def _elements(samples: list[Tensor], dim: int, unit: int) -> list[float]:
    return [value for x in samples for value in x.select(dim, unit).flatten().tolist()]


def bin_of(value: float) -> int:
    """0..31 negative from far to near, 32 around zero, 33..64 positive from near to far."""
    if abs(value) < 2.0**-16:
        return 32
    exponent = min(15, math.frexp(abs(value))[1] - 1)
    return 33 + exponent + 16 if value > 0 else 31 - exponent - 16


def statistics(h: Tensor, unit_dim: int) -> dict[str, float]:
    """Of a layer that is rectified and finite."""
    units = [_elements(list(h.double()), unit_dim % h.dim() - 1, u) for u in range(h.shape[unit_dim])]
    everything = [value for unit in units for value in unit]
    mean = math.fsum(everything) / len(everything)
    return {
        "mean": mean,
        "std": math.sqrt(math.fsum((x - mean) ** 2 for x in everything) / len(everything)),
        "rms": math.sqrt(math.fsum(x * x for x in everything) / len(everything)),
        "zero_share": sum(x == 0 for x in everything) / len(everything),
        "dead_share": sum(all(x <= 0 for x in unit) for unit in units) / len(units),
    }
