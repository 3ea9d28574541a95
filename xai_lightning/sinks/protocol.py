"""The `Sink` protocol for receivers of results."""

from collections.abc import Mapping
from typing import Protocol, runtime_checkable

import numpy as np
import numpy.typing as npt

from xai_lightning.functional.activation import HistogramSummary

Picture = npt.NDArray[np.uint8]


@runtime_checkable
class Sink(Protocol):
    """Receives what one validation logs, at the step of Lightning's own metrics; called on rank zero only."""

    def scalars(self, values: Mapping[str, float], step: int) -> None:
        """Receive named numbers; NaN means undefined."""

    def picture(self, name: str, image: Picture, step: int) -> None:
        """Receive a picture ``uint8[H, W, 3]``."""

    def histogram(self, name: str, summary: HistogramSummary, step: int) -> None:
        """Receive a histogram."""

    def flush(self) -> None:
        """Write out anything buffered; called at the end of each validation."""
