"""Running captum: micro-batches from shapes, private seeds, and nothing left behind."""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.attribution.explained import Explained
from xai_lightning.functional.attribution.in_place import out_of_place
from xai_lightning.functional.attribution.methods import PRIVATE, Method, Smooth
from xai_lightning.functional.attribution.mixture import on_numbers
from xai_lightning.functional.attribution.paths import by_rule, refined
from xai_lightning.functional.attribution.question import (
    SMOOTH_OPTIONS,
    Custom,
    Found,
    Inputs,
    Question,
    Run,
)
from xai_lightning.functional.attribution.surrogates import held_of_coalition
from xai_lightning.functional.attribution.variables import Variables
from xai_lightning.functional.precision import exact
from xai_lightning.functional.rng import isolated, random_words

INTERNAL = ("layer_integrated_gradients", "conductance", "internal_influence")


def run(how: Run, question: Question, seeds: Sequence[int]) -> Found:
    """Attributions, the same for any batching."""
    how.explained.types = tuple(x.dtype for x in question.inputs)
    with out_of_place(how.explained):
        if how.smooth:
            return Found.unproven(_smoothed(how, question, seeds), len(question.targets))
        return _found(how, question, seeds)


def _found(how: Run, question: Question, seeds: Sequence[int]) -> Found:
    if how.options.get("tolerance") is not None:
        return refined(how, question)
    values, change = _pieces(how, question, seeds)
    return _checked(how, question, _spread(how, values), change)


def _smoothed(how: Run, question: Question, seeds: Sequence[int]) -> Inputs:
    """Explain copies of each sample, with noise from its own seed, like any samples, and combine their attributions."""
    parts, options = [], {**SMOOTH_OPTIONS, **how.options}
    for i, seed in enumerate(seeds):
        one = question.take(slice(i, i + 1))
        with isolated(seed):
            noisy = one.repeated(int(options["nt_samples"]), options["stdevs"])
        copies = _pieces_or_refined(how, noisy, random_words([seed], len(noisy.targets))[0].abs().tolist())
        parts.append(tuple(SMOOTHERS[how.smooth or "smoothgrad"](each) for each in copies))
    return _spread(how, tuple(torch.cat(each) for each in zip(*parts, strict=True)))


def _pieces_or_refined(how: Run, question: Question, seeds: Sequence[int]) -> Inputs:
    if how.options.get("tolerance") is not None:
        return refined(how, question).values
    return _pieces(how, question, seeds)[0]


SMOOTHERS: dict[Smooth, Callable[[Tensor], Tensor]] = {
    "smoothgrad": lambda copies: copies.mean(dim=0, keepdim=True),
    "smoothgrad_sq": lambda copies: copies.square().mean(dim=0, keepdim=True),
    "vargrad": lambda copies: copies.var(dim=0, keepdim=True, correction=0),
}


def _checked(how: Run, question: Question, values: Inputs, change: Tensor | None) -> Found:
    """Add the gap to what the attributions should add up to, for methods that promise completeness: see `proof`."""
    if not how.spec.complete:
        return Found.unproven(values, len(question.targets))
    if change is None:
        change = _mean_change(how, question) if how.spec.background else _change(how, question)
    total = torch.stack([exact(each.flatten(1)).sum(dim=1) for each in values]).sum(dim=0)
    return Found(values, total - change, change)


def _change(how: Run, question: Question) -> Tensor:
    """f(x) - f(baseline) of each sample, ``float64[N]``."""
    size, changes = max(1, how.at_once // (2 * question.numbers)), []
    for i in range(0, len(question.targets), size):
        piece = question.take(slice(i, i + size))
        ends = (torch.cat(pair) for pair in zip(piece.inputs, piece.baselines, strict=True))
        with torch.no_grad():
            found: Tensor = how.explained(*ends, *(torch.cat((each, each)) for each in (piece.targets, *piece.rest)))
        after, before = exact(found).chunk(2)
        changes.append(after - before)
    return torch.cat(changes)


def _copies(tensors: Inputs) -> Inputs:
    """Copies, for a network that writes into its inputs; contiguous, for one that views them in another shape."""
    return tuple(x.clone() for x in tensors)


def proof(spec: Method, options: Mapping[str, Any]) -> int:
    """Forward passes of one sample, beside the method's own, that tell what its attributions should add up to."""
    # a single draw does not include the second end
    told = spec.ends and options.get("n_samples", 2) > 1
    if told or not spec.complete or options.get("tolerance") is not None:
        return 0
    return 1 + int(options["background"]) if spec.background else 2


def _mean_change(how: Run, question: Question) -> Tensor:
    """f(x) minus the mean of f over the background, for each sample."""
    changes, room = [], how.at_once // question.numbers
    for i in range(len(question.targets)):
        one = question.take(slice(i, i + 1))
        count = len(one.behind[0])
        rest, size = [each.expand(count, *each.shape[1:]) for each in (one.targets, *one.rest)], max(1, room)
        with torch.no_grad():
            after: Tensor = how.explained(*_copies(one.inputs), one.targets, *one.rest)
            blocks = zip(*(torch.split(each, size) for each in (*_copies(one.behind), *rest)), strict=True)
            before = torch.cat([exact(how.explained(*block)) for block in blocks])
        changes.append(exact(after) - before.mean())
    return torch.cat(changes)


def _pieces(how: Run, question: Question, seeds: Sequence[int]) -> tuple[Inputs, Tensor | None]:
    """Attributions and, where the method itself evaluated both, f(x) - f(baseline) ``float64[N]``."""
    if how.name == "integrated_gradients":
        return by_rule(how, question), None
    own = how.spec.background and question.background is None
    if own or (how.spec.random and not how.spec.seeded):
        parts = []
        for i, seed in enumerate(seeds):
            with isolated(seed):
                parts.append(captum_attributions(how, question.take(slice(i, i + 1))))
    else:
        size, count = max(1, how.at_once // _held(how, question)), len(question.targets)
        if count <= size:
            return captum_attributions(how, question, seeds)
        pieces = [slice(i, i + size) for i in range(0, count, size)]
        parts = [captum_attributions(how, question.take(piece), seeds[piece]) for piece in pieces]
    changes = [change for _, change in parts if change is not None]
    values = zip(*(found for found, _ in parts), strict=True)
    return tuple(torch.cat(each) for each in values), torch.cat(changes) if changes else None


def _held(how: Run, question: Question) -> int:
    """How many numbers are held at once for one sample."""
    if how.spec.seeded:
        number = sum(each.number for each in how.variables)
        held = held_of_coalition(number, question.targets.device, kernel=how.name == "kernel_shap")
        return max(question.numbers, how.passes * held)
    return question.numbers * (how.passes if how.spec.gradient else 1)


def captum_attributions(
    how: Run, question: Question, seeds: Sequence[int] | None = None
) -> tuple[Inputs, Tensor | None]:
    """One call of captum's ``attribute``, see `_pieces`; ``seeds`` go to methods that take them."""
    spec, given = how.spec, _arguments(how, question)
    if spec.seeded:
        given["seeds"] = seeds
    plain = spec.gradient and not spec.layer and spec.rules is None
    inputs = tuple(_own(x, kept=spec.compiled or (plain and x.is_floating_point())) for x in question.inputs)
    if spec.gradient:
        inputs = tuple(x.requires_grad_(True) if x.is_floating_point() else x for x in inputs)
    method = spec.make(how.explained, how.layer)
    if plain:
        method.gradient_func = _gradients
    quiet = _unannounced() if spec.rules else nullcontext()
    with quiet, _at_home(inputs[0].device), torch.set_grad_enabled(spec.gradient):
        found = method.attribute(inputs, **given)
    found = (found.detach(),) if isinstance(found, Tensor) else tuple(x.detach() for x in found)
    if spec.layer and len(found) > 1 and len(found) != len(inputs):
        raise ValueError(f"the layer returns {len(found)} tensors; name a layer that returns a single tensor")
    return found, method.change if spec.ends else None


def _own(x: Tensor, *, kept: bool) -> Tensor:
    """An input of the method's own, so that no network can damage the original.

    Args:
        x: the input.
        kept: whether nothing can write into it: the method passes copies, or autograd refuses since gradients are
            wanted.
    """
    return x.detach() if kept and not x.is_inference() else x.detach().clone()


def _at_home(device: torch.device) -> AbstractContextManager[Any]:
    """A default device that suits captum, which expects the tensors that it makes on the CPU or with the inputs."""
    default = torch.get_default_device()
    return nullcontext() if default.type == "cpu" or default == device else device


@contextmanager
def _unannounced() -> Iterator[None]:
    """Silence captum's warnings of the hooks and attributes that it sets; the caller's guard restores these."""
    with warnings.catch_warnings():
        for announced in ("Setting forward, backward hooks", "Setting backward hooks", "Applying"):
            warnings.filterwarnings("ignore", message=rf"(?s).*{announced}", category=UserWarning)
        yield


def _gradients(
    forward_fn: Explained, inputs: Inputs, target_ind: None, additional_forward_args: tuple[Any, ...]
) -> Inputs:
    """Gradients of the scalars of all samples at once; captum differentiates them one by one, which is slower."""
    return forward_fn.differentiate(inputs, *additional_forward_args)[1]


def _arguments(how: Run, question: Question) -> dict[str, Any]:
    spec, options = how.spec, how.options
    given = {key: value for key, value in options.items() if key not in PRIVATE and key not in SMOOTH_OPTIONS}
    for own in spec.own:
        given.pop(own, None)
    given["additional_forward_args"] = (question.targets, *question.rest)
    if spec.baseline:
        given["baselines"] = question.behind if spec.background else question.baselines
        if not spec.compiled:
            given["baselines"] = _copies(given["baselines"])
    if how.name == "deep_lift_shap":
        # captum's DeepLiftShap refuses a single baseline
        given["baselines"] = tuple(b.expand(2, *b.shape[1:]) if len(b) == 1 else b for b in question.behind)
    if spec.sparing:
        given["every"] = how.explained.announced
    if spec.masked:
        given["feature_mask"] = _masks(how.variables, question.targets.device)
    room = max(1, how.at_once // (question.numbers * (1 if spec.compiled else len(question.targets))))
    if not spec.gradient:
        given.setdefault("perturbations_per_eval", room if spec.compiled else min(room, how.passes))
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
        mask = each.mask.to(device)
        masks.append(mask + first if first else mask)
        first += each.number
    return tuple(masks)


def _spread(how: Run, found: Inputs) -> Inputs:
    """Each variable's attribution, spread evenly over its columns, so that sums within variables are right."""
    if not how.spec.masked:
        return found
    device = found[0].device
    if how.spec.per_variable:
        shares = found[0] / torch.cat([v.sizes for v in how.variables]).to(device)
        return tuple(on_numbers(shares, mask) for mask in _masks(how.variables, device))
    pairs = zip(found, how.variables, strict=True)
    return tuple(x.div_(v.sizes.to(device)[v.mask.to(device)]) for x, v in pairs)


def custom_attributions(method: Custom, explained: Explained, question: Question, seeds: Sequence[int]) -> Inputs:
    """Attributions by a callable, which explains one sample at a time, seeded."""
    parts = [_custom(method, explained, question.take(slice(i, i + 1)), seed) for i, seed in enumerate(seeds)]
    return (torch.cat(parts),)


def _custom(method: Custom, explained: Explained, question: Question, seed: int) -> Tensor:
    if len(question.inputs) > 1:
        raise ValueError(f"a method given as a callable explains one input, not {len(question.inputs)}")
    x = question.inputs[0]

    def forward(points: Tensor) -> Tensor:
        rest = [each.expand(len(points), *each.shape[1:]) for each in (question.targets, *question.rest)]
        scalars: Tensor = explained(points, *rest)
        return scalars

    with isolated(seed):
        found: object = method(forward, x.detach().clone(), question.behind[0])
    if not isinstance(found, Tensor) or found.shape != x.shape:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"a method given as a callable must return attributions of shape {list(x.shape)}; got {shape}")
    return found.detach()
