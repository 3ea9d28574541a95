"""Pictures of the layers' activations over a run, and of the samples that activate single units most."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._activation.history import LayerHistory
from xai_lightning.callbacks._activation.probe import Represented
from xai_lightning.callbacks._activation.represented import by_class
from xai_lightning.functional.activation import HISTOGRAM_LIMITS
from xai_lightning.functional.render import histogram_ridges, layer_heatmap, layer_similarity, unit_samples
from xai_lightning.functional.render.units import MOST_SAMPLES, MOST_UNITS
from xai_lightning.functional.representation import most_selective, top_samples
from xai_lightning.sinks import Picture

Pictures = dict[str, Callable[[], Picture]]


class TopSamples(NamedTuple):
    """The most selective unit of each layer, and the samples that activate it most.

    Args:
        units: names of the units.
        notes: the selectivity of each, in words.
        values: ``float64[V, S]``.
        thumbnails: ``uint8[V, S, H, W, 3]``, or None.
    """

    units: list[str]
    notes: list[str]
    values: Tensor
    thumbnails: Tensor | None


def top_of(found: Represented) -> TopSamples | None:
    """The most selective unit of each of up to seven layers; None if there are no classes."""
    units: list[str] = []
    notes: list[str] = []
    values: list[Tensor] = []
    places: list[Tensor] = []
    for name, rows in found.layers.items():
        if found.labels is None or not rows.numel() or len(units) == MOST_UNITS:
            continue
        selectivity = by_class(rows, found.labels)
        for unit in most_selective(selectivity, 1).tolist():
            top = top_samples(rows, torch.tensor([unit], device="cpu"), MOST_SAMPLES)[0]
            units.append(f"{name}:{unit}")
            notes.append(f"class selectivity {float(selectivity[unit]):.2f}")
            values.append(rows[top, unit])
            places.append(top)
    if not units:
        return None
    small = None if found.thumbnails is None else found.thumbnails[torch.stack(places)]
    return TopSamples(units, notes, torch.stack(values), small)


def heatmaps(history: LayerHistory) -> Pictures:
    """Heatmaps of layers by validations, one per statistic."""
    found: Pictures = {}
    for statistic in history.statistics:
        chart = history.heatmap(statistic)
        if chart is not None:
            names, values, limits = chart
            found[tags.activation_heatmap(statistic)] = partial(
                layer_heatmap, values, names, history.numbers(), limits=limits, title=statistic
            )
    return found


def ridges(history: LayerHistory) -> Pictures:
    """Histograms of some layers over the validations."""
    counts = history.ridges()
    if not counts.any():
        return {}
    draw = partial(
        histogram_ridges,
        counts.clone(),
        history.ridged,
        history.numbers(),
        bucket_limits=HISTOGRAM_LIMITS,
        title="activations",
    )
    return {tags.activation_picture("histograms"): draw}


def similarities(names: list[str], matrix: Tensor) -> Pictures:
    """The similarity between all pairs of layers."""
    if not names:
        return {}
    note = "linear CKA, unbiased, of means over positions"
    draw = partial(layer_similarity, matrix, names, title="similarity of layer representations", note=note)
    return {tags.activation_picture("cka"): draw}


def tops(top: TopSamples | None) -> Pictures:
    """The samples that activate the most selective units most."""
    if top is None:
        return {}
    title = "top samples of the most selective units"
    note = "means over positions; brightness scaled per sample"
    draw = partial(unit_samples, top.thumbnails, top.units, top.values, notes=top.notes, title=title, note=note)
    return {tags.activation_picture("top_samples"): draw}
