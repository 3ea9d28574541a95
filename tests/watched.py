"""Small networks that are validated once under an ActivationMonitor, and what was logged of them."""

from typing import Any

import pytorch_lightning as pl
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from small import STOPWATCH
from xai_lightning import ActivationMonitor, MemorySink


class Runs(pl.LightningModule):
    """Validates one network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def validation_step(self, batch: list[Tensor]) -> None:
        self.network(batch[0])


def found(network: nn.Module, x: Tensor, **options: Any) -> dict[str, float]:
    """Everything that is logged of one validation."""
    sink = MemorySink()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[ActivationMonitor(sinks=[sink], **options)], logger=False, **quiet)
    trainer.validate(Runs(network), DataLoader(TensorDataset(x), batch_size=3), verbose=False)
    return {name: value for _, name, value in sink.records}


def validated(model: pl.LightningModule, data: DataLoader, **options: Any) -> dict[str, float]:
    sink = MemorySink()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[ActivationMonitor(sinks=[sink], **options)], logger=False, **quiet)
    trainer.validate(model, data, verbose=False)
    return {name: value for _, name, value in sink.records if not STOPWATCH.fullmatch(name)}


class Bottleneck(nn.Module):
    """One ReLU after layers of two widths, as in residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.relu = nn.Linear(4, 2), nn.Linear(2, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.first = self.relu(self.narrow(x))
        self.second = self.relu(self.wide(self.first))
        return self.second


class Residual(nn.Module):
    """A block whose last non-linearity is a function."""

    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(width, width, 3, 1, 1), nn.BatchNorm2d(width), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(x + self.body(x))


class LastOf(nn.Module):
    """Returns what its layer returns, watched through a name."""

    def __init__(self, layer: nn.Module, *, twice: bool = False) -> None:
        super().__init__()
        self.layer, self.twice = layer, twice

    def forward(self, x: Tensor) -> Any:
        return self.layer(x, x, x) if self.twice else self.layer(x)


def attention() -> nn.Module:
    return LastOf(nn.MultiheadAttention(6, 2, batch_first=True), twice=True)
