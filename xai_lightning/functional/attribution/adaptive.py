"""Integrated gradients that add nodes where the path is not yet integrated, until the sum is right."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional

Inputs = tuple[Tensor, ...]
Gradient = Callable[[Inputs, Tensor], tuple[Tensor, Inputs]]
"""``(points [R, ...] per input, int64[R] the sample of each) -> (scalars [R], gradients like the points)``."""

MOST_PASSES = 65
CANCELLING = 2.0
_START, _WEIGHTS = (0.0, 0.5, 1.0), (0.25, 0.5, 0.25)
_NO_ERROR = 1e-300


class Refined(NamedTuple):
    """Attributions of N samples.

    Args:
        values: ``[N, ...]`` per input.
        gap: ``float64[N]``, sum of the attributions minus the change.
        change: ``float64[N]``, f(x) - f(baseline).
        passes: ``int64[N]``, forward and backward passes of each sample.
    """

    values: Inputs
    gap: Tensor
    change: Tensor
    passes: Tensor


class _Nodes:
    """Points on the paths, in the order of visits.

    Args:
        gradient: evaluates scalars and their gradients at points of the paths.
        inputs: of the samples.
        baselines: like the inputs.
        most: how many nodes there is room for.
    """

    def __init__(self, gradient: Gradient, inputs: Inputs, baselines: Inputs, most: int) -> None:
        self._gradient, self._inputs, self._baselines = gradient, inputs, baselines
        self._count, device = 0, inputs[0].device
        self.sample = torch.empty(most, dtype=torch.int64, device=device)
        #: place in [0, 1], scalar and slope of each
        self.rows = torch.empty(most, 3, dtype=torch.float64, device=device)
        self.weight = torch.zeros(most, dtype=torch.float64, device=device)
        self._gradients: list[Inputs] = []

    def visit(self, sample: Tensor, place: Tensor) -> Tensor:
        """Evaluate the scalar at a place of each sample's path; returns the numbers ``int64[R]`` of the new nodes."""
        points, steps = [], []
        for x, b in zip(self._inputs, self._baselines, strict=True):
            begin, end = b.index_select(0, sample), x.index_select(0, sample)
            points.append(torch.lerp(begin, end, place.to(b.dtype).reshape(-1, *[1] * (b.ndim - 1))))
            steps.append(end.sub_(begin))
        scalars, gradients = self._gradient(tuple(points), sample)
        pairs = zip(gradients, steps, strict=True)
        slopes = [step.mul_(g).flatten(1).sum(dim=1).double() for g, step in pairs]
        new = slice(self._count, self._count + len(sample))
        self.sample[new] = sample
        for column, values in enumerate((place, scalars, sum(slopes))):
            self.rows[new, column] = values
        self._gradients.append(gradients)
        self._count = new.stop
        return torch.arange(new.start, new.stop, device=sample.device)

    def share(self, left: Tensor, middle: Tensor, right: Tensor) -> None:
        """Weights after halving segments; exact, since places are binary fractions."""
        quarter = (self.rows[right, 0] - self.rows[left, 0]) / 4
        self.weight.index_add_(0, left, -quarter).index_add_(0, right, -quarter)
        self.weight[middle] = 2 * quarter

    def integrated(self) -> Inputs:
        """The sum of the weighted gradients of each sample, times the whole step."""
        sums, place = [torch.zeros_like(x) for x in self._inputs], 0
        for gradients in self._gradients:
            visited = slice(place, place + len(gradients[0]))
            place = visited.stop
            for total, g in zip(sums, gradients, strict=True):
                weight = self.weight[visited].to(g.dtype).reshape(-1, *[1] * (g.ndim - 1))
                total.index_add_(0, self.sample[visited], g * weight)
        return tuple((x - b) * total for x, b, total in zip(self._inputs, self._baselines, sums, strict=True))


def _errors(left: Tensor, right: Tensor) -> Tensor:
    """How far trapezoids between rows of nodes ``float64[..., 3]`` miss the change of the scalar."""
    width, change, _ = (right - left).unbind(dim=-1)
    return change - width * (left[..., 2] + right[..., 2]) / 2


class _Halved(NamedTuple):
    """Segments to be halved, ``int64[R]``: of which sample, in which row and place of the table, from node to node."""

    sample: Tensor
    row: Tensor
    place: Tensor
    left: Tensor
    right: Tensor


class _Segments:
    """Segments of the paths: a row for each sample that is not done, padded with segments without error.

    Args:
        left: int64[N, 2], nodes from which the first segments of each sample go.
        right: likewise, to which they go.
        error: float64[N, 2].
        most: how many nodes a sample may have.
    """

    def __init__(self, left: Tensor, right: Tensor, error: Tensor, most: int) -> None:
        padding = (0, most - 1 - left.shape[1])
        self._left, self._right, self._size = (functional.pad(each, padding) for each in (left, right, error.abs()))
        self._sample, self._most, self._held = torch.arange(len(left), device=left.device), most, left.shape[1]
        self.passes = left.new_full((len(left),), len(_START))
        #: per sample, the sum of errors and of their absolute values
        self.missed, self._total = error.sum(dim=1), error.abs().sum(dim=1)

    def worst(self, allowed: Tensor) -> _Halved:
        """Those with at least half of their sample's largest error, of samples that are not done."""
        # comparisons with NaN are false: a sample that is not finite is done
        wrong = (self.missed.abs() > allowed) | (self._total > CANCELLING * allowed)
        open_ = self._kept((wrong & (self.passes < self._most))[self._sample])
        size = self._size[:, : self._held]
        least = torch.where(open_, (size.amax(dim=1) / 2).clamp(min=_NO_ERROR), torch.inf)
        row, column = (size >= least[:, None]).nonzero(as_tuple=True)
        row, place = self._affordable(row, row * self._size.shape[1] + column)
        return _Halved(self._sample[row], row, place, *(each.view(-1)[place] for each in (self._left, self._right)))

    def _kept(self, open_: Tensor) -> Tensor:
        """Drop the rows of samples that are done, once they are the most; which of those left are not done."""
        if 2 * int(open_.sum()) >= len(open_):
            return open_
        kept = open_.nonzero().squeeze(1)
        rows = (self._sample, self._left, self._right, self._size)
        self._sample, self._left, self._right, self._size = (each[kept] for each in rows)
        return open_[kept]

    def _affordable(self, row: Tensor, place: Tensor) -> tuple[Tensor, Tensor]:
        """The largest, where a sample may not take as many passes."""
        room = (self._most - self.passes)[self._sample]
        numbers = row.bincount(minlength=len(room))
        if not (numbers > room).any():
            return row, place
        order = self._size.view(-1)[place].argsort(descending=True, stable=True)
        order = order[row[order].argsort(stable=True)]
        order = order[_ranks(row, numbers) < room[row]].sort().values
        return row[order], place[order]

    def halve(self, chosen: _Halved, middle: Tensor, whole: Tensor, halves: tuple[Tensor, Tensor]) -> None:
        """Replace segments by their halves, given the nodes between and the errors of the whole and of both halves."""
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


def _ranks(row: Tensor, numbers: Tensor) -> Tensor:
    """The how-manieth of its row each is, from 0; rows are sorted, with ``numbers`` in each."""
    return torch.arange(len(row), device=row.device) - (numbers.cumsum(dim=0) - numbers)[row]


def refine(
    gradient: Gradient, inputs: Inputs, baselines: Inputs, *, tolerance: float, most: int = MOST_PASSES
) -> Refined:
    r"""Integrated gradients by the trapezoidal rule on segments that are halved where they are wrong.

    The change of the scalar over a segment is known exactly from its ends, so each segment tells its own error. The
    worst are halved, of all samples together, until a sample's errors add up to at most ``tolerance * |f(x) - f(b)|``,
    and their absolute values to at most twice that: a sum that is right because errors cancel is not accepted. The
    nodes of a sample depend on that sample alone.

    Args:
        gradient: evaluates scalars and their gradients at points of the paths.
        inputs: floating ``[N, ...]``, one or several.
        baselines: floating, like the inputs.
        tolerance: completeness error to reach, a fraction of the change.
        most: how many passes a sample may take, at least 3.

    Returns:
        The attributions, with what is left of the error.

    Example:
        >>> def square(points, sample):
        ...     return points[0].square().sum(1), (2 * points[0],)
        >>> refine(square, (torch.tensor([[3.0, 1.0]]),), (torch.zeros(1, 2),), tolerance=0.01).values
        (tensor([[9., 1.]]),)

    References:
        M. Sundararajan, A. Taly, Q. Yan, Axiomatic attribution for deep networks, ICML 2017, section 5.
    """
    count, device = len(inputs[0]), inputs[0].device
    nodes = _Nodes(gradient, inputs, baselines, count * most)
    places = torch.tensor(_START, dtype=torch.float64, device=device).repeat(count)
    first = nodes.visit(torch.arange(count, device=device).repeat_interleave(len(_START)), places).view(count, -1)
    nodes.weight[first] = nodes.weight.new_tensor(_WEIGHTS)
    begin, between, end = nodes.rows[first].unbind(dim=1)
    error, change = torch.stack([_errors(begin, between), _errors(between, end)], dim=1), end[:, 1] - begin[:, 1]
    segments = _Segments(first[:, :-1], first[:, 1:], error, most)
    while len((chosen := segments.worst(tolerance * change.abs())).row):
        places = (nodes.rows[chosen.left, 0] + nodes.rows[chosen.right, 0]) / 2
        middle = nodes.visit(chosen.sample, places)
        nodes.share(chosen.left, middle, chosen.right)
        begin, between, end = (nodes.rows.index_select(0, each) for each in (chosen.left, middle, chosen.right))
        segments.halve(chosen, middle, _errors(begin, end), (_errors(begin, between), _errors(between, end)))
    return Refined(nodes.integrated(), -segments.missed, change, segments.passes)
