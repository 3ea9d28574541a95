"""Loops that numba compiles, where it is installed: how they are compiled, kept, and found to work."""

import hashlib
import os
import warnings
from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any

# sums in any order, but infinities and NaN as they are
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def loops(function: Any) -> Any:
    """A function that compiled functions call."""
    from numba import njit

    return njit(**_OPTIONS)(function)


@cache
def _sources(folder: Path) -> str:
    """What all modules of a folder and beside this one say."""
    files = sorted({*folder.glob("*.py"), *Path(__file__).parent.glob("*.py")})
    return hashlib.sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


def _named_by_sources(function: Any) -> Any:
    """The function under a name of its version, by which numba names the files in which it keeps what is compiled.

    numba looks whether the function's own file is the same; what is compiled into it of other modules may be of an
    earlier version, which lays out its tables in another way. And it enters a number in its index before it writes the
    file of that number, where another process, or one that comes after it was killed, would find that of an earlier
    version.
    """
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    version = _sources(Path(function.__code__.co_filename).parent)[:16]
    made.__qualname__ = f"{function.__qualname__}_{version}"
    made.__module__, made.__doc__ = function.__module__, function.__doc__
    return made


def _has_home() -> bool:
    """Whether what is compiled can be kept: where there is no home, numba would make a folder called ``~``."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111


def kept(function: Any) -> Any:
    """A function that is called from Python: once compiled, it is kept beside its file or in numba's own folder."""
    from numba import njit

    try:
        return njit(cache=_has_home(), **_OPTIONS)(_named_by_sources(function))
    except RuntimeError:
        return loops(function)


def kept_callback(signature: Any) -> Any:
    """Makes a function that other than Python calls; it is kept likewise."""
    from numba import cfunc

    options = {key: value for key, value in _OPTIONS.items() if key != "nogil"}

    def made(function: Any) -> Any:
        try:
            return cfunc(signature, cache=_has_home(), **options)(_named_by_sources(function))
        except RuntimeError:
            return cfunc(signature, **options)(function)

    return made


def usable(load: Callable[[], ModuleType], check: Callable[[Any], None], slower: str) -> ModuleType | None:
    """A module of compiled loops; None, with a warning if there is a reason, where numba cannot be used.

    Args:
        load: imports it, from beside where this is defined.
        check: is given the module, compiles what is in it, and raises if it does not do what it should.
        slower: what takes longer without it, for the warning.
    """
    try:
        if find_spec("numba") is None:
            return None
        from numba import config

        # what is not compiled takes a thousand times as long
        if getattr(config, "DISABLE_JIT", False):
            return None
        found = load()
        check(found)
    except Exception as error:  # noqa: BLE001  # whatever a numba raises that is broken, or cannot write
        warnings.warn(
            f"{slower} longer, for what numba compiles cannot be used: {error!r}. Where numba works else, remove what "
            f"it kept: the *.nbi and *.nbc files of loops beside {load.__module__}",
            stacklevel=4,
        )
        return None
    return found
