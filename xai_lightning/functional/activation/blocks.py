"""Splitting a tensor into blocks that fit the cache, and scratch memory for computations on them."""

import math
from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

_BLOCK_ON_CPU, _BLOCK_ELSEWHERE = 2**19, 2**24
# With at least this many rows, reduce over rows first, which is fast at any width; else along rows, fast if wide.
_ROWS = 16


class Workspace:
    """Scratch memory for computations on a block, allocated once: allocating it anew costs more than filling it.

    Memory is kept on the CPU only, at most four blocks of each dtype; it is not pickled.
    """

    def __init__(self) -> None:
        self._rooms: dict[tuple[str, torch.dtype], Tensor] = {}
        self._arrays: tuple[Any, Any] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {"_rooms": {}, "_arrays": None}

    def clear(self) -> None:
        """Release the memory."""
        self._rooms.clear()
        self._arrays = None

    def arrays(self, floats: tuple[int, ...], integers: tuple[int, ...]) -> tuple[Any, Any]:
        """Two scratch numpy arrays, float32 of shape ``floats`` and int32 of shape ``integers``."""
        if self._arrays is None:
            self._arrays = (
                torch.zeros(floats, dtype=torch.float32, device="cpu").numpy(),
                torch.zeros(integers, dtype=torch.int32, device="cpu").numpy(),
            )
        return self._arrays

    def like(self, x: Tensor, use: str, dtype: torch.dtype | None = None) -> Tensor:
        """Scratch memory of the shape of ``x``, and its dtype unless another is given; the contents are undefined."""
        dtype = dtype or x.dtype
        if x.device.type != "cpu":
            return torch.empty_like(x, dtype=dtype)
        room = self._rooms.get((use, dtype))
        if room is None or len(room) < x.numel():
            room = self._rooms[use, dtype] = torch.empty(x.numel(), dtype=dtype, device=x.device)
        return room[: x.numel()].view(x.shape)

    def widened(self, h: Tensor, to: torch.dtype | None = None) -> Tensor:
        """``h`` as float32 or float64: unchanged, or a copy."""
        dtype = to or (torch.float32 if h.is_floating_point() else torch.float64)
        return h if h.dtype in (dtype, torch.float64) else self.like(h, "wide", dtype).copy_(h)


def rows(values: Tensor, unit_dim: int) -> Tensor:
    """Reshape ``values`` to ``[A, U, R]``, without a copy where the memory layout allows it.

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
    """Split :func:`rows` of ``values`` into blocks that fit the cache.

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
    """Reduce ``[A, U, R]`` to one number per unit; sums are float64."""
    if x.shape[2] == 1 or len(x) >= _ROWS:
        first, dim = getattr(x.reshape(len(x), -1), what)(0).view(x.shape[1:]), 1
    else:
        first, dim = getattr(x, what)(2), 0
    found: Tensor = torch.sum(first, dim, dtype=torch.float64) if what == "sum" else getattr(first, what)(dim)
    return found
