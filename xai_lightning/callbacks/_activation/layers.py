"""Which modules are watched, and why one may never be called."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from xai_lightning._lightning import LightningModule, MisconfigurationException, rank_zero_info, rank_zero_warn
from xai_lightning.callbacks._activation.units import (
    CONTAINERS,
    RECTIFIED,
    Arrangement,
    Units,
    is_non_linear,
    is_weighted_leaf,
    saturation_limits,
)
from xai_lightning.callbacks._compiled import compiled_regions, within
from xai_lightning.functional.activation import is_defined

Pattern = str | type[nn.Module]
# a hook inside these switches off their fused path, which changes the last bit of their output (trap 89)
FUSED = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


class Layer(NamedTuple):
    """A watched module and its kind.

    Args:
        name: its name; it is looked up when a hook is added, because modules may be replaced (trap 97).
        units: which dimension of its output holds the units; None if unknown.
        rectified: whether its output is zero wherever its input is not positive.
        limits: its output is saturated at or beyond these; None if the output is not bounded.
    """

    name: str
    units: Units | None
    rectified: bool = False
    limits: tuple[float, float] | None = None

    def has(self, statistic: str) -> bool:
        """Whether a statistic is defined for layers of this kind; otherwise it would be NaN at every validation."""
        return is_defined(statistic, **self.kind)

    @property
    def kind(self) -> dict[str, bool]:
        """The properties that decide which statistics are defined."""
        return {"rectified": self.rectified, "bounded": self.limits is not None, "units": self.units is not None}

    def of(self, pl_module: LightningModule) -> nn.Module:
        """The module, as ``get_submodule`` finds it, in a tenth of the time."""
        module: nn.Module = pl_module
        for part in self.name.split("."):
            module = module.__dict__["_modules"].get(part) or getattr(module, part)
        return module

    def unit_dim(self, ndim: int) -> int:
        """The dimension that holds the units in an output of ``ndim`` dimensions."""
        return ndim - 1 if self.units == "features" or ndim == 2 else 1


def find_layers(pl_module: LightningModule, patterns: Sequence[Pattern] | None, most: int) -> list[Layer]:
    """The modules to watch.

    Args:
        pl_module: where to look for modules.
        patterns: glob patterns of module names, and types of modules; None for non-linearities and blocks (or, if
            there are none, modules with weights), evenly spaced if there are more than ``most``.
        most: how many modules to watch at most, without patterns.

    Raises:
        MisconfigurationException: if no module is found, or a pattern matches nothing or a module within a compiled one
            (trap 22).
    """
    modules = dict(pl_module.named_modules())
    compiled = compiled_regions(pl_module)
    if patterns is not None:
        names = _matching([name for name in modules if name], modules, patterns)
        inside = [name for name in names if within(name, compiled)]
    else:
        found = _by_default(modules)
        names = [name for name in found if not within(name, compiled)]
        inside = [name for name in found if name not in names]
    if inside and (patterns is not None or not names):
        raise MisconfigurationException(
            "ActivationMonitor cannot watch modules inside a compiled module, where hooks do not fire: "
            f"{', '.join(inside)}; compile after training, or name other modules with layers=[...]"
        )
    if inside:
        rank_zero_warn(
            "ActivationMonitor leaves out modules inside a compiled module, where hooks do not fire: "
            f"{', '.join(inside)}"
        )
    if not names:
        raise MisconfigurationException(
            f"ActivationMonitor found no module to watch in {type(pl_module).__name__}; name some with layers=[...]"
        )
    return _described(modules, names if patterns is not None else _evenly(names, most))


def why_silent(pl_module: LightningModule, name: str) -> str:
    """The name of a module that was never called, with the reason if known (trap 89)."""
    if within(name, compiled_regions(pl_module)):
        return f"{name} (inside a compiled module, where hooks do not fire)"
    parent = name.rpartition(".")[0]
    while parent:
        owner = pl_module.get_submodule(parent)
        if isinstance(owner, nn.MultiheadAttention):
            return f"{name} (nn.MultiheadAttention uses its weights without calling it)"
        if isinstance(owner, FUSED):
            return f"{name} (the fused path of nn.{type(owner).__name__} does not call its submodules)"
        parent = parent.rpartition(".")[0]
    return name


def _by_default(modules: dict[str, nn.Module]) -> list[str]:
    fused = [name for name, module in modules.items() if isinstance(module, FUSED)]
    free = {name: module for name, module in modules.items() if name and not within(name, fused)}
    found = [n for n, m in free.items() if is_non_linear(m) or _is_block(n, modules)]
    if found:
        return found
    weighted = [name for name, module in free.items() if is_weighted_leaf(module)]
    if weighted:
        rank_zero_info(
            "ActivationMonitor: no module is a non-linearity, such as nn.ReLU, so it watches the layers with weights "
            "instead"
        )
    return weighted


def _is_block(name: str, modules: dict[str, nn.Module]) -> bool:
    """Whether it is an item of a container and has children of its own: a residual block, a transformer layer."""
    module, parent = modules[name], modules[name.rpartition(".")[0]]
    return isinstance(parent, CONTAINERS) and any(module.children()) and not isinstance(module, CONTAINERS)


def _matching(names: Sequence[str], modules: dict[str, nn.Module], patterns: Sequence[Pattern]) -> list[str]:
    # lists and dicts of modules have no output
    callable_ = [name for name in names if not isinstance(modules[name], nn.ModuleList | nn.ModuleDict)]
    for pattern in patterns:
        if not any(_matches(name, modules[name], pattern) for name in callable_):
            raise MisconfigurationException(
                f"layers: the pattern {pattern!r} matches no module; the modules are {', '.join(callable_[:40])}"
            )
    return [name for name in callable_ if any(_matches(name, modules[name], pattern) for pattern in patterns)]


def _matches(name: str, module: nn.Module, pattern: Pattern) -> bool:
    return fnmatchcase(name, pattern) if isinstance(pattern, str) else isinstance(module, pattern)


def _evenly(names: list[str], most: int) -> list[str]:
    if len(names) <= most:
        return names
    chosen = [names[round(i * (len(names) - 1) / max(most - 1, 1))] for i in range(most)]
    left_out = ", ".join(name for name in names if name not in chosen)
    rank_zero_info(
        f"ActivationMonitor watches {most} of {len(names)} layers, evenly spaced; name others with layers=[...], or "
        f"raise max_layers; left out: {left_out}"
    )
    return chosen


def _described(modules: dict[str, nn.Module], names: Sequence[str]) -> list[Layer]:
    arrangement = Arrangement(modules)
    return [
        Layer(n, arrangement.units(n), isinstance(modules[n], RECTIFIED), saturation_limits(modules[n])) for n in names
    ]
