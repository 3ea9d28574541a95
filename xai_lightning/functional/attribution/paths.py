"""Gradients along straight paths from the baseline, in blocks that fit at once."""

from functools import partial
from typing import Any

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor

from xai_lightning.functional.attribution.adaptive import fixed, refine
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
    scalars, gradients = [], []
    for i in range(0, len(sample), size):
        of = sample[i : i + size]
        given = tuple(x[i : i + size].requires_grad_(True) for x in points)
        # a clone: a network may write into its input, which a leaf does not allow
        with how.explained.differentiated():
            found = how.explained(*(x.clone() for x in given), piece.targets[of], *(extra[of] for extra in piece.rest))
            gradients.append(torch.autograd.grad(found.sum(), given))
        scalars.append(found.detach())
    return torch.cat(scalars), tuple(torch.cat(each) for each in zip(*gradients, strict=True))


def by_rule(how: Run, question: Question) -> Inputs:
    """Integrated gradients by one of captum's rules; captum forms all points of all samples before it begins."""
    steps, nodes = approximation_parameters(str(how.options.get("method", "gausslegendre")))
    count = int(how.options["n_steps"])
    places, weights = (torch.tensor([float(v) for v in each(count)], dtype=torch.float64) for each in (nodes, steps))
    held = max(1, how.at_once // question.numbers)
    parts = []
    for i in range(0, len(question.targets), held):
        piece = question.take(slice(i, i + held))
        together, gradient = max(1, held // len(piece.targets)), partial(_gradient, how, piece)
        rule: Any = {"places": places, "weights": weights, "together": together}
        parts.append(fixed(gradient, piece.inputs, piece.baselines, **rule))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))
