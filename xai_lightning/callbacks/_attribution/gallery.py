"""Pictures of explained samples, drawn on rank zero from its share of the probe."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from xai_lightning import tags
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.explanation import Explanation
from xai_lightning.callbacks._attribution.gathered import Gathered
from xai_lightning.callbacks._attribution.probe import gallery
from xai_lightning.callbacks._attribution.record import importance_of, mean_limits
from xai_lightning.callbacks._attribution.references import References
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._record import Record
from xai_lightning.functional import drift, render

SHARES = "of the map's total |attribution|"
Words = Callable[[int], str] | Sequence[str] | Mapping[int, str]


class Shown(NamedTuple):
    """Samples of this rank for pictures: rows, columns of their explanation, places in the whole probe, whole maps."""

    rows: Rows
    columns: dict[str, Tensor]
    places: Tensor
    maps: Tensor


class Gallery:
    """Draws the explanations of one monitor.

    Args:
        method: its label.
        explainer: knows the kind of the inputs.
        shares: variables to highlight, by the name of their logged share.
        log_inputs: whether inputs may be shown.
        words: words for token ids.
    """

    def __init__(
        self,
        method: str,
        explainer: Explainer,
        *,
        shares: Mapping[str, Sequence[str]],
        log_inputs: bool,
        words: Words | None,
    ) -> None:
        self._method, self._explainer, self._shares = method, explainer, shares
        self._log_inputs, self._words = log_inputs, words

    def add(
        self,
        record: Record,
        found: Gathered,
        references: References,
        course: Course,
        shown: Shown | None,
        names: Sequence[str],
    ) -> None:
        """Add every picture that inputs of this kind have; ``names`` are those of the strata."""
        self._add_bars(record, references)
        if self._explainer.picture is not None:
            # from the whole probe, and even if this rank has nothing to show: names are fixed (law 4)
            references.scale = _kept(references.scale, found.colour_scale)
            record.direct[tags.xai(self._method, "colour_scale")] = references.scale
        if shown is None or not len(shown.places):
            return
        titles = self._titles(shown, references, names)
        if self._explainer.picture == "maps":
            self._add_grid(record, found, references, shown, titles)
        elif self._explainer.picture == "tokens":
            self._add_lines(record, references, shown, _marked(titles, found, shown))
        elif self._explainer.picture == "series":
            self._add_bands(record, references, shown, _marked(titles, found, shown))
        if self._explainer.grid is not None and course.numbers:
            self._add_film(record, course, shown, titles)

    def _add_bars(self, record: Record, references: References) -> None:
        """Bars of what is logged (law 10)."""
        columns = self._explainer.columns
        if not columns.names:
            return
        values = importance_of(self._method, record, columns)
        lower, upper = (
            [record.direct[tags.importance_limit(self._method, f, side)] for f in columns.names]
            for side in ("lower", "upper")
        )
        record.pictures[tags.attribution(self._method, "importance")] = lambda: render.bar_chart(
            columns.names,
            values,
            title=f"mean |attribution|, {self._method}",
            reference=references.importance or None,
            highlight=[name for names in self._shares.values() for name in names],
            highlighted_as=" or ".join(share.removesuffix("_share") for share in self._shares),
            intervals=list(zip(lower, upper, strict=True)),
        )

    def add_average(self, record: Record, fresh: Gathered, references: References) -> None:
        """Add a picture of where in images the fresh sample's attribution lies on average, and how certain that is."""
        grid = self._explainer.grid
        if grid is None:
            return
        shares = drift.normalised(fresh.believed).abs()
        lower, upper = mean_limits(shares)
        mean = drift.global_importance(shares)
        references.average_scale = _kept(references.average_scale, render.colour_scale(mean.reshape(1, *grid)))
        pair = torch.stack([mean, (upper - lower) / 2]).reshape(2, *grid)
        scale, count = references.average_scale, int(shares.isfinite().all(dim=1).sum())
        record.pictures[tags.attribution(self._method, "average")] = lambda: render.average_map(
            pair[0], pair[1], scale=scale, title=f"mean share of |attribution|, {count} fresh samples, {self._method}"
        )

    def _titles(self, shown: Shown, references: References, names: Sequence[str]) -> list[str]:
        """Up to three lines each: what the sample is, what the network predicts, how its attributions have grown."""
        titles, now = [], shown.columns["maps"].abs().sum(dim=1)
        first = references.maps.get("first")
        grown = now * math.nan if first is None else now / first[shown.places].abs().sum(dim=1)
        columns = shown.columns["probabilities"], shown.columns["targets"].flatten().tolist(), grown.tolist()
        for stratum, p, target, times in zip(shown.rows.strata.tolist(), *columns, strict=True):
            size = f"\ntotal x {_grown(times)}" if math.isfinite(times) else ""
            says = self._says(p, target)
            titles.append(self._what(names[stratum], target) + (f"\n{says}" if says else "") + size)
        return titles

    def _what(self, stratum: str, target: float) -> str:
        """The label, or the target of a regression, and the groups."""
        groups = stratum.removeprefix("all")
        if self._explainer.task == "regression":
            return f"target {target:.3g}{groups}"
        if self._explainer.task == "classification":
            return stratum.replace("class_", "label ", 1)
        return f"explains {self._explainer.ways.target}{groups}"

    def _says(self, p: Tensor, target: float) -> str:
        """The prediction and its confidence, after the explained class if labels are not explained."""
        if len(p) == 1:
            return f"pred {float(p[0]):.3g}"
        if len(p) == 0 or not bool(p.isfinite().all()):
            return ""
        classes = self._explainer.task == "classification" and self._explainer.ways.target != "label"
        return (f"explains {target:.0f}, " if classes else "") + f"pred {int(p.argmax())} ({float(p.max()):.0%})"

    def _add_grid(
        self, record: Record, found: Gathered, references: References, shown: Shown, titles: Sequence[str]
    ) -> None:
        now = drift.normalised(shown.maps)
        references.show(now, shown.rows.hashes)
        inputs = shown.rows.inputs if self._log_inputs else None
        first, scale, missed = references.shown, references.scale, found.incomplete[shown.places].tolist()
        record.pictures[tags.attribution(self._method, "maps")] = lambda: render.attribution_grid(
            inputs, first, now, labels=titles, scale=scale, incomplete=missed, note=f"parts {SHARES}"
        )

    def _add_film(self, record: Record, course: Course, shown: Shown, titles: Sequence[str]) -> None:
        height, width = self._explainer.grid or (0, 0)
        maps = torch.stack([drift.normalised(each) for each in course.film(shown.places)])
        maps = maps.reshape(*maps.shape[:2], height, width)
        scale, numbers = 0.0, list(course.numbers)
        for frame in maps:
            scale = _kept(scale, render.colour_scale(frame))
        record.pictures[tags.attribution(self._method, "film")] = lambda: render.filmstrip(
            maps, numbers, labels=titles, scale=scale, note=SHARES
        )

    def _add_lines(self, record: Record, references: References, shown: Shown, titles: Sequence[str]) -> None:
        now, before = self._compared(references, shown)
        scale = references.scale
        lines, texts = [title.replace("\n", ", ") for title in titles], shown.rows.inputs
        # the user's words are looked up while drawing, so that a failure costs only the picture
        record.pictures[tags.attribution(self._method, "tokens")] = lambda: render.token_lines(
            [self._spelled(ids) for ids in texts], now, before, titles=lines, scale=scale, note=SHARES
        )

    def _spelled(self, ids: Tensor) -> list[str]:
        ways, spelled = self._explainer.ways, []
        for place, number in enumerate(ids.tolist()):
            if number == ways.pad_token:
                spelled.append("")
            elif not self._log_inputs:
                spelled.append(f"t{place + 1}")
            else:
                spelled.append(self._word(number))
        return spelled

    def _word(self, number: int) -> str:
        """The word for a token id, or its number if none is known."""
        words = self._words
        if callable(words):
            return str(words(number))
        if isinstance(words, Mapping):
            return str(words.get(number, number))
        return str(words[number] if words is not None and 0 <= number < len(words) else number)

    def _add_bands(self, record: Record, references: References, shown: Shown, titles: Sequence[str]) -> None:
        now, before = self._compared(references, shown)
        scale = references.scale
        series = shown.rows.inputs if self._log_inputs else None
        if series is not None and self._explainer.ways.time_first:
            series = series.transpose(1, 2)
        along = 2 if self._explainer.ways.time_first else 1
        count = shown.rows.inputs.shape[along]
        channels = self._channels(now.shape[1] // count, now.shape[1])
        bands = [m.reshape(len(m), count, -1) for m in (now, now if before is None else before)]
        record.pictures[tags.attribution(self._method, "series")] = lambda: render.series_bands(
            series, bands[0], bands[1], channels=channels, titles=titles, scale=scale, note=SHARES
        )

    def _channels(self, cells: int, width: int) -> list[str]:
        """The variable that each channel of the first input, which has ``cells`` columns, is or belongs to."""
        columns = self._explainer.columns
        owners = enumerate(columns.owner[:width:cells].tolist())
        return [f"channel_{i}" if owner < 0 else columns.names[owner] for i, owner in owners]

    def _compared(self, references: References, shown: Shown) -> tuple[Tensor, Tensor | None]:
        """Canonical maps of the first input now and at the first reference, as shares of the size of whole maps."""
        canon = self._explainer.canon
        width = canon.first if canon is not None else 0
        now, first = drift.normalised(shown.columns["maps"].float()), references.maps.get("first")
        before = None if first is None else drift.normalised(first[shown.places])
        return now[:, :width], None if before is None else before[:, :width]


def _grown(times: float) -> str:
    return f"{times:,.0f}" if 100 <= times < 1e6 else f"{times:.2g}"


def _kept(scale: float, now: float) -> float:
    """The colour scale that was fixed, unless nothing was visible then: all later maps would saturate."""
    return scale if scale > render.NO_SCALE else now


def _marked(titles: Sequence[str], found: Gathered, shown: Shown) -> list[str]:
    """Titles, marked for samples that are left out of drift."""
    parts = zip(titles, found.incomplete[shown.places].tolist(), strict=True)
    first = [(title.partition("\n"), " ! incomplete" * missed) for title, missed in parts]
    return [what + mark + end + rest for (what, end, rest), mark in first]


def chosen(rows: Rows, explanation: Explanation, found: Gathered, scale: float, *, whole: bool) -> Shown:
    """Up to eight samples of this rank's share of the probe.

    Args:
        rows: this rank's rows.
        explanation: the explanation of all these rows.
        found: the whole probe.
        scale: standard deviation of the targets of a regression, else 1.
        whole: whether whole maps were kept for all rows, rather than only for those shown.
    """
    where = found.own[gallery(len(found.own))]
    columns = {name: column[where] for name, column in explanation.columns.items()}
    columns["maps"] = columns["maps"] / scale
    alike = (rows.hashes[where, None] == found.hashes) & (rows.strata[where, None] == found.strata)
    places = alike.int().argmax(dim=1)
    maps = explanation.shown
    if maps.numel():
        maps = (maps[where] if whole else maps) / scale
    return Shown(rows.take(where), columns, places, maps)
