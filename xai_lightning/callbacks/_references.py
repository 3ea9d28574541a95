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
        frozen: ``int64[M]``, the class of each row that was explained first.
        incomplete: name to ``bool[M]``, the rows of its maps that are not to be believed.
    """

    hashes: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    strata: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    maps: dict[str, Tensor] = field(default_factory=dict)
    shown: Tensor = field(default_factory=lambda: torch.empty(0))
    scale: float = 0.0
    frozen: Tensor = field(default_factory=lambda: torch.empty(0, dtype=torch.int64))
    incomplete: dict[str, Tensor] = field(default_factory=dict)

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
            "frozen": self.frozen,
            "incomplete": dict(self.incomplete),
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "References":
        """From `state`."""
        scale = float(state["scale"])
        tables = dict(state["maps"]), state["shown"], scale, state["frozen"], dict(state["incomplete"])
        return cls(state["hashes"], state["strata"], *tables)

    def keep(self, name: str, maps: Tensor, incomplete: Tensor) -> None:
        """Compare later maps with these, except those that are ``incomplete`` ``bool[M]``."""
        self.maps[name], self.incomplete[name] = maps, incomplete

    def freeze(self, classes: Tensor) -> None:
        """Keep the classes ``[M, 1]`` that were explained first."""
        if not len(self.frozen):
            self.frozen = classes.flatten().to(torch.int64)

    def classes(self, hashes: Tensor, target: object) -> Tensor | None:
        """The frozen class of each of ``hashes``, if those of the reference are explained and all are known."""
        if target != "reference_prediction" or not len(self.frozen):
            return None
        order = self.hashes.argsort()
        found = torch.searchsorted(self.hashes[order], hashes).clamp(max=len(order) - 1)
        known = self.hashes[order][found] == hashes
        return self.frozen[order][found] if bool(known.all()) else None

    def distances(
        self, method: str, now: Tensor, measures: Sequence[str], wanted: Sequence[str], seed: int
    ) -> dict[str, float]:
        """Summaries of the drift of ``now`` ``float32[M, D]`` by logged name; NaN from a reference that is missing."""
        found: dict[str, float] = {}
        for reference in wanted:
            before = self.maps.get(reference, torch.full_like(now, math.nan))
            if reference in self.incomplete:
                before = before.masked_fill(self.incomplete[reference][:, None], math.nan)
            for measure in measures:
                distances = drift.MEASURES[measure](now, before)
                summary = drift.summarise(distances, seed=seed)._asdict()
                found |= {tags.drift(method, measure, reference, p): float(summary[p]) for p in tags.DRIFT_PARTS}
        return found
