"""Running statistics of the watched layers in bounded memory, and their merge over ranks."""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_lightning._lightning import Trainer
from xai_lightning.callbacks._selection import Kept
from xai_lightning.callbacks._trainer import everywhere
from xai_lightning.functional.activation import (
    Accumulator,
    Measured,
    Moments,
    Workspace,
    empty,
    fused,
    pack,
    selected,
    union,
    unpack,
)
from xai_lightning.functional.activation.accumulator import outside_inference

WIDTHS = 8
# outputs of up to a fourth of this many numbers, and shares of samples up to three fourths, are copied and reduced once
# three fourths are full (for one layer, and over all layers): reducing ten small outputs at once takes hardly longer
# than reducing one
_COPIED, _COPIED_OF_ALL = 2**19, 2**23
# compiled loops reduce at once outputs of at least this many numbers per unit: with fewer, the mean of some unit is
# nearly always far from the shift
MANY = 64


@dataclass
class _Copies:
    """Copies of small outputs of one layer that agree in dtype, device, shape (except samples) and unit dimension.

    Args:
        likeness: these common properties.
        unit_dim: the dimension that holds the units.
        measured: what is measured in them.
        rows: buffer ``[M, ...]``, allocated once, so that memory is the same from batch to batch (law 7).
        filled: number of rows in use.
        calls: number of outputs that they come from.
    """

    likeness: tuple[Any, ...]
    unit_dim: int
    measured: Measured
    rows: Tensor
    filled: int = 0
    calls: int = 0

    def __post_init__(self) -> None:
        self._array: Any = None
        self._shape: tuple[int, ...] = ()
        self._each, units = math.prod(self.rows.shape[1:]), self.rows.shape[self.unit_dim]
        # outputs of this many rows are reduced at once instead of copied
        self._many = -(-MANY * units // max(self._each, 1))

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_array": None}

    def add_again(self, h: Tensor, keep: Kept) -> bool:
        """Add the drawn rows of an output in the same way as the previous one's; False if the two are not alike."""
        array, shape = self._array, h.shape
        if array is None or keep.array is None or shape != self._shape or keep.n != shape[0]:
            return False
        if keep.count >= self._many or not self.fits(keep.count) or not fused.takes_rows(h):
            return False
        fused.copy_rows(h, keep.array, keep.count, array, self.filled * self._each)
        self.filled, self.calls = self.filled + keep.count, self.calls + 1
        return True

    def fits(self, n: int) -> bool:
        """Whether there is room for ``n`` more rows."""
        return self.filled + n <= self.rows.shape[0]

    def add(self, h: Tensor, keep: Kept | None) -> None:
        """Copy rows, since an output may be overwritten later by an in-place non-linearity (trap 90)."""
        end = self.filled + (len(h) if keep is None else keep.count)
        if keep is not None and keep.array is not None and fused.takes_rows(h):
            if self._array is None:
                self._array = self.rows.view(-1).view(torch.int32).numpy()
            self._shape = h.shape
            fused.copy_rows(h, keep.array, keep.count, self._array, self.filled * self._each)
        elif keep is None:
            self.rows[self.filled : end].copy_(h)
        else:
            torch.index_select(h, 0, keep.rows, out=self.rows[self.filled : end])
        self.filled, self.calls = end, self.calls + 1


class Running:
    """Running statistics of each layer, per width at which it was called (one ReLU may serve several layers).

    It holds some thirty numbers per unit, layer and width and, where compiled loops do not reduce outputs at once,
    copies of at most eight million numbers that are not yet reduced.

    Args:
        layers: number of watched layers.
    """

    def __init__(self, layers: int = 1) -> None:
        self._most = min(_COPIED, _COPIED_OF_ALL // max(layers, 1))
        self._layers: dict[tuple[str, int], Accumulator] = {}
        self._copies: dict[str, _Copies] = {}
        self._workspace = Workspace()
        self.steps = 0

    def begin(self, keep: Kept | None) -> bool:
        """Begin a step in which only ``keep`` is observed; return whether that is anything at all."""
        some = keep is None or bool(keep)
        self.steps += some
        return some

    def again(self, name: str, h: Tensor, keep: Kept | None) -> bool:
        """Observe an output by copying it like the previous one, which mostly works; False if it was not possible."""
        copies = self._copies.get(name)
        return copies is not None and keep is not None and copies.add_again(h, keep)

    def observe(self, name: str, h: Tensor, unit_dim: int, keep: Kept | None, measured: Measured) -> None:
        """Observe an output of a layer, see `xai_lightning.functional.activation.observe`.

        Raises:
            ValueError: if the layer has been called at more than 8 widths, so that this dimension holds no units.
        """
        if keep is not None and not keep.whole:
            self._select(name, h, unit_dim, keep.mask, measured)
            return
        h = h.detach() if h.requires_grad else h
        n, each = h.shape[0] if keep is None else keep.count, math.prod(h.shape[1:])
        if n * each >= MANY * h.shape[unit_dim] and fused.takes(h):
            values = h if keep is None else h.index_select(0, keep.rows)
            self._layer(name, values, unit_dim, measured).add(values, unit_dim, n)
            return
        room = self._most * 3 // 4
        if n * each > (room // 3 if keep is None else room):
            self._select(name, h, unit_dim, None if keep is None else keep.mask, measured)
            return
        copies, likeness = self._copies.get(name), (h.dtype, h.device, h.shape[1:], unit_dim)
        if copies is None or copies.likeness != likeness or not copies.fits(n):
            self._reduce(name)
            copies = self._room_for(name, likeness, max(room // max(each, 1), n), measured)
        copies.add(h, keep)

    @outside_inference
    def _select(self, name: str, h: Tensor, unit_dim: int, keep: Tensor | None, measured: Measured) -> None:
        values, dim, samples = selected(h, unit_dim, keep)
        self._layer(name, values, dim, measured).add(values, dim, samples)

    @outside_inference
    def _room_for(self, name: str, likeness: tuple[Any, ...], rows: int, measured: Measured) -> _Copies:
        copies = self._copies.get(name)
        if copies is None or copies.likeness != likeness:
            dtype, device, shape, unit_dim = likeness
            # zeros, because a pickle made during a validation must not contain stale memory
            room = torch.zeros(rows, *shape, dtype=dtype, device=device)
            copies = self._copies[name] = _Copies(likeness, unit_dim, measured, room)
        return copies

    @outside_inference
    def _reduce(self, name: str) -> None:
        copies = self._copies.get(name)
        if copies is not None and copies.calls:
            values, dim, samples = selected(copies.rows[: copies.filled], copies.unit_dim)
            self._layer(name, values, dim, copies.measured).add(values, dim, samples, copies.calls)
            copies.filled = copies.calls = 0

    def _layer(self, name: str, values: Tensor, unit_dim: int, measured: Measured) -> Accumulator:
        """The accumulator of a layer at the width of ``values``."""
        key = name, values.shape[unit_dim]
        if key not in self._layers:
            self._layers[key] = Accumulator(key[1], measured, values.device, self._workspace)
            widths = [width for other, width in self._layers if other == name]
            if len(widths) > WIDTHS:
                raise ValueError(
                    f"layer {name!r}: the dimension taken for its units has varying sizes ({sorted(widths)}), so it "
                    "does not hold units; leave it out with layers=[...]"
                )
        return self._layers[key]

    def close(self) -> None:
        """Reduce the remaining copies."""
        for name in self._copies:
            self._reduce(name)
        self._copies.clear()
        self._workspace.clear()

    def merged(self) -> dict[tuple[str, int], Moments]:
        """The state of each layer and width in this process."""
        return {key: layer.state() for key, layer in self._layers.items()}


def gathered(trainer: Trainer, running: Running, names: list[str]) -> tuple[dict[tuple[str, int], Moments], int]:
    """The merged states and total steps of all ranks; two collectives, whose shapes are equal on all ranks.

    Args:
        trainer: the trainer.
        running: running statistics of this rank.
        names: names of the layers, in the same order on all ranks.
    """
    own = running.merged()
    if trainer.world_size == 1:
        return own, running.steps
    # ranks may have met different widths, and must agree on all of them before they exchange states
    mine = torch.zeros(len(names), WIDTHS, dtype=torch.int64, device="cpu")
    for row, name in enumerate(names):
        widths = sorted(width for other, width in own if other == name)
        mine[row, : len(widths)] = torch.tensor(widths, dtype=torch.int64, device="cpu")
    table = everywhere(trainer, mine)
    seen = [sorted(set(table[:, row].flatten().tolist()) - {0}) for row in range(len(names))]
    keys = [(name, width) for name, each in zip(names, seen, strict=True) for width in each]
    states = [pack(own[key]).cpu() if key in own else pack(empty(key[1])) for key in keys]
    vector = torch.cat([torch.tensor([running.steps], dtype=torch.float64, device="cpu"), *states])
    ranks = everywhere(trainer, vector)
    sizes = [len(state) for state in states]
    columns = torch.split(ranks[:, 1:], sizes, dim=1)
    merged = {k: union([unpack(part, k[1]) for part in column]) for k, column in zip(keys, columns, strict=True)}
    return merged, int(ranks[:, 0].sum())
