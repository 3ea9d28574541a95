"""Judged batches that wait to be counted together: counting a small batch costs the same as a large one."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from xai_lightning.callbacks._tally import Judged

SAMPLES = 1 << 13
"""Samples from which on they are counted, so that what waits is bounded."""


class Waiting:
    """Judged samples of batches in a row, and their groups, until there are enough of them."""

    def __init__(self) -> None:
        self._judged: list[Judged] = []
        self._rows: list[Mapping[str, Tensor]] = []
        self._samples = 0

    def __len__(self) -> int:
        return len(self._judged)

    @property
    def full(self) -> bool:
        """Whether they are to be counted now."""
        return self._samples >= SAMPLES

    def fits(self, judged: Judged) -> bool:
        """Whether a batch can be joined to those that wait."""
        return not self._judged or judged.targets.shape[1:] == self._judged[0].targets.shape[1:]

    def add(self, judged: Judged, rows: Mapping[str, Tensor]) -> None:
        """Take a batch.

        Args:
            judged: its samples; what may belong to the batch is copied, since loaders use their tensors again.
            rows: the group of each by set of groups, ``int64[N]``.
        """
        weights = None if judged.weights is None else judged.weights.clone()
        self._judged.append(judged._replace(targets=judged.targets.clone(), weights=weights))
        self._rows.append(rows)
        self._samples += len(judged.targets)

    def joined(self) -> tuple[Judged, dict[str, Tensor]]:
        """All of them as one batch."""
        if len(self) == 1:
            return self._judged[0], dict(self._rows[0])
        rows = {name: torch.cat([rows[name] for rows in self._rows]) for name in self._rows[0]}
        targets = torch.cat([judged.targets for judged in self._judged])
        classes, scores, values, weights = map(_cat, zip(*map(_optional, self._judged), strict=True))
        judged = self._judged[0]._replace(targets=targets, classes=classes, scores=scores)
        return judged._replace(values=values, weights=weights), rows


def _optional(judged: Judged) -> tuple[Tensor | None, ...]:
    return judged.classes, judged.scores, judged.values, judged.weights


def _cat(parts: Iterable[Tensor | None]) -> Tensor | None:
    found = [part for part in parts if part is not None]
    return torch.cat(found) if found else None
