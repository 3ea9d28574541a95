"""Logging through Lightning, and writing to sinks."""

from collections.abc import Mapping

import torch

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks import _progress as progress
from xai_lightning.callbacks._record import Record
from xai_lightning.sinks import Sink


def log_equal(pl_module: LightningModule, name: str, value: float) -> None:
    """Log a number that is equal on all ranks, in float64, so that it can be gated and monitored."""
    _log(pl_module, name, value, "mean")


def log_sum(pl_module: LightningModule, trainer: Trainer, name: str, value: float) -> None:
    """Log the mean over ranks of a number, summed over the monitors that log it under the same name."""
    _log(pl_module, name, value / trainer.world_size, "sum")


def _log(pl_module: LightningModule, name: str, value: float, how: str) -> None:
    exact = torch.float32 if pl_module.device.type == "mps" else torch.float64
    number = torch.tensor(value, dtype=exact, device=pl_module.device)
    pl_module.log(
        name,
        number,
        on_step=False,
        on_epoch=True,
        reduce_fx=how,
        sync_dist=True,
        add_dataloader_idx=False,
        batch_size=1,
    )


def write(sink: Sink, record: Record, numbers: Mapping[str, float], step: int) -> None:
    """Write one record to one sink; pictures are drawn only if it takes them."""
    if numbers:
        sink.scalars(numbers, step)
    if record.charts and hasattr(sink, "margin_charts"):
        sink.margin_charts(record.charts)
    if getattr(sink, "takes_pictures", True):
        for name, draw in record.pictures.items():
            sink.picture(name, draw(), step)
            progress.step()
        for name, summary in record.histograms.items():
            sink.histogram(name, summary, step)
            progress.step()
    sink.flush()


def called(sink: Sink) -> str:
    """What a sink is called in messages."""
    return type(getattr(sink, "logger", sink)).__name__
