"""Scalars for any Lightning logger."""

from collections.abc import Collection, Mapping

from xai_lightning._lightning import Logger
from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks.protocol import Picture


class LoggerSink:
    """Writes scalars to any Lightning logger; pictures and histograms are left out.

    Args:
        logger: the logger.
    """

    takes_pictures = False

    def __init__(self, logger: Logger) -> None:
        self.logger = logger

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Log ``values`` through the logger."""
        self.logger.log_metrics(dict(values), step=step)

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Ignore the picture."""

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Ignore the histogram."""

    def flush(self) -> None:
        """Save what the logger has buffered."""
        self.logger.save()

    def check(self, names: Collection[str]) -> None:
        """Refuse names that the logger cannot handle, before anything is trained; this one accepts all names."""

    def _full(self, name: str) -> str:
        """``name`` with the prefix that the logger adds to its metrics, which Lightning does not expose."""
        prefix = getattr(self.logger, "_prefix", "")
        return f"{prefix}{getattr(self.logger, 'LOGGER_JOIN_CHAR', '')}{name}" if prefix else name
