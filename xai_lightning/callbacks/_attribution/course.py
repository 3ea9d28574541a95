"""What a monitor remembers of the course of a run, besides the references."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional import drift

LAG = drift.CONSECUTIVE
MOST, LEAST, BYTES = 128, 8, 2**23


@dataclass
class Course:
    """The course of explanations over a run; plain types and tensors.

    Args:
        numbers: numbers of the validations in the history.
        history: ``float16[T, M, D]``, canonical maps of those validations, with room for more: for at most 128 and
            8 MB in all, but for at least 8, allocated once so that memory does not grow (law 7). Each map is in units
            of its largest absolute value, since half precision holds neither very small nor very large numbers.
        recent: maps of the last three validations, ``float32[M, D]`` each.
        previous_limits: upper limits of the mean drift from the previous validation, for the last three.
        lagged_limits: the same for the drift from three validations before.
        cusum: state of the alarm.
        step: optimizer steps at the last explained validation.
        best: the best value so far of the metric that chooses the best validation; None before any.
        count: how many validations were explained.
        noise: the last noise estimates, by the last part of their logged name.
        floor: the last noise floor.
    """

    numbers: list[int] = field(default_factory=list)
    history: Tensor = field(default_factory=lambda: torch.empty(0, 0, 0, dtype=torch.float16, device="cpu"))
    recent: list[Tensor] = field(default_factory=list)
    previous_limits: list[float] = field(default_factory=list)
    lagged_limits: list[float] = field(default_factory=list)
    cusum: drift.Cusum = field(default_factory=drift.Cusum)
    step: int = 0
    count: int = 0
    best: float | None = None
    noise: dict[str, float] = field(default_factory=dict)
    floor: float = 0.0

    def follow(self, previous: Tensor, lagged: Tensor, step: int, seed: int) -> bool:
        """Add the distances to the previous validation and to three before it; returns whether drift has converged."""
        mean = float(previous.nanmean())
        # another Trainer counts steps from zero again
        self.cusum = drift.advance(self.cusum, mean, step - self.step if step > self.step else step)
        limits = [_shown_below(d, seed) for d in (previous, lagged)]
        self.previous_limits = [*self.previous_limits, limits[0]][-LAG:]
        self.lagged_limits = [*self.lagged_limits, limits[1]][-LAG:]
        within = max(drift.SETTLED_BELOW, self.floor)
        return drift.converged(self.previous_limits, self.lagged_limits, within=within)

    def remember(self, number: int, maps: Tensor, step: int) -> None:
        """Keep the maps of this validation."""
        if not self.numbers:
            room = min(MOST, max(LEAST, BYTES // (2 * max(1, maps.numel()))))
            self.history = torch.zeros(room, *maps.shape, dtype=torch.float16, device="cpu")
        if len(self.numbers) == len(self.history):
            kept = drift.thinned(range(len(self.numbers)), most=len(self.numbers) - 1)
            # a copy, since a rollback to an earlier state needs the maps dropped here
            self.history = torch.cat([self.history[kept], torch.zeros_like(self.history[len(kept) :])])
            self.numbers = [self.numbers[i] for i in kept]
        self.history[len(self.numbers)] = _scaled(maps).half()
        self.numbers = [*self.numbers, number]
        self.recent, self.step, self.count = [*self.recent, maps][-LAG:], step, self.count + 1

    def state(self) -> dict[str, Any]:
        """Plain types and tensors."""
        cusum = self.cusum
        told = {"recent": list(cusum.recent), "moments": list(cusum.moments)}
        return {**vars(self), "cusum": {**told, "statistic": cusum.statistic, "passed": cusum.passed}}

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "Course":
        """Restore from `state`."""
        told: Any = state["cusum"]
        cusum = drift.Cusum()
        if not cls.loses_alarm(state):
            recent, moments = (tuple(told[key]) for key in ("recent", "moments"))
            cusum = drift.Cusum(recent, told["statistic"], moments=moments, passed=told["passed"])
        return cls(**{**{each.name: state[each.name] for each in fields(cls)}, "cusum": cusum})

    @classmethod
    def loses_alarm(cls, state: Mapping[str, Any]) -> bool:
        """Whether the alarm of a `state` starts anew: earlier releases saved a list of values without their moments."""
        return not isinstance(state["cusum"], Mapping)

    @property
    def similarity(self) -> Tensor:
        """Similarity of all pairs of validations in the history, ``float64[T, T]``."""
        return drift.similarity(self.history[: len(self.numbers)].float())

    def film(self, places: Tensor) -> Tensor:
        """Maps ``float32[T, S, D]`` of the samples at ``places`` over the history, each scaled as in ``history``."""
        return self.history[: len(self.numbers)][:, places].float()


def _shown_below(distances: Tensor, seed: int) -> float:
    """Upper 95 % limit of the mean; infinite if there are too few samples for a valid bootstrap."""
    few = len(distances) - int(distances.isnan().sum()) < drift.FEWEST
    return math.inf if few else drift.summarise(distances, level=0.1, seed=seed).upper


def _scaled(maps: Tensor) -> Tensor:
    """Maps divided by their largest absolute value; zero maps stay 0."""
    sizes = maps.abs()
    zero = sizes.sum(dim=1, keepdim=True) <= drift.ZERO_MAP
    return (maps / sizes.amax(dim=1, keepdim=True)).masked_fill(zero, 0.0)
