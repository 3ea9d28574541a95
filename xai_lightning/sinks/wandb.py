"""Weights & Biases: scalars, pictures and histograms of a run, on the step axis of Lightning's own metrics."""

from typing import Any

from PIL import Image
from typing_extensions import override

from xai_lightning._lightning import Logger
from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks.logger import LoggerSink
from xai_lightning.sinks.protocol import Picture


class WandbSink(LoggerSink):
    """Writes scalars, pictures and histograms to the run of a ``WandbLogger``.

    Everything goes through ``log_metrics``, which adds ``trainer/global_step``: the axis of all charts, on which steps
    may come in any order, unlike on W&B's own count of rows. The pictures and histograms of a validation form one row.

    Args:
        logger: the logger.
    """

    takes_pictures = True

    def __init__(self, logger: Logger) -> None:
        super().__init__(logger)
        self._media: dict[int, dict[str, Any]] = {}

    @override
    def picture(self, name: str, image: Picture, step: int) -> None:
        """Keep the picture until `flush`."""
        import wandb

        # from an array, W&B drops dimensions of size 1 and guesses the meaning of the others
        self._keep(name, wandb.Image(Image.fromarray(image)), step)

    @override
    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Keep the histogram until `flush`; an empty one is ignored."""
        import wandb

        if summary.num:
            self._keep(name, wandb.Histogram(np_histogram=counts_and_edges(summary)), step)

    @override
    def flush(self) -> None:
        """Log the kept pictures and histograms; the run itself writes in the background."""
        media, self._media = self._media, {}
        for step, shown in media.items():
            self.logger.log_metrics(shown, step=step)

    def _keep(self, name: str, shown: object, step: int) -> None:
        self._media.setdefault(step, {})[name] = shown


def counts_and_edges(summary: HistogramSummary) -> tuple[list[int], list[float]]:
    """A histogram without its empty outer bins, whose limits may be as large as floats can be.

    Args:
        summary: summary of at least one value.

    Returns:
        n counts and n + 1 finite, ascending edges, from minimum to maximum unless these are themselves limits.

    Example:
        >>> counts_and_edges(HistogramSummary(-3.0, 1.0, 3, -1.0, 11.0, [-4.0, -2.0, 0.0, 2.0, 1e308], [0, 1, 0, 2, 0]))
        ([1, 0, 2], [-3.0, -2.0, 0.0, 1.0])
    """
    used = [place for place, count in enumerate(summary.bucket_counts) if count]
    first, last, limits = used[0], used[-1], summary.bucket_limits
    if summary.min == summary.max:
        half = max(abs(summary.min), 1.0) / 2
        return summary.bucket_counts[first : last + 1], [summary.min - half, summary.max + half]
    # a minimum or maximum that equals the inner limit of its bin would leave that bin without width
    below = limits[first - 1] if first else 2 * limits[0]
    above = limits[last] if last < len(limits) - 1 else 2 * limits[-2]
    low = summary.min if summary.min < limits[first] else below
    high = summary.max if summary.max > limits[last - 1] else above
    return summary.bucket_counts[first : last + 1], [low, *limits[first:last], high]
