"""Selects the part of a batch that is observed: without padding, and only a share of the samples."""

from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.attribution import output_tensor
from xai_lightning.readers.batch import describe

Mask = str | int | Callable[[Any], Tensor]


class Kept:
    """Which samples of a step are observed, or which positions within them.

    Args:
        mask: ``bool[N, ...]``; None if the samples are given by their indices.
        array: ``int64`` numpy array that begins with these indices, and may be overwritten after the step.
        count: number of indices.
        n: number of samples in the step.
    """

    def __init__(self, mask: Tensor | None, array: Any = None, count: int = 0, n: int = 0) -> None:
        self.array, self.whole = array, mask is None or mask.dim() == 1
        if mask is None:
            self.count, self.n = count, n
        else:
            self.mask, self.n = mask, len(mask)

    @cached_property
    def mask(self) -> Tensor:
        """The selection as ``bool[N, ...]``."""
        return torch.zeros(self.n, dtype=torch.bool, device="cpu").index_fill_(0, self.rows, True)

    @cached_property
    def rows(self) -> Tensor:
        """Indices of the samples that are observed as a whole, ``int64[M]``; found once for all layers of a step."""
        return self.mask.nonzero().flatten() if self.array is None else torch.from_numpy(self.array[: self.count])

    @cached_property
    def count(self) -> int:
        """Number of these samples."""
        return len(self.rows)

    def __bool__(self) -> bool:
        return bool(self.count if self.whole else self.mask.any())

    def fitted(self, shape: Sequence[int], device: torch.device) -> "Kept | None":
        """The same selection for an output of ``shape``, without its dimension of units: see the function `fitted`."""
        if self.array is not None and shape[0] == self.n and device.type == "cpu":
            return self
        found = fitted(self.mask.to(device), shape)
        return found if found is None else self if found is self.mask else Kept(found)


def readable(output: Any) -> Tensor | None:
    """The dense real tensor that a module returned, detached; None if there is no such tensor."""
    try:
        h = output_tensor(output)
    except ValueError:
        return None
    if h.is_complex() or h.is_quantized or h.is_nested or h.layout != torch.strided:
        return None
    return h.detach() if h.requires_grad else h


def mask_of(batch: Any, where: Mask) -> Tensor:
    """The mask of a batch, ``bool[N, ...]``: true (non-zero) where there is no padding.

    Raises:
        ValueError: if the batch has no such entry, or it is not a tensor with one row per sample.
    """
    known = isinstance(batch, Mapping) and where in batch
    known |= isinstance(batch, list | tuple) and isinstance(where, int) and where < len(batch)
    if not callable(where) and not known:
        raise ValueError(f"mask={where!r} is not an entry of this batch: {describe(batch)}")
    mask = where(batch) if callable(where) else batch[where]
    if not isinstance(mask, Tensor) or mask.dim() == 0:
        raise ValueError(f"mask must be a tensor with one row per sample; mask={where!r} gave {describe(mask)}")
    return mask.detach().bool()


def both(rows: Tensor | None, mask: Tensor | None) -> Tensor | None:
    """Combine a mask of samples with a mask of positions within them.

    Raises:
        ValueError: if their numbers of rows differ.
    """
    if rows is None or mask is None:
        return mask if rows is None else rows
    if len(rows) != len(mask):
        raise ValueError(f"mask must have one row per sample, {len(rows)} in all; got {describe(mask)}")
    return mask & rows.to(mask.device).view(-1, *[1] * (mask.dim() - 1))


def fitted(keep: Tensor, shape: Sequence[int]) -> Tensor | None:
    """Fit ``keep`` to an output of ``shape``, without its dimension of units.

    The output's first dimensions may be those of ``keep``, those in the order (time, sample), or all of them flattened
    into one. If the output lacks the further dimensions of ``keep``, a sample is kept if any of its positions is.

    Returns:
        ``bool`` in the first dimensions of ``shape``; None if ``keep`` does not fit.
    """
    shape, n = tuple(shape), len(keep)
    if shape[: keep.dim()] == keep.shape:
        return keep
    # outputs may have time first, or time folded into the samples
    if keep.dim() > 1 and shape[:2] == keep.shape[1::-1]:
        return keep.transpose(0, 1)
    if keep.dim() > 1 and shape[0] == keep.numel():
        return keep.flatten()
    rows = keep.reshape(n, -1).any(1)
    if shape[0] == n:
        return rows
    if keep.dim() == 1 and len(shape) > 1 and shape[1] == n:
        return rows.expand(shape[0], n)
    if keep.dim() == 1 and n and shape[0] % n == 0:
        return rows.repeat_interleave(shape[0] // n)
    return None
