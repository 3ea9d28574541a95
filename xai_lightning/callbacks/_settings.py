"""Checks of settings that can be made in a constructor."""


def fixed_class(target: object) -> int | None:
    """The class that is explained for every sample; None for each one's own.

    Raises:
        ValueError: if ``target`` is neither ``"label"`` nor a class number.
    """
    if target == "label":
        return None
    if isinstance(target, bool) or not isinstance(target, int) or target < 0:
        raise ValueError(f"target must be 'label' or the number of a class; got {target!r}")
    return target


def check_counts(**numbers: int) -> None:
    """Refuse numbers below 1.

    Raises:
        ValueError: names the setting and shows its value.
    """
    for name, value in numbers.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1; got {value}")
