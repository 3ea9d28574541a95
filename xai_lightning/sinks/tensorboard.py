"""TensorBoard: scalars, pictures, histograms and margin charts."""

from collections.abc import Mapping
from typing import Any

from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.protocol import Picture

_LAYOUT = "_xai_lightning_margin_charts"
"""Attribute of a writer that stores the layout, since all sinks of a logger share the writer."""


class TensorBoardSink(LoggerSink):
    """Writes scalars, pictures and histograms to the event file of a ``TensorBoardLogger``."""

    takes_pictures = True

    @property
    def _writer(self) -> Any:
        return self.logger.experiment  # type: ignore[attr-defined]

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Write one picture; it is uint8, since TensorBoard clips and rescales every other dtype (trap 64)."""
        self._writer.add_image(self._full(name), image, step, dataformats="HWC")

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Write one histogram from its bins."""
        if summary.num:
            self._writer.add_histogram_raw(self._full(name), **summary._asdict(), global_step=step)

    def margin_charts(self, charts: Mapping[str, Mapping[str, tuple[str, str, str]]]) -> None:
        """Lay out margin charts (a line in its band) on the page "Custom Scalars".

        TensorBoard shows only the last layout of a run, so all charts passed to this method are written as one layout
        (trap 67), and rewritten only if something was added; an earlier layout of the user's is replaced. Names are
        passed unchanged: the page itself escapes characters that are special in regular expressions. It draws a chart
        only if its three scalars were logged at the same steps.

        Args:
            charts: By category and title, the names of the scalars (value, lower, upper).

        Raises:
            ValueError: If a chart does not have three names.
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
        """Flush the writer, so that a crash loses nothing of this validation (trap 69)."""
        self._writer.flush()
