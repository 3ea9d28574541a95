"""A learning rate kills ReLUs: neither loss nor accuracy shows it, but the share of dead units and the gate do.

    python examples/dying_relus.py

Two trainings on 4,000 MNIST digits. In the first the learning rate is raised thirtyfold after the sixth validation, in
the second it stays the same. The loss of the first jumps and then falls below its earlier level, so a checkpoint chosen
by loss keeps such a network. Most units of one of its layers never fire again, whatever digit they are shown. The gate
keeps the network with the lowest loss among those in which no layer has more dead units than its limit, so it refuses
all networks from there on. Look at the curves and histograms with
`tensorboard --logdir runs/dying_relus --samples_per_plugin images=500`.
"""

import argparse
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.types import OptimizerLRScheduler
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from typing_extensions import override

from adult_income import quiet
from mnist_data import read_digits
from xai_lightning import ActivationMonitor, GatedCheckpoint, MemorySink

OUT = Path("runs/dying_relus")
SANE, RAISED = 1e-3, 3e-2
EVERY, VALIDATIONS, RAISE_AFTER = 10, 20, 6
ALARM = "activation_max/dead_share"
LIMIT = 0.4
"""The largest share of dead units that any layer may have: a sane network of this size starts with up to .25."""


class Reader(pl.LightningModule):
    """A network with three hidden layers that reads digits.

    Args:
        raise_at: optimizer step from which on the learning rate is thirty times as large; None: never.
    """

    def __init__(self, raise_at: int | None = None) -> None:
        super().__init__()
        self.raise_at = raise_at
        hidden = [module for width in (784, 64, 64) for module in (nn.Linear(width, 64), nn.ReLU())]
        self.net = nn.Sequential(nn.Flatten(), *hidden, nn.Linear(64, 10))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.net(pictures)
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        return nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch: list[Tensor]) -> None:
        logits = self(batch[0])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch[1]))
        self.log("val_accuracy", (logits.argmax(dim=1) == batch[1]).float().mean())

    def configure_optimizers(self) -> OptimizerLRScheduler:
        optimizer = torch.optim.Adam(self.parameters(), lr=SANE)
        late = float("inf") if self.raise_at is None else self.raise_at
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: RAISED / SANE if step >= late else 1.0)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


@dataclass(frozen=True)
class Story:
    """The results of one training.

    Args:
        dead: share of dead units in the worst layer, at each validation.
        losses: loss at each validation.
        accuracies: accuracy at each validation.
        open: whether the gate was open at each validation.
        kept: number of the validation whose network was kept; None if none was.
        worst: name of the layer with the most dead units at the end.
    """

    dead: list[float]
    losses: list[float]
    accuracies: list[float]
    open: list[bool]
    kept: int | None
    worst: str

    @property
    def alarms(self) -> list[int]:
        """Numbers of the validations with too many dead units."""
        return [number for number, share in enumerate(self.dead, start=1) if share > LIMIT]


class Curves(pl.Callback):
    """Keeps the loss and accuracy of each validation."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.accuracies: list[float] = []

    @override
    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.losses.append(float(trainer.callback_metrics["val_loss"]))
        self.accuracies.append(float(trainer.callback_metrics["val_accuracy"]))


def train(name: str, *, seed: int, raise_after: int | None, out: Path) -> Story:
    """Train once.

    Args:
        name: name of the run.
        seed: seed of the weights and the order of the data.
        raise_after: the validation after which the learning rate is raised; None: never.
        out: folder for logs and checkpoints.
    """
    pl.seed_everything(seed, verbose=False)
    training, validation = read_digits()
    sink, curves = MemorySink(), Curves()
    gate = GatedCheckpoint(
        monitor="val_loss",
        at_most={ALARM: LIMIT},
        dirpath=out / name / "checkpoints",
        filename="{step}",
        enable_version_counter=False,
    )
    with quiet(), warnings.catch_warnings():
        # a validation every few steps is intended
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*", UserWarning)
        # files of an earlier run are overwritten
        warnings.filterwarnings("ignore", "Checkpoint directory .* is not empty", UserWarning)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=EVERY * VALIDATIONS,
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            callbacks=[ActivationMonitor(sinks=[sink]), curves, gate],
            logger=TensorBoardLogger(out, name=name, version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(
            Reader(None if raise_after is None else EVERY * raise_after),
            DataLoader(TensorDataset(*training), batch_size=100, shuffle=True),
            DataLoader(TensorDataset(*validation), batch_size=250),
        )
    return told(sink, curves, gate)


def told(sink: MemorySink, curves: Curves, gate: GatedCheckpoint) -> Story:
    """The results of a training, from its logs and audit file."""
    decisions = [json.loads(line) for line in gate.audit_path.read_text().splitlines()][-VALIDATIONS:]
    step = Path(gate.best_model_path).stem.partition("=")[2]
    dead: dict[str, list[float]] = {}
    for _, logged, value in sink.records:
        if logged.endswith("/dead_share"):
            dead.setdefault(logged, []).append(value)
    worst = max((layer for layer in dead if layer != ALARM), key=lambda layer: dead[layer][-1])
    return Story(
        dead[ALARM],
        curves.losses,
        curves.accuracies,
        [decision["gate"] == "open" for decision in decisions],
        int(step) // EVERY if step else None,
        worst.split("/")[1],
    )


def tell(name: str, story: Story) -> None:
    """Print the results of one training in plain sentences."""
    print(f"\n{name}")
    print("  validation   loss   accuracy   dead units of the worst layer   gate")
    for i, share in enumerate(story.dead):
        numbers = f"{story.losses[i]:6.2f}   {story.accuracies[i]:8.2f}   {share:29.0%}"
        print(f"  {i + 1:10d} {numbers}   {'open' if story.open[i] else 'closed'}")
    if story.alarms:
        first = story.alarms[0]
        before = f"from {story.dead[first - 2]:.0%} to " if first > 1 else "to "
        print(f"  ALARM at validation {first}: dead units went {before}{story.dead[first - 1]:.0%}, over {LIMIT:.0%}.")
        share, accuracy = story.dead[-1], story.accuracies[-1]
        print(f"  In the end {share:.0%} of the units of {story.worst} never fire, at an accuracy of {accuracy:.2f}.")
    else:
        print(f"  No alarm: no layer ever had more than {max(story.dead):.0%} dead units.")
    best = story.losses.index(min(story.losses)) + 1
    print(
        f"  The lowest loss was that of validation {best}; the gate was open at {sum(story.open)} validations", end=" "
    )
    print("and kept none." if story.kept is None else f"and kept the network of validation {story.kept}.")


def main() -> None:
    """Train twice, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of logs and checkpoints")
    given = parser.parse_args()
    for name, raise_after in (("raised", RAISE_AFTER), ("sane", None)):
        tell(name, train(name, seed=given.seed, raise_after=raise_after, out=given.out))
    print(f"\nThe learning rate of the first was raised after validation {RAISE_AFTER}, from {SANE:g} to {RAISED:g}.")
    print(f"Logs: tensorboard --logdir {given.out} --samples_per_plugin images=500")


if __name__ == "__main__":
    main()
