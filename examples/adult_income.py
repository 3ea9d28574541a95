"""Two trainings on the Adult census data under one gate: a plain one, and one with a fairness penalty in the loss.

    python examples/adult_income.py

The four callbacks are attached in `train`, and nothing else here or in `adult_model.py` knows of them. A checkpoint is
kept only if the gap between the shares of women and men that the model predicts to earn more than 50,000 dollars is
surely at most 0.10. Plain training never gets there; a demographic-parity penalty does. The 16,281 official test rows
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

from adult_data import SEXES, AdultDataModule
from adult_model import IncomeClassifier
from adult_report import GAP, introduction, kept_checkpoint, paragraph, table, test_report
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint

OUT = Path("runs/adult")
EPOCHS = 8
PENALTY = 5.0
LARGEST_GAP = 0.10
LEAST_ACCURACY = 0.80


@dataclass(frozen=True)
class Run:
    """One training: what made it, and the folder that holds its record."""

    trainer: pl.Trainer
    module: IncomeClassifier
    data: AdultDataModule
    gate: GatedCheckpoint
    folder: Path


class Progress(pl.Callback):
    """One line per epoch."""

    @override
    def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self._began = time.perf_counter()

    @override
    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        seconds = time.perf_counter() - self._began
        losses = "   ".join(f"{name} {float(trainer.callback_metrics[name]):.4f}" for name in ("train_loss", "val_loss"))
        print(f"  epoch {trainer.current_epoch:>2}   {losses}   {seconds:4.1f} s", flush=True)


@contextmanager
def quiet() -> Iterator[None]:
    """Leave out what Lightning says about itself and the machine; warnings about the training stay."""
    log = logging.getLogger("pytorch_lightning")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        with warnings.catch_warnings():
            # All rows are in memory; a worker would only copy them.
            warnings.filterwarnings("ignore", ".* does not have many workers", UserWarning)
            # The callbacks and their record are the same on the CPU, and so are the figures on every machine.
            warnings.filterwarnings("ignore", ".* available but not used", UserWarning)
            # Fewer batches than the default of 50 between two lines of the log, when an epoch is cut short.
            warnings.filterwarnings("ignore", "The number of training batches .* is smaller", UserWarning)
            # Lightning 2.6 asks for leaves of a pytree in a way that torch 2.13 deprecates.
            warnings.filterwarnings("ignore", r"`isinstance\(treespec, LeafSpec\)` is deprecated", FutureWarning)
            yield
    finally:
        log.setLevel(level)


def train(penalty: float = 0.0, epochs: int = EPOCHS, out: Path = OUT / "plain") -> Run:
    """Train once with all four callbacks, into the folder `out`: event file, checkpoints, verdicts and audit file.

    Args:
        penalty: weight of the demographic-parity penalty in the training loss; 0 trains plainly.
        epochs: each ends with a validation, at which the gate decides.
        out: a new or empty folder; TensorBoard shows it as one run.
    """
    pl.seed_everything(0, workers=True, verbose=False)
    data = AdultDataModule()
    module = IncomeClassifier(data.width, penalty=penalty)
    groups = {"sex": list(SEXES)}
    gate = GatedCheckpoint(
        monitor="val_loss",
        at_most={f"{GAP}/bound": LARGEST_GAP},
        at_least={"val_acc": LEAST_ACCURACY},
    )
    monitors: list[pl.Callback] = [
        AttributionMonitor(
            method="integrated_gradients",
            features=data.features,
            sensitive=["sex", "race"],
            groups=groups,  # with the class they are the strata of the probe
        ),
        ActivationMonitor(),
        FairnessMonitor(groups),
    ]
    trainer = pl.Trainer(
        max_epochs=epochs,
        accelerator="cpu",
        devices=1,
        logger=TensorBoardLogger(out.parent, name="", version=out.name, default_hp_metric=False),
        callbacks=[*monitors, gate, Progress()],
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    with quiet():
        trainer.fit(module, data)
    return Run(trainer, module, data, gate, out)


def test(run: Run) -> None:
    """Evaluate the kept checkpoint on the official test rows, which are read here and nowhere else."""
    with quiet():
        run.trainer.test(run.module, run.data, ckpt_path="best", weights_only=True, verbose=False)


def train_and_show(title: str, penalty: float, epochs: int, out: Path) -> Run:
    """Train, and print the table of all epochs and what the training warned of."""
    print(f"\n{title}", flush=True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("default")
        run = train(penalty, epochs, out)
    print()
    print(table(run.folder))
    for warning in caught:
        print(f"\n{paragraph(f'Warning: {warning.message}')}")
    return run


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of each training (default: %(default)s)")
    parser.add_argument("--penalty", type=float, default=PENALTY, help="of the second training (default: %(default)g)")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="its folders plain and fair are replaced (default: %(default)s)"
    )
    given = parser.parse_args(arguments)
    plain, fair = given.out / "plain", given.out / "fair"
    for folder in (plain, fair):
        # A second run would append to the audit file of the first.
        shutil.rmtree(folder, ignore_errors=True)

    print(introduction(LARGEST_GAP, LEAST_ACCURACY))
    train_and_show("1. Plain training", 0.0, given.epochs, plain)
    title = f"2. Training with a demographic-parity penalty of {given.penalty:g} in the loss"
    run = train_and_show(title, given.penalty, given.epochs, fair)

    print("\n3. What was kept")
    if run.gate.best_model_path:
        test(run)
        print(test_report(run.folder))
        print(kept_checkpoint(run.folder))
    else:
        print("  Nothing: no epoch of either training passed the gate, so the test rows were not read.")
    command = "make tensorboard" if given.out == OUT else f'make tensorboard LOGDIR="{given.out}"'
    print(f"\nTo see explanations, neurons and fairness of both trainings by epoch: {command}")


if __name__ == "__main__":
    main()
