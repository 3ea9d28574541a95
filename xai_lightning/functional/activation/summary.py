"""A histogram in the form that TensorBoard takes."""

from collections.abc import Sequence
from typing import NamedTuple

from xai_lightning.functional.activation.histogram import BINS, HISTOGRAM_LIMITS
from xai_lightning.functional.activation.moments import Moments


class HistogramSummary(NamedTuple):
    """A histogram as TensorBoard's ``add_histogram_raw`` takes it: ``add_histogram_raw(name, **summary._asdict())``.

    Attributes:
        min: Smallest value.
        max: Largest value.
        num: Number of values; 0 for an empty histogram, which sinks skip.
        sum: Sum of the values.
        sum_squares: Sum of their squares.
        bucket_limits: Upper limit of each bin, ascending.
        bucket_counts: Number of values in each bin.
    """

    min: float
    max: float
    num: int
    sum: float
    sum_squares: float
    bucket_limits: list[float]
    bucket_counts: list[int]


def histogram_summary(states: Moments | Sequence[Moments]) -> HistogramSummary:
    """The histogram of all elements of the layer, for TensorBoard.

    Args:
        states: The state, or the states at each width at which the layer was called.

    Returns:
        Plain numbers; all 0 if no histogram was observed, since TensorBoard accepts no NaN there (trap 64).

    Example:
        >>> import torch
        >>> from xai_lightning.functional.activation import observe
        >>> histogram_summary(observe(torch.tensor([[1.0, -3.0]]), unit_dim=1))[:5]
        (-3.0, 1.0, 2, -2.0, 10.0)
    """
    parts = [states] if isinstance(states, Moments) else states
    seen = [part for part in parts if int(part.histogram.sum())]
    return HistogramSummary(
        min=min((part.minimum.min().item() for part in seen), default=0.0),
        max=max((part.maximum.max().item() for part in seen), default=0.0),
        num=sum(int(part.histogram.sum()) for part in seen),
        sum=sum((part.mean.sum() * part.count).item() for part in seen),
        sum_squares=sum((part.m2.sum() + part.mean.square().sum() * part.count).item() for part in seen),
        bucket_limits=list(HISTOGRAM_LIMITS),
        bucket_counts=[sum(counts) for counts in zip(*(p.histogram.tolist() for p in seen), strict=True)] or [0] * BINS,
    )
