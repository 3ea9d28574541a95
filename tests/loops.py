"""Ways in which compiled loops can run."""

from collections.abc import Callable
from types import ModuleType
from typing import Any

import pytest
from torch import Tensor


def threads() -> Any:
    """Can be imported where numba is installed."""
    from xai_lightning.functional import threads as loops_in_threads

    return loops_in_threads


def in_two_parts(bound: Any, turns: int) -> None:
    """What threads do, one after the other."""
    arrays = [tensor.numpy() for tensor in bound.tensors]
    for begin, end in ((turns // 2, turns), (0, turns // 2)):
        bound.shared.loop.py_func(begin, end, *arrays)


def interpreted(monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
    """What numba compiles runs with numpy, which checks bounds."""
    for loops in modules:
        for name, loop in vars(loops).items():
            if hasattr(loop, "py_func"):
                monkeypatch.setattr(loops, name, loop.py_func)
    monkeypatch.setattr(threads().Bound, "__call__", in_two_parts)


class Broken:
    """A loop that does not work: it ``raises`` or does nothing."""

    def __init__(self, fault: str) -> None:
        self._fault = fault

    def on(self, *tensors: Tensor) -> Callable[[int], None]:
        if self._fault == "raises":
            raise OSError("no space left on device")
        return lambda turns: None
