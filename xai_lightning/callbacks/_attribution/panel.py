"""The drift panel: what is logged when the explanations of two validations are compared."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._attribution.canonical import Columns
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.gathered import Gathered
from xai_lightning.callbacks._attribution.references import References
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._record import Record
from xai_lightning.functional import drift

AGREEMENT = drift.Agreement._fields
RANKING = ("ndcg", "ndcg_adjusted")
NOISE = ("squared", "squared_lower", "squared_upper", "cosine", "cosine_lower", "cosine_upper", "reliability")
INTERVAL = drift.Interval._fields
NOISE_REFERENCE = "first"


class Panel(NamedTuple):
    """What is compared, and under which names.

    Args:
        method: its label.
        measures: names of the measures of drift.
        references: names of the references to compare with.
        draws: whether the method is stochastic, so that there is noise to tell from drift.
        classes: whether there are predicted classes to compare.
        grid: rows and columns of an image's canonical map; None for anything else.
        padded: whether samples have unequal numbers of features, so that maps are 0 where one has none.
        seed: seed of bootstraps.
    """

    method: str
    measures: Sequence[str]
    references: Sequence[str]
    draws: bool
    classes: bool
    grid: tuple[int, int] | None
    padded: bool
    seed: int

    def names(self, attributes: Sequence[str]) -> list[str]:
        """Everything that goes through ``self.log`` once all references exist."""
        parts = [(m, r, p) for m in self.measures for r in self.references for p in tags.DRIFT_PARTS]
        parts += [("ranking", r, p) for r in self.references for p in RANKING]
        if self.classes:
            parts += [("predictions", r, p) for r in self.references for p in AGREEMENT]
        parts += [(f"gap_{a}", r, p) for a in attributes for r in self.references for p in INTERVAL]
        if self.draws and NOISE_REFERENCE in self.references:
            parts += [("noise", NOISE_REFERENCE, p) for p in NOISE]
        found = [tags.drift(self.method, *part) for part in parts]
        found += [tags.drift_state(self.method, what) for what in ("cusum", "alarm", "converged")]
        if self.draws:
            found.append(tags.drift_state(self.method, "noise_floor"))
        return found

    def parts(self, strata: Strata) -> list[str]:
        """Names of the drift of each class and each group, which go to the loggers directly."""
        return [name for r in self.references for name, _ in self._parts(strata, r)]

    def _parts(self, strata: Strata, reference: str) -> list[tuple[str, Tensor]]:
        """Name and strata, ``bool[S]``, of each part of the probe: a class or a group."""
        found = [
            (tags.drift_by_class(self.method, reference, name), of)
            for name, of in (strata.classes() if self.classes else {}).items()
        ]
        for attribute in strata.attributes:
            for group, of in strata.members(attribute).items():
                found.append((tags.drift_by_group(self.method, reference, attribute, group), of))
        return found

    def distance(self, measure: str, now: Tensor, then: Tensor) -> Tensor:
        """Distances ``float64[M]`` by one measure."""
        if measure == "top_k" and self.padded:
            return drift.top_k(now, then, present=(now != 0) | (then != 0))
        if measure in drift.MEASURES:
            return drift.MEASURES[measure](now, then)
        return drift.IMAGE_MEASURES[measure](now, then, cast(tuple[int, int], self.grid))

    def check(self) -> None:
        """Refuse measures of images if there are none.

        Raises:
            ValueError: names them, and the measures that are possible.
        """
        placed = [measure for measure in self.measures if measure not in drift.MEASURES]
        if placed and self.grid is None:
            raise ValueError(
                f"measures={placed} compare positions in images, and these explanations have none; available are "
                f"{', '.join(drift.MEASURES)}"
            )

    def record(
        self, found: Gathered, references: References, course: Course, wanted: Sequence[str], strata: Strata
    ) -> Record:
        """Everything that compares ``found`` with the references ``wanted``."""
        record, now = Record(), found.believed
        self._note_noise(record, found, references, course, known=NOISE_REFERENCE in wanted)
        for reference in wanted:
            then = references.believed(reference, now)
            for measure in self.measures:
                distances = self.distance(measure, now, then)
                summary = drift.summarise(distances, seed=self.seed)._asdict()
                names = {p: tags.drift(self.method, measure, reference, p) for p in tags.DRIFT_PARTS}
                record.shared |= {name: float(summary[p]) for p, name in names.items()}
            cosine = drift.cosine(now, then)
            if self.classes:
                before = references.others.get(reference, {}).get(
                    "probabilities", found.columns["probabilities"] * math.nan
                )
                classes = found.columns["targets"].flatten().to(torch.int64)
                p = found.columns["probabilities"]
                agreement = drift.agreement(p, before, classes, cosine, floor=course.floor)._asdict()
                record.shared |= self._named("predictions", reference, agreement)
            self._by_stratum(record, cosine, reference, found.strata, strata)
        return record

    def rank(
        self, record: Record, found: Gathered, references: References, wanted: Sequence[str], columns: Columns
    ) -> None:
        """Compare the global importance with that at the references, over samples with usable maps at both times."""
        now = found.believed
        for reference in wanted:
            before = references.believed(reference, now)
            both = (now.isfinite() & before.isfinite()).all(dim=1)
            importance, reference_importance = (_importance(maps[both], columns) for maps in (now, before))
            pair = (drift.ndcg(importance, reference_importance), drift.ndcg_adjusted(importance, reference_importance))
            record.shared |= self._named("ranking", reference, dict(zip(RANKING, pair, strict=True)))

    def follow(self, record: Record, found: Gathered, references: References, course: Course, step: int) -> None:
        """Advance the alarm and the test of convergence."""
        now = found.believed
        settled = False
        if "previous" in references.maps:
            # a slow, steady drift is small from one validation to the next, but not over three
            lagged = course.recent[0] if len(course.recent) == 3 else now * math.nan
            previous = drift.cosine(now, references.believed("previous", now))
            settled = course.follow(previous, drift.cosine(now, lagged), step, self.seed)
        values = {"cusum": course.cusum.statistic, "alarm": float(course.cusum.alarm), "converged": float(settled)}
        if self.draws:
            values["noise_floor"] = course.floor
        record.shared |= {tags.drift_state(self.method, what): value for what, value in values.items()}

    def _named(self, what: str, reference: str, values: Mapping[str, float]) -> dict[str, float]:
        return {tags.drift(self.method, what, reference, part): value for part, value in values.items()}

    def _note_noise(
        self, record: Record, found: Gathered, references: References, course: Course, *, known: bool
    ) -> None:
        """Log the last noise estimates: a second explanation is not made at every validation."""
        again = found.columns["replicate"]
        if not self.draws:
            return
        if again.shape[1]:
            course.floor = drift.noise_floor(found.maps, again.float())
        if not known:
            return
        then = references.others.get(NOISE_REFERENCE, {}).get("replicate")
        if again.shape[1] and then is not None:
            pairs = (found.maps, again.float()), (references.maps[NOISE_REFERENCE], then.float())
            noise = drift.denoised(*pairs, seed=self.seed)
            course.noise = dict(zip(NOISE, (*noise.squared, *noise.cosine, noise.reliability), strict=True))
        unknown = dict.fromkeys(NOISE, math.nan)
        record.shared |= self._named("noise", NOISE_REFERENCE, course.noise or unknown)

    def _by_stratum(self, record: Record, cosine: Tensor, reference: str, of: Tensor, strata: Strata) -> None:
        for name, inside in self._parts(strata, reference):
            record.direct[name] = float(cosine[inside[of]].nanmean())
        for attribute in strata.attributes:
            gap = drift.drift_gap(cosine, strata.groups(attribute, of))._asdict()
            record.shared |= self._named(f"gap_{attribute}", reference, gap)


def _importance(maps: Tensor, columns: Columns) -> Tensor:
    return drift.global_importance(columns.importance(maps) if columns.names else maps)
