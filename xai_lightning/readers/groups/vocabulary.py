"""The groups of one attribute, and the mapping from its values to them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.readers.groups.bins import Bins
from xai_lightning.readers.groups.values import (
    MISSING,
    RESERVED,
    UNKNOWN,
    integers,
    one_per_sample,
    real_numbers,
    some,
)

MAX_GROUPS = 16
MISSING_SHARE = "missing_share"

Undeclared = Literal["error", "unknown"]
# jsonargparse tries these in order; if a mapping came first, it would take the class_path of Bins for a code (trap 58)
Declared = Bins | Literal["discover"] | Sequence[str] | Mapping[Any, str]


@dataclass(frozen=True)
class Vocabulary:
    """The groups of one attribute.

    Args:
        attribute: its name.
        names: names of the groups, in the order of their indices.
        codes: maps the value that stands for each group in the data to the group's index.
        positional: whether integers are positions in ``names`` (a list was declared) rather than codes (a dict was).
        undeclared: how to treat an undeclared value: as an ``"error"``, or as ``"unknown"``.
        bins: the intervals that form the groups of a continuous attribute.
        discovered: whether the groups are found in the data rather than declared.
        places: while groups are still being discovered, how many there may be: ``names`` is empty, ``codes`` holds the
            place of each value, in the order in which they were met, and `rows` has all places. Otherwise 0.
    """

    attribute: str
    names: tuple[str, ...]
    codes: Mapping[Any, int]
    positional: bool
    undeclared: Undeclared = "error"
    bins: Bins | None = None
    discovered: bool = False
    places: int = 0

    @cached_property
    def rows(self) -> tuple[str, ...]:
        """Names of the rows that are counted: the groups, then ``missing`` and ``unknown`` unless these are groups."""
        places = tuple(f"place {place}" for place in range(self.places))
        return self.names + places + tuple(name for name in RESERVED if name not in self.names)

    def encode(self, values: Any) -> Tensor:
        """Row indices (see `rows`) of ``values``.

        None, NaN and -1 are ``missing`` (-1 only if it is not a code, and not for `Bins`). Whole floats count as
        integers.

        Args:
            values: one value per sample: a tensor ``[N]``, an array, a series or a list.

        Returns:
            ``int64[N]`` on the CPU.

        Raises:
            ValueError: on an undeclared value, unless ``undeclared="unknown"``; shows the value. Also if there is not
                one value per sample.
        """
        column = one_per_sample(f"groups of {self.attribute!r}", values)
        if self.bins is not None:
            indices = self._binned(self.bins, column)
        elif isinstance(column, Tensor):
            indices = self._from_tensor(column)
        else:
            indices = torch.tensor([self._lookup(value) for value in column], dtype=torch.int64, device="cpu")
        for name, code in RESERVED.items():
            indices = torch.where(indices == code, self.rows.index(name), indices)
        return indices

    def _binned(self, bins: Bins, column: Tensor | list[Any]) -> Tensor:
        numbers = real_numbers(f"values of {self.attribute!r}, whose groups are {bins},", column)
        empty = numbers.isnan()
        return torch.where(empty, MISSING, bins.index(numbers.masked_fill(empty, 0)))

    def _from_tensor(self, values: Tensor) -> Tensor:
        numbers, whole, empty = integers(values)
        codes, places = self._sorted_codes
        at = torch.searchsorted(codes, numbers).clamp(max=len(codes) - 1)
        indices = torch.where(whole & (codes[at] == numbers), places[at], UNKNOWN)
        indices[empty | (whole & (numbers == MISSING) & (indices == UNKNOWN))] = MISSING
        if self.undeclared == "error" and bool((indices == UNKNOWN).any()):
            raise self._unexpected(values[indices == UNKNOWN][0].item())
        return indices

    def _lookup(self, value: Any) -> int:
        if value is None:
            return MISSING
        try:
            known = self._places.get(value)
        except TypeError as error:
            raise self._unexpected(value) from error
        if known is not None:
            return known
        if value == MISSING:
            return MISSING
        if self.undeclared == "error":
            raise self._unexpected(value)
        return UNKNOWN

    @cached_property
    def _places(self) -> dict[Any, int]:
        """Maps every known value to its index."""
        positions = {place: place for place in range(len(self.names))} if self.positional else {}
        return {**(RESERVED if self.discovered else {}), **positions, **self.codes}

    @cached_property
    def _sorted_codes(self) -> tuple[Tensor, Tensor]:
        """The known integers in order and their indices, both ``int64``; only ``MISSING`` if there are none."""
        known = sorted((int(c), i) for c, i in self._places.items() if not isinstance(c, str)) or [(MISSING, MISSING)]
        codes, places = torch.tensor(known, dtype=torch.int64, device="cpu").unbind(dim=1)
        return codes.contiguous(), places.contiguous()

    def _unexpected(self, value: object) -> ValueError:
        named = self.positional or self.discovered
        known = self.names if named else [f"{code} ({self.names[i]})" for code, i in self.codes.items()]
        hint = "; a continuous attribute needs edges, Bins([...])" if isinstance(value, float) else ""
        return ValueError(
            f"attribute {self.attribute!r}: undeclared group value {value!r}; "
            f"{'found' if self.discovered else 'declared'} are {some(known, len(known))}. Declare it, or pass "
            f"undeclared='unknown' to count such values separately{hint}."
        )


def vocabularies(
    groups: Mapping[str, Declared], undeclared: Undeclared = "error", *, max_groups: int | None = MAX_GROUPS
) -> dict[str, Vocabulary]:
    """A `Vocabulary` per attribute from its declaration.

    Args:
        groups: maps each attribute to a list of names (which matches strings, and integers as positions), a dict from
            code (an integer, a bool or a string) to name, `Bins` for a continuous attribute, or ``"discover"``, which
            makes groups of the values found in the first real validation.
        undeclared: ``"error"`` or ``"unknown"``.
        max_groups: the most groups that may be discovered per attribute, at least 1; None refuses ``"discover"``.

    Raises:
        ValueError: on an empty or ambiguous declaration, or names that differ only by slashes.

    Example:
        >>> vocabularies({"sex": ["Female", "Male"]})["sex"].encode(["Male", None, "Female"])
        tensor([1, 2, 0])
        >>> vocabularies({"age": Bins([25, 45])})["age"].encode(torch.tensor([30.0, float("nan"), 70.0]))
        tensor([1, 3, 2])
    """
    if undeclared not in ("error", "unknown"):
        raise ValueError(f"undeclared must be 'error' or 'unknown'; got {undeclared!r}")
    if max_groups is not None and max_groups < 1:
        raise ValueError(f"max_groups must be at least 1; got {max_groups!r}")
    given: object = groups
    if not isinstance(given, Mapping) or not all(isinstance(name, str) for name in given):
        raise ValueError(f"groups must map names of attributes to their groups; got {groups!r}")
    if len({tags.part(attribute) for attribute in groups}) < len(groups):
        raise ValueError(f"attributes must be distinct, even after '/' is replaced by '_'; got {list(groups)}")
    return {name: _vocabulary(name, declared, undeclared, max_groups) for name, declared in groups.items()}


def _vocabulary(attribute: str, declared: Declared, undeclared: Undeclared, max_groups: int | None) -> Vocabulary:
    if isinstance(declared, Bins):
        return Vocabulary(attribute, declared.names, {}, positional=False, undeclared=undeclared, bins=declared)
    if isinstance(declared, str) and declared == "discover":
        if max_groups is None:
            raise ValueError(f"groups[{attribute!r}] must be declared here, not discovered; got {declared!r}")
        return Vocabulary(attribute, (), {}, False, undeclared, discovered=True, places=max_groups)
    codes = _codes(attribute, declared)
    names = tuple(declared.values()) if isinstance(declared, Mapping) else tuple(declared)
    check_names(attribute, names)
    return Vocabulary(attribute, names, codes, not isinstance(declared, Mapping), undeclared)


def _codes(attribute: str, declared: Any) -> dict[Any, int]:
    names = declared.values() if isinstance(declared, Mapping) else declared
    listed = isinstance(declared, Sequence | Mapping) and not isinstance(declared, str)
    if not listed or not declared or not all(isinstance(name, str) for name in names):
        raise ValueError(
            f"groups[{attribute!r}] must be a list of names such as ['Female', 'Male'], a dict from code to name such "
            f"as {{0: 'Female', 1: 'Male'}}, Bins([...]) of a continuous attribute, or 'discover'; got {declared!r}"
        )
    for code in declared:
        if not (isinstance(code, str | int) or (isinstance(code, float) and code.is_integer())):
            raise ValueError(
                f"groups[{attribute!r}]: a code must be an integer, a bool or a string; got {code!r}. A continuous "
                "attribute needs Bins([...]); None and NaN are missing, which is a group if one is named 'missing'."
            )
    return {code: i for i, code in enumerate(declared)}


def check_names(attribute: str, names: Sequence[str]) -> None:
    """Refuse group names that would be logged under the same name, or under a name with another meaning.

    Raises:
        ValueError: names the groups.
    """
    owners: dict[str, str] = {name: name for name in RESERVED} | {MISSING_SHARE: "the share of missing values"}
    for name in names:
        other = owners.setdefault(tags.part(name), name)
        if other != name:
            raise ValueError(
                f"groups[{attribute!r}] must be distinct, even after '/' is replaced by '_' and blanks around them are "
                f"stripped, and none may be named {MISSING_SHARE!r}; got {name!r} and {other!r} in "
                f"{some(names, len(names))}"
            )
    if len(set(names)) < len(names):
        raise ValueError(f"groups[{attribute!r}] must be distinct; got {some(names, len(names))}")
