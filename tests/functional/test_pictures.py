"""Films, texts, series, all against all: read back from the pixels, as a browser gets them."""

import io
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from xai_lightning.functional.render import (
    NEUTRAL,
    UNDEFINED,
    attribution_grid,
    average_map,
    bar_chart,
    filmstrip,
    series_bands,
    similarity,
    token_lines,
)

RED, BLUE = (127, 13, 32), (11, 60, 125)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def back(picture: np.ndarray) -> np.ndarray:
    """The picture after it was written as PNG, which is how TensorBoard keeps it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, format="png")
    return np.asarray(Image.open(file))


def count(picture: np.ndarray, colour: tuple[int, int, int]) -> int:
    return int((back(picture) == colour).all(-1).sum())


def ink(picture: np.ndarray) -> int:
    """Dark grey pixels: text."""
    return int((back(picture).max(-1) < 90).sum())


# --- for everybody


def seen_with(matrix: list[list[float]], colour: tuple[int, int, int]) -> np.ndarray:
    """Linear light of a colour as it is seen with a deficiency of sight."""
    light = (np.asarray(colour) / 255) ** 2.2
    return np.clip(np.asarray(matrix) @ light, 0, 1)


DEFICIENCIES = {  # Machado, Oliveira and Fernandes 2009, full severity
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "tritanopia": [[1.256, -0.077, -0.179], [-0.078, 0.931, 0.148], [0.005, 0.691, 0.304]],
}


@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_for_and_against_are_told_apart_by_every_eye(kind: str) -> None:
    red, blue, grey = (seen_with(DEFICIENCIES[kind], colour) for colour in (RED, BLUE, NEUTRAL))
    assert np.abs(red - blue).max() > 0.1
    assert min(np.abs(red - grey).max(), np.abs(blue - grey).max()) > 0.5


def test_pictures_bring_their_own_ground_so_that_they_are_read_on_a_dark_page_too() -> None:
    maps, texts = noise(2, 4, 4), [["a", "b"]] * 2
    pictures = [
        attribution_grid(maps[:, None], maps, maps, labels=["a", "b"], scale=1.0),
        filmstrip(maps[None], [1], labels=["a", "b"], scale=1.0),
        token_lines(texts, maps[:, 0, :2], None, titles=["a", "b"], scale=1.0),
        series_bands(None, maps, maps, channels=list("abcd"), titles=["a", "b"], scale=1.0),
        bar_chart(["a", "b"], [1.0, 2.0], title="bars"),
        similarity(torch.eye(2), [1, 2], title="similarity"),
        average_map(maps[0].abs(), maps[1].abs(), scale=1.0, title="average"),
    ]
    for picture in pictures:
        corners = back(picture)[[0, 0, -1, -1], [0, -1, 0, -1]]
        assert (corners == 255).all()


def test_an_average_map_has_one_scale_for_both_panels() -> None:
    whole, nothing = torch.ones(4, 4), torch.zeros(4, 4)
    bright, dark = (253, 231, 55), (0, 34, 77)
    picture = average_map(whole, nothing, scale=1.0, title="average")
    counts = [int((np.abs(back(picture).astype(int) - c).max(-1) < 20).sum()) for c in (bright, dark)]
    assert counts[0] > 10_000
    assert counts[1] > 10_000
    assert abs(counts[0] - counts[1]) < 0.1 * counts[0]
    with pytest.raises(ValueError, match="equal shape"):
        average_map(whole, torch.zeros(3, 3), scale=1.0, title="average")


# --- films


def film(maps: Tensor, scale: float = 1.0, labels: list[str] | None = None) -> np.ndarray:
    return filmstrip(maps, range(1, len(maps) + 1), labels=labels or ["a"] * maps.shape[1], scale=scale)


def test_a_film_has_a_frame_for_each_validation_in_fixed_colours() -> None:
    maps = torch.zeros(3, 2, 4, 4)
    maps[1, 0], maps[2, 1] = 1.0, -5.0
    picture = film(maps)
    tile = 62 * 62
    assert count(picture, RED) == tile
    assert count(picture, BLUE) == tile
    assert 0 <= count(picture, NEUTRAL) - 4 * tile < 60, "but for the edges of letters"


def test_a_long_film_shows_its_ends_and_twelve_frames() -> None:
    maps = torch.zeros(40, 1, 2, 2)
    maps[0], maps[39] = 1.0, -1.0
    picture = film(maps)
    assert count(picture, RED) == count(picture, BLUE) == 62 * 62
    assert 0 <= count(picture, NEUTRAL) - 10 * 62 * 62 < 60


def test_labels_and_undefined_frames_of_a_film_are_shown() -> None:
    maps = torch.zeros(2, 1, 2, 2)
    assert ink(film(maps, labels=["label 7\nsays 2 (63 %)"])) > ink(film(maps, labels=[" "])) + 50
    known = ink(film(maps))
    maps[1] = math.nan
    assert 0 <= count(film(maps), UNDEFINED) - 62 * 62 < 60
    assert ink(film(maps)) > known + 50, "the legend says what is grey"


def test_a_film_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="got 2, 3"):
        filmstrip(torch.zeros(2, 1, 2, 2), [1, 2, 3], labels=["a"], scale=1.0)
    with pytest.raises(ValueError, match="positive and finite, got 0"):
        filmstrip(torch.zeros(2, 1, 2, 2), [1, 2], labels=["a"], scale=0)


# --- grids


def test_inputs_that_may_not_be_logged_are_in_no_pixel() -> None:
    inputs, maps = noise(2, 3, 8, 8), noise(2, 8, 8)
    kept = attribution_grid(None, maps, maps, labels=["a", "b"], scale=1.0)
    shown = attribution_grid(inputs, maps, maps, labels=["a", "b"], scale=1.0)
    other = attribution_grid(None, maps, maps, labels=["a", "b"], scale=1.0)
    assert np.array_equal(kept, other)
    assert not np.array_equal(kept, shown)
    assert count(kept, UNDEFINED) > 20_000


def test_incomplete_explanations_are_marked() -> None:
    maps = torch.zeros(2, 8, 8)
    plain = attribution_grid(maps, maps, maps, labels=["a", "b"], scale=1.0)
    marked = attribution_grid(maps, maps, maps, labels=["a", "b"], scale=1.0, incomplete=[False, True])
    red = (back(marked)[..., 0] > 150) & (back(marked)[..., 1] < 40) & (back(marked)[..., 2] < 60)
    before = (back(plain)[..., 0] > 150) & (back(plain)[..., 1] < 40) & (back(plain)[..., 2] < 60)
    assert (red & ~before).any()
    rows = np.flatnonzero((red & ~before).any(axis=1))
    assert rows.min() > plain.shape[0] / 3, "the mark stands beside the second sample"


# --- texts


def lines(now: Tensor, reference: Tensor | None = None, words: str = "a good film", **more: object) -> np.ndarray:
    tokens = [words.split()] * len(now)
    return token_lines(tokens, now, reference, titles=["label 1"] * len(now), scale=1.0)


def test_tokens_have_the_colours_of_their_attribution() -> None:
    picture = lines(torch.tensor([[0.0, 1.0, -1.0]]))
    assert count(picture, RED) > 300
    assert count(picture, BLUE) > 300
    assert count(picture, NEUTRAL) > 60
    assert count(lines(torch.tensor([[math.nan, 0.0, 0.0]])), UNDEFINED) > 60


def test_equal_texts_have_equal_lines_now_and_then() -> None:
    now = noise(1, 3)
    picture = back(lines(now, now))
    assert picture.shape[0] > lines(now).shape[0]
    first, second = picture[31:47, 84:], picture[50:66, 84:]
    assert (first.max(-1).astype(int) - first.min(-1) > 30).any()
    assert np.array_equal(first, second)


def test_padding_is_left_out_and_long_texts_are_wrapped() -> None:
    padded = token_lines([["good", "", ""]], torch.ones(1, 3), None, titles=["t"], scale=1.0)
    assert padded.shape[0] == token_lines([["good"]], torch.ones(1, 1), None, titles=["t"], scale=1.0).shape[0]
    long = token_lines([["word"] * 60], torch.ones(1, 60), None, titles=["t"], scale=1.0)
    assert long.shape[0] > padded.shape[0]
    assert (back(long)[:, -4:] == 255).all(), "nothing runs out of the picture"
    assert token_lines([["$x_1$", "\u6f22"]], torch.ones(1, 2), None, titles=["$a$"], scale=1.0).size


def test_a_word_lies_in_its_box_in_every_script() -> None:
    """Letters that are wider than others, that are read from the right, that combine, or that are not seen at all."""
    for word in (
        "\u4e0d\u9519\u7684\u7535\u5f71",
        "\u05e9\u05dc\u05d5\u05dd",
        "\u0627\u0644",
        "\U0001f600",
        "e\u0301te\u0301",
        "\u200bzero",
        "\x00nul",
    ):
        picture = token_lines([[word, "film"]], torch.tensor([[0.0, 1.0]]), None, titles=["t"], scale=1.0)
        line = picture[31:47, 80:].astype(int)
        letters = np.flatnonzero((line.max(-1) < 120).any(axis=0))
        own = np.flatnonzero((line == NEUTRAL).all(-1).any(axis=0))
        film = np.flatnonzero((line == RED).all(-1).any(axis=0))
        assert own.min() <= letters.min(), word
        assert letters.max() <= own.max() < film.min(), word
        assert (line[:, film.min() : film.max()].min(-1) > 250).sum() > 20, "the next word is in its box, in white"


def test_tokens_of_white_space_are_shown_and_padding_is_not() -> None:
    def width(word: str) -> int:
        return count(token_lines([[word, "x"]], torch.ones(1, 2), None, titles=["t"], scale=1.0), RED)

    assert width("") < width(" ") == width("\n")
    assert width("\x00") > width(" "), "a control character is spelled out"


def test_long_texts_are_few_and_cut_and_say_so() -> None:
    words, values = [[f"word{i}" for i in range(400)]] * 8, noise(8, 400)
    picture = token_lines(words, values, values, titles=[f"label {i}" for i in range(8)], scale=1.0)
    assert picture.shape[0] <= 1600
    last = token_lines(words[:2], values[[0, 7]], values[[0, 7]], titles=["label 0", "label 7"], scale=1.0)
    assert np.array_equal(picture, last), "the first text and the last one: strata follow each other"
    fewer = token_lines([words[0][:300]] * 8, values[:, :300], values[:, :300], titles=["label 0"] * 8, scale=1.0)
    assert fewer.shape == picture.shape
    assert (fewer != picture).any(), "how many words are left out is told"


def test_the_title_of_a_text_ends_within_the_picture() -> None:
    one, other = (lines_titled(f"label 0, {'x' * 200} {end}") for end in ("Fe", "Me"))
    assert (one[:, -6:] == 255).all()
    assert (one != other).any()


def lines_titled(title: str) -> np.ndarray:
    return token_lines([["good"]], torch.zeros(1, 1), None, titles=[title], scale=1.0)


# --- series


def test_series_lie_over_bands_in_the_colours_of_their_attribution() -> None:
    now = torch.tensor([[[1.0, 0.0], [-1.0, 0.0]]])
    picture = series_bands(None, now, now, channels=["x", "y"], titles=["label 0"], scale=1.0)
    assert count(picture, RED) > 1000
    assert count(picture, BLUE) > 1000
    curve = series_bands(noise(1, 2, 30), now, now, channels=["x", "y"], titles=["label 0"], scale=1.0)
    assert ink(curve) > ink(picture) + 200


def test_a_curve_has_a_gap_where_it_is_not_known() -> None:
    maps = torch.zeros(1, 1, 4)
    series = torch.linspace(0, 1, 100).repeat(1, 1, 1)
    known = series_bands(series, maps, maps, channels=["x"], titles=["t"], scale=1.0)
    series[0, 0, 40:60] = math.nan
    broken = series_bands(series, maps, maps, channels=["x"], titles=["t"], scale=1.0)
    assert ink(broken) < 0.9 * ink(known)


def test_the_channels_that_led_at_the_reference_are_shown() -> None:
    reference = torch.zeros(1, 6, 4)
    reference[0, 4] = 1.0
    now = torch.zeros(1, 6, 4)
    now[0, 4] = 1.0
    assert count(series_bands(None, now, reference, channels=list("abcdef"), titles=["t"], scale=1.0), RED) > 1000
    assert series_bands(None, now * math.nan, reference, channels=list("abcdef"), titles=["t"], scale=1.0).size
    with pytest.raises(ValueError, match="got 5, 6"):
        series_bands(None, now, reference, channels=list("abcde"), titles=["t"], scale=1.0)


# --- bars, and all against all


def test_whiskers_reach_from_limit_to_limit() -> None:
    plain = bar_chart(["a", "b"], [0.5, 0.3], title="t")
    sure = bar_chart(["a", "b"], [0.5, 0.3], title="t", intervals=[(0.4, 0.6), (math.nan, math.nan)])
    assert ink(sure) > ink(plain) + 20


def test_whiskers_reach_from_limit_to_limit_wherever_the_value_is() -> None:
    def reach(value: float) -> int:
        drawn = bar_chart(["a", "b"], [value, 0.1], title="t", intervals=[(0.1, 0.9), (math.nan, math.nan)])
        row = drawn[40:62, 60:].astype(int)
        return int(np.flatnonzero((row.max(-1) < 90).any(axis=0)).max())

    assert abs(reach(0.95) - reach(0.5)) < 3, "a value beyond its interval mirrors none of its limits"


def test_long_names_of_variables_are_told_apart() -> None:
    """One-hot columns differ at their end only."""
    names = [f"occupation_of_the_mother_before_the_census_{end}" for end in ("none", "some")]
    one, other = (bar_chart([name], [1.0], title="t") for name in names)
    assert one.shape != other.shape or (one != other).any()


def test_the_largest_of_the_variables_that_are_left_out_is_named() -> None:
    """Places depend on the reference, so that a variable that rose from nothing has none."""
    values, reference = [0.5] * 60, [1.0] * 40 + [0.0] * 20
    plain = bar_chart([f"x{i}" for i in range(60)], values, title="t", reference=reference)
    risen = bar_chart([f"x{i}" for i in range(60)], [*values[:-1], 0.9], title="t", reference=reference)
    assert (plain[60:-40] == risen[60:-40]).all()
    assert (plain[:60] != risen[:60]).any()


def test_what_is_not_known_has_no_colour_of_what_is() -> None:
    """The middle of the scale is grey itself."""
    for drawn in (
        similarity(torch.full((2, 2), math.nan), [1, 2], title="t"),
        average_map(torch.full((4, 4), math.nan), torch.full((4, 4), math.nan), scale=1.0, title="t"),
    ):
        middle = drawn[drawn.shape[0] // 2 - 40 : drawn.shape[0] // 2 + 40, 60:200]
        assert (middle == 255).all()


def test_numbers_of_validations_do_not_run_into_each_other() -> None:
    drawn = similarity(torch.eye(60), [2345 * i for i in range(60)], title="t")
    inked = np.flatnonzero((drawn[-50:-36, 60:480].max(-1) < 235).any(axis=0))
    numbers = np.split(inked, np.flatnonzero(np.diff(inked) > 8) + 1)
    assert len(numbers) > 2
    assert all(np.ptp(number) < 60 for number in numbers)


def test_similarity_is_brightest_on_the_diagonal_and_white_where_unknown() -> None:
    matrix = torch.eye(5).double()
    matrix[0, 4] = matrix[4, 0] = math.nan
    picture = similarity(matrix, [1, 2, 3, 5, 9], title="t")
    yellow = (back(picture)[..., 0] > 240) & (back(picture)[..., 2] < 90)
    rows, columns = np.nonzero(yellow[:, : int(picture.shape[1] * 0.7)])
    assert np.corrcoef(rows, columns)[0, 1] > 0.9
    assert (
        count(picture, (255, 255, 255)) > count(similarity(torch.eye(5), [1, 2, 3, 5, 9], title="t"), (255,) * 3) + 5000
    )
    with pytest.raises(ValueError, match="for 2 numbers"):
        similarity(matrix, [1, 2], title="t")


# --- words fit on their pictures


METHOD = "layer_gradient_x_activation_smoothgrad_sq"


@pytest.mark.parametrize("validations", [1, 2, 5, 12])
def test_the_legend_of_a_film_is_whole_whatever_its_length(validations: int) -> None:
    drawn = filmstrip(
        torch.zeros(validations, 1, 4, 4),
        range(validations),
        labels=["label 0"],
        scale=0.02,
        note="of the map's total |attribution|",
    )
    assert (drawn[:, -6:] == 255).all()
    # below frames there is a line of words, and as many more as there is no room for in it
    assert (drawn[-14:] != 255).any()


@pytest.mark.parametrize("channels", [1, 2, 4])
def test_the_legend_of_series_is_whole_whatever_their_number(channels: int) -> None:
    maps = torch.zeros(1, channels, 4)
    names = [f"x{i}" for i in range(channels)]
    drawn = series_bands(
        None, maps, maps, channels=names, titles=["label 0"], scale=0.02, note="of the map's total |attribution|"
    )
    assert (drawn[:, -6:] == 255).all()
    assert (drawn[-14:] != 255).any()


def test_words_of_series_and_texts_can_be_read_in_a_card() -> None:
    """TensorBoard's are 350 pixels wide, or 220 high: what is far larger is made so small that no word can be read."""
    maps, note = torch.full((4, 6, 4), math.nan), "of the map's total |attribution|"
    series = series_bands(None, maps, maps, channels=list("abcdef"), titles=["label 0"] * 4, scale=0.02, note=note)
    texts = token_lines([["word"] * 60] * 8, maps.new_full((8, 60), math.nan), None, titles=["t"] * 8, scale=0.02)
    assert series.shape[0] <= 450
    for drawn, most in ((series, 560), (texts, 600)):
        assert drawn.shape[1] <= most
        assert (drawn[:, -4:] == 255).all()


@pytest.mark.parametrize("place", ["series", "maps"])
def test_long_titles_and_channels_lose_their_middle(place: str) -> None:
    """What tells them apart is often their end."""
    maps, drawn = torch.zeros(1, 1, 8, 8), []
    for end in ("Fe", "Me"):
        name = f"left_hand_acceleration_of_the_first_sensor_{end}"
        if place == "maps":
            drawn.append(attribution_grid(maps, maps, maps, labels=[name], scale=1.0))
        else:
            drawn.append(series_bands(None, maps[:, 0, :1], maps[:, 0, :1], channels=[name], titles=["t"], scale=1.0))
    assert drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any()


def test_titles_of_long_methods_and_variables_are_whole() -> None:
    bars = bar_chart(["a_variable_with_a_name_of_32_sign"], [1.0], title=f"mean |attribution|, {METHOD}")
    title = f"mean share of |attribution|, 64 fresh samples, {METHOD}"
    average = average_map(torch.ones(4, 4), torch.ones(4, 4), scale=1.0, title=title)
    alike = similarity(torch.eye(2), [1, 2], title=f"similarity of explanations, {METHOD}")
    for drawn in (bars, average, alike):
        assert (drawn[:, -4:] == 255).all()
        assert (drawn[:24, :200] != 255).any()


@pytest.mark.parametrize("place", ["film", "maps", "series"])
def test_titles_of_samples_show_their_last_group(place: str) -> None:
    """Two that differ at their end only do not look alike."""

    def drawn(group: str) -> np.ndarray:
        maps, title = torch.zeros(1, 1, 8, 8), f"label 0 Amer-Indian {group}\nsays 0 (66%)"
        if place == "film":
            return filmstrip(maps, [1], labels=[title], scale=1.0)
        if place == "maps":
            return attribution_grid(maps, maps, maps, labels=[title], scale=1.0)
        return series_bands(None, maps[:, 0, :1], maps[:, 0, :1], channels=["x"], titles=[title], scale=1.0)

    one, other = drawn("Fe"), drawn("Me")
    assert one.shape != other.shape or (one != other).any()
