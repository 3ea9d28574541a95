"""AttributionMonitor in a real Trainer: kinds of inputs, targets, baselines, regions, layers, references, overhead."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor, nn
from torch.optim.swa_utils import get_ema_avg_fn
from torch.utils.data import DataLoader

from learners import QUIET, Items, Learner, cross_entropy, draw, first, fitted, seeded, table, table_net
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.functional.attribution import margin
from xai_lightning.functional.attribution.baselines import black

# --- tokens


@pytest.fixture
def classifier() -> nn.Module:
    """A Hugging Face classifier with random weights."""
    transformers = pytest.importorskip("transformers")
    config = transformers.BertConfig(
        vocab_size=30, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16, num_labels=2
    )
    return seeded(lambda: transformers.BertForSequenceClassification(config))


def sentence(i: int) -> dict[str, Tensor]:
    length = 4 + i % 4
    ids = torch.zeros(10, dtype=torch.int64)
    ids[:length] = torch.cat(
        [torch.tensor([1]), 3 + draw(length - 2, seed=i).mul(9).long().abs() % 27, torch.tensor([2])]
    )
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": torch.tensor(i % 2)}


def hf(net: nn.Module, batch: Any) -> Tensor:
    return net(**batch).loss


@pytest.mark.parametrize(
    "method", ["integrated_gradients", "saliency", "deep_lift", "gradient_shap", "feature_ablation"]
)
def test_a_hugging_face_classifier_needs_no_more_than_the_name_of_its_embedding(
    classifier: nn.Module, method: str
) -> None:
    """Trap 24: padding and special tokens are left out; ids that are switched off become padding."""
    monitor = AttributionMonitor(
        method, embedding="bert.embeddings.word_embeddings", special_tokens=[1, 2], network="net", probe_size=16
    )
    data = Items(sentence, 24)
    fitted(classifier, hf, data, monitor, epochs=2)
    maps = first(monitor)
    assert maps.shape[1] == 10
    padded = {tuple((maps[i] != 0).tolist()) for i in range(len(maps))}
    assert all(not row[0] for row in padded), "the first token is special"
    assert {sum(row) for row in padded} <= {2, 3, 4, 5}
    assert max(sum(row) for row in padded) == 5
    assert maps.isfinite().all()
    assert "bert.embeddings.word_embeddings.weight" in classifier.state_dict()


def test_samples_that_differ_in_an_argument_that_is_not_explained_are_not_taken_for_each_other(
    classifier: nn.Module,
) -> None:
    """Law 2: the same ids under two masks, in one order and in the other."""

    def masked(i: int) -> dict[str, Tensor]:
        found = sentence(i % 12)
        return {**found, "attention_mask": found["attention_mask"] * (torch.arange(10) < (10 if i < 12 else 3))}

    maps = []
    for item in (masked, lambda i: masked(23 - i)):
        monitor = AttributionMonitor(
            "saliency", embedding="bert.embeddings.word_embeddings", network="net", probe_size=12
        )
        fitted(classifier, hf, Items(item, 24), monitor, epochs=1, lr=0.0)
        maps.append(first(monitor))
    assert len(maps[0]) == 12
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)


def test_token_attributions_add_up_to_the_change_from_padding(classifier: nn.Module) -> None:
    """Completeness, through the whole network, by the network itself."""
    sink = MemorySink()
    monitor = AttributionMonitor(
        "integrated_gradients", embedding="bert.embeddings.word_embeddings", network="net", sinks=[sink], probe_size=16
    )
    fitted(classifier, hf, Items(sentence, 16), monitor, epochs=1, lr=0.0)
    maps = first(monitor).sum(dim=1)
    batch = {name: torch.stack([sentence(i)[name] for i in range(16)]) for name in sentence(0)}
    labels = batch.pop("labels")
    classifier.eval()
    with torch.no_grad():
        there = margin(classifier(**batch).logits, labels)
        pads = {**batch, "input_ids": torch.zeros_like(batch["input_ids"])}
        change = there - margin(classifier(**pads).logits, labels)
    torch.testing.assert_close(
        maps.sort().values.float(), change.sort().values, atol=0.02 * float(change.abs().max()), rtol=0
    )


def test_an_embedding_that_does_not_exist_is_named_with_those_that_do(classifier: nn.Module) -> None:
    monitor = AttributionMonitor("saliency", embedding="bert.embeddings.words", network="net")
    said = r"not a module of Bert.*Did you mean '[a-z_.]*word_embeddings'\? Known names: "
    with pytest.raises(ValueError, match=said) as caught:
        fitted(classifier, hf, Items(sentence, 8), monitor)
    assert "dropout" not in str(caught.value), "what embeds nothing is not listed"


# --- series


class Turned(nn.Module):
    """A network for series, for those whose time comes first."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.transpose(1, 2))


def waves(i: int) -> tuple[Tensor, int]:
    x = draw(2, 40, seed=i)
    x[0] += 2 * (i % 2) * torch.sin(torch.arange(40) / 3)
    return x, i % 2


def series_net() -> nn.Module:
    return nn.Sequential(
        nn.Conv1d(2, 4, 5, padding=2), nn.ReLU(), nn.AdaptiveAvgPool1d(4), nn.Flatten(), nn.Linear(16, 2)
    )


@pytest.mark.parametrize("method", ["integrated_gradients", "feature_ablation", "kernel_shap", "occlusion"])
def test_series_are_explained_alike_with_channels_or_time_first(method: str) -> None:
    found = []
    for layout in ("NCT", "NTC"):
        turn = layout == "NTC"
        sink = MemorySink()
        data = Items(lambda i, turn=turn: (waves(i)[0].T.contiguous() if turn else waves(i)[0], waves(i)[1]), 16)
        net = seeded(series_net)
        settings: dict[str, Any] = {"probe_size": 16, "sample_size": 0, "features": {"sine": 0}, "sensitive": ["sine"]}
        monitor = AttributionMonitor(method, layout=layout, sinks=[sink], network="net", **settings)
        fitted(Turned(net) if turn else net, cross_entropy, data, monitor, epochs=1)
        records = {name: value for _, name, value in sink.records}
        found.append((records[f"importance/{method}/sine"], records[f"importance/{method}/channel_1"]))
        assert first(monitor).shape[1] == 2 * 28
        share = records[f"attribution/{method}/sensitive_share"]
        assert share == pytest.approx(found[-1][0] / sum(found[-1]), rel=1e-5)
    rel = 1e-4 if method in ("integrated_gradients", "feature_ablation", "occlusion") else 0.3  # other draws
    assert found[0] == pytest.approx(found[1], rel=rel)


# --- several inputs


class Both(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.image, self.table = nn.Conv2d(1, 2, 3), nn.Linear(3, 4)
        self.out = nn.Linear(76, 2)

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.out(torch.cat([self.image(x).relu().flatten(1), self.table(y)], dim=1))


def test_several_inputs_of_a_batch_are_explained_together() -> None:
    """An image and a table, by position; and by name from a dict."""
    pair = Items(lambda i: ([draw(1, 8, 8, seed=i), draw(3, seed=i + 99)], i % 2), 16)
    sink = MemorySink()
    monitor = AttributionMonitor("integrated_gradients", sinks=[sink], network="net", probe_size=16)
    fitted(seeded(Both), lambda net, b: nn.functional.cross_entropy(net(*b[0]), b[1]), pair, monitor)
    assert first(monitor).shape[1] == 64 + 3
    names = {name for _, name, _ in sink.records}
    assert "importance/integrated_gradients/input_2.column_0" in names
    named = Items(lambda i: {"x": pair[i][0][0], "y_extra": pair[i][0][1], "label": pair[i][1]}, 16)

    class Named(Both):
        def forward(self, x: Tensor, *, y_extra: Tensor) -> Tensor:
            return super().forward(x, y_extra)

    again = AttributionMonitor("integrated_gradients", inputs=["y_extra"], network="net", probe_size=16)

    def loss(net: nn.Module, b: Any) -> Tensor:
        return nn.functional.cross_entropy(net(b["x"], y_extra=b["y_extra"]), b["label"])

    fitted(seeded(Named), loss, named, again)
    torch.testing.assert_close(first(again).sort(dim=0).values, first(monitor).sort(dim=0).values, atol=1e-5, rtol=1e-4)


# --- tasks and targets


def test_one_label_of_several_is_explained_by_its_logit() -> None:
    data = Items(lambda i: (draw(5, seed=i), (draw(3, seed=i + 50) > 0).float()), 16)
    net = seeded(lambda: nn.Linear(5, 3))
    monitor = AttributionMonitor("input_x_gradient", task="multilabel", target=2, network="net", probe_size=16)
    _, model = fitted(
        net, lambda n, b: nn.functional.binary_cross_entropy_with_logits(n(b[0]), b[1]), data, monitor, epochs=1, lr=0.0
    )
    expected = torch.stack([item[0] for item in data.items]) * model.net.weight[2]
    found = first(monitor)
    assert torch.allclose(found.sum(0).double(), expected.detach().sum(0).double(), atol=1e-5)
    with pytest.raises(ValueError, match=r"task='multilabel' needs target=.*'label' and 3 outputs"):
        fitted(net, lambda n, b: n(b[0]).sum(), data, AttributionMonitor("saliency", task="multilabel", network="net"))


def test_a_segmentation_is_explained_over_the_mask_of_its_class() -> None:
    data = Items(lambda i: (draw(1, 6, 6, seed=i), (draw(6, 6, seed=i + 50) > 0).long()), 16)
    net = seeded(lambda: nn.Conv2d(1, 2, 1))
    monitor = AttributionMonitor(
        "integrated_gradients", task="segmentation", target=1, network="net", probe_size=16, options={"tolerance": 1e-4}
    )
    fitted(net, lambda n, b: nn.functional.cross_entropy(n(b[0]), b[1]), data, monitor, epochs=1, lr=0.0)
    found = first(monitor).reshape(-1, 6, 6)
    masks = torch.stack([y for _, y in data.items]).bool()
    x = torch.stack([x for x, _ in data.items])
    with torch.no_grad():
        change = (net(x)[:, 1] - net(x)[:, 0]) - (net(0 * x)[:, 1] - net(0 * x)[:, 0])
    assert found.sum().item() == pytest.approx(float((change * masks).sum()), rel=1e-2)
    assert (found != 0).sum() <= masks.sum(), "a pixel outside the mask moves nothing in a network of single pixels"


def test_equal_images_under_two_masks_are_two_samples_of_a_segmentation() -> None:
    """Law 2: in one order and in the other."""

    def item(i: int) -> tuple[Tensor, Tensor]:
        return draw(1, 6, 6, seed=i % 8), (draw(6, 6, seed=i + 50) > 0).long()

    maps = []
    for ordered in (item, lambda i: item(15 - i)):
        monitor = AttributionMonitor("saliency", task="segmentation", target=1, network="net", probe_size=8)
        net = seeded(lambda: nn.Conv2d(1, 2, 1))
        fitted(
            net, lambda n, b: nn.functional.cross_entropy(n(b[0]), b[1]), Items(ordered, 16), monitor, epochs=1, lr=0.0
        )
        maps.append(first(monitor))
    torch.testing.assert_close(maps[0], maps[1], rtol=1e-5, atol=1e-6)


def test_one_of_several_targets_of_a_regression_is_to_be_named() -> None:
    data, monitor = Items(lambda i: (draw(4, seed=i), draw(2, seed=i + 50)), 16), AttributionMonitor(task="regression")
    with pytest.raises(ValueError, match=r"one target per sample, or target= as the index of one; got .*2"):
        fitted(seeded(lambda: nn.Linear(4, 1)), lambda n, b: n(b[0]).mean(), data, monitor, epochs=1)


def test_one_output_of_a_regression_is_explained() -> None:
    data = Items(lambda i: (draw(4, seed=i), draw(2, seed=i + 50)), 16)
    net = seeded(lambda: nn.Linear(4, 2))
    monitor = AttributionMonitor("input_x_gradient", task="regression", target=1, network="net", probe_size=16)
    _, model = fitted(net, lambda n, b: nn.functional.mse_loss(n(b[0]), b[1]), data, monitor, epochs=1, lr=0.0)
    targets = torch.stack([y[1] for _, y in data.items]).double()
    expected = torch.stack([x for x, _ in data.items]) * model.net.weight[1] / targets.std(unbiased=False)
    assert torch.allclose(first(monitor).sum(0).double(), expected.detach().sum(0).double(), rtol=1e-4, atol=1e-5)


def test_the_reference_prediction_is_frozen_and_the_predicted_class_is_not() -> None:
    """Trap 98: a flip of the prediction must not pass for drift of the explanation."""
    found = {}
    for target in ("reference_prediction", "predicted", "label"):
        monitor = AttributionMonitor("input_x_gradient", target=target, network="net", probe_size=32)
        fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=6, lr=0.5)
        found[target] = monitor.state_dict()["references"]
    churned = found["predicted"]["others"]["previous"]["probabilities"].argmax(1) != found["predicted"]["frozen"]
    assert churned.any(), "no prediction changed, so that nothing is shown"
    assert torch.equal(found["predicted"]["maps"]["first"], found["reference_prediction"]["maps"]["first"])
    assert not torch.equal(found["predicted"]["maps"]["previous"], found["reference_prediction"]["maps"]["previous"])


def test_without_labels_the_reference_prediction_can_be_explained() -> None:
    data = Items(lambda i: {"x": draw(5, seed=i)}, 16)
    monitor = AttributionMonitor("saliency", target="reference_prediction", network="net", probe_size=16)
    fitted(seeded(table_net), lambda n, b: n(b["x"]).square().mean(), data, monitor)
    assert first(monitor).abs().sum() > 0
    with pytest.raises(ValueError, match="target='reference_prediction'"):
        fitted(
            seeded(table_net),
            lambda n, b: n(b["x"]).square().mean(),
            data,
            AttributionMonitor("saliency", network="net"),
        )


# --- baselines


@pytest.mark.parametrize("baseline", ["zero", "mean", "background", "blur", "uniform", 0.7, "tensor"])
def test_every_baseline_gives_weight_times_change_on_a_linear_model(baseline: Any) -> None:
    """Trap 28; the mean and the background are those of the data."""
    data = Items(lambda i: (draw(1, 8, 8, seed=i) + 2, i % 2), 32)
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 1)))
    given = torch.full((1, 1, 1), -1.5) if baseline == "tensor" else baseline
    monitor = AttributionMonitor("integrated_gradients", baseline=given, network="net", probe_size=64, target=1)
    call = lambda n, b: nn.functional.binary_cross_entropy_with_logits(n(b[0])[:, 0], b[1].float())  # noqa: E731
    _, model = fitted(net, call, data, monitor, epochs=1, lr=0.0)
    x = torch.stack([item[0] for item in data.items])
    against = {"zero": 0.0, 0.7: 0.7, "tensor": -1.5}.get(baseline)
    if baseline == "mean":
        against = x.mean(dim=0)
    weight = model.net[1].weight.reshape(1, 8, 8).detach()
    found = first(monitor).double().sum(0)
    if against is not None:
        expected = (weight * (x - against)).reshape(32, 64).double().sum(0)
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-4)
    else:
        assert found.isfinite().all()
        assert not torch.allclose(found, (weight * x).reshape(32, 64).double().sum(0), atol=1e-2)


def test_black_is_not_zero_after_normalisation() -> None:
    assert black([0.5, 0.4], [0.25, 0.2]).flatten().tolist() == pytest.approx([-2.0, -2.0])
    with pytest.raises(ValueError, match="be above 0"):
        black([0.5], [0.0])


def test_an_unknown_baseline_names_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"Did you mean 'blur'"):
        AttributionMonitor(baseline="blurr")


# --- regions


def test_the_share_in_a_region_is_that_of_the_maps() -> None:
    """A box, a mask, and masks that come with the batch; a shortcut shows there."""

    def make(i: int) -> dict[str, Any]:
        x = 0.1 * draw(1, 8, 8, seed=i)
        mask = torch.zeros(8, 8, dtype=torch.bool)
        mask[0:2, 0:2] = True
        x[0, 0:2, 0:2] += 2 * (i % 2)
        return {"image": x, "label": i % 2, "where": mask}

    sink, mask = MemorySink(), torch.zeros(8, 8, dtype=torch.bool)
    mask[0:2, 0:2] = True
    monitor = AttributionMonitor(
        "integrated_gradients",
        regions={"box": (0, 0, 2, 2), "mask": mask, "batch": "where"},
        sinks=[sink],
        network="net",
        probe_size=16,
    )
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    fitted(
        net,
        lambda n, b: nn.functional.cross_entropy(n(b["image"]), b["label"]),
        Items(make, 32),
        monitor,
        epochs=5,
        lr=0.5,
    )
    curves: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        if "/region/" in name:
            curves.setdefault(name.rsplit("/", 1)[1], []).append(value)
    assert curves["box"] == curves["mask"] == curves["batch"]
    assert curves["box"][-1] > curves["box"][0]
    assert curves["box"][-1] > 0.8
    maps = monitor.state_dict()["references"]["maps"]["previous"].double().abs().reshape(-1, 8, 8)
    assert curves["box"][-1] == pytest.approx(float(maps[:, :2, :2].sum() / maps.sum()), rel=1e-5)


@pytest.mark.parametrize(
    ("region", "message"),
    [
        ((0, 0, 9, 2), r"box must be \(top, left, bottom, right\) within \[8, 8\]; got \(0, 0, 9, 2\)"),
        ("there", "there"),
    ],
)
def test_a_region_that_does_not_fit_fails_at_the_first_batch(region: Any, message: str) -> None:
    data = Items(lambda i: (draw(1, 8, 8, seed=i), i % 2), 8)
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(64, 2)))
    with pytest.raises(ValueError, match=message):
        fitted(net, cross_entropy, data, AttributionMonitor("saliency", regions={"r": region}, network="net"))


# --- layers, smoothing, rules


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam", "conductance", "layer_integrated_gradients"])
def test_a_layer_is_explained_by_name(method: str) -> None:
    data = Items(lambda i: (draw(1, 8, 8, seed=i), i % 2), 16)
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 3, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(27, 2)))
    sink = MemorySink()
    monitor = AttributionMonitor(method, layer="0", network="net", probe_size=16, sinks=[sink])
    fitted(net, cross_entropy, data, monitor)
    assert first(monitor).shape[1] == (64 if method == "guided_grad_cam" else 9)
    assert f"attribution/{method}/maps" in {name for _, name, _ in sink.pictures}
    with pytest.raises(ValueError, match=r"layer='7' is not a module of Sequential.*Known names: 0, 1, 2, 3"):
        fitted(net, cross_entropy, data, AttributionMonitor(method, layer="7", network="net"))


def test_a_layer_that_is_never_called_or_called_twice_is_refused() -> None:
    class Odd(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.unused, self.twice, self.out = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.twice(self.twice(x)))

    for layer, message in (("unused", "never called"), ("twice", "called 2 times")):
        monitor = AttributionMonitor("conductance", layer=layer, network="net")
        with pytest.raises(ValueError, match=f"layer '{layer}' is {message}"):
            fitted(seeded(Odd), cross_entropy, Items(table, 8), monitor)


def test_networks_that_rules_do_not_cover_are_refused_or_told_of() -> None:
    """Traps 12, 13 and 31."""
    gelu = nn.Sequential(nn.Linear(5, 8), nn.GELU(), nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"LRP has no rule for 1 \(GELU\)"):
        fitted(gelu, cross_entropy, Items(table, 8), AttributionMonitor("lrp", network="net"))
    with pytest.warns(UserWarning, match=r"rules do not cover 1 \(GELU\)"):
        fitted(gelu, cross_entropy, Items(table, 8), AttributionMonitor("deep_lift", network="net"))
    relu = nn.ReLU()
    again = nn.Sequential(nn.Linear(5, 8), relu, nn.Linear(8, 8), relu, nn.Linear(8, 2))
    with pytest.raises(ValueError, match=r"modules that are called once; called again: 1"):
        fitted(again, cross_entropy, Items(table, 8), AttributionMonitor("deep_lift", network="net"))
    data = Items(lambda i: (draw(1, 8, 8, seed=i), i % 2), 8)
    pooled = nn.Sequential(nn.Conv2d(1, 2, 3), nn.MaxPool2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(18, 2))
    with pytest.warns(UserWarning, match="wrong attributions where one non-linear module directly follows another: 2"):
        fitted(pooled, cross_entropy, data, AttributionMonitor("deep_lift", network="net"))


@pytest.mark.parametrize("method", ["kernel_shap", "lime"])
@pytest.mark.parametrize(("count", "again"), [(31, 1), (32, 0), (999, 0)])
def test_where_nothing_is_drawn_no_passes_look_for_noise(
    method: str, count: int, again: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Law 7; of five variables there are 32 coalitions."""
    sink, options = MemorySink(), {"n_samples": count}
    monitor = AttributionMonitor(method, options=options, network="net", probe_size=8, sample_size=4, sinks=[sink])
    with caplog.at_level("INFO"):
        fitted(seeded(table_net), cross_entropy, Items(table, 16), monitor, epochs=2)
    passes = [value for _, name, value in sink.records if name == f"xai/{method}/forward_passes"]
    assert passes[0] - passes[1] == again * 8 * count
    floor = [value for _, name, value in sink.records if name == f"drift/{method}/noise_floor"]
    assert [value > 0 for value in floor] == [bool(again)] * 2
    assert sum("with other seeds" in message for message in caplog.messages) == again


def test_a_smoothed_method_knows_its_noise() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor(
        "saliency",
        smooth="smoothgrad",
        options={"nt_samples": 4},
        network="net",
        probe_size=32,
        sample_size=4,
        sinks=[sink],
    )
    fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=7, lr=0.2)
    found: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        found.setdefault(name, []).append(value)
    noise = found["drift/saliency_smoothgrad/noise/first/squared"]
    assert len(noise) == 7
    assert noise[0] == 0
    assert noise[1:5] == [0.0] * 4, "between replicates the last figure is kept"
    assert noise[5] == noise[6]
    assert noise[5] != 0
    assert all(floor > 0 for floor in found["drift/saliency_smoothgrad/noise_floor"])
    passes = found["xai/saliency_smoothgrad/forward_passes"]
    size = found["xai/saliency_smoothgrad/probe_size"][0]
    assert passes[1] == (size + 4) * (1 + 4)
    assert passes[5] == size * (1 + 2 * 4) + 4 * (1 + 4)


# --- references, alarm, overhead


def test_the_best_reference_is_the_earlier_validation_with_the_best_metric() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", best_of=("val_loss", "min"), network="net", probe_size=32, sinks=[sink])

    losses: list[float] = []

    class Notes(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            if not trainer.sanity_checking:
                losses.append(float(trainer.callback_metrics["val_loss"]))
                maps.append(monitor.state_dict()["references"]["maps"]["previous"])

    maps: list[Tensor] = []
    fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=6, lr=3.0, callbacks=[Notes()])
    best = min(range(5), key=lambda i: losses[i])
    assert torch.equal(monitor.state_dict()["references"]["maps"]["best"], maps[best])
    drift = [value for _, name, value in sink.records if name == "drift/saliency/cosine/best/mean"]
    assert len(drift) == 5
    with pytest.raises(ValueError, match=r"such as best_of="):
        AttributionMonitor(references=["best"])


def test_explaining_keeps_to_its_share_of_the_time() -> None:
    """Law 4: a validation that is left out logs nothing; trap 100."""
    sink = MemorySink()

    class Slow(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = table_net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

    monitor = AttributionMonitor("kernel_shap", max_overhead=0.2, network="net", probe_size=32, sinks=[sink])
    fitted(seeded(Slow), cross_entropy, Items(table, 64), monitor, epochs=40, batch_size=16)
    explained = sorted({step for step, name, _ in sink.records if name.startswith("drift/")})
    assert 1 <= len(explained) < 40
    with pytest.raises(ValueError, match=r"between 0 and 1; got 1\.5"):
        AttributionMonitor(max_overhead=1.5)


def test_the_similarity_of_all_validations_is_drawn_at_the_end() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", network="net", probe_size=32, sinks=[sink])
    fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=4, lr=0.3)
    drawn = [image for _, name, image in sink.pictures if name == "attribution/saliency/similarity"]
    assert len(drawn) == 1
    course = monitor._history.course
    assert course.numbers == [1, 2, 3, 4]
    assert course.similarity.shape == (4, 4)
    assert (course.similarity[0, 1:] < 1).all()


def test_without_pictures_none_is_drawn_and_the_numbers_are_the_same() -> None:
    with_all, without = MemorySink(), MemorySink()
    for pictures, sink in ((True, with_all), (False, without)):
        monitor = AttributionMonitor("saliency", network="net", probe_size=32, pictures=pictures, sinks=[sink])
        fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=2, lr=0.3)
    assert with_all.pictures
    assert without.pictures == []
    torch.testing.assert_close(*(torch.tensor([x for *_, x in s.records]) for s in (without, with_all)), equal_nan=True)
    assert [name for _, name, _ in without.records] == [name for _, name, _ in with_all.records]


# --- averaged weights


@pytest.mark.parametrize("place", ["before", "after"])
@pytest.mark.on_cpu("compares with weights on the CPU")
def test_the_explained_weights_are_the_averaged_ones(place: str, tmp_path: Path) -> None:
    """Trap 60: the explanation is that of the weights that were validated, wherever the callback stands."""
    validated: list[Tensor] = []
    raw: list[Tensor] = []

    class Spies(Learner):
        def on_train_batch_end(self, *_: Any) -> None:
            raw.append(self.net.weight.detach().clone())

        def validation_step(self, batch: Any) -> None:
            validated.append(self.net.weight.detach().clone())
            super().validation_step(batch)

    pl.seed_everything(0, verbose=False)
    monitor = AttributionMonitor("input_x_gradient", network="net", probe_size=64, target=1)
    averaging = WeightAveraging(avg_fn=get_ema_avg_fn(0.9))
    callbacks = [monitor, averaging] if place == "before" else [averaging, monitor]
    model = Spies(
        seeded(lambda: nn.Linear(5, 1)), lambda n, b: nn.functional.mse_loss(n(b[0])[:, 0], b[1].float()), lr=0.3
    )
    trainer = pl.Trainer(max_epochs=3, callbacks=callbacks, default_root_dir=tmp_path, **QUIET)
    trainer.fit(model, DataLoader(Items(table, 32), batch_size=8), DataLoader(Items(table, 32), batch_size=8))
    x = torch.stack([item[0] for item in Items(table, 32).items]).double()
    expected = (x * validated[-1].double()).sum(0)
    found = monitor.state_dict()["references"]["maps"]["previous"].double().sum(0)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    assert not math.isclose(float(found[0]), float((x * raw[-1].double()).sum(0)[0]), rel_tol=1e-3)


# --- pictures


@pytest.mark.parametrize("log_inputs", [True, False])
def test_texts_and_series_are_drawn_with_and_without_their_inputs(classifier: nn.Module, log_inputs: bool) -> None:
    """`log_inputs=False` keeps raw inputs out of every picture: other inputs of the same maps give the same pixels."""
    sink = MemorySink()
    monitor = AttributionMonitor(
        "saliency",
        embedding="bert.embeddings.word_embeddings",
        network="net",
        probe_size=16,
        words=lambda number: f"word{number}",
        log_inputs=log_inputs,
        sinks=[sink],
    )
    fitted(classifier, hf, Items(sentence, 16), monitor, epochs=1)
    assert [name for _, name, _ in sink.pictures] == ["attribution/saliency/tokens"]
    ids = torch.tensor([5, 9, 0])
    spelled = monitor._gallery._spelled(ids)
    assert spelled == (["word5", "word9", ""] if log_inputs else ["t1", "t2", ""])
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", network="net", probe_size=16, log_inputs=log_inputs, sinks=[sink])
    fitted(seeded(series_net), cross_entropy, Items(waves, 16), monitor, epochs=2)
    names = [name for _, name, _ in sink.pictures]
    assert names.count("attribution/saliency/series") == 2
    assert names.count("attribution/saliency/importance") == 2
