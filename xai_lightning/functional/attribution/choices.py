"""A user's choices for a method: checked, and completed by defaults that fit the input."""

import importlib.util
import inspect
import math
from collections.abc import Collection, Sequence
from typing import Any, TypeGuard

from torch import nn

from xai_lightning.functional.attribution.methods import METHODS, RESERVED, TOLERANCE, Layout, Method, Options, Smooth
from xai_lightning.functional.tables import choose

INTEGRATIONS = ("gausslegendre", "riemann_left", "riemann_right", "riemann_middle", "riemann_trapezoid")
COUNTS = ("n_steps", "n_samples", "nt_samples", "internal_batch_size", "perturbations_per_eval")


def check_method(name: str, options: Options, *, also: Collection[str] = ()) -> None:
    """Refuse what is known to be wrong before any data: unknown names, impossible values, a missing package.

    Args:
        name: name of the method.
        options: options of captum's ``attribute``, and our own.
        also: options that are allowed beside the method's own.

    Raises:
        ValueError: for an unknown method or option, with the closest name and a list of the known ones; and for a value
            that an option cannot have.
        ImportError: if the method's package is not installed (trap 18).
    """
    method = METHODS[choose("method", name, METHODS)]
    if method.package and importlib.util.find_spec(method.package) is None:
        raise ImportError(f"method {name!r} needs the package {method.package}, which is not installed")
    known = [*_option_names(method), *also]
    for option in options:
        choose(f"{name!r} option", option, known)
    _check_values(name, options)


def _check_values(name: str, options: Options) -> None:
    for option in COUNTS:
        value = options.get(option, 1)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"option {option!r} of {name!r} must be a whole number of at least 1; got {value!r}")
    if "method" in options:
        choose("integration method", options["method"], INTEGRATIONS)
    noise, tolerance = options.get("stdevs", 0.0), options.get("tolerance")
    if not all(is_number(each) and each >= 0 for each in (noise if isinstance(noise, list | tuple) else [noise])):
        raise ValueError(f"option 'stdevs' of {name!r} must be at least 0, a number or one per input; got {noise!r}")
    if tolerance is None:
        return
    if not is_number(tolerance) or tolerance <= 0:
        raise ValueError(f"option 'tolerance' of {name!r} must be above 0, such as 0.01, or None; got {tolerance!r}")
    fixed = [option for option in ("n_steps", "method") if option in options]
    if fixed:
        raise ValueError(
            f"option 'tolerance' of {name!r} sets the number of steps by itself, so {' and '.join(fixed)} cannot be "
            f"given as well; leave one of them out; got {dict(options)}"
        )


def is_number(value: object) -> TypeGuard[float]:
    """Whether ``value`` is a finite number; a bool is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def check_inputs(
    name: str, layouts: Sequence[Layout], *, variables: int, layer: bool, smooth: Smooth | None = None
) -> None:
    """Refuse inputs that the method cannot explain, with all offences in one message.

    Args:
        name: name of the method.
        layouts: layout of each explained input.
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
        offences.append(f"it explains one input, not {len(layouts)} (leave out inputs=, or use 'feature_ablation')")
    if method.most_variables is not None and variables > method.most_variables:
        offences.append(
            f"it explains at most {method.most_variables} variables, not {variables} (group some with features=)"
        )
    if method.layer != layer:
        offences.append(
            "it needs the name of a layer (layer=...)"
            if method.layer
            else "it explains inputs, not a layer (leave out layer=)"
        )
    if smooth and "integers" in layouts:
        offences.append(f"smooth={smooth!r} cannot add noise to integers (leave out smooth=)")
    if offences:
        raise ValueError(f"method {name!r}: " + "; ".join(offences))


def _instead(method: Method, layout: Layout) -> str:
    if layout == "integers" and "tokens" in method.layouts:
        return (
            "it needs gradients: for token ids, name the embedding module with embedding=...; for pixels and counts, "
            "if the network accepts floats, read them as floats: reader={'input': lambda batch: batch[0].float(), "
            "'target': 1}"
        )
    others = [name for name, row in METHODS.items() if layout in row.layouts and not row.layer]
    return f"use {', '.join(others[:5])}"


def _option_names(method: Method) -> list[str]:
    built = method.make(nn.Identity(), nn.Identity())
    return [*(name for name in inspect.signature(built.attribute).parameters if name not in RESERVED), *method.own]


def resolve_options(
    name: str, options: Options, shape: Sequence[int], variables: int, background: int = 1
) -> dict[str, Any]:
    """The options with which ``name`` runs on inputs of ``shape``: given options override defaults.

    Integrated gradients are adaptive (``tolerance=0.01``) unless captum's rule is asked for by ``tolerance=None``,
    ``n_steps`` or ``method``.

    Args:
        name: a name of `METHODS`.
        options: the given options.
        shape: shape of one input, without the batch dimension.
        variables: how many variables it has.
        background: how many rows the background has.

    Raises:
        ValueError: if the windows of an occlusion do not fit the shape.
    """
    resolved = {**METHODS[name].defaults(shape, variables), **options, "background": background}
    if is_adaptive(name, options):
        resolved.setdefault("tolerance", TOLERANCE)
    if METHODS[name].seeded:
        # all subsets give the exact answer
        resolved["n_samples"] = min(int(resolved["n_samples"]), 2**variables)
    if name == "occlusion":
        resolved |= _windows(shape, resolved, strides=options.get("strides"))
    return resolved


def is_exhaustive(name: str, options: Options, shape: Sequence[int], variables: int) -> bool:
    """Whether a method that could draw takes all coalitions instead, so that every seed gives the same result.

    Example:
        >>> is_exhaustive("kernel_shap", {}, (6,), 6), is_exhaustive("kernel_shap", {}, (7,), 7)
        (True, False)
    """
    return METHODS[name].seeded and bool(resolve_options(name, options, shape, variables)["n_samples"] == 2**variables)


def is_adaptive(name: str, options: Options) -> bool:
    """Whether a method adds nodes until its sum is right, as integrated gradients do unless a rule is asked for."""
    if name != "integrated_gradients" or ("tolerance" not in options and {"n_steps", "method"} & set(options)):
        return False
    return options.get("tolerance", TOLERANCE) is not None


def _windows(shape: Sequence[int], options: Options, *, strides: Any) -> dict[str, Any]:
    """Windows and strides as tuples, and the number of windows; side by side unless strides were given."""
    window = _sides(options["sliding_window_shapes"], len(shape))
    step = window if strides is None else _sides(strides, len(shape))
    fits = len(window) == len(step) == len(shape) and all(1 <= s <= w for w, s in zip(window, step, strict=True))
    if not fits:
        raise ValueError(
            "options 'sliding_window_shapes' and 'strides' of 'occlusion' must have one entry for each dimension of an "
            f"input, {list(shape)}, and no stride may exceed its window; got {window} and {step}"
        )
    count = math.prod(1 + math.ceil(max(n - w, 0) / s) for n, w, s in zip(shape, window, step, strict=True))
    return {"sliding_window_shapes": window, "strides": step, "windows": count}


def _sides(given: Any, dimensions: int) -> tuple[int, ...]:
    """One length for each dimension, from what captum takes: a number, several, or those of one input in a tuple."""
    given = (given,) * dimensions if isinstance(given, int) else given
    given = given[0] if isinstance(given, Sequence) and len(given) == 1 and isinstance(given[0], Sequence) else given
    if not isinstance(given, Sequence) or not all(isinstance(side, int) for side in given):
        raise ValueError(f"windows and strides of 'occlusion' must be whole numbers, such as (1, 4, 4); got {given!r}")
    return tuple(given)
