"""Sources of attribute values and sample weights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.precision import exact
from xai_lightning.readers.batch import Sample, describe, unreadable
from xai_lightning.readers.groups.values import MISSING, one_per_sample, real_numbers


@dataclass(frozen=True)
class Column:
    """Reads the attribute from a column of a table in the batch.

    Args:
        input: name or position of the table in the batch, for example ``"x"`` or ``0``.
        index: the attribute's column, or the columns of its one-hot code, in which the position of the largest value is
            the group (all zero or any NaN: missing).
    """

    input: str | int
    index: int | list[int] | slice

    def __call__(self, batch: Any) -> Tensor:
        """The group values ``[N]`` of ``batch``."""
        try:
            table = batch[self.input]
        except (KeyError, IndexError, TypeError) as error:
            raise unreadable(batch, f"table named {self.input!r}") from error
        try:
            chosen: Tensor = table[:, self.index]
        except (IndexError, TypeError) as error:
            raise ValueError(
                f"Column({self.input!r}, {self.index!r}) needs a table [N, D] with these columns; got {describe(table)}"
            ) from error
        if isinstance(self.index, int):
            return chosen
        block = exact(chosen)
        unclear = (block == 0).all(dim=1) | block.isnan().any(dim=1)
        return torch.where(unclear, MISSING, block.argmax(dim=1))


@dataclass(frozen=True)
class Table:
    """One value per row of the validation set, in dataset order, for batches that do not hold the attribute.

    Positions are counted while the loader is read, also across ranks; the loader must not shuffle.

    Args:
        values: one value per row: a list, array, series or tensor.

    Raises:
        TypeError: if they have no length.

    Example:
        >>> Table(["Female", "Male", "Male"])
        Table(3 values)
    """

    values: Any

    def __post_init__(self) -> None:
        if isinstance(self.values, str | bytes) or not hasattr(self.values, "__len__"):
            raise TypeError(f"Table needs one value per row: a list, array, series or tensor; got {self.values!r}")

    def __repr__(self) -> str:
        return f"Table({len(self.values)} values)"

    def check(self, rows: int | None) -> None:
        """Refuse another number of values than the ``rows`` of the validation set, if these are known.

        Raises:
            ValueError: if they differ.
        """
        if rows is not None and rows != len(self.values):
            raise ValueError(
                f"Table has {len(self.values)} values, but the dataset of this loader has {rows} rows; give one value "
                "per row, in dataset order"
            )

    def rows(self, positions: Tensor) -> list[Any] | Tensor:
        """The values at ``positions``, ``int64[N]``."""
        if int(positions.max()) >= len(self.values):
            raise ValueError(
                f"Table has {len(self.values)} values, but the validation set has a row {int(positions.max())}; give "
                "one value per row, in dataset order"
            )
        if isinstance(self.values, Tensor):
            return self.values[positions.to(self.values.device)]
        values = self.values.iloc if hasattr(self.values, "iloc") else self.values
        return [values[i] for i in positions.tolist()]


GroupSource = Column | Table | Callable[[Any], Any]
WeightSource = str | Column | Table | Callable[[Any], Any]


def group_values(
    sample: Sample,
    batch: Any,
    attribute: str,
    *,
    source: Mapping[str, GroupSource] | GroupSource | None = None,
    positions: Callable[[], Tensor] | None = None,
) -> Any:
    """The values of ``attribute`` in a batch: from the batch entry of that name, else from ``source``.

    Args:
        sample: the sample read from the batch.
        batch: the batch as the loader gave it.
        attribute: name of the attribute.
        source: a `Column`, a `Table`, a callable of the batch, or a mapping from attribute to these.
        positions: gives the dataset rows ``int64[N]`` of the batch, for a `Table`.

    Raises:
        ValueError: if there is no such value, or not one per sample.
    """
    chosen = source.get(attribute) if isinstance(source, Mapping) else source
    if attribute in sample.groups:
        values = sample.groups[attribute]
    elif "" in sample.groups:
        values = sample.groups[""]
    elif isinstance(chosen, Table) and positions is not None:
        values = chosen.rows(positions())
    elif callable(chosen):
        values = _by_name(chosen(batch), attribute)
    else:
        raise unreadable(
            batch, f"group {attribute!r} (say where it is with groups_from=Column(...), Table(...) or a callable)"
        )
    return _as_many(f"value of {attribute!r}", values, len(sample))


def weight_values(
    sample: Sample, batch: Any, source: WeightSource, *, positions: Callable[[], Tensor] | None = None
) -> Tensor:
    """The weight of each sample in a batch: how many samples of the population it represents.

    Args:
        sample: the sample read from the batch.
        batch: the batch as the loader gave it.
        source: name of a batch entry, a `Column`, a `Table`, or a callable of the batch.
        positions: gives the dataset rows ``int64[N]`` of the batch, for a `Table`.

    Returns:
        ``float64[N]`` on the CPU, finite and non-negative.

    Raises:
        ValueError: if there are no weights, not one per sample, or one is negative or not finite; shows the value.

    Example:
        >>> batch = {"x": torch.zeros(2, 3), "w": [0.5, 2.0]}
        >>> weight_values(Sample(batch["x"], groups={"w": batch["w"]}), batch, "w").tolist()
        [0.5, 2.0]
    """
    if isinstance(source, str):
        if source not in sample.groups:
            raise unreadable(batch, f"weights {source!r} (say where they are: a name, Column, Table or callable)")
        values = sample.groups[source]
    elif isinstance(source, Table) and positions is not None:
        values = source.rows(positions())
    elif callable(source):
        values = source(batch)
    else:
        raise TypeError(f"weights must be a name, a Column, a Table or a callable; got {source!r}")
    return _weights(_as_many("weight", values, len(sample)))


def _weights(values: Any) -> Tensor:
    numbers = real_numbers("weights", one_per_sample("weights", values))
    wrong = ~numbers.isfinite() | (numbers < 0)
    if bool(wrong.any()):
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"weights must be finite and not negative; got {numbers[row].item()} in row {row} of the batch"
        )
    return exact(numbers)


def _by_name(values: Any, attribute: str) -> Any:
    if not isinstance(values, Mapping):
        return values
    if attribute not in values:
        raise ValueError(f"groups_from returned no {attribute!r}; got {describe(values)}")
    return values[attribute]


def _as_many(what: str, values: Any, n: int) -> Any:
    found = len(values) if hasattr(values, "__len__") and getattr(values, "ndim", None) != 0 else None
    if found != n:
        raise ValueError(
            f"expected one {what} for each of {n} samples; got {describe(values) if found is None else found}"
        )
    return values
