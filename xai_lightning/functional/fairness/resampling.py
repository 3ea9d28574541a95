"""Metrics of bootstrap replicates of the evidence."""

from functools import cache
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.fairness.counts import Confusion, confusion
from xai_lightning.functional.fairness.metric import Metric
from xai_lightning.functional.fairness.quantities import Needs
from xai_lightning.functional.fairness.regression import distribution, residual_sums
from xai_lightning.functional.fairness.scores import score_counts, scored
from xai_lightning.functional.intervals import replicates

_NUMBERS_AT_ONCE = 1 << 24
"""Number of replicated counts held in memory at once: 128 MB."""


def resamples(metric: Metric, evidence: Any, number: int, seed: int) -> Tensor:
    """The metric of bootstrap replicates of its evidence.

    Args:
        metric: A row of the table of metrics, or your own.
        evidence: Counts, scores or residuals.
        number: Number of replicates R.
        seed: Seed of the draws.

    Returns:
        float64[R, ...]; NaN where the metric is undefined in a replicate.

    Raises:
        TypeError: If samples are weighted: sums of weights cannot be resampled.
        ValueError: If there are more than 64 classes, so that pairs of classes were not counted.
    """
    cells = _cells(evidence)
    block = max(1, _NUMBERS_AT_ONCE // max(1, cells.numel()))
    found = []
    for start in range(0, number, block):
        # with the same seed every block would draw the same replicates
        drawn = replicates(cells, min(block, number - start), seed + start)
        found.append(metric.how.value(metric.measure(_of(evidence, drawn))))
    return torch.cat(found)


def _cells(evidence: Any) -> Tensor:
    """The table that is resampled: numbers of rows, each row in one cell."""
    if not isinstance(evidence, Confusion):
        numbers: Tensor = evidence.numbers
        return numbers
    cells = evidence.cells
    if cells is None:
        return torch.stack(evidence[:4], dim=-1)
    if cells.shape[-1] != cells.shape[-2]:
        raise ValueError(f"rows can be resampled up to 64 classes, got counts of shape {list(cells.shape)}")
    return cells


def _of(evidence: Any, drawn: Tensor) -> Any:
    """The evidence built from the resampled rows."""
    if not isinstance(evidence, Confusion):
        return evidence._replace(numbers=drawn)
    if evidence.cells is not None:
        return confusion(drawn, evidence.positive)
    tp, fp, fn, tn = drawn.unbind(dim=-1)
    return Confusion(tp, fp, fn, tn, tp + tn, tp + fp + fn + tn, positive=evidence.positive)


@cache
def example(kind: Needs) -> Any:
    """A small example of one kind of evidence, to find out whether a metric has limits in closed form."""
    if kind == "counts":
        return confusion(torch.tensor([[[3, 2], [1, 4]], [[2, 3], [2, 3]]], device="cpu"), positive=1)
    values = torch.linspace(0.1, 0.9, 8, device="cpu")
    targets, groups = torch.tensor([[0, 1] * 4, [0] * 4 + [1] * 4], device="cpu")
    if kind == "scores":
        return scored(score_counts(values, targets, groups, n_groups=2))
    sums = residual_sums(values, targets, groups, n_groups=2)
    if kind == "residuals":
        return sums
    return distribution(sums, "predictions" if kind == "predictions" else "residuals")
