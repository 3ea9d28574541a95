"""Straight paths from baselines to inputs, cut into segments, the worst of which are halved."""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

from xai_lightning.functional.precision import widest

CANCELLING = 2.0
START, WEIGHTS = (0.0, 0.5, 1.0), (0.25, 0.5, 0.25)
"""Places and weights of the first nodes of each path, between which its first two segments lie."""
NO_ERROR = 1e-300


class Table(NamedTuple):
    """Nodes on the paths of N samples: the first of all samples, then in the order of visits.

    Args:
        sample: int64[most], the sample of each node.
        rows: float64[most, 3], its place in [0, 1], the scalar there, and the scalar's slope along the path.
        weight: float64[most], the weight of its gradient in the integral.
    """

    sample: Tensor
    rows: Tensor
    weight: Tensor

    @classmethod
    def of(cls, count: int, most: int, device: torch.device) -> "Table":
        """A table with the first nodes of ``count`` samples, and room for ``most`` nodes of each."""
        sample = torch.zeros(count * most, dtype=torch.int64, device=device)
        kind = widest(device)
        rows, weight = (torch.zeros(len(sample), *shape, dtype=kind, device=device) for shape in ((3,), ()))
        first = slice(count * len(START))
        sample[first] = torch.arange(count, device=device).repeat_interleave(len(START))
        rows[first, 0], weight[first] = rows.new_tensor([START, WEIGHTS]).repeat(1, count)
        return cls(sample, rows, weight)


class Path:
    """The straight paths of N samples from baseline to input.

    Args:
        x: inputs ``[N, ...]``.
        b: baselines, likewise.
        table: the table of nodes.
    """

    def __init__(self, x: Tensor, b: Tensor, table: Table) -> None:
        self._x, self._b, self._step, self._table = x, b, x - b, table

    def points(self, nodes: range) -> Tensor:
        """Points ``[R, ...]`` at some nodes."""
        some = slice(nodes.start, nodes.stop)
        sample, place = self._table.sample[some], self._table.rows[some, 0]
        begin, end = (each.index_select(0, sample) for each in (self._b, self._x))
        return torch.lerp(begin, end, _beside(place, begin))

    def add_slopes(self, nodes: range, gradients: Tensor) -> None:
        """Add the scalar's slopes along the path to the table, from its gradients ``[R, ...]`` at some nodes."""
        some = slice(nodes.start, nodes.stop)
        steps = self._step.index_select(0, self._table.sample[some])
        self._table.rows[some, 2] += steps.mul_(gradients).flatten(1).sum(dim=1)

    def gather(self, nodes: range, gradients: Tensor, total: Tensor) -> None:
        """Add the weighted gradients ``[R, ...]`` at some nodes to the totals ``[N, ...]`` of their samples."""
        some = slice(nodes.start, nodes.stop)
        total.index_add_(0, self._table.sample[some], gradients * _beside(self._table.weight[some], gradients))


def _beside(each: Tensor, rows: Tensor) -> Tensor:
    """One number per row ``[R]``, shaped to be multiplied with the rows ``[R, ...]``."""
    return each.to(rows.dtype).reshape(-1, *[1] * (rows.ndim - 1))


def errors(left: Tensor, right: Tensor) -> Tensor:
    """How far trapezoids between rows of nodes ``float64[..., 3]`` miss the change of the scalar."""
    width, change, _ = (right - left).unbind(dim=-1)
    return change - width * (left[..., 2] + right[..., 2]) / 2


class _Halved(NamedTuple):
    """Segments to be halved, ``int64[R]``: their samples, rows and places in the table, and the nodes at their ends."""

    sample: Tensor
    row: Tensor
    place: Tensor
    left: Tensor
    right: Tensor


class Segments:
    """A row of segments for each sample that is not done, padded with segments without error.

    Segments with at least half of their sample's largest error are halved, and further ones, the largest first, until
    the errors of the remaining segments are together within what is allowed.

    Args:
        table: the table with the first nodes of each sample.
        allowed: float64[N], the total error allowed for each sample; NaN for one that is not to be refined.
        most: the maximum number of nodes per sample.
    """

    def __init__(self, table: Table, allowed: Tensor, most: int) -> None:
        self._table, self._allowed, self._most = table, allowed, most
        count, device = len(allowed), allowed.device
        first = torch.arange(count * len(START), device=device).view(count, -1)
        begin, between, end = table.rows[first].unbind(dim=1)
        error = torch.stack([errors(begin, between), errors(between, end)], dim=1)
        padding = (0, most - len(START))
        given = first[:, :-1], first[:, 1:], error.abs()
        self._left, self._right, self._size = (functional.pad(each, padding) for each in given)
        self._sample, self._held = torch.arange(count, device=device), len(START) - 1
        self.passes = self._sample.new_full((count,), len(START))
        #: per sample, the sum of errors and of their absolute values
        self.missed, self._total = error.sum(dim=1), error.abs().sum(dim=1)
        self._chosen: _Halved | None = None

    def advance(self, first: int, used: int) -> int:
        """Halve the chosen segments at the nodes from ``first`` to ``used``, evaluated by now, and choose the next.

        Returns:
            How many nodes were added to the table; only their sample and place are known.
        """
        if self._chosen is not None:
            self._halve(self._chosen, torch.arange(first, used, device=self._left.device))
        self._chosen = chosen = self._worst()
        new = slice(used, used + len(chosen.row))
        self._table.sample[new] = chosen.sample
        self._table.rows[new, 0] = (self._table.rows[chosen.left, 0] + self._table.rows[chosen.right, 0]) / 2
        return len(chosen.row)

    def _worst(self) -> _Halved:
        # comparisons with NaN are false: a sample that is not finite is done
        wrong = (self.missed.abs() > self._allowed) | (self._total > CANCELLING * self._allowed)
        open_ = self._kept((wrong & (self.passes < self._most))[self._sample])
        size = self._size[:, : self._held]
        least = torch.where(open_, self._least(size).clamp(min=max(NO_ERROR, torch.finfo(size.dtype).tiny)), torch.inf)
        row, column = (size >= least[:, None]).nonzero(as_tuple=True)
        row, place = self._affordable(row, row * self._size.shape[1] + column)
        return _Halved(self._sample[row], row, place, *(each.view(-1)[place] for each in (self._left, self._right)))

    def _least(self, size: Tensor) -> Tensor:
        """The size from which on segments are halved, per row."""
        ordered = size.sort(dim=1).values
        # CUDA refuses `cumsum` where torch is told to be deterministic
        sums = ordered.cpu().cumsum(dim=1).to(ordered.device)
        may_stay = sums <= self._allowed[self._sample, None]
        least = ordered.masked_fill(may_stay, torch.inf).amin(dim=1)
        return torch.minimum(least, ordered[:, -1] / 2)

    def _kept(self, open_: Tensor) -> Tensor:
        """Drop the rows of samples that are done, once they are the majority; return which remaining rows are not."""
        if 2 * int(open_.sum()) >= len(open_):
            return open_
        kept = open_.nonzero().squeeze(1)
        rows = (self._sample, self._left, self._right, self._size)
        self._sample, self._left, self._right, self._size = (each[kept] for each in rows)
        return open_[kept]

    def _affordable(self, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """The segments, or only the largest where a sample may not take as many further passes."""
        room = (self._most - self.passes)[self._sample]
        numbers = row.bincount(minlength=len(room))
        if not (numbers > room).any():
            return row, place
        order = self._size.view(-1)[place].argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]
        order = order[_ranks(row, numbers) < room[row]].sort().values
        return row[order], place[order]

    def _halve(self, chosen: _Halved, middle: Tensor) -> None:
        rows = self._table.rows
        begin, between, end = (rows.index_select(0, each) for each in (chosen.left, middle, chosen.right))
        whole, halves = errors(begin, end), (errors(begin, between), errors(between, end))
        numbers = chosen.row.bincount(minlength=len(self._sample))
        column = self.passes[chosen.sample] - 1 + _ranks(chosen.row, numbers)
        self._held = max(self._held, int(column.max()) + 1)
        left, right, size = (each.view(-1) for each in (self._left, self._right, self._size))
        new = chosen.row * self._size.shape[1] + column
        left[new], right[new], right[chosen.place] = middle, chosen.right, middle
        size[chosen.place], size[new] = (each.abs() for each in halves)
        self.passes.index_add_(0, self._sample, numbers)
        self.missed.index_add_(0, chosen.sample, sum(halves) - whole)
        self._total.index_add_(0, chosen.sample, sum(each.abs() for each in halves) - whole.abs())
        # exact, since places are binary fractions
        quarter, weight = (end[:, 0] - begin[:, 0]) / 4, self._table.weight
        weight.index_add_(0, chosen.left, -quarter).index_add_(0, chosen.right, -quarter)
        weight[middle] = 2 * quarter


def _ranks(row: Tensor, numbers: Tensor) -> Tensor:
    """The position of each entry within its row, from 0; ``row`` is sorted, with ``numbers`` entries for each row."""
    return torch.arange(len(row), device=row.device) - (numbers.cumsum(dim=0) - numbers)[row]
