"""Statistics of a uniform sample of distinct inputs and how often each occurs; the inputs themselves are not kept."""

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._trainer import everywhere, summed
from xai_lightning.functional.rng import GOLDEN, mixed


class Held(NamedTuple):
    """Distinct inputs, ordered by hash.

    Args:
        hashes: ``int64[M]``.
        weights: ``int64[M]``, how many rows have each input.
        columns: ``float64[M, C]``, the statistics of each.
        complete: whether no input was left out, so that the weights add up to all rows.
    """

    hashes: Tensor
    weights: Tensor
    columns: Tensor
    complete: bool = True

    @classmethod
    def merged(cls, hashes: Tensor, weights: Tensor, columns: Tensor, quota: int) -> "Held":
        """The ``quota`` smallest distinct hashes; of rows with equal hashes, the columns of the first are kept."""
        distinct, total, first = _distinct(hashes, weights)
        # copies, since views would keep the whole tensors alive
        kept = distinct[:quota].clone(), total[:quota].clone(), columns[first[:quota]]
        return cls(*kept, len(distinct) <= quota)

    def rows(self, quota: int) -> Tensor:
        """Indices ``int64[R]`` of at most ``quota`` rows, each input as often as it occurs, in a hashed order."""
        weights = self.weights.clamp(max=quota)
        index = torch.arange(len(weights), device="cpu").repeat_interleave(weights)
        number = torch.arange(len(index), device="cpu") - (weights.cumsum(dim=0) - weights)[index]
        return index[mixed(self.hashes[index] + number * GOLDEN).argsort(stable=True)[:quota]]


def _distinct(hashes: Tensor, weights: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct hashes in order, the summed weight of each (1 per row by default), and where each first occurs."""
    distinct, which = torch.unique(hashes, return_inverse=True)
    weights = torch.ones_like(hashes) if weights is None else weights
    total = torch.zeros_like(distinct).index_add(0, which, weights)
    place = torch.arange(len(hashes), device="cpu")
    first = torch.full_like(distinct, len(hashes)).scatter_reduce(0, which, place, "amin")
    return distinct, total, first


def nothing(width: int) -> Held:
    """An empty `Held`."""
    none = torch.zeros(0, dtype=torch.int64, device="cpu")
    return Held(none, none, torch.zeros(0, width, dtype=torch.float64, device="cpu"))


class Sketch:
    """Keeps the inputs with the smallest hashes among those seen so far: the same in any order, batching or sharding.

    An input that has been dropped cannot come back, so the counts of the others are exact.

    Args:
        quota: how many distinct inputs it holds at most.
    """

    def __init__(self, quota: int) -> None:
        self.quota = quota
        self.held: Held | None = None

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "held": None}

    def clear(self) -> None:
        """Forget everything."""
        self.held = None

    def offer(self, hashes: Tensor, find: Callable[[Tensor], Tensor]) -> None:
        """Consider a batch.

        Args:
            hashes: ``int64[N]`` on the CPU.
            find: maps indices into the batch to the statistics to keep, ``float64[M, C]``; called only with new inputs
                that may be kept, and not at all if there are none.
        """
        distinct, counts, first = _distinct(hashes)
        held = self.held
        known = torch.isin(distinct, held.hashes) if held is not None else torch.zeros_like(distinct, dtype=torch.bool)
        new = ~known
        if held is not None and len(held.hashes) == self.quota:
            new &= distinct < held.hashes[-1]
        new &= new.cumsum(dim=0) <= self.quota
        if held is None and not new.any():
            return
        found = find(first[new]) if new.any() else held.columns[:0]  # type: ignore[union-attr]
        held = nothing(found.shape[1]) if held is None else held
        # the columns of known inputs come first, in `held`, so these zeros are never used
        none = torch.zeros(int(known.sum()), found.shape[1], dtype=torch.float64, device="cpu")
        merged = Held.merged(
            torch.cat([held.hashes, distinct[known], distinct[new]]),
            torch.cat([held.weights, counts[known], counts[new]]),
            torch.cat([held.columns, none, found]),
            self.quota,
        )
        complete = held.complete and merged.complete and bool((known | new).all())
        self.held = merged._replace(complete=complete)

    def gather(self, trainer: Trainer) -> Held:
        """The inputs of all ranks, equal on each; a collective, which every rank must call."""
        mine = self.held
        width = 0 if mine is None else mine.columns.shape[1]
        lost = 0 if mine is None or mine.complete else 1
        width, lost = summed(trainer, torch.tensor([width, lost], device="cpu"), "max").tolist()
        keys = torch.zeros(self.quota, 2, dtype=torch.int64, device="cpu")
        columns = torch.zeros(self.quota, width, dtype=torch.float64, device="cpu")
        if mine is not None:
            keys[: len(mine.hashes)] = torch.stack([mine.hashes, mine.weights], dim=1)
            columns[: len(mine.hashes)] = mine.columns
        keys, columns = (everywhere(trainer, x).flatten(0, 1) for x in (keys, columns))
        used = keys[:, 1] > 0
        found = Held.merged(keys[used, 0], keys[used, 1], columns[used], self.quota)
        return found._replace(complete=found.complete and not lost)
