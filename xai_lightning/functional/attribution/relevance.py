"""Layer-wise relevance propagation on a copy of the network."""

import copy
from typing import Any

import captum.attr
import torch
from captum.attr._core.lrp import SUPPORTED_LAYERS_WITH_RULES, SUPPORTED_NON_LINEAR_LAYERS
from captum.attr._utils.lrp_rules import EpsilonRule, PropagationRule
from torch import Tensor, nn

from xai_lightning.functional.attribution.explained import Explained
from xai_lightning.functional.precision import exact

ASIDE = nn.modules.loss._Loss
PASSED_ON = (nn.Flatten, nn.Unflatten, nn.Identity, nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)
TINY = 1e-30
SUPPORTED = (*SUPPORTED_LAYERS_WITH_RULES, *SUPPORTED_NON_LINEAR_LAYERS, *PASSED_ON)


class Relevance:
    """captum's LRP on a copy, since it overwrites weights, deletes the users' rules and keeps activations (trap 10).

    Layers that only move numbers pass relevance on; the centred logit, which is linear in the logits, gets a rule of
    its own.

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
        found = captum.attr.LRP(_twin(self._explained)).attribute(
            inputs, additional_forward_args=additional_forward_args
        )
        return tuple(each.detach() for each in found)


def _twin(explained: Explained) -> Explained:
    """A copy that may be changed, with rules where captum has none; both count the passes of either."""
    twin = copy.copy(explained)
    twin._modules = {"network": copy.deepcopy(explained.network), "head": copy.copy(explained.head)}
    for layer in twin.modules():
        if (isinstance(layer, PASSED_ON) or _is_aside(layer)) and not hasattr(layer, "rule"):
            layer.rule = _PassOn()
    twin.head.rule = _HeadRule()
    return twin


def arriving(explained: Explained, inputs: Tensor, rest: tuple[Any, ...]) -> Tensor:
    """The share of the explained relevance that arrives at the inputs: exactly 1 where rules cover the network.

    Biases absorb relevance, as they should, so they are set to 0 here, in a copy. In a network made of modules with
    rules, nothing else loses or adds any. A join of two paths outside of a module is invisible to captum, which gives
    each path the whole relevance.

    Args:
        explained: network and scalar.
        inputs: ``[N, ...]``.
        rest: further arguments of ``explained``, a row per sample.

    Returns:
        ``float64[N]``, a fraction; NaN where nothing is left to be explained. Empty if layers for which captum has no
        rule have their own, whose intention is unknown, or if the numbers are too coarse to tell (16 bits).

    Example:
        >>> relu = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1)).double()
        >>> x = relu[0].weight.data[:1].clone()  # so that the first ReLU is on
        >>> arriving(Explained(relu), x, (torch.tensor([1]),)).round(decimals=6)
        tensor([1.], dtype=torch.float64)
    """
    if any(x.is_floating_point() and x.element_size() < 4 for x in (inputs, *explained.network.parameters())):
        return exact(inputs.new_zeros(0))
    twin, head = _twin(explained), _HeadRule()
    # without biases numbers may become very small
    head.STABILITY_FACTOR = TINY
    twin.head.rule = head
    for layer in twin.network.modules():
        if type(layer) in SUPPORTED_LAYERS_WITH_RULES:
            # a user's rule may absorb relevance on purpose
            layer.rule = EpsilonRule(epsilon=TINY)
        elif vars(layer).get("rule") is not None and not isinstance(layer.rule, _PassOn):
            return exact(inputs.new_zeros(0))
        if vars(layer).get("inplace") is True:
            vars(layer)["inplace"] = False
        for name in ("bias", "running_mean"):
            shift = getattr(layer, name, None)
            if isinstance(shift, Tensor):
                shift.data = shift.new_zeros(shift.shape)
    x = inputs.detach().clone().requires_grad_(True)
    with torch.autocast(x.device.type, enabled=False):
        found, lost = captum.attr.LRP(twin).attribute(x, additional_forward_args=rest, return_convergence_delta=True)
    total = exact(found.detach().flatten(1)).sum(dim=1)
    share: Tensor = total / (total + exact(lost.detach()))
    return share.masked_fill(~share.isfinite(), float("nan"))


def unsupported(network: nn.Module) -> list[str]:
    """Leaf modules that captum's LRP has no rule for, as ``name (type)``, unless they carry a ``rule`` (trap 31).

    Losses and metrics, which often lie within the explained module, take no part in the explanation and need none.
    """
    leaves = [(name, m) for name, m in network.named_modules() if not list(m.children()) and not hasattr(m, "rule")]
    needy = [(name, m) for name, m in leaves if type(m) not in SUPPORTED and not _is_aside(m)]
    return [f"{name or 'network'} ({type(m).__name__})" for name, m in needy]


def _is_aside(module: nn.Module) -> bool:
    return isinstance(module, ASIDE) or type(module).__module__.partition(".")[0] == "torchmetrics"


class _PassOn(PropagationRule):  # type: ignore[misc]
    """No hook at all: the gradient of a layer that only moves numbers carries relevance unchanged."""

    def forward_hook(self, module: nn.Module, inputs: Any, outputs: Any) -> Any:
        return outputs

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass


class _HeadRule(PropagationRule):  # type: ignore[misc]
    """Relevance of each logit: its contribution to the scalar, which is linear in the logits."""

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
