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
        self._arrays: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_rooms": {}, "_arrays": None}

    def clear(self) -> None:
        """Give the memory back."""
        self._rooms.clear()
        self._arrays = None

    def arrays(self, floats: tuple[int, ...], integers: tuple[int, ...]) -> tuple[Any, Any]:
        """Room of two shapes, as arrays of float32 and int32."""
        if self._arrays is None:
            self._arrays = (
                torch.zeros(floats, dtype=torch.float32, device="cpu").numpy(),
                torch.zeros(integers, dtype=torch.int32, device="cpu").numpy(),
            )
        return self._arrays

    def like(self, x: Tensor, use: str, dtype: torch.dtype | None = None) -> Tensor:
        """Room of the shape of ``x``, and of its type unless another is named; what it held is forgotten."""
        dtype = dtype or x.dtype
        if x.device.type != "cpu":
            return torch.empty_like(x, dtype=dtype)
        room = self._rooms.get((use, dtype))
        if room is None or len(room) < x.numel():
            room = self._rooms[use, dtype] = torch.empty(x.numel(), dtype=dtype, device=x.device)
        return room[: x.numel()].view(x.shape)

    def widened(self, h: Tensor, to: torch.dtype | None = None) -> Tensor:
        """``h`` as float32 or float64: as it is, or a copy."""
        dtype = to or (torch.float32 if h.is_floating_point() else torch.float64)
        return h if h.dtype in (dtype, torch.float64) else self.like(h, "wide", dtype).copy_(h)


def rows(values: Tensor, unit_dim: int) -> Tensor:
    """``[A, U, R]``, without a copy where the memory allows it.

    Args:
        values: ``[N, ..., U, ...]``.
        unit_dim: Dimension of the units, not 0 and not negative.
    """
    units, before = values.shape[unit_dim], math.prod(values.shape[:unit_dim])
    if values.is_contiguous():
        return values.view(before, units, values.numel() // (before * units))
    last = values.movedim(unit_dim, -1)
    if last.is_contiguous():
        return last.reshape(-1, units, 1)
    return values.reshape(before, units, values.numel() // (before * units))


def blocks(values: Tensor, unit_dim: int) -> Iterator[Tensor]:
    """The same, in blocks that fit the cache.

    Args:
        values: ``[N, ..., U, ...]``.
        unit_dim: Dimension of the units, not 0 and not negative.
    """
    whole = rows(values, unit_dim)
    most = _BLOCK_ON_CPU if values.device.type == "cpu" else _BLOCK_ELSEWHERE
    if whole.numel() <= most:
        yield whole
        return
    places = max(1, most // whole.shape[1])
    for block in torch.split(whole, max(1, most // whole[0].numel())):
        yield from torch.split(block, places, dim=2)


def along(x: Tensor, what: Literal["sum", "amin", "amax"]) -> Tensor:
    """One number per unit of ``[A, U, R]``; sums are float64."""
    if x.shape[2] == 1 or len(x) >= _ROWS:
        first, dim = getattr(x.reshape(len(x), -1), what)(0).view(x.shape[1:]), 1
    else:
        first, dim = getattr(x, what)(2), 0
    found: Tensor = torch.sum(first, dim, dtype=torch.float64) if what == "sum" else getattr(first, what)(dim)
    return found
