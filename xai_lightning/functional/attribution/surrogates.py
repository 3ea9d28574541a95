"""LIME and KernelSHAP: a weighted linear model of the scalar in the presence of variables, for many samples at once.

captum draws, weights and fits one perturbation after another in Python, which takes hundreds of times as long as a
small network's own passes; here the same estimates are computed in a few tensor operations.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from xai_lightning.functional.attribution import fast
from xai_lightning.functional.attribution.coalitions import (
    LISTED,
    Coalitions,
    even_coalitions,
    plan,
    shapley_coalitions,
)
from xai_lightning.functional.attribution.mixture import Mixture, distinct, scalars
from xai_lightning.functional.precision import exact, exact_device

SHORTEST, LEAST = 1e-8, 1e-5


class Surrogate:
    """Explains each sample by the coefficients of its own linear model.

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.
        kernel: whether coalitions are drawn and weighted as KernelSHAP does; else as LIME does.

    References:
        M. T. Ribeiro, S. Singh, C. Guestrin, "Why should I trust you?", KDD 2016.
        S. M. Lundberg, S.-I. Lee, A unified approach to interpreting model predictions, NeurIPS 2017.
    """

    def __init__(self, forward: Callable[..., Tensor], *, kernel: bool) -> None:
        self._forward, self._kernel = forward, kernel
        #: f(x) - f(baseline), ``float64[N]``; None where they are not both among KernelSHAP's draws
        self.change: Tensor | None = None

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        feature_mask: tuple[Tensor, ...],
        n_samples: int = 50,
        additional_forward_args: tuple[Tensor, ...] = (),
        perturbations_per_eval: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> Tensor:
        """Coefficients ``[N, V]`` of all inputs' variables.

        Args:
            inputs: ``[N, ...]`` each.
            baselines: like the inputs.
            feature_mask: ``[1, ...]`` each, the variable of each number, from 0.
            n_samples: number of coalitions per sample.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: coalitions in one forward pass.
            seeds: one per sample; drawn from the global generator if not given.
        """
        number = 1 + max(int(mask.max()) for mask in feature_mask)
        given = torch.randint(2**62, (len(inputs[0]),), device="cpu").tolist() if seeds is None else seeds
        draw = shapley_coalitions if self._kernel else even_coalitions
        coalitions, at_once = draw(n_samples, number, given).to(inputs[0].device), max(1, perturbations_per_eval)
        parts = list(zip(inputs, baselines, feature_mask, strict=True))
        mixtures = [Mixture(*each, coalitions, min(at_once, n_samples * len(given))) for each in parts]
        shape = len(given), n_samples
        values, dtype = scalars(self._forward, mixtures, additional_forward_args, shape, at_once, torch.float64)
        if self._kernel and n_samples > 1:
            self.change = values[:, 0] - values[:, 1]
        weights = plan(n_samples, number).weights.to(values.device) if self._kernel else nearness(coalitions, parts)
        coalitions = coalitions.to(values.device)
        found = _fitted(coalitions, values, weights, max(1, at_once // (2 * n_samples)))
        if self.change is not None:
            # the ends have infinite weight in the literature; a finite one can be outweighed by many others
            found += ((self.change - found.sum(dim=1)) / number)[:, None]
        return found.to(inputs[0].device, dtype)


def held_of_coalition(number: int, device: torch.device, *, kernel: bool) -> int:
    """How many numbers are held for one coalition: its variables in float64, or only its word, scalar and weight.

    Args:
        number: the number of variables V.
        device: device of the inputs.
        kernel: whether it is drawn as KernelSHAP does, which goes variable by variable if there are many.
    """
    words = number <= (LISTED if kernel else fast.MOST_VARIABLES)
    return 6 if words and device.type == "cpu" and fast.kernels() is not None else 2 * number


def nearness(coalitions: Coalitions, parts: Sequence[tuple[Tensor, Tensor, Tensor]]) -> Tensor:
    """LIME's weights ``float64[N, S]``: an exponential kernel of width 1 on the cosine distance to the sample.

    Args:
        coalitions: of each sample.
        parts: inputs, baselines and the variable of each number.
    """
    products = torch.stack([_products(*each, coalitions.number) for each in parts]).sum(dim=0)
    if coalitions.words is not None and fast.takes(coalitions.words) and fast.takes(products, size=8):
        return fast.nearness(coalitions.words, products, SHORTEST).exp_()
    # added up separately: in a difference of the two a small one would be lost
    present = exact(coalitions.present)
    inside = present @ products[:, :, [0, 0]]
    outside = present.neg_().add_(1) @ products[:, :, 1:].contiguous()
    product, size = (inside + outside).unbind(dim=2)
    lengths = (products[:, :, 0].sum(dim=1, keepdim=True).sqrt() * size.sqrt()).clamp(min=SHORTEST)
    distance: Tensor = 1 - product / lengths
    return (-(distance**2) / 2).exp()


def _products(inputs: Tensor, baselines: Tensor, mask: Tensor, number: int) -> Tensor:
    """Per variable ``float64[N, V, 3]``: sums of x * x, x * b and b * b, of inputs x and baselines b."""
    if inputs.is_complex():
        # as two real numbers each
        x, b = (torch.view_as_real(each).flatten(1) for each in (inputs, baselines.to(inputs.dtype)))
        return _products(x, b, mask.flatten().repeat_interleave(2)[None], number)
    x, owner = inputs.flatten(1), mask.flatten()
    if x.dtype == baselines.dtype == torch.float32 and fast.takes(x, baselines):
        return fast.products(x, distinct(baselines).flatten(1), owner, number)
    x, b, owner = exact(x), exact(baselines.flatten(1)), owner.to(exact_device(x.device))
    none = x.new_zeros(len(x), number)
    return torch.stack([none.index_add(1, owner, product) for product in (x * x, x * b, b * b)], dim=2)


def _fitted(coalitions: Coalitions, values: Tensor, weights: Tensor, most: int) -> Tensor:
    """See `coefficients`, which fits ``most`` samples at once where the normal equations do not determine them."""
    if coalitions.words is None or not (fast.takes(coalitions.words) and fast.takes(values, weights, size=8)):
        return coefficients(coalitions.present.double(), values, weights.expand_as(values))
    found, sound = fast.fit(coalitions.words, values, weights, coalitions.number, LEAST)
    weights = weights.expand_as(values)
    for rest in [] if sound.all() else torch.split((~sound).nonzero().flatten(), most):
        found[rest] = coefficients(coalitions.of(rest).present.double(), values[rest], weights[rest])
    return found


def coefficients(design: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Weighted least squares with an intercept, one problem per sample; the minimum-norm solution if there are several.

    Args:
        design: float64[N, S, V].
        values: float64[N, S].
        weights: float64[N, S], at least 0.

    Returns:
        float64[N, V]; NaN for a sample with values or weights that are not finite.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0], [2.0]]]).double()
        >>> coefficients(x, 3 * x[..., 0] + 1, torch.ones(1, 3).double()).round(decimals=9)
        tensor([[3.]], dtype=torch.float64)
    """
    weighed = weights.isfinite().all(dim=1)
    weights = weights.masked_fill(~weighed[:, None], 1.0)
    total, weighted = weights.sum(dim=1, keepdim=True), design * weights[..., None]
    target = values - (values * weights).sum(dim=1, keepdim=True) / total
    finite = weighed & target.isfinite().all(dim=1)
    target = target.nan_to_num(0.0, 0.0, 0.0)
    sums = weighted.sum(dim=1)
    gram = (weighted.mT @ design).sub_(sums[:, :, None] * (sums / total)[:, None])
    moment = weighted.mT @ target[..., None]
    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = factor.diagonal(dim1=1, dim2=2)
    sound = (failed == 0) & (diagonal.amin(dim=1) > LEAST * diagonal.amax(dim=1))
    found = torch.cholesky_solve(moment, factor).squeeze(2)
    if not sound.all():
        root, middle = weights[~sound].sqrt(), (sums / total)[~sound, None]
        centred = (design[~sound] - middle) * root[..., None]
        found[~sound] = (torch.linalg.pinv(centred) @ (target[~sound] * root)[..., None]).squeeze(2)
    return found.masked_fill(~finite[:, None], torch.nan)
