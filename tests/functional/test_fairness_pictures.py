"""Rates and calibration per group, bounds against limits: read back from the pixels, as a browser gets them."""

import io
import logging
import math
from collections.abc import Callable

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image

from xai_lightning.functional.intervals import wilson
from xai_lightning.functional.render import (
    GroupRate,
    LimitHistory,
    calibration,
    counted_rate,
    gate_timeline,
    group_rates,
)
from xai_lightning.functional.render.sheets import breadth, fitted

VALUE, THRESHOLD, STAR = (32, 99, 155), (209, 96, 15), (0, 121, 92)
FORBIDDEN, BAND, INK, FAINT, WHITE = (251, 227, 211), (201, 220, 236), (34, 34, 34), (111, 111, 111), (255, 255, 255)
NAN, INF = math.nan, math.inf


def back(picture: np.ndarray) -> np.ndarray:
    """The picture after it was written as PNG, which is how TensorBoard keeps it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return np.asarray(Image.open(file))


def places(picture: np.ndarray, colour: tuple[int, int, int], off: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Rows and columns of the pixels of a colour; ``off`` takes in those at the edge of thin lines."""
    return np.nonzero(np.abs(back(picture).astype(int) - colour).max(-1) <= off)


def near(picture: np.ndarray, x: float, y: float, colour: tuple[int, int, int], reach: int = 5) -> int:
    """Pixels of about a colour around a place."""
    top, left = max(0, round(y) - reach), max(0, round(x) - reach)
    part = back(picture)[top : round(y) + reach + 1, left : round(x) + reach + 1].astype(int)
    return int((np.abs(part - colour).max(-1) < 25).sum())


# --- rates per group: one rate has its axis from x = 170 to 582, rows of 20 pixels from y = 58


def rate(values: list[float], overall: float = NAN, number: list[int] | None = None) -> GroupRate:
    unknown = [NAN] * len(values)
    return GroupRate("accuracy", values, unknown, unknown, number or [100] * len(values), overall)


def dots(picture: np.ndarray, row: int) -> np.ndarray:
    rows, columns = places(picture, VALUE)
    return columns[(rows >= 58 + 20 * row) & (rows < 78 + 20 * row)]


@pytest.mark.parametrize("others", [0.01, 0.5, 1.0])
def test_a_rate_is_drawn_on_an_axis_from_0_to_1_whatever_the_others_are(others: float) -> None:
    picture = group_rates(["a", "b"], [rate([0.25, others])], title="t")
    assert dots(picture, 0).mean() == pytest.approx(170 + 0.25 * 412, abs=1)
    assert dots(picture, 1).mean() == pytest.approx(170 + others * 412, abs=1)


def test_a_group_without_evidence_has_words_and_no_dot() -> None:
    picture = group_rates(["a", "b", "c"], [rate([0.0, NAN, 0.0], number=[9, 9, 0])], title="t")
    assert dots(picture, 0).mean() == pytest.approx(170, abs=1)
    assert len(dots(picture, 1)) == len(dots(picture, 2)) == 0
    for row in (1, 2):
        assert near(picture, 376, 68 + 20 * row, INK, reach=8) > 5
    assert near(picture, 376, 68, INK, reach=8) == 0


def test_the_overall_rate_is_a_line_through_all_rows() -> None:
    rows, columns = places(group_rates(["a"] * 4, [rate([0.9] * 4, overall=0.5)], title="t"), THRESHOLD, 80)
    assert columns.mean() == pytest.approx(170 + 0.5 * 412, abs=1)
    assert (rows.min(), rows.max()) == pytest.approx((58, 137), abs=1)
    assert len(places(group_rates(["a"], [rate([0.9])], title="t"), THRESHOLD, 80)[0]) == 0


def test_counts_give_wilson_intervals_and_the_pooled_rate() -> None:
    successes, totals = torch.tensor([8, 0, 3]), torch.tensor([10, 0, 30])
    found, limits = counted_rate("x", successes, totals), wilson(successes, totals, 0.025)
    assert found.overall == 11 / 40
    assert found.value[::2] == [0.8, 0.1]
    assert math.isnan(found.value[1])
    assert found.lower[::2] == limits.lower[::2].tolist()
    picture = group_rates(["a", "b", "c"], [found], title="t")
    rows, columns = places(picture, INK)
    whisker = columns[(rows == 68) & (columns > 165) & (columns < 590)]
    ends = [170 + float(x[0]) * 412 for x in limits]
    assert [whisker.min(), whisker.max()] == pytest.approx(ends, abs=2)


def test_of_many_groups_the_ends_of_the_rates_are_shown_and_the_rest_is_counted() -> None:
    values = [0.5] * 57
    values[30], values[41], values[50] = 0.02, 0.97, NAN
    many = group_rates([f"group {i}" for i in range(57)], [rate(values, overall=0.5)], title="t")
    few = group_rates([f"group {i}" for i in range(20)], [rate([0.5] * 20, overall=0.5)], title="t")
    assert many.shape[0] == few.shape[0] + 17, "as many rows, and a note"
    columns = places(many, VALUE)[1]
    assert columns.min() == pytest.approx(170 + 0.02 * 412, abs=8)
    assert columns.max() == pytest.approx(170 + 0.97 * 412, abs=8)


def test_rates_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"'accuracy' must have one value for each of 2 groups, got \[1, 1, 1, 1\]"):
        group_rates(["a", "b"], [rate([0.5])], title="t")
    with pytest.raises(ValueError, match="must not be empty, got 1 and 0"):
        group_rates(["a"], [], title="t")


# --- calibration: one group has a square of 280 pixels from (30, 54)


def curve(score: list[float], observed: list[float], number: list[int], **more: object) -> np.ndarray:
    return calibration(["a"], *(torch.tensor([x]) for x in (score, observed, number)), title="t", **more)


def test_bins_lie_at_their_mean_score_and_observed_share() -> None:
    picture = curve([0.2, 0.7], [0.4, 0.5], [50, 50])
    for x, y in ((0.2, 0.4), (0.7, 0.5)):
        assert near(picture, 30 + 280 * x, 54 + 280 * (1 - y), VALUE) > 20
    assert near(picture, 30 + 280 * 0.2, 54 + 280 * 0.8, VALUE) == 0
    low, high = (float(x) for x in wilson(torch.tensor(20), torch.tensor(50), 0.025))
    for end, inside in ((low, 5), (high, -5)):
        assert near(picture, 30 + 280 * 0.2, 54 + 280 * (1 - end) - inside, INK, reach=2) > 3
        assert near(picture, 30 + 280 * 0.2, 54 + 280 * (1 - end) + inside, INK, reach=2) == 0


def test_the_diagonal_is_drawn_and_empty_bins_are_not() -> None:
    picture = curve([0.2, NAN, 0.9], [NAN, 0.5, 0.1], [5, 5, 0])
    for x, y in ((70, 210), (230, 50)):
        part = back(picture)[54 + y - 2 : 54 + y + 3, 30 + x - 2 : 30 + x + 3]
        assert part.min() < 180
        assert part[[0, -1], [0, -1]].min() == 255
    assert len(places(picture, VALUE)[0]) == 0
    assert near(picture, 170, 194, INK, reach=8) > 5, "it says that there is no evidence"


def test_the_strip_shows_the_histogram_of_scores() -> None:
    strip = (143, 180, 212)
    rows, columns = places(curve([0.2], [0.4], [50], scores=torch.tensor([[0, 1, 4, 0]])), strip)
    assert (columns.min(), columns.max()) == (30 + 70, 30 + 209)
    heights = [len(set(rows[columns == x])) for x in (130, 200)]
    assert heights[0] == pytest.approx(heights[1] / 4, abs=1)


def test_of_many_groups_the_worst_calibrated_are_shown() -> None:
    score = torch.full((30, 1), 0.5)
    observed = score.clone()
    observed[27] = 1.0
    picture = calibration([str(i) for i in range(30)], score, observed, torch.full((30, 1), 9), title="t")
    assert picture.shape[0] <= 1108
    assert near(picture, 2 * 239 + 30 + 92, 54 + 3 * 260, VALUE) > 15, "the last panel has the point far off"
    assert near(picture, 239 + 30 + 92, 54 + 3 * 260, VALUE) == 0


def test_curves_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match=r"\[1 groups, bins\], got shapes \[\(1, 2\), \(1, 1\), \(1, 2\)\]"):
        curve([0.1, 0.2], [0.1], [1, 2])
    with pytest.raises(ValueError, match=r"`scores` must be .* got shape \(2, 1\)"):
        curve([0.1], [0.1], [1], scores=torch.ones(2, 1))


# --- the timeline: one limit has its panel from (62, 67) to (620, 185), with edges of 9 pixels


def timeline(
    bound: list[float], *, kind: str = "at_most", opened: list[bool] | None = None, **more: object
) -> np.ndarray:
    limit = LimitHistory("gap", kind, more.pop("threshold", 0.1), bound, **more.pop("series", {}))
    steps = more.pop("steps", [100 * i for i in range(len(bound))])
    return gate_timeline(steps, [limit], opened=opened or [False] * len(bound), **more)


def across(share: float) -> float:
    return 70 + share * 542


@pytest.mark.parametrize(("kind", "above"), [("at_most", True), ("at_least", False), ("above", False)])
def test_the_threshold_is_a_line_and_its_forbidden_side_is_shaded(kind: str, above: bool) -> None:
    picture = timeline([0.2, 0.15, 0.05], kind=kind)
    rows, _columns = places(picture[:190], THRESHOLD)
    wide = [row for row in np.unique(rows) if (rows == row).sum() > 400]
    assert 1 <= len(wide) <= 3
    shaded = places(picture, FORBIDDEN)[0]
    assert (shaded.max() < wide[-1] + 2) if above else (shaded.min() > wide[0] - 2)
    assert len(shaded) > 10_000


def test_steps_are_the_axis() -> None:
    picture = timeline([0.05, 0.05, 0.05], opened=[True] * 3, steps=[0, 100, 1000])
    y = np.median(places(picture[67:185, 400:618], INK)[0]) + 67
    assert near(picture, across(0.1), y, INK) > 20
    assert near(picture, across(0.5), y, INK) < 20, "the line alone"


def test_open_is_filled_closed_is_hollow_in_the_colour_of_who_closed_and_the_best_is_a_star() -> None:
    picture = timeline([0.3, 0.05, 0.05, 0.05], opened=[False, False, True, True], best=300)
    y = np.median(places(picture[67:185, 300:440], INK)[0]) + 67
    assert near(picture, across(0), 78, THRESHOLD, reach=12) > 5, "this limit closed it"
    assert near(picture, across(1 / 3), y, FAINT) > 5, "another limit closed it"
    assert near(picture, across(1 / 3), y, WHITE, reach=1) >= 6
    assert near(picture, across(2 / 3), y, INK, reach=1) == 9
    assert near(picture, across(1), y, STAR, reach=2) > 15
    assert near(picture, across(2 / 3), y, STAR) == 0


@pytest.mark.parametrize(
    ("bound", "kind", "top"),
    [(INF, "at_most", True), (-INF, "at_least", False), (NAN, "at_most", True), (NAN, "at_least", False),
     (1e300, "at_most", True), (INF, "above", True)],
)  # fmt: skip
def test_bounds_that_cannot_be_drawn_are_marks_at_the_edge(bound: float, kind: str, top: bool) -> None:
    picture, without = (timeline([0.3, x, 0.05, 0.05], kind=kind) for x in (bound, 0.1))
    y = 64 if top else 188
    inks = [near(picture, across(1 / 3), y, ink) for ink in (THRESHOLD, FAINT)]
    assert max(inks) > 6
    assert max(near(without, across(1 / 3), y, ink) for ink in (THRESHOLD, FAINT)) < max(inks)


def test_the_estimate_lies_in_the_band_of_its_interval() -> None:
    series = {"value": [0.05, 0.05], "lower": [0.02, 0.02], "upper": [0.08, INF]}
    picture = timeline([0.2, 0.2], series=series)
    value, band = (places(picture[60:190], colour, off) for colour, off in ((VALUE, 60), (BAND, 0)))
    assert len(np.unique(value[1])) > 500
    assert band[0].min() < value[0].min() <= value[0].max() < band[0].max()


def test_of_many_validations_first_last_and_best_are_kept() -> None:
    bound = [0.05] * 400
    bound[7] = 0.09
    picture = timeline(bound, opened=[True] * 400, best=700)
    _rows, columns = places(picture[60:190], STAR)
    assert columns.mean() == pytest.approx(across(7 / 399), abs=1)


def test_limits_that_were_broken_last_are_shown_before_others() -> None:
    limits = [LimitHistory(f"limit {i}", "at_most", 0.1, [0.05]) for i in range(12)]
    kept = gate_timeline([1], limits, opened=[True])
    limits[11] = LimitHistory("limit 11", "at_most", 0.1, [0.5])
    broken = gate_timeline([1], limits, opened=[False])
    closed_by_it = [places(x[: x.shape[0] - 30], THRESHOLD)[0].size for x in (kept, broken)]
    assert closed_by_it[1] > closed_by_it[0], "an orange ring"
    assert kept.shape[1] == 920


def test_a_timeline_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"'gap' must have one entry for each of 1 steps, got \[2\]"):
        timeline([0.1, 0.2], steps=[1], opened=[True])
    with pytest.raises(ValueError, match="each of 1 steps, got 2"):
        timeline([0.1], opened=[True, False])
    with pytest.raises(ValueError, match="must not be empty, got 0 and 1"):
        timeline([])


# --- names, and all of them


def test_names_are_shortened_in_the_middle_and_stay_different() -> None:
    names = ["race=Black & sex=Female & age=young", "race=Black & sex=Female & age=older", "x" * 400, "y", "", "a\nb"]
    cut = fitted(names, 120, 9)
    assert cut[0].endswith("young")
    assert cut[1].endswith("older")
    assert cut[3:] == ["y", "(empty)", "a b"]
    assert all(breadth(name, 9) <= 122 for name in cut)
    equal = fitted(["same beginning " + "-" * 90 + " end"] * 2, 120, 9)
    assert [name[:2] for name in equal] == ["1:", "2:"]


def test_names_that_the_font_cannot_draw_are_numbered() -> None:
    assert fitted(["Ж", "\u7537\u6027", "\u5973\u6027"], 120, 9, [4, 5, 6]) == [
        "Ж",
        "5: \u7537\u6027",
        "6: \u5973\u6027",
    ]


def pictures(name: str = "a") -> list[Callable[[], np.ndarray]]:
    score = torch.rand(25, 10, generator=torch.Generator().manual_seed(0))
    counts = torch.arange(25), torch.full((25,), 30)
    course = (0.3 - score.flatten()[:128] / 4).tolist()
    limits = [LimitHistory(f"{name} {i}", "at_most", 0.1, course, course, course, course) for i in range(9)]
    return [
        lambda: group_rates([name] * 25, [counted_rate(f"{name} {i}", *counts) for i in range(9)], title=name),
        lambda: calibration([name] * 25, score, score, score * 100, title=name),
        lambda: gate_timeline(range(128), limits, opened=[True] * 128, best=5, title=name),
    ]


@pytest.mark.parametrize(
    "name", ["a", "$x_1$ %d {}", "\u7537\u6027 \U0001f600", "\ud800\x00", "\u0633\u0644\u0627\u0645", "W" * 999]
)
def test_any_name_is_drawn_without_a_word_from_matplotlib(name: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        for draw in pictures(name):
            picture = draw()
            assert picture.dtype == np.uint8
            assert picture.shape[0] <= 1900
            assert picture.shape[1] <= 920
            assert picture.flags.c_contiguous
            assert (back(picture)[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all(), "a ground of its own for dark pages"
    assert caplog.records == []


def test_equal_input_gives_equal_pixels_whatever_style_the_user_has_set() -> None:
    plain = [draw() for draw in pictures()]
    with mpl.rc_context({"axes.facecolor": "black", "font.size": 30, "lines.linewidth": 9, "savefig.dpi": 30}):
        styled = [draw() for draw in pictures()]
    for one, other in zip(plain, styled, strict=True):
        assert np.array_equal(one, other)
