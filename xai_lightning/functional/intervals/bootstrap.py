"""The bootstrap of counts, which resamples the counted rows without access to them."""

import math

import torch
from torch import Tensor

from xai_lightning.functional.intervals.mover import Interval


def replicates(counts: Tensor, number: int, seed: int) -> Tensor:
    r"""Counts of ``number`` resamples of the counted rows, drawn with replacement.

    Each drawn row falls into cell c with the probability n_c / n, independently of the others, so the counts of a
    resample are multinomial. They are drawn directly, at a cost that does not depend on the number of rows.

    Args:
        counts: int64[...], rows per cell; all dimensions together are the cells of one table.
        number: Number of replicates R, at least 1.
        seed: Seed of the draws; equal counts and seeds give equal replicates.

    Returns:
        int64[R, ...], each replicate with the sum of ``counts``.

    Raises:
        ValueError: If ``number`` is below 1, or a count negative.
        TypeError: If counts are not integers.

    Example:
        >>> import torch
        >>> replicates(torch.tensor([[3, 5], [0, 2]]), 4, seed=0).sum(dim=(1, 2)).tolist()
        [10, 10, 10, 10]

    References:
        B. Efron, R. J. Tibshirani, An introduction to the bootstrap, 1993, section 6.
    """
    if number < 1:
        raise ValueError(f"number must be a number of replicates of at least 1, got {number!r}")
    if counts.is_floating_point():
        raise TypeError(
            f"counts must be integers, got dtype {counts.dtype}: weighted rows cannot be resampled from sums"
        )
    flat = counts.detach().cpu().reshape(-1)
    if bool((flat < 0).any()):
        raise ValueError(f"counts must not be negative, got {int(flat.min())}")
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.zeros(flat.numel(), number, dtype=torch.float64, device="cpu")
    left, rows = torch.full((number,), float(flat.sum()), dtype=torch.float64, device="cpu"), int(flat.sum())
    for cell in flat.nonzero()[:, 0].tolist():
        # Given the cells before it, the count of a cell is binomial in the remaining rows.
        share = torch.full_like(left, min(1.0, int(flat[cell]) / rows))
        drawn[cell] = torch.binomial(left, share, generator=generator)
        left, rows = left - drawn[cell], rows - int(flat[cell])
    return drawn.T.long().reshape(number, *counts.shape).to(counts.device)


def percentile(values: Tensor, error: float) -> Interval:
    """Percentile limits of a quantity from its bootstrap replicates.

    A replicate in which the quantity is undefined counts as beyond both limits: unknown is not good.

    Args:
        values: float64[R, ...], one value per replicate.
        error: One-sided error probability of each limit, in [0, 0.5).

    Returns:
        Limits, float64[...]: the order statistics of rank ``floor(error (R + 1))`` from below and from above; infinite
        if that rank is 0, since so few replicates cannot resolve so small an error.

    Raises:
        ValueError: If ``error`` is outside [0, 0.5).

    Example:
        >>> import torch
        >>> [float(x) for x in percentile(torch.arange(1.0, 100.0), error=0.05)]
        [5.0, 95.0]

    References:
        B. Efron, R. J. Tibshirani, An introduction to the bootstrap, 1993, section 13.
    """
    if not 0 <= error < 0.5:
        raise ValueError(f"error must be a one-sided error probability in [0, 0.5), got {error!r}")
    rank = int(error * (len(values) + 1) + 1e-9)
    if rank < 1:
        nothing = torch.zeros_like(values[0])
        return Interval(nothing - math.inf, nothing + math.inf)
    lower = values.nan_to_num(nan=-math.inf, posinf=math.inf, neginf=-math.inf).kthvalue(rank, dim=0).values
    upper = values.nan_to_num(nan=math.inf, posinf=math.inf, neginf=-math.inf)
    return Interval(lower, upper.kthvalue(len(values) + 1 - rank, dim=0).values)
