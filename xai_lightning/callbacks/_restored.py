"""Puts a module back as it was, whatever happened to it."""

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xai_lightning.callbacks._sharded import local

_PLAIN = (str, bytes, int, float, bool, complex, type(None))
_CONTAINERS = (list, dict, set, deque)


def checksum(tensor: Tensor) -> int:
    """Sum of a tensor's bits; it detects writes through ``.data``, which the version counter misses.

    For a sharded tensor it covers the part on this rank; the sums of all ranks add up to that of the whole tensor.
    """
    if not _has_storage(tensor):
        return tensor._version
    flat = local(tensor.detach()).contiguous().reshape(-1)
    flat = flat.view(torch.uint8) if flat.is_complex() or flat.numel() == 0 else flat
    words = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}[flat.element_size()]
    return int((flat if flat.dtype == torch.bool else flat.view(words)).sum(dtype=torch.int64))


def _has_storage(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not is_lazy(tensor)


def _pointer(tensor: Tensor) -> int:
    return local(tensor.detach()).data_ptr() if _has_storage(tensor) else 0


class _Weight(NamedTuple):
    """A parameter or gradient as it was."""

    tensor: Tensor
    pointer: int
    content: int
    requires_grad: bool
    grad: Tensor | None


def _weigh(tensor: Tensor) -> _Weight:
    grad = tensor.grad if tensor.is_leaf else None
    return _Weight(tensor, _pointer(tensor), checksum(tensor), tensor.requires_grad, grad)


class _Memory(NamedTuple):
    """The state of one module: attributes, contents of containers, weights, copies of other tensors, random states."""

    module: nn.Module
    attributes: dict[str, Any]
    contents: list[tuple[Any, list[Any]]]
    weights: list[_Weight]
    tensors: list[tuple[Tensor, Tensor]]
    generators: list[tuple[Any, Any]]


def _items(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _held(value: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """All containers nested within ``value``, at any depth, and everything else that they hold."""
    containers: dict[int, Any] = {}
    others: list[Any] = []
    # a work list instead of recursion, since containers may hold themselves
    waiting: list[Any] = [value]
    while waiting:
        found = waiting.pop()
        if isinstance(found, _CONTAINERS):
            if id(found) not in containers:
                containers[id(found)] = found
                waiting += [item for item in _items(found) if not isinstance(item, _PLAIN)]
        elif isinstance(found, tuple):
            waiting += [item for item in found if not isinstance(item, _PLAIN)]
        else:
            others.append(found)
    return [container for container in containers.values() if container is not value], others


def _remember(module: nn.Module) -> _Memory:
    attributes = dict(vars(module))
    containers, others = _held(attributes)
    weights: list[Tensor] = [p for p in module._parameters.values() if p is not None]
    weights += [p.grad for p in weights if p.grad is not None]
    known = {id(weight) for weight in weights}
    # parameters and gradients are compared by checksum only: copies would double the model's memory
    tensors = [x for x in others if isinstance(x, Tensor) and id(x) not in known]
    return _Memory(
        module,
        attributes,
        [(c, list(c.items()) if isinstance(c, dict) else list(c)) for c in containers],
        [_weigh(weight) for weight in weights],
        [(tensor, tensor.detach().clone()) for tensor in tensors if not is_lazy(tensor)],
        [(x, _generator_state(x)) for x in others if isinstance(x, _GENERATORS)],
    )


_GENERATORS = (torch.Generator, np.random.Generator, random.Random)


def _generator_state(generator: Any) -> Any:
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    return generator.bit_generator.state if isinstance(generator, np.random.Generator) else generator.getstate()


def _set_generator(generator: Any, state: Any) -> None:
    if isinstance(generator, torch.Generator):
        generator.set_state(state)
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    else:
        generator.setstate(state)


def _same(now: list[Any], before: list[Any]) -> bool:
    return len(now) == len(before) and all(a is b for a, b in zip(now, before, strict=True))


def _refill(container: Any, before: list[Any]) -> None:
    """Restore the contents, unless they are still the same objects in the same order."""
    if isinstance(container, dict):
        if not (_same(list(container), [k for k, _ in before]) and _same(_items(container), [v for _, v in before])):
            container.clear()
            container.update(before)
    elif not _same(list(container), before):
        container.clear()
        container.update(before) if isinstance(container, set) else container.extend(before)


def _put_back(memory: _Memory) -> None:
    vars(memory.module).clear()
    vars(memory.module).update(memory.attributes)
    for weight in memory.weights:
        if weight.tensor.requires_grad != weight.requires_grad:
            weight.tensor.requires_grad_(weight.requires_grad)
    for generator, state in memory.generators:
        _set_generator(generator, state)
    for tensor, content in memory.tensors:
        if not _equal(tensor, content):
            with torch.no_grad(), torch.inference_mode(tensor.is_inference()):
                tensor.copy_(content)
    for container, before in memory.contents:
        _refill(container, before)


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.shape == b.shape and (a.layout != torch.strided or bool(torch.equal(a, b)))


def _altered(weight: _Weight) -> bool:
    tensor = weight.tensor
    regrad = tensor.is_leaf and tensor.grad is not weight.grad
    return regrad or _pointer(tensor) != weight.pointer or checksum(tensor) != weight.content


def every_module(module: nn.Module) -> list[nn.Module]:
    """All submodules, including those hidden in plain containers, where Lightning does not see them."""
    found = {id(child): child for child in module.modules()}
    for child in list(found.values()):
        for other in _held(dict(vars(child)))[1]:
            if isinstance(other, nn.Module):
                found |= {id(hidden): hidden for hidden in other.modules()}
    return list(found.values())


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Put every submodule of ``module`` back as it was: attributes, hooks, flags, buffers, containers (traps 9, 10).

    Hooks live in dicts among the attributes, so they are restored with them. Buffers and other tensors that were
    written to are copied back, and generators are rewound. Objects of the user's own classes are not inspected.

    Raises:
        RuntimeError: if a parameter or a gradient was changed, or something cannot be put back.
    """
    memories = [_remember(child) for child in every_module(module)]
    failures: list[str] = []
    try:
        yield
    finally:
        for memory in memories:
            try:
                _put_back(memory)
            except Exception as error:  # noqa: BLE001 - the other modules must be put back all the same
                failures.append(f"{type(memory.module).__name__} ({error!r})")
    altered = sorted({type(m.module).__name__ for m in memories if any(_altered(weight) for weight in m.weights)})
    if altered or failures:
        raise RuntimeError(
            f"an explanation made changes that cannot be undone: parameters or gradients of [{', '.join(altered)}]; "
            f"contents of [{', '.join(failures)}]"
        )
