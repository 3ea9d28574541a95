"""Explanations, neuron statistics and fairness while a PyTorch Lightning model trains.

The terms used throughout:

* An **attribution** assigns each input variable of one sample a number: how much it moved the *explained scalar*.
* The **probe** is a fixed set of validation samples that is explained at every validation, so that a changed
  attribution means a changed model.
* **Drift** is the distance between two attributions of the same sample: 0 is unchanged.
* A **group** is a value of a sensitive attribute; a **rate** is a proportion within a group; a **metric** aggregates a
  rate over groups.
* A **bound** is the one-sided confidence limit of a metric at the error that this validation may spend.
* A **gate** decides which checkpoints may be kept; it is **open** when every limit holds.

A **monitor** observes and logs, a **checkpoint** saves, a **sink** receives results. Importing this module imports
neither torch nor Lightning; each public name imports what it needs when it is first used.
"""

import importlib
from typing import TYPE_CHECKING

from xai_lightning._version import __version__

if TYPE_CHECKING:
    from xai_lightning.callbacks.activation import ActivationMonitor
    from xai_lightning.callbacks.attribution import AttributionMonitor
    from xai_lightning.callbacks.checkpoint import GatedCheckpoint
    from xai_lightning.callbacks.fairness import FairnessMonitor
    from xai_lightning.readers import Bins, Column, Sample, Table
    from xai_lightning.restart import purge_step
    from xai_lightning.sinks import MemorySink, Sink

__all__ = [
    "ActivationMonitor",
    "AttributionMonitor",
    "Bins",
    "Column",
    "FairnessMonitor",
    "GatedCheckpoint",
    "MemorySink",
    "Sample",
    "Sink",
    "Table",
    "__version__",
    "purge_step",
]

_HOMES = {
    "ActivationMonitor": "callbacks.activation",
    "AttributionMonitor": "callbacks.attribution",
    "Bins": "readers",
    "Column": "readers",
    "FairnessMonitor": "callbacks.fairness",
    "GatedCheckpoint": "callbacks.checkpoint",
    "MemorySink": "sinks",
    "Sample": "readers",
    "Sink": "sinks",
    "Table": "readers",
    "purge_step": "restart",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}; public are {', '.join(__all__)}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
