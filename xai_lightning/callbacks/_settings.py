"""Checks of settings that can be made in a constructor."""

from collections.abc import Collection, Sequence
from typing import Any

from xai_lightning.functional.tables import choose

TARGETS = ("label", "reference_prediction", "predicted")


def check_target(target: Any) -> Any:
    """Refuse a target that is no way to choose a class.

    Raises:
        ValueError: if ``target`` is none of the names, and no class number.
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
        ValueError: on an unknown one, or if nothing says which validation is the best.
    """
    if best_of is not None and best_of[1:] not in (("min",), ("max",)):
        raise ValueError(f"best_of must be a metric and 'min' or 'max', such as ('val_loss', 'min'); got {best_of!r}")
    if wanted is None:
        return [name for name in known if name != "best" or best_of is not None]
    if "best" in wanted and best_of is None:
        raise ValueError(
            f"references={list(wanted)} with 'best' needs best_of=('val_loss', 'min') or the like; got None"
        )
    return [choose("reference", name, known) for name in wanted]


def check_shares(features: Collection[str] | None, **wanted: Sequence[str]) -> dict[str, list[str]]:
    """The variables whose shares of the attribution are logged, by name of the share; those without any are left out.

    Raises:
        ValueError: on a variable that is not among ``features``.
    """
    for name in [name for names in wanted.values() for name in names if features]:
        choose("feature", name, features or ())
    return {share: list(names) for share, names in wanted.items() if names}


def check_sample_size(size: int | None) -> int | None:
    """Refuse a negative number.

    Raises:
        ValueError: if it is one.
    """
    if size is not None and size < 0:
        raise ValueError(f"sample_size must not be negative; got {size}")
    return size


def check_share(share: float | None) -> float | None:
    """Refuse a share of the time that is none.

    Raises:
        ValueError: if it is not above 0 and below 1.
    """
    if share is not None and not 0 < share < 1:
        raise ValueError(f"max_overhead must lie between 0 and 1; got {share}")
    return share


def check_counts(**numbers: int) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: names the setting and shows its value.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
