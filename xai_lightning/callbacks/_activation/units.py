"""Defines units: which dimension of a module's output holds channels or features (trap 96)."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

Units = Literal["channels", "features"]

CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
NON_LINEAR: tuple[type[nn.Module], ...] = (
    nn.CELU,
    nn.ELU,
    nn.GELU,
    nn.GLU,
    nn.Hardshrink,
    nn.Hardsigmoid,
    nn.Hardswish,
    nn.Hardtanh,
    nn.LeakyReLU,
    nn.LogSigmoid,
    nn.Mish,
    nn.PReLU,
    nn.RReLU,
    nn.ReLU,
    nn.SELU,
    nn.SiLU,
    nn.Sigmoid,
    nn.Softplus,
    nn.Softshrink,
    nn.Softsign,
    nn.Tanh,
    nn.Tanhshrink,
    nn.Threshold,
)
NAMED_NON_LINEAR = re.compile("relu|gelu|silu|swish|mish|tanh|sigmoid|softplus", re.IGNORECASE)
# `Conv1D` in transformers is a linear layer
NAMED_FEATURES = re.compile("^Conv1D$|(Layer|RMS)Norm$")
# the units of these are zero and pass no gradient wherever their input is not positive
RECTIFIED = (nn.ReLU, nn.ReLU6, nn.Threshold)
SMOOTHLY_BOUNDED: dict[type[nn.Module], tuple[float, float]] = {
    nn.Tanh: (-0.95, 0.95),
    nn.Softsign: (-0.95, 0.95),
    nn.Sigmoid: (0.05, 0.95),
}
UNITS: dict[tuple[type[nn.Module], ...], Units] = {
    (
        nn.modules.conv._ConvNd,
        nn.modules.batchnorm._NormBase,
        nn.modules.pooling._MaxPoolNd,
        nn.modules.pooling._AvgPoolNd,
        nn.modules.pooling._AdaptiveMaxPoolNd,
        nn.modules.pooling._AdaptiveAvgPoolNd,
        nn.modules.pooling._LPPoolNd,
        nn.GroupNorm,
        nn.LocalResponseNorm,
        nn.PixelShuffle,
        nn.PixelUnshuffle,
        nn.ChannelShuffle,
        nn.Upsample,
    ): "channels",
    (
        nn.Linear,
        nn.Bilinear,
        nn.LayerNorm,
        nn.RMSNorm,
        nn.Embedding,
        nn.EmbeddingBag,
        nn.RNNBase,
        nn.modules.rnn.RNNCellBase,
        nn.MultiheadAttention,
        nn.TransformerEncoderLayer,
        nn.TransformerDecoderLayer,
        nn.TransformerEncoder,
        nn.TransformerDecoder,
        nn.Transformer,
        nn.Flatten,
    ): "features",
}


def saturation_limits(module: nn.Module) -> tuple[float, float] | None:
    """Limits at or beyond which a bounded output is saturated: flat for hard functions, nearly flat for smooth ones."""
    if isinstance(module, nn.ReLU6):
        return -math.inf, module.max_val
    if isinstance(module, nn.Hardtanh):
        return module.min_val, module.max_val
    if isinstance(module, nn.Hardsigmoid):
        return 0.0, 1.0
    return next((limits for kind, limits in SMOOTHLY_BOUNDED.items() if isinstance(module, kind)), None)


def is_non_linear(module: nn.Module) -> bool:
    """Whether it is one of torch's non-linearities, or a module without weights and children that is named like one."""
    if isinstance(module, NON_LINEAR):
        return True
    bare = next(module.parameters(), None) is None and not any(module.children())
    return bare and NAMED_NON_LINEAR.search(type(module).__name__) is not None


def units_by_type(module: nn.Module) -> Units | None:
    """The table's entry for a module's own type; layers of other transformer libraries are recognised by name."""
    found = next((units for kinds, units in UNITS.items() if isinstance(module, kinds)), None)
    if found is None and NAMED_FEATURES.search(type(module).__name__):
        weight = getattr(module, "weight", None)
        return "features" if isinstance(weight, nn.Parameter) and weight.ndim <= 2 else None
    return found


def is_weighted_leaf(module: nn.Module) -> bool:
    """Whether it has weights of its own and no children."""
    return not any(module.children()) and next(module.parameters(recurse=False), None) is not None


class Arrangement:
    """Finds the units of each module of a network.

    A module outside the table has the units of its last submodule with weights. Without children, it has those of the
    module with weights whose output it most likely receives: the last one before it within the same parent, else the
    first one after it there (an activation may be created before the layers that use it), else the last one before it
    anywhere.

    Args:
        modules: modules by name, in order.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        self._modules = modules
        leaves = [name for name, module in modules.items() if is_weighted_leaf(module)]
        # a PReLU has weights of its own
        self._weighted = [name for name in leaves if not isinstance(modules[name], NON_LINEAR)]
        self._order = {name: place for place, name in enumerate(modules)}

    def units(self, name: str) -> Units | None:
        """Which dimension holds the units of the module; None if unknown."""
        module = self._modules[name]
        own = units_by_type(module)
        if isinstance(module, nn.PReLU) and module.num_parameters > 1:
            return "channels"
        if own is not None:
            return own
        if any(module.children()):
            inside = [other for other in self._weighted if other.startswith(f"{name}.")]
            return units_by_type(self._modules[inside[-1]]) if inside else None
        if is_weighted_leaf(module) and not isinstance(module, NON_LINEAR):
            return None
        near = _nearest(name, self._weighted, self._order)
        return "features" if near is None else units_by_type(self._modules[near])


def _nearest(name: str, weighted: Sequence[str], order: Mapping[str, int]) -> str | None:
    parent = name.rpartition(".")[0]
    inside = [other for other in weighted if not parent or other.startswith(f"{parent}.")]
    before = [other for other in inside if order[other] <= order[name]]
    earlier = [other for other in weighted if order[other] <= order[name]]
    if before or not inside:
        found = before or earlier
        return found[-1] if found else None
    return inside[0]
