"""The explanations that later ones are compared with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.functional import drift, render

REFERENCES = ("first", "previous")


@dataclass
class References:
    """Maps of the probe at earlier validations, by name of the reference.

    Args:
        hashes: ``int64[M]``, which samples the rows are.
        strata: ``int64[M]``.
        maps: name to ``float32[M, D]``.
        shown: ``float32[S, H, W]``, pictures of the first reference on this rank.
        scale: colour scale of the pictures: the largest needed so far, so that it never narrows.
    """

    hashes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    strata: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    maps: dict[str, Tensor] = field(default_factory=dict)
    shown: Tensor = field(default_factory=lambda: torch.empty(0))
    scale: float = 0.0

    def same_probe(self, hashes: Tensor, strata: Tensor) -> bool:
        """Whether the rows are those of the references."""
        return torch.equal(self.hashes, hashes) and torch.equal(self.strata, strata)

    def show(self, maps: Tensor) -> None:
        """Widen the scale to ``maps`` ``float32[S, H, W]``, and compare later ones with them if there are none yet."""
        if self.shown.shape != maps.shape:
            self.shown, self.scale = maps, 0.0
        self.scale = max(self.scale, render.colour_scale(maps))

    def state(self) -> dict[str, Any]:
        """Plain types and tensors."""
        return {
            "hashes": self.hashes,
            "strata": self.strata,
            "maps": dict(self.maps),
            "shown": self.shown,
            "scale": self.scale,
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "References":
        """From `state`."""
        return cls(state["hashes"], state["strata"], dict(state["maps"]), state["shown"], float(state["scale"]))

    def distances(
        self, method: str, now: Tensor, measures: Sequence[str], wanted: Sequence[str], seed: int
    ) -> dict[str, float]:
        """Summaries of the drift of ``now`` ``float32[M, D]`` by logged name; NaN from a reference that is missing."""
        found: dict[str, float] = {}
        for reference in wanted:
            before = self.maps.get(reference, torch.full_like(now, math.nan))
            for measure in measures:
                distances = drift.MEASURES[measure](now, before)
                summary = drift.summarise(distances, seed=seed)._asdict()
                found |= {tags.drift(method, measure, reference, p): float(summary[p]) for p in tags.DRIFT_PARTS}
        return found
