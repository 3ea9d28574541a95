"""Running captum: micro-batches from shapes, private seeds, and nothing left behind."""

import math
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, NamedTuple

import torch
from captum.attr._utils.approximation_methods import approximation_parameters
from torch import Tensor, nn

from xai_lightning.functional.attribution.adaptive import fixed, refine
from xai_lightning.functional.attribution.explained import Explained
from xai_lightning.functional.attribution.methods import METHODS, PRIVATE, Method, Smooth
from xai_lightning.functional.attribution.variables import Variables
from xai_lightning.functional.rng import isolated, random_words

NUMBERS_AT_ONCE = 2**19
"""How many input numbers one forward pass may hold: it bounds memory, and changes no result.

On CPUs blocks of this size still fit the caches: small tables and ResNets pass fastest so (`benchmarks/methods.py`)."""
KEPT = 32

SMOOTH_OPTIONS = {"nt_samples": 10, "stdevs": 0.1}
INTERNAL = ("layer_integrated_gradients", "conductance", "internal_influence")

Inputs = tuple[Tensor, ...]
Custom = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


class Question(NamedTuple):
    """What is asked of a method about some samples.

    Args:
        inputs: ``[N, ...]`` each.
        targets: ``[N]``.
        rest: further arguments of the explained module: masks of a segmentation, then the network's extras.
        baselines: ``[N, ...]`` each.
        background: ``[B, ...]`` each; None: each sample's own baseline.
    """

    inputs: Inputs
    targets: Tensor
    rest: tuple[Tensor, ...]
    baselines: Inputs
    background: Inputs | None

    @property
    def behind(self) -> Inputs:
        """The background, or of a sample alone its own baseline."""
        return self.baselines if self.background is None else self.background

    def take(self, where: slice) -> "Question":
        """The same about the samples at ``where``."""
        inputs, targets, rest, baselines, background = self
        cut = [tuple(x[where] for x in group) for group in (inputs, rest, baselines)]
        return Question(cut[0], targets[where], cut[1], cut[2], background)

    def repeated(self, count: int, stdevs: float | Sequence[float]) -> "Question":
        """``count`` copies of the only sample, with Gaussian noise on its inputs."""
        sizes = (stdevs,) * len(self.inputs) if isinstance(stdevs, int | float) else stdevs
        noisy = []
        for x, size in zip(self.inputs, sizes, strict=True):
            copies = x.expand(count, *x.shape[1:])
            # drawn in single precision, as captum's noise tunnel does
            noise = torch.normal(0, torch.full(copies.shape, float(size), device=x.device)).to(x.dtype)
            noisy.append(copies + noise if x.is_floating_point() else copies)
        rest, baselines = (tuple(x.expand(count, *x.shape[1:]) for x in group) for group in (self.rest, self.baselines))
        return Question(tuple(noisy), self.targets.expand(count), rest, baselines, self.background)

    @property
    def numbers(self) -> int:
        """Numbers in one sample."""
        return sum(max(1, x[0].numel()) for x in self.inputs)


class Found(NamedTuple):
    """What a method found.

    Args:
        values: ``[N, ...]``, one per input, or one of the layer.
        gap: ``float64[N]``, sum of the attributions minus the change; NaN where it was not looked at.
        change: ``float64[N]``, f(x) - f(baseline); likewise.
    """

    values: Inputs
    gap: Tensor
    change: Tensor


class Run(NamedTuple):
    """How a method is run.

    Args:
        name: a key of METHODS.
        explained: network and scalar.
        variables: of each input.
        options: resolved ones.
        layer: for methods that need one.
        smooth: average over noisy copies of the input.
        at_once: numbers in one forward pass.
    """

    name: str
    explained: Explained
    variables: tuple[Variables, ...]
    options: Mapping[str, Any]
    layer: nn.Module | None
    smooth: Smooth | None
    at_once: int

    @property
    def spec(self) -> Method:
        """The method's row."""
        return METHODS[self.name]

    @property
    def passes(self) -> int:
        """The larger number of passes per sample."""
        return max(self.spec.cost(self.options, sum(v.number for v in self.variables)))


def run(how: Run, question: Question, seeds: Sequence[int]) -> Found:
    """Attributions, the same for any batching."""
    with _out_of_place(how.explained):
        if how.smooth:
            unknown = torch.full((len(question.targets),), math.nan, dtype=torch.float64)
            return Found(_smoothed(how, question, seeds), unknown, unknown)
        return _found(how, question, seeds)


def _found(how: Run, question: Question, seeds: Sequence[int]) -> Found:
    if how.options.get("tolerance") is not None:
        return _refined(how, question)
    return _checked(how, question, _spread(how, _pieces(how, question, seeds)))


def _smoothed(how: Run, question: Question, seeds: Sequence[int]) -> Inputs:
    """Each sample's copies with noise of its own seed are explained like any samples, and averaged."""
    parts, options = [], {**SMOOTH_OPTIONS, **how.options}
    for i, seed in enumerate(seeds):
        one = question.take(slice(i, i + 1))
        with isolated(seed):
            noisy = one.repeated(int(options["nt_samples"]), options["stdevs"])
        copies = _pieces_or_refined(how, noisy, random_words([seed], len(noisy.targets))[0].abs().tolist())
        parts.append(tuple(SMOOTHERS[how.smooth or "smoothgrad"](each) for each in copies))
    return _spread(how, tuple(torch.cat(each) for each in zip(*parts, strict=True)))


def _pieces_or_refined(how: Run, question: Question, seeds: Sequence[int]) -> Inputs:
    return _refined(how, question).values if how.options.get("tolerance") is not None else _pieces(how, question, seeds)


SMOOTHERS: dict[Smooth, Callable[[Tensor], Tensor]] = {
    "smoothgrad": lambda copies: copies.mean(dim=0, keepdim=True),
    "smoothgrad_sq": lambda copies: copies.square().mean(dim=0, keepdim=True),
    "vargrad": lambda copies: copies.var(dim=0, keepdim=True, correction=0),
}


@contextmanager
def _out_of_place(network: nn.Module) -> Iterator[None]:
    """Layers do not overwrite their input, since captum hands them tensors that must stay as they are (trap 15)."""
    found = [module for module in network.modules() if vars(module).get("inplace") is True]
    for module in found:
        vars(module)["inplace"] = False
    try:
        yield
    finally:
        for module in found:
            vars(module)["inplace"] = True


def _refined(how: Run, question: Question) -> Found:
    # the gradients of all nodes are kept to the end: more than one forward pass holds, and still bounded
    size = max(1, KEPT * how.at_once // (question.numbers * how.passes))
    found = []
    for i in range(0, len(question.targets), size):
        piece = question.take(slice(i, i + size))
        gradient = partial(_gradient, how, piece)
        found.append(refine(gradient, piece.inputs, piece.baselines, tolerance=how.options["tolerance"]))
    values = tuple(torch.cat(each) for each in zip(*(part.values for part in found), strict=True))
    return Found(values, torch.cat([part.gap for part in found]), torch.cat([part.change for part in found]))


def _gradient(how: Run, piece: Question, points: Inputs, sample: Tensor) -> tuple[Tensor, Inputs]:
    """Scalars and gradients at ``points``, in blocks that fit at once."""
    size = max(1, how.at_once // piece.numbers)
    scalars, gradients = [], []
    for i in range(0, len(sample), size):
        of = sample[i : i + size]
        given = tuple(x[i : i + size].requires_grad_(True) for x in points)
        # a clone: a network may write into its input, which a leaf does not allow
        found = how.explained(*(x.clone() for x in given), piece.targets[of], *(extra[of] for extra in piece.rest))
        gradients.append(torch.autograd.grad(found.sum(), given))
        scalars.append(found.detach())
    return torch.cat(scalars), tuple(torch.cat(each) for each in zip(*gradients, strict=True))


def _checked(how: Run, question: Question, values: Inputs) -> Found:
    """With the gap to what the attributions should add up to, for methods that promise it: see `proof`."""
    if not how.spec.complete:
        unknown = torch.full((len(question.targets),), math.nan, dtype=torch.float64)
        return Found(values, unknown, unknown)
    change = _mean_change(how, question) if how.spec.background else _change(how, question)
    total = torch.stack([each.flatten(1).double().sum(dim=1) for each in values]).sum(dim=0)
    return Found(values, total - change, change)


def _change(how: Run, question: Question) -> Tensor:
    """f(x) - f(baseline) of each sample, ``float64[N]``."""
    size, changes = max(1, how.at_once // question.numbers), []
    for i in range(0, len(question.targets), size):
        piece = question.take(slice(i, i + size))
        with torch.no_grad():
            after: Tensor = how.explained(*piece.inputs, piece.targets, *piece.rest)
            before: Tensor = how.explained(*piece.baselines, piece.targets, *piece.rest)
        changes.append(after.double() - before.double())
    return torch.cat(changes)


def proof(spec: Method, options: Mapping[str, Any]) -> int:
    """Forward passes of one sample that tell what its attributions should add up to."""
    if not spec.complete or options.get("tolerance") is not None:
        return 0
    return 1 + int(options["background"]) if spec.background else 2


def _mean_change(how: Run, question: Question) -> Tensor:
    """f(x) less the mean of f over the background, of each sample."""
    changes = []
    for i in range(len(question.targets)):
        one = question.take(slice(i, i + 1))
        count = len(one.behind[0])
        with torch.no_grad():
            after: Tensor = how.explained(*one.inputs, one.targets, *one.rest)
            rest = [each.expand(count, *each.shape[1:]) for each in (one.targets, *one.rest)]
            before: Tensor = how.explained(*one.behind, *rest)
        changes.append(after.double() - before.double().mean())
    return torch.cat(changes)


def _by_rule(how: Run, question: Question) -> Inputs:
    """Integrated gradients by one of captum's rules; captum forms all points of all samples before it begins."""
    steps, nodes = approximation_parameters(str(how.options.get("method", "gausslegendre")))
    count = int(how.options["n_steps"])
    places, weights = (torch.tensor([float(v) for v in each(count)], dtype=torch.float64) for each in (nodes, steps))
    held = max(1, how.at_once // question.numbers)
    parts = []
    for i in range(0, len(question.targets), held):
        piece = question.take(slice(i, i + held))
        together, gradient = max(1, held // len(piece.targets)), partial(_gradient, how, piece)
        rule: Any = {"places": places, "weights": weights, "together": together}
        parts.append(fixed(gradient, piece.inputs, piece.baselines, **rule))
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def _pieces(how: Run, question: Question, seeds: Sequence[int]) -> Inputs:
    if how.name == "integrated_gradients":
        return _by_rule(how, question)
    own = how.spec.background and question.background is None
    if own or (how.spec.random and not how.spec.seeded):
        parts = []
        for i, seed in enumerate(seeds):
            with isolated(seed):
                parts.append(captum_attributions(how, question.take(slice(i, i + 1))))
    else:
        per_sample = question.numbers * (how.passes if how.spec.gradient or how.spec.seeded else 1)
        size = max(1, how.at_once // per_sample)
        pieces = [slice(i, i + size) for i in range(0, len(question.targets), size)]
        parts = [captum_attributions(how, question.take(piece), seeds[piece]) for piece in pieces]
    return tuple(torch.cat(each) for each in zip(*parts, strict=True))


def captum_attributions(how: Run, question: Question, seeds: Sequence[int] | None = None) -> Inputs:
    """One call of captum's ``attribute``; ``seeds`` go to methods that take them."""
    spec, given = how.spec, _arguments(how, question)
    if spec.seeded:
        given["seeds"] = seeds
    inputs = tuple(x.detach().clone() for x in question.inputs)
    if spec.gradient:
        inputs = tuple(x.requires_grad_(True) if x.is_floating_point() else x for x in inputs)
    method = spec.make(how.explained, how.layer)
    if spec.gradient and not spec.layer and spec.rules is None:
        method.gradient_func = _gradients
    with warnings.catch_warnings(), torch.set_grad_enabled(spec.gradient):
        # captum announces hooks and attributes that it sets; the caller's guard puts them back
        for announced in ("Setting forward, backward hooks", "Setting backward hooks", "Applying"):
            warnings.filterwarnings("ignore", message=rf"(?s).*{announced}", category=UserWarning)
        found = method.attribute(inputs, **given)
    found = tuple(x.detach() for x in ((found,) if isinstance(found, Tensor) else tuple(found)))
    if spec.layer and len(found) > 1 and len(found) != len(inputs):
        raise ValueError(f"the layer returns {len(found)} tensors; name one that returns a single tensor")
    return found


def _gradients(forward_fn: Any, inputs: Inputs, target_ind: None, additional_forward_args: tuple[Any, ...]) -> Inputs:
    """Gradients of the scalars of all samples at once; captum differentiates them one by one, which takes longer."""
    with torch.enable_grad():
        return torch.autograd.grad(forward_fn(*inputs, *additional_forward_args).sum(), inputs)


def _arguments(how: Run, question: Question) -> dict[str, Any]:
    spec, options = how.spec, how.options
    given = {key: value for key, value in options.items() if key not in PRIVATE and key not in SMOOTH_OPTIONS}
    for own in spec.own:
        given.pop(own, None)
    given["additional_forward_args"] = (question.targets, *question.rest)
    if spec.baseline:
        given["baselines"] = question.behind if spec.background else question.baselines
    if how.name == "deep_lift_shap":
        # captum's DeepLiftShap refuses a single baseline
        given["baselines"] = tuple(b.expand(2, *b.shape[1:]) if len(b) == 1 else b for b in question.behind)
    if spec.masked:
        given["feature_mask"] = _masks(how.variables, question.targets.device)
    room = max(1, how.at_once // (question.numbers * len(question.targets)))
    if not spec.gradient:
        given.setdefault("perturbations_per_eval", min(room, how.passes))
    if how.name == "occlusion" and not isinstance(given["sliding_window_shapes"][0], tuple):
        given["sliding_window_shapes"] = (given["sliding_window_shapes"],)
        given["strides"] = (given["strides"],) if isinstance(given.get("strides"), tuple) else given.get("strides")
    if how.name in INTERNAL and room < how.passes:
        least = 2 if how.name == "conductance" else 1
        given.setdefault("internal_batch_size", max(least, room) * len(question.targets))
    return given


def _masks(variables: tuple[Variables, ...], device: torch.device) -> Inputs:
    """The variable of each number, distinct across inputs: equal ids would be switched off together (trap 33)."""
    masks, first = [], 0
    for each in variables:
        masks.append(each.mask.to(device) + first)
        first += each.number
    return tuple(masks)


def _spread(how: Run, found: Inputs) -> Inputs:
    """A variable's number, which masked methods repeat, spread evenly over its columns: sums within it are right."""
    if not how.spec.masked:
        return found
    pairs = zip(found, how.variables, strict=True)
    return tuple(x / v.sizes.to(x.device)[v.mask.to(x.device)] for x, v in pairs)


def custom_attributions(method: Custom, explained: Explained, question: Question, seeds: Sequence[int]) -> Inputs:
    """A callable asked about one sample at a time, seeded."""
    parts = [_custom(method, explained, question.take(slice(i, i + 1)), seed) for i, seed in enumerate(seeds)]
    return (torch.cat(parts),)


def _custom(method: Custom, explained: Explained, question: Question, seed: int) -> Tensor:
    if len(question.inputs) > 1:
        raise ValueError(f"a callable explains one input, not {len(question.inputs)}")
    x = question.inputs[0]

    def forward(points: Tensor) -> Tensor:
        rest = [each.expand(len(points), *each.shape[1:]) for each in (question.targets, *question.rest)]
        scalars: Tensor = explained(points, *rest)
        return scalars

    with isolated(seed):
        found: object = method(forward, x.detach().clone(), question.behind[0])
    if not isinstance(found, Tensor) or found.shape != x.shape:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the method must return attributions of shape {list(x.shape)}; got {shape}")
    return found.detach()
