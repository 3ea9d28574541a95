"""A fresh sample of each validation, besides the fixed probe: for statements about the data, not chosen samples."""

from typing import Any

import torch
from torch import Tensor

from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._attribution.targets import explainable
from xai_lightning.callbacks._draw import HASHED, Candidates, Rows, known_by, row_hash, some
from xai_lightning.readers import Sample


class FreshSample:
    """A uniform draw from the samples of one evaluation, a new one at each; it never holds more than it needs.

    Which samples it holds depends on the seed, the number of the validation and the samples' values (up to 1,024 of
    each, at random positions), not on order, batching or ranks; equal samples are drawn once, with the smallest of
    their labels; samples whose shape differs from the first are never drawn.

    Args:
        explainer: knows targets and further arguments of the network.
        strata: know the labels.
        seed: chooses the draws, together with the number of the validation.
    """

    def __init__(self, explainer: Explainer, strata: Strata, seed: int) -> None:
        self._explainer, self._strata, self._seed = explainer, strata, seed
        self._candidates: Candidates | None = None
        self.size = 0

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_candidates": None}

    def open(self, number: int, *, draw: bool) -> None:
        """Begin evaluation ``number``; ``draw`` a sample of it or not."""
        own = int(row_hash([torch.tensor([[number]], device="cpu")], self._seed))
        self._candidates = Candidates(self.size, own, HASHED) if draw else None

    def see(self, sample: Sample, real: Tensor) -> None:
        """Consider a batch; ``real`` tells samples from padding."""
        explainer = self._explainer
        if self._candidates is None or self.size == 0 or sample.inputs.shape[1:] != explainer.shape:
            return
        self._candidates.quota, self._candidates.pooled = self.size, True
        targets, labels = explainer.targets(sample), self._strata.of(sample, {})
        real = explainable(real, targets, explainer.task, explainer.ways.target)
        self._candidates.offer(sample.inputs, targets, labels, explainer.columns_of(sample), real)

    def rows(self) -> Rows | None:
        """This rank's samples; some give way to other ranks' samples once all are gathered."""
        return None if self._candidates is None else some(self._candidates.rows)

    def take(self, rows: Rows | None) -> None:
        """Keep only ``rows`` of the samples that it holds."""
        if self._candidates is not None:
            self._candidates.rows = rows

    def known(self, rows: Rows) -> Rows:
        """The same rows under the hashes that the probe uses, so that methods draw the same for them (law 6)."""
        return rows._replace(hashes=row_hash(known_by(rows.inputs, rows.targets, rows.extras), self._seed))
