"""What is logged about one explained probe, apart from drift."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._attribution.canonical import Columns
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.gathered import Gathered
from xai_lightning.callbacks._attribution.names import judged
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.callbacks._record import Record
from xai_lightning.functional import drift, render
from xai_lightning.readers import Sample
from xai_lightning.sinks import Picture


def summary(
    method: str, found: Gathered, explainer: Explainer, strata: Strata, shares: Mapping[str, Sequence[str]]
) -> Record:
    """Cost and failures, shares of the attribution, comparison of groups, and the size of each stratum."""
    maps, columns, record = found.maps, explainer.columns, Record()
    record.shared = {tags.xai(method, what): value for what, value in _health(found, explainer).items()}
    _add_groups(method, record, found, columns, strata)
    for share, variables in shares.items():
        record.shared[tags.attribution(method, share)] = drift.share(maps, columns.of(variables))
    masses = found.columns["regions"]
    for i, name in enumerate(explainer.regions.names):
        record.shared[tags.region(method, name)] = float(masses[:, i].nansum() / masses[:, -1].nansum())
    for stratum, names in enumerate(strata.counted):
        record.direct[tags.xai(method, "probe", *names)] = float((found.strata == stratum).sum())
    return record


def unusable(found: Gathered, ways: Ways) -> str | None:
    """The warning if more than half the explanations of a probe are left out of drift; None if they are not."""
    count, errors = len(found.maps), found.error
    predicted = found.columns["probabilities"].isfinite().all(dim=1)
    broken, missed = int((predicted & ~found.maps.isfinite().all(dim=1)).sum()), int(found.incomplete.sum())
    if 2 * broken > count:
        return (
            f"{broken} of {count} explanations are not finite and so left out of drift, although the predictions are "
            "finite: either the network's output for the baseline (choose another baseline=...) or its gradient is not"
        )
    if 2 * missed <= count:
        return None
    return (
        f"{missed} of {count} explanations miss what they should add up to by more than 5 % "
        f"(median error {float(errors.nanmedian()):.0%}), so they are left out of drift. The method does not suit "
        f"this network. {_instead(ways)}"
    )


def _instead(ways: Ways) -> str:
    stepped = ways.spec is not None and "n_steps" in ways.spec.defaults((1,), 1)
    if ways.method != "integrated_gradients":
        steps = f", or more steps: options={{'n_steps': {4 * int(ways.options.get('n_steps', 50))}}}"
        return "Use 'integrated_gradients'" + steps * stepped
    if set(ways.options) & {"n_steps", "method"}:
        return "Leave n_steps and method out of options, so that steps are added until the sum is right"
    return "Use 'feature_ablation' or 'kernel_shap', which need no gradients"


def check_columns(explainer: Explainer, shares: Mapping[str, Sequence[str]], sample: Sample) -> None:
    """Refuse shares of variables that do not exist.

    Raises:
        ValueError: if there is no such variable, or the inputs have none.
    """
    for share, variables in shares.items():
        if not explainer.columns.names:
            raise ValueError(
                f"{share} of {list(variables)} needs a table of variables [N, D], or a series [N, C, T]; got inputs "
                f"of shape {list(sample.inputs.shape)}"
            )
        explainer.columns.of(variables)


def _health(found: Gathered, explainer: Explainer) -> dict[str, float]:
    maps = found.maps
    numbers = {
        "forward_passes": float(found.passes[0]),
        "backward_passes": float(found.passes[1]),
        "probe_size": float(len(maps)),
        "zero_maps": float((maps.abs().sum(dim=1) <= drift.ZERO_MAP).double().mean()),
        "nonfinite_maps": float((~maps.isfinite().all(dim=1)).double().mean()),
    }
    if explainer.ways.complete:
        numbers["completeness_error"] = float(found.error.nanmean())
        numbers["incomplete_maps"] = float(found.incomplete.double().mean())
    return numbers


def add_passes(method: str, record: Record, fresh: Gathered) -> None:
    """Add the passes that the fresh sample took to those of the probe."""
    for i, what in enumerate(("forward_passes", "backward_passes")):
        record.shared[tags.xai(method, what)] += float(fresh.passes[i])


def add_importance(method: str, record: Record, found: Gathered, columns: Columns) -> None:
    """Add the global importance of each variable, and its interval over samples."""
    if not columns.names:
        return
    importance = columns.importance(found.maps)
    means = drift.global_importance(importance).tolist()
    record.direct |= {tags.importance(method, f): v for f, v in zip(columns.names, means, strict=True)}
    for limit, values in zip(("lower", "upper"), mean_limits(importance), strict=True):
        pairs = zip(columns.names, values.tolist(), strict=True)
        record.direct |= {tags.importance_limit(method, f, limit): v for f, v in pairs}


def importance_of(method: str, record: Record, columns: Columns) -> list[float]:
    """The logged global importance of each variable."""
    return [record.direct[tags.importance(method, f)] for f in columns.names]


def similarities(method: str, course: Course) -> Callable[[], Picture]:
    """A function that draws how similar the explanations of all validations are."""
    return lambda: render.similarity(course.similarity, course.numbers, title=f"similarity of explanations, {method}")


def mean_limits(values: Tensor, *, repeats: int = 1000) -> tuple[Tensor, Tensor]:
    """95 % bootstrap limits ``float64[V]`` of the mean of each column of ``float[M, V]``, over samples."""
    finite = values[values.isfinite().all(dim=1)].double()
    if not len(finite):
        nothing = values.new_full(values.shape[1:], math.nan, dtype=torch.float64)
        return nothing, nothing
    # one matrix product for all replicates and all columns: a loop over variables would draw anew for each
    generator = torch.Generator().manual_seed(0)
    weights = finite.new_zeros(repeats, len(finite))
    drawn = torch.randint(len(finite), (repeats, len(finite)), generator=generator, device="cpu")
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    limits = (weights @ finite / len(finite)).quantile(finite.new_tensor([0.025, 0.975]), dim=0)
    return limits[0], limits[1]


def _add_groups(method: str, record: Record, found: Gathered, columns: Columns, strata: Strata) -> None:
    importance = columns.importance(found.maps) if columns.names else found.maps.abs()
    for attribute in strata.attributes:
        of = strata.groups(attribute, found.strata)
        gap = dict(zip(("value", "chance"), drift.attribution_gap(importance, of), strict=True))
        record.shared |= {tags.attribution_gap(method, attribute, part): value for part, value in gap.items()}
        known, names = of >= 0, strata.declared[attribute]
        for group in judged(names):
            area = drift.equal_treatment_auc(found.maps[known], of[known] == names.index(group))._asdict()
            record.shared |= {tags.equal_treatment(method, attribute, group, part): v for part, v in area.items()}
