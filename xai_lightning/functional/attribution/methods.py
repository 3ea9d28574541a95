"""The METHODS table over captum: what each method needs, what it gives, and what it costs."""

import importlib.util
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import captum.attr
import torch
from captum._utils.models.linear_model import SkLearnLinearRegression

from xai_lightning.functional.attribution.scalars import Kind
from xai_lightning.functional.tables import choose

Options = Mapping[str, Any]
RESERVED = {
    "self",
    "inputs",
    "baselines",
    "target",
    "additional_forward_args",
    "feature_mask",
    "return_convergence_delta",
}


class Passes(NamedTuple):
    """Forward and backward passes of one sample."""

    forward: int
    backward: int


class Method(NamedTuple):
    """One row of the table.

    Args:
        make: builds captum's object from the explained module; a new one per call, since captum's gather handles (trap
            11).
        cost: passes of one sample, from the options and the number of variables.
        defaults: options where captum's are too noisy for drift or depend on the input; from the shape of one input
            and the number of variables.
        kind: the explained scalar.
        baseline: whether it compares with a baseline.
        gradient: whether it differentiates, so needs floating-point inputs.
        masked: whether it switches whole variables off; captum then repeats a variable's number on each of its columns.
        cells: into how many patches per side an image is cut where whole variables are switched off.
        random: whether it draws; then each sample is explained alone, with its own seed.
        signed: whether the sign means something.
        complete: whether attributions add up to f(x) - f(baseline).
        package: a package that it needs beside captum.
    """

    make: Callable[[Any], Any]
    cost: Callable[[Options, int], Passes]
    defaults: Callable[[Sequence[int], int], Options] = lambda shape, variables: {}
    kind: Kind = "margin"
    baseline: bool = True
    gradient: bool = True
    masked: bool = False
    cells: int = 14
    random: bool = False
    signed: bool = True
    complete: bool = False
    package: str | None = None


def _window(shape: Sequence[int], variables: int) -> Options:
    """Windows of a seventh of an image's sides over all channels, side by side; single columns of a table."""
    if len(shape) != 3:
        return {"sliding_window_shapes": (1,) * len(shape), "strides": (1,) * len(shape)}
    window = (shape[0], math.ceil(shape[1] / 7), math.ceil(shape[2] / 7))
    return {"sliding_window_shapes": window, "strides": window}


def _windows(options: Options, variables: int) -> Passes:
    return Passes(1 + int(options["windows"]), 0)


def _draws(shape: Sequence[int], variables: int) -> Options:
    enough = 4 * variables + 64
    return {"n_samples": min(2**variables, enough) if variables < 20 else enough}


def _lime(explained: Any) -> Any:
    # captum's default is a lasso, whose exact zeros become ties
    return captum.attr.Lime(explained, interpretable_model=SkLearnLinearRegression())


METHODS: dict[str, Method] = {
    "saliency": Method(
        captum.attr.Saliency,
        lambda o, v: Passes(1, 1),
        baseline=False,
        signed=False,
        defaults=lambda s, v: {"abs": True},
    ),
    "input_x_gradient": Method(captum.attr.InputXGradient, lambda o, v: Passes(1, 1), baseline=False),
    "integrated_gradients": Method(
        captum.attr.IntegratedGradients,
        lambda o, v: Passes(int(o["n_steps"]), int(o["n_steps"])),
        defaults=lambda s, v: {"n_steps": 50},
        complete=True,
    ),
    "deep_lift": Method(captum.attr.DeepLift, lambda o, v: Passes(2, 2), kind="centred", complete=True),
    "gradient_shap": Method(
        captum.attr.GradientShap,
        lambda o, v: Passes(int(o["n_samples"]), int(o["n_samples"])),
        defaults=lambda s, v: {"n_samples": 50},
        random=True,
    ),
    "feature_ablation": Method(captum.attr.FeatureAblation, lambda o, v: Passes(1 + v, 0), gradient=False, masked=True),
    "occlusion": Method(captum.attr.Occlusion, _windows, defaults=_window, gradient=False),
    "kernel_shap": Method(
        captum.attr.KernelShap,
        lambda o, v: Passes(int(o["n_samples"]), 0),
        defaults=_draws,
        gradient=False,
        masked=True,
        cells=7,
        random=True,
        complete=True,
        package="sklearn",
    ),
    "lime": Method(
        _lime,
        lambda o, v: Passes(int(o["n_samples"]), 0),
        defaults=_draws,
        gradient=False,
        masked=True,
        cells=7,
        random=True,
        package="sklearn",
    ),
}


def check_method(name: str, options: Options) -> None:
    """Refuse what can be known before any data: an unknown method or option, a missing package.

    Raises:
        ValueError: on an unknown method or option; the nearest is named and the known ones are listed.
        ImportError: if the method's package is not installed (trap 18).
    """
    method = METHODS[choose("method", name, METHODS)]
    if method.package and importlib.util.find_spec(method.package) is None:
        raise ImportError(f"method {name!r} needs {method.package}; install xai-lightning[lime]")
    known = _option_names(method)
    for option in options:
        choose(f"option of {name!r}", option, known)


def _option_names(method: Method) -> list[str]:
    built = method.make(torch.nn.Identity())
    return [name for name in inspect.signature(built.attribute).parameters if name not in RESERVED]


def resolve_options(name: str, options: Options, shape: Sequence[int], variables: int) -> dict[str, Any]:
    """The options with which ``name`` runs on inputs of ``shape``: given ones over defaults."""
    resolved = {**METHODS[name].defaults(shape, variables), **options}
    if name == "occlusion":
        resolved["windows"] = _count_windows(shape, resolved)
    return resolved


def _count_windows(shape: Sequence[int], options: Options) -> int:
    windows, strides = options["sliding_window_shapes"], options.get("strides") or (1,) * len(shape)
    strides = (strides,) * len(shape) if isinstance(strides, int) else strides
    return math.prod(1 + math.ceil(max(n - w, 0) / s) for n, w, s in zip(shape, windows, strides, strict=True))
