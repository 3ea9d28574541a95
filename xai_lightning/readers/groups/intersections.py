"""Pairs of attributes, whose groups are the combinations of both attributes' groups."""

import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from xai_lightning.readers.groups.discovery import moves
from xai_lightning.readers.groups.values import some
from xai_lightning.readers.groups.vocabulary import Vocabulary

MOST_CELLS = 1_024


@dataclass(frozen=True)
class Intersection:
    """The combined groups of two attributes.

    Rows are all combinations of a group of the first attribute with one of the second, whether or not they occur, with
    the first attribute varying slowest; then ``missing``, for samples in which either attribute is missing or unknown.

    While either attribute is still being discovered, its groups have no order yet. Rows are then all combinations of
    the attributes' provisional rows, including ``missing`` and ``unknown``: each sample keeps both of its places, and
    `moves` maps the counts exactly into the rows that are fixed later.

    Args:
        first: vocabulary of the first attribute.
        second: vocabulary of the second attribute.
    """

    first: Vocabulary
    second: Vocabulary

    @property
    def attribute(self) -> str:
        """The name under which it is logged, such as ``"race+sex"``."""
        return f"{self.first.attribute}+{self.second.attribute}"

    @property
    def attributes(self) -> tuple[str, str]:
        """The two attributes."""
        return self.first.attribute, self.second.attribute

    @property
    def undecided(self) -> bool:
        """Whether the groups of either attribute are still being discovered."""
        return bool(self.first.places or self.second.places)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, such as ``"Black+Female"``, in the order of their rows; empty while undecided."""
        if self.undecided:
            return ()
        return tuple(f"{one}+{other}" for one, other in itertools.product(self.first.names, self.second.names))

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows that are counted."""
        if self.undecided:
            return tuple(f"{one}+{other}" for one, other in itertools.product(self.first.rows, self.second.rows))
        return (*self.names, "missing")

    def of(self, first: Tensor, second: Tensor) -> Tensor:
        """The rows of samples.

        Args:
            first: ``int64[N]``, their rows in the first attribute.
            second: ``int64[N]``, their rows in the second.

        Returns:
            ``int64[N]``, see `rows`.

        Example:
            >>> from xai_lightning.readers.groups import vocabularies
            >>> both = vocabularies({"race": ["Black", "White"], "sex": ["Female", "Male"]})
            >>> pair = intersect(both)["race+sex"]
            >>> pair.names
            ('Black+Female', 'Black+Male', 'White+Female', 'White+Male')
            >>> pair.of(torch.tensor([1, 0, 2]), torch.tensor([0, 1, 1])).tolist()  # 2: missing
            [2, 1, 4]
        """
        if self.undecided:
            return first * len(self.second.rows) + second
        heights = len(self.first.names), len(self.second.names)
        return torch.where((first < heights[0]) & (second < heights[1]), first * heights[1] + second, len(self.names))

    def moves(self, after: "Intersection") -> Tensor:
        """Maps each row to its row after the attributes were fixed, see `xai_lightning.readers.groups.moves`.

        Args:
            after: the same pair with fixed vocabularies.

        Returns:
            ``int64[R]``: for each row of ``self``, which is undecided, the row of ``after``.
        """
        first, second = moves(self.first, after.first), moves(self.second, after.second)
        return after.of(*(x.flatten() for x in torch.meshgrid(first, second, indexing="ij")))


def intersect(vocabularies: Mapping[str, Vocabulary], order: int = 2) -> dict[str, Intersection]:
    """The intersections of attributes, by name.

    Args:
        vocabularies: at least two, by attribute; names and rows follow their order.
        order: number of attributes to combine; must be 2.

    Returns:
        An `Intersection` for every pair, such as ``"race+sex"`` for the attributes ``race`` and ``sex``.

    Raises:
        ValueError: on another order, fewer than two attributes, an attribute or group whose name could be mistaken for
            that of an intersection, or more than 1,024 groups (for discovered attributes, the most there may be).
    """
    if order != 2:
        raise ValueError(f"intersections must be 2 (pairs of attributes); got {order!r}")
    if len(vocabularies) < 2:
        raise ValueError(f"intersections=2 needs at least two attributes; got {list(vocabularies)}")
    pairs = [Intersection(*both) for both in itertools.combinations(vocabularies.values(), 2)]
    names = [*vocabularies, *(pair.attribute for pair in pairs)]
    if len(set(names)) < len(names):
        raise ValueError(f"names of attributes and of their intersections must be distinct; got {names}")
    for pair in pairs:
        _check_cells(pair)
    return {pair.attribute: pair for pair in pairs}


def _check_cells(pair: Intersection) -> None:
    one, other = (len(v.names) + v.places for v in (pair.first, pair.second))
    if one * other > MOST_CELLS:
        raise ValueError(
            f"the intersection {pair.attribute!r} has {one:,} x {other:,} = {one * other:,} groups; at most "
            f"{MOST_CELLS:,} are allowed. Declare fewer groups, lower max_groups, or leave intersections out."
        )
    if len(set(pair.names)) < len(pair.names):
        raise ValueError(
            f"groups of the intersection {pair.attribute!r} must be distinct; got {some(pair.names, len(pair.names))}. "
            "Leave '+' out of the names of groups."
        )
