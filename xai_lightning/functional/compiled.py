"""Loops that numba compiles, where it is installed: how they are compiled, cached and verified."""

import hashlib
import os
import warnings
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import FunctionType, ModuleType
from typing import Any
from zipfile import ZipFile, is_zipfile

# sums may be reordered, but infinities and NaN keep their meaning
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def loops(function: Any) -> Any:
    """Compile a function that other compiled functions call."""
    from numba import njit

    return njit(**_OPTIONS)(function)


@cache
def _sources(folder: Path) -> str:
    """Hash of the sources of all modules in a folder and beside this one, of numba's version and of the processor.

    Raises:
        RuntimeError: where there are no sources to read, as in an executable.
    """
    said = hashlib.sha256(_said(folder) + _said(Path(__file__).parent))
    said.update(repr(_compiler()).encode())
    return said.hexdigest()


def _said(folder: Path) -> bytes:
    # editors leave dangling links beside a file
    files = sorted(file for file in folder.glob("*.py") if file.is_file())
    if files:
        return b"".join(file.read_bytes() for file in files)
    archive = next((place for place in (folder, *folder.parents) if is_zipfile(place)), None)
    if archive is None:
        raise RuntimeError(f"there are no sources in {folder}")
    with ZipFile(archive) as packed:
        return repr([(each.filename, each.CRC) for each in packed.infolist()]).encode()


def _compiler() -> tuple[str | None, ...]:
    """Numba's version and target: processors that share a folder and compile at once would pick the same file name."""
    from llvmlite import binding
    from numba import __version__ as version
    from numba import config

    features = ""
    # the features of some processors are unknown
    with suppress(RuntimeError):
        features = binding.get_host_cpu_features().flatten()
    # set in the environment to compile for another processor than this one
    chosen = (getattr(config, name, None) for name in ("CPU_NAME", "CPU_FEATURES"))
    return version, *chosen, binding.get_host_cpu_name(), features


def _named_by_sources(function: Any) -> Any:
    """The function, renamed after the version of its sources, since numba names its cache files by that name.

    numba checks only that the function's own file is unchanged. Code compiled into it from other modules may be of an
    earlier version with another table layout, in an archive too. And numba enters a file's number in its index before
    it writes the file, so that another process, or one started after a kill, would load an earlier version's file of
    that number.
    """
    made = FunctionType(
        function.__code__, function.__globals__, function.__name__, function.__defaults__, function.__closure__
    )
    version = _sources(Path(function.__code__.co_filename).parent)[:16]
    made.__qualname__ = f"{function.__qualname__}_{version}"
    made.__module__, made.__doc__ = function.__module__, function.__doc__
    return made


def _has_home() -> bool:
    """Whether compiled code can be cached: without a home directory, numba would create a folder called ``~``."""
    return os.path.expanduser("~") != "~"  # noqa: PTH111


def kept(function: Any) -> Any:
    """Compile a function that Python calls, and cache it beside its file or in numba's own folder."""
    from numba import njit

    try:
        return njit(cache=_has_home(), **_OPTIONS)(_named_by_sources(function))
    except RuntimeError:
        return loops(function)


def kept_callback(signature: Any) -> Any:
    """Decorator that compiles a function for callers outside Python, and caches it likewise."""
    from numba import cfunc

    # a cfunc has no such option: it never holds Python's global interpreter lock
    options = {key: value for key, value in _OPTIONS.items() if key != "nogil"}

    def made(function: Any) -> Any:
        try:
            return cfunc(signature, cache=_has_home(), **options)(_named_by_sources(function))
        except RuntimeError:
            return cfunc(signature, **options)(function)

    return made


def usable(load: Callable[[], ModuleType], check: Callable[[Any], None], slower: str) -> ModuleType | None:
    """Load and verify a module of compiled loops; None where numba cannot be used, with a warning if it failed.

    Args:
        load: imports the module, which lies beside the file that defines ``load``.
        check: compiles the module's loops and raises if their results are wrong.
        slower: what takes longer without it, for the warning.
    """
    try:
        if find_spec("numba") is None:
            return None
        from numba import config

        # uncompiled loops take a thousand times as long
        if getattr(config, "DISABLE_JIT", False):
            return None
        found = load()
        check(found)
    except Exception as error:  # noqa: BLE001  # whatever a numba raises that is broken or cannot write
        warnings.warn(
            f"{slower} longer, since numba's compiled loops cannot be used: {error!r}. If numba works otherwise, "
            f"delete what it cached: the *.nbi and *.nbc files of loops beside {load.__module__}",
            stacklevel=4,
        )
        return None
    return found
