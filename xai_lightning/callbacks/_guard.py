"""Context managers that leave no trace (law 1)."""

import copy
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai_lightning.functional.rng import isolated

_EXPLAINING: ContextVar[bool] = ContextVar("explaining", default=False)


class _Kept(NamedTuple):
    """A tensor as it was: itself, where its data lay, its version, and a copy if it may have to be put back."""

    tensor: Tensor
    pointer: int
    version: int
    copy: Tensor | None
    requires_grad: bool
    grad: Tensor | None


def _keep(tensor: Tensor, *, copied: bool) -> _Kept:
    version = -1 if tensor.is_inference() else tensor._version
    content = tensor.detach().clone() if copied else None
    grad = tensor.grad if tensor.is_leaf else None
    return _Kept(tensor, tensor.data_ptr(), version, content, tensor.requires_grad, grad)


def _altered(kept: _Kept) -> bool:
    """Whether the data are elsewhere or were written to; tensors made in inference mode carry no version."""
    tensor = kept.tensor
    if tensor.is_inference():
        return kept.copy is not None and not torch.equal(tensor, kept.copy)
    regrad = tensor.is_leaf and tensor.grad is not kept.grad
    return regrad or tensor.data_ptr() != kept.pointer or tensor._version != kept.version


class _Memory(NamedTuple):
    """What one module held: its attributes, the contents of its containers, its weights, and its other tensors."""

    module: nn.Module
    attributes: dict[str, Any]
    contents: list[tuple[Any, Any]]
    weights: list[_Kept]
    tensors: list[_Kept]


def _items(container: Any) -> list[Any]:
    return list(container.values() if isinstance(container, dict) else container)


def _containers(value: Any, found: dict[int, Any]) -> dict[int, Any]:
    """All lists, dicts, sets and deques within ``value``, however deep, by identity."""
    if isinstance(value, list | dict | set | deque) and id(value) not in found:
        found[id(value)] = value
        for item in _items(value):
            _containers(item, found)
    return found


def _remember(module: nn.Module) -> _Memory:
    attributes = dict(vars(module))
    containers = list(_containers(attributes, {}).values())
    held = [item for container in containers for item in _items(container)]
    weights: list[Tensor] = [p for p in module._parameters.values() if p is not None]
    weights += [p.grad for p in weights if p.grad is not None]
    known = {id(weight) for weight in weights}
    others = [t for t in held if isinstance(t, Tensor) and id(t) not in known and t.layout == torch.strided]
    return _Memory(
        module,
        attributes,
        [(container, copy.copy(container)) for container in containers[1:]],
        [_keep(weight, copied=False) for weight in weights],
        [_keep(tensor, copied=True) for tensor in others],
    )


def _refill(container: Any, content: Any) -> None:
    container.clear()
    if isinstance(container, dict | set):
        container.update(content)
    else:
        container.extend(content)


def _put_back(memory: _Memory) -> None:
    vars(memory.module).clear()
    vars(memory.module).update(memory.attributes)
    for container, content in memory.contents:
        _refill(container, content)
    for kept in memory.weights:
        if kept.tensor.requires_grad != kept.requires_grad:
            kept.tensor.requires_grad_(kept.requires_grad)
    for kept in memory.tensors:
        if kept.copy is not None and _altered(kept):
            with torch.no_grad(), torch.inference_mode(kept.tensor.is_inference()):
                kept.tensor.copy_(kept.copy)


@contextmanager
def restored(module: nn.Module) -> Iterator[None]:
    """Put every submodule of ``module`` back as it was: attributes, hooks, flags, buffers, containers (traps 9, 10).

    Hooks live in dicts among the attributes, so they are put back with them; buffers and loose tensors that were
    written to are copied back.

    Raises:
        RuntimeError: if a parameter or a gradient was changed, which nothing can undo.
    """
    memories = [_remember(child) for child in module.modules()]
    try:
        yield
    finally:
        for memory in memories:
            _put_back(memory)
    altered = sorted({type(m.module).__name__ for m in memories if any(_altered(kept) for kept in m.weights)})
    if altered:
        raise RuntimeError(
            f"an explanation changed parameters or gradients of {', '.join(altered)}, and cannot undo it"
        )


def _evaluate(module: nn.Module) -> None:
    # the flag is set directly: train() and eval() may be overridden (Monte Carlo dropout); `restored` puts it back
    for child in module.modules():
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
    with ExitStack() as stack:
        stack.enter_context(isolated(seed))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(restored(module))
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
    """Forward hooks for one step: mute while anything is explained (trap 8), removed after it or on any exception."""

    def __getstate__(self) -> dict[str, Any]:
        return {"_handles": []}

    def __init__(self) -> None:
        self._handles: list[torch.utils.hooks.RemovableHandle] = []

    def add(self, module: nn.Module, hook: Callable[..., None]) -> None:
        """Call ``hook(module, args, kwargs, output)`` after each forward of ``module`` that the user's step makes."""

        def unless_explaining(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if not _EXPLAINING.get():
                hook(module, args, kwargs, output)

        self._handles.append(module.register_forward_hook(unless_explaining, with_kwargs=True))

    def remove(self) -> None:
        """Remove every hook that was added."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
