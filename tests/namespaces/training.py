"""A small training with all callbacks, from whichever Lightning the run is about."""

import importlib
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

HOME = os.environ["XAI_LIGHTNING_TEST_HOME"]
pl = importlib.import_module(HOME)

GROUPS = {"sex": ["Female", "Male"]}
LIMIT = "fairness/sex/demographic_parity_difference/bound"


def rows(seed: int) -> list[dict[str, Any]]:
    """48 rows whose first variable tells the class; classes and groups are crossed."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(48, 4, generator=generator)
    draws[:, 0] += 3.0 * (torch.arange(48) % 2) - 1.5
    return [{"x": x, "y": i % 2, "sex": i // 2 % 2} for i, x in enumerate(draws)]


class Data(pl.LightningDataModule):
    def train_dataloader(self) -> DataLoader:
        return DataLoader(rows(0), batch_size=16)

    def val_dataloader(self) -> DataLoader:
        return DataLoader(rows(1), batch_size=16)


class Net(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: dict[str, Tensor], batch_idx: int) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch: dict[str, Tensor], batch_idx: int) -> None:
        logits = self(batch["x"])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch["y"]))
        self.log("val_acc", (logits.argmax(1) == batch["y"]).double().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.5)


def callbacks() -> list[Any]:
    """One of each kind; the gate is open at any accuracy, since so few rows bound nothing."""
    import xai_lightning

    return [
        xai_lightning.AttributionMonitor(options={"n_steps": 4}, groups=GROUPS),
        xai_lightning.ActivationMonitor(),
        xai_lightning.FairnessMonitor(groups=GROUPS, horizon=3),
        xai_lightning.GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}, at_most={LIMIT: 2.0}, utility_floor=False),
    ]


def trainer(folder: Path, parts: Any, **options: Any) -> Any:
    """A quiet one on the CPU."""
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1}
    return pl.Trainer(callbacks=parts, accelerator="cpu", devices=1, default_root_dir=folder, **(quiet | options))


def fit(folder: Path, epochs: int = 2, **more: Any) -> Any:
    """The Trainer after a fit with TensorBoard."""
    logger = importlib.import_module(f"{HOME}.loggers").TensorBoardLogger(folder, name="", version="")
    made = trainer(folder, callbacks(), logger=logger, max_epochs=epochs)
    made.fit(Net(), datamodule=Data(), **more)
    return made
