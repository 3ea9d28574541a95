"""Checks of settings that a constructor can make."""

from collections.abc import Collection, Mapping, Sequence
from numbers import Integral
from typing import Any

import numpy as np
from torch import Tensor

from xai_lightning.callbacks._kinds import check_kinds_of
from xai_lightning.functional import drift
from xai_lightning.functional.tables import choose
from xai_lightning.readers.batch import describe

DEEPEST = 16
ARRAYS = ("baseline", "probe")
"""Settings that may be a bare array."""
TARGETS = ("label", "reference_prediction", "predicted")


def check_arguments(given: Mapping[str, Any]) -> None:
    """Refuse values that no setting accepts, so that all later checks can compare, print and keep the values.

    Args:
        given: the local variables of a constructor, before it defines any others.

    Raises:
        TypeError: on an array where none is accepted, and on a value that the setting never accepts.
        ValueError: on an integer beyond 64 bits, and on lists or mappings nested more than 16 deep or without end.
    """
    for name, value in given.items():
        if name in ("self", "__class__"):
            continue
        if isinstance(value, Tensor | np.ndarray) and name not in ARRAYS:
            raise TypeError(f"{name} must not be an array; got {describe(value)}")
        if isinstance(value, int) and not -(2**63) <= value < 2**63:
            raise ValueError(f"{name} must fit into 64 bits; got a number of {value.bit_length()} bits")
        if _depth(value) > DEEPEST:
            raise ValueError(f"{name} must be nested at most {DEEPEST} deep; got {describe(value)}")
    check_kinds_of(given)


def _depth(value: object) -> int:
    """How deep containers are nested in ``value``; stops counting at one level more than allowed."""
    depth, level = 0, [value]
    while depth <= DEEPEST and (level := [x for x in level if isinstance(x, list | tuple | set | Mapping)]):
        depth += 1
        # each container once: one that holds itself several times would multiply at each level
        unique = {id(x): x for x in level}.values()
        level = [item for x in unique for item in (x.values() if isinstance(x, Mapping) else x)]
    return depth


def check_on_error(on_error: str) -> None:
    """Refuse an unknown way to handle errors.

    Raises:
        ValueError: if ``on_error`` is neither ``"warn"`` nor ``"raise"``.
    """
    if on_error not in ("warn", "raise"):
        raise ValueError(f"on_error must be 'warn' or 'raise'; got {on_error!r}")


def check_seed(seed: Any) -> int:
    """Refuse a seed that is not an integer.

    Raises:
        TypeError: if ``seed`` is not an integer.
    """
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed must be an integer; got {seed!r}")
    return seed


def check_target(target: Any) -> Any:
    """Refuse a target that does not choose a class.

    Raises:
        ValueError: if ``target`` is neither one of the names nor a class number.
    """
    if target in TARGETS:
        return target
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise ValueError(
            f"target must be one of {', '.join(map(repr, TARGETS))} or the number of a class; got {target!r}"
        )
    return target


def check_references(wanted: Sequence[str] | None, best_of: tuple[str, str] | None, known: Sequence[str]) -> list[str]:
    """The references to compare with.

    Raises:
        ValueError: on an unknown reference, or on ``"best"`` without ``best_of``.
    """
    if best_of is not None and best_of[1:] not in (("min",), ("max",)):
        raise ValueError(f"best_of must be a metric and 'min' or 'max', such as ('val_loss', 'min'); got {best_of!r}")
    if wanted is None:
        return [name for name in known if name != "best" or best_of is not None]
    if "best" in wanted and best_of is None:
        raise ValueError(
            f"references={list(wanted)} with 'best' needs a metric, such as best_of=('val_loss', 'min'); got "
            "best_of=None"
        )
    return [choose("reference", name, known) for name in wanted]


def check_measures(wanted: Sequence[str] | None) -> list[str] | None:
    """The drift measures to log, or None.

    Raises:
        ValueError: on an unknown measure.
    """
    known = (*drift.MEASURES, *drift.IMAGE_MEASURES)
    return None if wanted is None else [choose("measure", measure, known) for measure in wanted]


def check_shares(features: Collection[str] | None, **wanted: Sequence[str]) -> dict[str, list[str]]:
    """The variables whose share of the attribution is logged, by name of the share; empty shares are left out.

    Raises:
        ValueError: on a variable that is not among ``features``. Those of a further input, ``<input>.<name>``, are not
            checked, as they are unknown before the first batch.
    """
    for name in [name for names in wanted.values() for name in names if features and "." not in name]:
        choose("feature", name, features or ())
    return {share: list(names) for share, names in wanted.items() if names}


def check_tokens(pad_token: object, special_tokens: Sequence[object], words: object) -> None:
    """Refuse token ids that are not numbers, and a ``words`` that cannot be used to look up tokens.

    Raises:
        TypeError: names the setting and shows its value.
    """
    for name, number in (("pad_token", pad_token), *(("special_tokens", token) for token in special_tokens)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise TypeError(
                f"{name} must hold token ids, such as tokenizer.convert_tokens_to_ids(...) returns; got {number!r}"
            )
    if not (words is None or callable(words) or isinstance(words, Mapping | Sequence)) or isinstance(words, str):
        raise TypeError(f"words must map token ids to words: a callable, a list or a dict; got {words!r}")


def check_sample_size(size: Any) -> int | None:
    """Refuse an invalid number of samples.

    Raises:
        TypeError: if it is not a whole number.
        ValueError: if it is negative.
    """
    if size is None:
        return None
    if not isinstance(size, Integral):
        raise TypeError(f"sample_size must be a whole number; got {size!r}")
    if size < 0:
        raise ValueError(f"sample_size must not be negative; got {size}")
    return int(size)


def check_share(share: Any) -> float | None:
    """Refuse an invalid share of the time.

    Raises:
        ValueError: if it does not lie strictly between 0 and 1.
    """
    if share is not None and (not 0 < share < 1):
        raise ValueError(f"max_overhead must lie strictly between 0 and 1; got {share!r}")
    return None if share is None else float(share)


def check_counts(**numbers: object) -> None:
    """Refuse anything but whole numbers of at least 1; None stands for a setting that was left out.

    Raises:
        ValueError: names the setting and shows its value.
    """
    for name, value in numbers.items():
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, Integral) or value < 1:
            raise ValueError(f"{name} must be a whole number and at least 1; got {value!r}")
