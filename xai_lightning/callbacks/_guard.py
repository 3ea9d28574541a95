"""Context managers that leave no trace (law 1)."""

import random
import sys
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from xai_lightning.callbacks._sharded import local, reshard
from xai_lightning.functional.rng import isolated

_EXPLAINING: ContextVar[bool] = ContextVar("explaining", default=False)


_PLAIN = (str, bytes, int, float, bool, complex, type(None))
_CONTAINERS = (list, dict, set, deque)


def checksum(tensor: Tensor) -> int:
    """Sum of a tensor's bits; it tells of writes through ``.data``, which the version counter does not.

    Of a shard: of what this rank holds. The sums of all ranks add up to that of the whole.
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
    """What one module held: attributes, contents of containers, weights, copies of other tensors, random states."""

    module: nn.Module
    attributes: dict[str, Any]
    contents: list[tuple[Any, list[Any]]]
    weights: list[_Weight]
    tensors: list[tuple[Tensor, Tensor]]
    generators: list[tuple[Any, Any]]


def _items(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _held(value: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    """All containers within ``value``, however deep, and all else that is held in them."""
    containers: dict[int, Any] = {}
    others: list[Any] = []
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
    """Put the contents back, unless they are still the same objects in the same order."""
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


def _every_module(module: nn.Module) -> list[nn.Module]:
    """The submodules, and those that are hidden in containers, where Lightning does not see them."""
    found = {id(child): child for child in module.modules()}
    for child in list(found.values()):
        for other in _held(dict(vars(child)))[1]:
            if isinstance(other, nn.Module):
                found |= {id(hidden): hidden for hidden in other.modules()}
    return list(found.values())


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Put every submodule of ``module`` back as it was: attributes, hooks, flags, buffers, containers (traps 9, 10).

    Hooks live in dicts among the attributes, so they are put back with them; buffers and loose tensors that were
    written to are copied back, generators rewound. Objects of the user's own classes are not looked into.

    Raises:
        RuntimeError: if a parameter or a gradient was changed, or something cannot be put back.
    """
    memories = [_remember(child) for child in _every_module(module)]
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
            f"an explanation changed what cannot be undone: parameters or gradients of [{', '.join(altered)}]; "
            f"contents of [{', '.join(failures)}]"
        )


def _evaluate(module: nn.Module) -> None:
    # the flag is set directly: train() and eval() may be overridden (Monte Carlo dropout); `restored` puts it back
    for child in _every_module(module):
        child.training = False


@contextmanager
def _silent(module: nn.Module) -> Iterator[None]:
    """Let ``self.log`` within ``forward`` log nothing: it would enter the user's own metrics."""

    def mute(*_: Any, **__: Any) -> None:
        return None

    results = getattr(getattr(module, "_trainer", None), "_results", None)
    if results is None:
        yield
        return
    vars(results)["log"] = mute
    try:
        yield
    finally:
        del vars(results)["log"]


@contextmanager
def explaining(
    module: nn.Module, *, seed: int = 0, precision: AbstractContextManager[Any] | None = None
) -> Iterator[None]:
    """Everything an explanation needs, and nothing of it afterwards (step 5 of a validation).

    Inference mode is left and gradients are on; the random generators are isolated; modules are in evaluation mode;
    autocast is off unless ``precision`` says otherwise; cuDNN is off if a recurrent net is inside (trap 21); compiled
    nets run eagerly (trap 22). On leaving, `restored` puts the module back.

    Args:
        module: the outermost module that an explanation may touch: the LightningModule.
        seed: of the global generators inside, for a network that draws in ``forward``.
        precision: the Trainer's context for forward passes, to explain under its mixed precision.

    Raises:
        RuntimeError: if a parameter or a gradient was changed.
    """
    device = next((p.device.type for p in module.parameters()), "cpu")
    # whole weights that a pass left behind are no parameters of their own: they are let go of before and after
    reshard(module)
    with ExitStack() as stack:
        stack.enter_context(isolated(seed))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(restored(module))
        stack.callback(reshard, module)
        _evaluate(module)
        stack.enter_context(_silent(module))
        # nothing can be compiled before this module is loaded, and loading it takes seconds
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(precision or torch.autocast(device, enabled=False))
        if any(isinstance(child, nn.RNNBase) for child in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        token = _EXPLAINING.set(True)
        stack.callback(_EXPLAINING.reset, token)
        yield


class Hooks:
    """Forward hooks for one step: mute while anything is explained (trap 8), removed after it or on any exception.

    Args:
        while_explaining: not mute then.
        attempt: calls a hook with its arguments, so that what fails in it does not fail in the user's step.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_handles": []}

    def __init__(self, *, while_explaining: bool = False, attempt: Callable[..., Any] | None = None) -> None:
        self._while_explaining, self._attempt = while_explaining, attempt
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def add(self, module: nn.Module, hook: Callable[..., None]) -> None:
        """Call ``hook(module, args, kwargs, output)`` after each forward of ``module`` that the user's step makes."""

        def unless_explaining(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if self._while_explaining or not _EXPLAINING.get():
                call = (module, args, kwargs, output)
                hook(*call) if self._attempt is None else self._attempt(hook, *call)

        self._handles.append(module.register_forward_hook(unless_explaining, with_kwargs=True))

    def remove(self) -> None:
        """Remove every hook that was added."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out."""
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _NO_MEMORY)


_NO_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")


def described(error: BaseException) -> str:
    """An exception and where it was raised, in one line."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    return f"{error!r}" + "".join(f" ({Path(f.filename).name}, line {f.lineno})" for f in frames)
