"""Trainings with scripted metrics under a gate, whose files can be told apart by the weight in them."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import GatedCheckpoint

LOADER = DataLoader(TensorDataset(torch.arange(8.0)[:, None]), batch_size=4)


class Scripted(pl.LightningModule):
    """Logs given values at its validations; its weight counts training steps, so that files can be told apart."""

    def __init__(self, gaps: Sequence[float | None], losses: Sequence[float]) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.gaps, self.losses, self.looks = gaps, losses, 0

    def training_step(self, batch: Any) -> torch.Tensor:
        return self.weight

    def validation_step(self, batch: Any) -> None:
        if self.trainer.sanity_checking:
            self.log_dict({"val_loss": 0.0, "gap": 0.0})

    def on_validation_epoch_end(self) -> None:
        if self.trainer.sanity_checking:
            return
        gap, loss = self.gaps[self.looks], self.losses[self.looks]
        self.looks += 1
        self.log("val_loss", torch.tensor(loss, dtype=torch.float64))
        if gap is not None:
            self.log("gap", torch.tensor(gap, dtype=torch.float64))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=1.0, maximize=True)


def fit(
    folder: Path,
    gaps: Sequence[float | None],
    losses: Sequence[float] | None = None,
    *,
    gate: GatedCheckpoint | None = None,
    callbacks: Sequence[pl.Callback] = (),
    ckpt_path: Path | str | None = None,
    settings: dict[str, Any] | None = None,
    **options: Any,
) -> tuple[pl.Trainer, GatedCheckpoint]:
    """One training with a validation per given gap; ``settings`` are further ones of the gate."""
    losses = losses or [1.0 / (1 + i) for i in range(len(gaps))]
    gate = gate or GatedCheckpoint("val_loss", dirpath=folder, at_most={"gap": 0.1}, **(settings or {}))
    chosen = {"max_epochs": len(gaps), "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(callbacks=[gate, *callbacks], default_root_dir=folder, **{**chosen, **options})
    trainer.fit(Scripted(gaps, losses), LOADER, LOADER, ckpt_path=ckpt_path)
    return trainer, gate


def weight(path: str | Path) -> float:
    """Training steps taken when the file was written (every training step adds one)."""
    return float(torch.load(path, weights_only=True)["state_dict"]["weight"])


def audit(folder: Path) -> list[dict[str, Any]]:
    """The decisions, without the events between them."""
    lines = [json.loads(line) for line in (folder / "gate_audit.jsonl").read_text().splitlines()]
    return [line for line in lines if "event" not in line]


def stamped(path: str | Path) -> dict[str, Any]:
    """The evidence in a checkpoint."""
    return json.loads(torch.load(path, weights_only=True)["xai_lightning"])


def checkpoints(folder: Path) -> list[str]:
    """Names of the checkpoints in a folder."""
    return sorted(path.name for path in folder.glob("*.ckpt"))
