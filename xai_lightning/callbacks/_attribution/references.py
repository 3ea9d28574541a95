"""The explanations that later ones are compared with."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from xai_lightning.callbacks._attribution.gathered import Gathered

REFERENCES = ("first", "previous", "best")


def _nothing() -> Tensor:
    return torch.empty(0, dtype=torch.int64, device="cpu")


@dataclass
class References:
    """Maps of the probe at earlier validations, by name of the reference.

    Args:
        hashes: ``int64[M]``, hashes of the samples.
        strata: ``int64[M]``.
        maps: name to ``float32[M, D]``.
        shown: ``float32[S, H, W]``, maps in the pictures of the first reference on this rank.
        shown_hashes: ``int64[S]``, hashes of their samples.
        scale: colour scale of the pictures, whose maps are shares of their absolute sum: that of the whole probe at the
            first reference.
        frozen: ``int64[M]``, the class of each row when it was first explained.
        average_scale: colour scale of the average over a fresh sample: that of the first reference.
        importance: importance of each variable at the first reference; empty before it, or without named variables.
        others: name to what else was kept then: ``incomplete`` ``bool[M]``, rows to leave out; ``probabilities``
            ``float64[M, K]``; ``replicate`` ``float64[M, D]``, if one was made.
    """

    hashes: Tensor = field(default_factory=_nothing)
    strata: Tensor = field(default_factory=_nothing)
    maps: dict[str, Tensor] = field(default_factory=dict)
    shown: Tensor = field(default_factory=lambda: torch.empty(0, device="cpu"))
    shown_hashes: Tensor = field(default_factory=_nothing)
    scale: float = 0.0
    frozen: Tensor = field(default_factory=_nothing)
    importance: list[float] = field(default_factory=list)
    average_scale: float = 0.0
    others: dict[str, dict[str, Tensor]] = field(default_factory=dict)

    def same_probe(self, hashes: Tensor, strata: Tensor) -> bool:
        """Whether the rows are those of the references."""
        return torch.equal(self.hashes, hashes) and torch.equal(self.strata, strata)

    def show(self, maps: Tensor, hashes: Tensor) -> None:
        """Keep ``maps`` ``float32[S, H, W]`` to compare later pictures with, unless maps of these samples are kept."""
        if self.shown.shape != maps.shape or not torch.equal(self.shown_hashes, hashes):
            self.shown, self.shown_hashes = maps, hashes

    def state(self) -> dict[str, Any]:
        """Plain types and tensors."""
        return {
            "hashes": self.hashes,
            "strata": self.strata,
            "maps": dict(self.maps),
            "shown": self.shown,
            "shown_hashes": self.shown_hashes,
            "scale": self.scale,
            "frozen": self.frozen,
            "importance": list(self.importance),
            "average_scale": self.average_scale,
            "others": {name: dict(columns) for name, columns in self.others.items()},
        }

    @classmethod
    def of(cls, state: Mapping[str, Any]) -> "References":
        """Restore from `state`."""
        scale, rows = float(state["scale"]), len(state["hashes"])
        if any(len(maps) != rows for maps in (state["strata"], *dict(state["maps"]).values())):
            raise ValueError(f"each reference must have a map for each of {rows} samples")
        tables = (
            dict(state["maps"]),
            state["shown"],
            state["shown_hashes"],
            scale,
            state["frozen"],
            [float(value) for value in state["importance"]],
            float(state["average_scale"]),
            {k: dict(v) for k, v in state["others"].items()},
        )
        return cls(state["hashes"], state["strata"], *tables)

    def keep(self, name: str, found: "Gathered") -> None:
        """Keep these explanations as the reference ``name``."""
        columns = {what: found.columns[what] for what in ("probabilities", "replicate") if found.columns[what].shape[1]}
        self.maps[name], self.others[name] = found.maps, {"incomplete": found.incomplete, **columns}
        if name == "first":
            # pictures drawn before did not show the reference
            self.shown, self.scale, self.average_scale = torch.empty(0, device="cpu"), 0.0, 0.0

    def promote(self, name: str, to: str) -> None:
        """Keep the reference ``name`` as ``to`` as well."""
        self.maps[to], self.others[to] = self.maps[name], self.others[name]

    def believed(self, name: str, like: Tensor) -> Tensor:
        """Maps ``float32[M, D]`` of a reference; NaN where they are incomplete, and all NaN if there is none."""
        if name not in self.maps:
            return torch.full_like(like, math.nan)
        return self.maps[name].masked_fill(self.others[name]["incomplete"][:, None], math.nan)

    def freeze(self, classes: Tensor) -> None:
        """Keep the explained ``classes`` ``[M, 1]``, unless earlier ones are kept."""
        if not len(self.frozen):
            self.frozen = classes.flatten().to(torch.int64)

    def classes(self, hashes: Tensor, target: object) -> Tensor | None:
        """The frozen class of each of ``hashes``, -1 if none is known; None unless ``target`` asks for frozen ones."""
        if target != "reference_prediction" or not len(self.frozen):
            return None
        # the probe keeps its own order, but a search needs a sorted one
        order = self.hashes.argsort()
        found = order[torch.searchsorted(self.hashes[order], hashes).clamp(max=len(order) - 1)]
        return torch.where(self.hashes[found] == hashes, self.frozen[found], -1)
