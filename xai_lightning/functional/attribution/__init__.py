"""Attributions: how much each input variable moved the explained scalar of a sample. Captum is used only here."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from xai_lightning.functional.attribution import fast, fast_paths
from xai_lightning.functional.attribution.choices import (
    check_inputs,
    check_method,
    is_adaptive,
    is_exhaustive,
    resolve_options,
)
from xai_lightning.functional.attribution.engine import custom_attributions, proof, run
from xai_lightning.functional.attribution.explained import Explained, Pass, Signature
from xai_lightning.functional.attribution.methods import (
    METHODS,
    NUMBERS_AT_ONCE,
    SMOOTHS,
    Layout,
    Method,
    Passes,
    Smooth,
)
from xai_lightning.functional.attribution.question import (
    SMOOTH_OPTIONS,
    Custom,
    Found,
    Inputs,
    Question,
    Run,
)
from xai_lightning.functional.attribution.returned import output_tensor, unclear
from xai_lightning.functional.attribution.scalars import Kind, Task, centred, margin
from xai_lightning.functional.attribution.variables import Variables, grid_variables, per_variable, table_variables
from xai_lightning.functional.attribution.versions import FIRST, Versions, versions

__all__ = [
    "FIRST",
    "METHODS",
    "NUMBERS_AT_ONCE",
    "SMOOTHS",
    "SMOOTH_OPTIONS",
    "Custom",
    "Explained",
    "Found",
    "Inputs",
    "Kind",
    "Layout",
    "Method",
    "Pass",
    "Passes",
    "Signature",
    "Smooth",
    "Task",
    "Variables",
    "Versions",
    "attribute",
    "centred",
    "check_inputs",
    "check_method",
    "compile_loops",
    "completeness_error",
    "grid_variables",
    "is_exhaustive",
    "margin",
    "output_tensor",
    "per_variable",
    "proof",
    "resolve_options",
    "table_variables",
    "unclear",
    "versions",
]


def compile_loops(method: str, options: Mapping[str, Any]) -> None:
    """Compile a method's loops, where numba is installed, so that its first call does not take seconds longer."""
    if METHODS[method].compiled:
        fast.kernels()
    if is_adaptive(method, options):
        fast_paths.kernels()


def attribute(
    method: str | Custom,
    explained: Explained,
    inputs: Tensor | Inputs,
    targets: Tensor,
    *,
    baselines: Tensor | Inputs,
    variables: Variables | tuple[Variables, ...],
    seeds: Sequence[int],
    background: Tensor | Inputs | None = None,
    extras: Sequence[Any] = (),
    options: Mapping[str, Any] | None = None,
    layer: nn.Module | None = None,
    smooth: Smooth | None = None,
    at_once: int = NUMBERS_AT_ONCE,
) -> Found:
    """Attributions of the explained scalar to each number of the inputs, or of a layer.

    Batching does not change the result: methods that draw do so for each sample under its own seed, and micro-batches
    depend on shapes alone. The global generators are left as they were. Gradients must be enabled.

    Args:
        method: a name of `METHODS`, or a callable ``fn(forward, inputs[1, ...], baselines[B, ...]) -> [1, ...]`` where
            ``forward`` maps ``[M, ...]`` to the scalars ``[M]`` of that sample; it is called once per sample, seeded.
        explained: network and scalar.
        inputs: ``[N, ...]``, one tensor or several.
        targets: ``[N]``, class indices (regression ignores them).
        baselines: ``[1, ...]``, or ``[N, ...]`` with one for each sample; as many as inputs.
        variables: the numbers that methods which switch variables off switch together; as many as inputs.
        seeds: one per sample.
        background: ``[B, ...]``, for methods that draw from several baselines or average over them; by default the
            baseline, each sample's own if there are several.
        extras: segmentation masks, then further arguments of the network, each with one row per sample.
        options: further arguments of captum's ``attribute``.
        layer: the layer of methods that need one.
        smooth: average over copies of each input with Gaussian noise; ``nt_samples`` and ``stdevs`` are options.
        at_once: how many input numbers one pass may hold; does not change the result.

    Returns:
        The attributions; a masked method's attribution of a variable is spread evenly over its columns, so that sums
        within variables are right.

    Raises:
        ValueError: if a callable returns another shape, or baselines do not fit.

    Example:
        >>> network = torch.nn.Linear(2, 1, bias=False)
        >>> network.weight.data = torch.tensor([[1.0, -2.0]])
        >>> x = torch.tensor([[3.0, 1.0]])
        >>> fixed = {"baselines": torch.zeros_like(x), "variables": table_variables(2), "seeds": [0]}
        >>> attribute("input_x_gradient", Explained(network), x, torch.tensor([1]), **fixed).values[0]
        tensor([[ 3., -2.]])

    References:
        N. Kokhlikyan et al., Captum: a unified and generic model interpretability library for PyTorch, 2020.
        D. Smilkov et al., SmoothGrad: removing noise by adding noise, 2017.
    """
    given, against = _tuple(inputs), _tuple(baselines)
    shared = all(b.shape[0] == 1 for b in against)
    behind = _tuple(background) if background is not None else against if shared else None
    question = Question(given, targets, tuple(extras), _fitted(against, given), behind)
    if callable(method):
        return Found.unproven(custom_attributions(method, explained, question, seeds), len(targets))
    parts = (variables,) if isinstance(variables, Variables) else variables
    number = sum(each.number for each in parts)
    resolved = resolve_options(method, options or {}, given[0].shape[1:], number, behind[0].shape[0] if behind else 1)
    return run(Run(method, explained, parts, resolved, layer, smooth, at_once), question, seeds)


def _tuple(tensors: Tensor | Inputs) -> Inputs:
    """The tensors as a tuple, detached from the graph, so that attributions carry no gradient."""
    given = (tensors,) if isinstance(tensors, Tensor) else tensors
    # the bits in memory of lazy conjugates and negatives are not those of their values
    return tuple(x.detach().resolve_conj().resolve_neg() for x in given)


def _fitted(baselines: Inputs, inputs: Inputs) -> Inputs:
    """Baselines expanded to one row for each sample."""
    fitted = []
    for x, b in zip(inputs, baselines, strict=True):
        if b.shape[0] not in (1, x.shape[0]):
            raise ValueError(
                f"baselines must have one row, or one for each of the {len(x)} samples; got {list(b.shape)}"
            )
        fitted.append(b.expand_as(x))
    return tuple(fitted)


def completeness_error(gap: Tensor, change: Tensor) -> Tensor:
    """How far each sample's attributions miss what they should add up to.

    ``|sum of attributions - (f(x) - f(b))| / max(|f(x) - f(b)|, median of |f(x) - f(b)| / 10)``; 0 is exact. A small
    error does not show that the attribution is right, a large one shows that it is not.

    Args:
        gap: ``float64[N]``, sum of the attributions minus the change of the scalar.
        change: ``float64[N]``, f(x) - f(b), in units of the scalar; of the whole probe, since its median enters.

    Returns:
        ``float64[N]``, at least 0; NaN where gap or change is unknown; NaN or infinite where the change is 0 for both
        this and the median sample.

    Example:
        >>> completeness_error(torch.tensor([-0.5, 0.0]), torch.tensor([1.0, 2.0]))
        tensor([0.5000, 0.0000], dtype=torch.float64)

    References:
        M. Sundararajan, A. Taly, Q. Yan, Axiomatic attribution for deep networks, ICML 2017, section 3.
    """
    size = change.double().abs()
    floor = size[size.isfinite()].median() / 10 if size.isfinite().any() else size.new_tensor(math.nan)
    return gap.double().abs() / torch.maximum(size, floor)
