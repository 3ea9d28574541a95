"""Blocks added in one pass, where numba is installed: see :mod:`xai_lightning.functional.activation.kernels`."""

import math
import warnings
from functools import cache
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from xai_lightning.functional.activation.blocks import Workspace
from xai_lightning.functional.activation.table import ADDED, FAR, FLOAT32, S1, Measured, Table


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None without numba. The first call compiles them, which takes some two seconds."""
    if find_spec("numba") is None:
        return None
    try:
        from xai_lightning.functional.activation import kernels
    except ImportError as error:
        warnings.warn(f"numba cannot be imported, so that statistics of activations take longer: {error}", stacklevel=2)
        return None
    return kernels


def takes(values: Tensor) -> bool:
    """Whether the loops can add what this is made of."""
    types = (torch.float32, torch.bfloat16, torch.float16)
    return values.dtype in types and values.device.type == "cpu" and kernels() is not None


@cache
def _wanted(measured: Measured) -> Any:
    low, high = measured.limits or (-math.inf, math.inf)
    flags = (measured.higher, measured.histogram, measured.sparsity, measured.limits is not None)
    return np.array([*flags, low, high, measured.most, *FLOAT32], dtype=np.float64)


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
    array = block.contiguous().numpy()
    outcome: int = loops.add_block(array, shift, _wanted(measured), anyway, sums, histogram, found, bins, room)
    if outcome == FAR:
        table.found = torch.tensor(found[:-1, S1])
    elif outcome == ADDED:
        table.count += block.numel() // table.units
    return outcome


def weighted_words(flat: Tensor, places: Tensor, weights: Tensor) -> Tensor:
    """The sum of the bits of some numbers of each row, times weights, in wrapping arithmetic.

    Args:
        flat: float32[N, W].
        places: int64[M], which of the W.
        weights: int64[M].

    Returns:
        int64[N].
    """
    loops: Any = kernels()
    found = torch.empty(len(flat), dtype=torch.int64)
    loops.weighted_words(flat.view(torch.int32).numpy(), places.numpy(), weights.numpy(), found.numpy())
    return found
