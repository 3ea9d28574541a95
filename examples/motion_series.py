"""Which sensor of a watch tells running from walking, and when does the network settle on it?

    python examples/motion_series.py

A small convolutional network learns four movements from six channels of 100 steps. All that the monitor is told are the
names of the channels. Look at the curves over their bands with
`tensorboard --logdir runs/motion --samples_per_plugin images=500`.
"""

import argparse
import warnings
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from adult_income import quiet
from motion_data import CHANNELS, read_motions
from xai_lightning import AttributionMonitor, MemorySink

OUT, EPOCHS, METHOD = Path("runs/motion"), 40, "integrated_gradients"


class Watch(pl.LightningModule):
    """Tells movements apart."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv1d(6, 16, 7, padding=3), nn.ReLU(), nn.MaxPool1d(2), nn.Conv1d(16, 16, 5, padding=2), nn.ReLU()
        )
        self.out = nn.Linear(16, 4)

    def forward(self, series: Tensor) -> Tensor:
        logits: Tensor = self.out(self.net(series).mean(dim=2))
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        logits = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=3e-3)


def train(seed: int, epochs: int, out: Path | None) -> tuple[dict[str, list[float]], float]:
    """Train once; returns all logged curves and the final accuracy."""
    pl.seed_everything(seed, verbose=False)
    training, validation = read_motions()
    sink = MemorySink()
    features = {name: i for i, name in enumerate(CHANNELS)}
    monitor = AttributionMonitor(METHOD, features=features, sensitive=list(CHANNELS[3:]), probe_size=40, sinks=[sink])
    with quiet(), warnings.catch_warnings():
        # there are only two batches per epoch
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*", UserWarning)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=epochs,
            callbacks=[monitor],
            logger=False if out is None else TensorBoardLogger(out, name="", version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(Watch(), DataLoader(training, batch_size=20, shuffle=True), DataLoader(validation, batch_size=40))
    curves: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        curves.setdefault(name, []).append(value)
    return curves, float(trainer.callback_metrics["val_accuracy"])


def main() -> None:
    """Train, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the log")
    given = parser.parse_args()
    curves, accuracy = train(given.seed, given.epochs, given.out)
    print(f"After {given.epochs} epochs {accuracy:.0%} of the 40 recordings are recognised.")
    for when, place in (("first", 0), ("last", -1)):
        sizes = {name: curves[f"importance/{METHOD}/{name}"][place] for name in CHANNELS}
        total = sum(sizes.values())
        leaders = sorted(sizes, key=lambda name: -sizes[name])[:3]
        shown = ", ".join(f"{name.replace('_', ' ')} {sizes[name] / total:.0%}" for name in leaders)
        print(f"At the {when} validation the explanations rest on: {shown}.")
    rotation = curves[f"attribution/{METHOD}/sensitive_share"]
    print(f"The share of the three rotations went from {rotation[0]:.0%} to {rotation[-1]:.0%}.")
    moved, order = curves[f"drift/{METHOD}/cosine/first/mean"], curves[f"drift/{METHOD}/ranking/first/ndcg_adjusted"]
    print(
        f"In the end explanations lie {moved[-1]:.2f} from the first (cosine distance: 0 is unchanged, 1 unrelated, 2 "
        f"opposite); the order of channels agrees by {order[-1]:.2f} (1: the same, 0: as a random one)."
    )
    settled = [i for i, yes in enumerate(curves[f"drift/{METHOD}/converged"], start=1) if yes]
    print(f"They were first shown to have settled at validation {settled[0]}." if settled else "They have not settled.")


if __name__ == "__main__":
    main()
