"""What a monitor sees of one evaluation, and what it logs of it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, is_dataclass
from typing import Any, Literal

from torch import Tensor

from xai_lightning.callbacks._trainer import Stage
from xai_lightning.functional.activation import HistogramSummary
from xai_lightning.sinks import Picture

OnError = Literal["warn", "raise"]
FAILURES_IN_A_ROW = 3
STATE_VERSION = 1


@dataclass
class Record:
    """What one validation of one monitor logs.

    Args:
        shared: summaries that can be gated; they go through ``self.log`` and are equal on all ranks.
        direct: numbers per layer, feature or group; they go to the loggers directly.
        pictures: name to a function that draws it, called on rank zero only.
        histograms: name to summary.
        charts: margin charts by category and title: names of value, lower and upper.
    """

    shared: dict[str, float] = field(default_factory=dict)
    direct: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Callable[[], Picture]] = field(default_factory=dict)
    histograms: dict[str, HistogramSummary] = field(default_factory=dict)
    charts: dict[str, dict[str, tuple[str, str, str]]] = field(default_factory=dict)

    def renamed(self, full: Callable[[str], str]) -> "Record":
        """The same under full names."""
        return Record(
            {full(name): value for name, value in self.shared.items()},
            {full(name): value for name, value in self.direct.items()},
            {full(name): draw for name, draw in self.pictures.items()},
            {full(name): summary for name, summary in self.histograms.items()},
            {
                full(category): {title: (full(a), full(b), full(c)) for title, (a, b, c) in charts.items()}
                for category, charts in self.charts.items()
            },
        )


@dataclass
class Look:
    """One evaluation as a monitor sees it.

    Args:
        stage: ``fit``, ``validate`` or ``test``.
        sanity: the sanity check: nothing is logged and no state is kept.
        number: number of this validation within ``fit``, from 1; 0 elsewhere.
        started: ``logged_metrics`` at its beginning.
        metrics: ``callback_metrics`` at its beginning: those of the validation before.
        due: this monitor looks at it; a validation that is left out logs nothing.
        meets: ranks share out their work after the last batch.
        failure: the first exception in it.
        moment: when that was.
        loop: Lightning's, over its batches.
    """

    stage: Stage
    sanity: bool
    number: int
    started: dict[str, Tensor]
    due: bool
    meets: bool = False
    batches: int = 0
    closed: bool = False
    failure: Exception | None = None
    moment: str = ""
    metrics: dict[str, Tensor] = field(default_factory=dict)
    record: Record | None = None
    loop: Any = None


def stable(value: object) -> str:
    """A text for ``value`` that is the same in another process: no addresses."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{stable(k)}: {stable(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(stable, value)) + "]"
    if value is None or isinstance(value, str | int | float | slice):
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__qualname__ + stable(vars(value))
    return str(getattr(value, "__qualname__", type(value).__qualname__))
