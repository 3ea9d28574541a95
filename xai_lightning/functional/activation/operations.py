"""Adds blocks with torch operations: on any device, for any dtype, one operation after the other."""

import math

import torch
from torch import Tensor

from xai_lightning.functional.activation.blocks import Workspace, along
from xai_lightning.functional.activation.histogram import binned
from xai_lightning.functional.activation.table import (
    ADDED,
    FAR,
    FLOAT32,
    HOYER,
    MAGNITUDE,
    MAXIMUM,
    MINIMUM,
    NOT_FINITE,
    POSITIVES,
    SATURATED,
    VECTORS,
    ZEROS,
    Measured,
    Table,
    slack,
)


def add_block(block: Tensor, table: Table, measured: Measured, workspace: Workspace, *, anyway: bool = False) -> int:
    """Add a block, or leave the sums unchanged.

    Args:
        block: float32[A, U, R] or float64[A, U, R].
        table: The sums to add to.
        measured: The optional statistics to observe.
        workspace: Scratch memory.
        anyway: Add the block even if it is far from the shift.

    Returns:
        The outcome: ``ADDED``, ``NOT_FINITE``, or ``FAR``, which sets ``table.found``.
    """
    minimum, maximum = along(block, "amin"), along(block, "amax")
    low, high = float(minimum.amin()), float(maximum.amax())
    if not (math.isfinite(low) and math.isfinite(high)):
        return NOT_FINITE
    # fourth powers of values outside would leave the range of float32
    fits = FLOAT32[0] < max(-low, high) < FLOAT32[1] or high == low == 0
    work = block if fits else workspace.widened(block, torch.float64)
    count = block.numel() // table.units
    powers = _powers(work, table, measured, workspace)
    if not anyway and float(slack(powers[0], powers[1], count, measured.most).amin()) < 0:
        table.found = torch.stack(powers[:2])
        return FAR
    units = table.sums[:-1]
    for column, power in zip(units.unbind(1), powers, strict=False):
        column.add_(power)
    table.count += count
    units[:, MINIMUM] = torch.minimum(units[:, MINIMUM], minimum)
    units[:, MAXIMUM] = torch.maximum(units[:, MAXIMUM], maximum)
    _add_counts(work, low, table, measured, workspace)
    if measured.histogram:
        table.histogram.add_(binned(block, workspace.like(block, "scratch")))
    if measured.limits:
        table.sums[-1, SATURATED] += ((block <= measured.limits[0]) | (block >= measured.limits[1])).sum()
    return ADDED


def _powers(x: Tensor, table: Table, measured: Measured, workspace: Workspace) -> list[Tensor]:
    """Sums of powers around the shift, float64[U] each."""
    if table.shifted:
        # exact in the dtype of x wherever x is near the shift (Sterbenz)
        x = torch.sub(x, table.shift.to(x.dtype)[:, None], out=workspace.like(x, "shifted"))
    powers = torch.mul(x, x, out=workspace.like(x, "powers"))
    sums = [along(x, "sum"), along(powers, "sum")]
    if measured.higher:
        sums.append(along(torch.mul(powers, x, out=workspace.like(x, "scratch")), "sum"))
        sums.append(along(powers.mul_(powers), "sum"))
    return sums


def _add_counts(x: Tensor, low: float, table: Table, measured: Measured, workspace: Workspace) -> None:
    """Add counts and sparsity; comparisons are stored as floats, which sum several times faster than bools."""
    scratch, count, units = workspace.like(x, "scratch"), x.numel() // table.units, table.sums[:-1]
    zeros = along(torch.eq(x, 0, out=scratch), "sum")
    units[:, ZEROS] += zeros
    units[:, POSITIVES] += count - zeros if low >= 0 else along(torch.gt(x, 0, out=scratch), "sum")
    size = x if low >= 0 else torch.abs(x, out=scratch)
    units[:, MAGNITUDE] += along(size, "sum")
    if measured.sparsity and table.units > 1:
        table.sums[-1, VECTORS : HOYER + 2] += _sparsity(x, size, workspace)


def _sparsity(x: Tensor, size: Tensor, workspace: Workspace) -> Tensor:
    """Number of non-zero vectors, and the sums of their sparsities."""
    units = x.shape[1]
    square = torch.mul(x, x, out=workspace.like(x, "powers")).sum(1).double()
    ratio = size.sum(1).double().square() / square
    hoyer = (math.sqrt(units) - ratio.sqrt()) / (math.sqrt(units) - 1)
    treves = (1 - ratio / units) / (1 - 1 / units)
    return torch.stack([(square > 0).sum().double(), hoyer.nansum(), treves.nansum()])
