"""Methods, precisions and averages on a sharded model, for `sharded_run.py`."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy
from torch.utils.data import DataLoader

from distributed_run import People
from sharded_model import FLOOR, Numbers, Sharded, trainer
from small import STOPWATCH
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.callbacks._sharded import local

SIDE = 4
LAYER = "net.2"
FEW = {"n_steps": 4}
BACKGROUND = torch.stack([torch.full((1, SIDE, SIDE), value) for value in (-0.5, 0.0, 1.0)])
METHODS: dict[str, dict[str, Any]] = {
    "input_x_gradient": {},
    "guided_backprop": {},
    "deconvolution": {},
    "deep_lift": {},
    "deep_lift_shap": {"baseline": BACKGROUND},
    "grad_cam": {"layer": LAYER},
    "guided_grad_cam": {"layer": LAYER},
    "occlusion": {},
    "feature_permutation": {"baseline": BACKGROUND, "options": {"n_samples": 2}},
    "shapley_value_sampling": {"options": {"n_samples": 2}},
    "shapley_values": {},
    "kernel_shap": {},
    "lime": {},
    "layer_integrated_gradients": {"layer": LAYER, "options": FEW},
    "conductance": {"layer": LAYER, "options": {"n_steps": 20}},
    "internal_influence": {"layer": LAYER, "options": FEW},
    "layer_deep_lift": {"layer": LAYER},
    "deep_lift smoothed": {"smooth": "smoothgrad", "options": {"nt_samples": 3}},
    "integrated_gradients smoothed": {"smooth": "vargrad", "options": {"nt_samples": 2, "tolerance": 0.05}},
}
"""Those that `sharded_run.py` does not run: captum's hooks, layers, switches and draws."""


class Pictures(People):
    """As many rows as `People`, each a small picture; half of them are dark, of which occlusion knows what it shows."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(11)
        self.x = torch.randn(len(self.y), 1, SIDE, SIDE, generator=generator)
        dark = torch.rand(self.x.shape, generator=generator) < 0.9
        self.x[::2] *= ~dark[::2]


class Looking(Sharded):
    """A sharded convolution in a sharded network, with the layers that rules are made for."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), nn.ReLU())
        self.net = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), block, nn.Flatten(), nn.Linear(3 * SIDE * SIDE, 2)
        )


class Texts(People):
    """As many rows as `People`, each a few token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.x = torch.randint(1, 11, (len(self.y), SIDE), generator=torch.Generator().manual_seed(11))


class Reading(Sharded):
    """A sharded layer in a sharded network that embeds tokens."""

    def __init__(self) -> None:
        super().__init__()
        block = nn.Sequential(nn.Linear(6, 3), nn.Tanh())
        self.net = nn.Sequential(nn.Embedding(11, 6), nn.Tanh(), block, nn.Flatten(), nn.Linear(3 * SIDE, 2))


def batches(data: People) -> DataLoader[dict[str, Tensor]]:
    """61 rows, which no number of ranks divides."""
    return DataLoader(data, batch_size=16)


def methods(ranks: int, folder: Path) -> dict[str, Any]:
    """What each method finds."""
    sink = Numbers()
    common = {"probe_size": 5, "sample_size": 0, "measures": ["cosine"], "sinks": [sink]}
    monitors = {
        name: AttributionMonitor(name.split()[0], name=name.replace(" ", "_"), **common, **how)
        for name, how in METHODS.items()
    }
    fit = trainer(ranks, folder, list(monitors.values()), max_epochs=1, num_sanity_val_steps=0, limit_train_batches=1)
    fit.fit(Looking(), batches(Pictures()), batches(Pictures()))
    return found(sink, monitors)


def tokens(ranks: int, folder: Path) -> dict[str, Any]:
    """What is found of token ids, explained through the layer that embeds them."""
    sink = Numbers()
    how = {"embedding": "net.0", "probe_size": 5, "sample_size": 0, "measures": ["cosine"], "sinks": [sink]}
    monitors = {name: AttributionMonitor(name, **how) for name in ("saliency", "integrated_gradients")}
    fit = trainer(ranks, folder, list(monitors.values()), max_epochs=1, num_sanity_val_steps=0, limit_train_batches=1)
    fit.fit(Reading(), batches(Texts()), batches(Texts()))
    return found(sink, monitors)


def found(sink: MemorySink, monitors: dict[str, AttributionMonitor]) -> dict[str, Any]:
    """What was logged and explained, and how many validations failed."""
    return {
        "records": [[name, value] for _, name, value in sink.records if not STOPWATCH.fullmatch(name)],
        "maps": {name: monitor._history.references.maps["first"].tolist() for name, monitor in monitors.items()},
        "failures": {name: monitor._failures for name, monitor in monitors.items()},
    }


def rounded() -> Looking:
    """Sharded as those are who train in half precision: what is gathered is rounded, and what is computed with it."""
    model = Looking()
    model.policy = MixedPrecisionPolicy(torch.bfloat16, torch.float32)
    return model


PRECISIONS: dict[str, tuple[Callable[[], Looking], Any]] = {
    "mixed": (Looking, "bf16-mixed"),
    "true": (Looking, "bf16-true"),
    "policy": (rounded, "32-true"),
}


def precise(ranks: int, folder: Path) -> dict[str, Any]:
    """What is found in each precision."""
    return {name: _precise(ranks, folder / name, *how) for name, how in PRECISIONS.items()}


def _precise(ranks: int, folder: Path, make: Callable[[], Looking], precision: Any) -> dict[str, Any]:
    sink, options = Numbers(), {"probe_size": 5, "sample_size": 0, "measures": ["cosine"]}
    monitors = {
        "saliency": AttributionMonitor("saliency", sinks=[sink], **options),
        "adaptive": AttributionMonitor("integrated_gradients", name="adaptive", sinks=[sink], **options),
        "autocast": AttributionMonitor("saliency", autocast=True, name="autocast", sinks=[sink], **options),
        "lift": AttributionMonitor("deep_lift", sinks=[sink], **options),
    }
    others = [ActivationMonitor(sinks=[sink], layers=["net.2"]), FairnessMonitor({"sex": ["F", "M"]}, sinks=[sink])]
    gate = GatedCheckpoint("val_loss", dirpath=folder, at_most={FLOOR: 0.9}, utility_floor=False)
    fit = trainer(
        ranks, folder, [*monitors.values(), *others, gate], max_epochs=1, precision=precision, num_sanity_val_steps=0
    )
    fit.fit(make(), batches(Pictures()), batches(Pictures()))
    return found(sink, monitors) | {"kept": sorted(path.name for path in folder.glob("*.ckpt"))}


class Averaging(pl.Callback):
    """An average of the weights that is validated in their place; each rank averages what it holds of them."""

    def __init__(self) -> None:
        self._average: list[Tensor] = []

    def on_train_batch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule, *args: Any) -> None:
        now = [local(weight.detach()) for weight in pl_module.parameters()]
        self._average = self._average or [weight.clone() for weight in now]
        for average, weight in zip(self._average, now, strict=True):
            average.lerp_(weight, 0.3)

    def _swap(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        for average, weight in zip(self._average, pl_module.parameters(), strict=True):
            kept = average.clone()
            average.copy_(local(weight.detach()))
            local(weight.detach()).copy_(kept)

    on_validation_epoch_start = on_validation_epoch_end = _swap


def averaged(ranks: int, folder: Path) -> dict[str, Any]:
    """What is found of averaged weights, and what a gate says whose file would hold others."""
    sink = Numbers()
    monitor = AttributionMonitor("saliency", probe_size=5, sample_size=0, sinks=[sink])
    gate = GatedCheckpoint("val_loss", dirpath=folder, at_most={FLOOR: 0.9}, utility_floor=False, save_top_k=-1)
    callbacks = [Averaging(), monitor, FairnessMonitor({"sex": ["F", "M"]}, sinks=[sink]), gate]
    fit = trainer(ranks, folder, callbacks, max_epochs=3, num_sanity_val_steps=0)
    fit.fit(Looking(), batches(Pictures()), batches(Pictures()))
    lines = (folder / "gate_audit.jsonl").read_text().splitlines()
    decisions = [[line["gate"], line["kept"], line["reason"]] for line in map(json.loads, lines) if "gate" in line]
    return found(sink, {"saliency": monitor}) | {"decisions": decisions}


def averaging(ranks: int, folder: Path) -> dict[str, str]:
    """How trainings end that Lightning averages, without anything of ours."""
    ends = {}
    for callback in (EMAWeightAveraging(decay=0.5), StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)):
        try:
            trainer(ranks, folder, [callback], num_sanity_val_steps=0).fit(
                Looking(), batches(Pictures()), batches(Pictures())
            )
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            ends[type(callback).__name__] = repr(error)
    return ends


SCENARIOS: dict[str, Callable[[int, Path], Any]] = {
    "methods": methods,
    "tokens": tokens,
    "precise": precise,
    "averaged": averaged,
    "averaging": averaging,
}
