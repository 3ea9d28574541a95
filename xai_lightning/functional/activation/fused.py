"""Adds blocks in one pass if numba is installed: see :mod:`xai_lightning.functional.activation.kernels`."""

import math
from functools import cache
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.activation import operations
from xai_lightning.functional.activation.blocks import Workspace
from xai_lightning.functional.activation.table import ADDED, EVERYTHING, FAR, FLOAT32, MINIMUM, S2, Measured, Table
from xai_lightning.functional.compiled import usable
from xai_lightning.functional.rng import GOLDEN, random_words

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None if numba is missing or disabled, or, with a warning, if it fails.

    The first call compiles them, which takes about four seconds, or loads what an earlier process compiled.
    """
    return usable(_kernels, _check, "statistics of activations take")


@cache
def row_kernels() -> ModuleType | None:
    """The compiled loops over rows; None as for :func:`kernels`."""
    return usable(_row_kernels, _check_rows, "a share of the samples takes")


def _kernels() -> ModuleType:
    from xai_lightning.functional.activation import kernels as loops

    return loops


def _row_kernels() -> ModuleType:
    from xai_lightning.functional.activation import row_kernels as loops

    return loops


def _check(loops: Any) -> None:
    """Raise unless the loops sum a small block, which float32 sums exactly, as torch operations do."""
    block = (torch.arange(120, device="cpu").float() % 9 - 4).view(4, 3, 10)
    measured, tables = EVERYTHING._replace(limits=(-4.0, 3.0)), [Table(3, torch.device("cpu")) for _ in range(2)]
    _add_block(loops, block, tables[0], measured, Workspace(), anyway=True)
    operations.add_block(block, tables[1], measured, Workspace(), anyway=True)
    one, other = tables
    close = torch.allclose(one.sums[-1, :MINIMUM], other.sums[-1, :MINIMUM], rtol=1e-4)
    same = torch.equal(one.sums[:-1], other.sums[:-1]) and torch.equal(one.histogram, other.histogram)
    if not (close and same):
        raise RuntimeError(f"the compiled loops compute other sums of a block than torch does: {one.sums.tolist()}")


def _check_rows(loops: Any) -> None:
    """Raise unless the loops draw and copy a few rows as torch operations do."""
    flat = (torch.arange(120, device="cpu").float() % 9 - 4).view(4, 30)
    starts, weights = torch.tensor([0, 12], device="cpu"), random_words([1], 2 * loops.RUN)[0].cpu()
    drawn, room = torch.zeros(len(flat), dtype=torch.int64, device="cpu"), torch.zeros_like(flat)
    at, n, width, arrays = flat.data_ptr(), *flat.shape, (starts.numpy(), weights.view(2, -1).numpy())
    numbers = torch.tensor([11, GOLDEN, 0], device="cpu").numpy()
    count = loops.draw_rows(at, n, width, *arrays, numbers, drawn.numpy())
    loops.copy_rows(at, n, width, drawn.numpy(), count, room.view(-1).view(torch.int32).numpy(), 0)
    sums = (flat.view(torch.int32)[:, [*range(16), *range(12, 28)]].long() * weights).sum(1) + 11
    expected = ((sums ^ sums >> 32) * GOLDEN >= 0).nonzero().flatten()
    if not (torch.equal(drawn[:count], expected) and torch.equal(room[:count], flat[expected])):
        raise RuntimeError(f"the compiled loops draw other test rows than torch does: {drawn.tolist()}")


def takes(values: Tensor) -> bool:
    """Whether the loops can add these values: a plain CPU tensor of float32 or a narrower float."""
    plain = type(values) is Tensor and values.is_cpu and not values.is_neg()
    return plain and values.dtype in _TYPES and kernels() is not None


def takes_rows(x: Tensor) -> bool:
    """Whether the loops over rows can read ``x``: contiguous float32 on the CPU."""
    return x.dtype == torch.float32 and takes(x) and x.is_contiguous() and row_kernels() is not None


@cache
def _wanted(measured: Measured) -> Any:
    low, high = measured.limits or (-math.inf, math.inf)
    flags = (measured.higher, measured.histogram, measured.sparsity, measured.limits is not None)
    return torch.tensor([*flags, low, high, measured.most, *FLOAT32], dtype=torch.float64, device="cpu").numpy()


def add_block(block: Tensor, table: Table, measured: Measured, workspace: Workspace, *, anyway: bool = False) -> int:
    """Add a block, or leave the sums unchanged.

    Args:
        block: float32[A, U, R].
        table: The sums to add to.
        measured: The optional statistics to observe.
        workspace: Scratch memory.
        anyway: Add the block even if it is far from the shift.

    Returns:
        The outcome: ``ADDED``, ``NOT_FINITE``, ``UNFIT``, or ``FAR``, which sets ``table.found``.
    """
    return _add_block(kernels(), block, table, measured, workspace, anyway=anyway)


def _add_block(
    loops: Any, block: Tensor, table: Table, measured: Measured, workspace: Workspace, *, anyway: bool
) -> int:
    sums, histogram, shift, found = table.arrays()
    room, bins = workspace.arrays(loops.ROOM, loops.BINS)
    block = block.contiguous()
    wanted = _wanted(measured)
    # `Tensor.numpy` would make the user's activation impossible to resize
    at, size = block.data_ptr(), block.shape
    outcome: int = loops.add_block_at(at, *size, shift, wanted, anyway, sums, histogram, found, bins, room)
    if outcome == FAR:
        table.found = torch.tensor(found[:-1, : S2 + 1].T, device="cpu")
    elif outcome == ADDED:
        table.count += block.numel() // table.units
    return outcome


def draw_rows(x: Tensor, starts: Any, weights: Any, numbers: Any, drawn: Any) -> int:
    """Find the rows whose hash, of the bits of some of their numbers in wrapping arithmetic, reaches a threshold.

    Args:
        x: float32[N, ...], contiguous, for which :func:`takes_rows` holds.
        starts: numpy int64[G], where runs of 16 of these numbers begin in a row.
        weights: numpy int64[G, 16], weights of the numbers of each run.
        numbers: numpy int64[3]: offset added to the weighted sum, multiplier of the folded sum, and threshold.
        drawn: numpy int64[at least N], whose beginning is overwritten with the indices of the rows found.

    Returns:
        The number of rows found.
    """
    loops: Any = row_kernels()
    n = x.shape[0]
    found: int = loops.draw_rows(x.data_ptr(), n, x.numel() // max(n, 1), starts, weights, numbers, drawn)
    return found


def copy_rows(x: Tensor, which: Any, count: int, room: Any, to: int) -> None:
    """Copy rows into consecutive memory.

    Args:
        x: float32[N, ...], contiguous, for which :func:`takes_rows` holds.
        which: numpy int64[at least count], indices of rows.
        count: Number of rows to copy.
        room: numpy int32 array of any length that fits them, to be overwritten.
        to: Offset in ``room`` of the first copied number.
    """
    loops: Any = row_kernels()
    n = x.shape[0]
    loops.copy_rows(x.data_ptr(), n, x.numel() // max(n, 1), which, count, room, to)
