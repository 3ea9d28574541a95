"""ActivationMonitor in a real Trainer: what layers represent on a fixed sample of rows, weights, and pictures."""

import io
import math
import pickle
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from small import GROUPS, IMAGE, TABLE, Classifier, Rows, fit, loader, network, rows, trainer
from traced import Traced, differences, snapshot, traced
from xai_lightning import ActivationMonitor, MemorySink
from xai_lightning.callbacks._activation import attention as attention_watched
from xai_lightning.callbacks._activation.attention import heads_of
from xai_lightning.callbacks._activation.history import MOST, LayerHistory
from xai_lightning.callbacks._activation.kernels import KernelReferences
from xai_lightning.callbacks._activation.layers import Layer
from xai_lightning.callbacks._activation.probe import ActivationProbe, by_sample
from xai_lightning.callbacks._activation.weights import MOST_ENTRIES
from xai_lightning.callbacks._batches import Batches
from xai_lightning.functional.representation import (
    attention_bytes_needed,
    attention_entropy,
    class_selectivity,
    class_sums,
    first_token_share,
    group_selectivity,
    linear_cka,
    rank_statistics,
)


class Planted(nn.Module):
    """Layers side by side: one encodes the group in one unit, one the label only, one has rank one."""

    def __init__(self) -> None:
        super().__init__()
        self.group, self.label, self.line = nn.Linear(6, 8), nn.Linear(6, 8), nn.Linear(6, 8, bias=False)
        self.head = nn.Linear(24, 2)
        for layer, column in ((self.group, 1), (self.label, 0)):
            layer.weight.data[:, :2] = 0.0
            layer.weight.data[3] = 0.0
            layer.weight.data[3, column] = 1.0
        self.line.weight.data = torch.outer(torch.arange(1.0, 9.0), torch.randn(6))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(torch.cat([self.group(x), self.label(x), self.line(x)], dim=1))


def people(n: int = 240) -> Rows:
    """The label stands in column 0, the group in column 1, both noisy; the group is more frequent in one class."""
    draw = torch.Generator().manual_seed(5)
    y = torch.arange(n) % 2
    sex = (torch.rand(n, generator=draw) < 0.2 + 0.6 * y).long()
    x = torch.randn(n, 6, generator=draw)
    x[:, 0], x[:, 1] = y + 0.1 * x[:, 0], sex + 0.1 * x[:, 1]
    return Rows(x, y, sex)


def monitor(sink: MemorySink, **options: Any) -> ActivationMonitor:
    settings: dict[str, Any] = {"representation": True, "on_error": "raise", "pictures": False, **options}
    return ActivationMonitor(sinks=[sink], **settings)


def validations(sink: MemorySink) -> list[dict[str, float]]:
    """Without stopwatches, in order."""
    found: dict[int, dict[str, float]] = {}
    for step, name, value in sink.records:
        found.setdefault(step, {})[name] = value
    return [found[step] for step in sorted(found)]


def evaluated(net: nn.Module, data: Rows, folder: Path, **options: Any) -> dict[str, float]:
    sink = MemorySink()
    batch_size = options.pop("batch_size", 16)
    model = Classifier(net=lambda: net)
    callbacks = [monitor(sink, **options)]
    trainer(callbacks, folder).validate(model, loader(data, batch_size=batch_size), verbose=False)
    return validations(sink)[-1]


WATCHED = {"layers": ["net.group", "net.label", "net.line"], "groups": {"sex": GROUPS}}


def test_a_planted_layer_of_rank_one_is_found(tmp_path: Path) -> None:
    found = evaluated(Planted(), people(), tmp_path, **WATCHED)
    assert found["activation/net.line/effective_rank"] == pytest.approx(1, abs=1e-5)
    assert found["activation/net.line/participation_ratio"] == pytest.approx(1, abs=1e-9)
    assert found["activation/net.group/effective_rank"] > 3
    assert found["activation_max/rank_collapse"] == pytest.approx(1, abs=1e-5)


class Broken(nn.Module):
    """A layer whose outputs are NaN, or infinite, beside one whose are finite."""

    def __init__(self, value: float) -> None:
        super().__init__()
        self.value, self.broken, self.head = value, nn.Linear(6, 8), nn.Linear(6, 2)
        nn.init.constant_(self.broken.bias, value)

    def forward(self, x: Tensor) -> Tensor:
        self.broken(x)
        return self.head(x)


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_layer_without_a_finite_value_has_no_number_of_massive_units(value: float, tmp_path: Path) -> None:
    found = evaluated(Broken(value), rows(), tmp_path, layers=["net.broken"])
    for name in ("activation/net.broken", "activation_max"):
        assert math.isnan(found[f"{name}/massive_units"])
        assert math.isnan(found[f"{name}/rank_collapse"])
    found = evaluated(Broken(value), rows(), tmp_path, layers=["net.broken", "net.head"])
    assert math.isnan(found["activation/net.broken/massive_units"])
    assert found["activation_max/massive_units"] == found["activation/net.head/massive_units"] == 0


def test_a_unit_that_encodes_the_group_is_found_and_one_that_encodes_the_label_is_not(tmp_path: Path) -> None:
    found = evaluated(Planted(), people(), tmp_path, **WATCHED)
    largest, chance = (
        {layer: found[f"activation/net.{layer}/group_selectivity/sex/{part}"] for layer in ("group", "label")}
        for part in ("largest", "chance")
    )
    assert largest["group"] > 0.8
    assert chance["group"] < 0.1
    assert largest["label"] < 3 * chance["label"], "although the group is far more frequent in one class"
    excess = largest["group"] - chance["group"]
    assert found["activation_max/group_selectivity_excess/sex"] == pytest.approx(excess, abs=1e-12)


def test_all_rows_give_what_the_definitions_give_of_the_whole_output(tmp_path: Path) -> None:
    """A sample of at least as many rows as there are is all of them."""
    net, data = network(IMAGE, 3), rows(60, IMAGE, classes=3)
    net.eval()
    h = net[:3](data.x).detach().double().mean((2, 3))
    found = evaluated(net, data, tmp_path, groups={"sex": GROUPS})
    wanted = rank_statistics(h)
    selectivity = class_selectivity(*class_sums(h, data.y, 3))
    wanted |= {"class_selectivity_mean": selectivity.mean(), "class_selectivity_largest": selectivity.max()}
    wanted |= {"group_selectivity/sex/largest": group_selectivity(h, data.y, data.sex).value.max()}
    for name, value in wanted.items():
        assert found[f"activation/net.2/{name}"] == pytest.approx(float(value), rel=1e-6), name


@pytest.mark.parametrize("size", [40, 256])
def test_batch_size_and_order_change_nothing(size: int, tmp_path: Path) -> None:
    data, net = people(), Planted()
    order = torch.randperm(len(data), generator=torch.Generator().manual_seed(2))
    shuffled = Rows(data.x[order], data.y[order], data.sex[order])
    cuts = [(data, 16), (data, 7), (shuffled, 240), (shuffled, 33)]
    logged = [evaluated(net, d, tmp_path, batch_size=b, probe_size=size, **WATCHED) for d, b in cuts]
    ours = [name for name in logged[0] if "rank" in name or "selectivity" in name]
    assert len(ours) > 20
    for other in logged[1:]:
        # activations below 0 have no class selectivity
        wanted = [logged[0][name] for name in ours]
        assert [other[name] for name in ours] == pytest.approx(wanted, rel=0, abs=1e-6, nan_ok=True)
        assert sum(math.isnan(value) for value in wanted) <= 6


def test_a_sample_that_is_smaller_than_the_data_is_another_under_another_seed(tmp_path: Path) -> None:
    """Else the test above could hold of a sample that is always all rows."""
    net, name = Planted(), "activation/net.group/effective_rank"
    found = [evaluated(net, people(), tmp_path, probe_size=40, seed=seed, **WATCHED)[name] for seed in (0, 1)]
    assert found[0] != found[1]


def still() -> nn.Module:
    """Nothing that changes but by training."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 2))


DISTANCES = [f"activation_max/cka_distance_{name}" for name in ("first", "previous", "best")]


def test_identical_weights_have_not_moved_at_all(tmp_path: Path) -> None:
    sink = MemorySink()
    fit(Classifier(net=still, lr=0.0), [monitor(sink, best_of=("val_loss", "min"))], tmp_path, max_epochs=3)
    found = validations(sink)
    assert [[x[name] for name in DISTANCES] for x in found[1:]] == [[0.0, 0.0, 0.0]] * 2
    assert [x["activation/net.3/cka_first"] for x in found] == [1.0] * 3
    assert found[2]["weight/net.0/relative_update"] == 0.0


@pytest.mark.on_cpu("runs the network on the CPU at the end")
def test_trained_layers_move_as_far_as_the_definition_says(tmp_path: Path) -> None:
    outputs: list[Tensor] = []
    data = rows(seed=1)

    class Keeps(Classifier):
        def on_validation_end(self) -> None:
            with torch.no_grad():
                outputs.append(self.net[:2](data.x))

    sink = MemorySink()
    fit(Keeps(net=still), [monitor(sink)], tmp_path, max_epochs=3, val=loader(data))
    found = validations(sink)
    for reference, other in (("first", 0), ("previous", 1)):
        wanted = float(linear_cka(outputs[2], outputs[other]))
        assert found[2][f"activation/net.1/cka_{reference}"] == pytest.approx(wanted, abs=1e-6)
    assert 0 < found[2]["activation_max/cka_distance_previous"] < 1


def test_names_are_fixed_from_the_first_validation_on(tmp_path: Path) -> None:
    """Law 4: without a reference yet, NaN."""
    sink = MemorySink()
    fit(Classifier(), [monitor(sink, best_of=("val_loss", "min"))], tmp_path, max_epochs=3)
    found = validations(sink)
    assert len({frozenset(x) for x in found}) == 1
    assert [found[0][name] for name in DISTANCES] == pytest.approx([0.0, math.nan, math.nan], nan_ok=True)
    assert all(math.isfinite(x[name]) for x in found[1:] for name in DISTANCES)


def test_the_best_validation_is_the_reference_that_the_metric_chooses() -> None:
    """Of four validations the second is best; its metric is known when the third begins."""
    draw = torch.Generator().manual_seed(0)
    layers = [torch.randn(20, 4, generator=draw) for _ in range(4)]
    references = KernelReferences(("val_loss", "min"))
    hashes = torch.arange(20)
    probes = [SimpleNamespace(hashes=hashes, layers={"a": h}) for h in layers]
    metrics = [math.nan, 3.0, 1.0, 2.0]
    found = [references.follow(p, m)["a"]["best"] for p, m in zip(probes, metrics, strict=True)]
    wanted = [1 - float(linear_cka(h, layers[best])) for h, best in ((layers[1], 0), (layers[2], 1), (layers[3], 1))]
    assert found == pytest.approx([math.nan, *wanted], abs=1e-6, nan_ok=True)


def test_other_rows_are_told_and_not_compared() -> None:
    references = KernelReferences(None)
    h = torch.randn(20, 4, generator=torch.Generator().manual_seed(0))
    hashes = torch.arange(20)
    references.follow(SimpleNamespace(hashes=hashes, layers={"a": h}), math.nan)
    with pytest.warns(UserWarning, match="validation data changed"):
        changed = references.follow(SimpleNamespace(hashes=hashes + 1, layers={"a": h}), math.nan)
    assert all(math.isnan(value) for value in changed["a"].values())
    assert references.follow(SimpleNamespace(hashes=hashes + 1, layers={"a": h}), math.nan)["a"]["first"] == 0.0


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_alone_has_no_references(stage: str, tmp_path: Path) -> None:
    sink, made = MemorySink(), trainer([], tmp_path)
    made.callbacks.append(monitor(sink))  # type: ignore[attr-defined]
    getattr(made, stage)(Classifier(), loader(rows()), verbose=False)
    found = validations(sink)[-1]
    prefix = "test/" if stage == "test" else ""
    assert f"{prefix}activation/net.2/effective_rank" in found
    assert f"{prefix}weight/net.0/norm" in found
    assert not [name for name in found if "cka" in name or "update" in name]


class Targetless(Classifier):
    """Validates on targets that are no classes."""

    def evaluate(self, batch: Any, stage: str) -> None:
        self(batch["x"])
        self.log(f"{stage}_loss", 0.0, batch_size=len(batch["x"]))


def test_targets_that_are_no_classes_have_no_class_selectivity(tmp_path: Path) -> None:
    data, sink = rows(), MemorySink()
    data.y = data.y.float()
    fit(Targetless(), [monitor(sink, groups={"sex": GROUPS})], tmp_path, val=loader(data))
    names = validations(sink)[-1]
    assert not [name for name in names if "class_selectivity" in name]
    assert math.isfinite(names["activation/net.2/group_selectivity/sex/largest"])


# --- laws


@pytest.mark.parametrize("shape", [TABLE, IMAGE], ids=["table", "image"])
def test_a_watched_training_is_bit_identical(shape: tuple[int, ...], tmp_path: Path) -> None:
    """Law 1: weights, buffers, gradients, generators, flags, hooks, attributes, data order."""
    watch = monitor(MemorySink(), pictures=True, groups={"sex": GROUPS}, statistics="cheap")
    watched = traced(lambda: Traced(shape), [watch], tmp_path / "watched", shape)
    assert differences(watched, traced(lambda: Traced(shape), [], tmp_path / "plain", shape)) == []


def test_no_hooks_are_left_whatever_happens(tmp_path: Path) -> None:
    class Fails(Classifier):
        def validation_step(self, batch: Any, batch_idx: int) -> Any:
            super().validation_step(batch, batch_idx)
            if batch_idx == 1:
                raise ArithmeticError("planted")

    model = Fails()
    with pytest.raises(ArithmeticError, match="planted"):
        fit(model, [monitor(MemorySink())], tmp_path)
    assert not any(n for name, n in snapshot(model)["tables"].items() if "hooks" in name)


def test_between_validations_there_are_no_hooks(tmp_path: Path) -> None:
    seen = []

    class Counts(Classifier):
        def training_step(self, batch: Any, batch_idx: int) -> Tensor:
            seen.extend(n for name, n in snapshot(self)["tables"].items() if "hooks" in name)
            return super().training_step(batch, batch_idx)

    fit(Counts(), [monitor(MemorySink())], tmp_path, max_epochs=3)
    assert seen
    assert not any(seen)


def saved(folder: Path, sink: MemorySink, epochs: int, ckpt: Path | None = None, **options: Any) -> Path:
    # logged first, so that the state of this validation is in the file of it
    keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
    fit(Classifier(net=still), [monitor(sink, **options), keep], folder, max_epochs=epochs, ckpt_path=ckpt)
    return folder / "last.ckpt"


def test_a_resumed_run_goes_on_with_the_references_and_the_weights(tmp_path: Path) -> None:
    options = {"best_of": ("val_loss", "min")}
    whole, parts = MemorySink(), MemorySink()
    saved(tmp_path / "whole", whole, 4, **options)
    ckpt = saved(tmp_path / "parts", parts, 2, **options)
    saved(tmp_path / "parts", parts, 4, ckpt, **options)
    ours = [*DISTANCES, "weight/net.0/relative_update", "activation/net.1/cka_first"]
    found = validations(parts)
    assert [x["activation/net.1/cka_first"] for x in found[2:]] != [1.0, 1.0], "the references began anew"
    # shuffling differs after a resume; the third validation sees other weights, and all that is kept must be finite
    assert all(math.isfinite(x[name]) for x in found[2:] for name in ours)
    assert [x[name] for x in found[:2] for name in ours] == pytest.approx(
        [x[name] for x in validations(whole)[:2] for name in ours], abs=1e-12, nan_ok=True
    )


def test_a_resumed_run_with_the_same_weights_has_not_moved(tmp_path: Path) -> None:
    sink = MemorySink()
    folder = tmp_path
    for epochs, ckpt in ((2, None), (3, folder / "last.ckpt")):
        keep = ModelCheckpoint(folder, save_last=True, save_top_k=0)
        fit(Classifier(net=still, lr=0.0), [monitor(sink), keep], folder, max_epochs=epochs, ckpt_path=ckpt)
    last = validations(sink)[-1]
    assert [last[name] for name in DISTANCES[:2]] == [0.0, 0.0]
    assert last["weight/net.2/relative_update"] == 0.0


def test_the_state_is_tensors_and_plain_types_without_inputs_and_of_fixed_size(tmp_path: Path) -> None:
    """Laws 7 and 9."""
    data, sizes = rows(24, IMAGE, seed=1), []
    for epochs in (3, 9):
        own = monitor(MemorySink(), pictures=True, statistics="cheap", groups={"sex": GROUPS})
        fit(Classifier(IMAGE), [own], tmp_path, train=loader(rows(16, IMAGE)), val=loader(data), max_epochs=epochs)
        stream = io.BytesIO()
        torch.save(own.state_dict(), stream)
        sizes.append(len(stream.getvalue()))
        stream.seek(0)
        assert torch.load(stream, weights_only=True)["expensive"]["representation"]["kernels"]["first"]
        for x in data.x.flatten(1):
            assert x.numpy().tobytes() not in stream.getvalue()
        own.sinks.clear()
        pictured = own._expensive._top.thumbnails
        assert pictured.numel()
        assert pictured[0, 0].numpy().tobytes() not in pickle.dumps(own)
    assert sizes[0] == sizes[1]


# --- ranks


class Ranks:
    """As many threads as ranks, whose collectives meet."""

    def __init__(self, count: int) -> None:
        self._barrier, self._sent = threading.Barrier(count, timeout=20), [torch.empty(0)] * count
        self.trainers = [self._trainer(rank, count) for rank in range(count)]

    def _trainer(self, rank: int, count: int) -> Any:
        def reduce(mine: Tensor, reduce_op: str) -> Tensor:
            self._sent[rank] = mine
            self._barrier.wait()
            assert len({tuple(x.shape) for x in self._sent}) == 1, "a collective of unequal shapes hangs"
            every = torch.stack(self._sent)
            self._barrier.wait()
            return every.sum(0) if reduce_op == "sum" else every.amax(0)

        def agreed(decision: bool, all: bool) -> bool:  # noqa: A002 - the name is Lightning's
            votes = int(reduce(torch.tensor(int(decision)), "sum"))
            return votes == count if all else votes > 0

        strategy = SimpleNamespace(reduce=reduce, reduce_boolean_decision=agreed, root_device=torch.device("cpu"))
        return SimpleNamespace(world_size=count, global_rank=rank, strategy=strategy)


def shown(probe: ActivationProbe, layers: list[Layer], data: Rows, parts: list[slice], silent: tuple[str, ...]) -> None:
    probe.choose(layers, [])
    probe.open(None)
    for part in parts:
        batch = {"x": data.x[part], "y": data.y[part], "sex": data.sex[part]}
        if probe.before(batch):
            for layer in layers:
                if layer.name not in silent:
                    probe.keep(layer, batch["x"] * 2, None)
        probe.after()


def test_ranks_together_keep_what_one_process_keeps() -> None:
    """Law 2: a rank that saw no batch, and a layer that one rank alone called, are no exception."""
    data, layers = people(60), [Layer("a", "features"), Layer("b", "features")]

    def made() -> ActivationProbe:
        return ActivationProbe(20, Batches(None, {"sex": GROUPS}, None, "error"), 0, thumbnails=False)

    alone = made()
    shown(alone, layers, data, [slice(0, 60)], ())
    wanted = alone.gather(Ranks(1).trainers[0])
    probes, ranks, found = [made() for _ in range(3)], Ranks(3), {}
    for probe, parts, silent in zip(
        probes, ([slice(0, 9), slice(9, 31)], [slice(31, 60)], []), ((), ("b",), ()), strict=True
    ):
        shown(probe, layers, data, parts, silent)
    threads = [
        threading.Thread(target=lambda r=r: found.update({r: probes[r].gather(ranks.trainers[r])})) for r in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    for each in found.values():
        assert torch.equal(each.hashes, wanted.hashes)
        assert torch.equal(each.labels, wanted.labels)
        assert torch.equal(each.groups["sex"], wanted.groups["sex"])
        assert torch.equal(each.layers["a"], wanted.layers["a"])
        called = each.layers["b"].isfinite().all(1)
        assert 0 < int(called.sum()) < 20
        assert torch.equal(each.layers["b"][called], wanted.layers["b"][called])


# --- rows of outputs


@pytest.mark.parametrize(
    ("shape", "units", "how"),
    [
        ((4, 5), "features", lambda h: h),
        ((4, 5, 3, 2), "channels", lambda h: h.mean((2, 3))),
        ((4, 3, 5), "features", lambda h: h.mean(1)),
        ((3, 4, 5), "features", lambda h: h.mean(0)),
        ((12, 5), "features", lambda h: h.view(4, 3, 5).mean(1)),
        ((4,), "features", lambda h: h[:, None]),
        ((7, 5), "features", lambda h: None),
    ],
    ids=["table", "image", "tokens", "time first", "positions in a row", "one number", "no rows"],
)
def test_a_sample_is_the_mean_of_its_positions(shape: tuple[int, ...], units: Any, how: Any) -> None:
    h = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    places = torch.tensor([3, 1])
    found = by_sample(h, Layer("a", units), 4, places, None)
    wanted = how(h)
    assert found is None if wanted is None else torch.allclose(found, wanted[places].double(), atol=1e-6)


def test_padding_is_left_out_of_the_mean_over_positions() -> None:
    h = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0))
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [0, 0, 0]]).bool()
    h[~mask] = math.nan
    found = by_sample(h, Layer("a", "features"), 4, torch.arange(4), mask)
    assert found is not None
    torch.testing.assert_close(found[:3], torch.stack([h[i, mask[i]].double().mean(0) for i in range(3)]))
    assert found[3].isnan().all(), "a sample of padding alone has no mean"


def test_a_layer_with_many_units_is_thinned_to_what_was_told() -> None:
    found = by_sample(torch.randn(2, 10_000), Layer("a", "features"), 2, torch.arange(2), None)
    assert found is not None
    assert found.shape == (2, 4096)


# --- attention


class Attends(nn.Module):
    """Self-attention over rows of two numbers; the first of two heads looks at one token, whatever the query."""

    def __init__(self, *, causal: bool = False, batch_first: bool = True) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(8, 2, dropout=0.5, batch_first=batch_first)
        self.embed, self.head = nn.Linear(2, 8), nn.Linear(8, 2)
        self.causal, self.batch_first = causal, batch_first
        self.attention.in_proj_weight.data[:4] *= 50
        self.attention.in_proj_bias.data[:4] = 300.0

    def forward(self, x: Tensor) -> Tensor:
        h, padding = self.embed(x.view(len(x), 3, 2)), x[:, ::2] > 1.0
        padding[:, 0] = False
        mask = torch.ones(3, 3).triu(1).bool() if self.causal else None
        h = h if self.batch_first else h.transpose(0, 1)
        out, _ = self.attention(h, h, value=h, key_padding_mask=padding, need_weights=False, attn_mask=mask)
        return self.head(out.mean(1 if self.batch_first else 0))


@pytest.mark.parametrize("batch_first", [True, False], ids=["samples first", "time first"])
@pytest.mark.parametrize("causal", [False, True], ids=["free", "causal"])
@pytest.mark.on_cpu("its mask lies on the CPU")
def test_heads_are_seen_as_the_layer_itself_would_show_them(causal: bool, batch_first: bool, tmp_path: Path) -> None:
    """Trap 30: the layer was asked for no weights, and computes none."""
    torch.manual_seed(0)
    net, data = Attends(causal=causal, batch_first=batch_first), rows(40)
    found = evaluated(net, data, tmp_path, layers=["net.attention"], batch_size=7)
    net.eval()
    with torch.no_grad():
        h, padding = net.embed(data.x.view(40, 3, 2)), data.x[:, ::2] > 1.0
        padding[:, 0] = False
        mask = torch.ones(3, 3).triu(1).bool() if causal else None
        options = {"key_padding_mask": padding, "attn_mask": mask, "average_attn_weights": False}
        h = h if batch_first else h.transpose(0, 1)
        weights = net.attention(h, h, h, **options)[1]
    each = [
        torch.stack([f(weights[i : i + 1], ~padding[i : i + 1], causal=causal) for i in range(40)]).nanmean(0)
        for f in (attention_entropy, first_token_share)
    ]
    assert found["activation/net.attention/attention_entropy"] == pytest.approx(float(each[0].mean()), abs=1e-6)
    assert found["activation/net.attention/first_token_share"] == pytest.approx(float(each[1].mean()), abs=1e-6)
    wanted = float((each[0] < 0.05).double().mean())
    assert found["activation/net.attention/collapsed_heads"] == wanted
    assert found["activation_max/collapsed_heads"] == wanted
    assert wanted == 0.5, "the planted head"


def test_each_head_of_each_sample_may_have_a_mask_of_its_own() -> None:
    draw = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    layer = nn.MultiheadAttention(8, 2, batch_first=True).eval()
    x, mask = torch.randn(5, 4, 8, generator=draw), torch.randn(10, 4, 4, generator=draw) * 3
    places = torch.tensor([4, 1])
    found = heads_of(layer, ((x, x, x), {"attn_mask": mask}), 5, places)
    weights = layer(x, x, x, attn_mask=mask, average_attn_weights=False)[1].detach()
    wanted = torch.stack(
        [torch.cat([f(weights[i : i + 1]) for f in (attention_entropy, first_token_share)]) for i in (4, 1)]
    )
    assert found is not None
    torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)


def test_attention_that_takes_too_much_memory_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    layer, x = nn.MultiheadAttention(8, 2, batch_first=True), torch.randn(2, 4, 8)
    assert heads_of(layer, ((x, x, x), {}), 2, torch.arange(2)) is not None
    monkeypatch.setattr(attention_watched, "MOST_BYTES", attention_bytes_needed(1, 2, 4) - 1)
    assert heads_of(layer, ((x, x, x), {}), 2, torch.arange(2)) is None


def test_other_uses_of_attention_are_not_numbers(tmp_path: Path) -> None:
    class Crosses(Attends):
        def forward(self, x: Tensor) -> Tensor:
            h = self.embed(x.view(len(x), 3, 2))
            return self.head(self.attention(h[:, :2], h, h)[0].mean(1))

    found = evaluated(Crosses(), rows(40), tmp_path, layers=["net.attention"])
    assert math.isnan(found["activation/net.attention/attention_entropy"])
    assert math.isfinite(found["activation/net.attention/effective_rank"])


def test_looking_at_heads_draws_nothing_and_changes_no_weights(tmp_path: Path) -> None:
    """Law 1: the layer has dropout; it is watched in both trainings, since a hook may change its path."""
    found = []
    for on in (True, False):
        sink = MemorySink()
        model = Classifier(net=Attends)
        fit(model, [monitor(sink, layers=["net.attention"], representation=on)], tmp_path, max_epochs=2)
        found.append((snapshot(model), any("entropy" in name for _, name, _ in sink.records)))
    assert [watched for _, watched in found] == [True, False]
    assert differences(found[0][0], found[1][0]) == []


# --- weights


def test_weights_are_what_their_definitions_give(tmp_path: Path) -> None:
    norms: list[Tensor] = []
    sink = MemorySink()

    class Keeps(Classifier):
        def on_validation_end(self) -> None:
            norms.append(self.net[0].weight.detach().clone())

    fit(Keeps(), [monitor(sink)], tmp_path, max_epochs=3)
    for before, now, found in zip(norms, norms[1:], validations(sink)[1:], strict=False):
        moved = float((now - before).norm() / before.norm())
        assert found["weight/net.0/norm"] == pytest.approx(float(now.norm()), rel=1e-6)
        assert found["weight/net.0/relative_update"] == pytest.approx(moved, rel=1e-6)
    histogram = [summary for _, name, summary in sink.histograms if name == "weight/net.0/histogram"]
    assert histogram[-1].num == norms[-1].numel()


def test_large_weights_are_estimated_from_a_sample_of_fixed_size(tmp_path: Path) -> None:
    def large() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 20_000), nn.ReLU(), nn.Linear(20_000, 2))

    own, sink = None, MemorySink()
    kept = []

    class Keeps(Classifier):
        def on_validation_end(self) -> None:
            kept.append(self.net[0].weight.detach().clone())

    own = monitor(sink)
    fit(Keeps(net=large, lr=0.01), [own], tmp_path, max_epochs=2)
    assert max(len(x) for x in own.state_dict()["expensive"]["weights"].values()) == MOST_ENTRIES
    moved = float((kept[1] - kept[0]).norm() / kept[0].norm())
    assert validations(sink)[1]["weight/net.0/relative_update"] == pytest.approx(moved, rel=0.05)


# --- pictures


def test_pictures_are_drawn_at_doubling_intervals_and_at_the_end(tmp_path: Path) -> None:
    sink = MemorySink()
    own = monitor(sink, pictures=True, statistics=["mean", "histogram"])
    data = rows(48, IMAGE, seed=1)
    fit(Classifier(IMAGE), [own], tmp_path, train=loader(rows(16, IMAGE)), val=loader(data), max_epochs=5)
    drawn = [(step, name) for step, name, _ in sink.pictures]
    assert len(drawn) == len(set(drawn))
    steps = [step for step, name in drawn if name == "activation_heatmap/rank_collapse"]
    assert steps == [1, 3, 4], "validations 2 and 4, and the end"
    assert (4, "activation_picture/cka") in drawn
    assert {"activation_picture/histograms", "activation_picture/top_samples"} <= {name for _, name in drawn}


def test_inputs_are_in_no_picture_unless_they_may_be(tmp_path: Path) -> None:
    pictures = []
    for allowed in (True, False):
        sink = MemorySink()
        own = monitor(sink, pictures=True, log_inputs=allowed)
        fit(Classifier(IMAGE), [own], tmp_path, train=loader(rows(16, IMAGE)), val=loader(rows(48, IMAGE, seed=1)))
        pictures.append({name: image for _, name, image in sink.pictures}["activation_picture/top_samples"])
    assert pictures[0].shape == pictures[1].shape
    inside = [image[40:98, 214:270].std() for image in pictures]
    assert inside[0] > 3 * inside[1], "a grey tile instead of a picture"


def test_a_history_keeps_at_most_128_validations_from_first_to_last() -> None:
    history = LayerHistory(["a", "b"], ["mean", "zero_share"], histograms=True)
    for number in range(1, 1000):
        history.add(number, {"a": {"mean": float(number), "zero_share": 0.5}, "b": {}}, {"a": [number] * 65})
    numbers = history.numbers()
    chart = history.heatmap("mean")
    assert chart is not None
    names, values, limits = chart
    assert len(numbers) <= MOST
    assert (numbers[0], numbers[-1], names) == (1, 999, ["a"])
    assert values[0].tolist() == [float(number) for number in numbers]
    assert limits == (0.0, 1024.0), "that of the first validation, doubled until it held everything"
    assert history.ridges()[0, :, 0].tolist() == numbers
    other = LayerHistory(["a", "b"], ["mean", "zero_share"], histograms=True)
    other.load(history.state())
    assert other.numbers() == numbers


@pytest.mark.parametrize(("values", "limits"), [([1.0, 1.9], (0, 2)), ([0.0, 3.0], (0, 4)), ([1.0, -5.0], (-8, 8))])
def test_the_scale_of_a_heatmap_changes_only_where_something_exceeds_it(
    values: list[float], limits: tuple[float, float]
) -> None:
    history = LayerHistory(["a"], ["mean"], histograms=False)
    for number, value in enumerate([*values, math.nan, math.inf]):
        history.add(number, {"a": {"mean": value}}, {})
    chart = history.heatmap("mean")
    assert chart is not None
    assert chart[2] == limits


def test_a_history_of_other_statistics_is_not_taken_up_though_there_are_as_many() -> None:
    """A network whose ReLUs became GELUs, say: dead units would be taken for dormant ones."""
    history = LayerHistory(["a"], ["dead_share", "outlier_kurtosis"], histograms=False)
    history.add(1, {"a": {"dead_share": 0.5, "outlier_kurtosis": 7.0}}, {})
    for layers, names in ((["a"], ["outlier_kurtosis", "dormant_0.025"]), (["b"], list(history.statistics))):
        other = LayerHistory(layers, names, histograms=False)
        other.load(history.state())
        assert other.numbers() == []


# --- refusals


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"probe_size": 3}, "got 3"),
        ({"probe_size": 5000}, "got 5000"),
        ({"representation": "net.*"}, "'net"),
        ({"best_of": ("val_loss", "least")}, "least"),
        ({"representation": False, "groups": {"sex": GROUPS}}, "representation=True"),
    ],
)
def test_what_cannot_be_is_refused_with_what_came(options: dict[str, Any], message: str) -> None:
    with pytest.raises((ValueError, TypeError), match=message):
        ActivationMonitor(**{"representation": True, **options})


def test_a_pattern_that_matches_no_watched_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MisconfigurationException, match="'other'"):
        fit(Classifier(), [monitor(MemorySink(), representation=["other"])], tmp_path)


def test_at_most_eight_layers_are_looked_at_evenly_spaced(tmp_path: Path) -> None:
    def deep() -> nn.Module:
        return nn.Sequential(nn.Linear(6, 4), *[nn.ReLU() for _ in range(15)], nn.Linear(4, 2))

    found = evaluated(deep(), rows(), tmp_path)
    chosen = [name for name in found if name.endswith("/effective_rank")]
    assert len(chosen) == 8
    assert {"activation/net.1/effective_rank", "activation/net.15/effective_rank"} <= set(chosen)


def test_the_memory_it_takes_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        fit(Classifier(), [monitor(MemorySink())], tmp_path, max_epochs=2)
    told = [r.getMessage() for r in caplog.records if "MiB" in r.getMessage()]
    assert len(told) == 1
