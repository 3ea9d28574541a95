"""AttributionMonitor under what users and networks do to it: the bad input that traps and issues list."""

import math
import re
import warnings
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.rank_zero import rank_zero_only
from torch import Tensor, nn
from torch.utils.data import DataLoader, DistributedSampler, IterableDataset, Subset, SubsetRandomSampler

from learners import QUIET, Items, Learner, cross_entropy, curves, draw, fitted, seeded, table, table_net
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.callbacks._attribution.available import available
from xai_lightning.callbacks._attribution.course import Course
from xai_lightning.callbacks._attribution.references import References
from xai_lightning.callbacks._attribution.strata import Strata
from xai_lightning.callbacks._draw import row_hash


def maps(net: nn.Module, method: Any, **settings: Any) -> Tensor:
    """Canonical maps of 16 rows by an unchanged network."""
    monitor = AttributionMonitor(method, network="net", probe_size=16, sample_size=0, **settings)
    fitted(net, cross_entropy, Items(table, 16), monitor, epochs=1, lr=0.0)
    found: Tensor = monitor.state_dict()["references"]["maps"]["first"]
    return found


# --- networks that write into what they are given


class Writes(nn.Module):
    """Writes into its input, or not, with one result."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place, self.net = in_place, table_net()

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.sub_(0.5).mul_(2.0) if self.in_place else (x - 0.5) * 2.0)


@pytest.mark.parametrize(
    "method",
    ["saliency", "integrated_gradients", "deep_lift", "gradient_shap", "feature_ablation", "occlusion", "kernel_shap"],
)
def test_a_network_that_writes_into_its_input_is_explained_like_its_twin(method: str) -> None:
    """Trap 15: also where it does so in its first layer, where nothing else shows it."""
    for make in (lambda flag: Writes(flag), lambda flag: nn.Sequential(nn.LeakyReLU(0.3, inplace=flag), table_net())):
        found = [maps(seeded(lambda make=make, flag=flag: make(flag)), method, baseline=-1.0) for flag in (False, True)]
        torch.testing.assert_close(found[1], found[0], atol=1e-6 * float(found[0].abs().max()), rtol=0)


# --- memory


class Small(nn.Module):
    """Has memory for so many rows at once, outside of training."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.net, self.most = table_net(), most

    def forward(self, x: Tensor) -> Tensor:
        if not self.training and len(x) > self.most:
            raise torch.OutOfMemoryError(f"{len(x)} rows")
        return self.net(x)


@pytest.mark.parametrize("method", ["integrated_gradients", "saliency", "deep_lift", "feature_ablation", "kernel_shap"])
def test_less_is_computed_at_once_when_memory_runs_out_and_it_is_remembered(method: str) -> None:
    """Trap 16."""
    sink = MemorySink()
    monitor = AttributionMonitor(method, network="net", probe_size=40, sinks=[sink])
    with pytest.warns(UserWarning, match="ran out of memory; it now computes at most") as caught:
        fitted(seeded(lambda: Small(16)), cross_entropy, Items(table, 48), monitor, epochs=3)
    told = [str(w.message) for w in caught if "ran out of memory" in str(w.message)]
    assert 1 <= len(told) <= 8, "the size that fits is not searched for at each validation"
    assert len(curves(sink)[f"xai/{method}/probe_size"]) == 3
    wanted = maps(seeded(lambda: Small(10**6)), method)
    found = AttributionMonitor(method, network="net", probe_size=16, sample_size=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        fitted(seeded(lambda: Small(8)), cross_entropy, Items(table, 16), found, epochs=1, lr=0.0, batch_size=8)
    torch.testing.assert_close(found.state_dict()["references"]["maps"]["first"], wanted, atol=1e-6, rtol=1e-5)


def test_a_rank_whose_memory_runs_out_says_so_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 16; the others, which may have more memory, do not know."""

    class Second(pl.Callback):
        """From the first validation on, this process is taken for the second one."""

        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            monkeypatch.setattr(rank_zero_only, "rank", 1)

    monitor = AttributionMonitor("saliency", network="net", probe_size=40)
    with pytest.warns(UserWarning, match=r"'saliency'\) ran out of memory; it now computes at most"):
        fitted(seeded(lambda: Small(16)), cross_entropy, Items(table, 48), monitor, epochs=1, callbacks=[Second()])


def test_what_never_fits_is_skipped_with_a_warning_and_training_goes_on() -> None:
    """50 draws of one sample cannot be split: the method is skipped, from the very first batch on."""
    sink = MemorySink()
    monitor = AttributionMonitor("gradient_shap", network="net", probe_size=16, sinks=[sink])
    model = Learner(seeded(lambda: Small(16)), cross_entropy)
    trainer = pl.Trainer(max_epochs=4, callbacks=[monitor], **QUIET)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(model, DataLoader(Items(table, 32), batch_size=8), DataLoader(Items(table, 32), batch_size=8))
    failed = [str(w.message) for w in caught if "and logged NaN: OutOfMemoryError" in str(w.message)]
    assert len(failed) == 3
    assert all("fewer draws, options={'n_samples': ...}" in said for said in failed)
    assert sum("ran out of memory" in str(w.message) for w in caught) <= 8
    assert trainer.current_epoch == 4
    assert trainer.callback_metrics["xai/errors"] == 1
    assert all(math.isnan(value) for value in curves(sink)["xai/gradient_shap/probe_size"])


# --- data


class Stream(IterableDataset):
    """Rows without a length."""

    def __iter__(self) -> Iterator[Any]:
        return (table(i) for i in range(40))


def test_a_stream_without_length_and_a_probe_larger_than_the_data() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", network="net", probe_size=500, sinks=[sink])
    model = Learner(seeded(table_net), cross_entropy)
    trainer = pl.Trainer(max_epochs=2, callbacks=[monitor], limit_train_batches=2, **QUIET)
    trainer.fit(model, DataLoader(Items(table, 16), batch_size=8), DataLoader(Stream(), batch_size=8))
    assert curves(sink)["xai/saliency/probe_size"] == [40, 40]
    assert trainer.callback_metrics["xai/errors"] == 0


def test_a_class_that_never_occurs_is_counted_as_none() -> None:
    sink = MemorySink()
    net = lambda: nn.Linear(table(0)[0].numel(), 3)  # noqa: E731
    fitted(seeded(net), cross_entropy, Items(table, 32), AttributionMonitor("saliency", network="net", sinks=[sink]))
    found = curves(sink)
    assert found["xai/saliency/probe/class_2"] == [0, 0]
    assert all(math.isnan(value) for value in found["drift/saliency/by_class/first/class_2"])
    assert not any(math.isnan(value) for value in found["drift/saliency/by_class/first/class_1"])


@pytest.mark.parametrize("value", [math.inf, math.nan])
def test_infinite_maps_are_counted_and_dropped(value: float) -> None:
    class Breaks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = table_net()

        def forward(self, x: Tensor) -> Tensor:
            factor = torch.where((x[:, :1] > 0) & (not self.training), value, 1.0)
            return self.net(x) * factor

    sink = MemorySink()
    monitor = AttributionMonitor("input_x_gradient", network="net", sinks=[sink])
    model = Learner(seeded(Breaks), cross_entropy)
    trainer = pl.Trainer(max_epochs=2, callbacks=[monitor], **QUIET)
    trainer.fit(model, DataLoader(Items(table, 32), batch_size=8), DataLoader(Items(table, 32), batch_size=8))
    found = curves(sink)
    assert 0 < found["xai/input_x_gradient/nonfinite_maps"][1] < 1
    assert not math.isnan(found["drift/input_x_gradient/cosine/first/mean"][1])


def test_constant_maps_do_not_drift_and_rank_nothing() -> None:
    """A callable whose map is one number everywhere."""

    def constant(forward: Any, x: Tensor, baselines: Tensor) -> Tensor:
        return torch.ones_like(x)

    sink = MemorySink()
    fitted(
        seeded(table_net), cross_entropy, Items(table, 32), AttributionMonitor(constant, network="net", sinks=[sink])
    )
    found = curves(sink)
    for measure in ("cosine", "weighted_jaccard", "top_k", "magnitude", "jensen_shannon", "effective_features"):
        assert found[f"drift/constant/{measure}/first/mean"] == [0.0, 0.0], measure


@pytest.mark.parametrize("target", [1, "reference_prediction", "predicted"])
@pytest.mark.parametrize("labels", ["far", "none", "soft"])
def test_labels_that_are_no_classes_matter_only_where_they_are_explained(target: Any, labels: str) -> None:
    def row(i: int) -> tuple[Tensor, Any]:
        return table(i)[0], {"far": 7, "none": -1, "soft": torch.tensor([0.5, 0.5])}[labels]

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return net(batch[0]).square().mean()

    sink = MemorySink()
    fitted(
        seeded(table_net),
        loss,
        Items(row, 32),
        AttributionMonitor("saliency", network="net", target=target, probe_size=24, sinks=[sink]),
    )
    assert curves(sink)["xai/saliency/probe/class_unknown"] == curves(sink)["xai/saliency/probe_size"]


def test_the_probe_keeps_to_its_size_with_any_number_of_classes() -> None:
    for classes in (1, 2, 10, 100, 1000):
        for wanted in (32, 128):
            strata = Strata({}, "classification", wanted, labelled=True)
            strata.n_classes = classes
            assert wanted - classes < strata.size <= wanted
    sink = MemorySink()
    data = Items(lambda i: (table(i)[0], i % 20), 200)
    net = lambda: nn.Linear(table(0)[0].numel(), 20)  # noqa: E731
    monitor = AttributionMonitor("saliency", network="net", probe_size=16, sinks=[sink])
    fitted(seeded(net), cross_entropy, data, monitor)
    assert curves(sink)["xai/saliency/probe_size"] == [16, 16]


@pytest.mark.parametrize("name", ["logits", "preds", "y_hat", "out", "anything"])
@pytest.mark.parametrize("form", [dict, SimpleNamespace], ids=["dict", "object"])
def test_the_output_is_found_in_whatever_a_network_returns(form: Any, name: str) -> None:
    """Trap 5."""

    class Returns(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = table_net()

        def forward(self, x: Tensor) -> Any:
            return form(**{name: self.net(x)})

    def loss(net: nn.Module, batch: Any) -> Tensor:
        found = net(batch[0])
        return nn.functional.cross_entropy(found[name] if form is dict else getattr(found, name), batch[1])

    monitor = AttributionMonitor("integrated_gradients", network="net", probe_size=16)
    fitted(seeded(Returns), loss, Items(table, 16), monitor, epochs=1)


def test_batches_of_several_shapes_need_a_probe_of_one() -> None:
    def row(i: int) -> tuple[Tensor, int]:
        return draw(2, 20 if i < 8 else 30, seed=i), i % 2

    net = lambda: nn.Sequential(nn.Conv1d(2, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 2))  # noqa: E731
    given = (torch.stack([row(i)[0] for i in range(8)]), torch.tensor([i % 2 for i in range(8)]))
    fitted(seeded(net), cross_entropy, Items(row, 16), AttributionMonitor("saliency", network="net", probe=given))


# --- methods


def test_noise_is_for_inputs_that_can_take_it() -> None:
    """Traps 7 and 24: refused at the first batch, with the reason."""
    net = lambda: nn.Sequential(nn.Embedding(9, 4), nn.Flatten(), nn.Linear(12, 2))  # noqa: E731
    data = Items(lambda i: (torch.arange(3) + i % 5, i % 2), 16)
    with pytest.raises(ValueError, match="smooth='smoothgrad' cannot add noise to integers"):
        fitted(
            seeded(net), cross_entropy, data, AttributionMonitor("feature_ablation", smooth="smoothgrad", network="net")
        )


def test_a_method_of_donors_takes_them_from_the_data_and_refuses_a_single_one() -> None:
    with pytest.raises(ValueError, match=r"baseline must be 'background' or a tensor of several rows; got 0\.0"):
        AttributionMonitor("feature_permutation", baseline=0.0)
    permuted, ablated = (maps(seeded(table_net), method) for method in ("feature_permutation", "feature_ablation"))
    assert float((permuted - ablated).abs().max()) > 0.01 * float(ablated.abs().max())


@pytest.mark.parametrize("method", ["gradient_shap", "deep_lift_shap"])
def test_a_sample_is_compared_with_its_own_baseline_whoever_else_is_explained(method: str) -> None:
    """Laws 2 and 6."""
    found = []
    for size in (16, 8):
        monitor = AttributionMonitor(method, baseline="uniform", network="net", probe_size=size, sample_size=0)
        fitted(seeded(table_net), cross_entropy, Items(table, 16), monitor, epochs=1, lr=0.0)
        references = monitor.state_dict()["references"]
        found.append(dict(zip(references["hashes"].tolist(), references["maps"]["first"], strict=True)))
    shared = set(found[0]) & set(found[1])
    assert len(shared) == 8
    for key in shared:
        torch.testing.assert_close(found[1][key], found[0][key], atol=1e-6, rtol=1e-5)


def test_deep_lift_shap_knows_what_it_should_add_up_to() -> None:
    """Trap 13: where captum's rules are wrong, the error says so, and the maps are left out of drift."""
    for pair, wrong in (([nn.ReLU()], False), ([nn.Tanh(), nn.ReLU()], True)):
        sink = MemorySink()
        width = table(0)[0].numel()
        net = seeded(lambda pair=pair, width=width: nn.Sequential(nn.Linear(width, 8), *pair, nn.Linear(8, 2)))
        monitor = AttributionMonitor("deep_lift_shap", baseline="background", network="net", sinks=[sink])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            fitted(net, cross_entropy, Items(table, 32), monitor)
        assert any("directly follows another" in str(w.message) for w in caught) == wrong
        assert (curves(sink)["xai/deep_lift_shap/completeness_error"][0] > 0.05) == wrong
        assert (curves(sink)["xai/deep_lift_shap/incomplete_maps"][0] > 0.3) == wrong


@pytest.mark.on_cpu("no fused recurrent cells")
def test_a_layer_that_returns_no_tensor_is_refused_by_name() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.lstm, self.out = nn.LSTM(2, 4, batch_first=True), nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            return self.out(self.lstm(x)[0][:, -1])

    data = Items(lambda i: (draw(5, 2, seed=i), i % 2), 16)
    monitor = AttributionMonitor("conductance", layer="lstm", layout="NTC", network="net")
    with pytest.raises(ValueError, match="layer 'lstm' returns a tuple; name a layer that returns a tensor"):
        fitted(seeded(Two), cross_entropy, data, monitor)


def test_regions_are_found_in_the_maps_of_a_convolution() -> None:
    sink = MemorySink()
    net = lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2), nn.ReLU(), nn.Flatten(), nn.Linear(36, 2))  # noqa: E731
    data = Items(lambda i: (draw(1, 8, 8, seed=i), i % 2), 16)
    settings: dict[str, Any] = {"network": "net", "regions": {"left": (0, 0, 8, 4), "right": (0, 4, 8, 8)}}
    fitted(seeded(net), cross_entropy, data, AttributionMonitor("grad_cam", layer="0", sinks=[sink], **settings))
    shares = [curves(sink)[f"attribution/grad_cam/region/{side}"][0] for side in ("left", "right")]
    assert sum(shares) == pytest.approx(1.0)
    assert min(shares) > 0.1


def test_thinned_hashes_see_all_of_an_input() -> None:
    """An even stride over the numbers would read one column of a picture, or one channel of a series."""
    for shape in ((1, 1024, 1024), (3, 256, 256), (1024, 64), (2048, 12)):
        x = torch.zeros(8, *shape)
        x[:, ..., 1:] = torch.randn(8, *shape[:-1], shape[-1] - 1, generator=torch.Generator().manual_seed(0))
        assert len(set(row_hash([x], 0, 1024).tolist())) == 8


def test_an_evaluation_does_not_change_the_scale_of_a_regressions_targets() -> None:
    """The standard deviation of the first validation is frozen: another set may not make drift."""

    def row(scale: float) -> Any:
        return lambda i: (table(i)[0], scale * table(i)[0].sum()[None])

    def loss(net: nn.Module, batch: Any) -> Tensor:
        return nn.functional.mse_loss(net(batch[0]), batch[1])

    sink = MemorySink()
    monitor = AttributionMonitor("saliency", task="regression", network="net", sinks=[sink])
    model = Learner(seeded(lambda: nn.Linear(5, 1)), loss, lr=0.0)
    trainer = pl.Trainer(max_epochs=1, callbacks=[monitor], **QUIET)
    data, other = (DataLoader(Items(row(scale), 32), 8) for scale in (1.0, 100.0))
    trainer.fit(model, data, data)
    trainer.validate(model, other, verbose=False)
    trainer.fit_loop.max_epochs = 2
    trainer.fit(model, data, data)
    assert curves(sink)["drift/saliency/magnitude/first/mean"] == [0.0, 0.0]


def test_a_given_probe_is_told_and_halved_at_its_own_size(caplog: pytest.LogCaptureFixture) -> None:
    given = (torch.stack([table(i)[0] for i in range(8)]), torch.tensor([table(i)[1] for i in range(8)]))
    sink = MemorySink()
    with caplog.at_level("INFO"):
        monitor = AttributionMonitor("saliency", network="net", probe=given, sinks=[sink])
        fitted(seeded(table_net), cross_entropy, Items(table, 48), monitor, epochs=1)
    assert "explains about 8 samples and 4 fresh ones" in caplog.text
    assert curves(sink)["xai/saliency/forward_passes"] == [2 * (8 + 4)]


class Unsized(IterableDataset):
    """Rows of a stream, whose number nobody knows."""

    def __iter__(self) -> Iterator[Any]:
        return iter([table(i) for i in range(48)])


@pytest.mark.parametrize("settings", [{"probe_size": 1000}, {"sample_size": 1000}])
@pytest.mark.parametrize(
    ("rows", "options", "most"),
    [
        (Items(table, 48), {}, 48),
        (Items(table, 48), {"limit_val_batches": 2}, 16),
        (Subset(Items(table, 48), range(10)), {}, 10),
        (Unsized(), {}, 1000),
    ],
)
@pytest.mark.parametrize("sanity", [0, 1])
def test_no_more_samples_are_told_than_there_are(
    rows: Any, options: dict[str, Any], most: int, sanity: int, settings: dict[str, Any], caplog: Any
) -> None:
    """Law 7: the cost is told once, before the first validation, and at most what there is to explain."""
    monitor = AttributionMonitor("saliency", network="net", **settings)
    quiet = QUIET | {"num_sanity_val_steps": sanity, "max_epochs": 1}
    begun: list[str] = []
    first = pl.callbacks.LambdaCallback(on_train_batch_start=lambda *_: begun.append(caplog.text))
    with caplog.at_level("INFO"):
        trainer = pl.Trainer(callbacks=[monitor, first], **quiet, **options)
        model = Learner(seeded(table_net), cross_entropy, lr=0.0)
        trainer.fit(model, DataLoader(Items(table, 16), 8), DataLoader(rows, 8))
    told = re.findall(
        r"explains about (\d+) samples and (\d+) fresh ones at each validation, with at most ([\d,]+) ", caplog.text
    )
    assert len(told) == 1
    probe, fresh, passes = (int(number.replace(",", "")) for number in told[0])
    assert max(probe, fresh) <= most
    assert trainer.callback_metrics["xai/saliency/forward_passes"] <= passes
    if sanity or "probe_size" in settings:
        assert "explains about" in begun[0]


@pytest.mark.parametrize("ranks", [1, 3])
def test_the_rows_of_all_ranks_are_told_where_a_sampler_deals_them_out(ranks: int) -> None:
    data = Items(table, 50)
    samplers: list[Any] = [DistributedSampler(data, num_replicas=ranks, rank=0), SubsetRandomSampler(range(5))]
    found = []
    for sampler in samplers:
        loader = DataLoader(data, 8, sampler=sampler)
        trainer: Any = SimpleNamespace(
            testing=False, val_dataloaders=loader, num_val_batches=[len(loader)], world_size=ranks
        )
        found.append(available(trainer, 0))
        assert available(trainer, 1) is None
    assert found == [50, 5 * ranks]


def test_a_monitor_learns_anew_in_another_training() -> None:
    """Law 8: another network and other data are no failures of the first ones' shapes."""
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", network="net", sinks=[sink])
    fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=1)
    with pytest.warns(UserWarning, match="the validation data changed"):
        fitted(
            seeded(lambda: nn.Linear(3, 4)),
            cross_entropy,
            Items(lambda i: (draw(3, seed=i), i % 4), 32),
            monitor,
            epochs=1,
        )
    assert "importance/saliency/column_2" in curves(sink)


def test_names_are_fixed_from_the_second_validation_on_wherever_the_reference_lies() -> None:
    """Law 4."""
    sink = MemorySink()
    monitor = AttributionMonitor("gradient_shap", network="net", reference_after=4, probe_size=16, sinks=[sink])
    fitted(seeded(table_net), cross_entropy, Items(table, 32), monitor, epochs=5)
    names: dict[int, set[str]] = {}
    for step, name, _ in sink.records:
        names.setdefault(step, set()).add(name)
    later = list(names.values())[1:]
    assert all(found == later[0] for found in later)
    drift = curves(sink)["drift/gradient_shap/cosine/first/mean"]
    assert [math.isnan(value) for value in drift] == [True, True, False, False]


def test_the_share_of_the_time_is_known_after_a_resume(tmp_path: Any) -> None:
    settings: dict[str, Any] = {"network": "net", "max_overhead": 0.05, "probe_size": 16}
    first = AttributionMonitor("saliency", **settings)
    trainer, _ = fitted(seeded(table_net), cross_entropy, Items(table, 16), first, epochs=3)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    spent = first.state_dict()["clock"]
    assert spent[1] > spent[0] > 0
    again = AttributionMonitor("saliency", **settings)
    model = Learner(seeded(table_net), cross_entropy)
    trainer = pl.Trainer(max_epochs=4, callbacks=[again], **QUIET)
    loaders = [DataLoader(Items(table, 16), 8) for _ in range(2)]
    trainer.fit(model, *loaders, ckpt_path=tmp_path / "last.ckpt")
    assert again.state_dict()["clock"][2] >= spent[2], "the next one is not due before it was planned"


# --- pictures


class Growing(Learner):
    """Doubles its last layer at each epoch, by hand: explanations grow, and do not turn."""

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            with torch.no_grad():
                self.net[-1].weight.mul_(2.0)
                self.net[-1].bias.mul_(2.0)


@pytest.mark.parametrize("after", [1, 2])
def test_colours_are_those_of_the_reference_and_an_unturned_map_shows_no_difference(after: int) -> None:
    """Read back from the pixels: the same scale at every validation, and neutral tiles where nothing turned."""
    sink = MemorySink()
    net = lambda: nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2))  # noqa: E731
    data = Items(lambda i: (draw(1, 8, 8, seed=i), i % 2), 16)
    monitor = AttributionMonitor("input_x_gradient", network="net", probe_size=8, reference_after=after, sinks=[sink])
    pl.seed_everything(0, verbose=False)
    trainer = pl.Trainer(max_epochs=4, callbacks=[monitor], **QUIET)
    trainer.fit(Growing(seeded(net), cross_entropy, lr=0.0), DataLoader(data, 8), DataLoader(data, 8))
    scales = curves(sink)["xai/input_x_gradient/colour_scale"]
    assert scales[after - 1 :] == [scales[after - 1]] * (5 - after)
    pictures = [picture for _, name, picture in sink.pictures if name.endswith("/maps")]
    for picture in pictures[after - 1 :]:
        neutral = (picture == 247).all(axis=-1)
        rows = np.flatnonzero(neutral.sum(axis=1) > 40)
        tile = neutral[rows[len(rows) // 2]]
        last = np.flatnonzero(tile)[-40:]
        assert last[-1] - last[0] < 80, "the difference panel is one even tile"
        assert tile[last[0] : last[-1] + 1].all()


# --- references and noise


SLOW = pytest.mark.slow


@pytest.mark.parametrize(
    ("after", "every"), [pytest.param(1, 1, marks=SLOW), pytest.param(2, 1, marks=SLOW), (2, 2), (3, 2)]
)
def test_noise_is_corrected_from_the_reference_on_wherever_it_lies(after: int, every: int) -> None:
    """Without an explanation by other seeds at the reference, drift would be 0 by construction."""
    sink = MemorySink()
    monitor = AttributionMonitor(
        "gradient_shap",
        options={"n_samples": 5},
        network="net",
        reference_after=after,
        every_n_validations=every,
        noise_every=2,
        sinks=[sink],
    )
    fitted(seeded(table_net), cross_entropy, Items(table, 64), monitor, epochs=12, lr=0.3)
    squared = curves(sink)["drift/gradient_shap/noise/first/squared"]
    plain = curves(sink)["drift/gradient_shap/cosine/first/mean"]
    assert not math.isnan(squared[-1])
    assert squared[-1] > 0.05
    assert plain[-1] > 0.01


class Scored(Learner):
    """Logs a score that it is told, one for each validation."""

    scores: tuple[float, ...] = ()

    def on_validation_epoch_end(self) -> None:
        if not self.trainer.sanity_checking:
            self.log("score", self.scores[min(self.current_epoch, len(self.scores) - 1)])


def scored(scores: tuple[float, ...], monitor: AttributionMonitor, epochs: int, **more: Any) -> pl.Trainer:
    pl.seed_everything(0, verbose=False)
    model = Scored(seeded(table_net), cross_entropy, lr=0.3)
    model.scores = scores
    resume = more.pop("ckpt_path", None)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[monitor], **{**QUIET, **more})
    trainer.fit(model, DataLoader(Items(table, 32), 8), DataLoader(Items(table, 32), 8), ckpt_path=resume)
    return trainer


def test_best_is_an_explained_validation_also_where_others_are_left_out() -> None:
    """The second validation is the best, and is not explained: of those explained the third is."""
    sink = MemorySink()
    settings: dict[str, Any] = {"network": "net", "best_of": ("score", "min"), "every_n_validations": 2}
    monitor = AttributionMonitor("saliency", sinks=[sink], **settings)
    scored((0.9, 0.1, 0.5, 0.9, 0.7, 0.9, 0.8), monitor, 7)
    references = monitor.state_dict()["references"]
    assert monitor.state_dict()["course"]["best"] == pytest.approx(0.5)
    assert not torch.equal(references["maps"]["best"], references["maps"]["first"])
    assert not torch.equal(references["maps"]["best"], references["maps"]["previous"])


def test_best_survives_a_resume(tmp_path: Any) -> None:
    """Law 2: the validation before the checkpoint may be the best, though its metrics are not loaded."""
    settings: dict[str, Any] = {"network": "net", "best_of": ("score", "min"), "probe_size": 16}
    scores, found = (0.9, 0.1, 0.5, 0.6), []
    for resumed in (False, True):
        sink = MemorySink()
        monitor = AttributionMonitor("saliency", sinks=[sink], **settings)
        if resumed:
            first = scored(scores, AttributionMonitor("saliency", **settings), 2)
            first.save_checkpoint(tmp_path / "last.ckpt")
            scored(scores, monitor, 4, ckpt_path=tmp_path / "last.ckpt")
        else:
            scored(scores, monitor, 4)
        found.append(curves(sink)["drift/saliency/cosine/best/mean"][-2:])
    assert found[1] == pytest.approx(found[0], rel=1e-5)


def test_frozen_classes_are_found_row_by_row() -> None:
    """Several ranks: candidates that the probe does not keep must not unfreeze those that it does."""
    references = References(torch.tensor([9, 2, 5]), torch.zeros(3), frozen=torch.tensor([1, 0, 2]))
    assert references.classes(torch.tensor([5, 7, 9]), "reference_prediction").tolist() == [2, -1, 1]  # type: ignore[union-attr]
    assert references.classes(torch.tensor([5]), "label") is None


def test_the_similarity_of_very_small_and_very_large_maps_is_true() -> None:
    for size in (1e-9, 1e6):
        course, maps = Course(), size * torch.tensor([[1.0, 2.0], [3.0, -1.0]])
        for number, each in enumerate((maps, -maps), start=1):
            course.remember(number, each, number)
        expected = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).double()
        torch.testing.assert_close(course.similarity, expected, atol=1e-3, rtol=0)
        in_own_size = -maps / maps.abs().amax(dim=1, keepdim=True)
        torch.testing.assert_close(course.film(torch.arange(2))[1], in_own_size, rtol=1e-3, atol=0)


def test_shares_of_sensitive_variables_and_of_their_proxies_are_logged_apart() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor(
        "input_x_gradient",
        features={"sex": 0, "height": 1},
        sensitive=["sex"],
        proxies=["height"],
        network="net",
        sample_size=0,
        sinks=[sink],
    )
    fitted(seeded(table_net), cross_entropy, Items(table, 64), monitor, epochs=1)
    found = curves(sink)
    importance = {name: v[0] for name, v in found.items() if name.startswith("importance/")}
    total = sum(importance.values())
    for share, variable in (("sensitive_share", "sex"), ("proxy_share", "height")):
        wanted = importance[f"importance/input_x_gradient/{variable}"] / total
        assert found[f"attribution/input_x_gradient/{share}"][0] == pytest.approx(wanted, rel=1e-5)
    with pytest.raises(ValueError, match="unknown feature 'hieght'"):
        AttributionMonitor(features={"height": 0}, proxies=["hieght"])
