"""On which words does a small transformer base its judgement of a film, and when does that settle?

    python examples/text_sentiment.py

The monitor is told the name of the embedding and the words of the token ids. Look at the coloured sentences with
`tensorboard --logdir runs/text --samples_per_plugin images=500`.
"""

import argparse
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from adult_income import quiet
from text_data import LENGTH, PAD, Reviews, read_reviews
from xai_lightning import AttributionMonitor, MemorySink

OUT, CACHE, EPOCHS, METHOD = Path("runs/text"), Path("runs/cache"), 5, "integrated_gradients"


class Critic(pl.LightningModule):
    """A one-layer transformer over words.

    Args:
        words: size of the vocabulary.
        width: width of the embedding.
    """

    def __init__(self, words: int, width: int = 48) -> None:
        super().__init__()
        self.embedding = nn.Embedding(words, width, padding_idx=PAD)
        self.place = nn.Parameter(0.02 * torch.randn(LENGTH, width))
        layer = nn.TransformerEncoderLayer(width, 4, 2 * width, dropout=0.3, batch_first=True, norm_first=True)
        self.encoder = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)
        self.out = nn.Linear(width, 1)

    def forward(self, ids: Tensor) -> Tensor:
        padding = ids == PAD
        encoded = self.encoder(self.embedding(ids) + self.place, src_key_padding_mask=padding)
        kept = (~padding)[..., None].float()
        logits: Tensor = self.out((encoded * kept).sum(dim=1) / kept.sum(dim=1).clamp(min=1))
        return logits

    def training_step(self, batch: dict[str, Tensor]) -> Tensor:
        return self._loss(batch)

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        logits = self(batch["input_ids"])[:, 0]
        self.log("val_loss", self._loss(batch))
        self.log("val_accuracy", ((logits > 0) == (batch["label"] == 1)).float().mean())

    def _loss(self, batch: dict[str, Tensor]) -> Tensor:
        logits = self(batch["input_ids"])[:, 0]
        return nn.functional.binary_cross_entropy_with_logits(logits, batch["label"].float())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-3, weight_decay=0.05)


def loader(reviews: Reviews, size: int, *, shuffle: bool) -> DataLoader[tuple[Tensor, ...]]:
    """Batches as dicts, in the form that tokenizers return."""

    def collate(rows: list[tuple[Tensor, Tensor]]) -> dict[str, Tensor]:
        return {"input_ids": torch.stack([x for x, _ in rows]), "label": torch.stack([y for _, y in rows])}

    return DataLoader(TensorDataset(*reviews), batch_size=size, shuffle=shuffle, collate_fn=collate)


def train(seed: int, epochs: int, cache: Path, out: Path | None) -> tuple[dict[str, list[float]], list[float]]:
    """Train once; returns all logged curves of the monitor, and the accuracy at each validation."""
    pl.seed_everything(seed, verbose=False)
    training, validation, words = read_reviews(cache)
    sink, accuracies = MemorySink(), Accuracies()
    monitor = AttributionMonitor(METHOD, embedding="embedding", words=words, probe_size=64, sinks=[sink])
    with quiet(), warnings.catch_warnings():
        # the monitor does not disable torch's fused encoder path; torch itself warns when that path is not taken
        warnings.filterwarnings("ignore", ".*enable_nested_tensor.*", UserWarning)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            val_check_interval=0.5,
            callbacks=[monitor, accuracies],
            logger=False if out is None else TensorBoardLogger(out, name="", version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        loaders = loader(training, 64, shuffle=True), loader(validation, 250, shuffle=False)
        trainer.fit(Critic(len(words)), *loaders)
    curves: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        curves.setdefault(name, []).append(value)
    return curves, accuracies.values


class Accuracies(pl.Callback):
    """Records the accuracy of each validation."""

    def __init__(self) -> None:
        self.values: list[float] = []

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.values.append(float(trainer.callback_metrics["val_accuracy"]))


def main() -> None:
    """Train, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the log")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the downloaded reviews")
    given = parser.parse_args()
    curves, accuracy = train(given.seed, given.epochs, given.cache, given.out)
    drift = f"drift/{METHOD}"
    print(f"Accuracy went from {accuracy[0]:.0%} at the first validation to {accuracy[-1]:.0%} at the last.")
    churn, moved = curves[f"{drift}/predictions/first/churn"], curves[f"{drift}/cosine/first/mean"]
    print(
        f"Since the first, {churn[-1]:.0%} of the probe's predictions changed; explanations moved by {moved[-1]:.2f} "
        "(cosine distance: 0 is unchanged, 1 unrelated, 2 opposite)."
    )
    shift, stable = (curves[f"{drift}/predictions/previous/{what}"] for what in ("reason_shift", "stable_share"))
    print(f"In the last half epoch {stable[-1]:.0%} of predictions stayed the same;", end=" ")
    print(f"{shift[-1]:.0%} of those rest on other words than before: right, or wrong, for another reason.")
    steps = ", ".join(f"{value:.2f}" for value in curves[f"{drift}/cosine/previous/mean"])
    print(f"From one validation to the next explanations moved by {steps}.")
    settled = [i for i, yes in enumerate(curves[f"{drift}/converged"], start=1) if yes]
    print(f"They were first shown to have settled at validation {settled[0]}." if settled else "They have not settled.")


if __name__ == "__main__":
    main()
