"""A short training on handwritten digits, so that the log holds pictures of images too."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import AttributionMonitor


class Digits(pl.LightningModule):
    """A small convolutional classifier of 8 x 8 pictures."""

    def __init__(self) -> None:
        super().__init__()
        convolution = [nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 16, 3), nn.ReLU()]
        self.network = nn.Sequential(*convolution, nn.Flatten(), nn.Linear(64, 10))

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self.network(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self.network(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def train_digits(folder: Path, epochs: int = 3) -> None:
    """Train for ``epochs``, explained by integrated gradients, into a run called ``digits``."""
    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[AttributionMonitor("integrated_gradients", probe_size=80)],
        logger=TensorBoardLogger(folder, name="digits", version="", default_hp_metric=False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = DataLoader(TensorDataset(images[:1200], labels[:1200]), batch_size=64, shuffle=True)
    trainer.fit(Digits(), training, DataLoader(TensorDataset(images[1200:], labels[1200:]), batch_size=100))
