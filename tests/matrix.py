"""Law 1 over what a training can be: one cell of the product of settings, run with every callback and without."""

import random
import sys
from collections import OrderedDict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EMAWeightAveraging, StochasticWeightAveraging
from torch import Tensor, nn
from torch.utils.data import DataLoader

import xai_lightning
from covering import Cell
from small import GROUPS, Compilable, Ledger, Rows, loader, rows, trainer
from surroundings import modes, surroundings
from traced import ARGUMENTS, MONITORS, NAMES, Traced, bits, differences, snapshot
from xai_lightning import Column


class Drawing(Rows):
    """Rows that draw from every generator of the process that loads them, as augmentations do.

    Args:
        data: the rows.
        noise: how much of the draw enters the input.
    """

    def __init__(self, data: Rows, noise: float) -> None:
        super().__init__(data.x, data.y, data.sex)
        self.noise = noise
        self.x[:, 5] = self.sex.float()

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        row, draw = super().__getitem__(i), torch.rand(()) + np.random.rand() + random.random()
        return {**row, "x": row["x"] + self.noise * draw, "draw": draw}


def _network(layers: str) -> nn.Module:
    norm = [] if layers == "dropout" else [nn.BatchNorm1d(8)]
    body = Compilable(nn.Linear(6, 8), *norm, nn.ReLU(), nn.Dropout(0.2))
    head = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    return nn.Sequential(OrderedDict(body=body, head=head))


class Model(Traced):
    """What a cell asks for, and notes of everything at every moment at which a callback may have done something.

    Its head lies outside of the part that may be compiled, so that hooks fire there.
    """

    def __init__(self, cell: Cell) -> None:
        # where all is compiled, nobody hears what the network returns
        returns = (lambda logits: logits) if cell["compiled"] == "whole" else None
        super().__init__(net=lambda: _network(cell["layers"]), returns=returns)
        self.frozen, self.steps = cell["layers"] == "frozen", int(cell["accumulation"])
        self.automatic_optimization = cell["optimization"] == "automatic"
        self.notes.moments, self.notes.modes = {}, []
        for norm in self._frozen():
            norm.requires_grad_(False)
        if cell["compiled"] == "part in place":
            self.net.body.compile(backend="eager")
        elif cell["compiled"] == "part wrapped":
            self.net.body = torch.compile(self.net.body, backend="eager")
        elif cell["compiled"] == "whole":
            # dynamo stumbles over how Lightning's log looks at signatures, compiles anew for each note, and counts
            # how many callbacks, of whatever kind, Lightning calls from a backward pass by hand
            for name in ("log", "_meets", "_optimize"):
                setattr(self, name, torch.compiler.disable(getattr(self, name)))

    def _frozen(self) -> list[nn.Module]:
        return [m for m in self.modules() if isinstance(m, nn.BatchNorm1d)] if self.frozen else []

    def _note(self, moment: str, *, all_of_it: bool = False) -> None:
        found = {**snapshot(self), **surroundings()} if all_of_it else {**snapshot(self), **modes()}
        seen = self.notes.moments.setdefault(moment, [])
        self.notes.moments[moment] = [*seen, found]

    def on_train_start(self) -> None:
        for norm in self._frozen():
            norm.eval()

    def _meets(self, batch: Any) -> None:
        # a certificate calls the step on rows of its own, when the fit has ended
        if self.training or self.trainer.evaluating or self.trainer.sanity_checking:
            self.notes.modes.append(modes())
            self.notes.batches.append(bits(batch))

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = super().training_step(batch, batch_idx)
        if not self.automatic_optimization:
            self._optimize(loss, batch_idx)
        return loss

    def _optimize(self, loss: Tensor, batch_idx: int) -> None:
        self.manual_backward(loss / self.steps)
        if (batch_idx + 1) % self.steps == 0:
            optimizer = self.optimizers()
            optimizer.step()
            optimizer.zero_grad()

    def on_validation_model_zero_grad(self) -> None:
        # Lightning does not know of accumulation by hand
        if self.automatic_optimization:
            super().on_validation_model_zero_grad()

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().validation_step(batch, batch_idx)

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().test_step(batch, batch_idx)

    def on_train_batch_end(self, *args: Any) -> None:
        self._note("a training batch")

    def on_validation_batch_end(self, *args: Any) -> None:
        self._note("a batch")

    def on_validation_epoch_end(self) -> None:
        self._note("an epoch")

    def on_validation_end(self) -> None:
        super().on_validation_end()
        self._note("an evaluation", all_of_it=True)

    on_test_start = Traced.on_validation_start
    on_test_batch_end, on_test_epoch_end, on_test_end = (
        on_validation_batch_end,
        on_validation_epoch_end,
        on_validation_end,
    )

    def on_fit_end(self) -> None:
        self._note("the fit", all_of_it=True)


# --- a cell, run with callbacks and without


def _loaders(cell: Cell) -> tuple[DataLoader, list[DataLoader]]:
    options = {"batch_size": 8, "shuffle": cell["order"] == "shuffled", "num_workers": int(cell["workers"])}
    train = loader(Drawing(rows(40), 0.1), **options)
    evaluated = [(24, 1)] if cell["loaders"] == "one" else [(24, 1), (16, 2)]
    return train, [loader(Drawing(rows(n, seed=seed), 0.0), **options) for n, seed in evaluated]


def _averaging(cell: Cell) -> list[pl.Callback]:
    kinds = {"none": [], "EMA": [EMAWeightAveraging], "SWA": [StochasticWeightAveraging]}
    options = {"EMA": {"decay": 0.7}, "SWA": {"swa_lrs": 0.02, "swa_epoch_start": 1}}
    return [kind(**options[cell["averaging"]]) for kind in kinds[cell["averaging"]]]


def refused(cell: Cell) -> set[str]:
    """Names of the callbacks that a cell has no place for: where all is compiled, hooks fire nowhere."""
    return {"ActivationMonitor"} if cell["compiled"] == "whole" else set()


def watching(cell: Cell, folder: Path) -> list[pl.Callback]:
    """Every public callback, with all that runs the network or reads its layers switched on.

    A callback without a row here is built as in `ARGUMENTS`. Where a part is compiled, activations are watched outside
    of it.
    """
    suffix = "/dataloader_idx_0" if cell["loaders"] == "two" else ""
    groups, sinks = {"sex": GROUPS}, [xai_lightning.MemorySink()]
    settings: dict[str, dict[str, Any]] = {
        "ActivationMonitor": {
            "statistics": "cheap",
            "representation": True,
            "probe_size": 16,
            "groups": groups,
        },
        "AttributionMonitor": {
            "method": "gradient_shap",
            "options": {"n_samples": 2},
            "groups": groups,
            "probe_size": 8,
        },
        "FairnessMonitor": {"groups": groups, "flips": {"sex": Column("x", 5)}, "consistency_features": [0, 1, 2]},
        "GatedCheckpoint": {
            "monitor": f"val_loss{suffix}",
            "at_least": {f"val_acc{suffix}": 0.0},
            "at_most": {"fairness/sex/demographic_parity_difference/bound": 0.99},
            "utility_floor": False,
            "certify": loader(Drawing(rows(16, seed=3), 0.0), num_workers=int(cell["workers"])),
            "fallback": "least_violation",
            "dirpath": folder / "kept",
        },
    }
    names = [name for name in NAMES if name not in refused(cell)]
    arguments = {name: settings.get(name, ARGUMENTS[name]) for name in names}
    return [
        getattr(xai_lightning, name)(**arguments[name], **({"sinks": sinks} if name in MONITORS else {}))
        for name in names
    ]


def run(cell: Cell, callbacks: Sequence[pl.Callback], folder: Path) -> dict[str, Any]:
    """Everything that a run of ``cell`` must have in common with another one, by name."""
    if "torch._dynamo" in sys.modules:
        torch._dynamo.reset()
        torch._dynamo.utils.counters.clear()
    model, ledger, averaging = Model(cell), Ledger(), _averaging(cell)
    train, evaluated = _loaders(cell)
    automatic = cell["optimization"] == "automatic"
    pl.seed_everything(0, verbose=False)
    fitted = torch.compile(model, backend="eager") if cell["compiled"] == "whole" else model
    made = trainer(
        [*callbacks, *averaging] if cell["callbacks"] == "first" else [*averaging, *callbacks],
        folder,
        logger=ledger,
        inference_mode=cell["inference_mode"] == "on",
        precision=cell["precision"],
        num_sanity_val_steps=int(cell["sanity_steps"]),
        accumulate_grad_batches=int(cell["accumulation"]) if automatic else 1,
        val_check_interval=1.0 if cell["accumulation"] == "1" else 2,
    )
    if cell["entry"] == "fit":
        made.fit(fitted, train, evaluated)
    else:
        getattr(made, cell["entry"])(fitted, evaluated, verbose=False)
    return {**_of_model(model), **_of_trainer(made), **_of_loggers(made, ledger), **_of_averaging(averaging)}


def _of_model(model: Model) -> dict[str, Any]:
    notes, ends = model.notes, {**snapshot(model), **surroundings()}
    found = {f"{key} at the end": value for key, value in ends.items()}
    for moment, noted in notes.moments.items():
        for i, values in enumerate(noted):
            found |= {f"{key} after {moment} ({i + 1})": value for key, value in values.items()}
    return {**found, "batches": notes.batches, "modes in steps": notes.modes, "moved": notes.moved}


def _of_trainer(made: pl.Trainer) -> dict[str, Any]:
    loops = {"fit": made.fit_loop, "validate": made.validate_loop, "test": made.test_loop}
    asked = ("global_step", "current_epoch", "should_stop", "accumulate_grad_batches", "num_training_batches")
    return {
        "optimizers": [bits(optimizer.state_dict()) for optimizer in made.optimizers],
        "schedulers": [config.scheduler.state_dict() for config in made.lr_scheduler_configs],
        "progress": {name: loop.state_dict() for name, loop in loops.items()},
        "state": str(made.state),
        **{f"trainer: {name}": getattr(made, name) for name in asked},
    }


def _own(name: str) -> bool:
    """Whether the model logs it."""
    return name.split("/")[0] in {"train_loss", "val_loss", "val_acc", "test_loss", "test_acc"} or "/" not in name


def _of_loggers(made: pl.Trainer, ledger: Ledger) -> dict[str, Any]:
    tables = {name: getattr(made, name) for name in ("callback_metrics", "logged_metrics", "progress_bar_metrics")}
    tables |= {f"logged at step {step}": numbers for step, numbers in ledger.numbers.items()}
    kept = {table: {n: bits(v) for n, v in found.items() if _own(n)} for table, found in tables.items()}
    return {f"{table}: {name}": value for table, found in kept.items() for name, value in found.items()}


def _of_averaging(averaging: Sequence[pl.Callback]) -> dict[str, Any]:
    averages = [callback._average_model for callback in averaging if callback._average_model is not None]
    return {
        "averages": [bits([*average.parameters(), *average.buffers()]) for average in averages],
        "averaging": [bits(callback.state_dict()) for callback in averaging],
    }


def differing(cell: Cell, folder: Path) -> list[str]:
    """Names of what differs between ``cell`` with every callback and without any."""
    plain = run(cell, [], folder / "plain")
    return differences(run(cell, watching(cell, folder), folder / "watched"), plain)
