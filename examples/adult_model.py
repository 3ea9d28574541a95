"""A small network for the Adult data, as one would write it without any monitoring in mind."""

from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from typing_extensions import override


def parity_gap(logits: Tensor, sex: Tensor) -> Tensor:
    """Difference between the mean predicted probabilities of the two sexes in a batch; 0 if one of them is absent."""
    positive = logits.sigmoid()
    female, male = positive[sex == 0], positive[sex == 1]
    if len(female) == 0 or len(male) == 0:
        return positive.new_zeros(())
    return male.mean(dim=0) - female.mean(dim=0)


class IncomeClassifier(pl.LightningModule):
    """Two hidden layers and one logit: does this person earn more than 50,000 dollars a year?

    On one-hot columns the first linear layer acts as a table of embeddings, one per level.

    Args:
        in_features: number of input columns.
        penalty: weight of the batch's squared demographic-parity gap in the training loss; 0 for plain training.
        learning_rate: learning rate of Adam.
    """

    def __init__(self, in_features: int, penalty: float = 0.0, learning_rate: float = 2e-3) -> None:
        super().__init__()
        self.save_hyperparameters()
        self.penalty = penalty
        self.learning_rate = learning_rate
        self.network = nn.Sequential(
            nn.Linear(in_features, 64), nn.ReLU(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 1)
        )

    @override
    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.network(x).squeeze(1)
        return logits

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self(batch["x"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["y"].float())
        loss = loss + self.penalty * parity_gap(logits, batch["sex"]).square()
        self.log("train_loss", loss, on_step=False, on_epoch=True, batch_size=len(logits))
        return loss

    def validation_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._evaluate(batch, "val")

    def test_step(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return self._evaluate(batch, "test")

    def _evaluate(self, batch: dict[str, Tensor], stage: str) -> dict[str, Tensor]:
        logits = self(batch["x"])
        loss = F.binary_cross_entropy_with_logits(logits, batch["y"].float())
        correct = (logits > 0) == batch["y"].bool()
        self.log(f"{stage}_loss", loss, prog_bar=True, batch_size=len(logits))
        self.log(f"{stage}_acc", correct.float().mean(), prog_bar=True, batch_size=len(logits))
        return {"loss": loss, "logits": logits}

    @override
    def configure_optimizers(self) -> Any:
        return torch.optim.Adam(self.parameters(), lr=self.learning_rate)
