"""Names of modules in little room."""

from collections.abc import Sequence
from itertools import product, takewhile

from xai_lightning.functional.render.sheets import fitted


def module_names(names: Sequence[str], room: float, size: float) -> list[str]:
    """Names of modules, each in one line of ``room`` pixels, and all of them different.

    Where one is too long, as many parts as needed of those that all begin with are left out, and of those that all end
    with. What is still too long loses its middle.

    Args:
        names: dotted paths.
        room: Pixels.
        size: Points.

    Returns:
        As many names.

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
    """How many parts all begin with; each keeps one at least."""
    least = min(len(part) for part in parts) - 1
    return min(least, sum(1 for _ in takewhile(lambda each: len(set(each)) == 1, zip(*parts, strict=False))))
