"""Hostile and odd values for property tests, and what may come out of them.

The examples are the same in every run: ``FEW`` of them in the default suite, ``MANY`` behind the marker ``slow``.
"""

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor

ODDLY = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
FEW = settings(derandomize=True, max_examples=60, deadline=None, database=None, suppress_health_check=ODDLY)
MANY = settings(FEW, max_examples=400)

OURS = (ValueError, TypeError, MisconfigurationException)
"""What a setting or an input may be refused with; ``ImportError`` beside them where a package is missing."""

TEXTS = st.one_of(
    st.sampled_from(["", " ", "/", "//", "a", "a/b", "a_b", "A", "value", "missing", "missing_share", "unknown", "|"]),
    st.sampled_from(
        ["\ud800", "\x00", "\n", "..", "../x", "é", "e\u0301", "\u202e", "x" * 300, "{}", "%s", "__class__"]
    ),
    st.text(max_size=8),
    st.text(st.characters(categories=["Cs", "Cc", "L", "P"]), max_size=4),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, 1.0, -1.0, 5e-324, -5e-324, 1e-40, 1e308, math.inf, -math.inf, math.nan, 2.0**53]),
)
WHOLE = st.one_of(st.integers(-3, 5), st.sampled_from([2**31, -(2**63), 2**63 - 1, 2**64, 10**30]))
NUMBERS = st.one_of(FLOATS, WHOLE, st.booleans(), st.just(1j))
DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.int8,
    torch.uint8,
    torch.int32,
    torch.int64,
    torch.bool,
    torch.complex64,
]
SHAPES = st.lists(st.sampled_from([0, 1, 2, 3]), max_size=4)


@st.composite
def tensors(draw: Callable[..., Any], shapes: Any = SHAPES) -> Tensor:
    """Tensors of any type and small shape, with odd values among theirs."""
    shape, dtype = draw(shapes), draw(st.sampled_from(DTYPES))
    size = math.prod(shape)
    values = draw(st.lists(st.one_of(st.integers(-2, 4), FLOATS), min_size=size, max_size=size))
    wide = torch.tensor(values, dtype=torch.float64).reshape(shape)
    if not dtype.is_floating_point and not dtype.is_complex:
        wide = wide.nan_to_num(0.0, 3.0, -3.0).clamp(-100, 100)
    return wide.to(dtype)


ATOMS = st.one_of(st.none(), NUMBERS, TEXTS, st.binary(max_size=3), tensors())
KEYS = st.one_of(st.sampled_from(["x", "y", "input", "label", "sex", "image", "labels", "input_ids"]), TEXTS, WHOLE)
ARRAYS = st.sampled_from([np.zeros(3), np.array(["a", None], dtype=object), np.float32(1), np.zeros((2, 2)), object()])


def _nested(inner: Any) -> Any:
    several = st.lists(inner, max_size=4)
    return st.one_of(several, several.map(tuple), st.dictionaries(KEYS, inner, max_size=4))


THINGS = st.recursive(st.one_of(ATOMS, ARRAYS), _nested, max_leaves=8)
"""Anything a loader may yield, or a user may pass."""


def deep(levels: int) -> list[Any]:
    """A list in a list in a list …"""
    found: list[Any] = []
    for _ in range(levels):
        found = [found]
    return found


def circular() -> list[Any]:
    """A list that holds itself."""
    found: list[Any] = [1]
    found.append(found)
    return found


def refused(action: Callable[..., Any], *args: Any, also: tuple[type[Exception], ...] = (), **more: Any) -> str | None:
    """What ``action`` was refused with; None if it was done. Any error but those of `OURS` is raised."""
    try:
        action(*args, **more)
    except (*OURS, *also) as error:
        said = str(error).strip()
    else:
        return None
    assert said, "an error without a word"
    return said
