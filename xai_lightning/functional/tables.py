"""Choosing from a table by name. Standard library only."""

import difflib
from collections.abc import Collection
from typing import TypeVar

Name = TypeVar("Name", bound=str)
MOST, NEAREST = 128, 8


def choose(role: str, name: Name, known: Collection[str]) -> Name:
    """``name``, if it is known.

    Raises:
        ValueError: if it is not; the message names the closest known name, and lists all known names, or the 8 closest
            if there are more than 128.

    Example:
        >>> choose("method", "saliency", ["saliency", "occlusion"])
        'saliency'
    """
    if name in known:
        return name
    raise ValueError(f"unknown {role} {name!r}. {listed(str(name), known)}")


def listed(name: str, known: Collection[str], most: int = MOST) -> str:
    """Suggests the ``known`` name closest to one that is not among them; lists all, or the closest of over ``most``.

    Example:
        >>> listed("salience", ["saliency", "occlusion"])
        "Did you mean 'saliency'? Known names: saliency, occlusion."
    """
    if not known:
        return "There are none."
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.4)
    hint = f"Did you mean {close[0]!r}? " if close else ""
    if len(known) <= most:
        return f"{hint}Known names: {', '.join(known)}."
    near = difflib.get_close_matches(name, known, n=NEAREST, cutoff=0.0)
    return f"{hint}There are {len(known)} known names; the nearest are {', '.join(near)}."
