"""The laws of docs/laws.md, held against every public callback, alone and together in both orders.

Callbacks are found by introspection; one that has no row in `ARGUMENTS` fails. The enemy's models are at the top, the
laws follow by number, then the traps that need a whole training, then the contract with the Trainer.
"""

import gc
import io
import json
import math
import pickle
import random
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torchmetrics
from matplotlib.figure import Figure
from pytorch_lightning.callbacks import EMAWeightAveraging
from pytorch_lightning.loggers import CSVLogger, TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from tensorboard.summary.writer.record_writer import RecordWriter
from torch import Tensor, nn

import xai_lightning
from small import (
    GROUPS,
    IMAGE,
    STOPWATCH,
    TABLE,
    TABULAR,
    Classifier,
    Compilable,
    Ledger,
    at_length,
    events,
    fit,
    loader,
    needs,
    network,
    rows,
    trainer,
)
from traced import ACCUMULATE, ARGUMENTS, MONITORS, NAMES, Boom, Traced, bits, differences, snapshot, trace, traced
from xai_lightning import tags
from xai_lightning.callbacks._fairness.spending import Spending
from xai_lightning.functional.attribution import METHODS

CASES = {**{name: [name] for name in NAMES}, "all": NAMES, "all_reversed": NAMES[::-1]}
each_case = pytest.mark.parametrize("case", CASES)
each_monitor = pytest.mark.parametrize("name", MONITORS)
TIMES = re.compile(rf"{STOPWATCH.pattern}|epoch")


def build(case: str, **more: Any) -> list[pl.Callback]:
    """New callbacks of one case; ``more`` goes to those that are monitors."""
    names = CASES[case]
    return [getattr(xai_lightning, n)(**ARGUMENTS[n], **(more if n in MONITORS else {})) for n in names]


def explainer(method: Any = "integrated_gradients", **more: Any) -> pl.Callback:
    """An `AttributionMonitor`; cheap by default."""
    options = {"n_steps": 4} if method == "integrated_gradients" else {}
    settings = {"options": options, "measures": ["cosine"], **needs(method), **more}
    return xai_lightning.AttributionMonitor(method, **settings)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Traces of trainings that nobody watches, by shape of the inputs."""
    known: dict[Any, Any] = {}

    def of(shape: Any) -> Any:
        if shape not in known:
            known[shape] = traced(lambda: Traced(shape), [], tmp_path_factory.mktemp("plain"), shape)
        return known[shape]

    return of


def test_every_public_callback_is_held_to_the_laws():
    assert sorted(ARGUMENTS) == sorted(NAMES), "give each public callback a row in ARGUMENTS"


# --- law 1: watching changes nothing


@pytest.mark.parametrize("shape", [TABLE, IMAGE], ids=["table", "image"])
@each_case
def test_a_watched_training_is_bit_identical(case, shape, plain, tmp_path):
    """Law 1, traps 3, 9, 10, 29, 34 and 35: weights, gradients, generators, flags, hooks, attributes, order of data."""
    assert "gradients at validation 2" in plain(shape), "there must be a second validation"
    assert differences(traced(lambda: Traced(shape), build(case), tmp_path, shape), plain(shape)) == []


def test_the_reference_training_does_validate_while_gradients_accumulate(plain):
    """Trap 35: without gradients at a validation's end, the test above would not see them destroyed."""
    found = plain(TABLE)["gradients at validation 1"]
    assert all(gradient is not None and any(gradient[2]) for gradient in found.values())


@pytest.mark.parametrize(
    "method", [at_length(m) for m in TABULAR if m not in ("integrated_gradients", "lime", "kernel_shap", "lrp")]
)
@pytest.mark.parametrize("shape", [TABLE, IMAGE], ids=["table", "image"])
def test_no_method_leaves_a_trace(method, shape, plain, tmp_path):
    """Law 1, traps 3, 9, 10, 34 and 35: captum marks inputs, sets hooks and attributes, draws from torch and numpy."""
    callbacks = [explainer(method, probe=rows(4, shape).batch())]
    assert differences(traced(lambda: Traced(shape), callbacks, tmp_path, shape), plain(shape)) == []


@pytest.mark.parametrize("method", ["lime", "kernel_shap"])
def test_no_surrogate_leaves_a_trace(method, plain, tmp_path):
    callbacks = [explainer(method, probe=rows(2).batch())]
    assert differences(traced(Traced, callbacks, tmp_path), plain(TABLE)) == []


@pytest.mark.parametrize("call", [0, 1])
@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift", "feature_ablation"])
@pytest.mark.parametrize("case", ["AttributionMonitor", "all", "all_reversed"])
def test_an_explanation_that_fails_half_way_changes_nothing(case, method, call, plain, tmp_path):
    """Trap 9: forward fails at its k-th call, while captum's hooks are in place; the training goes on."""
    callbacks = build(case)
    where = next(i for i, callback in enumerate(callbacks) if isinstance(callback, xai_lightning.AttributionMonitor))
    callbacks[where] = explainer(method)
    with pytest.warns(UserWarning, match=f"AttributionMonitor.* failed in validation.*forward pass {call}"):
        watched = traced(lambda: Traced(fuse=call), callbacks, tmp_path)
    assert differences(watched, plain(TABLE)) == []


@each_case
def test_hooks_are_gone_after_an_exception_in_the_validation_step(case, tmp_path):
    """Traps 9 and 57: the exception is the user's; the module is left as it would be without us."""
    found = []
    for i, callbacks in enumerate(([], build(case))):
        model = Traced(step_fuse=1)
        with pytest.raises(Boom, match="forward pass 1"):
            fit(model, callbacks, tmp_path / str(i), **ACCUMULATE)
        found.append(trace(model))
    assert differences(found[1], found[0]) == []
    assert not any(n for name, n in found[1]["tables at the end"].items() if "hooks" in name)


@pytest.mark.parametrize("inference", [True, False], ids=["inference_mode", "no_grad"])
@pytest.mark.parametrize("stage", ["validate", "test"])
@each_case
def test_a_watched_evaluation_changes_nothing_and_explains(case, stage, inference, tmp_path):
    """Law 1, trap 1: ``validate`` and ``test`` are in inference mode, where nothing can be differentiated."""
    found, sink = [], xai_lightning.MemorySink()
    for callbacks in ([], build(case, sinks=[sink])):
        model = Traced()
        pl.seed_everything(0, verbose=False)
        made = trainer(callbacks, tmp_path, inference_mode=inference)
        getattr(made, stage)(model, loader(rows(seed=1)), verbose=False)
        assert set(model.notes.inference) == {inference}, "the test must really run in the mode that it is about"
        found.append(trace(model, made))
    assert differences(found[1], found[0]) == []
    importance = [value for _, name, value in sink.records if "importance/" in name]
    assert all(value > 0 and math.isfinite(value) for value in importance)
    assert bool(importance) == ("AttributionMonitor" in CASES[case])
    assert not any("drift/" in name for _, name, _ in sink.records), "drift belongs to fit"
    assert all(name.startswith("test/") for _, name, _ in sink.records if stage == "test")


class LogsInForward(Traced):
    def forward(self, x):
        self.log("seen", x.float().mean(), batch_size=len(x))
        self.log_dict({"largest": x.float().max()}, batch_size=len(x))
        return super().forward(x)


class HandsOutItsLog(Traced):
    """A submodule logs through the bound method that it was given."""

    def __init__(self, **more):
        super().__init__(**more)
        log = self.log
        self.net.register_forward_hook(lambda m, args, out: log("seen", out.float().mean(), batch_size=len(out)))


class Appends(Traced):
    def __init__(self, **more):
        super().__init__(**more)
        self.seen = []

    def forward(self, x):
        self.seen.append(len(x))
        return super().forward(x)

    def diary(self):
        return self.seen


class AppendsDeeper(Appends):
    """Appends to lists in a dict, as ``self.history["val"].append(...)`` does."""

    def __init__(self, **more):
        super().__init__(**more)
        self.history = {"train": [], "val": []}

    def forward(self, x):
        self.history["train" if self.training else "val"].append(len(x))
        return super().forward(x)

    def diary(self):
        return self.history


class Counts(Traced):
    """Counts its calls in every way that a module can, in evaluation mode too."""

    def __init__(self, **more):
        super().__init__(**more)
        self.register_buffer("in_place", torch.zeros(()))
        self.register_buffer("anew", torch.zeros(()))
        self.loose, self.number, self.last = torch.zeros(()), 0, None

    def forward(self, x):
        self.in_place += 1
        self.anew = self.anew + 1
        self.loose += 1
        self.number += 1
        self.last = x
        return super().forward(x)

    def diary(self):
        return bits([self.loose, self.last]), self.number


class Measures(Traced):
    def __init__(self, **more):
        super().__init__(**more)
        self.average = torchmetrics.MeanMetric()
        self.every = torchmetrics.CatMetric()

    def forward(self, x):
        self.average.update(x)
        self.every.update(x[:, 0].detach().clone())
        return super().forward(x)

    def diary(self):
        return bits([self.average.compute(), self.every.compute()])


class AlwaysDropsOut(nn.Dropout):
    def train(self, mode=True):
        return super().train(True)


class MonteCarlo(Traced):
    """Drops out in evaluation mode too: by a module that refuses ``eval()``, and by a function that has no mode."""

    def __init__(self, **more):
        super().__init__(**more)
        self.drop = AlwaysDropsOut(0.3)

    def forward(self, x):
        return super().forward(nn.functional.dropout(self.drop(x), 0.1, training=True))


class Spectral(Traced):
    def __init__(self, **more):
        super().__init__(**more)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            nn.utils.parametrizations.spectral_norm(self.net[0])


class OwnGenerators(Traced):
    """Draws from generators of its own, in evaluation mode too."""

    def __init__(self, **more):
        super().__init__(**more)
        self.of_torch, self.of_numpy = torch.Generator().manual_seed(1), np.random.default_rng(1)
        self.of_python = random.Random(1)

    def forward(self, x):
        scale = 1 + 0.1 * self.of_numpy.random() + 0.1 * self.of_python.random()
        return super().forward(x * scale + 0.1 * torch.randn(x.shape, generator=self.of_torch).to(x.device))

    def diary(self):
        return self.of_numpy.random(), self.of_python.random(), bits(self.of_torch.get_state())


class ReadOnly(dict):
    """A configuration that cannot be changed, as some libraries keep on their modules."""

    def refuse(self, *args, **more):
        raise TypeError("read-only")

    __setitem__ = __delitem__ = update = clear = pop = popitem = setdefault = refuse


class Configured(Traced):
    """Keeps a configuration that refuses to be written, and a layer that was never initialised."""

    def __init__(self, **more):
        super().__init__(**more)
        self.config, self.unused = ReadOnly(width=8, names=["a", "b"]), nn.LazyLinear(3)

    def configure_optimizers(self):
        return torch.optim.SGD(self.net.parameters(), lr=self.lr)

    def named_parameters(self, *args, **more):
        return ((name, p) for name, p in super().named_parameters(*args, **more) if "unused" not in name)

    def diary(self):
        return dict(self.config)


class FrozenNorm(Traced):
    """Trains with its BatchNorm in evaluation mode, and its first layer without gradients."""

    def on_train_start(self):
        self.net[0].weight.requires_grad_(False)

    def training_step(self, batch, batch_idx):
        self.net[1].eval()
        return super().training_step(batch, batch_idx)


ODD = [
    LogsInForward,
    HandsOutItsLog,
    Appends,
    AppendsDeeper,
    Counts,
    Measures,
    MonteCarlo,
    OwnGenerators,
    Configured,
    Spectral,
    FrozenNorm,
]


@pytest.mark.parametrize("model", ODD, ids=lambda model: model.__name__)
def test_models_that_misbehave_in_forward_notice_nothing(model, tmp_path):
    """Law 1, trap 29, and what forward may do beside computing: log, append, count, measure, draw."""
    found = []
    for i, callbacks in enumerate(([], [explainer(), xai_lightning.ActivationMonitor()])):
        made = []
        watched = traced(lambda made=made: made.append(model()) or made[0], callbacks, tmp_path / str(i))
        diary = made[0].diary() if hasattr(made[0], "diary") else None
        found.append({**watched, "diary": diary})
    assert differences(found[1], found[0]) == []


class Words(Classifier):
    """An embedding whose gradients are sparse, and are there while a validation runs."""

    def __init__(self):
        super().__init__(net=lambda: nn.Sequential(nn.Embedding(9, 3, sparse=True), nn.Flatten(), nn.Linear(18, 2)))

    def forward(self, x):
        return super().forward((2 * x.abs()).long().clamp(max=8))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.on_cpu("no sparse tensors")
def test_sparse_gradients_survive_a_validation_in_mid_accumulation(tmp_path):
    """Trap 35: they have no storage that could be compared."""
    found = []
    for method in (None, "feature_ablation"):
        model = Words()
        watching = [explainer(method), *build("FairnessMonitor")] if method else []
        fit(model, watching, tmp_path / str(method), train=loader(rows(), batch_size=8), **ACCUMULATE)
        found.append(bits(dict(model.named_parameters())))
    assert differences(found[1], found[0]) == []


class Overwrites(Traced):
    """Writes to an argument that it was given; its own steps hand out a copy."""

    def forward(self, x, sex=None):
        return super().forward(x + 0 * sex.add_(1)[:, None] if sex is not None else x)

    def evaluate(self, batch, stage):
        return super().evaluate(batch, stage) if self(batch["x"], batch["sex"].clone()) is not None else None

    def on_validation_batch_start(self, batch, batch_idx):
        self.kept = bits(batch)

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        self.notes.batches.append((bits(batch) == self.kept, batch["x"].requires_grad, batch["x"].grad))


@pytest.mark.parametrize("model", [Traced, Overwrites], ids=lambda model: model.__name__)
@pytest.mark.parametrize("stage", ["fit", "validate"])
def test_the_batch_is_not_touched(stage, model, tmp_path):
    """Traps 3 and 48: no gradient is asked of the batch's own tensors, and nothing is written to them."""

    class Spy(model):
        on_validation_batch_start = Overwrites.on_validation_batch_start
        on_validation_batch_end = Overwrites.on_validation_batch_end

    watched, made = Spy(), trainer(build("AttributionMonitor"), tmp_path, num_sanity_val_steps=1)
    made.fit(watched, loader(rows()), loader(rows(seed=1))) if stage == "fit" else made.validate(
        watched, loader(rows(seed=1)), verbose=False
    )
    seen = [found for found in watched.notes.batches if isinstance(found, tuple)]
    assert seen
    assert set(seen) == {(True, False, None)}


# --- law 4: names are fixed


def logged(callbacks: list[pl.Callback], folder: Path, model: pl.LightningModule | None = None, **more: Any) -> Any:
    """What the monitors and the gate log at each of four validations, but for how long it took."""
    ledger, shape = Ledger(), more.pop("shape", TABLE)
    data = {"train": loader(rows(shape=shape), shuffle=True), "val": loader(rows(seed=1, shape=shape))}
    options = {"max_epochs": 4, "limit_train_batches": 2, "logger": ledger, **data, **more}
    fit(Classifier(shape) if model is None else model, callbacks, folder, **options)
    looks = ledger.validations()
    return [{n: v for n, v in look.items() if "/" in n and not TIMES.fullmatch(n)} for look in looks]


def without_previous(names: Any) -> set[str]:
    return {name for name in names if not re.fullmatch("drift/.*/previous/.*", name)}


@each_case
def test_names_are_settled_from_the_second_validation_on(case, tmp_path):
    """Law 4, trap 43: the first lacks only what needs a validation before it; none is the path prefix of another."""
    first, second, *later = logged(build(case), tmp_path)
    assert len(second) > 1
    assert all(look.keys() == second.keys() for look in later)
    assert first.keys() == without_previous(second)
    assert tags.prefixes(second) == []


def recorded(callbacks: list[pl.Callback], folder: Path, model: pl.LightningModule, **more: Any) -> Any:
    """The event file of a training with four validations."""
    options = {"max_epochs": 4, "limit_train_batches": 2, "logger": TensorBoardLogger(folder, name="", version="")}
    fit(model, callbacks, folder, **{**options, **more})
    return events(folder)


def images(**more: Any) -> dict[str, Any]:
    return {"train": loader(rows(shape=IMAGE, **more)), "val": loader(rows(shape=IMAGE, seed=1, **more))}


@pytest.mark.parametrize("shape", [TABLE, IMAGE], ids=["table", "image"])
def test_one_event_file_holds_scalars_pictures_and_histograms_under_distinct_paths(shape, tmp_path):
    """Traps 62, 66 and 69: one file, every frame in it, none a path prefix of another."""
    data = images() if shape == IMAGE else {}
    found = recorded(build("all"), tmp_path, Classifier(shape), **data)
    kinds = [found.Tags()[kind] for kind in ("scalars", "images", "histograms")]
    assert all(kinds)
    assert tags.prefixes(tag for names in kinds for tag in names) == []
    assert len(list(tmp_path.rglob("events*"))) == 1


def test_pictures_and_histograms_are_on_disk_when_the_validation_ends(monkeypatch, tmp_path):
    """Trap 69: a crash of the next epoch loses nothing of this one; scalars are flushed by Lightning's logger."""
    seen, write = [], RecordWriter.write

    def slowly(writer, data):
        time.sleep(0.02)
        write(writer, data)

    # TensorBoard writes in a thread of its own, which on an idle machine is done before anybody looks
    monkeypatch.setattr(RecordWriter, "write", slowly)

    class Reads(Classifier):
        def on_validation_end(self):
            seen.append([events(tmp_path).Tags()[kind] for kind in ("images", "histograms")])

    recorded([explainer(), xai_lightning.ActivationMonitor(statistics="cheap")], tmp_path, Reads(), max_epochs=1)
    assert seen == [[["attribution/integrated_gradients/importance"], ["activation/net.2/histogram"]]]


def failing(monkeypatch: pytest.MonkeyPatch, name: str, method: str, when: Callable[[int], bool]) -> list[Boom]:
    """Let a monitor's method raise at chosen calls, counted from 1; returns what it raised."""
    original, raised, calls = getattr(getattr(xai_lightning, name), method), [], []

    def fail(self, *args):
        calls.append(self)
        if when(len(calls)):
            raised.append(Boom(f"call {len(calls)}"))
            raise raised[-1]
        return original(self, *args)

    monkeypatch.setattr(getattr(xai_lightning, name), method, fail)
    return raised


@pytest.mark.parametrize("when", [1, 2])
@pytest.mark.parametrize(("name", "shape"), [*((n, TABLE) for n in MONITORS), ("AttributionMonitor", IMAGE)], ids=str)
def test_a_monitor_that_failed_logs_nan_under_all_its_names(name, shape, when, monkeypatch, tmp_path):
    """Law 4."""
    failing(monkeypatch, name, "_conclude", lambda call: call == when)
    with pytest.warns(UserWarning, match=f"{name}.* failed in validation .* and logged NaN"):
        looks = logged(build(name), tmp_path, shape=shape)
    assert [look.pop(tags.ERRORS) for look in looks] == [float(when == i) for i in (1, 2, 3, 4)]
    failed, settled = looks[when - 1], looks[3].keys()
    assert all(math.isnan(value) for value in failed.values())
    assert without_previous(failed) == without_previous(settled)
    assert [set(look) ^ settled for look in looks[1:]] == [set()] * 3, "names after a failure are those of ever after"


def test_a_network_that_breaks_under_explanation_leaves_nan_there_and_nowhere_else(tmp_path):
    with pytest.warns(UserWarning, match="AttributionMonitor.* failed"):
        looks = logged(build("all"), tmp_path, Traced(fuse=0))
    broken = {name for name, value in looks[1].items() if math.isnan(value) and not math.isnan(looks[3][name])}
    ours = re.compile("(drift|importance|importance_interval|xai/integrated_gradients|attribution)/")
    assert broken == {n for n, value in looks[3].items() if ours.match(n) and not math.isnan(value)}
    assert [look[tags.ERRORS] for look in looks] == [0, 1, 0, 0]


def test_a_validation_that_is_left_out_logs_nothing(tmp_path):
    """Law 4: ``every_n_validations=2`` looks at the first and the third."""
    first, second, third, fourth = logged([explainer(every_n_validations=2)], tmp_path)
    assert (second, fourth) == ({}, {})
    assert first.keys() == without_previous(third)
    assert third.keys() > first.keys()


def errors(forward: Any, inputs: Tensor, baselines: Tensor) -> Tensor:
    """A user's own method, with a name of the enemy's."""
    return inputs - baselines


def test_no_name_is_a_path_prefix_of_another_whatever_the_user_calls_things(tmp_path):
    """Law 4."""
    data = [{**row, "a/b": row["sex"]} for row in rows(32)]
    callbacks = [
        explainer(errors, features={"mean": 0, "mean/lower": 1, "": 2}, groups={"a/b": ["x", "x/y"]}),
        xai_lightning.FairnessMonitor({"a/b": ["x", "x/y"]}, metrics=["demographic_parity_difference"]),
        xai_lightning.ActivationMonitor(name="mine"),
    ]
    assert tags.prefixes(logged(callbacks, tmp_path, val=loader(data))[1]) == []


@pytest.mark.parametrize("features", [{"a/b": 0, "a_b": 1}, {"column_3": 0}], ids=["slash", "column"])
def test_two_features_of_one_name_are_refused(features, tmp_path):
    """Their numbers would be logged under one name, and one of them lost."""
    with pytest.raises(ValueError, match=r"a/b|a_b|column_3"):
        fit(Classifier(), [explainer(features=features)], tmp_path)


def test_two_attributes_of_one_name_are_refused():
    with pytest.raises(ValueError, match="a_b"):
        xai_lightning.FairnessMonitor({"a/b": GROUPS, "a_b": GROUPS})


# --- law 5: one step axis


class TwoOptimizers(Classifier):
    """Manual optimization: ``trainer.global_step`` counts both."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.automatic_optimization = False

    def training_step(self, batch, batch_idx):
        for optimizer in self.optimizers():
            optimizer.zero_grad()
            self.manual_backward(super().training_step(batch, batch_idx))
            optimizer.step()

    def configure_optimizers(self):
        return [torch.optim.SGD(self.net[i].parameters(), lr=0.1) for i in (0, -1)]


class LogsAStep(Classifier):
    """Logs a "step" of its own, which Lightning then takes for the axis of its metrics."""

    def on_validation_epoch_end(self):
        self.log("step", 100.0 * (self.current_epoch + 1))


class KeepsAStep(Classifier):
    """Has a metric called "step" that goes to no logger, so that Lightning's axis stays."""

    def on_validation_epoch_end(self):
        self.log("step", 100.0 * (self.current_epoch + 1), logger=False)


AXES = {
    "one optimizer": (Classifier, {}),
    "accumulation": (Classifier, {"accumulate_grad_batches": 2, "val_check_interval": 2, "limit_train_batches": 4}),
    "two optimizers": (TwoOptimizers, {}),
    "a step of the user's": (LogsAStep, {}),
    "a step for no logger": (KeepsAStep, {}),
}


@pytest.mark.parametrize("axis", AXES)
def test_everything_of_a_validation_stands_at_the_step_of_val_loss(axis, tmp_path):
    """Law 5, traps 54 and 62: scalars, pictures (none of which is left out), histograms and the gate's decisions."""
    model, options = AXES[axis]
    found = recorded(build("all"), tmp_path, model(IMAGE), **images(), **options)
    steps = [event.step for event in found.Scalars("val_loss")]
    assert len(steps) >= 4
    assert len(set(steps)) == len(steps)
    for tag in (tag for tag in found.Tags()["scalars"] if "/" in tag):
        expected = steps[1:] if "/previous/" in tag else steps
        assert [event.step for event in found.Scalars(tag)] == expected, tag
    pictures, histograms = found.Tags()["images"], found.Tags()["histograms"]
    assert pictures
    assert histograms
    for tag in pictures:
        expected = steps[-1:] if tag.endswith("/similarity") else steps
        assert [event.step for event in found.Images(tag)] == expected, tag
    assert all([event.step for event in found.Histograms(tag)] == steps for tag in histograms)


@pytest.mark.parametrize("stage", ["validate", "test"])
def test_an_evaluation_alone_stands_at_the_step_of_its_loss(stage, tmp_path):
    """Law 5."""
    made = trainer(build("all"), tmp_path, logger=TensorBoardLogger(tmp_path, name="", version=""))
    getattr(made, stage)(Classifier(), loader(rows(seed=1)), verbose=False)
    found = events(tmp_path)
    expected = [event.step for event in found.Scalars("val_loss" if stage == "validate" else "test_loss")]
    ours = [tag for tag in found.Tags()["scalars"] if "/" in tag]
    assert ours
    assert all([event.step for event in found.Scalars(tag)] == expected for tag in ours)


# --- law 6: own randomness only


SHUFFLED = pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")


def drifts(records: list[tuple[int, str, float]]) -> dict[str, float]:
    """Distances by name and step."""
    parts = ("mean", "lower", "upper", "median", "p90", "churn", "divergence", "alarm")
    found = {f"{name} at {step}": v for step, name, v in records if name.startswith("drift/") and "/gap_" not in name}
    return {name: value for name, value in found.items() if name.split(" at ")[0].endswith(parts)}


class Draws(Classifier):
    """Its training draws from every global generator."""

    def training_step(self, batch, batch_idx):
        scale = 1 + random.random() + np.random.rand() + torch.rand(())
        return super().training_step(batch, batch_idx) * float(scale)


def plain_net() -> nn.Module:
    """No BatchNorm, whose statistics move even where no weight does."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2))


def coin(forward: Any, inputs: Tensor, baselines: Tensor) -> Tensor:
    """A user's own method, which draws from every global generator, as the training does."""
    noise = torch.rand_like(inputs) + float(np.random.rand()) + random.random()
    return (inputs - baselines) * noise * forward(inputs)


@SHUFFLED
@pytest.mark.parametrize("method", [*TABULAR, coin], ids=lambda m: m if isinstance(m, str) else m.__name__)
def test_an_unchanged_model_does_not_drift_at_all(method, tmp_path):
    """Law 6, trap 19: learning rate 0, shuffled data, every method and measure; exactly 0, not nearly."""
    sink = xai_lightning.MemorySink()
    monitor = xai_lightning.AttributionMonitor(method, probe_size=8, sinks=[sink], **needs(method))
    val = loader(rows(24, seed=1), shuffle=True, batch_size=5)
    fit(Draws(net=plain_net, lr=0.0), [monitor], tmp_path, val=val, max_epochs=3)
    found = drifts(sink.records)
    assert len(found) > 20
    assert set(found.values()) == {0.0}


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap", "feature_ablation"])
def test_a_network_that_draws_in_forward_does_not_drift_either(method, tmp_path):
    """Law 6: dropout in evaluation mode (Monte Carlo): identical weights give identical explanations."""
    sink = xai_lightning.MemorySink()
    model = MonteCarlo(net=plain_net, lr=0.0)
    fit(model, [explainer(method, sinks=[sink])], tmp_path, max_epochs=3)
    assert set(drifts(sink.records).values()) == {0.0}


@pytest.fixture(scope="module")
def reference_maps(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Any]:
    """Hashes and maps of the probe of the first validation, by method and by how the loader cuts the data."""

    def of(method: str, **cut: Any) -> tuple[Tensor, Tensor]:
        monitor = explainer(method, groups={"sex": GROUPS}, probe_size=32)
        folder = tmp_path_factory.mktemp("maps")
        fit(Classifier(), [monitor], folder, val=loader(rows(61, seed=1), **cut), max_epochs=1)
        references = monitor.state_dict()["references"]
        return references["hashes"], references["maps"]["first"]

    return of


CUTS = {"rows": {"batch_size": 1}, "seven": {"batch_size": 7}, "one": {"batch_size": 61}, "shuffled": {"shuffle": True}}


@SHUFFLED
@pytest.mark.parametrize(
    "method",
    ["integrated_gradients", "gradient_shap", "deep_lift", pytest.param("kernel_shap", marks=pytest.mark.slow)],
)
def test_probe_and_maps_do_not_depend_on_the_cut_of_the_data(method, reference_maps):
    """Laws 2 and 6: batch size and shuffling change neither which samples are explained nor how."""
    hashes, maps = reference_maps(method, batch_size=16)
    assert len(hashes) == 32
    for name, cut in CUTS.items():
        other, found = reference_maps(method, **cut)
        assert torch.equal(other, hashes), name
        assert float((found - maps).abs().max() / maps.abs().max()) <= 1e-6, name


# --- law 7: bounded


class Census(Classifier):
    """Counts what lives at the end of its third and its last validation, after the callbacks."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.tallies = SimpleNamespace(number=0, found={})

    def on_validation_end(self):
        self.tallies.number += 1
        if self.tallies.number in (3, 50):
            self.tallies.found[self.tallies.number] = self.census()

    def census(self):
        gc.collect()
        objects = gc.get_objects()
        tensors = [o for o in objects if issubclass(type(o), Tensor)]
        return {
            "tensors": len(tensors),
            "bytes": sum(t.untyped_storage().nbytes() for t in tensors if t.layout == torch.strided),
            "handles": sum(type(o) is torch.utils.hooks.RemovableHandle for o in objects),
            "hooks": sum(len(v) for m in self.modules() for k, v in vars(m).items() if "hooks" in k),
            "figures": sum(isinstance(o, Figure) for o in objects if type(o) is Figure),
            "state": [len(stored(callback.state_dict())) for callback in self.trainer.callbacks],
        }


def stored(state: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("shape", [TABLE, IMAGE], ids=["table", "image"])
def test_nothing_grows_from_the_third_validation_to_the_fiftieth(shape, tmp_path):
    """Law 7, traps 10, 11, 65 and 92: tensors, hooks, handles, figures, and the size of what is saved."""
    model, data = Census(shape), images() if shape == IMAGE else {}
    gate = xai_lightning.GatedCheckpoint(at_least={"val_acc": 2.0})
    callbacks = [c for n in MONITORS if n != "AttributionMonitor" for c in build(n)] + [explainer("deep_lift"), gate]
    with pytest.warns(UserWarning, match="No checkpoint passed"):
        recorded(callbacks, tmp_path, model, max_epochs=50, limit_train_batches=1, **data)
    early, late = model.tallies.found[3], model.tallies.found[50]
    grown = {key: (early[key], late[key]) for key in early if early[key] != late[key]}
    # the gate keeps the numbers of up to ten points that no other dominates, and the history of maps its validations
    states = grown.pop("state", ([], []))
    assert all(abs(a - b) <= 1024 for a, b in zip(*states, strict=True)), states
    assert grown == {}


def test_nothing_grows_from_batch_to_batch_of_one_validation(tmp_path):
    """Law 7, trap 92: once the probe has its candidates, which are a few per stratum."""

    class PerBatch(Census):
        def on_validation_batch_end(self, outputs, batch, batch_idx):
            if batch_idx in (30, 58):
                found = self.census()
                self.tallies.found[batch_idx] = {key: found[key] for key in ("tensors", "bytes", "handles", "hooks")}

    model = PerBatch()
    callbacks = [explainer(probe_size=8), *(c for n in MONITORS if n != "AttributionMonitor" for c in build(n))]
    fit(model, callbacks, tmp_path, val=loader(rows(240, seed=1), batch_size=4), max_epochs=1)
    assert model.tallies.found[58] == model.tallies.found[30]


@pytest.mark.parametrize("method", METHODS)
def test_the_passes_that_are_logged_are_those_that_were_made_and_at_most_those_that_were_told(method, tmp_path, caplog):
    """Law 7, trap 17: told before the first validation, logged, in rows that go through the network and back."""
    shape = TABLE if method in TABULAR and method != "lrp" else IMAGE
    made: dict[str, dict[int, int]] = {"forward": {}, "backward": {}}

    class Counts(Traced):
        def count(self, way, n):
            look = len(self.notes.validations)
            made[way][look] = made[way].get(look, 0) + n

        def forward(self, x):
            outputs = super().forward(x)
            if not self.notes.stepping:
                self.count("forward", len(x))
                if outputs.requires_grad:
                    outputs.register_hook(lambda gradient: self.count("backward", len(gradient)))
            return outputs

    monitor = explainer(method, probe=rows(3, shape).batch(), sample_size=2)
    with caplog.at_level("INFO"):
        looks = logged([monitor], tmp_path, Counts(shape), max_epochs=3, shape=shape)
    texts = [record.getMessage() for record in caplog.records]
    told = [re.search(r"\(([\d,]+) and ([\d,]+) per sample\)", text) for text in texts]
    (forward, backward) = next(tuple(int(n.replace(",", "")) for n in found.groups()) for found in told if found)
    for way, most in (("forward", forward), ("backward", backward)):
        found = [look[f"xai/{method}/{way}_passes"] for look in looks[1:]]
        # relevance runs on a copy of the network, which is counted too
        assert found == [made[way].get(1, 0), made[way].get(2, 0)]
        assert all(n <= (3 + 2) * most for n in found)
    # the first validation explains the probe a second time, by other seeds
    first, said = (looks[0][f"xai/{method}/{way}_passes"] for way in made), next(t for t in texts if "per sample" in t)
    more = re.search(r"at most ([\d,]+) and ([\d,]+) more, with other seeds", said)
    told_more = [0, 0] if more is None else [int(n.replace(",", "")) for n in more.groups()]
    assert all(n <= 5 * most + rest for n, most, rest in zip(first, (forward, backward), told_more, strict=True))
    # of six variables KernelSHAP and LIME take all coalitions, whatever the seed
    assert (more is not None) == (METHODS[method].random and not METHODS[method].seeded)


# --- law 8: never lose the run


@each_monitor
def test_a_failing_monitor_warns_and_stops_after_three_in_a_row(name, monkeypatch, tmp_path):
    """Law 8, trap 49: the training goes on, with NaN and ``xai/errors`` to the end."""
    raised = failing(monkeypatch, name, "_conclude", lambda call: True)
    with pytest.warns(UserWarning, match=f"{name}.* failed") as seen:
        looks = logged(build(name), tmp_path, max_epochs=5)
    assert len(raised) == 3
    said = [str(w.message) for w in seen if "failed in validation" in str(w.message)]
    assert ["call 1" in said[0], "call 2" in said[1], "call 3" in said[2]] == [True] * 3
    assert ["stops here" in text for text in said] == [False, False, True]
    assert [look.pop(tags.ERRORS) for look in looks] == [1.0] * 5
    assert all(math.isnan(value) for look in looks for value in look.values())


@each_monitor
def test_failures_that_are_not_in_a_row_do_not_stop_a_monitor(name, monkeypatch, tmp_path):
    failing(monkeypatch, name, "_conclude", lambda call: call % 3 != 0)
    with pytest.warns(UserWarning, match=f"{name}.* failed"):
        looks = logged(build(name), tmp_path, max_epochs=6)
    assert [look[tags.ERRORS] for look in looks] == [1, 1, 0, 1, 1, 0]


@pytest.mark.parametrize("method", ["_after", "_conclude"])
@each_monitor
def test_raising_on_error_raises_the_original(name, method, monkeypatch, tmp_path):
    """Law 8."""
    raised = failing(monkeypatch, name, method, lambda call: call == 2)
    model = Traced()
    with pytest.raises(Boom) as caught:
        fit(model, build(name, on_error="raise"), tmp_path)
    assert caught.value is raised[0]
    assert not any(n for name, n in snapshot(model)["tables"].items() if "hooks" in name)


@pytest.mark.parametrize("sanity", [0, 2])
@each_monitor
def test_errors_at_the_first_batch_raise(name, sanity, monkeypatch, tmp_path):
    """Law 8: in the sanity check if there is one, so that a wrong setting costs seconds and not hours."""
    raised = failing(monkeypatch, name, "_after", lambda call: True)
    with pytest.raises(Boom) as caught:
        fit(Classifier(), build(name), tmp_path, num_sanity_val_steps=sanity)
    assert caught.value is raised[0]


@each_monitor
def test_errors_at_a_later_batch_do_not(name, monkeypatch, tmp_path):
    """Law 8."""
    failing(monkeypatch, name, "_after", lambda call: call == 2)
    with pytest.warns(UserWarning, match=f"{name}.* failed"):
        made = fit(Classifier(), build(name), tmp_path)
    assert made.current_epoch == 2
    assert made.callback_metrics[tags.ERRORS] == 0


def test_evidence_of_a_monitor_that_failed_is_not_that_of_an_earlier_validation(monkeypatch, tmp_path):
    """Law 3: what is stale is not evidence; ``last.ckpt`` must not be stamped with counts of another model."""
    failing(monkeypatch, "FairnessMonitor", "_conclude", lambda call: call == 2)
    gate = xai_lightning.GatedCheckpoint(at_least={"val_acc": 0.0})
    with pytest.warns(UserWarning, match="FairnessMonitor failed"):
        fit(Classifier(), [*build("FairnessMonitor"), gate], tmp_path, max_epochs=3)
    stamped = [json.loads(line)["monitors"] for line in gate.audit_path.read_text().splitlines()]
    counts = [found[0].get("counts_group_actual_predicted") if found else None for found in stamped]
    assert counts[0]
    assert not counts[1]
    assert counts[2]


def test_errors_are_counted_over_all_monitors(monkeypatch, tmp_path):
    for name in MONITORS:
        failing(monkeypatch, name, "_conclude", lambda call: True)
    with pytest.warns(UserWarning, match="failed in validation"):
        looks = logged(build("all"), tmp_path, max_epochs=2)
    assert [look[tags.ERRORS] for look in looks] == [len(MONITORS)] * 2
    assert [look["gate/open"] for look in looks] == [1, 1], "a gate on the user's own metrics needs no monitor"


def test_a_sink_that_fails_loses_nothing_else(tmp_path):
    """Trap 49: writing is not worth a training."""

    class Broken(xai_lightning.MemorySink):
        def scalars(self, values, step):
            raise OSError("disk full")

    good = xai_lightning.MemorySink()
    with pytest.warns(UserWarning, match="disk full"):
        fit(Classifier(), [xai_lightning.ActivationMonitor(sinks=[Broken(), good])], tmp_path)
    assert {step for step, _, _ in good.records} == {2, 5}, "another sink must not suffer for it"


# --- law 9: state is plain


def leaves(state: Any) -> Iterator[Any]:
    if isinstance(state, Mapping):
        for key, value in state.items():
            yield from (key, *leaves(value))
    elif isinstance(state, list | tuple):
        for value in state:
            yield from leaves(value)
    else:
        yield state


@pytest.mark.parametrize(
    ("case", "shape"),
    [*((case, TABLE) for case in CASES), pytest.param("all", IMAGE, marks=pytest.mark.slow)],
    ids=str,
)
def test_saved_state_is_plain_and_versioned_and_holds_no_inputs(case, shape, tmp_path):
    """Law 9, trap 53: it loads with ``weights_only=True``."""
    callbacks, data = build(case), rows(48, shape, seed=1)
    made = fit(Classifier(shape), callbacks, tmp_path, train=loader(rows(shape=shape)), val=loader(data))
    made.save_checkpoint(tmp_path / "saved.ckpt")
    states = torch.load(tmp_path / "saved.ckpt", weights_only=True)["callbacks"]
    for callback in callbacks:
        state = states[callback.state_key]
        found = list(leaves(state))
        assert "version" in found
        assert {type(leaf) for leaf in found} <= {Tensor, str, int, float, bool, type(None)}
        for tensor in (leaf.flatten() for leaf in found if isinstance(leaf, Tensor) and leaf.is_floating_point()):
            inputs = data.x.flatten(1)
            windows = tensor.unfold(0, inputs.shape[1], 1) if tensor.numel() >= inputs.shape[1] else tensor[None, :0]
            assert not any((windows == row).all(1).any() for row in inputs if windows.numel()), "raw inputs"


class Pickles(Classifier):
    """Pickles every callback at the moments at which something could be open."""

    def __init__(self, *args, **more):
        super().__init__(*args, **more)
        self.pickled = SimpleNamespace(moments={})

    def note(self, moment):
        for callback in self.trainer.callbacks:
            key = type(callback).__name__, moment
            if key in self.pickled.moments:
                continue
            try:
                self.pickled.moments[key] = pickle.dumps(callback)
            except Exception as error:  # noqa: BLE001  (the test wants to name every moment that fails)
                self.pickled.moments[key] = error

    def on_train_batch_start(self, batch, batch_idx):
        self.note("in training")

    def forward(self, x):
        self.note("in forward") if self.trainer.validating else None
        return super().forward(x)

    def on_validation_batch_end(self, outputs, batch, batch_idx):
        self.note("after a batch")

    def on_validation_epoch_end(self):
        self.note("at the epoch's end")

    def on_fit_end(self):
        self.note("after the fit")


@each_case
def test_callbacks_can_be_pickled_at_any_moment(case, tmp_path):
    """Law 9, trap 56: no hook, drawing, module or loader is pickled with them."""
    before = {type(callback).__name__: pickle.dumps(callback) for callback in build(case)}
    assert before
    model = Pickles()
    callbacks = build(case)
    fit(model, callbacks, tmp_path)
    moments = model.pickled.moments
    assert {key: found for key, found in moments.items() if isinstance(found, Exception)} == {}
    inside = {key: re.findall(rb"Pickles|Rows|torch\.nn", found) for key, found in moments.items()}
    assert {key: found for key, found in inside.items() if found} == {}, "the model or the data"
    for callback in callbacks:
        again = pickle.loads(moments[type(callback).__name__, "after the fit"])
        assert bits(again.state_dict()) == bits(callback.state_dict())


@pytest.mark.parametrize("shape", [TABLE, pytest.param(IMAGE, marks=pytest.mark.slow)], ids=["table", "image"])
def test_a_resumed_run_logs_what_the_uninterrupted_one_does(shape, tmp_path):
    """Law 2: drift goes on from the references in the checkpoint, and no error is spent twice (traps 53 and 68)."""

    def run(folder: str, epochs: int, **more: Any) -> tuple[dict[Any, Any], list[Any]]:
        sink = xai_lightning.MemorySink()
        callbacks = [c for n in MONITORS for c in build(n, sinks=[sink])]
        callbacks[MONITORS.index("FairnessMonitor")]._spending = Spending(0.05, 4)
        data = {"train": loader(rows(shape=shape)), "val": loader(rows(seed=1, shape=shape))}
        model = Classifier(shape, net=lambda: without_dropout(network(shape)))
        made = fit(model, callbacks, tmp_path / folder, max_epochs=epochs, **data, **more)
        made.save_checkpoint(tmp_path / folder / "saved.ckpt")
        # NaN is equal to itself only as a text
        found = {(step, name): value for step, name, value in sink.records if not TIMES.fullmatch(name)}
        numbers = {key: "nan" if math.isnan(value) else value for key, value in found.items()}
        return numbers, [(step, name, image.tobytes()) for step, name, image in sink.pictures]

    whole, pictures = run("whole", 4)
    run("half", 2)
    resumed, resumed_pictures = run("rest", 4, ckpt_path=tmp_path / "half" / "saved.ckpt")
    steps = sorted({step for step, _ in whole})[2:]
    assert {step for step, _ in resumed} == set(steps)
    assert any(
        "drift/" in name and "/previous/" in name and value not in (0, "nan") for (_, name), value in resumed.items()
    )
    assert differences(resumed, {key: value for key, value in whole.items() if key[0] in steps}) == []
    assert resumed_pictures == [picture for picture in pictures if picture[0] in steps]


def without_dropout(net: nn.Sequential) -> nn.Sequential:
    return nn.Sequential(*(layer for layer in net if not isinstance(layer, nn.Dropout)))


# --- traps that need a training


def activations(records: list[tuple[int, str, float]]) -> list[tuple[int, str, float]]:
    return [record for record in records if record[1].startswith("activation")]


@pytest.mark.parametrize("method", ["integrated_gradients", "deep_lift"])
def test_explanations_do_not_enter_the_statistics_of_activations(method, tmp_path):
    """Trap 8: bit-identical without explanations, and with them before or after."""
    found = []
    for order in ("alone", "before", "after"):
        sink = xai_lightning.MemorySink()
        own, other = xai_lightning.ActivationMonitor(statistics="cheap", sinks=[sink]), explainer(method)
        callbacks = {"alone": [own], "before": [other, own], "after": [own, other]}[order]
        fit(Classifier(), callbacks, tmp_path / order)
        found.append((activations(sink.records), sink.histograms))
    assert len(found[0][0]) == 2 * (19 + 22), "a ReLU has no limits to be saturated at"
    assert repr(found[1]) == repr(found[0])
    assert repr(found[2]) == repr(found[0])
    assert found[0][1][0][2].num == 8 * 48, "units times rows, each once"


def saliency(net: nn.Module, batch: Mapping[str, Tensor]) -> Tensor:
    """Mean absolute gradient of the margin per column, by hand."""
    net.eval()
    x = batch["x"].clone().requires_grad_(True)
    logits = net(x)
    margin = torch.where(batch["y"] == 1, logits[:, 1] - logits[:, 0], logits[:, 0] - logits[:, 1])
    return torch.autograd.grad(margin.sum(), x)[0].abs().mean(0)


@pytest.mark.parametrize("order", ["averaging first", "averaging last"])
@pytest.mark.on_cpu("compares with a twin on the CPU")
def test_averaged_weights_are_what_is_explained(order, tmp_path):
    """Trap 60: inside the window in which they are live, whatever stands first in the list."""
    raw, batch, sink = [], rows(8).batch(), xai_lightning.MemorySink()

    class Model(Classifier):
        def on_train_batch_end(self, *args):
            raw.append(saliency(self.net, batch))
            self.train()

    callbacks = [EMAWeightAveraging(decay=0.9), explainer("saliency", probe=batch, sample_size=0, sinks=[sink])]
    model = Model(lr=0.5)
    fit(model, callbacks if order == "averaging first" else callbacks[::-1], tmp_path)
    logged = {name: value for _, name, value in sink.records}
    found = torch.tensor([logged[f"importance/saliency/column_{i}"] for i in range(6)])
    torch.testing.assert_close(found, saliency(model.net, batch), rtol=1e-5, atol=0)
    assert not torch.allclose(found, raw[-1], rtol=1e-2), (
        "averaged and raw weights must differ for this to prove anything"
    )


@pytest.mark.on_cpu("its network keeps a table on the CPU")
def test_a_table_cached_in_inference_mode_gets_a_clear_message(tmp_path):
    """Trap 2: the raw error of autograd would not say what to do."""

    class Caches(Classifier):
        table = None

        def forward(self, x):
            self.table = torch.linspace(1, 2, 6) if self.table is None else self.table
            return super().forward(x * self.table)

    with pytest.raises(RuntimeError, match=r"use Trainer\(inference_mode=False\)"):
        trainer([explainer()], tmp_path).validate(Caches(), loader(rows()), verbose=False)
    trainer([explainer()], tmp_path, inference_mode=False).validate(Caches(), loader(rows()), verbose=False)


def inplace_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(inplace=True), nn.Linear(8, 2))


@pytest.mark.parametrize("method", [at_length(m) for m in TABULAR if m not in ("lime", "kernel_shap")])
def test_in_place_non_linearities_change_no_explanation(method, tmp_path):
    """Trap 15."""
    maps = []
    for i, net in enumerate((inplace_net, lambda: without_dropout(plain_net()))):
        monitor = explainer(method)
        fit(Classifier(net=net), [monitor], tmp_path / str(i), max_epochs=1)
        maps.append(monitor.state_dict()["references"]["maps"]["first"])
    assert torch.equal(maps[0], maps[1])


def test_a_layer_before_an_in_place_one_is_seen_before_it_is_overwritten(tmp_path):
    """Trap 90: statistics are reduced inside the hook."""
    sink, model, data = xai_lightning.MemorySink(), Classifier(net=inplace_net), rows(seed=1)
    fit(model, [xai_lightning.ActivationMonitor(["net.0"], sinks=[sink])], tmp_path, max_epochs=1)
    found = {name: value for _, name, value in sink.records}
    with torch.no_grad():
        assert found["activation/net.0/mean"] == pytest.approx(float(model.net[0](data.x).double().mean()), rel=1e-6)
    assert found["activation/net.0/zero_share"] == 0


class Shares(Classifier):
    """Calls one non-linearity twice in a forward, and an attention whose projection is used by function only."""

    def __init__(self):
        super().__init__(net=plain_net)
        self.act, self.attention = nn.ReLU(), nn.MultiheadAttention(6, 2, batch_first=True)

    def forward(self, x):
        mixed = self.attention(x[:, None], x[:, None], x[:, None])[0][:, 0]
        return super().forward(self.act(mixed) + self.act(x))


def test_modules_that_are_called_twice_or_never_are_counted_and_named(tmp_path):
    """Traps 89 and 91."""
    sink = xai_lightning.MemorySink()
    layers = ["act", "attention.out_proj"]
    monitor = xai_lightning.ActivationMonitor(layers, statistics="cheap", sinks=[sink])
    with pytest.warns(UserWarning, match=r"never called in a validation step.*attention\.out_proj") as seen:
        fit(Shares(), [monitor], tmp_path)
    assert len([w for w in seen if "never called" in str(w.message)]) == 1
    found = {name: value for _, name, value in sink.records}
    assert math.isnan(found["activation/attention.out_proj/mean"])
    assert {s.num for _, name, s in sink.histograms if name == "activation/act/histogram"} == {2 * 6 * 48}


class Encoder(Traced):
    """Has a fused path in evaluation mode, which hooks inside it would switch off."""

    def __init__(self, **more):
        super().__init__(**more)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.encoder = nn.TransformerEncoderLayer(6, 2, 8, activation=nn.ReLU(), batch_first=True)

    def forward(self, x):
        self.notes.batches.append(any(module._forward_hooks for module in self.encoder.modules()))
        return super().forward(self.encoder(x[:, None])[:, 0])


def test_the_fused_path_of_an_encoder_stays_on(tmp_path):
    """Trap 89: no hook stands in it during a step, and validation metrics are the same to the last bit."""
    callbacks = [c for n in MONITORS if n != "AttributionMonitor" for c in build(n)]
    found = [traced(Encoder, watching, tmp_path / str(bool(watching))) for watching in ([], callbacks)]
    assert True not in found[1]["batches"]
    assert differences(found[1], found[0]) == []


@pytest.mark.parametrize("probe", [None, rows(4).batch()], ids=["drawn", "given"])
@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap", "gradient_shap"])
@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "64-true"])
def test_every_precision_works(precision, method, probe, tmp_path):
    """Trap 20: a probe that the user gave is converted as Lightning converts the batches."""
    sink = xai_lightning.MemorySink()
    callbacks = [c for n in MONITORS if n != "AttributionMonitor" for c in build(n)]
    callbacks.append(explainer(method, probe=probe, sinks=[sink]))
    made = fit(Classifier(), callbacks, tmp_path, precision=precision, val=loader(rows(16)))
    assert made.callback_metrics[tags.ERRORS] == 0
    importance = [value for _, name, value in sink.records if "importance/" in name]
    assert importance
    assert all(value > 0 and math.isfinite(value) for value in importance)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.on_cpu("no autocast")
def test_explanations_are_in_single_precision_unless_autocast_is_asked_for(autocast, tmp_path):
    """Trap 20: Lightning enters autocast around the step only."""
    seen = set()

    class Spy(Traced):
        def forward(self, x):
            if not self.notes.stepping:
                seen.add(torch.is_autocast_enabled("cpu"))
            return super().forward(x)

    fit(Spy(), [explainer(autocast=autocast)], tmp_path, precision="bf16-mixed")
    assert seen == {autocast}


class Recurrent(Traced):
    def __init__(self, seen):
        super().__init__()
        self.rnn, self.look = nn.GRU(6, 6, batch_first=True), seen

    def forward(self, x):
        self.look.add((self.notes.stepping, torch.backends.cudnn.enabled))
        return super().forward(self.rnn(x[:, None])[0][:, 0])


def test_explanations_are_made_in_evaluation_mode_whatever_a_module_says(tmp_path):
    """Trap 29: this one answers ``eval()`` with training mode."""
    seen = SeenBy()

    class Spy(Traced):
        def __init__(self):
            super().__init__()
            self.drop = AlwaysDropsOut(0.3)

        def forward(self, x):
            if not self.training or not self.notes.stepping:
                seen.add((self.notes.stepping, self.drop.training))
            return super().forward(x)

    fit(Spy(), [explainer()], tmp_path)
    assert seen.values == {(True, True), (False, False)}


@pytest.mark.on_cpu("no fused recurrent cells")
def test_cudnn_is_off_while_a_recurrent_net_is_explained(tmp_path):
    """Trap 21: its kernels have no backward in evaluation mode; elsewhere it stays on."""
    seen = SeenBy()
    fit(Recurrent(seen), [explainer()], tmp_path)
    assert seen.values == {(True, True), (False, False)}
    assert torch.backends.cudnn.enabled


class SeenBy:
    """A set that no guard puts back."""

    def __init__(self) -> None:
        self.values: set[Any] = set()

    def add(self, value: Any) -> None:
        self.values.add(value)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Dynamo does not know how to trace")
@pytest.mark.parametrize("how", ["in place", "wrapped"])
def test_a_compiled_network_is_explained_and_measured_like_an_eager_one(how, tmp_path):
    """Trap 22: explanations run eagerly. Hooks on compiled modules may never fire, so activations are refused there."""
    found = []
    for compiled in (False, True):
        model, sink = Classifier(net=lambda: Compilable(*network())), xai_lightning.MemorySink()
        if compiled and how == "in place":
            model.net.compile(backend="eager")
        elif compiled:
            model.net = torch.compile(model.net, backend="eager")
        if compiled:
            with pytest.raises(MisconfigurationException, match="inside a compiled module"):
                fit(model, build("ActivationMonitor"), tmp_path / "refused")
        watching = [c for n in MONITORS if n != "ActivationMonitor" for c in build(n, sinks=[sink])]
        fit(model, watching, tmp_path / str(compiled))
        # as text: NaN is equal to NaN
        found.append({(step, name): repr(value) for step, name, value in sink.records})
    assert differences(found[1], found[0]) == []


# --- contract with the Trainer

SETTINGS: dict[str, dict[str, Any]] = {
    "no_logger": {},
    "sanity_check": {"num_sanity_val_steps": 2},
    "fast_dev_run": {"fast_dev_run": True},
    "csv": {"logger": CSVLogger},
}


@pytest.mark.parametrize("setting", SETTINGS)
@each_case
def test_every_callback_works(case, setting, tmp_path):
    """Trap 55, and alone: none needs another."""
    options = dict(SETTINGS[setting])
    if "logger" in options:
        options["logger"] = options["logger"](tmp_path / "logs")
    sink = xai_lightning.MemorySink()
    made = fit(Classifier(), build(case, sinks=[sink]), tmp_path, **options)
    assert made.state.finished
    assert tags.ERRORS not in made.callback_metrics or made.callback_metrics[tags.ERRORS] == 0
    written = sorted(path.name for path in tmp_path.rglob("*") if path.is_file())
    if setting == "fast_dev_run":
        assert written == []
    if setting == "csv":
        header = next(tmp_path.rglob("metrics.csv")).read_text().splitlines()[0].split(",")
        assert {name for _, name, _ in sink.records} <= set(header)
        if "GatedCheckpoint" in CASES[case]:
            assert {"gate/open", "gate/violation", "xai/gate/seconds"} <= set(header)


def test_without_a_logger_there_is_one_notice(tmp_path, caplog):
    with caplog.at_level("INFO"):
        fit(Classifier(), build("all"), tmp_path)
    assert len([r for r in caplog.records if "no logger" in r.getMessage()]) == 1


def test_the_cost_is_said_once(tmp_path, caplog):
    """Law 7: in passes, before the first validation ends."""
    with caplog.at_level("INFO"):
        fit(Classifier(), build("all"), tmp_path, max_epochs=3, num_sanity_val_steps=1)
    assert len([r for r in caplog.records if "backward passes (7 and 4 per sample)" in r.getMessage()]) == 1


@each_case
def test_the_sanity_check_logs_nothing_and_keeps_no_state(case, tmp_path):
    """Trap 46: hooks fire on an untrained net, and two batches of it."""
    sink, ledger, kept = xai_lightning.MemorySink(), Ledger(), []

    def states() -> list[Any]:
        found = [bits(callback.state_dict()) for callback in callbacks]
        return [{key: value for key, value in state.items() if key != "dirpath"} for state in found]

    class Spy(pl.Callback):
        def on_sanity_check_end(self, made, module):
            kept.append(states())
            files = list(tmp_path.rglob("*.ckpt"))
            kept.append([*sink.records, *sink.pictures, *sink.histograms, *ledger.numbers, *files])

    callbacks = build(case, sinks=[sink])
    fresh = states()
    fit(Classifier(), [*callbacks, Spy()], tmp_path, num_sanity_val_steps=2, logger=ledger)
    assert kept == [fresh, []]


@pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty")
def test_repeated_fits_and_validations_count_everything_once(tmp_path):
    """Trap 57: ``setup`` runs at each entry; nothing is registered twice."""
    sink, model = xai_lightning.MemorySink(), Traced()
    callbacks = build("all", sinks=[sink])
    callbacks[NAMES.index("FairnessMonitor")]._spending = Spending(0.05, 2)
    made = trainer(callbacks, tmp_path, max_epochs=1)
    train, val = loader(rows()), loader(rows(seed=1))
    made.fit(model, train, val)
    made.validate(model, val, verbose=False)
    made.validate(model, val, verbose=False)
    made.fit_loop.max_epochs = 2
    made.fit(model, train, val)
    made.test(model, val, verbose=False)
    looks = [value for _, name, value in sink.records if name.endswith("count/sex/Female")]
    assert looks == [24.0] * 5
    assert {s.num for _, name, s in sink.histograms} == {8 * 48}
    assert not any(n for name, n in snapshot(model)["tables"].items() if "hooks" in name)


@pytest.mark.parametrize("index", [0, 1])
def test_one_loader_is_looked_at_and_the_others_are_named_once(index, tmp_path, caplog):
    """Trap 47."""

    class Two(Classifier):
        def validation_step(self, batch, batch_idx, dataloader_idx=0):
            return super().validation_step(batch, batch_idx)

    sink = xai_lightning.MemorySink()
    callbacks = [c for n in MONITORS for c in build(n, dataloader_idx=index, sinks=[sink])]
    with caplog.at_level("INFO"):
        fit(Two(), callbacks, tmp_path, val=[loader(rows(32)), loader(rows(64))])
    looks = {value for _, name, value in sink.records if name == "count/sex/Male"}
    assert looks == {16.0 if index == 0 else 32.0}
    said = [r.getMessage() for r in caplog.records if "dataloader" in r.getMessage() and "left out" in r.getMessage()]
    assert len(said) == len(MONITORS)


@pytest.mark.parametrize("limit", [1, 0.5])
def test_a_shortened_validation_counts_what_it_saw(limit, tmp_path):
    """Trap 47."""
    sink = xai_lightning.MemorySink()
    fit(Classifier(), build("all", sinks=[sink]), tmp_path, limit_val_batches=limit, val=loader(rows(64)))
    assert {value for _, name, value in sink.records if name == "count/sex/Male"} == {8.0 if limit == 1 else 16.0}


@pytest.mark.parametrize(
    "returns",
    [None, lambda z: z.mean(), lambda z: {"loss": z.mean()}, lambda z: {"logits": z}, lambda z: z],
    ids=["None", "scalar", "loss", "logits", "tensor"],
)
def test_predictions_are_found_whatever_the_step_returns(returns, tmp_path):
    """Trap 48."""
    sink = xai_lightning.MemorySink()
    made = fit(Classifier(returns=returns), build("FairnessMonitor", sinks=[sink]), tmp_path, max_epochs=1)
    by_group = {name: value for _, name, value in sink.records}
    right = sum(by_group[f"rate/sex/accuracy/{g}"] * by_group[f"count/sex/{g}"] for g in GROUPS)
    assert right / 48 == pytest.approx(float(made.callback_metrics["val_acc"]), abs=1e-12)


def test_pictures_are_bytes_and_no_figure_is_left_to_pyplot(tmp_path):
    """Traps 64 and 65."""
    import matplotlib.pyplot as plt

    sink = xai_lightning.MemorySink()
    shape = (3, 8, 8)
    data = {"train": loader(rows(shape=shape)), "val": loader(rows(shape=shape, seed=1))}
    fit(Classifier(shape), build("all", sinks=[sink]), tmp_path, **data)
    assert len(sink.pictures) >= 2
    assert {(image.dtype, image.ndim, image.shape[2]) for _, _, image in sink.pictures} == {(np.dtype("uint8"), 3, 3)}
    assert plt.get_fignums() == []
