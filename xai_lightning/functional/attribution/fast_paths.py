"""Paths of adaptive integrated gradients where numba is installed: see :mod:`.path_kernels`."""

from collections.abc import Callable
from functools import cache, partial
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.attribution import segments
from xai_lightning.functional.attribution.mixture import distinct, first_rows
from xai_lightning.functional.attribution.segments import START, Table, errors
from xai_lightning.functional.compiled import usable

_FOLLOWED = ("samples", "nodes", "weights", "sums of gradients", "passes", "errors")


@cache
def kernels() -> ModuleType | None:
    """The compiled loops; None where numba cannot be used, with a warning if it failed.

    The first call compiles them, which takes some seconds, or loads what an earlier process compiled.
    """
    return usable(_kernels, _check, "adaptive integrated gradients take")


def _kernels() -> ModuleType:
    from xai_lightning.functional.attribution import path_kernels as loops

    return loops


def _check(loops: Any) -> None:
    """Compare the loops with torch operations on the paths of two samples."""
    with torch.device("cpu"):
        known = _some_steps(segments.Path, segments.Segments)
        found = _some_steps(partial(Path, room=16, loops=loops), partial(Segments, loops=loops))
    same = [torch.allclose(one, other, atol=1e-5) for one, other in zip(known, found, strict=True)]
    if not all(same):
        wrong = [what for what, right in zip(_FOLLOWED, same, strict=True) if not right]
        raise RuntimeError(f"known paths of two samples were wrongly followed: {', '.join(wrong)} differ")


def _some_steps(path: Callable[..., Any], halved: Callable[..., Any]) -> tuple[Tensor, ...]:
    """Integrate a square that begins after a third of the way, with almost no error allowed for one sample."""
    x, table = torch.tensor([[1, 2], [-1, 0.5]], dtype=torch.float32), Table.of(2, 9, torch.device("cpu"))
    way, total, first, used = path(x, x.new_zeros(1, 2).expand(2, 2), table), torch.zeros_like(x), 0, 2 * len(START)
    cut: Any = None
    visited = []
    while first < used:
        nodes = range(first, used)
        above = (way.points(nodes) - x[table.sample[first:used]] / 3).clamp(min=0)
        table.rows[first:used, 1] = above.square().sum(dim=1)
        way.add_slopes(nodes, 2 * above)
        visited.append((nodes, 2 * above))
        cut = cut or halved(table, torch.tensor([1e-6, 0.5], dtype=torch.float64), 9)
        first, used = used, used + cut.advance(first, used)
    for nodes, gradients in visited:
        way.gather(nodes, gradients, total)
    return *table, total, cut.passes, cut.missed


def takes(x: Tensor, b: Tensor) -> bool:
    """Whether the loops can work on these: plain tensors in single precision, on the CPU."""
    plain = all(type(each) is Tensor and each.device.type == "cpu" and each.dtype == torch.float32 for each in (x, b))
    return plain and not (x.is_neg() or b.is_neg()) and kernels() is not None


def _working(loops: Any) -> Any:
    """The given loops, which are being checked, or the verified ones."""
    return loops or kernels()


class Path:
    """The straight paths of N samples from baseline to input.

    Args:
        x: inputs ``[N, ...]``.
        b: baselines, likewise.
        table: the table of nodes.
        room: the maximum number of points held at once; the next ones overwrite them.
        loops: the loops while they are being checked.
    """

    def __init__(self, x: Tensor, b: Tensor, table: Table, room: int, *, loops: Any = None) -> None:
        self._loops, self._table = _working(loops), table
        self._ends = x.flatten(1).contiguous(), distinct(b).flatten(1).contiguous()
        self._first, self._rows = table.sample.new_zeros(1), x.new_empty(room, *x.shape[1:])
        self._walk = self._loops.walk.on(self._first, *self._ends, table.sample, table.rows, self._rows.view(room, -1))

    def points(self, nodes: range) -> Tensor:
        """Points ``[R, ...]`` at some nodes."""
        rows = first_rows(self._rows, len(nodes))
        self._first.fill_(nodes.start)
        self._walk(len(nodes))
        return rows

    def add_slopes(self, nodes: range, gradients: Tensor) -> None:
        """Add the scalar's slopes along the path to the table, from its gradients ``[R, ...]`` at some nodes."""
        self._first.fill_(nodes.start)
        given = gradients.flatten(1).contiguous()
        self._loops.add_slopes.on(self._first, *self._ends, self._table.sample, given, self._table.rows)(len(nodes))

    def gather(self, nodes: range, gradients: Tensor, total: Tensor) -> None:
        """Add the weighted gradients ``[R, ...]`` at some nodes to the totals ``[N, ...]`` of their samples."""
        self._first.fill_(nodes.start)
        given = self._table.sample, self._table.weight, gradients.flatten(1).contiguous(), total.view(len(total), -1)
        self._loops.gather.on(self._first, *given)(len(nodes))


class Segments:
    """Segments of N samples: see `segments.Segments`.

    Args:
        table: the table with the first nodes of each sample.
        allowed: float64[N], the total error allowed for each sample; NaN for one that is not to be refined.
        most: the maximum number of nodes per sample.
        loops: the loops while they are being checked.
    """

    def __init__(self, table: Table, allowed: Tensor, most: int, *, loops: Any = None) -> None:
        count, first_ones = len(allowed), slice(len(START) - 1)
        first = torch.arange(count * len(START), device=allowed.device).view(count, -1)
        left, right, chosen = first.new_empty(3, count, most - 1)
        left[:, first_ones], right[:, first_ones] = first[:, :-1], first[:, 1:]
        error, size = errors(table.rows[first[:, :-1]], table.rows[first[:, 1:]]), allowed.new_empty(left.shape)
        size[:, first_ones] = error.abs()
        self.passes, self._many = first.new_full((count,), len(START)), first.new_full((count,), -1)
        self._sums = torch.stack([error.sum(dim=1), error.abs().sum(dim=1), allowed], dim=1)
        self._free, (self._ends, middle) = first.new_zeros(1), first.new_zeros(2, count)
        state = chosen, self._many, self.passes, self._sums
        self._advance = _working(loops).advance.on(middle, table.rows, table.weight, left, right, size, *state)
        given = self._free, self._ends, self._many, chosen, left, right, middle, table.sample, table.rows
        self._append = _working(loops).append.on(*given)

    @property
    def missed(self) -> Tensor:
        """The sum of each sample's errors, ``float64[N]``."""
        return self._sums[:, 0]

    def advance(self, first: int, used: int) -> int:
        """Halve the chosen segments at the nodes from ``first`` to ``used``, evaluated by now, and choose the next.

        Returns:
            How many nodes were added to the table; only their sample and place are known.
        """
        self._advance(len(self.passes))
        torch.cumsum(self._many, dim=0, out=self._ends)
        self._free.fill_(used)
        self._append(len(self.passes))
        return int(self._ends[-1])
