"""What a monitor sees of one evaluation, and what it logs about it."""

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
        shared: summaries that can be gated; logged through ``self.log`` and equal on all ranks.
        direct: numbers per layer, feature or group; written to the loggers directly.
        pictures: maps each name to a function that draws the picture, called on rank zero only.
        histograms: maps each name to its summary.
        charts: margin charts by category and title: the names of value, lower and upper.
    """

    shared: dict[str, float] = field(default_factory=dict)
    direct: dict[str, float] = field(default_factory=dict)
    pictures: dict[str, Callable[[], Picture]] = field(default_factory=dict)
    histograms: dict[str, HistogramSummary] = field(default_factory=dict)
    charts: dict[str, dict[str, tuple[str, str, str]]] = field(default_factory=dict)

    def renamed(self, full: Callable[[str], str]) -> "Record":
        """The same record under full names."""
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
        sanity: whether it is the sanity check, in which nothing is logged and no state is kept.
        number: number of this validation within ``fit``, from 1; 0 elsewhere.
        started: ``logged_metrics`` at its beginning.
        due: whether this monitor looks at it; a validation that is skipped logs nothing.
        meets: whether ranks share out their work after the last batch.
        batches: number of batches handled.
        closed: whether the work after the last batch was done.
        failure: the first exception during it.
        moment: when that exception was raised, in words.
        metrics: ``callback_metrics`` at its beginning: those of the previous validation.
        record: what it logs, once that is known.
        loop: Lightning's loop over its batches.
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
    """A text for ``value`` that is the same in every process: it holds no memory addresses."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{stable(k)}: {stable(v)}" for k, v in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(stable, value)) + "]"
    if value is None or isinstance(value, str | int | float | slice):
        return repr(value)
    if is_dataclass(value) and not isinstance(value, type):
        return type(value).__qualname__ + stable(vars(value))
    return str(getattr(value, "__qualname__", type(value).__qualname__))
