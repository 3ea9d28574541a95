"""Explanations in canonical form: which numbers are compared, and which variable each belongs to."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional import drift
from xai_lightning.functional.attribution import (
    Layout,
    Variables,
    grid_variables,
    per_variable,
    table_variables,
)
from xai_lightning.functional.attribution.variables import MAX_NAMED, Where
from xai_lightning.functional.precision import exact
from xai_lightning.functional.tables import choose

WINDOWS, CELLS = 14, 28


class Columns(NamedTuple):
    """The columns of canonical maps.

    Args:
        names: names of the variables that have columns.
        owner: ``int64[D]``, index of the variable that each column belongs to; -1 for none.
    """

    names: tuple[str, ...] = ()
    owner: Tensor = torch.empty(0, dtype=torch.int64, device="cpu")

    def of(self, names: Sequence[str]) -> list[int]:
        """Columns of the variables called ``names``.

        Raises:
            ValueError: if there is no such variable; lists the known ones.
        """
        wanted = [self.names.index(choose("feature", name, self.names)) for name in names]
        return torch.isin(self.owner, torch.tensor(wanted, device="cpu")).nonzero().flatten().tolist()

    def importance(self, maps: Tensor) -> Tensor:
        """``float[M, V]``: absolute attribution of each variable in each sample, summed over its columns."""
        found = maps.new_zeros(len(maps), len(self.names))
        named = (self.owner >= 0).nonzero().flatten()
        return found.index_add_(1, self.owner[named], maps[:, named].abs())


class Canon:
    """The canonical form of attributions to one or several inputs.

    Args:
        inputs: the inputs of the first batch.
        names: names of the further inputs.
        features: names of the first input's columns (table) or channels (series).
        embedded: whether the first input holds token ids that are explained through their embedding.
        tokens: whether the first input holds token ids; positions in a text are not variables.
        time_first: whether series are ``[N, T, C]`` rather than ``[N, C, T]``.
        cells: number of patches per side into which images are cut to switch variables off.

    Attributes:
        first: how many leading columns of maps belong to the first input.

    Raises:
        ValueError: if ``features`` is given for an input that has no columns or channels.
    """

    def __init__(
        self,
        inputs: Sequence[Tensor],
        names: Sequence[str],
        features: Mapping[str, Where] | None,
        *,
        embedded: bool = False,
        tokens: bool = False,
        time_first: bool = False,
        cells: int = 14,
    ) -> None:
        self.time_first = time_first
        self.layouts: tuple[Layout, ...] = tuple(_layout(x, embedded and i == 0) for i, x in enumerate(inputs))
        # images of whole numbers differ from other images only in which methods can explain them
        self.forms: tuple[Layout, ...] = tuple(
            "image" if layout == "integers" and x.ndim == 4 else layout
            for x, layout in zip(inputs, self.layouts, strict=True)
        )
        nameable = inputs[0].ndim == 2 or self.forms[0] == "series"
        if features is not None and (self.forms[0] in ("image", "tokens") or not nameable):
            shape = list(inputs[0].shape)
            raise ValueError(
                "features=... names columns of a table [N, D] or channels of a series [N, C, T], but the inputs are "
                f"{shape}; leave features out"
            )
        self.blocks: tuple[Variables, ...] = ()
        self.columns, place, self.first = Columns(), 0, 0
        for i, (x, layout) in enumerate(zip(inputs, self.forms, strict=True)):
            blocks, columns = self._learned(x, layout, features if i == 0 else None, cells)
            if tokens and i == 0 and x.ndim == 2:
                columns = _unnamed(len(columns.owner))
            self.first = self.first or len(columns.owner)
            prefix = "" if i == 0 else f"{names[i - 1]}."
            self.blocks += (blocks,)
            owner = torch.where(columns.owner < 0, -1, columns.owner + place)
            place += len(columns.names)
            self.columns = Columns(
                (*self.columns.names, *(prefix + name for name in columns.names)),
                torch.cat([self.columns.owner, owner]),
            )

    @property
    def number(self) -> int:
        """How many variables there are for methods that switch variables off."""
        return sum(each.number for each in self.blocks)

    def _learned(
        self, x: Tensor, layout: Layout, features: Mapping[str, Where] | None, cells: int
    ) -> tuple[Variables, Columns]:
        shape = tuple(x.shape[1:])
        if layout == "image":
            return grid_variables(shape, cells), _unnamed(drift.pool(torch.zeros(1, *shape, device="cpu")).shape[1])
        if layout == "series":
            return self._series(shape, features)
        if layout == "tokens":
            return table_variables(shape[0]), _unnamed(shape[0])
        if len(shape) == 1:
            variables = table_variables(shape[0], features)
            named = Columns(variables.names, torch.arange(variables.number, device="cpu"))
            return variables, named if variables.names else _unnamed(variables.number)
        blocks = grid_variables(shape, cells)
        return blocks, _unnamed(blocks.mask.numel())

    def _series(self, shape: tuple[int, ...], features: Mapping[str, Where] | None) -> tuple[Variables, Columns]:
        """Blocks to switch off, each a window of one channel, and columns, whose variables are the channels."""
        channels, steps = (shape[1], shape[0]) if self.time_first else shape
        named = table_variables(channels, features)
        windows = min(WINDOWS, steps)
        block = torch.arange(channels, device="cpu")[:, None] * windows
        block = block + torch.arange(steps, device="cpu") * windows // steps
        names = tuple(name.replace("column_", "channel_") for name in named.names) if channels <= MAX_NAMED else ()
        cells = min(CELLS, steps)
        columns = Columns(names, named.mask[0].repeat_interleave(cells)) if names else _unnamed(channels * cells)
        return Variables((), (block.T if self.time_first else block)[None].contiguous()), columns

    def canonical(self, values: Sequence[Tensor]) -> Tensor:
        """Canonical maps ``float64[N, D]`` of attributions, given as one tensor per input."""
        parts = [exact(self._one(v, i)) for i, v in enumerate(values)]
        return drift.pool(torch.cat(parts, dim=1))

    def _one(self, values: Tensor, i: int) -> Tensor:
        # a cell holds a sum over positions: with means, images and long series would count less than columns of a table
        if self.forms[i] == "image":
            pooled = drift.pool(values)
            return pooled * (math.prod(values.shape[2:]) / pooled.shape[1])
        if self.layouts[i] == "series":
            values = values.transpose(1, 2) if self.time_first else values
            cells = min(CELLS, values.shape[2])
            means = torch.nn.functional.adaptive_avg_pool1d(exact(values), cells)
            return means.flatten(1) * (values.shape[2] / cells)
        if self.layouts[i] == "tokens":
            return values.sum(dim=2) if values.ndim == 3 else values
        return per_variable(values, self.blocks[i]) if values.ndim == 2 else values.flatten(1)

    def spatial(self, values: Tensor, i: int) -> Tensor:
        """The attributions to input ``i`` over its positions: ``[N, H, W]``, ``[N, T]`` or ``[N, D]``."""
        if self.forms[i] == "image":
            return values.sum(dim=1)
        if self.layouts[i] == "series":
            return values.sum(dim=2 if self.time_first else 1)
        return values.sum(dim=2) if values.ndim == 3 else values


def _layout(x: Tensor, embedded: bool) -> Layout:
    if embedded:
        return "tokens"
    if not x.is_floating_point():
        return "integers"
    return "image" if x.ndim == 4 else "series" if x.ndim == 3 else "table"


def _unnamed(columns: int) -> Columns:
    return Columns((), torch.full((columns,), -1, device="cpu"))
