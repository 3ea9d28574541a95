"""The groups that a FairnessMonitor compares."""

from dataclasses import dataclass

import torch
from torch import Tensor

from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._fairness.asked import Asked


@dataclass(frozen=True)
class Subject:
    """Groups that are compared: those of one attribute, of two combined, or of one within each group of another.

    Args:
        name: name under which it is logged: ``sex``, ``race+sex``, ``sex|occupation``.
        counted: name of the set of groups that is counted.
        index: rows of the groups in that set, ``int64[G]``, or ``int64[S, G]`` within strata.
        groups: names of the groups.
        rows: names of all counted rows, for counts per group; empty if those are not logged.
    """

    name: str
    counted: str
    index: Tensor
    groups: tuple[str, ...]
    rows: tuple[str, ...] = ()

    @property
    def strata(self) -> bool:
        """Whether groups are compared within strata."""
        return self.index.ndim == 2


def subject_names(asked: Asked, batches: Batches) -> list[str]:
    """The names under which groups are compared; known before any group is discovered."""
    pairs = list(batches.intersections) if asked.intersections else []
    return [*batches.vocabularies, *pairs, *(f"{a}|{b}" for a, b in asked.given.items())]


def subjects(asked: Asked, batches: Batches) -> list[Subject]:
    """The groups that are compared; available once all groups are known."""
    found = [
        Subject(attribute, attribute, torch.arange(len(v.names), device="cpu"), v.names, v.rows)
        for attribute, v in batches.vocabularies.items()
    ]
    if asked.intersections:
        pairs = batches.intersections.items()
        found += [Subject(name, name, torch.arange(len(pair.names), device="cpu"), pair.names) for name, pair in pairs]
    return found + [_within(attribute, other, batches) for attribute, other in asked.given.items()]


def _within(attribute: str, other: str, batches: Batches) -> Subject:
    first, second = batches.vocabularies[attribute].names, batches.vocabularies[other].names
    name = pair_of(attribute, other, batches)
    # pairs are counted in the order of their declaration, whichever of the two is the legitimate one
    if name == f"{attribute}+{other}":
        index = torch.arange(len(first) * len(second), device="cpu").reshape(len(first), len(second)).T
    else:
        index = torch.arange(len(first) * len(second), device="cpu").reshape(len(second), len(first))
    return Subject(f"{attribute}|{other}", name, index, first)


def pair_of(attribute: str, other: str, batches: Batches) -> str:
    """The name under which two attributes are counted together."""
    return next(n for n, pair in batches.intersections.items() if set(pair.attributes) == {attribute, other})
