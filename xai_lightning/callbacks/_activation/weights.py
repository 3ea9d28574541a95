"""Weights of chosen modules: how large they are, and how far they moved since the validation before."""

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
    """Of up to eight modules with a weight matrix, evenly spaced: its norm, its relative update and a histogram.

    The update is that of at most `MOST_ENTRIES` entries of each weight, drawn once by the seed, which are kept from one
    validation to the next and through a resume: an estimate for larger ones.

    Args:
        seed: of that draw.
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
        """Choose among the modules that have weights: those with matrices, if there are any.

        Args:
            pl_module: where they are.
            hidden: the strategy that flattens weights or takes them away, of which nothing can be told.
        """
        if hidden:
            rank_zero_info(f"ActivationMonitor does not look at weights, which {hidden} does not keep as they are")
            self.names = []
            return
        weights = {name: w for name, module in pl_module.named_modules() if (w := _weight(module)) is not None}
        matrices = [name for name, weight in weights.items() if weight.ndim > 1]
        # scales of normalisations would crowd the matrices out
        found = matrices or list(weights)
        most = min(MOST_MODULES, len(found))
        self.names = [found[round(i * (len(found) - 1) / max(most - 1, 1))] for i in range(most)]

    def open(self) -> None:
        """Begin a validation."""
        self._now, self.histograms, self._shards = {}, {}, {}
        self.numbers = {name: {NORM: math.nan, UPDATE: math.nan} for name in self.names}

    def look(self, pl_module: nn.Module) -> None:
        """Look at the weights that were validated: averaged ones, where those are."""
        for name in self.names:
            weight = _weight(pl_module.get_submodule(name))
            if weight is not None and is_shard(weight):
                self._shards[name] = weight.detach().clone()
            elif weight is not None:
                self._measure(name, weight)

    def gather(self, trainer: Trainer) -> None:
        """Look at the weights that are spread over ranks, one after the other whole; every rank calls this."""
        for name, shard in self._shards.items():
            # a rank that failed gathers nothing, and the others would wait for it (trap 45)
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
        # always the same entries of a weight, so that what moved between validations is the weight and not the draw
        flat = weight.detach().flatten()
        if len(flat) > MOST_ENTRIES:
            words = random_words([self._seed + len(flat)], MOST_ENTRIES)[0]
            flat = flat[words.remainder(len(flat)).to(flat.device)]
        return flat.to(device="cpu", dtype=torch.float32, copy=True)

    def settle(self) -> None:
        """Compare the next validation with this one."""
        self._before = self._now or self._before

    def state(self) -> dict[str, Tensor]:
        """Entries by module."""
        return dict(self._before)

    def load(self, state: Mapping[str, Any]) -> None:
        """Take up a `state`."""
        self._before = dict(state)


def _weight(module: nn.Module) -> Tensor | None:
    weight = getattr(module, "weight", None)
    lazy = isinstance(weight, nn.UninitializedParameter)
    fit = isinstance(weight, nn.Parameter) and not lazy and weight.is_floating_point() and weight.numel()
    return weight if fit else None
