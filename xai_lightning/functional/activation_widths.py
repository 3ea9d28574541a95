"""Statistics of one module that is called at several widths, as the one ReLU of a residual block is."""

import math
from collections.abc import Sequence

from xai_lightning.functional.activation import HistogramSummary, Moments, empty, histogram_summary, statistics


def combined(parts: Sequence[Moments], *, rectified: bool) -> dict[str, float]:
    """:func:`statistics` of one module that was called at several widths, over all its elements and units together.

    Means and shares are weighted by elements, the share of dead units by units. NaN means that nothing was observed.

    Args:
        parts: Moments of each width.
        rectified: Whether the output is 0 wherever the input is not positive.

    Returns:
        The statistics by name, as :func:`statistics` names them.

    Example:
        >>> import torch
        >>> from xai_lightning.functional.activation import observe
        >>> parts = [observe(torch.ones(2, 3), 1), observe(torch.zeros(2, 1), 1)]
        >>> combined(parts, rectified=True)["dead_share"]
        0.25
    """
    if len(parts) < 2:
        return statistics(parts[0] if parts else empty(1), rectified=rectified)
    each = [statistics(part, rectified=rectified) for part in parts]
    elements = [int(part.count) * len(part.mean) for part in parts]
    units = [len(part.mean) for part in parts]
    found = {name: _weighted([one[name] for one in each], elements) for name in ("mean", "zero_share")}
    square = _weighted([one["rms"] ** 2 for one in each], elements)
    found |= {"rms": math.sqrt(square), "std": math.sqrt(max(0.0, square - found["mean"] ** 2))}
    return found | {"dead_share": _weighted([one["dead_share"] for one in each], units)}


def _weighted(values: Sequence[float], weights: Sequence[int]) -> float:
    return sum(value * weight for value, weight in zip(values, weights, strict=True)) / max(1, sum(weights))


def combined_histogram(parts: Sequence[Moments]) -> HistogramSummary:
    """:func:`histogram_summary` of one module that was called at several widths.

    Args:
        parts: Moments of each width, at least one.

    Returns:
        The sum of their histograms.
    """
    each = [histogram_summary(part) for part in parts]
    return HistogramSummary(
        min=min(one.min for one in each),
        max=max(one.max for one in each),
        num=sum(one.num for one in each),
        sum=sum(one.sum for one in each),
        sum_squares=sum(one.sum_squares for one in each),
        bucket_limits=each[0].bucket_limits,
        bucket_counts=[sum(counts) for counts in zip(*(one.bucket_counts for one in each), strict=True)],
    )
