"""LIME and KernelSHAP: a weighted linear model of the scalar over which variables are present, for samples together.

captum draws, weighs and fits one perturbation after another in Python, which takes hundreds of times the network's own
passes where that is small; the same estimates are formed here in a few tensor operations.
"""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

ENDPOINT_WEIGHT = 1e6


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

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        feature_mask: tuple[Tensor, ...],
        n_samples: int = 50,
        additional_forward_args: Any = (),
        perturbations_per_eval: int = 1,
        seeds: Sequence[int] | None = None,
    ) -> tuple[Tensor, ...]:
        """Coefficients, repeated on each number of a variable, as captum's methods do.

        Args:
            inputs: ``[N, ...]`` each.
            baselines: like the inputs.
            feature_mask: ``[1, ...]`` each, the variable of each number, from 0.
            n_samples: how many coalitions are drawn for each sample.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: coalitions of each sample in one forward pass.
            seeds: one per sample; drawn from the global generator if not given.
        """
        number = 1 + max(int(mask.max()) for mask in feature_mask)
        given = torch.randint(2**62, (len(inputs[0]),)).tolist() if seeds is None else seeds
        draw = shapley_coalitions if self._kernel else even_coalitions
        coalitions = torch.stack([draw(n_samples, number, seed) for seed in given]).to(inputs[0].device)
        extras, found = tuple(additional_forward_args), []
        for block in torch.split(coalitions, max(1, perturbations_per_eval), dim=1):
            found.append(self._evaluated(block, inputs, baselines, feature_mask, extras))
        values = torch.cat([scalars for scalars, _ in found], dim=1).double()
        weights = _endpoints(coalitions) if self._kernel else torch.cat([near for _, near in found], dim=1)
        fitted = coefficients(coalitions.double(), values, weights)
        return tuple(fitted[:, mask[0]].to(found[0][0].dtype) for mask in feature_mask)

    def _evaluated(
        self,
        coalitions: Tensor,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        masks: tuple[Tensor, ...],
        extras: tuple[Tensor, ...],
    ) -> tuple[Tensor, Tensor]:
        """Scalars ``[N, S]`` with only the variables of each coalition, and how near each is to the sample."""
        held = coalitions.shape[1]
        mixed = [
            torch.where(coalitions[:, :, mask[0]], x[:, None], b[:, None]).flatten(0, 1)
            for x, b, mask in zip(inputs, baselines, masks, strict=True)
        ]
        scalars = self._forward(*mixed, *(extra.repeat_interleave(held, dim=0) for extra in extras))
        near = scalars.new_zeros(0) if self._kernel else _nearness(inputs, mixed, held)
        return scalars.reshape(-1, held), near


def shapley_coalitions(count: int, number: int, seed: int) -> Tensor:
    """Coalitions in proportion to KernelSHAP's weights: all variables, none, then random ones of random sizes.

    Args:
        count: how many S.
        number: variables V.
        seed: of a private generator.

    Returns:
        ``bool[S, V]``.

    Example:
        >>> shapley_coalitions(2, 3, seed=0).tolist()
        [[True, True, True], [False, False, False]]
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.arange(1, max(2, number), dtype=torch.float64)
    odds = (number - 1) / (sizes * (number - sizes)) if number > 1 else torch.ones(1, dtype=torch.float64)
    drawn = torch.multinomial(odds, max(1, count - 2), replacement=True, generator=generator) + 1
    ranks = torch.rand(max(1, count - 2), number, generator=generator).argsort(dim=1)
    ends = torch.tensor([[True], [False]]).expand(2, number)
    return torch.cat([ends, ranks < drawn[:, None]])[:count]


def even_coalitions(count: int, number: int, seed: int) -> Tensor:
    """Coalitions in which each variable is present with probability one half, as LIME draws them.

    Args:
        count: how many S.
        number: variables V.
        seed: of a private generator.

    Returns:
        ``bool[S, V]``.
    """
    return torch.rand(count, number, generator=torch.Generator().manual_seed(seed)) < 0.5


def _endpoints(coalitions: Tensor) -> Tensor:
    size = coalitions.sum(dim=2)
    end = (size == 0) | (size == coalitions.shape[2])
    return torch.where(end, ENDPOINT_WEIGHT, 1.0).double()


def _nearness(inputs: tuple[Tensor, ...], mixed: Sequence[Tensor], held: int) -> Tensor:
    """LIME's weights ``[N, S]``: an exponential kernel of width 1 on the cosine distance of the inputs."""
    whole = torch.cat([x.flatten(1).double() for x in inputs], dim=1)[:, None]
    parts = torch.cat([x.flatten(1).double() for x in mixed], dim=1).unflatten(0, (-1, held))  # type: ignore[no-untyped-call]
    distance = 1 - torch.nn.functional.cosine_similarity(parts, whole, dim=2)
    return (-(distance**2) / 2).exp()


def coefficients(design: Tensor, values: Tensor, weights: Tensor) -> Tensor:
    """Weighted least squares with an intercept, one problem per sample; the smallest solution if there are several.

    Args:
        design: float64[N, S, V].
        values: float64[N, S].
        weights: float64[N, S], at least 0.

    Returns:
        float64[N, V]; NaN for a sample with values that are not finite.

    Example:
        >>> x = torch.tensor([[[0.0], [1.0], [2.0]]]).double()
        >>> coefficients(x, 3 * x[..., 0] + 1, torch.ones(1, 3).double()).round(decimals=9)
        tensor([[3.]], dtype=torch.float64)
    """
    total = weights.sum(dim=1, keepdim=True)
    middle = (design * weights[..., None]).sum(dim=1, keepdim=True) / total[..., None]
    root = weights.sqrt()[..., None]
    centred = (design - middle) * root
    target = (values - (values * weights).sum(dim=1, keepdim=True) / total)[..., None] * root
    finite = target.isfinite().flatten(1).all(dim=1)
    target = target.nan_to_num(0.0, 0.0, 0.0)
    gram, moment = centred.mT @ centred, centred.mT @ target
    factor, failed = torch.linalg.cholesky_ex(gram)
    diagonal = factor.diagonal(dim1=1, dim2=2)
    sound = (failed == 0) & (diagonal.amin(dim=1) > 1e-5 * diagonal.amax(dim=1))
    found = torch.zeros_like(moment)
    if sound.any():
        found[sound] = torch.cholesky_solve(moment[sound], factor[sound])
    if not sound.all():
        found[~sound] = torch.linalg.pinv(centred[~sound]) @ target[~sound]
    return found.squeeze(2).masked_fill(~finite[:, None], torch.nan)
