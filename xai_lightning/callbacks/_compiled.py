"""Which modules are compiled, and how hooks are called in spite of that (trap 22)."""

from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from xai_lightning._lightning import LightningModule


def compiled_regions(pl_module: LightningModule) -> list[str]:
    """Names of the modules that are compiled, in place or by a wrapper; the empty name is the whole LightningModule."""
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        return [""]
    return [name for name, module in pl_module.named_modules() if _is_compiled(module)]


def submodule(root: nn.Module, name: str) -> nn.Module | None:
    """The module called ``name`` within ``root``, with or without the prefix that a ``torch.compile`` wrapper adds."""
    named = dict(root.named_modules())
    plain = {key.replace("_orig_mod.", ""): module for key, module in named.items()}
    return named.get(name, plain.get(name.replace("_orig_mod.", "")))


def names_within(root: nn.Module, kind: type[nn.Module] = nn.Module) -> list[str]:
    """The names that `submodule` accepts: of all modules of a kind, or of every module if there are none."""
    named = {name.replace("_orig_mod.", ""): module for name, module in root.named_modules() if name}
    return [name for name, module in named.items() if isinstance(module, kind)] or list(named)


def _is_compiled(module: nn.Module) -> bool:
    return any(getattr(module, name, None) is not None for name in ("_orig_mod", "_compiled_call_impl"))


def within(name: str, regions: Sequence[str]) -> bool:
    """Whether the module called ``name`` is one of the regions, or inside one."""
    return any(not region or name == region or name.startswith(f"{region}.") for region in regions)


def is_hidden(pl_module: LightningModule, module: nn.Module, name: str | None = None) -> bool:
    """Whether a module is called from compiled code, where hooks never fire or are compiled with the rest.

    Args:
        pl_module: the LightningModule.
        module: the LightningModule itself or a submodule.
        name: name of the submodule; None for a direct child.
    """
    if getattr(pl_module, "_compiler_ctx", None) is not None:
        return True
    parts = name.split(".") if name else []
    owners = [""] if name is None else [".".join(parts[:i]) for i in range(len(parts))]
    return module is not pl_module and any(_is_compiled(pl_module.get_submodule(owner)) for owner in owners)


class CompiledCall:
    """Replaces the call of a module that was compiled in place, since its own hooks are part of the compiled code.

    Args:
        module: the compiled module.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._call = module, vars(module)["_compiled_call_impl"]
        self._hooks: list[Callable[..., None]] = []

    @classmethod
    def add(cls, module: nn.Module, hook: Callable[..., None]) -> Callable[[], None]:
        """Call ``hook`` like a forward hook with keyword arguments; returns a function that removes it."""
        known = vars(module)["_compiled_call_impl"]
        call = known if isinstance(known, cls) else cls(module)
        call._hooks.append(hook)
        vars(module)["_compiled_call_impl"] = call
        return lambda: call._remove(hook)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        output = self._call(*args, **kwargs)
        for hook in self._hooks:
            hook(self._module, args, kwargs, output)
        return output

    def _remove(self, hook: Callable[..., None]) -> None:
        self._hooks.remove(hook)
        if not self._hooks:
            vars(self._module)["_compiled_call_impl"] = self._call
