"""What a user chose of a method: checked, and filled up with what fits the input."""

import importlib.util
import inspect
import math
from collections.abc import Sequence
from typing import Any

from torch import nn

from xai_lightning.functional.attribution.methods import METHODS, RESERVED, TOLERANCE, Layout, Method, Options, Smooth
from xai_lightning.functional.tables import choose


def check_method(name: str, options: Options) -> None:
    """Refuse what can be known before any data: an unknown method or option, a missing package.

    Raises:
        ValueError: on an unknown method or option; the nearest is named and the known ones are listed.
        ImportError: if the method's package is not installed (trap 18).
    """
    method = METHODS[choose("method", name, METHODS)]
    if method.package and importlib.util.find_spec(method.package) is None:
        raise ImportError(f"method {name!r} needs {method.package}; install it")
    known = _option_names(method)
    for option in options:
        choose(f"option of {name!r}", option, known)


def check_inputs(
    name: str, layouts: Sequence[Layout], *, variables: int, layer: bool, smooth: Smooth | None = None
) -> None:
    """Refuse inputs that the method cannot explain; all offences in one message.

    Args:
        name: the method.
        layouts: of each explained input.
        variables: how many variables the inputs have.
        layer: whether a layer was named.
        smooth: whether noise is added to the inputs.

    Raises:
        ValueError: if an input, their number, the variables or the layer do not fit (traps 17, 24).

    Example:
        >>> check_inputs("saliency", ["image"], variables=196, layer=False)
    """
    method, offences = METHODS[name], []
    offences += [
        f"it cannot explain {layout} ({_instead(method, layout)})" for layout in layouts if layout not in method.layouts
    ]
    if len(layouts) > 1 and not method.several:
        offences.append(f"it explains one input, not {len(layouts)}")
    if method.most_variables is not None and variables > method.most_variables:
        offences.append(
            f"it explains at most {method.most_variables} variables, not {variables}; join some with features="
        )
    if method.layer != layer:
        offences.append(
            "it needs the name of a layer: layer=..." if method.layer else "it explains inputs, so layer= has no use"
        )
    if smooth and "integers" in layouts:
        offences.append(f"smooth={smooth!r} adds noise, which integers cannot take")
    if offences:
        raise ValueError(f"method {name!r}: " + "; ".join(offences))


def _instead(method: Method, layout: Layout) -> str:
    if layout == "integers" and "tokens" in method.layouts:
        return "it differentiates: name the module that embeds them with embedding=..., or give the network floats"
    others = [name for name, row in METHODS.items() if layout in row.layouts and not row.layer]
    return f"{', '.join(others[:5])} can"


def _option_names(method: Method) -> list[str]:
    built = method.make(nn.Identity(), nn.Identity())
    return [*(name for name in inspect.signature(built.attribute).parameters if name not in RESERVED), *method.own]


def resolve_options(
    name: str, options: Options, shape: Sequence[int], variables: int, background: int = 1
) -> dict[str, Any]:
    """The options with which ``name`` runs on inputs of ``shape``: given ones over defaults.

    Integrated gradients are adaptive (``tolerance=0.01``) unless captum's rule is asked for by ``tolerance=None``,
    ``n_steps`` or ``method``.
    """
    resolved = {**METHODS[name].defaults(shape, variables), **options, "background": background}
    if name == "integrated_gradients" and not {"n_steps", "method", "tolerance"} & set(options):
        resolved["tolerance"] = TOLERANCE
    if name == "occlusion":
        resolved["windows"] = _count_windows(shape, resolved)
    return resolved


def _count_windows(shape: Sequence[int], options: Options) -> int:
    windows, strides = options["sliding_window_shapes"], options.get("strides") or (1,) * len(shape)
    windows = windows[0] if isinstance(windows[0], tuple) else windows
    strides = (strides,) * len(shape) if isinstance(strides, int) else strides
    return math.prod(1 + math.ceil(max(n - w, 0) / s) for n, w, s in zip(shape, windows, strides, strict=True))
