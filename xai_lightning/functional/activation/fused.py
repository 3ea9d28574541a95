"""Blocks added in one pass, where numba is installed: see :mod:`xai_lightning.functional.activation.kernels`."""

import math
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.activation.blocks import Workspace
from xai_lightning.functional.activation.table import ADDED, EVERYTHING, FAR, FLOAT32, S2, Measured, Table

_TYPES = (torch.float32, torch.bfloat16, torch.float16)


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None, with a warning if there is a reason, where numba cannot be used."""
    if find_spec("numba") is None:
        return None
    try:
        from xai_lightning.functional.activation import kernels as compiled
    except ImportError as error:
        warnings.warn(f"statistics of activations take longer, for numba cannot be imported: {error}", stacklevel=2)
        return None
    return compiled


@cache
def prepare() -> None:
    """Compile the loops, which takes some four seconds once and half a second in later processes."""
    if kernels() is not None:
        add_block(torch.zeros(1, 1, 1, dtype=torch.float32), Table(1, torch.device("cpu")), EVERYTHING, Workspace())
        place = torch.zeros(1, dtype=torch.int64)
        draw_rows(torch.zeros(1, 1, dtype=torch.float32), place, place, 0, 1, 0)


def takes(values: Tensor) -> bool:
    """Whether the loops can add what this is made of: plain memory of float32 or of less, on the CPU."""
    plain = type(values) is Tensor and not values.is_neg() and values.device.type == "cpu"
    return plain and values.dtype in _TYPES and kernels() is not None


@cache
def _wanted(measured: Measured) -> Any:
    low, high = measured.limits or (-math.inf, math.inf)
    flags = (measured.higher, measured.histogram, measured.sparsity, measured.limits is not None)
    return torch.tensor([*flags, low, high, measured.most, *FLOAT32], dtype=torch.float64).numpy()


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
    loops: Any = kernels()
    sums, histogram, shift, found = table.arrays()
    room, bins = workspace.arrays(loops.ROOM, loops.BINS)
    array = block.detach().contiguous().numpy()
    outcome: int = loops.add_block(array, shift, _wanted(measured), anyway, sums, histogram, found, bins, room)
    if outcome == FAR:
        table.found = torch.tensor(found[:-1, : S2 + 1].T)
    elif outcome == ADDED:
        table.count += block.numel() // table.units
    return outcome


def draw_rows(flat: Tensor, places: Tensor, weights: Tensor, first: int, golden: int, least: int) -> Tensor:
    """Whether the hash of the bits of some numbers of each row, in wrapping arithmetic, reaches a number.

    Args:
        flat: float32[N, W], contiguous.
        places: int64[M], which of the W.
        weights: int64[M].
        first: Added to their weighted sum.
        golden: By which that is multiplied.
        least: The number.

    Returns:
        bool[N].
    """
    loops: Any = kernels()
    drawn = torch.empty(len(flat), dtype=torch.bool)
    words = flat.view(torch.int32).numpy()
    loops.draw_rows(words, places.numpy(), weights.numpy(), first, golden, least, drawn.numpy())
    return drawn
