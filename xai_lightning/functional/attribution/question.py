"""What is asked of a method, how it is run, and what it found."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai_lightning.functional.attribution.explained import Explained
from xai_lightning.functional.attribution.methods import METHODS, Method, Smooth
from xai_lightning.functional.attribution.variables import Variables

KEPT = 16
_UNKNOWN = torch.tensor(math.nan, dtype=torch.float64, device="cpu")

SMOOTH_OPTIONS = {"nt_samples": 10, "stdevs": 0.1}

Inputs = tuple[Tensor, ...]
Custom = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


class Question(NamedTuple):
    """What is asked of a method about some samples.

    Args:
        inputs: ``[N, ...]`` each.
        targets: ``[N]``.
        rest: further arguments of the explained module: masks of a segmentation, then the network's extras.
        baselines: ``[N, ...]`` each.
        background: ``[B, ...]`` each; None: each sample's own baseline.
    """

    inputs: Inputs
    targets: Tensor
    rest: tuple[Tensor, ...]
    baselines: Inputs
    background: Inputs | None

    @property
    def behind(self) -> Inputs:
        """The background, or the sample's own baseline if there is none."""
        return self.baselines if self.background is None else self.background

    def take(self, where: slice) -> "Question":
        """The same question about the samples at ``where``."""
        inputs, targets, rest, baselines, background = self
        cut = [tuple(x[where] for x in group) for group in (inputs, rest, baselines)]
        return Question(cut[0], targets[where], cut[1], cut[2], background)

    def repeated(self, count: int, stdevs: float | Sequence[float]) -> "Question":
        """``count`` copies of the only sample, with Gaussian noise on its inputs."""
        sizes = (stdevs,) * len(self.inputs) if isinstance(stdevs, int | float) else stdevs
        noisy = []
        for x, size in zip(self.inputs, sizes, strict=True):
            copies = x.expand(count, *x.shape[1:])
            # drawn in single precision, as captum's noise tunnel does
            noise = torch.normal(0, torch.full(copies.shape, float(size), device=x.device)).to(x.dtype)
            noisy.append(copies + noise if x.is_floating_point() else copies)
        rest, baselines = (tuple(x.expand(count, *x.shape[1:]) for x in group) for group in (self.rest, self.baselines))
        return Question(tuple(noisy), self.targets.expand(count), rest, baselines, self.background)

    @property
    def numbers(self) -> int:
        """How many numbers one sample has, over all inputs."""
        return sum(max(1, math.prod(x.shape[1:])) for x in self.inputs)


class Found(NamedTuple):
    """What a method found.

    Args:
        values: ``[N, ...]``, one per input, or one of the layer.
        gap: ``float64[N]``, sum of the attributions minus the change; NaN where it was not determined.
        change: ``float64[N]``, f(x) - f(baseline); likewise.
    """

    values: Inputs
    gap: Tensor
    change: Tensor

    @classmethod
    def unproven(cls, values: Inputs, count: int) -> "Found":
        """Attributions of ``count`` samples without knowledge of what they should add up to."""
        unknown = _UNKNOWN.expand(count)
        return cls(values, unknown, unknown)


class Run(NamedTuple):
    """How a method is run.

    Args:
        name: a key of METHODS.
        explained: network and scalar.
        variables: of each input.
        options: the resolved options.
        layer: for methods that need one.
        smooth: how to combine noisy copies of the input, if at all.
        at_once: how many numbers one forward pass may hold.
    """

    name: str
    explained: Explained
    variables: tuple[Variables, ...]
    options: Mapping[str, Any]
    layer: nn.Module | None
    smooth: Smooth | None
    at_once: int

    @property
    def spec(self) -> Method:
        """The method's row."""
        return METHODS[self.name]

    @property
    def passes(self) -> int:
        """The number of forward or backward passes per sample, whichever is larger."""
        return max(self.spec.cost(self.options, sum(v.number for v in self.variables)))
