"""Labels of validations in pictures: evenly spaced, and round numbers where validations are consecutive."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure

from xai_lightning.functional.render import layers, ridges, similarities
from xai_lightning.functional.render.ticks import round_places

THINNED = [*range(1, 129, 2), *range(129, 193)]


def labelled(monkeypatch: pytest.MonkeyPatch, module: Any, draw: Callable[[], Any]) -> list[tuple[float, float, int]]:
    """Position and value of every number that ``module`` writes."""
    found: list[tuple[float, float, int]] = []
    original = module.write

    def write(figure: Figure, text: str, x: float, y: float, *rest: Any, **options: Any) -> None:
        if text.isdecimal():
            found.append((x, y, int(text)))
        original(figure, text, x, y, *rest, **options)

    monkeypatch.setattr(module, "write", write)
    draw()
    return found


def similarity_ticks(monkeypatch: pytest.MonkeyPatch, numbers: Sequence[int]) -> tuple[list[float], list[int]]:
    drawn: list[Figure] = []
    original = similarities.pixels
    monkeypatch.setattr(similarities, "pixels", lambda figure: drawn.append(figure) or original(figure))
    similarities.similarity(torch.eye(len(numbers)), numbers, title="t")
    axis = drawn[0].axes[0].xaxis
    return list(axis.get_ticklocs()), [int(label.get_text()) for label in axis.get_ticklabels()]


@pytest.mark.parametrize(
    ("last", "expected"),
    [(8, [*range(1, 9)]), (13, [2, 4, 6, 8, 10, 12]), (21, [5, 10, 15, 20]), (128, [20, 40, 60, 80, 100, 120])],
)
def test_similarities_are_labelled_by_round_numbers(
    last: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    places, labels = similarity_ticks(monkeypatch, range(1, last + 1))
    assert labels == expected
    assert [place + 1 for place in places] == expected, "each label stands at its validation"


def ridges_of(numbers: Sequence[int]) -> Callable[[], Any]:
    counts = torch.ones(1, len(numbers), 3, dtype=torch.int64)
    return lambda: ridges.histogram_ridges(counts, ["a"], numbers, bucket_limits=[-1.0, 1.0, 9.0], title="t")


@pytest.mark.parametrize(
    ("last", "expected"),
    [
        (3, [1, 2, 3]),
        (13, [*range(1, 14)]),
        (16, [*range(1, 17)]),
        (20, [*range(2, 21, 2)]),
        (128, [*range(10, 121, 10)]),
    ],
)
def test_ridges_are_labelled_by_round_numbers_at_equal_distances(
    last: int, expected: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    found = labelled(monkeypatch, ridges, ridges_of(range(1, last + 1)))
    assert [number for *_, number in found] == expected
    assert np.ptp(np.diff([y for _, y, _ in found])) < 1e-9
    assert np.diff([y for _, y, _ in found]).min() > 11, "labels do not touch each other"


def test_columns_of_heat_maps_are_labelled_by_round_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    def draw() -> Any:
        return layers.layer_heatmap(torch.zeros(1, 20), ["a"], range(1, 21), limits=(0.1, 0.4), title="t")

    found = labelled(monkeypatch, layers, draw)
    assert [number for *_, number in found] == [*range(2, 21, 2)]
    assert np.ptp(np.diff([x for x, *_ in found])) < 1e-9


def test_the_first_and_the_last_validation_have_a_ridge(monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[torch.Tensor] = []
    original = ridges._panel
    monkeypatch.setattr(
        ridges, "_panel", lambda axes, counts, limits: shown.append(counts) or original(axes, counts, limits)
    )
    for numbers in ([*range(1, 21)], THINNED, [*range(3, 400, 4)]):
        counts = torch.arange(1, len(numbers) + 1)[None, :, None].expand(1, -1, 3)
        ridges.histogram_ridges(counts, ["a"], numbers, bucket_limits=[-1.0, 1.0, 9.0], title="t")
        seen = shown.pop()[:, 0].tolist()
        assert seen[0] == 1
        assert seen[-1] == len(numbers)
        assert 2 < len(seen) <= ridges.MOST_RIDGES


@pytest.mark.parametrize("numbers", [[7], [3, 9], [*range(5, 200, 5)], [*range(1, 129, 2)], THINNED], ids=len)
@pytest.mark.parametrize("most", [1, 2, 9])
def test_labels_stand_at_equal_distances_whatever_the_numbers(numbers: list[int], most: int) -> None:
    places = round_places(numbers, most)
    assert 1 <= len(places) <= most
    assert len(set(np.diff(places))) <= 1
    assert 0 <= places[0] <= places[-1] < len(numbers)


def test_numbers_with_gaps_are_as_round_as_they_can_be() -> None:
    every_fifth, odd = [*range(5, 200, 5)], [*range(1, 129, 2)]
    assert [every_fifth[i] for i in round_places(every_fifth, 9)] == [25, 50, 75, 100, 125, 150, 175]
    assert [odd[i] for i in round_places(odd, 9)] == [5, 25, 45, 65, 85, 105, 125]
