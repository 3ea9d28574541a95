"""Module names shortened to little space."""

from collections.abc import Sequence
from itertools import product, takewhile

from xai_lightning.functional.render.sheets import fitted


def module_names(names: Sequence[str], room: float, size: float) -> list[str]:
    """Names of modules, shortened to one line of ``room`` pixels each, and all different.

    If a name is too long, as many leading and trailing parts as needed are left out of those that all names share.
    Names that are still too long are shortened in the middle.

    Args:
        names: Dotted paths.
        room: Width in pixels.
        size: Font size in points.

    Returns:
        One name for each.

    Example:
        >>> module_names(["encoder.layers.0.feed_forward.act", "encoder.layers.1.attention.act"], room=150, size=8)
        ['…0.feed_forward.act', '…1.attention.act']
        >>> module_names(["fc1", "fc2"], room=120, size=8)
        ['fc1', 'fc2']
    """
    parts = [name.split(".") for name in names]
    first = _shared(parts)
    last = _shared([part[first:][::-1] for part in parts])
    shorter = list(names)
    for end, start in product(range(last + 1), range(first + 1)):
        kept = [".".join(part[start : len(part) - end]) for part in parts]
        shorter = ["…" * (start > 0) + name + "…" * (end > 0) for name in kept]
        if fitted(shorter, room, size) == shorter:
            break
    return fitted(shorter, room, size)


def _shared(parts: Sequence[Sequence[str]]) -> int:
    """Number of leading parts that all names share; each name keeps at least one part."""
    least = min(len(part) for part in parts) - 1
    return min(least, sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False))))
