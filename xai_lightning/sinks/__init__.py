"""Where results go: the `Sink` protocol, TensorBoard, any logger's scalars, and memory.

A sink is any object with the protocol's four methods. Pictures arrive as ``uint8[H, W, 3]``; histograms as the summary
of `xai_lightning.functional.activation`. This is one of two places where tensors become numpy or plain numbers.
"""

from collections.abc import Sequence

from xai_lightning._lightning import Logger, TensorBoardLogger
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.memory import MemorySink
from xai_lightning.sinks.protocol import Picture, Sink
from xai_lightning.sinks.tensorboard import TensorBoardSink

__all__ = ["LoggerSink", "MemorySink", "Picture", "Sink", "TensorBoardSink", "logger_sinks"]


def logger_sinks(loggers: Sequence[Logger]) -> list[LoggerSink]:
    """One sink per logger, of the kind that shows most."""
    return [TensorBoardSink(x) if isinstance(x, TensorBoardLogger) else LoggerSink(x) for x in loggers]
