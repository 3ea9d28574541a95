import os
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from xai_lightning.functional.render import (
    MOST_ROWS,
    NEUTRAL,
    UNDEFINED,
    attribution_grid,
    bar_chart,
    colour_scale,
)

ORANGE, RED, BLUE = (224, 123, 57), (127, 13, 32), (11, 60, 125)


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((picture == colour).all(-1).sum())


def rows_of(picture: np.ndarray, colour: tuple[int, int, int]) -> tuple[int, int]:
    rows = np.flatnonzero((picture == colour).all(-1).sum(1) > 20)
    return int(rows.min()), int(rows.max())


def grid(reference: torch.Tensor, now: torch.Tensor, scale: float = 1.0) -> np.ndarray:
    labels = [f"sample {i}" for i in range(len(now))]
    inputs = torch.eye(8).expand(len(now), 1, 8, 8)
    return attribution_grid(inputs, reference, now, labels=labels, scale=scale)


def assert_a_picture(picture: np.ndarray) -> None:
    """Trap 64: TensorBoard rescales and clips everything but uint8."""
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.shape[0] <= 700
    assert picture.shape[1] <= 900
    assert picture.flags.c_contiguous


def test_the_difference_of_equal_maps_is_exactly_neutral():
    full = torch.full((2, 8, 8), 0.7)
    even, changed = grid(full, full), grid(full, -full)
    tile = 150 * 150
    assert count(even, NEUTRAL) >= 2 * tile
    assert count(changed, NEUTRAL) < 100


def test_the_three_maps_share_one_scale():
    """Trap 32: a scale of its own for each map would hide a change of size."""
    ones = torch.ones(1, 8, 8)
    tile = 150 * 150
    picture = grid(ones, -ones)  # +1, -1 and the difference -2, which saturates
    assert (count(picture, RED) // tile, count(picture, BLUE) // tile) == (1, 2)
    assert count(grid(ones, -ones, scale=2.0), RED) < 1000
    assert count(grid(ones, -ones, scale=2.0), BLUE) // tile == 1


@pytest.mark.parametrize(
    "maps",
    [
        torch.zeros(2, 8, 8),
        -torch.rand(2, 8, 8),
        torch.rand(2, 8, 8),
        torch.full((2, 8, 8), torch.nan),
        torch.full((2, 8, 8), torch.inf),
        torch.full((2, 8, 8), 1e300, dtype=torch.float64),
        noise(2, 3, 14, 14),
        noise(2, 1, 300, 200),
        noise(2, 2, 1),
    ],
    ids=["zero", "negative", "positive", "nan", "infinite", "huge", "channels", "large", "tiny"],
)
def test_maps_of_every_kind_are_drawn(maps):
    """Trap 32: zero, single-sign and broken maps are common early in training, and crash captum's helpers."""
    assert_a_picture(grid(maps, maps.flip(0), scale=colour_scale(maps)))


@pytest.mark.parametrize(
    "inputs",
    [
        torch.rand(2, 3, 32, 32),
        noise(2, 1, 28, 28),
        noise(2, 5, 9, 9),
        noise(2, 28, 28),
        torch.randint(0, 255, (2, 3, 16, 16), dtype=torch.uint8),
        torch.full((2, 1, 8, 8), 0.3),
        torch.full((2, 3, 8, 8), torch.nan),
        noise(2, 1, 90, 6),
        noise(2, 1, 1, 400),
        noise(2, 3, 8, 8).bfloat16().requires_grad_(),
    ],
    ids=["rgb", "gray", "five channels", "plane", "uint8", "constant", "nan", "tall", "wide", "bfloat16"],
)
def test_inputs_of_every_kind_are_drawn(inputs):
    """Trap 32: standardised, single-channel and integer images."""
    maps = noise(2, 4, 4)
    assert_a_picture(attribution_grid(inputs, maps, maps, labels=["a", "b"], scale=1.0))


def test_inputs_of_other_than_three_channels_are_shown_by_their_mean():
    inputs, maps = noise(1, 5, 8, 8), torch.zeros(1, 2, 2)
    mean = inputs.double().mean(1)
    several, one = (attribution_grid(x, maps, maps, labels=["a"], scale=1.0) for x in (inputs, mean))
    assert np.array_equal(several, one)


def test_maps_of_several_channels_are_summed():
    inputs, maps = torch.zeros(1, 1, 8, 8), noise(2, 1, 3, 4, 4)
    several = attribution_grid(inputs, maps[0], maps[1], labels=["a"], scale=1.0)
    summed = maps.double().sum(2)
    assert np.array_equal(several, attribution_grid(inputs, summed[0], summed[1], labels=["a"], scale=1.0))


def test_a_constant_input_is_of_middle_brightness_and_a_broken_one_grey():
    maps = torch.zeros(1, 2, 2)
    constant, broken = (torch.full((1, 1, 4, 4), value) for value in (7.0, torch.nan))
    assert count(attribution_grid(constant, maps, maps, labels=["a"], scale=1.0), (128, 128, 128)) >= 150 * 150
    assert count(attribution_grid(broken, maps, maps, labels=["a"], scale=1.0), UNDEFINED) >= 150 * 150


def test_an_input_is_stretched_between_its_own_extremes():
    maps, image = torch.zeros(1, 2, 2), torch.tensor([[[[-3.0, 5.0], [1.0, 1.0]]]])
    shown = attribution_grid(image, maps, maps, labels=["a"], scale=1.0)
    quarter = 75 * 75
    assert count(shown, (0, 0, 0)) >= quarter
    assert 2 * quarter <= count(shown, (128, 128, 128)) < 3 * quarter


def test_values_that_are_not_finite_are_grey_and_only_they():
    maps = torch.zeros(1, 10, 10)
    assert count(grid(maps, maps), UNDEFINED) < 100  # edges of letters
    broken = maps.clone()
    broken[0, 0, 0], broken[0, 5, 5] = torch.nan, torch.inf
    assert 4 * 15 * 15 <= count(grid(maps, broken), UNDEFINED) < 4 * 15 * 15 + 200


def test_only_the_first_samples_are_shown():
    maps, inputs, labels = noise(20, 8, 8), torch.rand(20, 1, 8, 8), list("abcdefghijklmnopqrst")
    picture = attribution_grid(inputs, maps, maps, labels=labels, scale=1.0)
    first = slice(MOST_ROWS)
    shown = attribution_grid(inputs[first], maps[first], maps[first], labels=labels[first], scale=1.0)
    assert np.array_equal(picture, shown)


@pytest.mark.parametrize(
    ("inputs", "reference", "now", "labels", "scale", "shown"),
    [
        ((2, 1, 4, 4), (2, 4, 4), (2, 5, 5), 2, 1.0, r"\(2, 4, 4\) and \(2, 5, 5\)"),
        ((2, 1, 4, 4), (1, 4, 4), (2, 4, 4), 2, 1.0, r"\(1, 4, 4\) and \(2, 4, 4\)"),
        ((2, 1, 4, 4), (2, 4, 4), (2, 4, 4), 3, 1.0, "3 labels"),
        ((0, 1, 4, 4), (0, 4, 4), (0, 4, 4), 0, 1.0, "0 labels"),
        ((2, 16), (2, 4, 4), (2, 4, 4), 2, 1.0, r"\(2, 16\)"),
        ((2, 1, 4, 4), (2, 4, 4), (2, 4, 4), 2, 0.0, r"got 0\.0"),
        ((2, 1, 4, 4), (2, 4, 4), (2, 4, 4), 2, float("nan"), "got nan"),
    ],
)
def test_a_grid_that_does_not_fit_is_refused_with_its_shapes(inputs, reference, now, labels, scale, shown):
    arguments = (torch.ones(shape) for shape in (inputs, reference, now))
    with pytest.raises(ValueError, match=shown):
        attribution_grid(*arguments, labels=["x"] * labels, scale=scale)


def test_the_colour_scale_is_the_percentile_of_absolute_values_summed_over_channels():
    maps = torch.zeros(1, 2, 10, 100)
    maps[0, 0] = torch.arange(1000.0).view(10, 100)
    maps[0, 1] = -3 * maps[0, 0]
    assert colour_scale(maps) == pytest.approx(2 * 0.995 * 999)


@settings(deadline=None)
@given(st.lists(st.sampled_from([0.0, -0.0, 1e-30, -2.0, float("nan"), float("inf")]), min_size=4, max_size=4))
def test_the_colour_scale_is_always_positive_and_finite(values):
    scale = colour_scale(torch.tensor(values, dtype=torch.float64).view(1, 2, 2))
    assert 0 < scale < float("inf")


def test_maps_that_show_nothing_do_not_set_the_scale_of_later_ones():
    """Trap 32: a network that is dead at first has zero maps, and the largest of several scales is kept."""
    assert colour_scale(torch.zeros(1, 4, 4)) < colour_scale(torch.full((1, 4, 4), 1e-9))


def test_one_extreme_value_does_not_stretch_the_scale():
    maps = noise(8, 14, 14)
    maps[0, 0, 0] = 1e6
    assert colour_scale(maps) < 10


def test_a_sparse_map_has_its_maximum_as_the_scale():
    maps = torch.zeros(1, 50, 50)
    maps[0, 3, 3] = -4.0
    assert colour_scale(maps) == 4.0


def test_highlighted_variables_have_their_own_colour_and_a_legend():
    names, values = ["age", "sex", "income"], [0.3, 0.2, 0.1]
    plain, marked = (bar_chart(names, values, title="t", highlight=x) for x in ((), {"sex", "unheard of"}))
    assert plain.shape[1] == 560
    assert count(plain, ORANGE) == 0
    assert count(marked, ORANGE) > 1000


@settings(max_examples=5, deadline=None)
@given(st.permutations([0.9, 0.4, 0.3, 0.2]))
def test_bars_keep_their_places_from_one_validation_to_the_next(values):
    names, reference = ["a", "b", "c", "d"], [0.1, 0.4, 0.2, 0.3]
    picture = bar_chart(names, values, title="t", reference=reference, highlight={"b"})
    first = bar_chart(names, reference, title="t", reference=reference, highlight={"b"})
    assert rows_of(picture, ORANGE)[0] == rows_of(first, ORANGE)[0] < 60


def test_bars_without_a_reference_keep_the_given_order():
    names = ["a", "b", "c"]
    top, bottom = (bar_chart(names, [0.1, 0.2, 0.9], title="t", highlight={x}) for x in ("a", "c"))
    assert rows_of(top, ORANGE)[0] < rows_of(bottom, ORANGE)[0]


def test_a_missing_value_leaves_its_row_without_a_bar():
    names = ["a", "b", "c"]
    for value in (float("nan"), float("inf"), -float("inf"), 1e305):
        picture = bar_chart(names, [0.3, value, 0.1], title="t", highlight={"b"}, reference=[0.1, float("nan"), 0.2])
        assert_a_picture(picture)
        assert count(picture, ORANGE) < 500  # the legend alone


@pytest.mark.parametrize("values", [[0.0, 0.0], [float("nan")] * 2, [1e-200, 0.0], [-1.0, 2.0], [5e-324, 1e99]])
def test_bars_of_every_size_are_drawn(values):
    """Trap 32: nothing to scale by."""
    assert_a_picture(bar_chart(["a", "b"], values, title="t", reference=values[::-1]))


def test_of_many_variables_the_highlighted_and_the_largest_are_shown():
    names = [f"x{i}" for i in range(200)]
    values = [float(200 - i) for i in range(200)]
    picture = bar_chart(names, values, title="t", reference=values, highlight={"x199"})
    assert_a_picture(picture)
    assert rows_of(picture, ORANGE)[0] > 500
    forty = bar_chart(names[:40], values[:40], title="t", reference=values[:40], highlight={"x39"})
    assert picture.shape == forty.shape


def test_names_are_shown_as_they_are_written():
    names = ["cost_in_$", r"$\frac$", "a$b$c", "native-country=Holand-Netherlands and more", "two\nlines", "ü"]
    assert_a_picture(bar_chart(names, [0.1] * 6, title=r"50 % of $\frac$"))
    maps = noise(6, 4, 4)
    assert_a_picture(attribution_grid(maps, maps, maps, labels=[*names[:5], ""], scale=1.0))


@pytest.mark.parametrize(
    ("names", "values", "reference"),
    [(["a"], [], None), ([], [], None), (["a", "b"], [1, 2], [1]), (["a"], [1, 2], [1])],
)
def test_bars_that_do_not_match_their_names_are_refused_with_their_numbers(names, values, reference):
    with pytest.raises(ValueError, match=f"got {len(names)}, {len(values)} and"):
        bar_chart(names, values, title="t", reference=reference)


def test_equal_data_give_equal_pictures_whatever_style_the_user_has_set():
    maps = noise(1, 8, 8)
    arguments = {"labels": ["a"], "scale": 1.0}
    charts = [bar_chart(["a", "b"], [1, 2], title="t")]
    grids = [attribution_grid(maps, maps, -maps, **arguments)]
    with mpl.rc_context({"text.usetex": True, "figure.facecolor": "black", "font.size": 30, "savefig.dpi": 300}):
        charts.append(bar_chart(["a", "b"], [1, 2], title="t"))
        grids.append(attribution_grid(maps, maps, -maps, **arguments))
        assert mpl.rcParams["font.size"] == 30
    assert np.array_equal(*charts)
    assert np.array_equal(*grids)


def test_drawing_needs_no_display_and_opens_no_pyplot_figure():
    """Trap 65: pyplot figures leak, are not thread-safe and need a backend."""
    code = """
import sys, torch
from xai_lightning.functional.render import attribution_grid, bar_chart
for _ in range(3):
    bar_chart(["a", "b"], [1, 2], title="t", reference=[2, 1], highlight={"a"})
    attribution_grid(*torch.rand(3, 2, 1, 8, 8), labels=["a", "b"], scale=1.0)
assert "matplotlib.pyplot" not in sys.modules
import matplotlib._pylab_helpers as helpers
assert helpers.Gcf.figs == {}
"""
    environment = {key: value for key, value in os.environ.items() if key != "DISPLAY"}
    environment |= {"MPLBACKEND": "TkAgg", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("shape", [(2, 3, 3), (2, 1, 3, 3)])
def test_complex_maps_are_refused_and_not_halved(shape):
    with pytest.raises(ValueError, match=r"Images must be real, got torch\.complex64"):
        colour_scale(torch.ones(shape, dtype=torch.complex64))
