"""Exact Shapley values of a few variables."""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact

MOST_VARIABLES = 8


class ExactShapley:
    """Shapley values from every coalition: ``2^V`` forward passes, where all orderings would take ``V! V``.

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.

    References:
        L. S. Shapley, A value for n-person games, Contributions to the theory of games II, 1953.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward
        #: f(x) - f(baseline), ``float64[N]``
        self.change: Tensor | None = None

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        feature_mask: tuple[Tensor, ...],
        additional_forward_args: Any = (),
        perturbations_per_eval: int = 1,
    ) -> Tensor:
        """Shapley values ``[N, V]`` of all inputs' variables.

        Args:
            inputs: ``[N, ...]`` each.
            baselines: like the inputs.
            feature_mask: ``[1, ...]`` each, the variable of each number, from 0.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: coalitions in one forward pass.

        Raises:
            ValueError: with more than 8 variables.
        """
        number = 1 + max(int(mask.max()) for mask in feature_mask)
        if number > MOST_VARIABLES:
            raise ValueError(
                f"shapley_values are exact and need 2^V passes: at most {MOST_VARIABLES} variables, got {number}; use "
                "shapley_value_sampling or kernel_shap, or group columns with features=..."
            )
        coalitions = (torch.arange(2**number, device="cpu")[:, None] >> torch.arange(number, device="cpu")) & 1
        given = (inputs, baselines, feature_mask, tuple(additional_forward_args))
        parts = torch.split(coalitions.bool(), max(1, perturbations_per_eval))
        worth = torch.cat([self._worth(part, *given) for part in parts], dim=1)
        wide = exact(worth)
        values = wide @ _weights(coalitions).to(wide.device)
        self.change = wide[:, -1] - wide[:, 0]
        return values.to(worth)

    def _worth(
        self,
        coalitions: Tensor,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        masks: tuple[Tensor, ...],
        extras: tuple[Tensor, ...],
    ) -> Tensor:
        """The scalar ``[N, S]`` of each sample with the variables of each coalition, the others at the baseline."""
        held = len(coalitions)
        mixed = []
        for x, baseline, mask in zip(inputs, baselines, masks, strict=True):
            present = coalitions.to(x.device)[:, mask[0]]
            mixed.append(torch.where(present, x[:, None], baseline[:, None]).flatten(0, 1))
        repeated = [extra.repeat_interleave(held, dim=0) for extra in extras]
        return self._forward(*mixed, *repeated).reshape(-1, held)


def _weights(coalitions: Tensor) -> Tensor:
    """``float64[S, V]``: the weight of each coalition's worth in the value of each variable."""
    number = coalitions.shape[1]
    size = coalitions.sum(dim=1)
    joining = [1 / (number * math.comb(number - 1, s)) if s < number else 0.0 for s in range(number + 1)]
    added = torch.tensor([0.0, *joining[:-1]], dtype=torch.float64, device="cpu")[size]
    absent = torch.tensor(joining, dtype=torch.float64, device="cpu")[size]
    return torch.where(coalitions.bool(), added[:, None], -absent[:, None])
