"""TensorBoard: scalars, pictures, histograms and margin charts."""

from collections.abc import Mapping
from typing import Any

from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.protocol import Picture

_LAYOUT = "_xai_lightning_margin_charts"
"""Attribute of a writer that keeps what was laid out, for all sinks of a logger share it."""


class TensorBoardSink(LoggerSink):
    """Scalars, pictures and histograms to the event file of a ``TensorBoardLogger``."""

    takes_pictures = True

    @property
    def _writer(self) -> Any:
        return self.logger.experiment  # type: ignore[attr-defined]

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Write one picture; uint8, since TensorBoard clips and rescales every other type (trap 64)."""
        self._writer.add_image(self._full(name), image, step, dataformats="HWC")

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Write one histogram from its bins."""
        if summary.num:
            self._writer.add_histogram_raw(self._full(name), **summary._asdict(), global_step=step)

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
            category: layout.get(category, {})
            | {title: ["Margin", [*map(self._full, names)]] for title, names in chart.items()}
            for category, chart in charts.items()
        }
        if layout | wanted != layout:
            setattr(self._writer, _LAYOUT, layout | wanted)
            self._writer.add_custom_scalars(layout | wanted)

    def flush(self) -> None:
        """Flush, so that a crash loses nothing of this validation (trap 69)."""
        self._writer.flush()
