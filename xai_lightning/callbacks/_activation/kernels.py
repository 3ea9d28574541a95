"""How far the representations of layers have moved from those of earlier validations."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from xai_lightning._lightning import rank_zero_warn
from xai_lightning.callbacks._activation.probe import Represented
from xai_lightning.functional.representation import kernel
from xai_lightning.functional.representation.similarity import LEAST_SAMPLES

BestOf = tuple[str, str]


class KernelReferences:
    """Kernels of the layers at the first, the previous and the best validation, on the same rows.

    Args:
        best_of: the metric that chooses the best validation, and ``"min"`` or ``"max"``; None: no best validation.
    """

    def __init__(self, best_of: BestOf | None) -> None:
        self._best_of = best_of
        self.names = ("first", "previous", *["best"] * (best_of is not None))
        self._hashes = torch.empty(0, dtype=torch.int64, device="cpu")
        self._kernels: dict[str, dict[str, Tensor]] = {}
        self._best: float | None = None
        self._metric = math.nan
        self._told = False

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Record the metric of the validation that just ended."""
        if self._best_of is not None:
            self._metric = float(metrics.get(self._best_of[0], math.nan))

    @property
    def metric(self) -> float:
        """The metric of the last validation, as this rank saw it."""
        return self._metric

    def follow(self, found: Represented, metric: float) -> dict[str, dict[str, float]]:
        """Compute the distances to each reference by layer, then make this validation a reference itself.

        Args:
            found: representations of this validation.
            metric: metric of the previous validation, equal on all ranks.

        Returns:
            By layer, then by reference: one minus the CKA, exactly 0 for equal kernels; NaN where there is no
            reference, or the rows differ from those of earlier validations.
        """
        now = {name: _kernel(rows) for name, rows in found.layers.items()}
        changed = bool(self._kernels) and not torch.equal(self._hashes, found.hashes)
        if changed:
            rank_zero_warn(
                f"ActivationMonitor: the validation data changed ({len(found.hashes)} rows are drawn now, other than "
                f"the {len(self._hashes)} drawn before); CKA is NaN in this validation, which becomes the new first "
                "reference"
            )
            self._kernels, self._best = {}, None
        self._choose_best(metric)
        self._hashes = found.hashes
        if "first" not in self._kernels:
            self._kernels["first"] = now
        known = {} if changed else self._kernels
        distances = {
            layer: {r: _distance(k, known.get(r, {}).get(layer)) for r in self.names} for layer, k in now.items()
        }
        self._kernels["previous"] = now
        return distances

    def _choose_best(self, metric: float) -> None:
        if self._best_of is None or "previous" not in self._kernels:
            return
        name, mode = self._best_of
        if math.isnan(metric):
            if not self._told:
                rank_zero_warn(
                    f"ActivationMonitor: no finite value of {name!r}, the metric of best_of, was logged, so the "
                    "reference 'best' stays as it is"
                )
            self._told = True
            return
        if self._best is None or (metric < self._best if mode == "min" else metric > self._best):
            self._best, self._kernels["best"] = metric, self._kernels["previous"]

    def state(self) -> dict[str, Any]:
        """Tensors and plain types."""
        kernels = {name: dict(layers) for name, layers in self._kernels.items()}
        metric = None if math.isnan(self._metric) else self._metric
        return {"hashes": self._hashes, "kernels": kernels, "best": self._best, "metric": metric}

    def load(self, state: Mapping[str, Any]) -> None:
        """Load a `state`."""
        self._hashes, self._best = state["hashes"], state["best"]
        self._metric = math.nan if state["metric"] is None else float(state["metric"])
        self._kernels = {name: dict(layers) for name, layers in state["kernels"].items()}

    def similarity(self) -> tuple[list[str], Tensor]:
        """The layers, and the CKA between all pairs of them at the last validation, ``float64[M, M]``."""
        last = self._kernels.get("previous", {})
        if not last:
            return [], torch.empty(0, 0, dtype=torch.float64, device="cpu")
        flat = torch.stack([_unit(k).flatten() for k in last.values()])
        return list(last), (flat @ flat.T).clamp(max=1.0)


def _kernel(rows: Tensor) -> Tensor:
    """The kernel in float32, as it is stored; NaN if there are too few rows."""
    if len(rows) < LEAST_SAMPLES or not rows.shape[1]:
        return torch.full((len(rows), len(rows)), math.nan, device=rows.device)
    return kernel(rows).float()


def _unit(k: Tensor) -> Tensor:
    wide = k.double()
    unit: Tensor = wide / torch.linalg.matrix_norm(wide)
    return unit


def _distance(now: Tensor, then: Tensor | None) -> float:
    if then is None or then.shape != now.shape:
        return math.nan
    # half the squared distance of unit vectors is one minus their dot product, and exactly 0 for equal ones
    return float((_unit(now) - _unit(then)).square().sum() / 2)
