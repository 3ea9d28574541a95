"""Feature ablation and occlusion: what the scalar loses when one variable after another is set to the baseline.

captum builds every perturbed input with several passes over memory, which take longer than a small network's forward
pass. Here each input is written once, into a block that stays in the cache.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import captum.attr
import torch
from torch import Tensor

from xai_lightning.functional.attribution.mixture import Without, blocks, in_line, on_numbers


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
        additional_forward_args: tuple[Tensor, ...] = (),
        perturbations_per_eval: int = 1,
        every: bool = False,
    ) -> Tensor:
        """Effects ``[N, V]`` of all inputs' variables; 0 without a pass where all numbers equal the baseline's.

        Args:
            inputs: ``[N, ...]`` each.
            baselines: like the inputs.
            feature_mask: ``[1, ...]`` each, the variable of each number, from 0.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: rows in one forward pass.
            every: whether to make a pass for each variable regardless.
        """
        number, samples = 1 + max(int(mask.max()) for mask in feature_mask), len(inputs[0])
        parts = [Without(*each) for each in zip(inputs, baselines, feature_mask, strict=True)]
        # the last form is the input itself: it leaves out a variable that no number belongs to
        wanted = torch.ones(samples, number + 1, dtype=torch.bool, device=inputs[0].device)
        if not every:
            wanted[:, :-1] = torch.stack([part.effective(number) for part in parts]).any(dim=0)
        found = _scalars(self._forward, parts, additional_forward_args, wanted, max(1, perturbations_per_eval))
        return found[:, -1:] - found[:, :-1]


def _scalars(
    forward: Callable[..., Tensor], parts: Sequence[Without], extras: Sequence[Tensor], wanted: Tensor, at_once: int
) -> Tensor:
    """The scalar ``[N, F]`` of each sample in the wanted forms; in the others, that of its last form."""
    samples, variables = wanted.nonzero().T.contiguous()
    for part in parts:
        part.prepare(samples, variables, min(at_once, len(samples)))

    def passes() -> Iterator[Tensor]:
        for forms in blocks(len(samples), at_once):
            of = samples[forms.start : forms.stop]
            yield forward(*(part.of(forms) for part in parts), *(extra.index_select(0, of) for extra in extras))

    values, _ = in_line(passes(), len(samples))
    if len(values) == wanted.numel():
        return values.view(wanted.shape)
    scalars = values.new_empty(wanted.shape).masked_scatter_(wanted, values)
    return torch.where(wanted, scalars, scalars[:, -1:])


class Windows:
    """Occlusion by windows: ablation where they lie side by side; captum's, which averages, where they overlap.

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
        every: bool = False,
    ) -> tuple[Tensor, ...]:
        """Effects of each window on each number in it.

        Args:
            inputs: one tensor ``[N, ...]``.
            sliding_window_shapes: the lengths of a window's sides.
            strides: the steps from one window to the next, along each side.
            baselines: like the inputs.
            additional_forward_args: further arguments, a row per sample.
            perturbations_per_eval: rows in one forward pass.
            every: whether to make a pass also for windows that already hold the baseline's numbers.
        """
        common: dict[str, Any] = {"baselines": baselines, "additional_forward_args": additional_forward_args}
        if strides == sliding_window_shapes:
            mask = _tiles(inputs[0].shape[1:], sliding_window_shapes[0])[None].to(inputs[0].device)
            common |= {"perturbations_per_eval": perturbations_per_eval, "every": every}
            return (on_numbers(Ablation(self._forward).attribute(inputs, feature_mask=(mask,), **common), mask),)
        found: tuple[Tensor, ...] = captum.attr.Occlusion(self._on_a_copy).attribute(
            inputs,
            sliding_window_shapes=sliding_window_shapes,
            strides=strides,
            perturbations_per_eval=max(1, perturbations_per_eval // len(inputs[0])),
            **common,
        )
        return found

    def _on_a_copy(self, x: Tensor, *rest: Any) -> Tensor:
        """Protect the input, from which captum builds the next ones, from a network that writes into it (trap 15)."""
        return self._forward(x.clone(), *rest)


def _tiles(shape: Sequence[int], window: Sequence[int]) -> Tensor:
    """The window that each number lies in, ``int64[...]``."""
    number = torch.zeros((), dtype=torch.int64, device="cpu")
    for axis, (length, side) in enumerate(zip(shape, window, strict=True)):
        along = torch.arange(length, device="cpu") // side
        number = number * (int(along[-1]) + 1) + along.reshape(-1, *[1] * (len(shape) - axis - 1))
    return number
