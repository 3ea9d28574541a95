"""What is logged about the activations of one validation."""

import math
from collections.abc import Mapping, Sequence

from xai_lightning import tags
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._activation.names import CALLS, GROWTH, Wanted, largest
from xai_lightning.callbacks._record import Record
from xai_lightning.functional.activation import Moments, histogram_summary, statistics

Numbers = dict[str, dict[str, float]]
"""Statistics by the name of their layer."""


def recorded(
    layers: Sequence[Layer],
    wanted: Wanted,
    merged: Mapping[tuple[str, int], Moments],
    steps: int,
    first: dict[str, float],
    *,
    fit: bool,
) -> tuple[Record, Numbers]:
    """The record of a validation, and the statistics of each layer.

    Args:
        layers: the watched layers.
        wanted: the chosen statistics.
        merged: states of all ranks, by layer and number of units.
        steps: number of steps.
        first: root mean square of each layer in the first validation in which it was positive; updated in place.
        fit: whether growth is logged.
    """
    record, found = Record(), Numbers()
    for layer in layers:
        states = [state for (name, _), state in merged.items() if name == layer.name]
        numbers = found[layer.name] = _numbers(layer, wanted, states, steps)
        if fit:
            if numbers["rms"] > 0:
                first.setdefault(layer.name, numbers["rms"])
            numbers[GROWTH] = numbers["rms"] / first.get(layer.name, math.nan)
        for statistic in wanted.direct(layer, fit=fit):
            record.direct[tags.activation(layer.name, statistic)] = numbers[statistic]
        if states and wanted.histogram:
            record.histograms[tags.activation(layer.name, "histogram")] = histogram_summary(states)
    for statistic, absolute in wanted.worst(layers, fit=fit).items():
        values = [abs(x[statistic]) if absolute else x[statistic] for x in found.values() if statistic in x]
        record.shared[tags.activation_max(statistic)] = largest(values)
    return record, found


def _numbers(layer: Layer, wanted: Wanted, states: Sequence[Moments], steps: int) -> dict[str, float]:
    numbers = statistics(states, [*wanted.own(layer), "rms"], **layer.kind)
    calls = sum(int(state.calls) for state in states)
    return numbers | {CALLS: calls / steps if steps else 0.0}
