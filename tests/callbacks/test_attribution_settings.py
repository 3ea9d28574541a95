"""Settings of AttributionMonitor that meet: each does what it says beside the others, or is refused with a sentence."""

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from learners import Items, cross_entropy, curves, draw, fitted, seeded, table, table_net
from xai_lightning import AttributionMonitor, MemorySink, Table
from xai_lightning.functional import render

SEX = {"sex": ["F", "M"]}


def told(net: nn.Module, items: Any, *args: Any, call: Any = cross_entropy, lr: float = 0.0, **settings: Any) -> Any:
    """Curves of a monitor over two validations, and the pictures it drew."""
    sink = MemorySink()
    monitor = AttributionMonitor(*args, **{"network": "net", "probe_size": 16, "sinks": [sink], **settings})
    fitted(net, call, items, monitor, lr=lr)
    return curves(sink), {name: picture for _, name, picture in sink.pictures}


def picture(i: int) -> tuple[Tensor, int]:
    return draw(1, 8, 8, seed=i) + i % 2, i % 2


def picture_net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(1, 3, 3, stride=2, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(48, 2))


# --- options


def test_windows_of_an_occlusion_can_be_chosen() -> None:
    options = {"sliding_window_shapes": (1, 4, 4), "strides": (1, 2, 2)}
    found, _ = told(seeded(picture_net), Items(picture, 16), "occlusion", options=options, sample_size=0)
    # 3 x 3 windows, the whole image, and the prediction
    assert found["xai/occlusion/forward_passes"] == [16.0 * (9 + 1 + 1)] * 2


def test_windows_that_do_not_fit_an_image_are_refused_at_the_first_batch() -> None:
    with pytest.raises(ValueError, match=r"one entry for each dimension of an input, \[1, 8, 8\].*got \(4, 4\)"):
        told(seeded(picture_net), Items(picture, 16), "occlusion", options={"sliding_window_shapes": (4, 4)})


def test_measures_of_images_are_refused_where_there_are_none() -> None:
    with pytest.raises(ValueError, match=r"measures=\['ssim'\] compare positions in images.*available are cosine"):
        told(seeded(table_net), Items(table, 16), "saliency", measures=["cosine", "ssim"])


# --- groups


def grouped(i: int) -> dict[str, Any]:
    x, y = table(i)
    return {"x": x, "y": y, "sex": i // 2 % 2}


def of_entries(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch["x"]), batch["y"])


def test_groups_of_samples_that_were_given_are_those_in_their_batch() -> None:
    given = torch.utils.data.default_collate([grouped(i) for i in range(12)])
    for probe in (given, Items(grouped, 12)):
        found, _ = told(seeded(table_net), Items(grouped, 32), "saliency", call=of_entries, groups=SEX, probe=probe)
        counts = [found[f"xai/saliency/probe/class_{c}/{sex}"][0] for c in (0, 1) for sex in ("F", "M")]
        expected = [sum((r["y"], r["sex"]) == (c, s) for r in map(grouped, range(12))) for c in (0, 1) for s in (0, 1)]
        assert counts == expected
        assert found["drift/saliency/by_group/first/sex/F"][-1] == 0.0


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, r"the groups of probe=... cannot be read: cannot find the group 'sex'"),
        ({"sex": Table([0, 1] * 16)}, r"these are other rows; got groups_from=Table\(32 values\)\. Put"),
    ],
)
def test_samples_that_were_given_without_their_groups_are_refused(source: Any, message: str) -> None:
    given = torch.utils.data.default_collate([{"x": table(i)[0], "y": table(i)[1]} for i in range(12)])
    with pytest.raises(ValueError, match=message):
        told(
            seeded(table_net),
            Items(grouped, 32),
            "saliency",
            call=of_entries,
            groups=SEX,
            groups_from=source,
            probe=given,
        )


# --- baselines


class Words(nn.Module):
    """A bag of embedded tokens."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.active, self.out = nn.Embedding(11, 6), nn.Tanh(), nn.Linear(6, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        states = self.active(self.embedding(input_ids)) * attention_mask[..., None]
        return self.out(states.mean(dim=1))


def text(i: int) -> dict[str, Any]:
    ids = torch.randint(1, 11, (5,), generator=torch.Generator().manual_seed(i))
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": i % 2}


def of_texts(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch["input_ids"], batch["attention_mask"]), batch["labels"])


@pytest.mark.parametrize("method", ["gradient_shap", "integrated_gradients", "deep_lift_shap"])
def test_token_ids_are_compared_with_a_background_of_texts(method: str) -> None:
    """More rows than one batch, and than the one sample of the rehearsal, holds."""
    settings: dict[str, Any] = {"call": of_texts, "embedding": "embedding", "baseline": "background"}
    found, _ = told(seeded(Words), Items(text, 32), method, probe_size=4, sample_size=0, **settings)
    assert found[f"xai/{method}/nonfinite_maps"] == found[f"xai/{method}/zero_maps"] == [0.0, 0.0]
    assert found[f"drift/{method}/cosine/first/mean"] == [0.0, 0.0]


@pytest.mark.parametrize("baseline", ["mean", "blur", 0.5])
def test_averages_of_token_ids_are_refused(baseline: Any) -> None:
    with pytest.raises(ValueError, match=re.escape(f"baseline={baseline!r} is not a token id")):
        told(seeded(Words), Items(text, 16), "saliency", call=of_texts, embedding="embedding", baseline=baseline)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"baseline": "pad"}, r"baseline='pad' is for token ids, but this input is Tensor\[8, 5\] float32"),
        (
            {"special_tokens": [1]},
            r"special_tokens=\[1\] needs token ids as input, but the input is Tensor\[8, 5\] float32",
        ),
        ({"baseline": ["zero", "mean"]}, r"one for each of the 1 inputs; got a list of 2: \['zero', 'mean'\]"),
    ],
)
def test_baselines_that_do_not_fit_the_inputs_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(seeded(table_net), Items(table, 16), "saliency", **settings)


@pytest.mark.parametrize("baseline", [{"a": 1}, True, math.nan, np.zeros(5), [math.inf]])
def test_a_baseline_that_is_none_is_refused_in_the_constructor(baseline: Any) -> None:
    with pytest.raises(ValueError, match=r"baseline must be a finite number, one of zero.*or a tensor; got"):
        AttributionMonitor(baseline=baseline)


# --- targets


def squares(net: nn.Module, batch: Any) -> Tensor:
    return (net(batch[0]) - batch[1].reshape(len(batch[1]), -1)).square().mean()


def test_an_output_of_a_regression_that_is_not_there_is_refused() -> None:
    items = Items(lambda i: (draw(5, seed=i), 0.5), 16)
    with pytest.raises(ValueError, match="target=2 is none of the network's 2 outputs"):
        told(seeded(table_net), items, "saliency", call=squares, task="regression", target=2)


def test_a_target_of_a_regression_that_is_not_there_is_refused() -> None:
    net = seeded(lambda: nn.Linear(5, 3))
    items = Items(lambda i: (draw(5, seed=i), draw(2, seed=i)), 16)
    with pytest.raises(ValueError, match="target=2 is none of the 2 targets of a sample"):
        told(net, items, "saliency", call=lambda n, b: n(b[0]).square().mean(), task="regression", target=2)


def test_numbers_that_are_taken_for_classes_are_refused_with_what_to_say() -> None:
    items = Items(lambda i: (draw(5, seed=i), draw(1, seed=i)[0]), 16)
    with pytest.raises(ValueError, match=r"each target to be 0 or 1; got .* set task='regression' for numbers"):
        told(seeded(lambda: nn.Linear(5, 1)), items, "saliency", call=squares)


# --- several inputs, and layers


class Two(nn.Module):
    """Two inputs, the second by keyword."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(5, 2), nn.Linear(3, 2)

    def forward(self, x: Tensor, *, other: Tensor) -> Tensor:
        return self.first(x) + self.second(other)


def both(i: int) -> dict[str, Any]:
    return {"x": table(i)[0], "y": table(i)[1], "other": draw(3, seed=1000 + i)}


def of_both(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch["x"], other=batch["other"]), batch["y"])


def test_variables_of_a_further_input_may_be_sensitive_beside_named_ones() -> None:
    settings: dict[str, Any] = {"inputs": ["other"], "features": {"age": 0, "job": slice(1, 5)}, "sample_size": 0}
    found, _ = told(
        seeded(Two),
        Items(both, 32),
        "saliency",
        call=of_both,
        sensitive=["other.column_1"],
        proxies=["age"],
        **settings,
    )
    sizes = {name: found[f"importance/saliency/{name}"][0] for name in ("age", "job", "other.column_1")}
    shares = [found[f"attribution/saliency/{share}_share"][0] for share in ("sensitive", "proxy")]
    assert shares[0] / shares[1] == pytest.approx(sizes["other.column_1"] / sizes["age"], rel=0.3)
    with pytest.raises(ValueError, match=r"unknown feature 'other.colum_1'. Did you mean 'other.column_1'"):
        told(seeded(Two), Items(both, 16), "saliency", sensitive=["other.colum_1"], **settings)


def test_an_input_that_is_not_there_is_refused_with_what_there_is() -> None:
    with pytest.raises(ValueError, match=r"unknown input 'other'\. There are none\."):
        told(seeded(table_net), Items(table, 16), "saliency", inputs=["other"])


@pytest.mark.parametrize("method", ["grad_cam", "conductance"])
def test_maps_of_a_convolution_have_what_images_have(method: str) -> None:
    """Film, average and measures of places: on the 4 x 4 places of the layer."""
    found, pictures = told(seeded(picture_net), Items(picture, 32), method, layer="0", lr=0.05)
    assert {f"attribution/{method}/{what}" for what in ("maps", "film", "average", "similarity")} <= set(pictures)
    for measure in ("ssim", "centre_of_mass"):
        assert found[f"drift/{method}/{measure}/first/mean"][1] > 0


def test_regions_need_a_layer_over_images() -> None:
    with pytest.raises(ValueError, match=r"explains the layer '3', of shape \[2\]: name a convolution over images"):
        told(seeded(picture_net), Items(picture, 16), "conductance", layer="3", regions={"corner": (0, 0, 2, 2)})


# --- titles


def titles(monkeypatch: pytest.MonkeyPatch, drawing: str, argument: str) -> list[str]:
    """What the pictures that ``drawing`` draws are titled, as soon as they are drawn."""
    seen: list[str] = []
    draw_it = getattr(render, drawing)

    def spy(*args: Any, **settings: Any) -> Any:
        seen[:] = settings[argument]
        return draw_it(*args, **settings)

    monkeypatch.setattr(render, drawing, spy)
    return seen


def test_texts_and_series_that_miss_their_sum_are_marked(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two steps are too few for a curved network; 65 are enough."""
    settings: dict[str, Any] = {"sample_size": 0, "call": of_texts, "embedding": "embedding"}
    lines = titles(monkeypatch, "token_lines", "titles")
    for steps, marked in (({"n_steps": 2, "method": "riemann_left"}, True), ({}, False)):
        found, _ = told(seeded(Words), Items(text, 16), options=steps, **settings)
        assert (found["xai/integrated_gradients/incomplete_maps"][-1] > 0) == marked
        assert any(" ! incomplete, pred" in line for line in lines) == marked

    def series(i: int) -> tuple[Tensor, int]:
        return 3 * draw(2, 12, seed=i), i % 2

    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(24, 4), nn.Tanh(), nn.Linear(4, 2))

    lines = titles(monkeypatch, "series_bands", "titles")
    for steps, marked in (({"n_steps": 2, "method": "riemann_left"}, True), ({}, False)):
        told(seeded(net), Items(series, 16), options=steps, sample_size=0)
        assert any(" ! incomplete\npred" in line for line in lines) == marked


@pytest.mark.parametrize(
    ("settings", "pattern"),
    [
        ({}, r"label [01]\npred [01] \(\d+%\)\ntotal x 1"),
        ({"target": 1}, r"label [01]\nexplains 1, pred [01] \(\d+%\)\ntotal x 1"),
        ({"target": "predicted"}, r"label [01]\nexplains ([01]), pred \1 \(\d+%\)\ntotal x 1"),
        ({"task": "regression", "target": 1, "call": squares}, r"target [01]\npred -?[\d.]+(e-\d+)?\ntotal x 1"),
        ({"task": "multilabel", "target": 1}, r"explains 1\npred [01] \(\d+%\)\ntotal x 1"),
    ],
)
def test_titles_tell_the_label_the_prediction_and_what_is_explained(
    settings: dict[str, Any], pattern: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = titles(monkeypatch, "attribution_grid", "labels")
    told(seeded(picture_net), Items(picture, 16), "saliency", sample_size=0, **settings)
    assert len(lines) == 8
    assert all(re.fullmatch(pattern, line) for line in lines), lines


@pytest.mark.parametrize("words", [["pad", "one"], {1: "one"}])
def test_a_token_without_a_word_is_shown_by_its_number(words: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[str] = []
    draw_it = render.token_lines

    def spy(tokens: list[list[str]], *args: Any, **settings: Any) -> Any:
        shown[:] = [word for line in tokens for word in line]
        return draw_it(tokens, *args, **settings)

    monkeypatch.setattr(render, "token_lines", spy)
    told(seeded(Words), Items(text, 16), "saliency", call=of_texts, embedding="embedding", words=words)
    assert set(shown) == {"one", *map(str, range(2, 11))}


@pytest.mark.parametrize("layout", ["NCT", "NTC"])
def test_series_of_more_channels_than_have_names_are_drawn(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = (70, 12) if layout == "NCT" else (12, 70)

    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(840, 2))

    items = Items(lambda i: (draw(*shape, seed=i), i % 2), 16)
    channels = titles(monkeypatch, "series_bands", "channels")
    told(seeded(net), items, "saliency", layout=layout)
    assert channels == [f"channel_{i}" for i in range(70)]


class Beside(nn.Module):
    """Reads a series, or embedded tokens, and a table."""

    def __init__(self, numbers: int) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(12, 3), nn.Linear(numbers, 2)

    def forward(self, x: Tensor, *, static: Tensor) -> Tensor:
        embedded = x if x.is_floating_point() else self.embedding(x)
        return self.out(torch.cat([embedded.flatten(1), static], dim=1))


def of_beside(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch["x"], static=batch["static"]), batch["y"])


@pytest.mark.parametrize("layout", ["NCT", "NTC"])
def test_the_first_of_several_inputs_is_drawn_as_if_it_were_alone(layout: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its bands are its own part of the maps."""
    shown: list[Any] = []
    draw_it = render.series_bands

    def spy(*args: Any, **settings: Any) -> Any:
        shown[:] = [*args, settings["channels"]]
        return draw_it(*args, **settings)

    monkeypatch.setattr(render, "series_bands", spy)
    shape = (2, 6) if layout == "NCT" else (6, 2)
    items = Items(lambda i: {"x": draw(*shape, seed=i), "static": draw(3, seed=i + 50), "y": i % 2}, 16)
    monitor = AttributionMonitor(
        "input_x_gradient", inputs=["static"], layout=layout, network="net", probe_size=16, sinks=[MemorySink()]
    )
    fitted(seeded(lambda: Beside(15)), of_beside, items, monitor, lr=0.0)
    series, now, _, channels = shown
    assert channels == ["channel_0", "channel_1"]
    assert series.shape == (8, 2, 6)
    assert now.shape == (8, 2, 6)
    maps = monitor.state_dict()["references"]["maps"]["previous"]
    shares = (maps / maps.abs().sum(dim=1, keepdim=True))[:, :12].reshape(-1, 2, 6)
    assert all(any(torch.allclose(each, share.float(), atol=1e-5) for share in shares) for each in now)


def test_texts_beside_other_inputs_are_drawn() -> None:
    items = Items(lambda i: {"x": text(i)["input_ids"], "static": draw(3, seed=i), "y": i % 2}, 16)
    settings: dict[str, Any] = {"call": of_beside, "inputs": ["static"], "embedding": "embedding"}
    _, drawn = told(seeded(lambda: Beside(18)), items, "saliency", **settings)
    assert "attribution/saliency/tokens" in drawn


def test_channels_of_one_variable_are_drawn_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    channels = titles(monkeypatch, "series_bands", "channels")

    def net() -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(36, 2))

    items = Items(lambda i: (draw(3, 12, seed=i), i % 2), 16)
    told(seeded(net), items, "saliency", features={"place": slice(0, 2), "heat": 2})
    assert channels == ["place", "place", "heat"]


# --- what a batch, or the metrics, lack


def masked(i: int) -> dict[str, Any]:
    return {"x": picture(i)[0], "y": picture(i)[1], "mask": picture(i)[0][0] > 0}


@pytest.mark.parametrize(
    ("regions", "probe", "message"),
    [
        ({"bright": "mask"}, {"x": torch.zeros(4, 1, 8, 8), "y": torch.zeros(4)}, "unknown entry of the batch 'mask'"),
        ({"bright": torch.ones(4, 4, dtype=torch.bool)}, None, r"regions\['bright'\] must have the shape \[8, 8\]"),
        ({"bright": torch.ones(1, 8, 8)}, None, r"regions\['bright'\] must have the shape \[8, 8\]; got \[1, 8, 8\]"),
        ({"bright": 3}, None, r"regions\['bright'\] must be a mask .*got 3"),
        ({"bright": (0.5, 0, 4, 4)}, None, r"regions\['bright'\] must be a mask .*got \(0.5, 0, 4, 4\)"),
    ],
)
def test_masks_of_regions_that_are_missing_or_do_not_fit_are_named(regions: Any, probe: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        told(seeded(picture_net), Items(masked, 16), "saliency", call=of_entries, regions=regions, probe=probe)


def test_a_given_probe_without_a_further_input_is_refused() -> None:
    probe = {
        name: value for name, value in torch.utils.data.default_collate([both(0), both(1)]).items() if name != "other"
    }
    with pytest.raises(ValueError, match="unknown entry of the batch 'other'"):
        told(seeded(Two), Items(both, 16), "saliency", call=of_both, inputs=["other"], probe=probe)


def test_a_metric_that_nobody_logs_is_named_with_the_nearest() -> None:
    with pytest.warns(
        UserWarning,
        match=r"no finite value of 'val_los', .* was logged, so the reference 'best' stays.*did you mean 'val_loss'\?",
    ):
        told(seeded(table_net), Items(table, 16), "saliency", best_of=("val_los", "min"))


# --- whole numbers


@pytest.mark.parametrize("method", ["occlusion", "kernel_shap"])
def test_pictures_of_whole_numbers_are_compared_and_drawn_as_those_of_others(method: str) -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(3 * 256, 2)))

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x.float() / 255)

    def whole(i: int) -> tuple[Tensor, int]:
        return (128 + 40 * draw(3, 16, 16, seed=i)).clamp(0, 255).to(torch.uint8), i % 2

    sinks = MemorySink(), MemorySink()
    for sink, make in zip(sinks, (whole, lambda i: (whole(i)[0].float(), i % 2)), strict=True):
        told(Scaled(), Items(make, 16), method, baseline="mean", regions={"corner": (0, 0, 4, 4)}, sinks=[sink])
    of_whole, of_floats = map(curves, sinks)
    assert of_whole.keys() == of_floats.keys()
    assert {name for _, name, _ in sinks[0].pictures} == {name for _, name, _ in sinks[1].pictures}
    assert f"attribution/{method}/film" in {name for _, name, _ in sinks[0].pictures}
    region = f"attribution/{method}/region/corner"
    assert of_whole[region] == pytest.approx(of_floats[region], rel=0.1)


# --- settings of another type


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"measures": "cosine"}, r"measures must be a list, such as \['cosine'\]; got 'cosine'"),
        ({"references": "first"}, r"references must be a list"),
        ({"sensitive": "age", "features": {"age": 0}}, r"sensitive must be a list, such as \['age'\]"),
        ({"inputs": "other"}, r"inputs must be a list"),
        ({"special_tokens": 3}, r"special_tokens must be a list of token ids.*; got 3"),
        ({"special_tokens": ["[CLS]"]}, r"special_tokens must hold token ids.*got '\[CLS\]'"),
        ({"pad_token": "[PAD]"}, r"pad_token must hold token ids.*got '\[PAD\]'"),
        ({"words": 3}, r"words must map token ids to words.*got 3"),
        ({"features": ["age"]}, r"features must be a dict, such as .*; got \["),
        ({"regions": [(0, 0, 4, 4)]}, r"regions must be a dict, such as .*; got \["),
        ({"options": ["n_steps"]}, r"options must be a dict, such as .*; got \["),
        ({"max_overhead": "5%"}, r"max_overhead must be a number; got '5%'"),
        ({"probe_size": 2.5}, r"probe_size must be a whole number; got 2.5"),
        ({"sample_size": 2.5}, r"sample_size must be a whole number; got 2.5"),
    ],
)
def test_a_setting_of_another_type_is_refused_with_what_it_should_be(settings: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        AttributionMonitor(**settings)


# --- sizes


class Sums(nn.Module):
    """Logits 0 and a weighted sum, of a table or series and of the pixels of an image, by 0.01."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights, self.lightness = nn.Parameter(weights), nn.Parameter(torch.tensor(0.01))

    def forward(self, x: Tensor, image: Tensor | None = None) -> Tensor:
        z = (x * self.weights).flatten(1).sum(dim=1)
        z = z if image is None else z + self.lightness * image.flatten(1).sum(dim=1)
        return torch.stack([torch.zeros_like(z), z], dim=1)


def test_shares_beside_an_image_are_parts_of_all_attribution() -> None:
    """The 784 pixels of an image count as many times as there are, though they are compared in 196 cells."""

    def illustrated(i: int) -> dict[str, Any]:
        return {**grouped(i), "image": draw(1, 28, 28, seed=i)}

    def of_pairs(net: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net(batch["x"], batch["image"]), batch["y"])

    weights = torch.arange(1.0, grouped(0)["x"].numel() + 1)
    settings: dict[str, Any] = {"call": of_pairs, "inputs": ["image"], "sensitive": ["column_1"], "sample_size": 0}
    found, _ = told(Sums(weights), Items(illustrated, 16), "saliency", **settings)
    share = 2 / (float(weights.sum()) + 0.01 * 784)
    assert found["attribution/saliency/sensitive_share"] == pytest.approx([share] * 2)


@pytest.mark.parametrize("layout", ["NCT", "NTC"])
def test_the_importance_of_a_channel_is_the_sum_over_its_time(layout: str) -> None:
    """In units of what is explained, however many steps share a cell."""
    weights = torch.tensor([[0.01], [0.02]]).expand(2, 112).clone()

    def series(i: int) -> tuple[Tensor, int]:
        x = draw(2, 112, seed=i)
        return (x if layout == "NCT" else x.T.contiguous()), i % 2

    net = Sums(weights if layout == "NCT" else weights.T.contiguous())
    found, _ = told(net, Items(series, 16), "saliency", layout=layout, sample_size=0)
    importance = [found[f"importance/saliency/channel_{i}"][-1] for i in range(2)]
    assert importance == pytest.approx([1.12, 2.24])
