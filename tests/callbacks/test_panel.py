"""The drift panel in a real Trainer, on explanations that are chosen: what is logged of them is known."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from small import Classifier, Ledger, Rows, fit, loader, network, rows
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.functional import render

Maps = Callable[[Tensor, int], Tensor]
"""Attributions to ``inputs[1, ...]`` at a validation, which count from 1."""


class Validations(pl.Callback):
    """Counts them."""

    number = 0

    def on_validation_start(self, *args: Any) -> None:
        self.number += 1


def explained(
    maps: Maps,
    folder: Path,
    *,
    shape: tuple[int, ...] = (6,),
    validations: int = 6,
    net: Callable[[], nn.Module] | None = None,
    data: Rows | None = None,
    **options: Any,
) -> tuple[Ledger, MemorySink]:
    """A fit whose explanations are ``maps``."""
    count, ledger, sink = Validations(), Ledger(), MemorySink()

    def chosen(forward: Any, inputs: Tensor, baselines: Tensor) -> Tensor:
        return maps(inputs, count.number)

    monitor = AttributionMonitor(chosen, sinks=[sink], **{"on_error": "raise", **options})
    val = rows(48, shape, seed=1) if data is None else data
    loaders = {"train": loader(rows(16, shape) if data is None else data), "val": loader(val)}
    fit(Classifier(shape, net=net), [count, monitor], folder, logger=ledger, max_epochs=validations, **loaders)
    return ledger, sink


def test_the_ranking_compares_the_same_samples_whichever_are_undefined(tmp_path: Path) -> None:
    """Trap 98: where explanations of one kind of sample vanish, the others' leading features have not changed."""

    def maps(inputs: Tensor, number: int) -> Tensor:
        kind = bool(inputs[0, 0] > 0)
        weights = torch.tensor([9.0, 5, 4, 3, 2, 1] if kind else [1.0, 2, 3, 4, 5, 6])
        return weights[None] * (math.nan if kind and number in (2, 4) else 1)

    looks = explained(maps, tmp_path)[0].validations()
    assert 0 < looks[1]["xai/chosen/nonfinite_maps"] < 1
    for look in looks[1:]:
        for reference in ("first", "previous"):
            assert look[f"drift/chosen/cosine/{reference}/mean"] == 0
            assert look[f"drift/chosen/ranking/{reference}/ndcg"] == 1
            assert look[f"drift/chosen/ranking/{reference}/ndcg_adjusted"] == 1


@pytest.mark.parametrize(("size", "expected"), [(18, 0), (20, 1)])
def test_too_few_samples_show_no_end_of_drift(size: int, expected: int, tmp_path: Path) -> None:
    """An equivalence test: a few samples that hardly move say nothing of others, though their bootstrap is narrow."""
    looks = explained(lambda inputs, number: inputs, tmp_path, probe_size=size)[0].validations()
    assert looks[-1]["xai/chosen/probe_size"] == size
    assert looks[-1]["drift/chosen/cosine/previous/upper"] == 0
    assert [look["drift/chosen/converged"] for look in looks] == [0] * 5 + [expected]


def test_explanations_that_grow_from_almost_nothing_stay_comparable(tmp_path: Path) -> None:
    """The history is in half precision, which holds no number above 65,504."""
    grown = explained(lambda inputs, number: inputs * (1e-7 if number == 1 else 1), tmp_path / "grown")[1]
    steady = explained(lambda inputs, number: inputs, tmp_path / "steady")[1]
    (_, name, now), (_, _, expected) = grown.pictures[-1], steady.pictures[-1]
    assert name == "attribution/chosen/similarity"
    assert (now == expected).all()


@pytest.mark.filterwarnings("ignore:.*explanations are not finite")
@pytest.mark.parametrize("first", [0.0, math.nan], ids=["zero", "nan"])
def test_explanations_that_show_nothing_at_first_do_not_set_the_colours_of_later_ones(
    first: float, tmp_path: Path
) -> None:
    """Trap 32: a network that is dead at first; on a scale of 1e-12 every later picture would have two colours."""
    small = {"shape": (1, 8, 8), "validations": 3, "probe_size": 16, "sample_size": 8}
    ledger, sink = explained(lambda inputs, number: inputs * (first if number == 1 else 1), tmp_path, **small)
    scales = [look["xai/chosen/colour_scale"] for look in ledger.validations()]
    assert scales[1] > 1e-3
    assert scales[2] == scales[1]
    last = {name: picture for _, name, picture in sink.pictures}
    for name in ("film", "average", "maps"):
        assert len(np.unique(last[f"attribution/chosen/{name}"].reshape(-1, 3), axis=0)) > 300, name


class Words(nn.Module):
    """Classifies token ids, which it makes of numbers: texts of two to twelve words, then padding."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(9, 4), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        return self.head(self.embedding(ids).mean(dim=1))


@pytest.mark.on_cpu("its method weighs on the CPU")
def test_leading_words_are_those_of_their_own_text_however_long_others_are(tmp_path: Path) -> None:
    """Traps 24, 98: at random maps the drift of the leaders is what chance gives, 1, in short texts too."""

    def maps(ids: Tensor, number: int) -> Tensor:
        drawn = torch.Generator().manual_seed(1000 * number + int(ids.sum()))
        return torch.randn(ids.shape, generator=drawn) * (ids > 0)

    data = rows(200, (60,))
    lengths = torch.arange(200) % 11 + 2
    data.x = (data.x.abs() * 9).long() % 8 + 1
    data.x *= torch.arange(60) < lengths[:, None]
    options = {"net": Words, "validations": 2, "probe_size": 200, "baseline": "pad"}
    look = explained(maps, tmp_path, data=data, **options)[0].validations()[1]
    assert look["drift/chosen/top_k/first/mean"] == pytest.approx(1, abs=0.15)


def test_titles_show_groups_as_they_are_called_and_large_growth_in_full(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    titles, draw_it = [], render.attribution_grid

    def spy(*maps: Any, labels: list[str], **settings: Any) -> Any:
        titles[:] = labels
        return draw_it(*maps, labels=labels, **settings)

    monkeypatch.setattr(render, "attribution_grid", spy)
    small = {"shape": (1, 8, 8), "validations": 2, "probe_size": 16, "sample_size": 0}
    explained(lambda inputs, number: inputs * 4700**number, tmp_path, groups={"sex": ["class_a", "b"]}, **small)
    assert {title.split("\n")[0] for title in titles} == {f"label {y} {g}" for y in (0, 1) for g in ("class_a", "b")}
    assert {title.split("\n")[2] for title in titles} == {"total x 4,700"}


@pytest.mark.parametrize(("classes", "named"), [(64, 64), (65, 0)])
def test_of_many_classes_none_has_numbers_of_its_own(classes: int, named: int, tmp_path: Path) -> None:
    """A thousand classes would be thousands of curves, of samples that each class hardly has."""
    options = {"net": lambda: network(outputs=classes), "validations": 2, "references": ["first"], "sample_size": 0}
    look = explained(lambda inputs, number: inputs, tmp_path, **options)[0].validations()[-1]
    for prefix in ("drift/chosen/by_class/first/", "xai/chosen/probe/"):
        assert sum(name.startswith(prefix) for name in look) == named
    assert look["drift/chosen/cosine/first/mean"] == 0
