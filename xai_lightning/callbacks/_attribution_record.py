"""What is logged of one explained probe, apart from drift."""

from collections.abc import Callable, Sequence

from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._canonical import Columns
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
    if explainer.complete:
        numbers["completeness_error"] = float(found.error.nanmean())
        numbers["incomplete_maps"] = float(found.incomplete.double().mean())
    return numbers


def bars(
    method: str, columns: Columns, now: Tensor, first: Tensor | None, sensitive: Sequence[str]
) -> Callable[[], Picture]:
    """Draws the importance of each variable, beside that of the first reference."""
    values = drift.global_importance(columns.importance(now)).tolist()
    before = None if first is None else drift.global_importance(columns.importance(first)).tolist()
    title = f"mean |attribution|, {method}"
    return lambda: render.bar_chart(columns.names, values, title=title, reference=before, highlight=sensitive)


def grid(inputs: Tensor, first: Tensor, now: Tensor, labels: Sequence[str], scale: float) -> Callable[[], Picture]:
    """Draws maps of some samples: input, reference, now, difference."""
    return lambda: render.attribution_grid(inputs, first, now, labels=labels, scale=scale)
