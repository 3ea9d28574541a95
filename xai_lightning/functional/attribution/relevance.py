"""Layer-wise relevance propagation on a copy of the network."""

import copy
from typing import Any

import captum.attr
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import PropagationRule
from torch import Tensor, nn

from xai_lightning.functional.attribution.explained import Explained

ASIDE = nn.modules.loss._Loss
PASSED_ON = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
SUPPORTED = (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS, *PASSED_ON)


class Relevance:
    """captum's LRP, which overwrites weights, deletes the rules that users gave and keeps activations (trap 10).

    So it works on a copy, where it may. Layers that only move numbers pass relevance on; the centred logit, which is
    linear in the logits, gets a rule of its own.

    Args:
        explained: network and scalar.

    References:
        S. Bach et al., On pixel-wise explanations for non-linear classifier decisions by layer-wise relevance
        propagation, PLoS ONE 10, 2015.
    """

    def __init__(self, explained: Explained) -> None:
        self._explained = explained

    def attribute(self, inputs: tuple[Tensor, ...], additional_forward_args: Any = None) -> tuple[Tensor, ...]:
        """Relevance of each number of the inputs.

        Args:
            inputs: ``[N, ...]`` each.
            additional_forward_args: further arguments, a row per sample.
        """
        twin = copy.copy(self._explained)
        twin._modules = {"network": copy.deepcopy(self._explained.network), "head": copy.copy(self._explained.head)}
        for layer in twin.modules():
            if (isinstance(layer, PASSED_ON) or _is_aside(layer)) and not hasattr(layer, "rule"):
                layer.rule = _PassOn()
        twin.head.rule = _HeadRule()
        try:
            found = captum.attr.LRP(twin).attribute(inputs, additional_forward_args=additional_forward_args)
            return tuple(each.detach() for each in found)
        finally:
            for name in ("rows", "gradients"):
                setattr(self._explained, name, getattr(twin, name))


def unsupported(network: nn.Module) -> list[str]:
    """Leaf modules that captum's LRP has no rule for, as ``name (type)``, unless they carry a ``rule`` (trap 31).

    Losses and metrics stand aside, often within the module that is explained, and need none.
    """
    leaves = [(name, m) for name, m in network.named_modules() if not list(m.children()) and not hasattr(m, "rule")]
    needy = [(name, m) for name, m in leaves if type(m) not in SUPPORTED and not _is_aside(m)]
    return [f"{name or 'network'} ({type(m).__name__})" for name, m in needy]


def _is_aside(module: nn.Module) -> bool:
    return isinstance(module, ASIDE) or type(module).__module__.partition(".")[0] == "torchmetrics"


class _PassOn(PropagationRule):  # type: ignore[misc]
    """No hook at all: the gradient of a layer that only moves numbers carries relevance as it is."""

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return outputs

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass


class _HeadRule(PropagationRule):  # type: ignore[misc]
    """Relevance of each logit: its part of the scalar, which is linear in the logits."""

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        logits = inputs[0]
        self._handle_input_hooks = [logits.register_hook(self._create_backward_hook_input(logits.data))]
        self._has_single_input = True
        self._handle_output_hook = outputs.register_hook(self._create_backward_hook_output(outputs.data))
        return outputs.clone()

    def forward_pre_hook_activations(self, module: nn.Module, inputs: Any) -> Any:
        inputs[0].data = next(iter(vars(module)["activations"].values()))[0]
        return inputs

    def forward_hook_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        vars(module)["activations"][inputs[0].device] = (inputs[0].data,)

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass
