"""Converts the values of an attribute, in whatever form they come, to one plain value per sample."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from xai_lightning.readers.batch import describe

MISSING = -1
UNKNOWN = -2
RESERVED = {"missing": MISSING, "unknown": UNKNOWN}
SHOWN = 12

Value = str | int | bool


def one_per_sample(what: str, values: Any) -> Tensor | list[Any]:
    """The values as a tensor ``[N]`` of real numbers on the CPU, or as a list of plain values, None where missing.

    Args:
        what: name of the values in messages.
        values: a tensor, array, series or list.

    Raises:
        ValueError: if they are not one value per sample.
    """
    if hasattr(values, "__array_interface__") and values.dtype.kind in "biuf":
        values = torch.tensor(values, device="cpu")
    if isinstance(values, Tensor):
        if values.ndim != 1 or values.is_complex():
            raise _not_one(what, values)
        return values.detach().cpu()
    if isinstance(values, str | bytes | Mapping) or not isinstance(values, Iterable):
        raise _not_one(what, values)
    return [_plain(what, value) for value in values]


def real_numbers(what: str, values: Tensor | list[Any]) -> Tensor:
    """The result of `one_per_sample` as numbers ``[N]``, NaN where missing; a tensor keeps its dtype.

    Raises:
        ValueError: if one is not a real number; shows it.
    """
    if isinstance(values, Tensor) and values.dtype != torch.bool:
        return values
    listed = values.tolist() if isinstance(values, Tensor) else values
    for value in listed:
        if isinstance(value, bool) or not isinstance(value, int | float | None):
            raise ValueError(f"{what} must be numbers; got {value!r}")
    return torch.tensor([math.nan if value is None else value for value in listed], dtype=torch.float64, device="cpu")


def integers(numbers: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers ``[N]`` as ``int64[N]``, and two masks ``bool[N]``: which are whole and which are NaN."""
    if not numbers.is_floating_point():
        none = torch.zeros_like(numbers, dtype=torch.bool)
        return numbers.to(torch.int64), ~none, none
    wide = numbers.to(torch.float64)
    whole = (wide == wide.trunc()) & (wide.abs() < 2**53)
    return torch.where(whole, wide, 0).to(torch.int64), whole, wide.isnan()


def some(values: Iterable[Any], count: int) -> str:
    """The first of ``count`` values, and how many more there are."""
    shown = [repr(value) for value, _ in zip(values, range(SHOWN), strict=False)]
    return ", ".join(shown) + (f" and {count - SHOWN:,} more" if count > SHOWN else "")


def _plain(what: str, value: Any) -> Any:
    if hasattr(value, "item"):
        try:
            value = value.item()
        except (ValueError, RuntimeError) as error:
            raise _not_one(what, value) from error
    return None if _is_missing(value) else value


def _is_missing(value: Any) -> bool:
    """Whether it is None, NaN, NaT or NA: not equal to itself, or unable to say whether it is."""
    try:
        return value is None or bool(value != value)
    except TypeError:
        return True


def _not_one(what: str, values: object) -> ValueError:
    return ValueError(f"{what} must be one value per sample; got {describe(values)}")
