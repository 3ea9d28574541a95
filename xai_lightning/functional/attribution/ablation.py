"""Feature ablation and occlusion: what the scalar loses when one variable after another is set to the baseline.

captum rebuilds every perturbed input with several passes over it, which takes longer than a small network's own. Here
copies of the samples are made once for a block of variables, and in each copy one variable is changed and put back.
"""

from collections.abc import Callable, Sequence
from typing import Any

import captum.attr
import torch
from torch import Tensor


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
        places = [_places(mask, number) for mask in feature_mask]
        held = min(max(1, perturbations_per_eval), number)
        copies = [_Copies(x, b, held) for x, b in zip(inputs, baselines, strict=True)]
        effects = []
        for begin in range(0, number, held):
            variables = range(begin, min(begin + held, number))
            for copy, where in zip(copies, places, strict=True):
                copy.ablate([where[v] for v in variables])
            repeated = (extra.repeat(len(variables), *[1] * (extra.ndim - 1)) for extra in extras)
            scalars = self._forward(*(copy.rows[: len(variables) * len(whole)] for copy in copies), *repeated)
            effects.append(whole - scalars.reshape(len(variables), -1))
            for copy in copies:
                copy.restore()
        found = torch.cat(effects).T
        return tuple(found[:, mask[0]].to(found.dtype) for mask in feature_mask)


class _Copies:
    """Several copies of all samples in one tensor ``[K * N, ...]``, in which variables are changed and put back."""

    def __init__(self, inputs: Tensor, baselines: Tensor, count: int) -> None:
        self._inputs, self._flat, self._baselines = inputs, inputs.flatten(1), baselines.flatten(1)
        self._changed: list[Tensor | slice] = []
        self._count, self._version = count, 0
        self._make()

    def _make(self) -> None:
        self.rows = self._inputs.repeat(self._count, *[1] * (self._inputs.ndim - 1))
        self._each = self.rows.view(self._count, len(self._inputs), -1)

    def ablate(self, variables: Sequence[Tensor | slice]) -> None:
        """Set the numbers of each variable to the baseline, in a copy of its own."""
        for each, places in zip(self._each, variables, strict=False):
            each[:, places] = self._baselines[:, places]
        self._changed, self._version = list(variables), self.rows._version

    def restore(self) -> None:
        """Put back what was changed; all of it if the network wrote into it."""
        if self.rows._version != self._version:
            self._make()
            return
        for each, places in zip(self._each, self._changed, strict=False):
            each[:, places] = self._flat[:, places]


def _places(mask: Tensor, number: int) -> list[Tensor | slice]:
    """The numbers of each variable; a slice where they lie side by side, which is copied faster."""
    flat, found = mask.flatten().cpu(), []
    order = flat.argsort(stable=True)
    for where in torch.split(order, flat.bincount(minlength=number).tolist()):
        together = len(where) > 0 and int(where[-1] - where[0]) == len(where) - 1
        found.append(slice(int(where[0]), int(where[-1]) + 1) if together else where.to(mask.device))
    return found


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
