"""The course of a gate: the numbers its limits were checked against, at up to 128 validations, for a picture."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from xai_lightning.functional.gate import Limit
from xai_lightning.functional.render import LimitHistory, gate_timeline
from xai_lightning.sinks import Picture

MOST = 128
PARTS = ("bound", "value", "lower", "upper")


class Timeline:
    """Steps, decisions and numbers of up to `MOST` validations; when it is full, every second one is dropped.

    Args:
        limits: the limits of the gate; at most as many as a picture shows are drawn.
    """

    def __init__(self, limits: Sequence[Limit]) -> None:
        self._limits = tuple(limits)
        # of fixed size from the start, so that what is saved does not grow (law 7)
        self._numbers = torch.full((MOST, len(self._limits), len(PARTS)), math.nan, dtype=torch.float64, device="cpu")
        self._steps = torch.full((MOST,), -1, dtype=torch.int64, device="cpu")
        self._open = torch.zeros(MOST, dtype=torch.bool, device="cpu")
        self._best = -1

    def add(self, step: int, metrics: Mapping[str, float]) -> None:
        """Add a validation.

        Args:
            step: step of the validation.
            metrics: everything that it logged, and nothing from an earlier one.
        """
        if self._used == MOST:
            self._halve()
        place = self._used
        self._steps[place] = step
        for row, limit in enumerate(self._limits):
            self._numbers[place, row] = torch.tensor(_numbers(limit.name, metrics), dtype=torch.float64, device="cpu")

    def settle(self, *, opened: bool, best: bool) -> None:
        """Record what was decided at the last validation.

        Args:
            opened: whether the gate was open.
            best: whether its checkpoint is now the one that is kept as best.
        """
        last = self._used - 1
        self._open[last] = opened
        self._best = int(self._steps[last]) if best else self._best

    def draw(self) -> Picture:
        """The picture of all that is remembered."""
        used = self._used
        limits = [
            LimitHistory(*limit, *(self._numbers[:used, row, part].tolist() for part in range(len(PARTS))))
            for row, limit in enumerate(self._limits)
        ]
        best = self._best if self._best >= 0 else None
        return gate_timeline(self._steps[:used].tolist(), limits, opened=self._open[:used].tolist(), best=best)

    def state(self) -> dict[str, Any]:
        """Tensors and plain types."""
        parts = {"numbers": self._numbers, "steps": self._steps, "open": self._open}
        return {name: part.clone() for name, part in parts.items()} | {"best": self._best}

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`, unless it has another number of limits."""
        if state and state["numbers"].shape == self._numbers.shape:
            self._numbers, self._steps, self._open = (state[part].clone() for part in ("numbers", "steps", "open"))
            self._best = int(state["best"])

    @property
    def _used(self) -> int:
        return int((self._steps >= 0).sum())

    def _halve(self) -> None:
        kept = torch.arange(0, MOST, 2, device="cpu")
        for part, nothing in ((self._numbers, math.nan), (self._steps, -1), (self._open, False)):
            rows = part[kept].clone()
            part.fill_(nothing)
            part[: len(kept)] = rows


def _numbers(name: str, metrics: Mapping[str, float]) -> list[float]:
    """What the gate compared, and the estimate and interval behind a bound; NaN where there are none."""
    base, _, part = name.rpartition("/")
    others = [f"{base}/{other}" if part == "bound" else "" for other in PARTS[1:]]
    return [metrics.get(known, math.nan) for known in (name, *others)]
