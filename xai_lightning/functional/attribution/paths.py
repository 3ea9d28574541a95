"""Gradients along straight paths from the baseline, in blocks of limited size."""

from functools import lru_cache, partial

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from xai_lightning.functional.attribution.adaptive import refine
from xai_lightning.functional.attribution.mixture import blocks
from xai_lightning.functional.attribution.question import KEPT, Found, Inputs, Question, Run


def refined(how: Run, question: Question) -> Found:
    """Integrated gradients with as many nodes as each sample needs."""
    # the gradients of all nodes are kept to the end: more numbers than one forward pass holds, but still bounded
    size, at_once = (
        max(1, KEPT * how.at_once // (question.numbers * how.passes)),
        max(1, how.at_once // question.numbers),
    )
    found = []
    for i in range(0, len(question.targets), size):
        piece = question.take(slice(i, i + size))
        given, asked = partial(_gradient, how, piece), {"tolerance": how.options["tolerance"], "at_once": at_once}
        found.append(refine(given, piece.inputs, piece.baselines, **asked))
    values = tuple(torch.cat(each) for each in zip(*(part.values for part in found), strict=True))
    return Found(values, torch.cat([part.gap for part in found]), torch.cat([part.change for part in found]))


def _gradient(how: Run, piece: Question, points: Inputs, sample: Tensor) -> tuple[Tensor, Inputs]:
    """Scalars and gradients at points of the paths of some samples."""
    return _block(how, points, *(each[sample] for each in (piece.targets, *piece.rest)))


def _block(how: Run, points: Inputs, *beside: Tensor) -> tuple[Tensor, Inputs]:
    given = tuple(x.requires_grad_(True) for x in points)
    return how.explained.differentiate(given, *beside)


def by_rule(how: Run, question: Question) -> Inputs:
    """Integrated gradients by one of captum's rules, in blocks; captum itself first forms all points of all samples.

    Blocks hold all nodes of few samples rather than few of all, so that what is read and added up stays in the cache.
    """
    places, weights = _rule(str(how.options.get("method", "gausslegendre")), int(how.options["n_steps"]))
    count, at_once = len(question.targets), max(1, how.at_once // question.numbers)
    # written in place: the system clears new memory, and reclaims what lies between pieces that are kept
    found = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in question.inputs]
    room = [x.new_empty(min(at_once, count * len(places)), *x.shape[1:]) for x in question.inputs]
    for some in blocks(count, at_once // len(places)):
        where = slice(some.start, some.stop)
        piece = question.take(where)
        for nodes in blocks(len(places), at_once):
            at, weight = (each[nodes.start : nodes.stop] for each in (places, weights))
            ends = zip(piece.inputs, piece.baselines, room, strict=True)
            points = tuple(_points(x, b, rows, at) for x, b, rows in ends)
            beside = (each.expand(len(at), *each.shape).flatten(0, 1) for each in (piece.targets, *piece.rest))
            for total, gradient in zip(found, _block(how, points, *beside)[1], strict=True):
                # `beta=0` ignores the uninitialised memory before the first nodes, whatever it holds
                matrix, again = gradient.reshape(len(at), -1).T, int(nodes.start > 0)
                total[where].view(-1).addmv_(matrix, weight.to(gradient), beta=again)
    return tuple(x.mul_(end - b) for x, end, b in zip(found, question.inputs, question.baselines, strict=True))


def _points(x: Tensor, b: Tensor, room: Tensor, at: Tensor) -> Tensor:
    """Points ``[K * N, ...]`` at places ``float64[K]`` of the paths from baselines to inputs ``[N, ...]``."""
    points = room[: len(at) * len(x)]
    torch.lerp(b[None], x[None], at.to(x).view(-1, *[1] * x.ndim), out=points.view(len(at), *x.shape))
    return points


@lru_cache(maxsize=8)
def _rule(method: str, count: int) -> tuple[Tensor, Tensor]:
    """Places and weights ``float64[K]``; computing Gauss's takes as long as a thousand passes of a small network."""
    steps, nodes = approximation_parameters(method)
    places, weights = torch.tensor([nodes(count), steps(count)], dtype=torch.float64, device="cpu")
    return places, weights
