"""LIME and KernelSHAP: a weighted linear model of the scalar over which variables are present, for samples together.

captum draws, weighs and fits one perturbation after another in Python, which takes hundreds of times the network's own
passes where that is small; the same estimates are formed here in a few tensor operations.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.rng import random_words

ENDPOINT_WEIGHT = 1e6
FEW_VARIABLES, BITS, THIRDS, SHORTEST = 64, 32, 3, 1e-8


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
        coalitions = draw(n_samples, number, given).to(inputs[0].device)
        extras, values = tuple(additional_forward_args), []
        mixtures = [_Mixture(*each) for each in zip(inputs, baselines, feature_mask, strict=True)]
        for block in torch.split(coalitions, max(1, perturbations_per_eval), dim=1):
            rows = (extra.repeat_interleave(block.shape[1], dim=0) for extra in extras)
            values.append(self._forward(*(mixture.of(block) for mixture in mixtures), *rows))
        scalars = torch.cat([value.reshape(len(coalitions), -1) for value in values], dim=1).double()
        weights = _endpoints(coalitions) if self._kernel else nearness(coalitions, mixtures)
        fitted = coefficients(coalitions.double(), scalars, weights)
        return tuple(fitted[:, mask[0]].to(values[0].dtype) for mask in feature_mask)


class _Mixture:
    """One input with some of its variables, and the baseline's other ones.

    Args:
        inputs: ``[N, ...]``.
        baselines: like the inputs.
        mask: ``[1, ...]``, the variable of each number.
    """

    def __init__(self, inputs: Tensor, baselines: Tensor, mask: Tensor) -> None:
        self._inputs, self._baselines, self._mask = inputs, baselines, mask[0]
        self._used, self._parts = torch.unique(mask), None
        if len(self._used) <= FEW_VARIABLES and _multiplies_exactly(inputs) and _multiplies_exactly(baselines):
            # a product of 0 and 1 with the parts of each variable is exact, and much faster than choosing
            owner = self._mask.flatten() == self._used[:, None]
            parts = [x.flatten(1)[:, None] * owner for x in (inputs, baselines)]
            self._parts = torch.cat(parts, dim=1)

    def of(self, coalitions: Tensor) -> Tensor:
        """Inputs ``[N * S, ...]`` with the variables of each coalition ``bool[N, S, V]``."""
        if self._parts is None:
            inside = coalitions[:, :, self._mask]
            return torch.where(inside, self._inputs[:, None], self._baselines[:, None]).flatten(0, 1)
        inside = coalitions[:, :, self._used]
        chosen = torch.cat([inside, ~inside], dim=2).to(self._parts.dtype)
        return torch.bmm(chosen, self._parts).reshape(-1, *self._inputs.shape[1:])

    def products(self, number: int) -> tuple[Tensor, Tensor, Tensor]:
        """Per variable ``float64[N, V]``: sums of x * x, x * b and b * b, of inputs x and baselines b."""
        x, b, owner = self._inputs.flatten(1).double(), self._baselines.flatten(1).double(), self._mask.flatten()
        none = x.new_zeros(len(x), number)
        sums = [none.index_add(1, owner, product) for product in (x * x, x * b, b * b)]
        return sums[0], sums[1], sums[2]


def _multiplies_exactly(x: Tensor) -> bool:
    """Whether products of matrices keep the values of ``x``: no lower precision, and nothing times 0 that is not 0."""
    full = torch.get_float32_matmul_precision() == "highest" and not torch.is_autocast_enabled(x.device.type)
    return full and x.device.type == "cpu" and x.is_floating_point() and bool(x.isfinite().all())


def shapley_coalitions(count: int, number: int, seeds: Sequence[int]) -> Tensor:
    """Coalitions in proportion to KernelSHAP's weights: all variables, none, then random ones of random sizes.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.

    Returns:
        ``bool[N, S, V]``.

    Example:
        >>> shapley_coalitions(2, 3, seeds=[0]).tolist()
        [[[True, True, True], [False, False, False]]]
    """
    drawn = max(0, count - 2)
    sizes = torch.arange(1, max(2, number), dtype=torch.float64)
    odds = 1 / (sizes * (number - sizes)) if number > 1 else torch.ones(1, dtype=torch.float64)
    uniform = _uniform(seeds, 1 + number, drawn)
    wanted = torch.searchsorted((odds / odds.sum()).cumsum(0)[:-1], uniform[0].contiguous(), right=True) + 1
    found = torch.empty(len(seeds), count, number, dtype=torch.bool)
    found[:, 0], found[:, 1:2] = True, False
    # one variable after the other, with the probability that it is among those still wanted
    for i in range(number):
        taken = uniform[1 + i] * (number - i) < wanted
        found[:, 2:, i] = taken
        wanted = wanted - taken.long()
    return found


def even_coalitions(count: int, number: int, seeds: Sequence[int]) -> Tensor:
    """Coalitions in which each variable is present with probability one half, as LIME draws them.

    Args:
        count: how many S.
        number: variables V.
        seeds: one per sample.

    Returns:
        ``bool[N, S, V]``.
    """
    words = random_words(seeds, count * math.ceil(number / BITS)).reshape(len(seeds), count, -1, 1)
    return ((words >> torch.arange(BITS)) & 1).bool().flatten(2)[:, :, :number]


def _uniform(seeds: Sequence[int], rows: int, columns: int) -> Tensor:
    """Numbers in [0, 1), ``float64[rows, N, columns]``, of 21 bits each: three from each word."""
    blocks = math.ceil(rows / THIRDS)
    words = random_words(seeds, blocks * columns).reshape(len(seeds), blocks, columns).transpose(0, 1)
    parts = torch.stack([(words >> (21 * i)) & (2**21 - 1) for i in range(THIRDS)], dim=1)
    return parts.flatten(0, 1)[:rows].double() / 2**21


def _endpoints(coalitions: Tensor) -> Tensor:
    size = coalitions.sum(dim=2)
    end = (size == 0) | (size == coalitions.shape[2])
    return torch.where(end, ENDPOINT_WEIGHT, 1.0).double()


def nearness(coalitions: Tensor, mixtures: Sequence[_Mixture]) -> Tensor:
    """LIME's weights ``float64[N, S]``: an exponential kernel of width 1 on the cosine distance to the sample."""
    z, number = coalitions.double(), coalitions.shape[2]
    own, across, other = (sum(each) for each in zip(*(m.products(number) for m in mixtures), strict=True))
    whole = own.sum(dim=1, keepdim=True)
    product = across.sum(dim=1, keepdim=True) + (z @ (own - across)[..., None]).squeeze(2)
    size = other.sum(dim=1, keepdim=True) + (z @ (own - other)[..., None]).squeeze(2)
    lengths = (whole.clamp(min=0).sqrt() * size.clamp(min=0).sqrt()).clamp(min=SHORTEST)
    distance: Tensor = 1 - product / lengths
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
