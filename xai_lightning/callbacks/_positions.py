"""Which rows of the dataset the samples of a batch are."""

from typing import Any

import torch
from torch import Tensor
from torch.utils.data import BatchSampler, DistributedSampler, IterableDataset, SequentialSampler


class Positions:
    """Dataset rows of the samples of each batch, in the order in which the loader yields them.

    A ``DistributedSampler`` pads: it repeats leading rows so that all ranks get equally many. The repeated samples are
    marked, so that nothing is counted twice (trap 44).

    Args:
        loader: the loader as Lightning prepared it.
    """

    def __init__(self, loader: Any) -> None:
        batches = getattr(loader, "batch_sampler", None)
        self._in_order = batches is None or type(batches) is BatchSampler
        inner = getattr(batches, "sampler", None)
        self._sampler = getattr(loader, "sampler", None) if self._in_order else inner
        # without automatic batching, each of the sampler's indices is a whole batch
        self._by_batch = loader is not None and batches is None
        self._iterable = isinstance(getattr(loader, "dataset", None), IterableDataset)
        self._seen = 0
        self._order: Tensor | None = None
        sampler: Any = self._sampler
        #: Whether the loader yields some samples twice.
        self.pads = isinstance(sampler, DistributedSampler) and sampler.total_size > len(sampler.dataset)  # type: ignore[arg-type]
        if self.pads and not self._in_order:
            raise ValueError(
                f"{type(batches).__name__} draws batches over a DistributedSampler that repeats rows, so it is "
                "unknown which samples would be counted twice; make the length of the dataset a multiple of the "
                "number of ranks"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_sampler": None}

    def advance(self, n: int) -> Tensor:
        """Which of the next ``n`` samples are real, ``bool[N]``; advances by these samples."""
        first, self._seen = self._seen, self._seen + (1 if self._by_batch else n)
        sampler = self._sampler
        if not isinstance(sampler, DistributedSampler):
            return torch.ones(n, dtype=torch.bool, device="cpu")
        local = torch.arange(first, self._seen, device="cpu").expand(n)
        real: Tensor = local * sampler.num_replicas + sampler.rank < len(sampler.dataset)  # type: ignore[arg-type]
        return real

    def rows(self, n: int) -> Tensor:
        """Dataset rows ``int64[N]`` of the ``n`` samples passed by the last `advance`.

        Raises:
            ValueError: if the loader shuffles, or its order is unknown.
        """
        first = self._seen - n
        if self._by_batch or not self._in_order:
            raise ValueError(
                f"groups_from=Table(...) needs a loader that makes its batches (of {n} here) of consecutive rows; "
                "this one does not. Put the attribute into the batch, or use Column(...) or a callable."
            )
        if isinstance(self._sampler, SequentialSampler):
            return torch.arange(first, first + n, device="cpu")
        if isinstance(self._sampler, DistributedSampler) and not self._sampler.shuffle:
            if self._order is None:
                self._order = torch.tensor(list(self._sampler), dtype=torch.int64, device="cpu")
            return self._order[first : first + n]
        seen = "has an iterable dataset, whose rows have no indices"
        what = seen if self._iterable else f"has the sampler {type(self._sampler).__name__}"
        raise ValueError(
            f"groups_from=Table(...) needs a validation loader that does not shuffle; this one {what}. Put the "
            "attribute into the batch, or use Column(...) or a callable."
        )
