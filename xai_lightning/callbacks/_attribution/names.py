"""Every name that an explaining monitor logs."""

from collections.abc import Collection, Iterable, Mapping, Sequence

from xai_lightning import tags
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.panel import Panel
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._trainer import Stage
from xai_lightning.functional import drift

COUNTED = ("forward_passes", "backward_passes", "probe_size", "zero_maps", "nonfinite_maps")
CHECKED = ("completeness_error", "incomplete_maps")
TIMED = ("time_share_so_far", "left_out")


def names(
    panel: Panel, explainer: Explainer, strata: Strata, shares: Iterable[str], *, stage: Stage, timed: bool
) -> tuple[list[str], list[str]]:
    """Names that go through ``self.log``, and names that go to the loggers directly, as far as they are known yet.

    Args:
        panel: what is compared with references.
        explainer: knows method and inputs.
        strata: strata of the probe.
        shares: names of the logged shares of variables.
        stage: stage of the Trainer; outside of ``fit`` there are no references.
        timed: whether validations may be skipped to save time.
    """
    method, fitting = panel.method, stage == "fit"
    health = [*COUNTED, *(CHECKED if explainer.ways.complete else ()), *(TIMED if timed and fitting else ())]
    shared = [tags.xai(method, what) for what in health]
    shared += [tags.region(method, name) for name in explainer.regions.names]
    shared += [tags.attribution(method, share) for share in shares]
    shared += _group_names(method, strata.attributes, strata.declared)
    variables = explainer.columns.names
    direct = [tags.importance(method, name) for name in variables]
    direct += [tags.importance_limit(method, name, limit) for name in variables for limit in ("lower", "upper")]
    direct += [tags.xai(method, "colour_scale")] if explainer.picture else []
    direct += [tags.xai(method, "probe", *name) for name in strata.counted]
    if fitting:
        shared += panel.names(strata.attributes)
        direct += panel.parts(strata)
    return shared, direct


def _group_names(method: str, attributes: Sequence[str], declared: Mapping[str, Sequence[str]]) -> list[str]:
    found = [tags.attribution_gap(method, a, part) for a in attributes for part in ("value", "chance")]
    groups = [(a, g) for a in attributes for g in judged(declared[a])]
    return found + [tags.equal_treatment(method, a, g, part) for a, g in groups for part in drift.Interval._fields]


def judged(groups: Sequence[str]) -> Collection[str]:
    """The groups to tell from all others; of two groups, one suffices."""
    return groups[:1] if len(groups) == 2 else groups
