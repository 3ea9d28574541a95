"""Context managers that leave no trace (law 1)."""

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from xai_lightning.callbacks._compiled import CompiledCall
from xai_lightning.callbacks._restored import every_module, restored
from xai_lightning.callbacks._sharded import reshard
from xai_lightning.functional.rng import isolated

_EXPLAINING: ContextVar[bool] = ContextVar("explaining", default=False)


def _evaluate(module: nn.Module) -> None:
    # the flag is set directly, since train() and eval() may be overridden (Monte Carlo dropout); `restored` resets it
    for child in every_module(module):
        child.training = False


@contextmanager
def _silent(module: nn.Module) -> Iterator[None]:
    """Mute ``self.log`` within ``forward``, which would otherwise change the user's own metrics."""

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
    """Set up everything that an explanation needs, and undo all of it afterwards (step 5 of a validation).

    Inference mode is left and gradients are enabled; the random generators are isolated; modules are in evaluation
    mode; autocast is off unless ``precision`` says otherwise; cuDNN is off if the module contains a recurrent net (trap
    21); compiled nets run eagerly (trap 22). On exit, `restored` puts the module back.

    Args:
        module: the outermost module that an explanation may touch: the LightningModule.
        seed: seeds the global generators inside, for a network that draws random numbers in ``forward``.
        precision: the Trainer's context for forward passes, to explain under its mixed precision.

    Raises:
        RuntimeError: if a parameter or a gradient was changed, or something cannot be put back.
    """
    device = next((p.device.type for p in module.parameters()), "cpu")
    # gathered weights that a pass left behind are not parameters of the module: free them before and after
    reshard(module)
    with ExitStack() as stack:
        stack.enter_context(isolated(seed))
        stack.enter_context(torch.inference_mode(False))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(restored(module))
        stack.callback(reshard, module)
        _evaluate(module)
        stack.enter_context(_silent(module))
        # nothing can be compiled unless this module is loaded, and loading it takes seconds
        if "torch._dynamo" in sys.modules:
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        stack.enter_context(precision or torch.autocast(device, enabled=False))
        if any(isinstance(child, nn.RNNBase) for child in module.modules()):
            stack.enter_context(torch.backends.cudnn.flags(enabled=False))
        token = _EXPLAINING.set(True)
        stack.callback(_EXPLAINING.reset, token)
        yield


class Made:
    """A forward hook that remembers its last registration.

    Args:
        call: the hook, called with keyword arguments too.
    """

    def __init__(self, call: Callable[..., None]) -> None:
        self.call = call
        self._handle: RemovableHandle | None = None

    def register(self, module: nn.Module) -> RemovableHandle:
        """Register the hook; on the same module as last time under the same id, which takes a third of the time."""
        handle = self._handle
        if handle is None or handle.hooks_dict_ref() is not module._forward_hooks:
            self._handle = handle = module.register_forward_hook(self.call, with_kwargs=True)
        else:
            module._forward_hooks[handle.id], module._forward_hooks_with_kwargs[handle.id] = self.call, True
        return handle


class Hooks:
    """Forward hooks for one step: muted during explanations (trap 8), removed after the step or on any exception.

    Args:
        while_explaining: call the hooks during explanations too.
        attempt: calls a hook with its arguments, so that its failure does not become one of the user's step.
    """

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_undo": []}

    def __init__(self, *, while_explaining: bool = False, attempt: Callable[..., Any] | None = None) -> None:
        self._while_explaining, self._attempt = while_explaining, attempt
        self._undo: list[Callable[[], None]] = []

    def add(self, module: nn.Module, hook: Callable[..., None]) -> None:
        """Call ``hook(module, args, kwargs, output)`` after each forward of ``module`` that the user's step makes."""
        self.attach(module, self.made(hook))

    def made(self, hook: Callable[..., None], attempt: Callable[..., Any] | None = None) -> "Made":
        """Wrap ``hook`` for `attach`; one wrapped hook can serve many steps.

        Args:
            hook: the function to call.
            attempt: calls this hook, in place of the ``attempt`` that calls the others.
        """
        heard, attempt = self._while_explaining, attempt or self._attempt

        def unless_explaining(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
            if heard or not _EXPLAINING.get():
                call = (module, args, kwargs, output)
                hook(*call) if attempt is None else attempt(hook, *call)

        return Made(unless_explaining)

    def attach(self, module: nn.Module, made: "Made") -> None:
        """Call a hook from `made` after each forward of ``module``."""
        if module.__dict__.get("_compiled_call_impl") is None:
            self._undo.append(made.register(module).remove)
        else:
            self._undo.append(CompiledCall.add(module, made.call))

    def remove(self) -> None:
        """Remove every hook that was added."""
        for undo in self._undo:
            undo()
        self._undo.clear()


def in_forward(use: Callable[..., None], *given: Any) -> Callable[..., None]:
    """A hook that calls ``use(*given, call)``, except when a checkpointed module is recomputed (trap 91)."""

    def reduce(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        # recomputation happens inside a backward pass
        if torch._C._current_graph_task_id() == -1:
            use(*given, (module, args, kwargs, output))

    return reduce


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that memory ran out."""
    said = str(error).lower() if isinstance(error, RuntimeError) else ""
    return isinstance(error, torch.OutOfMemoryError | MemoryError) or any(words in said for words in _NO_MEMORY)


_NO_MEMORY = ("out of memory", "can't allocate memory", "status_alloc_failed")


def described(error: BaseException) -> str:
    """One line with an exception, its cause, the file that it names, if any, and where it was raised."""
    frames = traceback.extract_tb(error.__traceback__, limit=-1)
    # a logger may hide a full disk behind an exception of its own
    because = "" if error.__cause__ is None else f", because of {_named(error.__cause__)}"
    return f"{_named(error)}{because}" + "".join(f" ({Path(f.filename).name}, line {f.lineno})" for f in frames)


def _named(error: BaseException) -> str:
    file = error.filename if isinstance(error, OSError) else None
    return repr(error) if file is None else f"{error!r} on {str(file)!r}"
