"""Layers that overwrite their input, which captum needs as it was."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def out_of_place(network: nn.Module) -> Iterator[None]:
    """Layers do not overwrite their input, since captum hands them tensors that must stay as they are (trap 15)."""
    found = _in_place(network)
    for module in found:
        vars(module)["inplace"] = False
    try:
        yield
    finally:
        for module in found:
            vars(module)["inplace"] = True


def _in_place(network: nn.Module) -> list[nn.Module]:
    """Of what `modules` gives, whose names take, of a small network, as long as a layer's pass."""
    seen: set[nn.Module] = set()
    waiting: list[nn.Module | None] = [network]
    found = []
    while waiting:
        module = waiting.pop()
        if module is None or module in seen:
            continue
        seen.add(module)
        its = vars(module)
        waiting.extend(its["_modules"].values())
        if its.get("inplace") is True:
            found.append(module)
    return found
