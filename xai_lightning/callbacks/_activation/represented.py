"""What is logged about layer representations: ranks, outliers, the selectivity of units, and how far they moved."""

import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import torch
from torch import Tensor

from xai_lightning._lightning import MisconfigurationException, Trainer, rank_zero_info
from xai_lightning.callbacks._activation.attention import COLLAPSED, ENTROPY, FIRST, MOST_BYTES, head_numbers
from xai_lightning.callbacks._activation.kernels import BestOf, KernelReferences
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._activation.probe import MOST_UNITS, ActivationProbe, Represented
from xai_lightning.callbacks._progress import step
from xai_lightning.callbacks._trainer import everywhere
from xai_lightning.functional.representation import (
    bytes_needed,
    class_selectivity,
    class_sums,
    group_selectivity,
    largest_by_chance,
    massive_activations,
    rank_statistics,
)
from xai_lightning.functional.representation.similarity import LEAST_SAMPLES

MOST_LAYERS, MOST_ROWS = 8, 1024
RANKS = ("participation_ratio", "effective_rank", "effective_rank_centred", "stable_rank", "layer_saturation")
COLLAPSE, MASSIVE = "rank_collapse", "massive_units"
CLASS_MEAN, CLASS_LARGEST = "class_selectivity_mean", "class_selectivity_largest"

# the parts of a logged name that follow the module's name
Key = tuple[str, ...]
Numbers = dict[Key, float]


class Representation:
    """Measures the representations of up to eight layers on a fixed sample of rows.

    Args:
        layers: True, or glob patterns of names of watched modules.
        probe: keeps the layers' outputs for these rows.
        best_of: the metric that chooses the best validation, and ``"min"`` or ``"max"``; None: no best validation.

    Raises:
        ValueError: on an invalid setting.
    """

    def __init__(self, layers: bool | Sequence[str], probe: ActivationProbe, best_of: BestOf | None) -> None:
        if isinstance(layers, str):
            raise ValueError(f"representation must be True or a list of patterns; got the string {layers!r}")
        if not LEAST_SAMPLES <= probe.size <= MOST_ROWS:
            raise ValueError(f"probe_size must be from {LEAST_SAMPLES} to {MOST_ROWS} rows; got {probe.size!r}")
        if best_of is not None and best_of[1] not in ("min", "max"):
            raise ValueError(f"best_of must be a metric and 'min' or 'max'; got {best_of!r}")
        self._patterns = None if isinstance(layers, bool) else list(layers)
        self.probe = probe
        self.references = KernelReferences(best_of)
        self.layers: list[Layer] = []
        self.attention: list[str] = []
        self._classes = False

    def choose(self, watched: Sequence[Layer], attention: Sequence[str]) -> None:
        """Choose among the watched layers, and report the most memory that these can take.

        Args:
            watched: all watched layers.
            attention: names of the attention modules.

        Raises:
            MisconfigurationException: if no layer can be chosen, or a pattern matches none.
        """
        known = [layer for layer in watched if layer.units is not None]
        for pattern in self._patterns or ():
            if not any(fnmatchcase(layer.name, pattern) for layer in known):
                names = ", ".join(layer.name for layer in known)
                raise MisconfigurationException(
                    f"representation: the pattern {pattern!r} matches no watched module with known units; those are "
                    f"{names}"
                )
        fit = [x for x in known if self._patterns is None or any(fnmatchcase(x.name, p) for p in self._patterns)]
        if not fit:
            raise MisconfigurationException(
                "representation: the units are unknown for all watched modules "
                f"({', '.join(layer.name for layer in watched)}); name other modules with layers=[...]"
            )
        most = min(MOST_LAYERS, len(fit))
        self.layers = [fit[round(i * (len(fit) - 1) / max(most - 1, 1))] for i in range(most)]
        self.attention = [layer.name for layer in self.layers if layer.name in attention]
        self.probe.choose(self.layers, self.attention)
        # the values are kept in float64, kernels in float32
        kept = len(self.references.names)
        memory = bytes_needed(self.probe.size, MOST_UNITS, layers=most, references=kept, itemsize=8)
        memory += MOST_BYTES * bool(self.attention)
        rank_zero_info(
            f"ActivationMonitor measures the representations of {', '.join(x.name for x in self.layers)} on a sample "
            f"of {self.probe.size} rows; this takes at most {memory / 2**20:.0f} MiB, and no extra forward pass"
        )

    @property
    def _attributes(self) -> list[str]:
        return list(self.probe.batches.vocabularies)

    def keys(self, layer: str, *, fit: bool) -> list[Key]:
        """The keys of the numbers that are logged for a layer."""
        # a first validation that failed has nevertheless seen targets
        classes = [(CLASS_MEAN,), (CLASS_LARGEST,)] if self._classes or self.probe.labelled else []
        groups = [("group_selectivity", a, part) for a in self._attributes for part in ("largest", "chance")]
        drifts = [(f"cka_{name}",) for name in self.references.names] if fit else []
        heads = [(ENTROPY,), (FIRST,), (COLLAPSED,)] * (layer in self.attention)
        return [*((name,) for name in RANKS), (COLLAPSE,), (MASSIVE,), *classes, *groups, *drifts, *heads]

    def worst(self, *, fit: bool) -> list[Key]:
        """The keys of the numbers for which the worst layer's, the largest, is logged."""
        groups = [("group_selectivity_excess", attribute) for attribute in self._attributes]
        drifts = [(f"cka_distance_{name}",) for name in self.references.names] if fit else []
        return [(COLLAPSE,), (MASSIVE,), *groups, *drifts, *[(COLLAPSED,)] * bool(self.attention)]

    def gather(self, trainer: Trainer) -> tuple[Represented, float]:
        """The rows of all ranks, and rank zero's metric of the previous validation."""
        metric = everywhere(trainer, torch.tensor([self.references.metric], dtype=torch.float64, device="cpu"))
        return self.probe.gather(trainer), float(metric[0])

    def conclude(self, found: Represented, metric: float, *, fit: bool) -> dict[str, Numbers]:
        """The numbers of each layer, by `keys` and `worst`; in ``fit`` this validation becomes a reference."""
        self._classes = found.labels is not None
        numbers = {name: _of_layer(rows, found) for name, rows in found.layers.items()}
        for name, rows in found.heads.items():
            numbers[name] |= {(what,): value for what, value in head_numbers(rows).items()}
        for name, distances in (self.references.follow(found, metric) if fit else {}).items():
            for reference, distance in distances.items():
                numbers[name][f"cka_distance_{reference}",] = distance
                numbers[name][f"cka_{reference}",] = 1 - distance
        return numbers

    def state(self) -> dict[str, Any]:
        """Tensors and plain types."""
        return {**self.references.state(), "classes": self._classes}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self.references.load(state)
        self._classes = bool(state["classes"])


def _of_layer(rows: Tensor, found: Represented) -> Numbers:
    few = len(rows) < LEAST_SAMPLES or not rows.shape[1]
    ranks = dict.fromkeys(RANKS, math.nan) if few else rank_statistics(rows)
    directions = min(rows.shape)
    step()
    known = not few and bool(rows.isfinite().any())
    numbers: Numbers = {(name,): value for name, value in ranks.items()}
    numbers[COLLAPSE,] = _share(directions - ranks["effective_rank"], directions - 1)
    numbers[MASSIVE,] = float((massive_activations(rows) > 0).sum()) if known else math.nan
    if found.labels is not None:
        selectivity = by_class(rows, found.labels)
        defined = selectivity[selectivity.isfinite()]
        numbers[CLASS_MEAN,] = float(defined.mean())
        numbers[CLASS_LARGEST,] = float(defined.max()) if len(defined) else math.nan
    labels = torch.zeros_like(found.hashes) if found.labels is None else found.labels
    for attribute, groups in found.groups.items():
        numbers |= _of_group(attribute, rows, labels, groups)
    return numbers


def by_class(rows: Tensor, labels: Tensor) -> Tensor:
    """Class selectivity of each unit, ``float64[U]``."""
    held = labels >= 0
    classes, codes = torch.unique(labels[held], return_inverse=True)
    return class_selectivity(*class_sums(rows[held], codes, len(classes)))


def _of_group(attribute: str, rows: Tensor, labels: Tensor, groups: Tensor) -> Numbers:
    values = group_selectivity(rows, labels, groups).value
    values = values[values.isfinite()]
    largest = float(values.max()) if len(values) else math.nan
    chance = float(largest_by_chance(rows, labels, groups)) if len(values) else math.nan
    key = ("group_selectivity", attribute)
    return {(*key, "largest"): largest, (*key, "chance"): chance, (f"{key[0]}_excess", attribute): largest - chance}


def _share(part: float, whole: float) -> float:
    return part / whole if whole else math.nan
