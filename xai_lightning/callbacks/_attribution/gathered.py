"""The explained probe, assembled from all ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._attribution.explanation import Explanation
from xai_lightning.callbacks._attribution.shares import assigned, drawn, keys
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._trainer import everywhere, summed
from xai_lightning.functional.attribution import completeness_error

COLUMNS = ("maps", "gap", "change", "peaks", "probabilities", "targets", "regions", "replicate")
INCOMPLETE = 0.05


class Gathered(NamedTuple):
    """The probe of all ranks, ordered by stratum and hash, and so the same however the data were split.

    Args:
        hashes: ``int64[M]``.
        strata: ``int64[M]``.
        columns: as in `Explanation`, for all rows.
        passes: ``float64[2]``, rows sent forward and backward, over all ranks.
        own: ``int64[K]``, positions among this rank's rows of those that it explains from now on.
    """

    hashes: Tensor
    strata: Tensor
    columns: dict[str, Tensor]
    passes: Tensor
    own: Tensor

    @property
    def maps(self) -> Tensor:
        """``float32[M, D]``."""
        return self.columns["maps"].float()

    def over(self, scale: float) -> "Gathered":
        """The same with maps divided by ``scale``."""
        scaled = {name: self.columns[name] / scale for name in ("maps", "replicate")}
        return self._replace(columns={**self.columns, **scaled})

    @property
    def error(self) -> Tensor:
        """``float64[M]`` completeness errors; NaN if the method does not promise completeness."""
        return completeness_error(self.columns["gap"].flatten(), self.columns["change"].flatten())

    @property
    def colour_scale(self) -> float:
        """A colour scale for any part of the probe: at most a tenth of the maps have more than 0.5 % above it."""
        return float(self.columns["peaks"].flatten().quantile(0.9))

    @property
    def believed(self) -> Tensor:
        """Maps ``float32[M, D]``, NaN where they are incomplete: those are left out of drift."""
        return self.maps.masked_fill(self.incomplete[:, None], torch.nan)

    @property
    def incomplete(self) -> Tensor:
        """``bool[M]``, which explanations miss the sum that they should add up to by more than 5 %."""
        return self.error > INCOMPLETE


def gather(
    trainer: Trainer, mine: tuple[Rows, Explanation] | None, capacity: int, quota: int, *, pooled: bool = False
) -> Gathered:
    """Assemble the shares of all ranks: a collective with fixed shapes, called by every rank alike (trap 45).

    Args:
        trainer: the trainer.
        mine: this rank's rows and their explanation; None if it saw no batch.
        capacity: the most rows that one rank can hold; equal on all ranks.
        quota: samples per stratum, or from all strata together if they are ``pooled``.
        pooled: see `Strata`.
    """
    # a rank that explained nothing does not know how wide a map is, and ranks must agree on shapes to exchange tensors
    own_widths = torch.tensor([mine[1].columns[name].shape[1] if mine else 0 for name in COLUMNS], device="cpu")
    widths = [int(width) for width in summed(trainer, own_widths, "max")]
    own = keys(mine[0] if mine else None, capacity)
    numbers = torch.zeros(capacity, sum(widths), dtype=torch.float64, device="cpu")
    passes = torch.zeros(2, dtype=torch.float64, device="cpu")
    if mine is not None:
        rows, explanation = mine
        numbers[: len(rows.hashes)] = torch.cat([explanation.columns[name] for name in COLUMNS], dim=1)
        passes += torch.tensor([explanation.forward, explanation.backward], device="cpu")
    every, numbers, passes = (everywhere(trainer, x) for x in (own, numbers, passes))
    flat, numbers = every.flatten(0, 1), numbers.flatten(0, 1)
    order = drawn(flat, quota, pooled=pooled)
    flat, numbers = flat[order], numbers[order]
    columns = dict(zip(COLUMNS, torch.split(numbers, widths, dim=1), strict=True))
    kept = assigned(every, quota, pooled=pooled, rank=trainer.global_rank)
    return Gathered(flat[:, 0], flat[:, 1], columns, passes.sum(dim=0), kept)
