"""The explained probe, put together from all ranks."""

from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._draw import Rows, smallest
from xai_lightning.callbacks._explainer import Explanation
from xai_lightning.callbacks._trainer import everywhere, summed


class Gathered(NamedTuple):
    """The probe of all ranks, ordered by stratum and hash, so equal however the data were cut.

    Args:
        hashes: ``int64[M]``.
        strata: ``int64[M]``.
        maps: ``float32[M, D]``.
        error: ``float64[M]`` completeness errors.
        passes: ``float64[2]``, rows sent forward and backward, over all ranks.
    """

    hashes: Tensor
    strata: Tensor
    maps: Tensor
    error: Tensor
    passes: Tensor


def gather(trainer: Trainer, mine: tuple[Rows, Explanation] | None, capacity: int, quota: int) -> Gathered:
    """Put the ranks' shares together: fixed shapes, called by every rank alike (trap 45).

    Args:
        trainer: the trainer.
        mine: this rank's rows and their explanation; None if it saw no batch.
        capacity: the most rows that one rank can hold; equal on all ranks.
        quota: samples per stratum.
    """
    columns = int(summed(trainer, torch.tensor(mine[1].maps.shape[1] if mine else 0), "max"))
    keys = torch.zeros(capacity, 3, dtype=torch.int64)
    numbers = torch.zeros(capacity, columns + 1, dtype=torch.float64)
    passes = torch.zeros(2, dtype=torch.float64)
    if mine is not None:
        rows, explanation = mine
        n = len(rows.hashes)
        keys[:n] = torch.stack([rows.hashes, rows.strata, torch.ones_like(rows.strata)], dim=1)
        numbers[:n] = torch.cat([explanation.maps.double(), explanation.error[:, None]], dim=1)
        passes += torch.tensor([explanation.forward, explanation.backward])
    keys, numbers, passes = (everywhere(trainer, x) for x in (keys, numbers, passes))
    keys, numbers = keys.flatten(0, 1), numbers.flatten(0, 1)
    held = keys[:, 2] == 1
    keys, numbers = keys[held], numbers[held]
    order = smallest(keys[:, 0], keys[:, 1], quota)
    keys, numbers = keys[order], numbers[order]
    return Gathered(keys[:, 0], keys[:, 1], numbers[:, :-1].float(), numbers[:, -1], passes.sum(dim=0))
