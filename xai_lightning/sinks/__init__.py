"""Where results go: the `Sink` protocol, TensorBoard, Weights & Biases, MLflow, any logger's scalars, and memory.

A sink is any object with the protocol's four methods. Pictures arrive as ``uint8[H, W, 3]``; histograms as the summary
of `xai_lightning.functional.activation`. This is one of two places where tensors become numpy or plain numbers.
"""

from collections.abc import Sequence

from xai_lightning._lightning import Logger, MLFlowLogger, TensorBoardLogger, WandbLogger
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.memory import MemorySink
from xai_lightning.sinks.mlflow import MLFlowSink
from xai_lightning.sinks.protocol import Picture, Sink
from xai_lightning.sinks.tensorboard import TensorBoardSink
from xai_lightning.sinks.wandb import WandbSink

SINKS: tuple[tuple[type[Logger], type[LoggerSink]], ...] = (
    (TensorBoardLogger, TensorBoardSink),
    (WandbLogger, WandbSink),
    (MLFlowLogger, MLFlowSink),
)
"""The sink for each kind of logger; any other logger gets `LoggerSink`."""

__all__ = [
    "SINKS",
    "LoggerSink",
    "MLFlowSink",
    "MemorySink",
    "Picture",
    "Sink",
    "TensorBoardSink",
    "WandbSink",
    "logger_sinks",
]


def logger_sinks(loggers: Sequence[Logger]) -> list[LoggerSink]:
    """One sink per logger, of the kind that can show the most."""
    return [next((sink for kind, sink in SINKS if isinstance(x, kind)), LoggerSink)(x) for x in loggers]
