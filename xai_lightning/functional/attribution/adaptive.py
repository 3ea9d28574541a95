"""Integrated gradients that add nodes where the path is not yet integrated, until the sum is right."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

Inputs = tuple[Tensor, ...]
Gradient = Callable[[Inputs, Tensor], tuple[Tensor, Inputs]]
"""``(points [R, ...] per input, int64[R] the sample of each) -> (scalars [R], gradients like the points)``."""

MOST_PASSES = 65
CANCELLING = 2.0
_START = (0.0, 0.5, 1.0)


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


class _Nodes(NamedTuple):
    """Points on the paths, in the order of visits: sample, place in [0, 1], scalar, slope; gradients by visit."""

    sample: Tensor
    place: Tensor
    scalar: Tensor
    slope: Tensor
    gradients: list[Inputs]


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
    samples = torch.arange(count, device=device).repeat_interleave(len(_START))
    places = torch.tensor(_START, dtype=torch.float64, device=device).repeat(count)
    nodes = _visit(gradient, inputs, baselines, samples, places)
    first = torch.arange(count, device=device) * len(_START)
    left, right = torch.cat([first, first + 1]), torch.cat([first + 1, first + 2])
    change = nodes.scalar[first + 2] - nodes.scalar[first]
    while True:
        error, owner = _errors(nodes, left, right), nodes.sample[left]
        halved = _to_halve(error, owner, tolerance * change.abs(), nodes.sample.bincount(minlength=count), most)
        if not len(halved):
            break
        middles = (nodes.place[left[halved]] + nodes.place[right[halved]]) / 2
        new = torch.arange(len(halved), device=device) + len(nodes.place)
        nodes = _joined(nodes, _visit(gradient, inputs, baselines, owner[halved], middles))
        left, right = torch.cat([left, new]), torch.cat([right, right[halved]])
        right[halved] = new
    values = _integrated(nodes, left, right, inputs, baselines)
    gap = change.new_zeros(count).index_add_(0, owner, -error)
    return Refined(values, gap, change, nodes.sample.bincount(minlength=count))


def _visit(gradient: Gradient, inputs: Inputs, baselines: Inputs, sample: Tensor, place: Tensor) -> _Nodes:
    points, steps = [], []
    for x, b in zip(inputs, baselines, strict=True):
        begin, end = b.index_select(0, sample), x.index_select(0, sample)
        points.append(torch.lerp(begin, end, place.to(b.dtype).reshape(-1, *[1] * (b.ndim - 1))))
        steps.append(end.sub_(begin))
    scalars, gradients = gradient(tuple(points), sample)
    pairs = zip(gradients, steps, strict=True)
    slopes = [step.mul_(g).flatten(1).sum(dim=1, dtype=torch.float64) for g, step in pairs]
    return _Nodes(sample, place, scalars.double(), torch.stack(slopes).sum(dim=0), [gradients])


def _joined(a: _Nodes, b: _Nodes) -> _Nodes:
    sample, place = torch.cat([a.sample, b.sample]), torch.cat([a.place, b.place])
    scalar, slope = torch.cat([a.scalar, b.scalar]), torch.cat([a.slope, b.slope])
    return _Nodes(sample, place, scalar, slope, [*a.gradients, *b.gradients])


def _errors(nodes: _Nodes, left: Tensor, right: Tensor) -> Tensor:
    """How far the trapezoid of each segment misses the change of the scalar over it."""
    width = nodes.place[right] - nodes.place[left]
    trapezoid = width * (nodes.slope[left] + nodes.slope[right]) / 2
    return nodes.scalar[right] - nodes.scalar[left] - trapezoid


def _to_halve(error: Tensor, owner: Tensor, allowed: Tensor, spent: Tensor, most: int) -> Tensor:
    """The worst segments of each sample that is not done: those with at least half of its largest error."""
    none = allowed.new_zeros(len(allowed))
    total, left_over = none.index_add(0, owner, error.abs()), none.index_add(0, owner, error).abs()
    # comparisons with NaN are false: a sample that is not finite is done
    unfinished = ((left_over > allowed) | (total > CANCELLING * allowed)) & (spent < most)
    worst = none.scatter_reduce(0, owner, error.abs(), "amax")
    chosen = (unfinished[owner] & (error.abs() >= worst[owner] / 2)).nonzero().flatten()
    chosen = chosen[error[chosen].abs().argsort(descending=True, stable=True)]
    chosen = chosen[owner[chosen].argsort(stable=True)]
    of = owner[chosen]
    numbers = of.bincount(minlength=len(allowed))
    rank = torch.arange(len(chosen), device=chosen.device) - (numbers.cumsum(dim=0) - numbers)[of]
    return chosen[rank < (most - spent)[of]]


def _integrated(nodes: _Nodes, left: Tensor, right: Tensor, inputs: Inputs, baselines: Inputs) -> Inputs:
    half = (nodes.place[right] - nodes.place[left]) / 2
    weights = torch.zeros_like(nodes.place).index_add_(0, left, half).index_add_(0, right, half)
    sums, place = [torch.zeros_like(x) for x in inputs], 0
    for gradients in nodes.gradients:
        visited = slice(place, place + len(gradients[0]))
        place = visited.stop
        for total, g in zip(sums, gradients, strict=True):
            weight = weights[visited].to(g.dtype).reshape(-1, *[1] * (g.ndim - 1))
            total.index_add_(0, nodes.sample[visited], g * weight)
    return tuple((x - b) * total for x, b, total in zip(inputs, baselines, sums, strict=True))


def fixed(
    gradient: Gradient, inputs: Inputs, baselines: Inputs, *, places: Tensor, weights: Tensor, together: int
) -> Inputs:
    """Integrated gradients by a rule with the same nodes for all samples.

    Args:
        gradient: evaluates scalars and their gradients at points of the paths.
        inputs: floating ``[N, ...]``, one or several.
        baselines: floating, like the inputs.
        places: ``float[K]`` of the nodes, in [0, 1].
        weights: ``float[K]`` of the nodes.
        together: how many nodes of each sample are evaluated at once.

    Returns:
        The attributions.
    """
    count, sums = len(inputs[0]), [torch.zeros_like(x) for x in inputs]
    for at, weight in zip(torch.split(places, together), torch.split(weights, together), strict=True):
        samples = torch.arange(count, device=inputs[0].device).repeat(len(at))
        points = []
        for x, b in zip(inputs, baselines, strict=True):
            points.append(torch.lerp(b[None], x[None], at.to(x).reshape(-1, *[1] * x.ndim)).flatten(0, 1))
        for total, found in zip(sums, gradient(tuple(points), samples)[1], strict=True):
            each = found.reshape(len(at), -1)
            total.add_((weight.to(each) @ each).reshape(total.shape))
    return tuple((x - b) * total for x, b, total in zip(inputs, baselines, sums, strict=True))
