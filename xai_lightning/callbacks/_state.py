"""Loads states that may be damaged or come from another release, without losing the run (trap 53)."""

import warnings
from collections.abc import Callable, Collection, Mapping
from typing import Any

BROKEN = (ArithmeticError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def take_up(
    owner: str,
    state: Any,
    version: int,
    *,
    load: Callable[[Mapping[str, Any]], object],
    before: Mapping[str, Any],
) -> bool:
    """Load a state, or ignore it with one warning that says why; unknown parts are named in a warning and ignored.

    Args:
        owner: whose state it is, for the warning.
        state: the saved state.
        version: the state version that this release reads.
        load: loads a state.
        before: the current state, which is loaded again if ``state`` turns out to be damaged.

    Returns:
        Whether the state was loaded.
    """
    why = _why_not(state, version)
    if not why:
        try:
            load(state)
        except BROKEN as error:
            why = f"a damaged state of version {version}: {error!r}"
            load(before)
    if why:
        warnings.warn(f"{owner}: ignored {why}", stacklevel=3)
        return False
    _name(owner, [key for key in state if key not in before], version)
    return True


def _why_not(state: Any, version: int) -> str:
    if not isinstance(state, Mapping):
        return f"a damaged state: expected a dict; got {str(state)[:60]!r}"
    found = state.get("version")
    known = isinstance(found, int) and found == version
    return "" if known else f"a state of version {repr(found)[:60]}; this release reads {version}"


def _name(owner: str, unknown: Collection[str], version: int) -> None:
    if unknown:
        warnings.warn(
            f"{owner}: ignored unknown parts of a state of version {version}: {', '.join(sorted(map(str, unknown)))}",
            stacklevel=4,
        )
