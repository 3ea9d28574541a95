"""Attributions: how much each input variable moved the explained scalar of a sample. Only here is captum used."""

import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from xai_lightning.functional.attribution.methods import METHODS, Method, Passes, check_method, resolve_options
from xai_lightning.functional.attribution.scalars import Explained, Kind, Task, centred, margin, output_tensor
from xai_lightning.functional.attribution.variables import Variables, grid_variables, per_variable, table_variables
from xai_lightning.functional.rng import isolated

__all__ = [
    "METHODS",
    "Custom",
    "Explained",
    "Kind",
    "Method",
    "Passes",
    "Task",
    "Variables",
    "attribute",
    "centred",
    "check_method",
    "completeness_error",
    "grid_variables",
    "margin",
    "output_tensor",
    "per_variable",
    "resolve_options",
    "table_variables",
]

NUMBERS_AT_ONCE = 2**22
"""How many input numbers one forward pass may hold: it bounds memory, and changes no result."""

Custom = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]


def attribute(
    method: str | Custom,
    explained: Explained,
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Tensor,
    variables: Variables,
    seeds: Sequence[int],
    extras: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
) -> Tensor:
    """Attributions of the explained scalar to each number of the inputs.

    The same for any batching: methods that draw explain each sample alone, under its own seed; the others are cut into
    micro-batches by shape. The global generators are left as they were. Gradients must be enabled.

    Args:
        method: a name of `METHODS`, or a callable ``fn(forward, inputs[1, ...], baselines[B, ...]) -> [1, ...]`` where
            ``forward`` maps ``[M, ...]`` to the scalars ``[M]`` of that sample; it is called once per sample, seeded.
        explained: network and scalar.
        inputs: ``[N, ...]``.
        targets: ``[N]``, class indices (regression ignores them).
        baselines: ``[1, ...]``, or ``[B, ...]`` as the background of ``gradient_shap``.
        variables: what methods that switch variables off switch together.
        seeds: one per sample.
        extras: further arguments of the network, one row per sample.
        options: further arguments of captum's ``attribute``.

    Returns:
        Floating ``[N, ...]`` in the shape of the inputs, detached; a masked method's number for a variable is spread
        evenly over its columns, so that sums within variables are right.

    Raises:
        ValueError: if a callable returns another shape.

    References:
        N. Kokhlikyan et al., Captum: a unified and generic model interpretability library for PyTorch, 2020.
    """
    rows = [(inputs[i : i + 1], targets[i : i + 1], [e[i : i + 1] for e in extras]) for i in range(len(inputs))]
    if callable(method):
        parts = [_custom(method, explained, *row, baselines, seed) for row, seed in zip(rows, seeds, strict=True)]
        return torch.cat(parts)
    resolved = resolve_options(method, options or {}, inputs.shape[1:], variables.number)
    spec = METHODS[method]
    if spec.random:
        parts = []
        for row, seed in zip(rows, seeds, strict=True):
            with isolated(seed):
                parts.append(_captum(method, explained, *row, baselines, variables, resolved))
        return torch.cat(parts)
    size = _samples_at_once(spec, inputs, resolved, variables)
    chunks = [slice(i, i + size) for i in range(0, len(inputs), size)]
    return torch.cat(
        [
            _captum(method, explained, inputs[c], targets[c], [e[c] for e in extras], baselines, variables, resolved)
            for c in chunks
        ]
    )


def _samples_at_once(spec: Method, inputs: Tensor, options: Mapping[str, Any], variables: Variables) -> int:
    per_sample = max(1, inputs[0].numel()) * (max(spec.cost(options, variables.number)) if spec.gradient else 1)
    return max(1, NUMBERS_AT_ONCE // per_sample)


def _captum(
    name: str,
    explained: Explained,
    inputs: Tensor,
    targets: Tensor,
    extras: Sequence[Any],
    baselines: Tensor,
    variables: Variables,
    options: Mapping[str, Any],
) -> Tensor:
    spec = METHODS[name]
    given = {key: value for key, value in options.items() if key != "windows"}
    given["additional_forward_args"] = (targets, *extras)
    if spec.baseline:
        given["baselines"] = baselines if name == "gradient_shap" else baselines[:1].expand_as(inputs).contiguous()
    if spec.masked:
        given["feature_mask"] = variables.mask.to(inputs.device)
    if not spec.gradient:
        at_once = max(1, NUMBERS_AT_ONCE // max(1, inputs.numel()))
        given.setdefault("perturbations_per_eval", min(at_once, spec.cost(options, variables.number).forward))
    inputs = inputs.detach().clone()
    inputs = inputs.requires_grad_(True) if spec.gradient else inputs
    with warnings.catch_warnings(), torch.set_grad_enabled(spec.gradient):
        # captum announces hooks and attributes that it sets; the caller's guard puts them back
        warnings.filterwarnings(
            "ignore", message=r"(?s).*Setting forward, backward hooks and attributes", category=UserWarning
        )
        try:
            found: Tensor = spec.make(explained).attribute(inputs, **given)
        except ValueError:
            # scikit-learn refuses to fit what is not finite; such a map is undefined
            if not explained.nonfinite:
                raise
            found = torch.full_like(inputs, math.nan)
    found = found.detach()
    if spec.masked:
        found = found / variables.sizes.to(found.device)[variables.mask.to(found.device)]
    return found


def _custom(
    method: Custom,
    explained: Explained,
    inputs: Tensor,
    targets: Tensor,
    extras: Sequence[Any],
    baselines: Tensor,
    seed: int,
) -> Tensor:
    def forward(x: Tensor) -> Tensor:
        repeated = [extra.expand(len(x), *extra.shape[1:]) for extra in extras]
        scalars: Tensor = explained(x, targets.expand(len(x)), *repeated)
        return scalars

    with isolated(seed):
        found: object = method(forward, inputs.detach().clone(), baselines)
    if not isinstance(found, Tensor) or found.shape != inputs.shape:
        shape = list(found.shape) if isinstance(found, Tensor) else type(found).__name__
        raise ValueError(f"the method must return attributions of shape {list(inputs.shape)}; got {shape}")
    return found.detach()


def completeness_error(
    explained: Explained,
    attributions: Tensor,
    inputs: Tensor,
    targets: Tensor,
    *,
    baselines: Tensor,
    extras: Sequence[Any] = (),
) -> Tensor:
    """How far attributions miss what they should add up to, per sample.

    ``|sum of attributions - (f(x) - f(b))| / max(|f(x) - f(b)|, median of |f(x) - f(b)| / 10)``; 0 is exact. A small
    error does not show that the attribution is right, a large one shows that it is not.

    Args:
        explained: network and scalar; called twice.
        attributions: ``[N, ...]``.
        inputs: ``[N, ...]``.
        targets: ``[N]``.
        baselines: ``[1, ...]``.
        extras: further arguments of the network.

    Returns:
        ``float64[N]``, at least 0; NaN where f(x) = f(b) for the median sample.

    References:
        M. Sundararajan, A. Taly, Q. Yan, Axiomatic attribution for deep networks, ICML 2017, section 3.
    """
    with torch.no_grad():
        change = explained(inputs, targets, *extras) - explained(baselines[:1].expand_as(inputs), targets, *extras)
    change, total = change.double(), attributions.flatten(1).double().sum(dim=1)
    scale: Tensor = torch.maximum(change.abs(), change.abs().median() / 10)
    error: Tensor = (total - change).abs() / scale
    return error
