"""Checks of settings that can be made in a constructor."""

from typing import Any

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


def check_counts(**numbers: int) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: names the setting and shows its value.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
