"""Inputs in which a sensitive attribute is replaced by each of its other values."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from xai_lightning.functional.fairness.individual import flips, score_change
from xai_lightning.functional.precision import exact
from xai_lightning.readers import Column, Outputs, Vocabulary, scores_of
from xai_lightning.readers.batch import describe, unreadable
from xai_lightning.readers.predictions import Decision

Flip = Column | Callable[[Tensor], Sequence[Tensor]]
"""The column of a table that holds the attribute, or maps inputs ``[N, ...]`` to inputs with each other value of it."""

COLUMNS = ("grouped", "flipped", "signed", "absolute", "moved")


class Answer(NamedTuple):
    """Outputs ``[M, ...]`` for some rows, their decisions, and scores of the favourable class, ``float64[M]``."""

    outputs: Tensor
    decision: Decision
    scores: Tensor


def codes(vocabulary: Vocabulary) -> list[Any]:
    """The values that stand for the groups in the data, in the order of the groups."""
    if vocabulary.positional:
        return list(range(len(vocabulary.names)))
    return sorted(vocabulary.codes, key=lambda code: vocabulary.codes[code])


def check_flip(attribute: str, flip: Flip, vocabulary: Vocabulary) -> None:
    """Refuse a flip that can be seen to be wrong without data.

    Raises:
        ValueError: if ``flip`` is neither a column nor callable, the groups' values are not declared, there is no other
            value, or a code is not a number.
    """
    if not callable(flip):
        raise ValueError(f"flips[{attribute!r}] must be a Column(...) or a callable of the inputs; got {flip!r}")
    if not isinstance(flip, Column):
        return
    if vocabulary.bins is not None or vocabulary.discovered:
        kind = vocabulary.bins or "discover"
        raise ValueError(
            f"flips[{attribute!r}] needs to know the value that stands for each group, which groups={kind!r} does not "
            "tell; declare the groups, or change the inputs with a callable"
        )
    known = codes(vocabulary)
    if len(known) < 2:
        raise ValueError(f"flips[{attribute!r}] needs at least two declared groups; got {list(vocabulary.names)}")
    kinds = int | float if isinstance(flip.index, int) else int
    if not all(isinstance(code, kinds) for code in known):
        what = "numbers" if isinstance(flip.index, int) else "positions in the one-hot code"
        raise ValueError(
            f"flips[{attribute!r}] writes the codes of groups into the inputs, so they must be {what}; got {known}"
        )


def changed(
    flip: Flip, vocabulary: Vocabulary, batch: Any, inputs: Sequence[Tensor], rows: Sequence[Tensor]
) -> tuple[Tensor, list[list[Tensor]]]:
    """Some rows with each other value of the attribute.

    Args:
        flip: how to change the attribute.
        vocabulary: the declared groups.
        batch: the whole batch, as the loader gave it.
        inputs: the network's arguments for the whole batch.
        rows: the network's arguments for the chosen rows.

    Returns:
        Which rows have a declared value now, ``bool[M]``, and the network's arguments for each other value.

    Raises:
        ValueError: if the network is not called with the column's table, or a callable does not return inputs.
    """
    if not isinstance(flip, Column):
        everybody = torch.ones(len(rows[0]), dtype=torch.bool, device=rows[0].device)
        return everybody, [[other, *rows[1:]] for other in _others(flip, rows[0])]
    place = _place(flip, batch, inputs)
    grouped, tables = _tables(flip, vocabulary, rows[place])
    return grouped, [[*rows[:place], table, *rows[place + 1 :]] for table in tables]


def _others(flip: Callable[[Tensor], Sequence[Tensor]], rows: Tensor) -> list[Tensor]:
    # a callable may write into its argument
    others = list(flip(rows.clone()))
    given: Sequence[object] = others
    if not given or not all(isinstance(x, Tensor) and x.shape == rows.shape for x in given):
        raise ValueError(
            f"a callable in flips must return a list of tensors of shape {list(rows.shape)}, one for each other value "
            f"of the attribute; got {describe(others)}"
        )
    return others


def _place(column: Column, batch: Any, inputs: Sequence[Tensor]) -> int:
    try:
        table = batch[column.input]
    except (KeyError, IndexError, TypeError) as error:
        raise unreadable(batch, f"table named {column.input!r}") from error
    # the same object: changing a table that the network is not called with would change no decision
    place = next((i for i, x in enumerate(inputs) if x is table), None)
    if place is None or table.ndim != 2:
        raise ValueError(
            f"the network is not called with {column.input!r} of the batch, or it is not a table [N, D]; got "
            f"{describe(table)}. Name the table that it is called with in Column(...), or change the inputs with a "
            "callable"
        )
    return place


def _tables(column: Column, vocabulary: Vocabulary, table: Tensor) -> tuple[Tensor, list[Tensor]]:
    """Rows with a declared value ``bool[M]``, and the table with the next value, the one after it, and so on."""
    known = codes(vocabulary)
    own = vocabulary.encode(column({column.input: table})).to(table.device)
    grouped = own < len(known)
    # cycling from its own value, each row takes each other value once
    written = torch.tensor(known, device=table.device)
    others = [written[(own + step) % len(known)] for step in range(1, len(known))]
    if isinstance(column.index, int):
        return grouped, [_with(table, column.index, other) for other in others]
    where = torch.arange(table.shape[1], device=table.device)[column.index]
    _check_code(table[grouped][:, where], known)
    return grouped, [_with(table, where, torch.nn.functional.one_hot(other, len(where))) for other in others]


def _with(table: Tensor, where: int | Tensor, values: Tensor) -> Tensor:
    written = table.clone()
    written[:, where] = values.to(table.dtype)
    return written


def _check_code(block: Tensor, known: Sequence[int]) -> None:
    if not 0 <= min(known) <= max(known) < block.shape[1]:
        raise ValueError(
            f"a one-hot code of {block.shape[1]} columns cannot hold groups at the positions {known}; make Column(...) "
            "cover all of its columns"
        )
    wrong = block[(block != 0) & (block != 1)]
    if len(wrong) or bool((block.sum(dim=1) != 1).any()):
        got = f"got {wrong[0].item():g}" if len(wrong) else "got a row that does not sum to 1"
        raise ValueError(
            f"a one-hot code must hold a single 1 and otherwise zeros; {got}. Change the inputs with a callable instead"
        )


def favour(outputs: Tensor, how: Outputs, positive: int, classes: Tensor) -> Tensor:
    """Probability of the favourable class, ``float64[M]``; for labels, 1 if they are that class, else 0."""
    if how.space == "labels":
        return exact(classes == positive)
    return scores_of(outputs, how, positive)


def compared(grouped: Tensor, own: Answer, others: Sequence[Answer]) -> Tensor:
    """How other values change the answers for some rows: `COLUMNS`, ``float64[M, 5]``.

    Args:
        grouped: ``bool[M]``, which rows have a declared value now.
        own: the answer for the unchanged rows.
        others: the answers for the rows with each other value.
    """
    finite = torch.stack([answer.decision.finite for answer in (own, *others)]).all(dim=0)
    flipped = exact(flips(own.decision.classes, torch.stack([other.decision.classes for other in others])))
    change = score_change(own.scores, torch.stack([other.scores for other in others]))
    moved = torch.stack([(other.outputs != own.outputs).reshape(len(finite), -1).any(dim=1) for other in others])
    flipped = torch.where(finite.to(flipped.device), flipped, torch.nan)
    return torch.stack([exact(grouped), flipped, *change, exact(moved.any(dim=0))], dim=1)
