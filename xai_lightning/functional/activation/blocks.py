"""A tensor in blocks that fit the cache, and room for what is computed of them."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**19, 2**24
# With as many rows, columns are summed downwards, which is fast for any width; else along, which is for wide ones.
_ROWS = 16


class Workspace:
    """Room for what is computed of a block on the way, made once: to take it anew costs more than to fill it.

    On the CPU only, where it holds at most four blocks of each type; it is pickled without them.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}

    def __getstate__(self) -> dict[str, Any]:
        return {"_rooms": {}}

    def clear(self) -> None:
        """Give the memory back."""
        self._rooms.clear()

    def like(self, x: Tensor, use: str, dtype: torch.dtype | None = None) -> Tensor:
        """Room of the shape of ``x``, and of its type unless another is named; what it held is forgotten."""
        dtype = dtype or x.dtype
        if x.device.type != "cpu":
            return torch.empty_like(x, dtype=dtype)
        room = self._rooms.get((use, dtype))
        if room is None or len(room) < x.numel():
            room = self._rooms[use, dtype] = torch.empty(x.numel(), dtype=dtype)
        return room[: x.numel()].view(x.shape)

    def widened(self, h: Tensor, to: torch.dtype | None = None) -> Tensor:
        """``h`` as float32 or float64: as it is, or a copy."""
        dtype = to or (torch.float32 if h.is_floating_point() else torch.float64)
        return h if h.dtype in (dtype, torch.float64) else self.like(h, "wide", dtype).copy_(h)


def blocks(values: Tensor, unit_dim: int) -> Iterator[Tensor]:
    """``[A, U, R]``, without copies where the memory allows it.

    Args:
        values: ``[N, ..., U, ...]``.
        unit_dim: Dimension of the units, not 0 and not negative.
    """
    last = values.movedim(unit_dim, -1)
    if last.is_contiguous():
        rows = last.reshape(-1, last.shape[-1], 1)
    else:
        units, before = values.shape[unit_dim], math.prod(values.shape[:unit_dim])
        rows = values.reshape(before, units, values.numel() // (before * units))
    most = _BLOCK_ON_CPU if values.device.type == "cpu" else _BLOCK_ELSEWHERE
    if rows.numel() <= most:
        yield rows
        return
    places = max(1, most // rows.shape[1])
    for block in torch.split(rows, max(1, most // rows[0].numel())):
        yield from torch.split(block, places, dim=2)


def along(x: Tensor, what: Literal["sum", "amin", "amax"]) -> Tensor:
    """One number per unit of ``[A, U, R]``; sums are float64."""
    if x.shape[2] == 1 or len(x) >= _ROWS:
        first, dim = getattr(x.reshape(len(x), -1), what)(0).view(x.shape[1:]), 1
    else:
        first, dim = getattr(x, what)(2), 0
    found: Tensor = torch.sum(first, dim, dtype=torch.float64) if what == "sum" else getattr(first, what)(dim)
    return found
