"""Layers over validations and against each other, histograms, and samples of units: read back from the pixels."""

import io
import math
import subprocess
import sys

import matplotlib as mpl
import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from xai_lightning.functional.activation import HISTOGRAM_LIMITS
from xai_lightning.functional.render.canvas import UNDEFINED
from xai_lightning.functional.render.layers import evenly, layer_heatmap, layer_similarity
from xai_lightning.functional.render.names import module_names
from xai_lightning.functional.render.ridges import histogram_ridges
from xai_lightning.functional.render.units import unit_samples

DARK, BRIGHT = (0, 34, 77), (253, 231, 55)
LONG = [f"model.encoder.layers.{i}.feed_forward.activation" for i in range(40)]


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def back(picture: np.ndarray) -> np.ndarray:
    """The picture after it was written as PNG, which is how TensorBoard keeps it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return np.asarray(Image.open(file))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((back(picture) == colour).all(-1).sum())


def ink(picture: np.ndarray) -> int:
    return int((back(picture).max(-1) < 90).sum())


def heat(values: Tensor, limits: tuple[float, float] = (0.0, 1.0), names: list[str] | None = None) -> np.ndarray:
    numbers = range(1, values.shape[1] + 1)
    return layer_heatmap(values, names or [f"fc{i}" for i in range(len(values))], numbers, limits=limits, title="t")


def ridges(counts: Tensor, names: list[str] | None = None) -> np.ndarray:
    numbers = range(1, counts.shape[1] + 1)
    limits = HISTOGRAM_LIMITS[: counts.shape[2]]
    named = names or [f"fc{i}" for i in range(len(counts))]
    return histogram_ridges(counts, named, numbers, bucket_limits=limits, title="t")


def tops(thumbnails: Tensor | None, values: Tensor, **more: object) -> np.ndarray:
    return unit_samples(thumbnails, [f"fc:{i}" for i in range(len(values))], values, title="t", **more)


EXTREME = torch.tensor([[math.nan, math.inf, -math.inf], [1e300, -1e300, 5e-324]], dtype=torch.float64)
MANY = torch.randint(256, (20, 30, 90, 40, 3), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
EVERY = {
    "heat map of extremes": lambda: heat(EXTREME),
    "heat map of one": lambda: heat(torch.ones(1, 1)),
    "heat map of many": lambda: heat(noise(100, 400), names=[f"{'W' * 90}$x_{i}$" for i in range(100)]),
    "heat map of long names": lambda: heat(noise(40, 12), names=LONG),
    "similarity of one": lambda: layer_similarity(torch.ones(1, 1), ["a"], title="t"),
    "similarity of many": lambda: layer_similarity(
        noise(90, 90), ["\u6f22\n" * 60] * 90, title="$t" * 200, note="n" * 400
    ),
    "similarity of nothing": lambda: layer_similarity(torch.full((3, 3), math.nan), ["a", "b", "c"], title=""),
    "ridges of one": lambda: ridges(torch.ones(1, 1, 1, dtype=torch.int64)),
    "ridges of nothing": lambda: ridges(torch.zeros(2, 3, 65, dtype=torch.int64)),
    "ridges of many": lambda: ridges(torch.full((30, 200, 65), 2**50), names=LONG[:30]),
    "units of one": lambda: tops(MANY[:1, :1, :1, :1], torch.ones(1, 1)),
    "units of many": lambda: tops(MANY, noise(20, 30) * 1e30, notes=["W" * 99] * 20, note="W" * 999),
    "units of extremes": lambda: tops(MANY[:2, :3], EXTREME),
    "units without inputs": lambda: tops(None, EXTREME),
}


@pytest.mark.parametrize("draw", EVERY.values(), ids=EVERY)
def test_every_picture_is_bounded_opaque_and_the_same_again(draw):
    picture = draw()
    assert picture.dtype == np.uint8
    assert picture.ndim == 3
    assert picture.shape[2] == 3
    assert picture.shape[0] <= 700
    assert picture.shape[1] <= 900
    assert picture.flags.c_contiguous
    assert (back(picture)[[0, 0, -1, -1], [0, -1, 0, -1]] == 255).all()
    with mpl.rc_context({"figure.facecolor": "black", "text.color": "red", "font.size": 30, "savefig.dpi": 300}):
        assert np.array_equal(draw(), picture), "whatever style the user has set"


def test_pictures_need_neither_a_display_nor_pyplot():
    code = (
        "import sys, torch; from xai_lightning.functional.render import layers, ridges, units;"
        "layers.layer_similarity(torch.eye(2), ['a', 'b'], title='t');"
        "ridges.histogram_ridges(torch.ones(1, 1, 2), ['a'], [1], bucket_limits=[0., 1.], title='t');"
        "print('matplotlib.pyplot' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"DISPLAY": ""})
    assert done.stdout.strip() == "False"


# --- layers over validations


def test_a_value_has_one_colour_wherever_it_stands_and_whatever_stands_beside_it():
    values = torch.zeros(2, 20)
    values[0, 3] = values[1, 17] = 1.0
    cell = 576 // 20 * 28
    picture = heat(values)
    assert count(picture, BRIGHT) == pytest.approx(2 * cell, abs=30)
    assert count(picture, DARK) == pytest.approx(38 * cell, abs=30)
    assert count(heat(values, (0.0, 2.0)), BRIGHT) < 30, "a wider scale"
    assert count(heat(values * 9), BRIGHT) == pytest.approx(2 * cell, abs=40), "beyond the scale: its end"
    assert ink(heat(values * 9)) > ink(picture), "and the scale says so"


def test_the_layer_and_the_validation_of_a_value_can_be_told():
    values = torch.zeros(3, 20)
    values[1, 0] = 1.0
    rows, columns = np.nonzero((back(heat(values))[:, :500] == BRIGHT).all(-1))
    assert (rows.min(), rows.max()) == (40 + 28, 40 + 2 * 28 - 1)
    assert columns.max() - columns.min() == 576 // 20 - 1


def test_few_values_are_written_and_many_are_not():
    few, many = torch.full((2, 12), 0.0), torch.full((2, 13), 0.0)
    white = [int((back(heat(values))[41:95, 60:600] > 180).all(-1).sum()) for values in (few, many)]
    assert white[0] > 24 * 8
    assert white[1] == 0
    inks = [heat(torch.full((1, 1), value)) for value in (0.0, 1.0)]
    assert (back(inks[0])[41:67, 300:340] > 180).all(-1).any(), "white on dark"
    assert (back(inks[1])[41:67, 300:340].max(-1) < 60).any(), "dark on bright"


def test_what_is_not_finite_is_striped_and_taken_for_no_value():
    values = noise(2, 20)
    values[0, 5], values[1, 7] = math.nan, math.inf
    picture = heat(values)
    assert count(picture, UNDEFINED) == pytest.approx(576 // 20 * 28, rel=0.05)
    assert count(heat(noise(2, 20)), UNDEFINED) < 20
    assert count(heat(torch.full((1, 20), 0.565)), UNDEFINED) < 20, "the grey of the scale is another one"


def test_long_names_keep_what_tells_them_apart():
    shown = module_names(LONG, room=150, size=8)
    assert len(set(shown)) == len(LONG)
    assert all(f"{i}.feed" in name for i, name in enumerate(shown))
    assert module_names(["a.b", "a.c"], 150, 8) == ["a.b", "a.c"]
    assert module_names([LONG[0]], 180, 8)[0].endswith(".activation")
    ends = module_names(["x" * 60 + ".first", "x" * 60 + ".second"], 100, 8)
    assert ends == ["…first", "…second"]
    cut = module_names(["first" + "x" * 60, "second" + "y" * 60], 100, 8)
    assert "…" in cut[0]
    assert cut[0].startswith("first")
    assert cut[1].endswith("yyy")


def test_of_many_layers_and_validations_the_ends_are_shown():
    assert evenly(100, 3) == [0, 50, 99]
    assert evenly(2, 5) == [0, 1]
    assert evenly(1, 1) == [0]
    values = torch.zeros(100, 300)
    values[0, 0] = values[-1, -1] = 1.0
    rows, columns = np.nonzero((back(heat(values))[:, :-72] == BRIGHT).all(-1))
    assert rows.min() == 40
    assert rows.max() > 500
    assert columns.max() - columns.min() > 490


def test_charts_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"float\[M, T\], got shape \(3,\)"):
        layer_heatmap(torch.ones(3), ["a"], [1], limits=(0, 1), title="t")
    with pytest.raises(ValueError, match=r"Layers .* got 2, 1"):
        layer_heatmap(torch.ones(2, 1), ["a"], [1], limits=(0, 1), title="t")
    with pytest.raises(ValueError, match=r"Validations .* got 1, 2"):
        layer_heatmap(torch.ones(1, 1), ["a"], [1, 2], limits=(0, 1), title="t")
    for limits in ((1.0, 1.0), (0.0, math.inf), (math.nan, 1.0)):
        with pytest.raises(ValueError, match="finite and in order, got"):
            layer_heatmap(torch.ones(1, 1), ["a"], [1], limits=limits, title="t")
    with pytest.raises(ValueError, match=r"for 2 names, got shape \(3, 3\)"):
        layer_similarity(torch.eye(3), ["a", "b"], title="t")


def test_layers_are_brightest_where_they_are_compared_with_themselves():
    matrix = torch.eye(14).double()
    matrix[0, 13] = matrix[13, 0] = math.nan
    matrix[1, 2] = -0.03
    picture = layer_similarity(matrix, LONG[:14], title="t")
    rows, columns = np.nonzero((back(picture)[:, :-72] == BRIGHT).all(-1))
    assert np.corrcoef(rows, columns)[0, 1] > 0.99
    side = 520 // 14
    assert len(rows) == 14 * side**2
    assert count(picture, UNDEFINED) == pytest.approx(side**2, rel=0.05)


def test_the_scale_of_similarity_is_fixed():
    half = torch.full((14, 14), 0.5)
    lower = half.clone()
    lower[0, 1] = -1.0
    one, other = (back(layer_similarity(matrix, LONG[:14], title="t")) for matrix in (half, lower))
    assert np.array_equal(one[80:540, :-72], other[80:540, :-72])
    assert (one[40:540, 220:-72] == DARK).all(-1).sum() == 0


# --- histograms


def extent(picture: np.ndarray) -> tuple[int, int]:
    """First and last column with a ridge's colour in it."""
    colours = back(picture)[60:290].astype(int)
    chroma = colours.max(-1) - colours.min(-1)
    columns = np.flatnonzero((chroma > 40).sum(0) > 3)
    return int(columns.min()), int(columns.max())


def test_ridges_stand_where_the_values_are_and_move_with_them():
    counts = torch.zeros(1, 2, 65, dtype=torch.int64)
    counts[0, 0, 10], counts[0, 1, 50] = 100, 100
    picture = ridges(counts)
    warmth = back(picture)[60:290, :, 0].astype(int) - back(picture)[60:290, :, 2]
    first, last = np.flatnonzero((warmth < -60).any(0)), np.flatnonzero((warmth > 60).any(0))
    assert first.max() < last.min(), "dark blue the earlier, on the left; yellow the later, on the right"
    left, right = extent(picture)
    assert right - left > 240, "bins that are always empty are left out at both ends"


def test_heights_are_shares_so_that_the_number_of_samples_does_not_matter():
    counts = torch.randint(50, (1, 3, 65), generator=torch.Generator().manual_seed(0))
    assert np.array_equal(ridges(counts), ridges(counts * torch.tensor([1, 7, 100])[None, :, None]))
    assert not np.array_equal(ridges(counts), ridges(counts.flip(1)))


def test_a_rare_bin_is_seen_beside_a_hundred_times_as_many_zeros():
    counts = torch.zeros(1, 1, 65, dtype=torch.int64)
    counts[0, 0, 32], counts[0, 0, 40] = 10_000, 100
    colours = back(ridges(counts))[60:294].astype(int)
    filled = (colours.max(-1) - colours.min(-1) > 40).sum(0)
    heights = [h for h in filled[45:300] if h > 3]
    assert max(heights) / min(heights) == pytest.approx(10, rel=0.3)


def test_histograms_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match=r"int64\[M, T, B\], got shape \(1, 2\)"):
        histogram_ridges(torch.ones(1, 2), ["a"], [1], bucket_limits=[0.0], title="t")
    with pytest.raises(ValueError, match=r"Bins .* got 3, 2"):
        histogram_ridges(torch.ones(1, 1, 3), ["a"], [1], bucket_limits=[0.0, 1.0], title="t")
    assert ink(ridges(torch.zeros(1, 1, 5, dtype=torch.int64))) > 0


# --- units


def test_thumbnails_are_shown_as_they_are_in_order():
    thumbnails = torch.zeros(2, 3, 11, 11, 3, dtype=torch.uint8)
    colours = [(200, 10, 20), (20, 200, 10), (10, 20, 200)]
    for column, colour in enumerate(colours):
        thumbnails[0, column] = torch.tensor(colour)
    picture = back(tops(thumbnails, noise(2, 3)))
    places = [np.nonzero((picture == colour).all(-1)) for colour in colours]
    assert [len(rows) for rows, _ in places] == [66 * 66] * 3
    assert places[0][1].max() < places[1][1].min() < places[1][1].max() < places[2][1].min()
    assert count(tops(thumbnails[..., 0], noise(2, 3)), (200, 200, 200)) == 66 * 66, "grey ones too"


def test_thumbnails_keep_their_shape_and_lose_no_line():
    thumbnails = torch.full((1, 1, 400, 100), 250, dtype=torch.uint8)
    thumbnails[0, 0, 200:202] = 0
    tile = back(tops(thumbnails, torch.ones(1, 1)))[36:102, 210:276, 0]
    columns = np.flatnonzero((tile == 250).sum(0) > 50)
    assert columns.max() - columns.min() + 1 == round(66 / 4)
    assert ((tile[:, columns[0]] > 0) & (tile[:, columns[0]] < 200)).any()


def test_inputs_that_may_not_be_logged_are_in_no_pixel():
    values = noise(2, 3)
    hidden = tops(None, values)
    assert count(hidden, UNDEFINED) > 6 * 66 * 66 * 0.8
    assert hidden.shape == tops(MANY[:2, :3], values).shape


def test_notes_and_values_are_written():
    values = torch.ones(1, 2)
    assert ink(tops(MANY[:1, :2] * 0 + 255, values)) < ink(tops(MANY[:1, :2] * 0 + 255, values, notes=["W" * 20])) + 200
    plain, noted = (back(tops(None, values, notes=notes)) for notes in ([], ["WWW"]))
    assert not np.array_equal(plain, noted)
    assert not np.array_equal(plain, back(tops(None, values * 3)))


def test_thumbnails_that_do_not_fit_are_refused():
    with pytest.raises(TypeError, match=r"uint8, got torch\.float32"):
        tops(torch.zeros(1, 1, 4, 4), torch.ones(1, 1))
    with pytest.raises(ValueError, match=r"uint8\[1, 2, H, W, 3\] or without the 3, got \(1, 1, 4, 4\)"):
        tops(torch.zeros(1, 1, 4, 4, dtype=torch.uint8), torch.ones(1, 2))
    with pytest.raises(ValueError, match=r"not empty, got shape \(0, 2\)"):
        tops(None, torch.ones(0, 2))
    with pytest.raises(ValueError, match="got 2, 2, 1"):
        tops(None, torch.ones(2, 2), notes=["a"])
