"""What an explaining monitor carries from one validation to the next: references, course, and how they are used."""

import difflib
import math
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

from xai_lightning._lightning import rank_zero_warn
from xai_lightning.callbacks._attribution.canonical import Columns
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.gathered import Gathered
from xai_lightning.callbacks._attribution.panel import Panel
from xai_lightning.callbacks._attribution.references import References
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._record import Record
from xai_lightning.functional.attribution import FIRST, Versions


class History:
    """References and course of one monitor, and the metric of the last explained validation, as this rank saw it.

    Args:
        method: its label, for messages.
        best_of: the metric that chooses the best validation, and ``"min"`` or ``"max"``.
        reference_after: number of the validation that serves as ``first``.
        versions: versions of the way in which explanations are made.
        making: the settings that determine what a map holds, each as text.
    """

    def __init__(
        self,
        method: str,
        best_of: tuple[str, str] | None,
        reference_after: int,
        versions: Versions = FIRST,
        making: Mapping[str, str] = MappingProxyType({}),
    ) -> None:
        self._method, self._best_of, self._reference_after = method, best_of, reference_after
        self._versions, self._making = versions, dict(making)
        self.references, self.course, self.target_scale = References(), Course(), 1.0
        self.metric: float | None = None
        self._hint = ""

    def state(self) -> dict[str, Any]:
        """Plain types and tensors."""
        return {
            "references": self.references.state(),
            "target_scale": self.target_scale,
            "course": self.course.state(),
            "metric": self.metric,
            "versions": list(self._versions),
            "making": dict(self._making),
        }

    def load(self, state: Mapping[str, Any]) -> None:
        """Restore a `state`, without references and course if they were made in another way: these start anew."""
        metric, saved = state["metric"], tuple(int(number) for number in state.get("versions", FIRST))
        # a state saved before these settings were recorded counts as made with the current ones
        making = {**self._making, **dict(state.get("making", {}))}
        changed = [name for name, text in self._making.items() if making[name] != text]
        self.metric = None if metric is None else float(metric)
        self.references, self.target_scale = References.of(state["references"]), float(state["target_scale"])
        self.course = Course.of(state["course"])
        if saved == self._versions and not changed:
            self._tell_of_lost_alarm(state["course"])
            return
        if self.references.maps and changed:
            rank_zero_warn(
                f"AttributionMonitor({self._method!r}): {', '.join(changed)} changed since the references were made; "
                "drift starts over"
            )
        elif self.references.maps:
            rank_zero_warn(
                f"AttributionMonitor({self._method!r}): this release of xai_lightning computes explanations "
                f"differently (version {_dotted(self._versions)}) from the one that wrote the checkpoint (version "
                f"{_dotted(saved)}), which would show as drift; drift starts over. To continue with its drift, resume "
                "with the release that wrote it"
            )
        self.references, self.course = References(), Course()

    def _tell_of_lost_alarm(self, course: Mapping[str, Any]) -> None:
        if course["cusum"] and Course.loses_alarm(course):
            rank_zero_warn(
                f"AttributionMonitor({self._method!r}): this release of xai_lightning predicts drift differently from "
                "the one that wrote the checkpoint; the alarm starts over and cannot fire before the ninth validation "
                "from now"
            )

    def follow(
        self, found: Gathered, panel: Panel, strata: Strata, columns: Columns, moment: tuple[int, int, float]
    ) -> Record:
        """Compare with the references, then make this validation a reference.

        Args:
            found: the explained probe.
            panel: what to compare.
            strata: strata of the probe.
            columns: columns of canonical maps.
            moment: number of this validation, its optimizer steps, and the metric that chooses the best at the
                previously explained validation, which was known only when that one had ended.
        """
        number, step, metric = moment
        self._take_up(found)
        self._choose_best(metric)
        references, course = self.references, self.course
        references.freeze(found.columns["targets"])
        if self.begins(number):
            references.keep("first", found)
        # names are fixed from the second validation on, even if a failure left nothing to compare with (law 4)
        wanted = [name for name in panel.references if name in references.maps or number > 1]
        record = panel.record(found, references, course, wanted, strata)
        panel.rank(record, found, references, wanted, columns)
        panel.follow(record, found, references, course, step)
        references.keep("previous", found)
        course.remember(number, found.believed, step)
        return record

    def begins(self, number: int) -> bool:
        """Whether validation ``number`` becomes the first reference."""
        return "first" not in self.references.maps and number >= self._reference_after

    def note(self, metrics: Mapping[str, Any]) -> None:
        """Note, at its very end, the metric of the validation that was just explained."""
        if self._best_of is not None:
            found = metrics.get(self._best_of[0])
            near = difflib.get_close_matches(self._best_of[0], metrics, n=1) if found is None else []
            self._hint = f"; did you mean {near[0]!r}?" if near else ""
            self.metric = None if found is None else float(found)

    def keep_importance(self, number: int, importance: Sequence[float]) -> None:
        """Keep the global importance of the first reference, which later pictures outline."""
        if not self.references.importance and number >= self._reference_after:
            self.references.importance = list(importance)

    def _take_up(self, found: Gathered) -> None:
        """Keep the references, unless they are of other samples: then start anew."""
        if self.references.same_probe(found.hashes, found.strata):
            return
        if self.references.maps:
            rank_zero_warn(
                f"AttributionMonitor({self._method!r}): the validation data changed since the references were made, or "
                "what is drawn of them (other samples are in the probe); drift starts over"
            )
        self.references, self.course = References(found.hashes, found.strata), Course()

    def _choose_best(self, metric: float) -> None:
        """Make the last explained validation the best if its metric, which is known only now, is the best so far."""
        if self._best_of is None or "previous" not in self.references.maps:
            return
        name, mode = self._best_of
        if math.isnan(metric):
            rank_zero_warn(
                f"AttributionMonitor({self._method!r}): no finite value of {name!r}, the metric of best_of, was "
                f"logged, so the reference 'best' stays as it is{self._hint}"
            )
            return
        best = self.course.best
        if best is None or (metric < best if mode == "min" else metric > best):
            self.course.best = metric
            self.references.promote("previous", "best")


def _dotted(versions: Sequence[int]) -> str:
    return ".".join(map(str, versions))
