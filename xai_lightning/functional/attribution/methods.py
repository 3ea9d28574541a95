"""The METHODS table over captum: what each method needs, what it returns, and what it costs."""

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import captum.attr

from xai_lightning.functional.attribution.ablation import Ablation, Windows
from xai_lightning.functional.attribution.adaptive import MOST_PASSES
from xai_lightning.functional.attribution.permutation import DonorPermutation
from xai_lightning.functional.attribution.relevance import Relevance
from xai_lightning.functional.attribution.saliency import Saliency
from xai_lightning.functional.attribution.scalars import Kind
from xai_lightning.functional.attribution.shapley import MOST_VARIABLES, ExactShapley
from xai_lightning.functional.attribution.surrogates import Surrogate

Options = Mapping[str, Any]
Layout = Literal["table", "image", "series", "tokens", "integers"]
Smooth = Literal["smoothgrad", "smoothgrad_sq", "vargrad"]

LAYOUTS: frozenset[Layout] = frozenset({"table", "image", "series", "tokens", "integers"})
CONTINUOUS: frozenset[Layout] = LAYOUTS - {"integers"}
SMOOTHS: tuple[Smooth, ...] = ("smoothgrad", "smoothgrad_sq", "vargrad")
TOLERANCE, PRIVATE = 0.01, {"windows", "background"}
_OF_CAPTUM = {
    "inputs",
    "baselines",
    "target",
    "additional_forward_args",
    "feature_mask",
    "return_convergence_delta",
    "attribute_to_layer_input",
}
RESERVED = {"self", "seeds", "every"} | _OF_CAPTUM


class Passes(NamedTuple):
    """Forward and backward passes of one sample."""

    forward: int
    backward: int


NUMBERS_AT_ONCE = 2**20
"""How many input numbers one pass may hold.

It bounds memory and does not change results. On a CPU half as many took 4 to 6 % longer, and twice as many about as
long."""


class Method(NamedTuple):
    """One row of the table.

    Args:
        make: builds captum's object from the explained module and a layer; a new one per call, since captum's objects
            accumulate handles (trap 11).
        cost: passes of one sample, from the options and the number of variables.
        defaults: options where captum's are too noisy for drift or depend on the input; from the shape of one input
            and the number of variables.
        layouts: the inputs it explains; ``tokens`` are ids that are explained through their embedding.
        several: whether it explains several inputs at once.
        kind: the explained scalar.
        baseline: whether it compares with a baseline.
        background: whether it draws from several baselines, or averages over them.
        donors: whether a background of one row would leave nothing to draw.
        gradient: whether it differentiates.
        layer: whether it needs a layer, and explains that layer's activations, or the input by means of them.
        masked: whether it switches whole variables off; captum then repeats a variable's number on each of its columns.
        per_variable: whether it is our own, and returns one number per variable instead.
        cells: into how many patches per side an image is cut where whole variables are switched off.
        most_variables: how many variables it can explain at most.
        random: whether it draws; then each sample is explained alone, with its own seed, unless it is ``seeded``.
        seeded: whether it takes the seeds itself, and so explains many samples at once even though it draws.
        signed: whether the sign has a meaning.
        complete: whether attributions add up to f(x) - f(baseline).
        ends: whether its own passes include both; then it keeps the difference as ``change``.
        rules: which rules it applies to layers: those of DeepLift, of LRP, or the guided ReLU.
        own: our own options, which captum does not know.
        package: a package that it needs beside captum.
        compiled: whether loops are compiled for it, where numba is installed.
        sparing: whether it skips passes whose results are already known, unless told to make ``every`` one.
    """

    make: Callable[[Any, Any], Any]
    cost: Callable[[Options, int], Passes]
    defaults: Callable[[Sequence[int], int], Options] = lambda shape, variables: {}
    layouts: frozenset[Layout] = CONTINUOUS
    several: bool = True
    kind: Kind = "margin"
    baseline: bool = True
    background: bool = False
    donors: bool = False
    gradient: bool = True
    layer: bool = False
    masked: bool = False
    per_variable: bool = False
    cells: int = 14
    most_variables: int | None = None
    random: bool = False
    seeded: bool = False
    signed: bool = True
    complete: bool = False
    ends: bool = False
    rules: Literal["deep_lift", "lrp", "guided"] | None = None
    own: tuple[str, ...] = ()
    package: str | None = None
    compiled: bool = False
    sparing: bool = False


def _window(shape: Sequence[int], variables: int) -> Options:
    """Windows side by side: a seventh of an image's sides over all channels; single numbers of anything else."""
    if len(shape) != 3:
        return {"sliding_window_shapes": (1,) * len(shape), "strides": (1,) * len(shape)}
    window = (shape[0], math.ceil(shape[1] / 7), math.ceil(shape[2] / 7))
    return {"sliding_window_shapes": window, "strides": window}


def _draws(shape: Sequence[int], variables: int) -> Options:
    return {"n_samples": 4 * variables + 64}


def _of(build: Callable[[Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda explained, layer: build(explained)


def _once(forward: int, backward: int) -> Callable[[Options, int], Passes]:
    return lambda options, variables: Passes(forward, backward)


def _steps(more: int = 0, more_backward: int = 0) -> Callable[[Options, int], Passes]:
    return lambda options, variables: Passes(int(options["n_steps"]) + more, int(options["n_steps"]) + more_backward)


def _samples(forward: bool = True) -> Callable[[Options, int], Passes]:
    return lambda options, variables: Passes(int(options["n_samples"]), 0 if forward else int(options["n_samples"]))


def _default(**options: Any) -> Callable[[Sequence[int], int], Options]:
    return lambda shape, variables: options


_SWITCHES: dict[str, Any] = {"layouts": LAYOUTS, "gradient": False, "masked": True}

METHODS: dict[str, Method] = {
    "saliency": Method(_of(Saliency), _once(1, 1), _default(abs=True), baseline=False, signed=False),
    "input_x_gradient": Method(_of(captum.attr.InputXGradient), _once(1, 1), baseline=False),
    "integrated_gradients": Method(
        _of(captum.attr.IntegratedGradients),
        lambda o, v: Passes(*(int(o["n_steps"] if o.get("tolerance") is None else MOST_PASSES),) * 2),
        _default(n_steps=50),
        complete=True,
        own=("tolerance",),
    ),
    "guided_backprop": Method(_of(captum.attr.GuidedBackprop), _once(1, 1), baseline=False, rules="guided"),
    "deconvolution": Method(_of(captum.attr.Deconvolution), _once(1, 1), baseline=False, rules="guided"),
    "deep_lift": Method(_of(captum.attr.DeepLift), _once(2, 2), kind="centred", complete=True, rules="deep_lift"),
    "deep_lift_shap": Method(
        _of(captum.attr.DeepLiftShap),
        lambda o, v: Passes(2 * max(2, int(o["background"])), 2 * max(2, int(o["background"]))),
        kind="centred",
        background=True,
        complete=True,
        rules="deep_lift",
    ),
    "gradient_shap": Method(
        _of(captum.attr.GradientShap), _samples(forward=False), _default(n_samples=50), background=True, random=True
    ),
    "grad_cam": Method(
        lambda e, layer: captum.attr.LayerGradCam(e, layer),
        _once(1, 1),
        layouts=frozenset({"image", "series"}),
        baseline=False,
        layer=True,
    ),
    "guided_grad_cam": Method(
        lambda e, layer: captum.attr.GuidedGradCam(e, layer),
        _once(2, 2),
        layouts=frozenset({"image", "series"}),
        several=False,
        baseline=False,
        layer=True,
        rules="guided",
    ),
    "feature_ablation": Method(
        _of(Ablation), lambda o, v: Passes(1 + v, 0), per_variable=True, compiled=True, sparing=True, **_SWITCHES
    ),
    "occlusion": Method(
        _of(Windows),
        lambda o, v: Passes(1 + int(o["windows"]), 0),
        _window,
        layouts=LAYOUTS,
        several=False,
        gradient=False,
        compiled=True,
        sparing=True,
    ),
    "feature_permutation": Method(
        _of(DonorPermutation),
        lambda o, v: Passes(int(o["n_samples"]) * (1 + v), 0),
        _default(n_samples=10),
        several=False,
        background=True,
        donors=True,
        random=True,
        **_SWITCHES,
    ),
    "shapley_value_sampling": Method(
        _of(captum.attr.ShapleyValueSampling),
        lambda o, v: Passes(1 + v * int(o["n_samples"]), 0),
        _default(n_samples=25),
        cells=7,
        random=True,
        complete=True,
        **_SWITCHES,
    ),
    "shapley_values": Method(
        _of(ExactShapley),
        lambda o, v: Passes(2**v, 0),
        per_variable=True,
        cells=2,
        most_variables=MOST_VARIABLES,
        complete=True,
        ends=True,
        **_SWITCHES,
    ),
    "kernel_shap": Method(
        _of(partial(Surrogate, kernel=True)),
        _samples(),
        _draws,
        per_variable=True,
        cells=7,
        random=True,
        seeded=True,
        complete=True,
        ends=True,
        compiled=True,
        **_SWITCHES,
    ),
    "lime": Method(
        _of(partial(Surrogate, kernel=False)),
        _samples(),
        _draws,
        per_variable=True,
        cells=7,
        random=True,
        seeded=True,
        compiled=True,
        **_SWITCHES,
    ),
    "lrp": Method(
        _of(Relevance),
        _once(2, 1),
        layouts=frozenset({"table", "image"}),
        several=False,
        kind="centred",
        baseline=False,
        rules="lrp",
    ),
    "layer_integrated_gradients": Method(
        lambda e, layer: captum.attr.LayerIntegratedGradients(e, layer),
        _steps(2),
        _default(n_steps=50),
        layouts=LAYOUTS,
        layer=True,
        complete=True,
    ),
    "conductance": Method(
        lambda e, layer: captum.attr.LayerConductance(e, layer),
        _steps(1, 1),
        _default(n_steps=50),
        layer=True,
        complete=True,
    ),
    "internal_influence": Method(
        lambda e, layer: captum.attr.InternalInfluence(e, layer), _steps(), _default(n_steps=50), layer=True
    ),
    "layer_deep_lift": Method(
        lambda e, layer: captum.attr.LayerDeepLift(e, layer),
        _once(2, 2),
        kind="centred",
        layer=True,
        complete=True,
        rules="deep_lift",
    ),
    "layer_gradient_x_activation": Method(
        lambda e, layer: captum.attr.LayerGradientXActivation(e, layer),
        _once(1, 1),
        layouts=LAYOUTS,
        baseline=False,
        layer=True,
    ),
}
