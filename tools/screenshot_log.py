"""Short trainings on digits and made-up sentences, so that a log also holds pictures of images and texts."""

from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import ActivationMonitor, AttributionMonitor


class Digits(pl.LightningModule):
    """A small convolutional classifier for 8 x 8 pictures."""

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
    """Train for ``epochs`` into a run called ``digits``, with two attribution methods and all activation statistics."""
    pl.seed_everything(0, verbose=False)
    digits = load_digits()
    images, labels = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16, torch.tensor(digits.target)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[
            AttributionMonitor("integrated_gradients", probe_size=80, regions={"middle": (2, 2, 6, 6)}),
            AttributionMonitor("gradient_shap", probe_size=20, sample_size=0, max_overhead=0.9),
            ActivationMonitor(
                statistics="cheap",
                representation=True,
                probe_size=256,
                groups={"parity": ["even", "odd"]},
                groups_from=lambda batch: batch[1] % 2,
                best_of=("val_loss", "min"),
            ),
        ],
        logger=TensorBoardLogger(folder, name="digits", version="", default_hp_metric=False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    training = DataLoader(TensorDataset(images[:1200], labels[:1200]), batch_size=64, shuffle=True)
    trainer.fit(Digits(), training, DataLoader(TensorDataset(images[1200:], labels[1200:]), batch_size=100))


class Sentences(pl.LightningModule):
    """Distinguishes sentences that contain a certain word from others."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(len(WORDS), 8, padding_idx=0), nn.Linear(8, 2)

    def forward(self, input_ids: Tensor) -> Tensor:
        logits: Tensor = self.out(self.embedding(input_ids).tanh().mean(dim=1))
        return logits

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch["input_ids"]), batch["label"])

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch["input_ids"]), batch["label"]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


WORDS = ("[pad]", "good", "bad", "a", "the", "film", "plot", "was", "and", "not")


def sentence(number: int) -> dict[str, Tensor]:
    """One of the made-up sentences."""
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(3, len(WORDS), (8,), generator=generator)
    ids[int(torch.randint(8, (1,), generator=generator))] = 1 + number % 2
    ids[4 + number % 4 :] = 0
    return {"input_ids": ids, "label": (ids == 1).any().long()}


def train_sentences(folder: Path, epochs: int = 3) -> None:
    """Train for ``epochs`` into a run called ``sentences``, explained through the embedding."""
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(
        max_epochs=epochs,
        callbacks=[AttributionMonitor(embedding="embedding", words=WORDS, probe_size=16)],
        logger=TensorBoardLogger(folder, name="sentences", version="", default_hp_metric=False),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    loaders = [DataLoader([sentence(i) for i in range(begin, begin + 64)], batch_size=16) for begin in (0, 64)]  # type: ignore[arg-type]
    trainer.fit(Sentences(), *loaders)
