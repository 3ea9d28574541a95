"""Loops that numba compiles, where it is installed: how they are compiled, kept, and found to work."""

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

# sums in any order, but infinities and NaN as they are
_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"reassoc", "contract", "nsz", "arcp"}}


def loops(function: Any) -> Any:
    """A function that compiled functions call."""
    from numba import njit

    return njit(**_OPTIONS)(function)


@cache
def _sources(folder: Path) -> str:
    """What all modules of a folder and beside this one say, which numba compiles them, and for which processor.

    Raises:
        RuntimeError: where there are none to be read, as in an executable.
    """
    said = hashlib.sha256(_said(folder) + _said(Path(__file__).parent))
    said.update(repr(_compiler()).encode())
    return said.hexdigest()


def _said(folder: Path) -> bytes:
    # editors lay links beside a file that lead nowhere
    files = sorted(file for file in folder.glob("*.py") if file.is_file())
    if files:
        return b"".join(file.read_bytes() for file in files)
    archive = next((place for place in (folder, *folder.parents) if is_zipfile(place)), None)
    if archive is None:
        raise RuntimeError(f"there are no sources in {folder}")
    with ZipFile(archive) as packed:
        return repr([(each.filename, each.CRC) for each in packed.infolist()]).encode()


def _compiler() -> tuple[str | None, ...]:
    """Two processors that share a folder would each call what they compile at the same time the first."""
    from llvmlite import binding
    from numba import __version__ as version
    from numba import config

    features = ""
    # some processors' are not known
    with suppress(RuntimeError):
        features = binding.get_host_cpu_features().flatten()
    # set in the environment to compile for another processor than this one
    chosen = (getattr(config, name, None) for name in ("CPU_NAME", "CPU_FEATURES"))
    return version, *chosen, binding.get_host_cpu_name(), features


def _named_by_sources(function: Any) -> Any:
    """The function under a name of its version, by which numba names the files in which it keeps what is compiled.

    numba looks whether the function's own file is the same; what is compiled into it of other modules may be of an
    earlier version, which lays out its tables in another way, in an archive too. And it enters a number in its index
    before it writes the file of that number, where another process, or one that comes after it was killed, would find
    that of an earlier version.
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

    # a cfunc has no such option: it never holds the lock of Python
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
