"""What is logged of one explained probe, apart from drift."""

import math
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._canonical import Columns
from xai_lightning.callbacks._course import Course
from xai_lightning.callbacks._explainer import Explainer
from xai_lightning.callbacks._gathered import Gathered
from xai_lightning.callbacks._record import Record
from xai_lightning.callbacks._strata import Strata
from xai_lightning.functional import drift, render
from xai_lightning.sinks import Picture


def summary(method: str, found: Gathered, explainer: Explainer, strata: Strata, sensitive: Sequence[str]) -> Record:
    """Cost and failures, importance of each variable, share on the sensitive ones, and the size of each stratum."""
    maps, columns, record = found.maps, explainer.columns, Record()
    record.shared = {tags.xai(method, what): value for what, value in _health(found, explainer).items()}
    if columns.names:
        importance = drift.global_importance(columns.importance(maps)).tolist()
        record.direct |= {tags.importance(method, f): v for f, v in zip(columns.names, importance, strict=True)}
        lower, upper = importance_limits(columns.importance(maps))
        for limit, values in (("lower", lower), ("upper", upper)):
            pairs = zip(columns.names, values, strict=True)
            record.direct |= {tags.importance_limit(method, f, limit): v for f, v in pairs}
    _add_groups(method, record, found, columns, strata)
    if sensitive:
        record.shared[tags.attribution(method, "sensitive_share")] = drift.share(maps, columns.of(sensitive))
    masses = found.columns["regions"]
    for i, name in enumerate(explainer.regions.names):
        record.shared[tags.region(method, name)] = float(masses[:, i].nansum() / masses[:, -1].nansum())
    for stratum, names in enumerate(strata.names()):
        record.direct[tags.xai(method, "probe", *names)] = float((found.strata == stratum).sum())
    return record


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


def similarities(method: str, course: Course) -> Callable[[], Picture]:
    """Draws how alike the explanations of all validations are."""
    return lambda: render.similarity(course.similarity, course.numbers, title=f"similarity of explanations, {method}")


def importance_limits(importance: Tensor, *, repeats: int = 1000) -> tuple[list[float], list[float]]:
    """95 % bootstrap limits of the mean of each column of ``float[M, V]``, over samples."""
    finite = importance[importance.isfinite().all(dim=1)].double()
    if not len(finite):
        nothing = [math.nan] * importance.shape[1]
        return nothing, nothing
    generator = torch.Generator().manual_seed(0)
    weights = torch.zeros(repeats, len(finite), dtype=torch.float64)
    drawn = torch.randint(len(finite), (repeats, len(finite)), generator=generator)
    weights.scatter_add_(1, drawn, torch.ones_like(weights))
    limits = (weights @ finite / len(finite)).quantile(torch.tensor([0.025, 0.975], dtype=torch.float64), dim=0)
    return limits[0].tolist(), limits[1].tolist()


def group_names(method: str, attributes: Sequence[str], declared: Mapping[str, Sequence[str]]) -> list[str]:
    """Names of what compares the explanations of groups."""
    found = [tags.attribution_gap(method, a, part) for a in attributes for part in ("value", "chance")]
    groups = [(a, g) for a in attributes for g in _judged(declared[a])]
    return found + [tags.equal_treatment(method, a, g, part) for a, g in groups for part in drift.Interval._fields]


def _judged(groups: Sequence[str]) -> Sequence[str]:
    """The groups that are told from the others; of two one says all."""
    return groups[:1] if len(groups) == 2 else groups


def _add_groups(method: str, record: Record, found: Gathered, columns: Columns, strata: Strata) -> None:
    importance = columns.importance(found.maps) if columns.names else found.maps.abs()
    for attribute in strata.attributes:
        of = strata.groups(attribute, found.strata)
        gap = dict(zip(("value", "chance"), drift.attribution_gap(importance, of), strict=True))
        record.shared |= {tags.attribution_gap(method, attribute, part): value for part, value in gap.items()}
        known, names = of >= 0, strata.declared[attribute]
        for group in _judged(names):
            area = drift.equal_treatment_auc(found.maps[known], of[known] == names.index(group))._asdict()
            record.shared |= {tags.equal_treatment(method, attribute, group, part): v for part, v in area.items()}
