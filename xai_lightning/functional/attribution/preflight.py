"""What in a network a method's rules do not cover, found before it is relied on."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from torch import Tensor, nn

from xai_lightning.functional.attribution.relevance import unsupported

Rules = Literal["deep_lift", "lrp", "guided"]
_UNRULED = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.SELU, nn.CELU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.GLU)
_UNSEEN = (nn.RNNBase, nn.MultiheadAttention)


class Finding(NamedTuple):
    """One offence: whether the method is refused for it, or only warned of, and what it is."""

    severity: Literal["refuse", "warn"]
    text: str


def inspect_network(rules: Rules | None, network: nn.Module) -> list[Finding]:
    """What can be seen without running the network (traps 12, 14, 31).

    Args:
        rules: which rules the method lays over layers; None: nothing to find.
        network: the network that is explained.

    Example:
        >>> inspect_network("lrp", nn.Sequential(nn.Linear(2, 2), nn.GELU()))[0].text
        'LRP has no rule for 1 (GELU)'
    """
    if rules == "lrp":
        return [
            Finding("refuse", f"LRP has no rule for {', '.join(names)}") for names in [unsupported(network)] if names
        ]
    if rules is None:
        return []
    named = list(network.named_modules())
    smooth = [
        f"{name} ({type(m).__name__})"
        for name, m in named
        if isinstance(m, _UNRULED + _UNSEEN * (rules == "deep_lift"))
    ]
    wanted = tuple(SUPPORTED_NON_LINEAR) if rules == "deep_lift" else (nn.ReLU,)
    hooked = [name for name, m in named if type(m) in wanted and len(m._backward_hooks) > 0]
    found = []
    if smooth:
        found.append(Finding("warn", f"its rules do not cover {', '.join(smooth)}: plain gradients are used there"))
    if hooked:
        found.append(Finding("warn", f"captum leaves out modules that carry backward hooks: {', '.join(hooked)}"))
    return found


def inspect_call(
    rules: Rules | None, network: nn.Module, layer: nn.Module | None, run: Callable[[], Any]
) -> list[Finding]:
    """What is seen when the network runs once (traps 12, 13): modules used twice, a layer that is not called.

    Args:
        rules: which rules the method lays over layers.
        network: the network that is explained.
        layer: the layer that the method explains.
        run: calls the network once.
    """
    names = {id(module): name or "network" for name, module in network.named_modules()}
    calls: Counter[int] = Counter()
    bent: list[Tensor] = []
    adjacent: list[str] = []
    returned: list[Any] = []

    def enter(module: nn.Module, args: tuple[Any, ...]) -> None:
        calls[id(module)] += 1
        if type(module) in SUPPORTED_NON_LINEAR and args and any(args[0] is tensor for tensor in bent):
            adjacent.append(names[id(module)])

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if type(module) in SUPPORTED_NON_LINEAR and isinstance(output, Tensor):
            bent.append(output)
        if module is layer:
            returned.append(output)

    with ExitStack() as stack:
        for module in network.modules():
            stack.callback(module.register_forward_pre_hook(enter).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        run()
    found = [Finding("refuse", text) for text in _layer_offences(layer, calls, names, returned)]
    ruled = tuple(SUPPORTED_NON_LINEAR) if rules == "deep_lift" else (nn.ReLU,) if rules == "guided" else (nn.Module,)
    again = [names[id(m)] for m in network.modules() if rules and calls[id(m)] > 1 and isinstance(m, ruled)]
    again = [name for name in again if rules != "lrp" or not list(network.get_submodule(name).children())]
    if again and rules != "guided":
        text = f"its rules need modules that are used once; used again: {', '.join(again)} (make one for each use)"
        found.append(Finding("refuse", text))
    if adjacent and rules == "deep_lift":
        text = (
            f"captum 0.9 is wrong where one non-linear module directly follows another: {', '.join(adjacent)}; "
            "completeness_error says by how much, and maps that miss their sum by over 5 % are left out of drift"
        )
        found.append(Finding("warn", text))
    return found


def _layer_offences(
    layer: nn.Module | None, calls: Counter[int], names: dict[int, str], returned: list[Any]
) -> list[str]:
    if layer is None:
        return []
    if calls[id(layer)] == 1:
        kinds = [type(output).__name__ for output in returned if not isinstance(output, Tensor)]
        return [f"layer {names.get(id(layer))!r} returns a {kind}; name one that returns a tensor" for kind in kinds]
    name, times = names.get(id(layer), type(layer).__name__), calls[id(layer)]
    if times == 0:
        return [f"layer {name!r} is never called in a forward pass"]
    return [f"layer {name!r} is called {times} times in a forward pass, of which captum sees one; name another"]
