"""Gradients along straight paths from the baseline, in blocks that fit at once."""

from functools import lru_cache, partial
from typing import Any

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from xai_lightning.functional.attribution.adaptive import fixed, refine
from xai_lightning.functional.attribution.mixture import blocks
from xai_lightning.functional.attribution.question import KEPT, Found, Inputs, Question, Run


def refined(how: Run, question: Question) -> Found:
    """Integrated gradients with as many nodes as each sample needs."""
    # the gradients of all nodes are kept to the end: more than one forward pass holds, and still bounded
    size = max(1, KEPT * how.at_once // (question.numbers * how.passes))
    found = []
    for i in range(0, len(question.targets), size):
        piece = question.take(slice(i, i + size))
        gradient = partial(_gradient, how, piece)
        found.append(refine(gradient, piece.inputs, piece.baselines, tolerance=how.options["tolerance"]))
    values = tuple(torch.cat(each) for each in zip(*(part.values for part in found), strict=True))
    return Found(values, torch.cat([part.gap for part in found]), torch.cat([part.change for part in found]))


def _gradient(how: Run, piece: Question, points: Inputs, sample: Tensor) -> tuple[Tensor, Inputs]:
    """Scalars and gradients at ``points``, in blocks that fit at once."""
    size = max(1, how.at_once // piece.numbers)
    blocks = [_block(how, piece, points, sample, slice(i, i + size)) for i in range(0, len(sample), size)]
    if len(blocks) == 1:
        return blocks[0]
    scalars, gradients = zip(*blocks, strict=True)
    return torch.cat(scalars), tuple(torch.cat(each) for each in zip(*gradients, strict=True))


def _block(how: Run, piece: Question, points: Inputs, sample: Tensor, where: slice) -> tuple[Tensor, Inputs]:
    given, of = tuple(x[where].requires_grad_(True) for x in points), sample[where]
    with how.explained.differentiated():
        scalars = how.explained(*given, piece.targets[of], *(extra[of] for extra in piece.rest))
        return scalars.detach(), torch.autograd.grad(scalars.sum(), given)


def by_rule(how: Run, question: Question) -> Inputs:
    """Integrated gradients by one of captum's rules; captum forms all points of all samples before it begins."""
    places, weights = _rule(str(how.options.get("method", "gausslegendre")), int(how.options["n_steps"]))
    held, count = max(1, how.at_once // question.numbers), len(question.targets)
    # all nodes of few samples rather than few of all: what is read and added up again stays near the processor
    together, parts = len(blocks(len(places), held)[-1]), []
    for some in blocks(count, held // len(places)):
        piece = question.take(slice(some.start, some.stop))
        given: Any = {"places": places, "weights": weights, "together": together}
        parts.append(fixed(partial(_gradient, how, piece), piece.inputs, piece.baselines, **given))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


@lru_cache(maxsize=8)
def _rule(method: str, count: int) -> tuple[Tensor, Tensor]:
    """Places and weights ``float64[K]``; to find Gauss's takes as long as a thousand passes of a small network."""
    steps, nodes = approximation_parameters(method)
    return torch.tensor(nodes(count), dtype=torch.float64), torch.tensor(steps(count), dtype=torch.float64)
