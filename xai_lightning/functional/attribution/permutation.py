"""Feature permutation of one sample at a time: its values are replaced by those of donors."""

from collections.abc import Callable
from typing import Any

import captum.attr
import torch
from torch import Tensor


class DonorPermutation:
    """captum's feature permutation, with rows of a background in place of the other rows of the batch.

    A sample's attribution thus does not depend on its batch (law 2): it is the mean of ``f(x) - f(x with the variable
    of a random donor)``.

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        n_samples: int = 10,
        feature_mask: tuple[Tensor, ...] | None = None,
        additional_forward_args: Any = None,
        perturbations_per_eval: int = 1,
    ) -> tuple[Tensor, ...]:
        """Attributions of one sample.

        Args:
            inputs: one tensor ``[1, ...]``.
            baselines: donors ``[B, ...]``.
            n_samples: how many donors are drawn, with replacement, for each variable.
            feature_mask: the variable of each number.
            additional_forward_args: further arguments, one row each.
            perturbations_per_eval: variables exchanged in one forward pass.
        """
        donors = baselines[0]

        def exchange(x: Tensor, mask: Tensor) -> Tensor:
            drawn = torch.randint(len(donors), (len(x),), device="cpu").to(donors.device)
            return torch.where(mask, donors[drawn], x)

        repeated = tuple(a.expand(n_samples, *a.shape[1:]) for a in additional_forward_args)
        found = captum.attr.FeaturePermutation(self._forward, perm_func=exchange).attribute(
            (inputs[0].expand(n_samples, *inputs[0].shape[1:]),),
            feature_mask=feature_mask,
            additional_forward_args=repeated,
            perturbations_per_eval=max(1, perturbations_per_eval // n_samples),
        )
        return (found[0].mean(dim=0, keepdim=True),)
