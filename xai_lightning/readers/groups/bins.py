"""Intervals of a continuous attribute as groups."""

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact, exact_device


@dataclass(frozen=True)
class Bins:
    """The groups of a continuous attribute: the intervals between given edges.

    An interval includes its lower edge but not its upper one. Values below the first edge, and values from the last
    edge on, form groups of their own, which include infinite values. None and NaN are ``missing``; -1 is a value like
    any other.

    What it does not show: differences within an interval, and what other edges would have shown. Choose edges for
    their meaning, before seeing the model.

    Args:
        edges: at least one finite number, increasing, in the unit of the attribute.

    Raises:
        ValueError: if there is no edge, or one is not finite or not above the previous one.
        TypeError: if an edge is not a number.

    Example:
        >>> Bins([25, 45, 65]).names
        ('below 25', '25 to 45', '45 to 65', '65 and above')
    """

    edges: Sequence[float]

    def __post_init__(self) -> None:
        if isinstance(self.edges, str | bytes) or not hasattr(self.edges, "__iter__"):
            raise TypeError(f"Bins needs a list of numbers such as [25, 45, 65]; got {self.edges!r}")
        edges = tuple(self.edges)
        wrong = [edge for edge in edges if isinstance(edge, bool) or not isinstance(edge, int | float)]
        if wrong:
            raise TypeError(f"edges of Bins must be numbers; got {wrong[0]!r} in {list(edges)}")
        if not edges or not all(math.isfinite(edge) for edge in edges):
            raise ValueError(f"Bins needs at least one edge, and finite ones only; got {list(edges)}")
        fallen = [(a, b) for a, b in itertools.pairwise(edges) if not a < b]
        if fallen:
            raise ValueError(f"edges of Bins must increase; got {fallen[0][1]} after {fallen[0][0]} in {list(edges)}")
        object.__setattr__(self, "edges", edges)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the groups, in ascending order."""
        texts = [_text(edge) for edge in self.edges]
        between = [f"{low} to {high}" for low, high in itertools.pairwise(texts)]
        return (f"below {texts[0]}", *between, f"{texts[-1]} and above")

    def index(self, values: Tensor) -> Tensor:
        """The interval in which each value lies.

        Edges are first rounded to the dtype of the values, so that a value equal to an edge in float32 lies in the
        interval that the edge opens.

        Args:
            values: real numbers ``[N]``, in the unit of the edges, without NaN.

        Returns:
            ``int64[N]`` in ``0 .. len(edges)``.

        Example:
            >>> Bins([25, 45, 65]).index(torch.tensor([24.9, 25.0, 45.0, 99.0])).tolist()
            [0, 1, 2, 3]
        """
        edges = torch.tensor(self.edges, dtype=torch.float64, device=exact_device(values.device))
        if values.is_floating_point():
            edges = edges.to(values.dtype).to(torch.float64)
        return torch.bucketize(exact(values), edges, right=True)


def _text(edge: float) -> str:
    """The shortest text of an edge that still tells all edges apart."""
    return str(int(edge)) if edge == int(edge) and abs(edge) < 1e15 else repr(float(edge))
