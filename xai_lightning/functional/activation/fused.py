"""Blocks added in one pass, where numba is installed: see :mod:`xai_lightning.functional.activation.kernels`."""

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

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None, with a warning if there is a reason, where numba cannot be used.

    The first call compiles them, which takes some four seconds, or reads what an earlier process compiled.
    """
    return usable(f"{__package__}.kernels", _check, "statistics of activations take")


def _check(loops: Any) -> None:
    """Compare a small block, of numbers that float32 adds up exactly, with what operations of torch make of it."""
    block = (torch.arange(120, device="cpu").float() % 9 - 4).view(4, 3, 10)
    measured, tables = EVERYTHING._replace(limits=(-4.0, 3.0)), [Table(3, torch.device("cpu")) for _ in range(2)]
    _add_block(loops, block, tables[0], measured, Workspace(), anyway=True)
    operations.add_block(block, tables[1], measured, Workspace(), anyway=True)
    one, other = tables
    close = torch.allclose(one.sums[-1, :MINIMUM], other.sums[-1, :MINIMUM], rtol=1e-4)
    same = torch.equal(one.sums[:-1], other.sums[:-1]) and torch.equal(one.histogram, other.histogram)
    flat, places, weights = block.flatten(1), torch.tensor([0, 7], device="cpu"), torch.tensor([3, 5], device="cpu")
    sums = (flat.view(torch.int32)[:, places].long() * weights).sum(1) + 11
    drawn = (sums ^ sums >> 32) * 13 >= 0
    if not (close and same and torch.equal(_draw_rows(loops, flat, places.numpy(), weights.numpy(), 11, 13, 0), drawn)):
        raise RuntimeError(f"a known block added up to other sums than operations of torch give: {one.sums.tolist()}")


def takes(values: Tensor) -> bool:
    """Whether the loops can add what this is made of: plain memory of float32 or of less, on the CPU."""
    plain = type(values) is Tensor and not values.is_neg() and values.device.type == "cpu"
    return plain and values.dtype in _TYPES and kernels() is not None


@cache
def _wanted(measured: Measured) -> Any:
    low, high = measured.limits or (-math.inf, math.inf)
    flags = (measured.higher, measured.histogram, measured.sparsity, measured.limits is not None)
    return torch.tensor([*flags, low, high, measured.most, *FLOAT32], dtype=torch.float64, device="cpu").numpy()


def add_block(block: Tensor, table: Table, measured: Measured, workspace: Workspace, *, anyway: bool = False) -> int:
    """Add a block, or nothing of it.

    Args:
        block: float32[A, U, R].
        table: What is added to.
        measured: What is observed.
        workspace: Room for what is computed on the way.
        anyway: Add it even if it is far from the shift.

    Returns:
        What became of it: ``ADDED``, ``NOT_FINITE``, ``UNFIT``, or ``FAR``, with ``table.found``.
    """
    return _add_block(kernels(), block, table, measured, workspace, anyway=anyway)


def _add_block(
    loops: Any, block: Tensor, table: Table, measured: Measured, workspace: Workspace, *, anyway: bool
) -> int:
    sums, histogram, shift, found = table.arrays()
    room, bins = workspace.arrays(loops.ROOM, loops.BINS)
    # `Tensor.numpy` would forbid to resize an activation, which is the user's
    array = loops.from_dlpack(block.detach().contiguous())
    outcome: int = loops.add_block(array, shift, _wanted(measured), anyway, sums, histogram, found, bins, room)
    if outcome == FAR:
        table.found = torch.tensor(found[:-1, : S2 + 1].T, device="cpu")
    elif outcome == ADDED:
        table.count += block.numel() // table.units
    return outcome


def draw_rows(flat: Tensor, places: Any, weights: Any, first: int, golden: int, least: int) -> Tensor:
    """Whether the hash of the bits of some numbers of each row, in wrapping arithmetic, reaches a number.

    Args:
        flat: float32[N, W], contiguous.
        places: int64[M], an array of numpy: which of the W.
        weights: int64[M], likewise.
        first: Added to their weighted sum.
        golden: By which that is multiplied.
        least: The number.

    Returns:
        bool[N].
    """
    return _draw_rows(kernels(), flat, places, weights, first, golden, least)


def _draw_rows(loops: Any, flat: Tensor, places: Any, weights: Any, first: int, golden: int, least: int) -> Tensor:
    drawn = loops.empty(len(flat), dtype="bool")
    words = loops.from_dlpack(flat).view("int32")
    loops.draw_rows(words, places, weights, first, golden, least, drawn)
    return torch.from_numpy(drawn)
