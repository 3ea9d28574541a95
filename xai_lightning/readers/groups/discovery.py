"""Discovers groups in the first real validation, and then fixes them.

During that validation, each rank puts the values that it meets into places of a provisional vocabulary, in its own
order, and counts into those places. At the end the values of all ranks are merged, and the counts move into the rows of
the fixed vocabulary, which is sorted by the values themselves: numbers by value, strings by text. The result therefore
does not depend on batches, ranks or shuffling.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from xai_lightning.readers.groups.values import MISSING, RESERVED, Value, integers, one_per_sample, some
from xai_lightning.readers.groups.vocabulary import Vocabulary, check_names


def provisional(vocabulary: Vocabulary) -> Vocabulary:
    """``vocabulary`` without the values it has met, if its groups are still being discovered."""
    return replace(vocabulary, codes={}) if vocabulary.places else vocabulary


def met(vocabulary: Vocabulary, values: Any) -> Vocabulary:
    """The provisional ``vocabulary`` with a place for each of ``values`` that it has not met before.

    Missing values (None, NaN, -1) need no place, nor do the words ``missing`` and ``unknown``.

    Args:
        vocabulary: a vocabulary whose groups are still being discovered.
        values: one value per sample: a tensor ``[N]``, an array, a series or a list.

    Raises:
        ValueError: on fractions, values of mixed types, or more values than places; shows some of them.

    Example:
        >>> from xai_lightning.readers.groups import vocabularies
        >>> seen = met(vocabularies({"site": "discover"})["site"], ["Ulm", None, "Bonn", "Ulm"])
        >>> values_met(seen), len(seen.rows)
        (['Ulm', 'Bonn'], 18)
    """
    column = one_per_sample(f"groups of {vocabulary.attribute!r}", values)
    found = _distinct(vocabulary, column)
    # True equals 1 as a dict key, so types are compared before anything is looked up
    _check_kind(vocabulary, [*vocabulary.codes, *found])
    codes = {**vocabulary.codes}
    for value in found:
        codes.setdefault(value, len(codes))
    _check_number(vocabulary, list(codes))
    return replace(vocabulary, codes=codes)


def values_met(vocabulary: Vocabulary) -> list[Value]:
    """The values of discovered groups, in the order of their places or rows: plain strings, integers or bools."""
    return list(vocabulary.codes)


def settled(vocabulary: Vocabulary, values: Iterable[Sequence[Value]]) -> Vocabulary:
    """The fixed vocabulary of the values that all ranks met; the same on every rank.

    Args:
        vocabulary: a vocabulary whose groups are still being discovered.
        values: `values_met` of each rank, in any order.

    Raises:
        ValueError: if there are no values, too many, values of mixed types, or two that would be logged under one name.

    Example:
        >>> from xai_lightning.readers.groups import vocabularies
        >>> settled(vocabularies({"rank": "discover"})["rank"], [[10, 9], [9, 2]]).rows
        ('2', '9', '10', 'missing', 'unknown')
    """
    every = [value for part in values for value in part]
    _check_kind(vocabulary, every)
    found = sorted(set(every))
    _check_number(vocabulary, found)
    if not found:
        raise ValueError(
            f"groups[{vocabulary.attribute!r}]='discover', but all its values in the first validation are "
            "missing. Declare the groups."
        )
    names = tuple(str(value) for value in found)
    check_names(vocabulary.attribute, names)
    return replace(vocabulary, names=names, codes={value: i for i, value in enumerate(found)}, places=0)


def moves(before: Vocabulary, after: Vocabulary) -> Tensor:
    """Maps each row of a provisional vocabulary to its row in the fixed one.

    Args:
        before: this rank's provisional vocabulary.
        after: the fixed vocabulary from `settled`; ``before`` itself if it was fixed all along.

    Returns:
        ``int64[R]``: for each row of ``before``, the row of ``after``; for empty places, ``missing``.
    """
    rows = torch.full((len(before.rows),), after.rows.index("missing"), dtype=torch.int64, device="cpu")
    for value, place in before.codes.items():
        rows[place] = after.codes[value]
    for name in RESERVED:
        rows[before.rows.index(name)] = after.rows.index(name)
    return rows


def moved(counts: Tensor, rows: Tensor, size: int) -> Tensor:
    """Move counts from provisional rows into the rows of the fixed vocabulary.

    Args:
        counts: ``[R, ...]``, of any dtype.
        rows: ``int64[R]``, see `moves`.
        size: number of rows of the fixed vocabulary.

    Returns:
        ``[size, ...]`` in the dtype of ``counts``; no count is lost.

    Example:
        >>> moved(torch.tensor([5, 7, 0, 2]), torch.tensor([1, 0, 2, 2]), 3)
        tensor([7, 5, 2])
    """
    into = torch.zeros(size, *counts.shape[1:], dtype=counts.dtype, device=counts.device)
    return into.index_add_(0, rows.to(counts.device), counts)


def _distinct(vocabulary: Vocabulary, column: Tensor | list[Any]) -> list[Value]:
    """The distinct values that need a place; True and 1 are distinct."""
    if isinstance(column, Tensor):
        numbers, whole, empty = integers(column)
        broken = ~whole & ~empty
        if bool(broken.any()):
            raise _fraction(vocabulary, column[broken][0].item())
        plain: list[Value] = _unique(numbers[whole])
        found = [bool(value) for value in plain] if column.dtype == torch.bool else plain
    else:
        found = [_value(vocabulary, value) for value in column if value is not None]
    typed = dict.fromkeys((type(value), value) for value in found)
    return [value for kind, value in typed if value not in RESERVED and (kind, value) != (int, MISSING)]


def _unique(numbers: Tensor) -> list[Value]:
    return torch.unique(numbers).tolist()  # type: ignore[no-any-return]


def _value(vocabulary: Vocabulary, value: Any) -> Value:
    if isinstance(value, bool):
        return value
    if isinstance(value, float) and not value.is_integer():
        raise _fraction(vocabulary, value)
    if isinstance(value, int | float):
        return int(value)
    if isinstance(value, str):
        return str.__str__(value)  # also for subclasses such as enumerations: the state must hold plain types
    raise ValueError(
        f"groups[{vocabulary.attribute!r}]='discover' finds strings, integers and bools; got {value!r}, a "
        f"{type(value).__name__}. Make it a string, or declare the groups."
    )


def _fraction(vocabulary: Vocabulary, value: float) -> ValueError:
    return ValueError(
        f"groups[{vocabulary.attribute!r}]='discover' cannot be used for a continuous attribute; got {value!r}. Give "
        f"edges: groups={{{vocabulary.attribute!r}: Bins([...])}}."
    )


def _check_kind(vocabulary: Vocabulary, values: Sequence[Value]) -> None:
    kinds = {type(value): value for value in values}
    if len(kinds) > 1:
        seen = " and ".join(f"{value!r} ({kind.__name__})" for kind, value in kinds.items())
        raise ValueError(
            f"groups[{vocabulary.attribute!r}]='discover' needs values of one type; got {seen}. Declare the groups "
            "with a dict from code to name."
        )


def _check_number(vocabulary: Vocabulary, values: Sequence[Value]) -> None:
    if len(values) > vocabulary.places:
        edges = " or, as it is a number, Bins([...])" if isinstance(values[0], int) else ""
        raise ValueError(
            f"groups[{vocabulary.attribute!r}]='discover' found more than max_groups={vocabulary.places} values; got "
            f"{len(values):,}: {some(values, len(values))}. Declare the groups{edges}, or raise max_groups."
        )
