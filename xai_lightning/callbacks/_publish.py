"""Logging through Lightning, and writing to sinks."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from xai_lightning._lightning import LightningModule, Trainer
from xai_lightning.callbacks import _progress as progress
from xai_lightning.callbacks._record import Record
from xai_lightning.functional.precision import widest
from xai_lightning.sinks import Picture, Sink, logger_sinks


def log_equal(pl_module: LightningModule, name: str, value: float) -> None:
    """Log a number that is equal on all ranks, in the device's widest float, so that it can be gated and monitored."""
    # on one rank the sum is the number itself, and costs Lightning less time than the mean
    _log(pl_module, name, value, "mean" if pl_module.trainer.world_size > 1 else "sum")


def log_sum(pl_module: LightningModule, trainer: Trainer, name: str, value: float) -> None:
    """Log a number's mean over ranks, summed over the monitors that log it under the same name."""
    _log(pl_module, name, value / trainer.world_size, "sum")


def _log(pl_module: LightningModule, name: str, value: float, how: str) -> None:
    number = torch.tensor(value, dtype=widest(pl_module.device), device=pl_module.device)
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


def show(
    trainer: Trainer, record: Record, step: int, sinks: Sequence[Sink], *, kind: str, attempt: Callable[..., Any]
) -> None:
    """Draw the pictures and write to all sinks; the loggers already have what went through ``self.log``.

    Args:
        trainer: the Trainer whose loggers are written to.
        record: the record under full names.
        step: the step at which everything is written.
        sinks: further receivers.
        kind: kind of the monitor, for the progress display.
        attempt: called as ``attempt(what, action, *arguments)``; returns None if the action fails.
    """
    loggers = logger_sinks(trainer.loggers)
    pictured = sum(getattr(sink, "takes_pictures", True) for sink in (*loggers, *sinks))
    total = pictured * (len(record.pictures) + len(record.histograms)) + bool(pictured) * len(record.pictures)
    with progress.working(trainer, f"{kind}: drawing", total):
        if pictured:
            drawn = {name: attempt(f"draw {name}", _drawn, draw) for name, draw in record.pictures.items()}
            record.pictures = {name: partial(_given, x) for name, x in drawn.items() if x is not None}
        numbers = {**record.shared, **record.direct}
        for sink, own in [*((x, record.direct) for x in loggers), *((x, numbers) for x in sinks)]:
            attempt(f"write to {called(sink)}", write, sink, record, own, step)


def _drawn(draw: Callable[[], Picture]) -> Picture:
    picture = draw()
    progress.step()
    return picture


def _given(picture: Picture) -> Picture:
    return picture


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
    """The name of a sink in messages."""
    return type(getattr(sink, "logger", sink)).__name__
