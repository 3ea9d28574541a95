"""Choosing from a table by name. Standard library only."""

import difflib
from collections.abc import Collection
from typing import TypeVar

Name = TypeVar("Name", bound=str)


def choose(role: str, name: Name, known: Collection[str]) -> Name:
    """``name``, if it is known.

    Raises:
        ValueError: if it is not; the nearest is named and the known ones are listed.

    Example:
        >>> choose("method", "saliency", ["saliency", "occlusion"])
        'saliency'
    """
    if name in known:
        return name
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.4)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = f"Known are {', '.join(known)}." if known else "There are none."
    raise ValueError(f"unknown {role} {name!r}.{hint} {listed}")
