"""Which modules are watched, and which dimension of their output holds the units."""

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import NamedTuple

from torch import nn

from xai_lightning._lightning import LightningModule, MisconfigurationException, rank_zero_info

NON_LINEAR = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softsign,
    nn.Tanh,
    nn.Threshold,
)
# units of these are zero, and pass no gradient, wherever their input is not positive
RECTIFIED = (nn.ReLU, nn.ReLU6, nn.Threshold)
CHANNELS_FIRST = (
    nn.modules.conv._ConvNd,
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.modules.instancenorm._InstanceNorm,
)
# a hook inside these switches off their fused path, and with it the last bit of what they return (trap 89)
FUSED = (nn.TransformerEncoderLayer, nn.TransformerEncoder, nn.MultiheadAttention)


class Layer(NamedTuple):
    """A watched module: its name, and what it is.

    Args:
        name: its name; modules may be made anew, so it is looked up when a hook is added (trap 97).
        non_linear: it is a non-linearity.
        units_last: the last dimension of its output holds the units, else the second.
        rectified: its output is zero wherever its input is not positive.
    """

    name: str
    non_linear: bool
    units_last: bool
    rectified: bool

    def unit_dim(self, ndim: int) -> int:
        """The dimension of an output of ``ndim`` dimensions that holds the units."""
        return ndim - 1 if self.units_last or ndim == 2 else 1


def find_layers(pl_module: LightningModule, patterns: Sequence[str] | None, most: int) -> list[Layer]:
    """The modules to watch.

    Args:
        pl_module: where to look.
        patterns: glob patterns of module names; None for the outputs of non-linearities (or, where all are functional,
            of the modules with weights), evenly spaced if there are more than ``most``.
        most: how many at most, without patterns.

    Raises:
        MisconfigurationException: if a pattern matches nothing; the names are listed.
    """
    layers = _all(pl_module)
    if patterns is not None:
        return _matching(layers, patterns)
    fused = tuple(f"{name}." for name, module in pl_module.named_modules() if isinstance(module, FUSED))
    layers = [layer for layer in layers if not layer.name.startswith(fused)]
    found = [layer for layer in layers if layer.non_linear]
    if not found:
        found = [layer for layer in layers if _is_weighted_leaf(pl_module.get_submodule(layer.name))]
        rank_zero_info("ActivationMonitor: no non-linearity is a module; it watches the layers with weights instead")
    if not found:
        raise MisconfigurationException(
            f"ActivationMonitor found no module to watch in {type(pl_module).__name__}; name some with layers=[...]"
        )
    if len(found) > most:
        rank_zero_info(
            f"ActivationMonitor watches {most} of {len(found)} layers, evenly spaced; name others with layers=[...]"
        )
        found = [found[round(i * (len(found) - 1) / max(most - 1, 1))] for i in range(most)]
    return found


def _matching(layers: Sequence[Layer], patterns: Sequence[str]) -> list[Layer]:
    for pattern in patterns:
        if not any(fnmatchcase(layer.name, pattern) for layer in layers):
            names = ", ".join(layer.name for layer in layers[:40])
            raise MisconfigurationException(f"layers: the pattern {pattern!r} matches no module; there are {names}")
    return [layer for layer in layers if any(fnmatchcase(layer.name, pattern) for pattern in patterns)]


def _all(pl_module: LightningModule) -> list[Layer]:
    modules = dict(pl_module.named_modules())
    weighted = [name for name, module in modules.items() if _is_weighted_leaf(module)]
    order = {name: place for place, name in enumerate(modules)}
    layers = []
    for name, module in modules.items():
        if name:
            near = _nearest(name, weighted, order)
            units_last = near is None or not isinstance(modules[near], CHANNELS_FIRST)
            rectified = isinstance(module, RECTIFIED)
            layers.append(Layer(name, isinstance(module, NON_LINEAR), units_last, rectified))
    return layers


def _nearest(name: str, weighted: Sequence[str], order: Mapping[str, int]) -> str | None:
    """The module with weights whose output ``name`` most likely sees.

    It is the last one before it within the same parent, else the first one after it there (an activation may be made
    before the layers that it serves), else the last one before it anywhere.
    """
    parent = name.rpartition(".")[0]
    inside = [other for other in weighted if not parent or other.startswith(f"{parent}.")]
    before = [other for other in inside if order[other] <= order[name]]
    earlier = [other for other in weighted if order[other] <= order[name]]
    if before or not inside:
        found = before or earlier
        return found[-1] if found else None
    return inside[0]


def _is_weighted_leaf(module: nn.Module) -> bool:
    return not any(module.children()) and next(module.parameters(recurse=False), None) is not None
