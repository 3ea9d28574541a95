"""AttributionMonitor on networks and batches as people write them."""

import warnings
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from captum.attr._utils.custom_modules import Addition_Module
from torch import Tensor, nn
from torch._dynamo import OptimizedModule
from torch.utils.data import DataLoader

from learners import QUIET, Items, cross_entropy, curves, draw, first, fitted, seeded, table, table_net
from xai_lightning import AttributionMonitor, FairnessMonitor, MemorySink

# --- what a network returns


def pictures(i: int) -> tuple[Tensor, int]:
    return draw(1, 8, 8, seed=i), i % 2


class Features(nn.Module):
    """Returns what it found on the way, and its logits, in an order and form of its own."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form, self.body, self.head = form, nn.Linear(5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Any:
        features = self.body(x).relu()
        return self.form(features, self.head(features))


def told_of(form: Any, pick: Any, monitor: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = seeded(lambda: Features(form))
        grouped = Items(lambda i: (*table(i), i % 2), 16)
        fitted(net, lambda net, batch: nn.functional.cross_entropy(pick(net(batch[0])), batch[1]), grouped, monitor)
    return [str(each.message) for each in caught if "of which the first is used" in str(each.message)]


MONITORS = {
    "attribution": lambda: AttributionMonitor("saliency", network="net", probe_size=8),
    "fairness": lambda: FairnessMonitor({"sex": ["F", "M"]}, network="net", positive_class=1),
}


@pytest.mark.parametrize("kind", MONITORS)
def test_it_is_told_once_which_of_several_tensors_is_taken(kind: str) -> None:
    """Trap 5."""
    told = told_of(lambda features, logits: (features, logits), lambda found: found[1], MONITORS[kind]())
    assert len(told) == 1
    assert "returned a tuple of 0: [8, 7], 1: [8, 2]" in told[0]
    assert "Choose one with output_key=..., its name or position" in told[0]


CLEAR = {
    "a name": (lambda features, logits: {"features": features, "logits": logits}, lambda found: found["logits"]),
    "the shape": (lambda features, logits: (logits, features[None]), lambda found: found[0]),
}


@pytest.mark.parametrize("what", CLEAR)
def test_nothing_is_told_where_a_name_or_the_shape_says_which_is_meant(what: str) -> None:
    assert told_of(*CLEAR[what], MONITORS["attribution"]()) == []


# --- layers


class Patches(nn.Module):
    """A transformer over patches, which knows tokens where a convolution knows channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 4, 4, 4)
        self.block, self.out = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(dim=1))


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam"])
def test_a_layer_of_tokens_has_no_class_activation_map(method: str) -> None:
    """captum would average over the embedding, and call tokens channels."""
    said = r"returns \[N, C, H, W\], but 'block' returns \['N', 4, 4\]; name a convolution"
    with pytest.raises(ValueError, match=said):
        fitted(
            seeded(Patches),
            cross_entropy,
            Items(pictures, 16),
            AttributionMonitor(method, layer="block", network="net", probe_size=8),
        )
    monitor = AttributionMonitor("grad_cam", layer="patch", network="net", probe_size=8)
    fitted(seeded(Patches), cross_entropy, Items(pictures, 16), monitor)


# --- sums that rules do not see


class Residual(nn.Module):
    """Two blocks, each with a skip around a layer."""

    def __init__(self, added: Any) -> None:
        super().__init__()
        self.stem, self.a, self.b, self.out = nn.Linear(5, 8), nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 2)
        self.active, self.adds, self.added = nn.Tanh(), nn.ModuleList([Addition_Module(), Addition_Module()]), added

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for layer, add in zip((self.a, self.b), self.adds, strict=True):
            x = self.added(add, layer(x), x)
        return self.out(self.active(x))


def lost(net: nn.Module, method: str, items: Any, **settings: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(net, settings.pop("call", cross_entropy), items, AttributionMonitor(method, probe_size=8, **settings))
    return [str(each.message) for each in caught if "its relevance differs" in str(each.message)]


def test_a_residual_network_is_told_of_once_where_lrp_explains_it() -> None:
    """Trap 31: captum gives both paths of a sum the whole relevance."""
    plain, covered = lambda add, h, x: h + x, lambda add, h, x: add(h, x)
    told = lost(seeded(lambda: Residual(plain)), "lrp", Items(table, 16), network="net")
    assert len(told) == 1
    assert told[0].startswith("AttributionMonitor('lrp'): its relevance differs from the explained output by ")
    assert "in the network, and captum gives each path all of the relevance. Replace sums by modules" in told[0]
    assert lost(seeded(lambda: Residual(covered)), "lrp", Items(table, 16), network="net") == []
    assert lost(seeded(lambda: Residual(plain)), "deep_lift", Items(table, 16), network="net") == []


def test_tasks_of_every_kind_are_weighed_and_plain_networks_are_not_accused() -> None:
    def pixels(i: int) -> tuple[Tensor, Tensor]:
        return draw(1, 6, 6, seed=i), (draw(6, 6, seed=i + 50) > 0).long()

    class Skipping(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.a(x)
            return x + self.b(x)

    plain = seeded(lambda: nn.Sequential(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 1)))
    settings: dict[str, Any] = {"network": "net", "task": "segmentation", "target": 1}
    assert lost(plain, "lrp", Items(pixels, 16), **settings) == []
    assert len(lost(seeded(Skipping), "lrp", Items(pixels, 16), **settings)) == 1
    numbers: dict[str, Any] = {"network": "net", "task": "regression", "target": 1}
    loss = {"call": lambda net, batch: net(batch[0]).square().mean()}
    assert lost(seeded(table_net), "lrp", Items(table, 16), **numbers, **loss) == []
    assert len(lost(seeded(lambda: Residual(lambda add, h, x: h + x)), "lrp", Items(table, 16), **numbers, **loss)) == 1


# --- explanations that are left out


class Gated(nn.Module):
    """A product of two of its layers, which no rule of DeepLift covers and no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x) * (9 * self.gate(x)).sigmoid())


class Rounded(Gated):
    """Whole numbers with a gradient that is not theirs."""

    def forward(self, x: Tensor) -> Tensor:
        value = 9 * self.value(x)
        return self.out(value + (value.sign() * 20 - value).detach())


@pytest.mark.parametrize(
    ("method", "net", "instead"),
    [
        ("deep_lift", Gated, "Use 'integrated_gradients'"),
        ("integrated_gradients", Rounded, "Use 'feature_ablation' or 'kernel_shap'"),
    ],
)
def test_it_is_told_once_that_most_explanations_miss_their_sum(method: str, net: Any, instead: str) -> None:
    """Trap 13."""
    monitor = AttributionMonitor(method, network="net", probe_size=16)
    with pytest.warns(UserWarning, match=rf"1\d explanations miss.*left out of drift.*{instead}") as caught:
        fitted(seeded(net), cross_entropy, Items(table, 16), monitor, lr=0.0)
    assert sum("explanations miss" in str(each.message) for each in caught) == 1


class Masked(nn.Linear):
    """Wants more than its input."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return super().forward(x * mask)


def test_a_network_that_wants_more_is_told_what_it_was_called_with() -> None:
    def masked(net: nn.Module, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(net(batch[0], torch.ones_like(batch[0])), batch[1])

    monitor = AttributionMonitor("saliency", network="net", probe_size=4)
    with pytest.raises(ValueError, match=r"Masked cannot be called with the input \[\d, 5\] alone .*name the module"):
        fitted(Masked(5, 2), masked, Items(table, 16), monitor)


# --- modules as they are built


class Whole(pl.LightningModule):
    """A LightningModule with a loss and a metric of its own, explained as a whole."""

    def __init__(self, made: str = "__init__") -> None:
        super().__init__()
        self.made, self.loss, self.accuracy = made, nn.CrossEntropyLoss(), torchmetrics.Accuracy("binary")
        self.net = seeded(table_net) if made == "__init__" else None

    def setup(self, stage: str) -> None:
        if self.net is None:
            self.net = seeded(table_net)

    def configure_model(self) -> None:
        if self.made == "compiled" and not isinstance(self.net, OptimizedModule):
            self.net = torch.compile(self.net, backend="eager")

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        return self.loss(self(batch[0]), batch[1])

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", self.loss(self(batch[0]), batch[1]))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), 0.01)


@pytest.mark.parametrize("made", ["__init__", "setup", "compiled"])
@pytest.mark.parametrize("method", ["lrp", "layer_gradient_x_activation"])
def test_a_module_is_explained_however_it_is_built_and_whatever_stands_beside_its_network(
    made: str, method: str
) -> None:
    """Traps 22 and 31: layers by the names that they have without the wrapper; losses and metrics need no rules."""
    monitor = AttributionMonitor(method, layer="net.0" if method.startswith("layer") else None, probe_size=8)
    trainer = pl.Trainer(max_epochs=1, callbacks=[monitor], **QUIET)
    trainer.fit(Whole(made), *[DataLoader(Items(table, 16), 8) for _ in range(2)])
    assert trainer.callback_metrics["xai/errors"] == 0
    assert first(monitor).abs().sum() > 0


@pytest.mark.on_cpu("no parameters without a shape")
def test_parameters_that_wait_for_the_first_batch_are_named() -> None:
    with pytest.raises(ValueError, match=r"parameters weight, bias of LazyLinear.*in the module's setup"):
        fitted(nn.LazyLinear(2), cross_entropy, Items(table, 16), AttributionMonitor("saliency", network="net"), lr=0.0)


# --- segmentations


class PerPixel(nn.Module):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.net = nn.Conv2d(1, classes, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)


def masked(i: int) -> tuple[Tensor, Tensor]:
    x = draw(1, 8, 8, seed=i)
    return x, (x > 0).float()


def pixels(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.binary_cross_entropy_with_logits(net(batch[0])[:, -1:], batch[1])


@pytest.mark.parametrize("target", [0, 1])
def test_one_logit_per_pixel_tells_two_classes_of_masks_with_a_channel(target: int) -> None:
    monitor = AttributionMonitor(
        "input_x_gradient", task="segmentation", target=target, network="net", probe_size=8, sample_size=0
    )
    net = seeded(lambda: PerPixel(1))
    fitted(net, pixels, Items(masked, 8), monitor, epochs=1, lr=0.0)
    expected = []
    for i in range(8):
        x, mask = (part[None] for part in masked(i))
        x.requires_grad_()
        scalar = ((net(x) if target else -net(x)) * (mask == target)).sum()
        expected.append(x.detach() * torch.autograd.grad(scalar, x)[0])
    sums = torch.cat(expected).sum(dim=(1, 2, 3)).sort().values
    torch.testing.assert_close(first(monitor).sum(dim=1).sort().values, sums, rtol=1e-4, atol=1e-4)


def test_logits_of_a_coarser_grid_are_those_of_the_pixels_between_them() -> None:
    """As Segformer's, whose loss interpolates them too."""
    net = seeded(lambda: nn.Sequential(nn.Conv2d(1, 2, 4, 4)))
    monitor = AttributionMonitor(
        "input_x_gradient", task="segmentation", target=1, network="net", probe_size=8, sample_size=0
    )

    def call(net: nn.Module, batch: Any) -> Tensor:
        fine = nn.functional.interpolate(net(batch[0]), (8, 8), mode="bilinear")
        return nn.functional.cross_entropy(fine, batch[1][:, 0].long())

    fitted(net, call, Items(masked, 8), monitor, epochs=1, lr=0.0)
    sums = []
    for i in range(8):
        x, mask = (part[None] for part in masked(i))
        x.requires_grad_()
        fine = nn.functional.interpolate(net(x), (8, 8), mode="bilinear")
        scalar = ((fine[:, 1] - fine[:, 0]) * (mask[:, 0] == 1)).sum()
        sums.append(float((x.detach() * torch.autograd.grad(scalar, x)[0]).sum()))
    torch.testing.assert_close(
        first(monitor).sum(dim=1).sort().values, torch.tensor(sums).sort().values, rtol=1e-4, atol=1e-4
    )


def rare(i: int) -> tuple[Tensor, Tensor]:
    """A picture of which one in four holds class 1."""
    x = draw(1, 8, 8, seed=i)
    return x, ((x > 0) & (i % 4 == 0)).float()


def test_a_segmentation_is_explained_where_its_class_is() -> None:
    """Pictures without it have nothing to sum over: their maps would be 0, and hide the drift of others."""
    sink = MemorySink()
    monitor = AttributionMonitor(
        "input_x_gradient", task="segmentation", target=1, network="net", probe_size=8, sample_size=8, sinks=[sink]
    )
    fitted(seeded(lambda: PerPixel(2)), pixels, Items(rare, 16), monitor)
    found = curves(sink)
    assert found["xai/input_x_gradient/probe_size"] == [4.0, 4.0]
    assert found["xai/input_x_gradient/zero_maps"] == [0.0, 0.0]
    assert first(monitor).abs().sum(dim=1).gt(0).all()
    given = torch.utils.data.default_collate([rare(i) for i in range(8)])
    monitor = AttributionMonitor(
        "saliency", task="segmentation", target=1, network="net", probe=given, sample_size=0, sinks=[sink]
    )
    fitted(seeded(lambda: PerPixel(2)), pixels, Items(rare, 16), monitor)
    assert curves(sink)["xai/saliency/probe_size"] == [2.0, 2.0]


def test_a_segmentation_whose_class_is_nowhere_says_so() -> None:
    monitor = AttributionMonitor("saliency", task="segmentation", target=1, network="net", on_error="raise")
    with pytest.raises(ValueError, match="no mask of loader 0 has a pixel of class 1"):
        fitted(seeded(lambda: PerPixel(2)), pixels, Items(lambda i: (rare(1)[0] + i, rare(1)[1]), 16), monitor)


@pytest.mark.parametrize(
    ("settings", "items", "said"),
    [
        ({}, masked, r"got \[8, 2, 8, 8\].*set task='segmentation'"),
        ({"task": "segmentation", "target": 2}, masked, r"the index of a label or class, in 0 .. 1; got target=2"),
        (
            {"task": "segmentation", "target": 1},
            lambda i: {"image": masked(i)[0], "mask": masked(i)[1]},
            r"got none for the input.*reader=\{'input': ..., 'target': ...\}",
        ),
    ],
)
def test_what_a_segmentation_needs_is_said(settings: Any, items: Any, said: str) -> None:
    def call(net: nn.Module, batch: Any) -> Tensor:
        return pixels(net, list(batch.values()) if isinstance(batch, dict) else batch)

    monitor, net = AttributionMonitor("saliency", network="net", **settings), seeded(lambda: PerPixel(2))
    with pytest.raises(ValueError, match=said):
        fitted(net, call, Items(items, 16), monitor)


# --- which entry of a batch becomes which argument


class Columns(nn.Module):
    """Codes of categories, and numbers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(4, 3), nn.Linear(3 + 5, 2)

    def forward(self, codes: Tensor, numbers: Tensor) -> Tensor:
        return self.out(torch.cat([self.embed(codes).flatten(1), numbers], dim=1))


class Passing(Columns):
    """Passes on whatever it is called with, as modules around Hugging Face classifiers do."""

    def forward(self, **batch: Tensor) -> Tensor:
        return super().forward(**batch)


def mixed(i: int) -> dict[str, Any]:
    return {"codes": torch.tensor([i % 4]), "numbers": draw(5, seed=i), "y": i % 2}


NAMED = {"input": "numbers", "target": "y"}
PLACED = {"input": 1, "target": 2, "codes": 0}


@pytest.mark.parametrize("further", [[], ["codes"]], ids=["numbers", "both"])
@pytest.mark.parametrize(
    ("net", "reader"),
    [(Columns, NAMED), (Columns, PLACED), (Passing, NAMED)],
    ids=["by name", "by place", "by keywords alone"],
)
def test_an_input_goes_where_its_name_says(net: Any, reader: Any, further: list[str]) -> None:
    """The explained numbers are the second argument; the codes before them go along, or are explained as well."""
    sink, method = MemorySink(), "feature_ablation" if further else "integrated_gradients"
    monitor = AttributionMonitor(
        method, reader=reader, inputs=further, network="net", probe_size=16, sinks=[sink], sample_size=0
    )
    model, placed = seeded(net), reader is PLACED

    def call(net: nn.Module, batch: Any) -> Tensor:
        codes, numbers, y = batch if placed else batch.values()
        return nn.functional.cross_entropy(net(codes=codes, numbers=numbers), y)

    items = Items((lambda i: tuple(mixed(i).values())) if placed else mixed, 16)
    fitted(model, call, items, monitor, epochs=1, lr=0.0)
    row = model.out.weight[:, 3:]
    numbers = torch.stack([mixed(i)["numbers"] for i in range(16)])
    sign = torch.tensor([1.0 if i % 2 else -1.0 for i in range(16)])[:, None]
    expected = (sign * numbers * (row[1] - row[0])).abs().mean(dim=0)
    found = [curves(sink)[f"importance/{method}/column_{i}"][-1] for i in range(5)]
    torch.testing.assert_close(torch.tensor(found), expected.detach(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("further", [[], ["codes"]], ids=["the only input", "a further one"])
def test_one_number_per_sample_is_to_be_a_column(further: list[str]) -> None:
    def scalar(i: int) -> dict[str, Any]:
        return {"codes": torch.tensor(0.5 * i), "x": table(i)[0] if further else torch.tensor(0.5 * i), "y": i % 2}

    monitor = AttributionMonitor("saliency", inputs=further, network="net", probe_size=8)
    with pytest.raises(
        ValueError, match=r"got Tensor\[8\] float32. Reshape one number per sample to a column, \[N, 1\]"
    ):
        fitted(
            seeded(table_net),
            lambda net, batch: nn.functional.cross_entropy(net(batch["codes"].new_ones(8, 5)), batch["y"]),
            Items(scalar, 16),
            monitor,
        )


def test_an_argument_that_is_missing_is_asked_for_by_the_reader() -> None:
    said = r"missing 1 required positional argument.*which is each further argument, by its name"
    with pytest.raises(ValueError, match=said):
        fitted(
            seeded(Columns),
            lambda net, batch: nn.functional.cross_entropy(net(batch[0], batch[1]), batch[2]),
            Items(lambda i: tuple(mixed(i).values()), 16),
            AttributionMonitor("feature_ablation", network="net", probe_size=8),
        )


def test_names_that_fit_the_steps_of_a_series_ask_for_its_layout() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(36, 2))
    features = {"x": 0, "y": 1, "z": 2}
    for layout, asked in (("NCT", True), ("NTC", False)):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            monitor = AttributionMonitor("saliency", features=features, layout=layout, network="net", probe_size=8)
            fitted(net, cross_entropy, Items(lambda i: (draw(12, 3, seed=i), i % 2), 16), monitor, lr=0.0)
        assert any("set layout='NTC'" in str(each.message) for each in caught) == asked


def test_a_list_of_samples_is_no_probe() -> None:
    monitor = AttributionMonitor("saliency", network="net", probe=[table(i) for i in range(8)])
    with pytest.raises(ValueError, match="takes one batch as the loader yields it, a Dataset, or a DataLoader: cannot"):
        fitted(seeded(table_net), cross_entropy, Items(table, 16), monitor)


# --- targets and inputs that are not what they seem


@pytest.mark.parametrize(
    ("target", "said"),
    [
        (lambda i: nn.functional.one_hot(torch.tensor(i % 2), 2).float(), r"For one-hot classes.*argmax\(1\)"),
        (
            lambda i: -100 if i % 5 == 0 else i % 2,
            r"got -100. If some samples have no label.*target='ref",
        ),
    ],
)
def test_targets_that_are_no_classes_are_refused_with_what_they_may_be(target: Any, said: str) -> None:
    items = Items(lambda i: (table(i)[0], target(i)), 16)
    with pytest.raises(ValueError, match=said):
        fitted(seeded(table_net), cross_entropy, items, AttributionMonitor("saliency", network="net", probe_size=8))


class Scaled(nn.Module):
    """Takes pixels as bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.out = nn.Linear(16, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(x.float().flatten(1) / 255)


def test_pixels_as_bytes_are_explained_as_the_floats_that_are_read() -> None:
    items = Items(lambda i: (draw(1, 4, 4, seed=i).mul(50).add(100).clamp(0, 255).to(torch.uint8), i % 2), 16)
    plain = AttributionMonitor("integrated_gradients", network="net", probe_size=8)
    with pytest.raises(ValueError, match=r"reader=\{'input': lambda batch: batch\[0\].float\(\), 'target': 1\}"):
        fitted(seeded(Scaled), cross_entropy, items, plain)
    reader = {"input": lambda batch: batch[0].float(), "target": 1}
    monitor = AttributionMonitor("integrated_gradients", reader=reader, network="net", probe_size=8)
    fitted(seeded(Scaled), cross_entropy, items, monitor)
    assert first(monitor).abs().sum() > 0


def test_names_of_columns_are_refused_where_a_volume_has_none() -> None:
    net = nn.Sequential(nn.Flatten(), nn.Linear(16, 2))
    monitor = AttributionMonitor("saliency", features={"age": 0}, network="net", probe_size=8)
    with pytest.raises(ValueError, match=r"columns of a table.*the inputs are \[8, 1, 2, 2, 4\]"):
        fitted(net, cross_entropy, Items(lambda i: (draw(1, 2, 2, 4, seed=i), i % 2), 16), monitor)
