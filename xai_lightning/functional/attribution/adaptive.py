"""Adaptive integrated gradients: nodes are added where the path is not yet well integrated, until the sum is right."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.attribution import fast_paths
from xai_lightning.functional.attribution.mixture import blocks
from xai_lightning.functional.attribution.segments import START, Path, Segments, Table

Inputs = tuple[Tensor, ...]
Gradient = Callable[[Inputs, Tensor], tuple[Tensor, Inputs]]
"""``(points [R, ...] per input, int64[R] the sample of each) -> (scalars [R], gradients like the points)``."""

MOST_PASSES = 65


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
        most: the maximum number of nodes per sample.
        at_once: how many nodes are evaluated at once.
    """

    def __init__(self, gradient: Gradient, inputs: Inputs, baselines: Inputs, most: int, at_once: int) -> None:
        self._gradient, self._inputs, self._baselines, self._at_once = gradient, inputs, baselines, at_once
        count, device = len(inputs[0]), inputs[0].device
        self.table = table = Table.of(count, most, device)
        #: whether loops are compiled for all inputs
        self.compiled = all(fast_paths.takes(*pair) for pair in zip(inputs, baselines, strict=True))
        made = partial(fast_paths.Path, room=min(at_once, count * most)) if self.compiled else Path
        self._paths = [made(x, b, table) for x, b in zip(inputs, baselines, strict=True)]
        self._visited: list[tuple[range, Inputs]] = []

    def visit(self, first: int, used: int) -> None:
        """Evaluate the scalars and slopes at the table's nodes from ``first`` up to ``used``."""
        for some in blocks(used - first, self._at_once):
            nodes = range(first + some.start, first + some.stop)
            where = slice(nodes.start, nodes.stop)
            points = tuple(path.points(nodes) for path in self._paths)
            scalars, gradients = self._gradient(points, self.table.sample[where])
            self.table.rows[where, 1] = scalars
            for path, each in zip(self._paths, gradients, strict=True):
                path.add_slopes(nodes, each)
            self._visited.append((nodes, gradients))

    def integrated(self) -> Inputs:
        """The weighted sum of each sample's gradients, times the step from baseline to input."""
        totals = tuple(torch.zeros(x.shape, dtype=x.dtype, device=x.device) for x in self._inputs)
        for nodes, gradients in self._visited:
            for path, each, total in zip(self._paths, gradients, totals, strict=True):
                path.gather(nodes, each, total)
        ends = zip(totals, self._inputs, self._baselines, strict=True)
        return tuple(total.mul_(x - b) for total, x, b in ends)


def refine(
    gradient: Gradient,
    inputs: Inputs,
    baselines: Inputs,
    *,
    tolerance: float,
    most: int = MOST_PASSES,
    at_once: int = 2**62,
) -> Refined:
    r"""Integrated gradients by the trapezoidal rule on segments that are halved where they are wrong.

    The change of the scalar over a segment is known exactly from its ends, and so is the error of each segment. The
    worst segments of all samples are halved together, until a sample's errors add up to at most
    ``tolerance * |f(x) - f(b)|``, and their absolute values to at most twice that: a sum that is right only because
    errors cancel is not accepted. The nodes of a sample depend on that sample alone.

    Args:
        gradient: evaluates scalars and their gradients at points of the paths, which are overwritten afterwards.
        inputs: floating ``[N, ...]``, one or several.
        baselines: floating, like the inputs.
        tolerance: completeness error to reach, as a fraction of the change.
        most: the maximum number of passes per sample, at least 3.
        at_once: how many points are evaluated at once.

    Returns:
        The attributions, with the remaining error.

    Example:
        >>> def square(points, sample):
        ...     return points[0].square().sum(1), (2 * points[0],)
        >>> refine(square, (torch.tensor([[3.0, 1.0]]),), (torch.zeros(1, 2),), tolerance=0.01).values
        (tensor([[9., 1.]]),)

    References:
        M. Sundararajan, A. Taly, Q. Yan, Axiomatic attribution for deep networks, ICML 2017, section 5.
    """
    nodes = _Nodes(gradient, inputs, baselines, most, at_once)
    first, used = 0, len(inputs[0]) * len(START)
    nodes.visit(first, used)
    scalars = nodes.table.rows[:used, 1].view(-1, len(START))
    change = scalars[:, -1] - scalars[:, 0]
    made = fast_paths.Segments if nodes.compiled else Segments
    segments = made(nodes.table, tolerance * change.abs(), most)
    while new := segments.advance(first, used):
        first, used = used, used + new
        nodes.visit(first, used)
    return Refined(nodes.integrated(), -segments.missed, change, segments.passes)
