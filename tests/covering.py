"""What a training can be: factors, the values that exclude each other, and an array that covers all pairs of values.

The values of each factor stand with the cheapest first.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import NamedTuple

Cell = Mapping[str, str]

FACTORS: dict[str, tuple[str, ...]] = {
    "entry": ("fit", "validate", "test"),
    "inference_mode": ("on", "off"),
    "precision": ("32-true", "bf16-mixed", "bf16-true"),
    "sanity_steps": ("0", "2"),
    "loaders": ("one", "two"),
    "accumulation": ("1", "4"),
    "layers": ("dropout", "batchnorm", "frozen"),
    "averaging": ("none", "EMA", "SWA"),
    "compiled": ("nothing", "part in place", "part wrapped", "whole"),
    "order": ("kept", "shuffled"),
    "workers": ("0", "2"),
    "optimization": ("automatic", "manual"),
    "callbacks": ("first", "last"),
}


class Exclusion(NamedTuple):
    """Two values that cannot occur together, and why."""

    one: tuple[str, str]
    other: tuple[str, str]
    reason: str


EXCLUDED = [
    Exclusion(("entry", entry), other, reason)
    for entry in ("validate", "test")
    for other, reason in (
        (("sanity_steps", "2"), "the sanity check belongs to fit"),
        (("accumulation", "4"), "no gradient is accumulated outside of fit"),
    )
]

# an entry point, and two values of other factors that occur together under it
Pair = tuple[str, frozenset[tuple[str, str]]]


def pairs_of(cell: Cell) -> set[Pair]:
    """All pairs of values of a cell, or of a part of one that names its entry point."""
    others = [item for item in cell.items() if item[0] != "entry"]
    return {(cell["entry"], frozenset(pair)) for pair in itertools.combinations(others, 2)}


def is_permitted(cell: Cell) -> bool:
    """Whether no two values of a cell, or of a part of one, exclude each other."""
    return not any({x.one, x.other} <= cell.items() for x in EXCLUDED)


def product() -> Iterator[Cell]:
    """Every permitted cell."""
    cells = (dict(zip(FACTORS, values, strict=True)) for values in itertools.product(*FACTORS.values()))
    return (cell for cell in cells if is_permitted(cell))


def part(text: str) -> list[Cell]:
    """Part ``"3/100"`` of the product, which is dealt out at random, always alike; ``"1/1"`` is all of it."""
    number, of = (int(x) for x in text.split("/"))
    if not 1 <= number <= of:
        raise ValueError(f"part must be like '3/100', from 1 on; got {text!r}")
    cells = list(product())
    random.Random(0).shuffle(cells)
    return cells[number - 1 :: of]


def covering_array(seed: int = 0, candidates: int = 30) -> list[Cell]:
    """Cells in which every permitted pair of values occurs, under each entry point, so that no pair is only met idle.

    Each cell is the best of some that were grown at random: that with most pairs that are new, of equal ones the
    cheapest.

    Args:
        seed: of the growing.
        candidates: how many are grown for each cell.
    """
    generator, cells = random.Random(seed), list[Cell]()
    missing = set().union(*(pairs_of(cell) for cell in _pairs()))
    while missing:
        grown = [_grown(missing, generator) for _ in range(candidates)]
        cells.append(max(grown, key=lambda cell: (len(pairs_of(cell) & missing), -_cost(cell))))
        missing -= pairs_of(cells[-1])
    return cells


def _pairs() -> Iterator[Cell]:
    """Parts of cells: an entry point with two further values."""
    for one, other in itertools.combinations([name for name in FACTORS if name != "entry"], 2):
        for values in itertools.product(FACTORS["entry"], FACTORS[one], FACTORS[other]):
            found = dict(zip(("entry", one, other), values, strict=True))
            if is_permitted(found):
                yield found


def _cost(cell: Cell) -> int:
    return sum(FACTORS[name].index(value) for name, value in cell.items())


def _grown(missing: set[Pair], generator: random.Random) -> Cell:
    """A cell around one missing pair, each further factor at the value that adds most missing pairs."""
    entry, pair = generator.choice(sorted(missing, key=lambda found: (found[0], sorted(found[1]))))
    cell = {"entry": entry, **dict(pair)}
    others = [name for name in FACTORS if name not in cell]
    generator.shuffle(others)
    for name in others:
        options = [option for value in FACTORS[name] if is_permitted(option := {**cell, name: value})]
        cell = max(options, key=lambda option: (len(pairs_of(option) & missing), -_cost(option)))
    return {name: cell[name] for name in FACTORS}


def name_of(cell: Cell) -> str:
    """A cell as the id of a test."""
    return ",".join(f"{name}={value}" for name, value in cell.items())
