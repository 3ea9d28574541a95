"""Which rank explains which samples: each its own, among those that the draw over all ranks keeps."""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._draw import Rows, smallest
from xai_lightning.callbacks._trainer import everywhere, summed


class Held(NamedTuple):
    """This rank's rows for one draw, and how many are drawn over all ranks, from each stratum or, if pooled, in all."""

    rows: Rows | None
    quota: int
    pooled: bool = False


def keys(rows: Rows | None, capacity: int) -> Tensor:
    """Hash, stratum and a 1 for each of ``rows``, padded with zeros: ``int64[capacity, 3]``."""
    found = torch.zeros(capacity, 3, dtype=torch.int64, device="cpu")
    if rows is not None:
        found[: len(rows.hashes)] = torch.stack([rows.hashes, rows.strata, torch.ones_like(rows.strata)], dim=1)
    return found


def drawn(keys: Tensor, quota: int, *, pooled: bool) -> Tensor:
    """Indices of those of all ranks' ``keys`` that are drawn, ``int64[M]``, in the order of `smallest`."""
    held = keys[:, 2].nonzero().flatten()
    return held[smallest(keys[held, 0], keys[held, 1], quota, pooled=pooled)]


def assigned(keys: Tensor, quota: int, *, pooled: bool, rank: int) -> Tensor:
    """Which of its rows one rank explains, among those that are drawn.

    Args:
        keys: keys of every rank's rows, ``int64[ranks, capacity, 3]``.
        quota: how many are drawn from each stratum, or in all.
        pooled: see `Strata`.
        rank: the rank whose rows to choose from.

    Returns:
        ``int64[M]``, positions; ranks that hold the same rows take turns.
    """
    ranks, capacity = keys.shape[:2]
    flat = keys.flatten(0, 1)
    # padding shares one id, which is never drawn
    ids = torch.unique(flat, dim=0, return_inverse=True)[1]
    holds = torch.zeros(ranks, len(flat) + 1, dtype=torch.bool, device="cpu")
    holds[torch.arange(len(flat), device="cpu") // max(capacity, 1), ids] = True
    wanted = ids[drawn(flat, quota, pooled=pooled)]
    holding = holds[:, wanted]
    turn = torch.arange(len(wanted), device="cpu") % holding.sum(dim=0).clamp(min=1)
    mine = holding[rank] & (holding.cumsum(dim=0)[rank] == turn + 1)
    return torch.isin(ids[rank * capacity : (rank + 1) * capacity], wanted[mine]).nonzero().flatten()


def share_out(trainer: Trainer, every: Sequence[Held]) -> list[Rows | None]:
    """Of what this rank holds for each of several draws, the rows that it explains; a collective.

    Args:
        trainer: the trainer.
        every: what it holds for each draw, in the same order on all ranks.
    """
    counts = [0 if held.rows is None else len(held.rows.hashes) for held in every]
    most = summed(trainer, torch.tensor(counts, device="cpu"), "max").tolist()
    table = torch.cat([keys(held.rows, count) for held, count in zip(every, most, strict=True)])
    parts = torch.split(everywhere(trainer, table), most, dim=1)
    return [_own(held, part, trainer.global_rank) for held, part in zip(every, parts, strict=True)]


def _own(held: Held, keys: Tensor, rank: int) -> Rows | None:
    rows, quota, pooled = held
    return None if rows is None else rows.take(assigned(keys, quota, pooled=pooled, rank=rank))
