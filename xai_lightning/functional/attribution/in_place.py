"""Layers that overwrite their input, which captum needs unchanged."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def out_of_place(network: nn.Module) -> Iterator[None]:
    """Keep layers from overwriting their input, since captum hands them tensors that must not change (trap 15)."""
    found = _in_place(network)
    for module in found:
        vars(module)["inplace"] = False
    try:
        yield
    finally:
        for module in found:
            vars(module)["inplace"] = True


def _in_place(network: nn.Module) -> list[nn.Module]:
    """In-place modules; not by `modules`, whose naming takes as long as one layer's forward pass in a small network."""
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
