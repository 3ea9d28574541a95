"""Values of sensitive attributes as group indices."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.readers.batch import Sample, describe, unreadable

MISSING = -1
UNKNOWN = -2
RESERVED = {"missing": MISSING, "unknown": UNKNOWN}

Declared = Sequence[str] | Mapping[Any, str]


@dataclass(frozen=True)
class Column:
    """The attribute stands in the input of a table.

    Args:
        input: name or position of the table in the batch, for example ``"x"`` or ``0``.
        index: its column; or the columns of its one-hot code, whose position is the group (all zero: missing).
    """

    input: str | int
    index: int | list[int] | slice

    def __call__(self, batch: Any) -> Tensor:
        """Group values ``[N]`` of ``batch``."""
        try:
            table = batch[self.input]
        except (KeyError, IndexError, TypeError) as error:
            raise unreadable(batch, f"table named {self.input!r}") from error
        if isinstance(self.index, int):
            values: Tensor = table[:, self.index]
            return values
        block = table[:, self.index].to(torch.float64)
        unclear = (block == 0).all(dim=1) | block.isnan().any(dim=1)
        return torch.where(unclear, MISSING, block.argmax(dim=1))


@dataclass(frozen=True)
class Table:
    """One value per row of the validation set, in dataset order, for batches that hold no attribute.

    Positions are counted while the loader is read, across ranks too; the loader must not shuffle.

    Args:
        values: one value per row: a list, array, series or tensor.
    """

    values: Any

    def rows(self, positions: Tensor) -> list[Any] | Tensor:
        """The values at ``positions`` ``int64[N]``."""
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


@dataclass(frozen=True)
class Vocabulary:
    """The declared groups of one attribute.

    Args:
        attribute: its name.
        names: names of the groups, in the order of their indices.
        codes: what stands for each group in the data, to its index.
        positional: integers are positions in ``names`` (a list was declared), not codes (a dict was).
        undeclared: what an undeclared value is: an ``"error"``, or ``"unknown"``.
    """

    attribute: str
    names: tuple[str, ...]
    codes: Mapping[Any, int]
    positional: bool
    undeclared: Literal["error", "unknown"] = "error"

    @property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows that are counted: the groups, then ``missing`` and ``unknown`` unless declared."""
        return self.names + tuple(name for name in RESERVED if name not in self.names)

    def encode(self, values: Any) -> Tensor:
        """Row indices ``int64[N]`` (see `rows`) of ``values``.

        None, NaN and -1 are ``missing``.

        Raises:
            ValueError: on an undeclared value, unless ``undeclared="unknown"``; the value is shown.
        """
        if isinstance(values, Tensor) and values.ndim == 1:
            indices = self._from_tensor(values)
        elif isinstance(values, Tensor):
            raise ValueError(f"groups of {self.attribute!r} must be one value per sample; got {describe(values)}")
        else:
            indices = torch.tensor([self._lookup(value) for value in list(values)], dtype=torch.int64)
        for name, code in RESERVED.items():
            indices = torch.where(indices == code, self.rows.index(name), indices)
        return indices

    def _from_tensor(self, values: Tensor) -> Tensor:
        numbers = values.detach().to(torch.float64 if values.is_floating_point() else torch.int64)
        indices = torch.full_like(numbers, UNKNOWN, dtype=torch.int64)
        codes = range(len(self.names)) if self.positional else [c for c in self.codes if not isinstance(c, str)]
        for code in codes:
            indices[numbers == code] = code if self.positional else self.codes[code]
        indices[(numbers == MISSING) | numbers.isnan()] = MISSING
        if -1 in codes:
            indices[numbers == -1] = self.codes[-1]
        if self.undeclared == "error" and bool((indices == UNKNOWN).any()):
            raise self._unexpected(numbers[indices == UNKNOWN][0].item())
        return indices

    def _lookup(self, value: Any) -> int:
        value = value.item() if hasattr(value, "item") else value
        if _is_missing(value):
            return MISSING
        try:
            known = self.codes.get(value)
        except TypeError as error:
            raise self._unexpected(value) from error
        if known is not None:
            return known
        if value == MISSING:
            return MISSING
        if self.positional and not isinstance(value, str) and value in range(len(self.names)):
            return int(value)
        if self.undeclared == "error":
            raise self._unexpected(value)
        return UNKNOWN

    def _unexpected(self, value: object) -> ValueError:
        known = list(self.names) if self.positional else {code: self.names[i] for code, i in self.codes.items()}
        return ValueError(
            f"attribute {self.attribute!r}: undeclared group value {value!r}; declared are {known}. Declare it, or "
            "pass undeclared='unknown' to count such values apart."
        )


def _is_missing(value: Any) -> bool:
    """None, NaN, NaT and NA: what is not equal to itself, or cannot say whether it is."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def vocabularies(
    groups: Mapping[str, Declared], undeclared: Literal["error", "unknown"] = "error"
) -> dict[str, Vocabulary]:
    """A `Vocabulary` per attribute from its declaration.

    Args:
        groups: attribute to a list of names (matches strings, and integers as positions) or to a dict from code to
            name.
        undeclared: ``"error"`` or ``"unknown"``.

    Raises:
        ValueError: on an empty or ambiguous declaration, or names that differ by slashes only.

    Example:
        >>> vocabularies({"sex": ["Female", "Male"]})["sex"].encode(["Male", None, "Female"])
        tensor([1, 2, 0])
    """
    if undeclared not in ("error", "unknown"):
        raise ValueError(f"undeclared must be 'error' or 'unknown'; got {undeclared!r}")
    if len({tags.part(attribute) for attribute in groups}) < len(groups):
        raise ValueError(f"attributes must be distinct, also with '/' read as '_'; got {list(groups)}")
    return {attribute: _vocabulary(attribute, declared, undeclared) for attribute, declared in groups.items()}


def _vocabulary(attribute: str, declared: Declared, undeclared: Literal["error", "unknown"]) -> Vocabulary:
    positional = not isinstance(declared, Mapping)
    names = tuple(declared.values()) if isinstance(declared, Mapping) else tuple(declared)
    if isinstance(declared, str) or not names or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"groups[{attribute!r}] must be a list of names such as ['Female', 'Male'], or a dict from code to name "
            f"such as {{0: 'Female', 1: 'Male'}}; got {declared!r}"
        )
    if len({tags.part(name) for name in names}) < len(names):
        raise ValueError(f"groups[{attribute!r}] must be distinct, also with '/' read as '_'; got {list(names)}")
    codes = {code: i for i, code in enumerate(declared)}
    return Vocabulary(attribute, names, codes, positional, undeclared)


def group_values(
    sample: Sample,
    batch: Any,
    attribute: str,
    *,
    source: Mapping[str, GroupSource] | GroupSource | None = None,
    positions: Callable[[], Tensor] | None = None,
) -> Any:
    """The values of ``attribute`` in a batch: from its entry of that name, else from ``source``.

    Args:
        sample: the batch as read.
        batch: the batch as it came.
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
        values = chosen(batch)
        values = values[attribute] if isinstance(values, Mapping) else values
    else:
        raise unreadable(
            batch, f"group {attribute!r} (say where it is with groups_from=Column(...), Table(...) or a callable)"
        )
    if len(values) != len(sample):
        raise ValueError(f"expected one value of {attribute!r} per sample, {len(sample)}; got {len(values)}")
    return values
