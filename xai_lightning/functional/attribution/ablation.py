"""Feature ablation and occlusion: what the scalar loses when one variable after another is set to the baseline.

captum rebuilds every perturbed input with several passes over it, which takes longer than a small network's own. Here
a block holds the samples once for each of several variables, which are exchanged bit by bit for the baseline's.
"""

from collections.abc import Callable, Sequence
from typing import Any

import captum.attr
import torch
from torch import Tensor

from xai_lightning.functional.attribution.mixture import block, on_numbers


class Ablation:
    """Each variable's effect: f(x) - f(x with the variable at the baseline).

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.

    References:
        M. D. Zeiler, R. Fergus, Visualizing and understanding convolutional networks, ECCV 2014.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        baselines: tuple[Tensor, ...],
        feature_mask: tuple[Tensor, ...],
        additional_forward_args: Any = (),
        perturbations_per_eval: int = 1,
    ) -> tuple[Tensor, ...]:
        """Effects, repeated on each number of a variable, as captum's methods do.

        Args:
            inputs: ``[N, ...]`` each.
            baselines: like the inputs.
            feature_mask: ``[1, ...]`` each, the variable of each number, from 0.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: variables of each sample in one forward pass.
        """
        number, extras = 1 + max(int(mask.max()) for mask in feature_mask), tuple(additional_forward_args)
        whole = self._forward(*inputs, *extras)
        held = min(max(1, perturbations_per_eval), number)
        blocks = [block(*each, held, number=number) for each in zip(inputs, baselines, feature_mask, strict=True)]
        repeated = [extra.repeat(held, *[1] * (extra.ndim - 1)) for extra in extras] if held > 1 else extras
        effects = []
        for variables in torch.split(torch.arange(number, device=whole.device), held):
            rows = (each.without(variables) for each in blocks)
            beside = (extra[: len(variables) * len(whole)] for extra in repeated)
            effects.append(whole - self._forward(*rows, *beside).reshape(len(variables), -1))
        found = torch.cat(effects).T.contiguous()
        return tuple(on_numbers(found, mask) for mask in feature_mask)


class Windows:
    """Occlusion by windows: ablation where they lie side by side; captum's, which takes means, where they overlap.

    Args:
        forward: maps inputs ``[M, ...]`` to scalars ``[M]``.
    """

    def __init__(self, forward: Callable[..., Tensor]) -> None:
        self._forward = forward

    def attribute(
        self,
        inputs: tuple[Tensor, ...],
        sliding_window_shapes: tuple[tuple[int, ...]],
        strides: Any = None,
        baselines: Any = None,
        additional_forward_args: Any = (),
        perturbations_per_eval: int = 1,
    ) -> tuple[Tensor, ...]:
        """Effects of each window on each number in it.

        Args:
            inputs: one tensor ``[N, ...]``.
            sliding_window_shapes: the sides of a window.
            strides: from one window to the next, along each side.
            baselines: like the inputs.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: windows in one forward pass.
        """
        common = {
            "baselines": baselines,
            "additional_forward_args": additional_forward_args,
            "perturbations_per_eval": perturbations_per_eval,
        }
        if strides == sliding_window_shapes:
            mask = _tiles(inputs[0].shape[1:], sliding_window_shapes[0]).to(inputs[0].device)
            return Ablation(self._forward).attribute(inputs, feature_mask=(mask[None],), **common)
        found: tuple[Tensor, ...] = captum.attr.Occlusion(self._forward).attribute(
            inputs, sliding_window_shapes=sliding_window_shapes, strides=strides, **common
        )
        return found


def _tiles(shape: Sequence[int], window: Sequence[int]) -> Tensor:
    """The window of each number, ``int64[...]``."""
    number = torch.zeros((), dtype=torch.int64)
    for axis, (length, side) in enumerate(zip(shape, window, strict=True)):
        along = torch.arange(length) // side
        number = number * (int(along[-1]) + 1) + along.reshape(-1, *[1] * (len(shape) - axis - 1))
    return number
