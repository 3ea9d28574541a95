"""Weights of chosen modules: how large they are, and how far they moved since the previous validation."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from xai_lightning._lightning import Trainer, rank_zero_info
from xai_lightning.callbacks._sharded import is_shard, whole
from xai_lightning.callbacks._trainer import meet
from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.functional.representation import relative_update, weight_histogram, weight_norm
from xai_lightning.functional.rng import random_words

MOST_MODULES, MOST_ENTRIES = 8, 2**16
NORM, UPDATE = "norm", "relative_update"


class WatchedWeights:
    """Norm, relative update and histogram of the weights of up to eight modules, evenly spaced.

    The update is computed from at most `MOST_ENTRIES` entries of each weight, so for larger weights it is an estimate.
    The seed fixes the draw of entries, which are kept from one validation to the next and through a resume.

    Args:
        seed: seed of the draw.
    """

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self.names: list[str] = []
        self._before: dict[str, Tensor] = {}
        self._now: dict[str, Tensor] = {}
        self._shards: dict[str, Tensor] = {}
        self.numbers: dict[str, dict[str, float]] = {}
        self.histograms: dict[str, HistogramSummary] = {}

    def choose(self, pl_module: nn.Module, hidden: str = "") -> None:
        """Choose among the modules that have weights: those with weight matrices, if there are any.

        Args:
            pl_module: the module that holds them.
            hidden: name of a strategy that flattens or removes weights, so that none can be measured; or empty.
        """
        if hidden:
            rank_zero_info(f"ActivationMonitor does not measure weights, since {hidden} flattens or removes them")
            self.names = []
            return
        weights = {name: w for name, module in pl_module.named_modules() if (w := _weight(module)) is not None}
        matrices = [name for name, weight in weights.items() if weight.ndim > 1]
        # the scales of normalisation layers would crowd out the matrices
        found = matrices or list(weights)
        most = min(MOST_MODULES, len(found))
        self.names = [found[round(i * (len(found) - 1) / max(most - 1, 1))] for i in range(most)]

    def open(self) -> None:
        """Begin a validation."""
        self._now, self.histograms, self._shards = {}, {}, {}
        self.numbers = {name: {NORM: math.nan, UPDATE: math.nan} for name in self.names}

    def look(self, pl_module: nn.Module) -> None:
        """Measure the weights that were validated: the averaged ones, if there are any."""
        for name in self.names:
            weight = _weight(pl_module.get_submodule(name))
            if weight is not None and is_shard(weight):
                self._shards[name] = weight.detach().clone()
            elif weight is not None:
                self._measure(name, weight)

    def gather(self, trainer: Trainer) -> None:
        """Measure sharded weights, gathering one whole weight after another; every rank must call this."""
        for name, shard in self._shards.items():
            # a rank that failed gathers nothing, and the others would wait for it (trap 45) without this
            meet(trainer)
            self._measure(name, whole(shard))
        self._shards = {}

    def _measure(self, name: str, weight: Tensor) -> None:
        now, before = self._drawn(weight), self._before.get(name)
        self._now[name] = now
        same = before is not None and before.shape == now.shape
        update = float(relative_update([now], [before])) if same and before is not None else math.nan
        self.numbers[name] = {NORM: float(weight_norm([weight])), UPDATE: update}
        self.histograms[name] = weight_histogram([weight])

    def _drawn(self, weight: Tensor) -> Tensor:
        """At most `MOST_ENTRIES` entries, ``float32[E]`` on the CPU."""
        # always the same entries, so that a change between validations is one of the weight and not of the draw
        flat = weight.detach().flatten()
        if len(flat) > MOST_ENTRIES:
            words = random_words([self._seed + len(flat)], MOST_ENTRIES)[0]
            flat = flat[words.remainder(len(flat)).to(flat.device)]
        return flat.to(device="cpu", dtype=torch.float32, copy=True)

    def settle(self) -> None:
        """Make this validation the one that the next is compared with."""
        self._before = self._now or self._before

    def state(self) -> dict[str, Tensor]:
        """The kept entries by module."""
        return dict(self._before)

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self._before = dict(state)


def _weight(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    lazy = isinstance(weight, nn.UninitializedParameter)
    fit = isinstance(weight, nn.Parameter) and not lazy and weight.is_floating_point() and weight.numel()
    return weight if fit else None
