"""The variables of an input: how its columns are named, and which columns or pixels belong together."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.functional.tables import choose

MAX_NAMED = 64

Where = int | Sequence[int] | slice


@dataclass(frozen=True, eq=False)
class Variables:
    """The variables of one input.

    Args:
        names: one per variable; empty where variables have no names (pixels).
        mask: ``int64[1, ...]`` in the shape of an input: the variable that each number belongs to, from 0.
    """

    names: tuple[str, ...]
    mask: Tensor

    @cached_property
    def number(self) -> int:
        """Number of variables."""
        return int(self.mask.max()) + 1

    @cached_property
    def sizes(self) -> Tensor:
        """How many numbers each variable has, ``int64[V]``."""
        return torch.bincount(self.mask.flatten())

    def indices(self, names: Sequence[str]) -> list[int]:
        """Positions of the variables called ``names``.

        Raises:
            ValueError: if there is no such variable; lists the known ones.
        """
        return [self.names.index(choose("feature", name, self.names)) for name in names]


def table_variables(columns: int, features: Mapping[str, Where] | None = None) -> Variables:
    """Variables of a table.

    Args:
        columns: number of columns.
        features: maps each name to a column, several columns, or a slice; columns left out become variables of their
            own. Without it each column is a variable, with a name if there are at most 64.

    Returns:
        The variables; their mask has the shape ``[1, columns]``.

    Raises:
        ValueError: if a column does not exist or belongs to two variables.

    Example:
        >>> table_variables(4, {"age": 0, "job": slice(1, 3)}).names
        ('age', 'job', 'column_3')
    """
    mask = torch.full((columns,), -1, device="cpu")
    if features is None:
        names = tuple(f"column_{i}" for i in range(columns)) if columns <= MAX_NAMED else ()
        return Variables(names, torch.arange(columns, device="cpu")[None])
    for number, (name, where) in enumerate(features.items()):
        places = _places(name, where, columns)
        taken = [place for place in places if mask[place] >= 0]
        if taken:
            raise ValueError(
                f"features: column {taken[0]} belongs to both {name!r} and {list(features)[int(mask[taken[0]])]!r}"
            )
        mask[places] = number
    loose = (mask < 0).nonzero().flatten()
    mask[loose] = len(features) + torch.arange(len(loose), device="cpu")
    names = (*features, *(f"column_{i}" for i in loose.tolist()))
    if len({tags.part(name) for name in names}) < len(names):
        raise ValueError(f"features: names must be distinct, even after '/' is replaced by '_'; got {list(names)}")
    return Variables(names, mask[None])


def _places(name: str, where: Where, columns: int) -> list[int]:
    places = (
        [where] if isinstance(where, int) else list(range(columns))[where] if isinstance(where, slice) else list(where)
    )
    if not places or not all(0 <= place < columns for place in places):
        raise ValueError(f"features[{name!r}] must name columns in 0 .. {columns - 1}; got {where!r}")
    return places


def grid_variables(shape: Sequence[int], cells: int = 14) -> Variables:
    """Patches of an image over all channels, at most ``cells`` per side; for methods that switch variables off.

    Args:
        shape: ``(C, H, W)`` of one image, or the shape of any other input, where each number is a variable.
        cells: patches per side.

    Example:
        >>> grid_variables((3, 28, 28)).number
        196
    """
    if len(shape) != 3:
        return Variables((), torch.arange(math.prod(shape), device="cpu").reshape(1, *shape))
    channels, height, width = shape
    down, across = (torch.arange(n, device="cpu") * min(cells, n) // n for n in (height, width))
    patches = down[:, None] * min(cells, width) + across[None, :]
    return Variables((), patches.expand(1, channels, height, width).contiguous())


def per_variable(attributions: Tensor, variables: Variables) -> Tensor:
    """Attributions summed within each variable, which keeps completeness.

    Args:
        attributions: floating ``[N, ...]``.
        variables: V variables of one input.

    Returns:
        ``[N, V]``.

    Example:
        >>> per_variable(torch.tensor([[1.0, 2.0, 3.0]]), table_variables(3, {"a": [0, 2], "b": 1}))
        tensor([[4., 2.]])
    """
    flat = attributions.flatten(1)
    out = torch.zeros(len(flat), variables.number, dtype=flat.dtype, device=flat.device)
    return out.index_add_(1, variables.mask.flatten().to(flat.device), flat)
