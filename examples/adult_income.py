"""Two trainings on the Adult census data under one gate: a plain one, and one with a fairness penalty in its loss.

    python examples/adult_income.py

The four callbacks are attached in `train`; neither the network nor the data know about them. A checkpoint is kept only
if the gap between the shares of men and women predicted to earn more than 50,000 dollars is at most 0.10 with
confidence. Plain training never achieves that; with a demographic-parity penalty it does. The 16,281 official test rows
are read once, at the end, for the checkpoint that was kept.
"""

import argparse
import logging
import shutil
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytorch_lightning as pl
from pytorch_lightning.loggers import TensorBoardLogger
from typing_extensions import override

import adult_report as report
from adult_data import NUMERIC, SEXES, AdultDataModule
from adult_model import IncomeClassifier
from xai_lightning import ActivationMonitor, AttributionMonitor, Column, FairnessMonitor, GatedCheckpoint

OUT = Path("runs/adult")
EPOCHS = 8
PENALTY = 5.0
LARGEST_GAP = 0.10
LEAST_ACCURACY = 0.80


@dataclass(frozen=True)
class Run:
    """One training: the objects that took part in it, and the folder that holds its record."""

    trainer: pl.Trainer
    module: IncomeClassifier
    data: AdultDataModule
    gate: GatedCheckpoint
    folder: Path


class Progress(pl.Callback):
    """Prints one line per epoch."""

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        losses = {name: float(trainer.callback_metrics[name]) for name in ("train_loss", "val_loss")}
        shown = "   ".join(f"{name} {value:.4f}" for name, value in losses.items())
        print(f"  epoch {trainer.current_epoch:>2}   {shown}   {time.perf_counter() - self._began:4.1f} s", flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Hide Lightning's messages about itself and the machine; messages about the training are still shown."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # All rows are in memory; a worker would only copy them.
            warnings.filterwarnings("ignore", ".* does not have many workers", UserWarning)
            # The CPU is chosen on purpose: so small a network gains nothing from other devices.
            warnings.filterwarnings("ignore", ".* available but not used", UserWarning)
            # Lightning 2.6 tests for pytree leaves in a way that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def train(penalty: float = 0.0, epochs: int = EPOCHS, out: Path = OUT / "plain") -> Run:
    """Train once with all four callbacks; the event file, checkpoints, verdicts and audit file go into `out`.

    Args:
        penalty: weight of the demographic-parity penalty in the training loss; 0 for plain training.
        epochs: number of epochs; each ends with a validation, after which the gate decides.
        out: a new or empty folder; TensorBoard shows it as one run.
    """
    pl.seed_everything(0, workers=True, verbose=False)
    data = AdultDataModule()
    module = IncomeClassifier(data.width, penalty=penalty)
    groups = {"sex": list(SEXES)}
    explanations = AttributionMonitor(
        method=report.METHOD,
        features=data.features,
        sensitive=["sex", "race"],
        proxies=["marital_status", "relationship"],
        groups=groups,  # explains as many women as men of each class
    )
    fairness = FairnessMonitor(
        groups,
        flips={"sex": Column("x", data.features["sex"])},  # how many decisions would the other sex change?
        consistency_features=[i for name in NUMERIC if isinstance(i := data.features[name], int)],  # likes alike?
        custom_scalars=True,
    )
    gate = GatedCheckpoint(
        monitor="val_loss",
        at_most={f"{report.GAP}/bound": LARGEST_GAP},
        at_least={"val_acc": LEAST_ACCURACY},
    )
    with quiet():
        trainer = pl.Trainer(
            max_epochs=epochs,
            accelerator="cpu",
            devices=1,
            logger=TensorBoardLogger(out.parent, name="", version=out.name, default_hp_metric=False),
            callbacks=[explanations, ActivationMonitor(), fairness, gate, Progress()],
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(module, data)
    return Run(trainer, module, data, gate, out)


def evaluate(run: Run) -> None:
    """Evaluate the kept checkpoint on the official test rows, which are read here and nowhere else."""
    with quiet():
        run.trainer.test(run.module, run.data, ckpt_path="best", weights_only=True, verbose=False)


def train_and_show(title: str, penalty: float, epochs: int, out: Path) -> Run:
    """Train, and print the table of epochs and the warnings."""
    print(f"\n{title}\n", flush=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        run = train(penalty, epochs, out)
    print(f"\n{report.table(out)}")
    for warning in caught:
        print(f"\n{report.warning(str(warning.message))}")
    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training (default: %(default)s)")
    parser.add_argument("--penalty", type=float, default=PENALTY, help="of the second training (default: %(default)g)")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="its folders plain and fair are replaced (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    if given.epochs < 1:
        parser.error(f"--epochs must be at least 1; got {given.epochs}")
    plain, fair = given.out / "plain", given.out / "fair"
    for folder in (plain, fair):
        # Otherwise a second run would append to the first one's audit and event files.
        if folder.exists():
            shutil.rmtree(folder)

    print(report.introduction(LARGEST_GAP, LEAST_ACCURACY))
    train_and_show("1. PLAIN TRAINING", 0.0, given.epochs, plain)
    title = f"2. TRAINING WITH A DEMOGRAPHIC-PARITY PENALTY OF {given.penalty:g} IN THE LOSS"
    run = train_and_show(title, given.penalty, given.epochs, fair)

    print("\n3. THE CHECKPOINT THAT WAS KEPT\n")
    if run.gate.best_model_path:
        evaluate(run)
        print("\n\n".join((report.kept(fair), report.evaluation(fair), report.recall(plain))))
    else:
        print("  None: no epoch of the second training passed the gate, so the test rows were not read.")
    command = "make tensorboard" if given.out == OUT else f'make tensorboard LOGDIR="{given.out}"'
    print(f"\nTo see explanations, neurons and fairness of both trainings by epoch:  {command}")


if __name__ == "__main__":
    main()
