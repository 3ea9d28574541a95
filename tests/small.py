"""Small models and data for tests of the glue: a fit takes a fraction of a second.

Everything can be chosen by keyword, and everything is equal from call to call: weights come from
``Classifier(seed=…)``, rows from ``rows(seed=…)``, and `fit` seeds what shuffling and dropout draw from.

Example:
    >>> from pathlib import Path
    >>> trainer = fit(Classifier(), [], Path("."), max_epochs=1)
    >>> sorted(trainer.callback_metrics)
    ['train_loss', 'val_acc', 'val_loss']
"""

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.loggers.logger import Logger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xai_lightning.functional.attribution import METHODS

TABLE, IMAGE = (6,), (1, 8, 8)
STOPWATCH = re.compile(r"(?:\w+/)?xai/\w+/(?:seconds|time_share(?:_so_far)?)")
"""What no two trainings have in common: their time."""
GROUPS = ("Female", "Male")


TABULAR = tuple(name for name, row in METHODS.items() if "table" in row.layouts)


def at_length(method: str) -> Any:
    """A method as a case of a test; for the slow ones if it takes hundreds of passes."""
    marks = pytest.mark.slow if method == "shapley_value_sampling" else ()
    return pytest.param(method, marks=marks, id=method)


def needs(method: Any) -> dict[str, str]:
    """What a monitor of ``method`` must be told about the nets of this file."""
    return {"layer": "net.0"} if method in METHODS and METHODS[method].layer else {}


class Rows(Dataset):
    """Rows ``{"x": [*shape], "y": int64, "sex": int64}``."""

    def __init__(self, x: Tensor, y: Tensor, sex: Tensor) -> None:
        self.x, self.y, self.sex = x, y, sex

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {"x": self.x[i], "y": self.y[i], "sex": self.sex[i]}

    def batch(self, n: int | None = None) -> dict[str, Tensor]:
        """The first ``n`` rows as one batch; all by default."""
        return {"x": self.x[:n], "y": self.y[:n], "sex": self.sex[:n]}


def rows(n: int = 48, shape: Sequence[int] = TABLE, *, classes: int = 2, seed: int = 0) -> Rows:
    """Synthetic rows that a small net learns in part; every class and both groups occur in each 16 of them."""
    generator = torch.Generator().manual_seed(seed)
    y, sex = torch.arange(n) % classes, torch.arange(n) // classes % len(GROUPS)
    x = torch.randn(n, *shape, generator=generator)
    first, second = x.flatten(1)[:, 0], x.flatten(1)[:, 1]
    first += y - (classes - 1) / 2
    second += sex
    return Rows(x, y, sex)


def loader(data: Dataset, *, batch_size: int = 16, shuffle: bool = False, **options: Any) -> DataLoader:
    """A loader in this process."""
    return DataLoader(data, batch_size=batch_size, shuffle=shuffle, **options)


def network(shape: Sequence[int] = TABLE, outputs: int = 2) -> nn.Sequential:
    """BatchNorm, a non-linearity and dropout, on tables or images."""
    if len(shape) == 1:
        return nn.Sequential(
            nn.Linear(shape[0], 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, outputs)
        )
    return nn.Sequential(
        nn.Conv2d(shape[0], 4, 3, padding=1),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.Dropout(0.2),
        nn.Flatten(),
        nn.Linear(4 * shape[1] * shape[2], outputs),
    )


class Compilable(nn.Sequential):
    """Code of its own, without which a module compiled in place is passed over: of torch's own dynamo compiles none."""

    def forward(self, x: Tensor) -> Tensor:
        for part in self:
            x = part(x)
        return x


class Classifier(pl.LightningModule):
    """Classifies `rows`; logs ``train_loss``, ``val_loss`` and ``val_acc``, and their likes under ``test``.

    Args:
        shape: of one input.
        classes: how many; with 1, a single logit for two classes.
        lr: 0 keeps the weights, though not the statistics of BatchNorm: see ``net``.
        seed: of the weights.
        net: maps inputs to logits; `network` by default.
        returns: what ``validation_step`` returns, from the logits; nothing by default.
    """

    def __init__(
        self,
        shape: Sequence[int] = TABLE,
        *,
        classes: int = 2,
        lr: float = 0.05,
        seed: int = 0,
        net: Callable[[], nn.Module] | None = None,
        returns: Callable[[Tensor], Any] | None = None,
    ) -> None:
        super().__init__()
        self.lr, self.returns = lr, returns
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.net = net() if net is not None else network(shape, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def loss(self, logits: Tensor, y: Tensor) -> Tensor:
        if logits.ndim == 1 or logits.shape[1] == 1:
            return nn.functional.binary_cross_entropy_with_logits(logits.flatten(), y.to(logits.dtype))
        return nn.functional.cross_entropy(logits, y)

    def training_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Tensor:
        loss = self.loss(self(batch["x"]), batch["y"])
        self.log("train_loss", loss, batch_size=len(batch["y"]))
        return loss

    def evaluate(self, batch: Mapping[str, Tensor], stage: str) -> Any:
        logits = self(batch["x"])
        single = logits.ndim == 1 or logits.shape[1] == 1
        predicted = (logits.flatten() > 0).long() if single else logits.argmax(1)
        metrics = {
            f"{stage}_loss": self.loss(logits, batch["y"]),
            f"{stage}_acc": (predicted == batch["y"]).float().mean(),
        }
        self.log_dict(metrics, batch_size=len(batch["y"]))
        return None if self.returns is None else self.returns(logits)

    def validation_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Any:
        return self.evaluate(batch, "val")

    def test_step(self, batch: Mapping[str, Tensor], batch_idx: int) -> Any:
        return self.evaluate(batch, "test")

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=self.lr, momentum=0.9)


def trainer(callbacks: Sequence[pl.Callback], folder: Path, **options: Any) -> pl.Trainer:
    """A quiet Trainer on the CPU: no bar, no summary, no logger unless asked for, everything in ``folder``."""
    defaults = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "num_sanity_val_steps": 0,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "enable_checkpointing": any(isinstance(callback, Checkpoint) for callback in callbacks),
        "default_root_dir": folder,
        "log_every_n_steps": 1,
    }
    return pl.Trainer(callbacks=list(callbacks), **{**defaults, **options})


def fit(
    model: pl.LightningModule,
    callbacks: Sequence[pl.Callback],
    folder: Path,
    *,
    train: Any = None,
    val: Any = None,
    ckpt_path: Path | None = None,
    seed: int = 0,
    **options: Any,
) -> pl.Trainer:
    """Fit ``model`` and return the Trainer.

    Args:
        model: what to fit.
        callbacks: attached to the Trainer.
        folder: where files go.
        train: the training loader; shuffled rows in the shape of ``Classifier()`` by default.
        val: the validation loader or loaders; other rows, in order, by default.
        ckpt_path: resume from there.
        seed: of shuffling and dropout.
        options: of the Trainer, see `trainer`.
    """
    pl.seed_everything(seed, verbose=False)
    made = trainer(callbacks, folder, **options)
    train = loader(rows(), shuffle=True) if train is None else train
    made.fit(model, train, loader(rows(seed=1)) if val is None else val, ckpt_path=ckpt_path)
    return made


class Ledger(Logger):
    """A logger that keeps every number, by step and name: quicker than an event file.

    Example:
        >>> ledger = Ledger()
        >>> ledger.log_metrics({"val_loss": 0.5}, step=3)
        >>> ledger.numbers
        {3: {'val_loss': 0.5}}
    """

    name, version = "ledger", 0

    def __init__(self) -> None:
        super().__init__()
        self.numbers: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        assert step is not None
        self.numbers.setdefault(step, {}).update(metrics)

    def log_hyperparams(self, *args: Any, **kwargs: Any) -> None:
        """Nothing to keep."""

    def validations(self) -> list[dict[str, float]]:
        """What was logged at each validation, in order."""
        return [found for _, found in sorted(self.numbers.items()) if "val_loss" in found]


def events(folder: Path | str) -> EventAccumulator:
    """Everything in the event files of ``folder``, nothing sampled away."""
    kinds = ("scalars", "images", "histograms", "tensors")
    return EventAccumulator(str(folder), size_guidance=dict.fromkeys(kinds, 0)).Reload()
