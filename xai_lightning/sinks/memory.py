"""Results kept in lists."""

from collections.abc import Mapping

from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks.protocol import Picture


class MemorySink:
    """Keeps everything in lists, for tests and notebooks.

    Example:
        >>> sink = MemorySink()
        >>> sink.scalars({"a": 1.0}, step=3)
        >>> sink.records
        [(3, 'a', 1.0)]
    """

    takes_pictures = True

    def __init__(self) -> None:
        self.records: list[tuple[int, str, float]] = []
        self.pictures: list[tuple[int, str, Picture]] = []
        self.histograms: list[tuple[int, str, HistogramSummary]] = []

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Keep ``values``."""
        self.records += [(step, name, value) for name, value in values.items()]

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Keep the picture."""
        self.pictures.append((step, name, image))

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Keep the histogram."""
        self.histograms.append((step, name, summary))

    def flush(self) -> None:
        """Do nothing: nothing is buffered."""
