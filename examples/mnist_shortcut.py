"""Does a network read the digit or the patch planted beside it? Attribution shows it, and drift when that changes.

    python examples/mnist_shortcut.py

Three trainings on 4,000 MNIST digits, each with a white patch at the top. In the first the patch is at its label's
place in 95 of 100 pictures: a shortcut. In the second its place is random. In the third it is random until the 30th
validation, and mostly the label's own from then on. One monitor is attached; all it is told is the box that contains
the patches. Look at the pictures with `tensorboard --logdir runs/mnist --samples_per_plugin images=500`.
"""

import argparse
import warnings
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn

from adult_income import quiet
from mnist_data import PATCHES, places, planted, read_digits, training_loader, validation_loader
from xai_lightning import AttributionMonitor, MemorySink

OUT = Path("runs/mnist")
SHORTCUT = 0.95
EVERY, VALIDATIONS, SWITCH = 8, 40, 30
RISE = 0.1
"""Increase of the patch's share, from the first validation to the last, that counts as taking up the shortcut."""
METHOD = "integrated_gradients"


class Reader(pl.LightningModule):
    """A small network that reads digits.

    Args:
        switch: optimizer step from which on patches are at their second place; None: never.
    """

    def __init__(self, switch: int | None = None) -> None:
        super().__init__()
        self.switch = switch
        self.net = nn.Sequential(nn.Flatten(), nn.Linear(784, 64), nn.ReLU(), nn.Linear(64, 10))

    def forward(self, pictures: Tensor) -> Tensor:
        logits: Tensor = self.net(pictures)
        return logits

    def training_step(self, batch: list[Tensor]) -> Tensor:
        pictures, labels, before, after = batch
        late = self.switch is not None and self.global_step >= self.switch
        return nn.functional.cross_entropy(self(planted(pictures, after if late else before)), labels)

    def validation_step(self, batch: list[Tensor]) -> None:
        self.log("val_loss", nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


@dataclass(frozen=True)
class Story:
    """The results of one training.

    Args:
        shares: share of the attribution on the patches, at each validation.
        drift: mean cosine distance to the previous validation, from the second on.
        alarms: numbers of the validations at which the alarm rang.
        accuracy: accuracy on digits without a patch, with the patch of their label, and with a patch at random.
    """

    shares: list[float]
    drift: list[float]
    alarms: list[int]
    accuracy: tuple[float, float, float]


def train(
    name: str, shares: tuple[float, float], *, seed: int, validations: int, switch: int | None, out: Path | None
) -> Story:
    """Train once.

    Args:
        name: name of the run.
        shares: probability that a patch is put at its label's place, before and after the switch.
        seed: seed of the weights, the order of the data and the patches.
        validations: number of validations, one every 8 steps.
        switch: the validation after which patches move; None: never.
        out: folder of the log; None writes none.
    """
    pl.seed_everything(seed, verbose=False)
    training, validation = read_digits()
    sink = MemorySink()
    monitor = AttributionMonitor(METHOD, regions={"patch": PATCHES}, probe_size=80, sinks=[sink])
    model = Reader(None if switch is None else switch * EVERY)
    with quiet(), warnings.catch_warnings():
        # a validation every few steps is intended
        warnings.filterwarnings("ignore", ".*smaller than the logging interval.*", UserWarning)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=EVERY * validations,
            val_check_interval=EVERY,
            check_val_every_n_epoch=None,
            callbacks=[monitor],
            logger=False if out is None else TensorBoardLogger(out, name=name, version=""),
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            num_sanity_val_steps=0,
        )
        trainer.fit(model, training_loader(training, shares, seed), validation_loader(validation))
    curves: dict[str, list[float]] = {}
    for _, logged, value in sink.records:
        curves.setdefault(logged, []).append(value)
    alarms = [i for i, rang in enumerate(curves[f"drift/{METHOD}/alarm"], start=1) if rang]
    anywhere = places(validation.labels, 0.0, seed)
    sets = (
        validation.pictures,
        planted(validation.pictures, validation.labels),
        planted(validation.pictures, anywhere),
    )
    return Story(
        curves[f"attribution/{METHOD}/region/patch"],
        curves[f"drift/{METHOD}/cosine/previous/mean"],
        alarms,
        tuple(accuracy(model, pictures, validation.labels) for pictures in sets),  # type: ignore[arg-type]
    )


def accuracy(model: nn.Module, pictures: Tensor, labels: Tensor) -> float:
    """Share of the digits that are read correctly."""
    model.eval()
    with torch.no_grad():
        return float((model(pictures).argmax(dim=1) == labels).float().mean())


def tell(name: str, story: Story) -> None:
    """Print the results of one training in plain sentences."""
    first, last = story.shares[0], story.shares[-1]
    clean, right, anywhere = story.accuracy
    print(f"\n{name}")
    print(f"  Share of the explanation on the patch: {first:.3f} at the first validation, {last:.3f} at the last.")
    rose = last - first >= RISE
    print("  It relies more and more on the patch: a shortcut." if rose else "  It does not come to rely on the patch.")
    rang = ", ".join(map(str, story.alarms)) or "none"
    print(f"  Alarms for drift at validations: {rang}.")
    print(f"  Accuracy without a patch {clean:.2f}, with the right one {right:.2f}, with a random one {anywhere:.2f}.")


def main() -> None:
    """Train three times, and print the results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=OUT, help="folder of the logs")
    given = parser.parse_args()
    for name, shares, switch in (
        ("shortcut", (SHORTCUT, SHORTCUT), None),
        ("no_shortcut", (0.0, 0.0), None),
        ("switched", (0.0, SHORTCUT), SWITCH),
    ):
        story = train(name, shares, seed=given.seed, validations=VALIDATIONS, switch=switch, out=given.out)
        tell(name.replace("_", " "), story)
    print(f"\nThe switch was made after validation {SWITCH}.")
    print(f"Logs: tensorboard --logdir {given.out} --samples_per_plugin images=500")


if __name__ == "__main__":
    main()
