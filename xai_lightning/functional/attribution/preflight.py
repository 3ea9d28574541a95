"""What a method's rules do not cover in a network, found before the method is relied on."""

from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any, Literal, NamedTuple

import torch
from captum.attr._core.deep_lift import SUPPORTED_NON_LINEAR
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from xai_lightning.functional.attribution.explained import Explained
from xai_lightning.functional.attribution.relevance import arriving, unsupported

Rules = Literal["deep_lift", "lrp", "guided"]
_UNRULED = (nn.GELU, nn.SiLU, nn.Mish, nn.Hardswish, nn.SELU, nn.CELU, nn.PReLU, nn.ReLU6, nn.Hardtanh, nn.GLU)
_UNSEEN = (nn.RNNBase, nn.MultiheadAttention)
_JOINS = {"add", "sub", "mul", "div", "cat", "concat", "concatenate", "hstack", "stack", "matmul", "bmm", "einsum"}
CONSERVED, SHOWN = 0.05, 4


class Finding(NamedTuple):
    """One offence: whether the method is refused for it or only a warning is given, and what it is."""

    severity: Literal["refuse", "warn"]
    text: str


def inspect_network(rules: Rules | None, network: nn.Module) -> list[Finding]:
    """Offences that show without running the network (traps 12, 14, 31).

    Args:
        rules: which rules the method applies to layers; None: nothing to find.
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
        found.append(Finding("warn", f"its rules do not cover {', '.join(smooth)}: plain gradients are used for them"))
    if hooked:
        found.append(
            Finding("warn", f"captum applies no rules to modules that have backward hooks: {', '.join(hooked)}")
        )
    return found


def inspect_call(
    rules: Rules | None, network: nn.Module, layer: nn.Module | None, run: Callable[[], Any]
) -> list[Finding]:
    """Offences that show when the network runs once (traps 12, 13), such as modules used twice or a layer never called.

    Args:
        rules: which rules the method applies to layers.
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
        text = f"its rules need modules that are called once; called again: {', '.join(again)} (make one for each call)"
        found.append(Finding("refuse", text))
    if adjacent and rules == "deep_lift":
        text = (
            f"captum 0.9 gives wrong attributions where one non-linear module directly follows another: "
            f"{', '.join(adjacent)}; completeness_error shows by how much, and maps whose sum is off by more than 5 % "
            "are left out of drift"
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
        return [
            f"layer {names.get(id(layer))!r} returns a {kind}; name a layer that returns a tensor" for kind in kinds
        ]
    name, times = names.get(id(layer), type(layer).__name__), calls[id(layer)]
    if times == 0:
        return [f"layer {name!r} is never called in a forward pass; name another"]
    return [f"layer {name!r} is called {times} times in a forward pass, but captum sees only one call; name another"]


def inspect_relevance(explained: Explained, inputs: Tensor, rest: tuple[Any, ...]) -> list[Finding]:
    """Whether LRP conserves relevance: a residual network's sum of two paths, for example, doubles it.

    Args:
        explained: network and scalar.
        inputs: ``[N, ...]``, a few samples.
        rest: further arguments of ``explained``, a row per sample.

    Example:
        >>> rest = (torch.ones(4, dtype=torch.int64),)
        >>> inspect_relevance(Explained(nn.Linear(3, 1)), torch.ones(4, 3), rest)
        []
    """
    shares = arriving(explained, inputs, rest)
    known = shares[~shares.isnan()]
    missed = float((known - 1).abs().median()) if len(known) else 0.0
    if missed <= CONSERVED:
        return []
    places = _joins(explained, inputs, rest)
    where = (
        "an operation outside of any module changes it: a sum of two paths, a scaling, an activation, or a tensor that "
        "both an activation and another module receive. Use"
    )
    if places:
        where = (
            f"paths are joined outside of any submodule in {', '.join(places[:SHOWN])}{', ...' * (len(places) > SHOWN)}"
            ", and captum gives each path all of the relevance. Replace sums by modules "
            "(captum.attr._utils.custom_modules.Addition_Module), or use"
        )
    text = f"its relevance differs from the explained output by {missed:.0%} (median, without biases): {where}"
    return [Finding("warn", f"{text} 'integrated_gradients' or 'deep_lift'")]


def _joins(explained: Explained, inputs: Tensor, rest: tuple[Any, ...]) -> list[str]:
    """Names of the modules that join tensors with a row per sample by operations outside of any submodule."""
    network, within, found = explained.network, list[str](), dict[str, None]()
    modules = list(network.named_modules())
    if any(hasattr(module, "_orig_mod") for _, module in modules):
        # watching a compiled network would recompile it
        return []

    class Watched(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            given = [x for each in args for x in (each if isinstance(each, list | tuple) else (each,))]
            tensors = [x for x in given if isinstance(x, Tensor) and x.ndim > 1 and len(x) == len(inputs)]
            if within and within[-1] and len(tensors) > 1 and getattr(func, "__name__", "").rstrip("_") in _JOINS:
                found[within[-1]] = None
            return func(*args, **(kwargs or {}))

    names = {id(m): "" if name and not list(m.children()) else name or "the network" for name, m in modules}

    def leave(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        within.pop()

    with ExitStack() as stack:
        for _, module in modules:
            stack.callback(module.register_forward_pre_hook(lambda m, args: within.append(names[id(m)])).remove)
            stack.callback(module.register_forward_hook(leave).remove)
        stack.enter_context(Watched())
        stack.enter_context(torch.no_grad())
        explained(inputs, *rest)
    return list(found)
