"""Where results go: the `Sink` protocol, TensorBoard, any logger's scalars, and memory.

A sink is any object with the protocol's four methods. Pictures arrive as ``uint8[H, W, 3]``; histograms as the summary
of `xai_lightning.functional.activation`. This is one of two places where tensors become numpy or plain numbers.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from xai_lightning._lightning import Logger, TensorBoardLogger
from xai_lightning.functional.activation import HistogramSummary

Picture = npt.NDArray[np.uint8]
_LAYOUT = "_xai_lightning_margin_charts"
"""Attribute of a writer that keeps what was laid out, for all sinks of a logger share it."""


@runtime_checkable
class Sink(Protocol):
    """Receives what one validation logs, at the step that Lightning's own metrics carry. Called on rank zero only."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Receive named numbers; NaN means undefined."""

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Receive a picture ``uint8[H, W, 3]``."""

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Receive a histogram."""

    def flush(self) -> None:
        """Write out what is buffered; called at the end of each validation."""


class LoggerSink:
    """Scalars to any Lightning logger; pictures and histograms are left out.

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
        """Leave the picture out."""

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Leave the histogram out."""

    def flush(self) -> None:
        """Save what the logger buffers."""
        self.logger.save()


class TensorBoardSink(LoggerSink):
    """Scalars, pictures and histograms to the event file of a ``TensorBoardLogger``."""

    takes_pictures = True

    @property
    def _writer(self) -> Any:
        return self.logger.experiment  # type: ignore[attr-defined]

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Write one picture; uint8, since TensorBoard clips and rescales every other type (trap 64)."""
        self._writer.add_image(name, image, step, dataformats="HWC")

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Write one histogram from its bins."""
        if summary.num:
            self._writer.add_histogram_raw(name, **summary._asdict(), global_step=step)

    def margin_charts(self, charts: Mapping[str, Mapping[str, tuple[str, str, str]]]) -> None:
        """Lay out margin charts (a line in its band) on the page "Custom Scalars".

        TensorBoard shows the last layout of a run only, so that all that came through this method is written as one
        (trap 67), and again only if something was added; a layout that the user wrote before is replaced. Names are
        passed as they are: the page itself escapes what is special in regular expressions. It draws a chart only if
        its three scalars were logged at the same steps.

        Args:
            charts: By category and title, the names of the scalars (value, lower, upper).

        Raises:
            ValueError: If a chart has not three names.
        """
        for title, names in ((title, names) for chart in charts.values() for title, names in chart.items()):
            if len(names) != 3:
                raise ValueError(f"the chart {title!r} must have three names (value, lower, upper), got {names!r}.")
        layout: dict[str, dict[str, list[Any]]] = getattr(self._writer, _LAYOUT, {})
        wanted = {
            category: layout.get(category, {}) | {title: ["Margin", list(names)] for title, names in chart.items()}
            for category, chart in charts.items()
        }
        if layout | wanted != layout:
            setattr(self._writer, _LAYOUT, layout | wanted)
            self._writer.add_custom_scalars(layout | wanted)

    def flush(self) -> None:
        """Flush, so that a crash loses nothing of this validation (trap 69)."""
        self._writer.flush()


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
        """Nothing is buffered."""


def logger_sinks(loggers: Sequence[Logger]) -> list[LoggerSink]:
    """One sink per logger, of the kind that shows most."""
    return [TensorBoardSink(x) if isinstance(x, TensorBoardLogger) else LoggerSink(x) for x in loggers]
