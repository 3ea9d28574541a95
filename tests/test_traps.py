"""Traps of docs/traps.md that no other file is about: where Lightning lets us log, what is read, what is required."""

import argparse
import json
import math
import re
import tomllib
import warnings
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from packaging.requirements import Requirement
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from learners import Items, cross_entropy, draw, fitted, seeded, table, table_net
from small import GROUPS, Classifier, Rows, events, fit, loader, rows
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.functional.activation import empty, histogram_summary, observe
from xai_lightning.sinks import logger_sinks

with warnings.catch_warnings():
    # what TensorBoard vendors warns of itself when it is imported
    warnings.simplefilter("ignore", DeprecationWarning)
    from tensorboard.plugins.core.core_plugin import CorePluginLoader

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def everything() -> list[pl.Callback]:
    """One of each, cheap."""
    return [
        AttributionMonitor(options={"n_steps": 4}, measures=["cosine"]),
        ActivationMonitor(statistics="cheap"),
        FairnessMonitor({"sex": GROUPS}, metrics=["demographic_parity_difference"]),
        GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}),
    ]


# --- captum


@pytest.mark.parametrize("method", ["deep_lift", "guided_backprop"])
def test_modules_that_carry_somebody_elses_backward_hook_are_named(method: str) -> None:
    """Trap 14: captum leaves them out without a word."""
    net = table_net()
    place = next(name for name, module in net.named_children() if isinstance(module, nn.ReLU))
    net.get_submodule(place).register_full_backward_hook(lambda module, into, out: None)
    with pytest.warns(UserWarning, match=rf"applies no rules to modules that have backward hooks: {place}\b"):
        fitted(net, cross_entropy, Items(table, 8), AttributionMonitor(method, network="net"))


class Reads(nn.Module):
    """Embeds ids; what it is handed, and what its embedding is, is noted. Fails once it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.out = nn.Embedding(12, 4), nn.Linear(4, 2)
        self.notes: dict[str, Any] = {"layers": [self.embedding], "fail": False}

    def forward(self, ids: Tensor) -> Tensor:
        if self.notes["fail"] and not self.training and torch.is_grad_enabled():
            raise RuntimeError("planted")
        return self.out(self.embedding(ids).mean(1))


@pytest.mark.parametrize("fail", [False, True])
def test_the_embedding_of_a_network_of_tokens_is_never_replaced(fail: bool) -> None:
    """Trap 25: neither while a method runs nor after it failed; the keys of a checkpoint stay."""
    net = seeded(Reads)
    keys, embedding = list(net.state_dict()), net.embedding
    data = Items(lambda i: (draw(6, seed=i).mul(9).long().abs() % 12, i % 2), 16)
    monitor = AttributionMonitor(embedding="embedding", network="net", options={"n_steps": 4})

    class Later(pl.Callback):
        def on_train_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            net.notes["fail"] = fail and trainer.current_epoch == 1
            kinds.append(type(net.embedding))

    kinds: list[type] = []
    if fail:
        with pytest.warns(UserWarning, match="planted"):
            fitted(net, cross_entropy, data, monitor, epochs=3, callbacks=[Later()])
    else:
        fitted(net, cross_entropy, data, monitor, epochs=3, callbacks=[Later()])
    assert kinds == [nn.Embedding] * 3
    assert list(net.state_dict()) == keys
    assert net.embedding is embedding


# --- Lightning


class Listens(Classifier):
    """Notes from which hook each metric was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: dict[str, set[tuple[str | None, bool]]] = {}

    def log(self, name: str, *args: Any, **options: Any) -> None:
        hook = self._current_fx_name
        self.heard.setdefault(name, set()).add((hook, bool(options.get("on_step"))))
        super().log(name, *args, **options)


def test_metrics_are_logged_where_lightning_allows_it_and_every_limit_can_see_them(tmp_path: Path) -> None:
    """Traps 40 and 41: at the end of the validation's epoch, once per epoch, and nowhere else."""
    model = Listens()
    made = fit(model, everything(), tmp_path, num_sanity_val_steps=2)
    ours = {name: heard for name, heard in model.heard.items() if "/" in name}
    assert {name.split("/")[0] for name in ours} >= {"fairness", "drift", "activation_max", "xai"}
    assert {place for heard in ours.values() for place in heard} == {("on_validation_epoch_end", False)}
    assert set(ours) <= set(made.callback_metrics)


class Counted(Rows):
    """Counts how often it was read."""

    reads = 0

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        self.reads += 1
        return super().__getitem__(i)


def test_the_probe_is_kept_as_it_passes_by_and_no_row_is_read_twice(tmp_path: Path) -> None:
    """Trap 99: reading a row for ourselves would skip collating and transforms, and draw random numbers."""
    found = []
    for callbacks in ([], everything()):
        seen = rows(32, seed=1)
        data = Counted(seen.x, seen.y, seen.sex)
        fit(Classifier(), callbacks, tmp_path / str(len(callbacks)), val=loader(data), num_sanity_val_steps=1)
        found.append(data.reads)
    assert found[1] == found[0] == 16 + 2 * 32


def test_a_picture_is_small_and_there_is_one_of_a_kind_per_validation(tmp_path: Path) -> None:
    """Trap 63: whatever the size of the images and of the probe; encoding it blocks the training."""
    shape, sink = (3, 96, 96), MemorySink()
    monitor = AttributionMonitor(options={"n_steps": 2}, probe_size=24, sample_size=0, sinks=[sink])
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 9, stride=9), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)))
    net(torch.zeros(1, *shape))
    data = {"train": loader(rows(32, shape)), "val": loader(rows(32, shape, seed=1))}
    fit(Classifier(net=lambda: net), [monitor], tmp_path, max_epochs=3, **data)
    drawn = [(step, name) for step, name, _ in sink.pictures]
    assert len(set(drawn)) == len(drawn) >= 3
    assert len(drawn) <= 3 * 2 + 2, "a grid and a film, and what is drawn at the end"
    assert max(image.size for _, _, image in sink.pictures) <= 3 * 1024 * 1024


class RunsDry(IterableDataset):
    """Rows at the first validation, none at the second, and rows again."""

    looks = 0

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        self.looks += 1
        data = rows(32, seed=1)
        yield from () if self.looks == 2 else (data[i] for i in range(32))


def test_a_validation_without_a_row_is_undefined_and_passes_no_gate(tmp_path: Path) -> None:
    """Trap 47: no data is neither 0 nor what was counted before."""
    sink, gate = MemorySink(), GatedCheckpoint(at_least={"utility/balanced_accuracy/value": 0.0})
    watching = [
        AttributionMonitor(options={"n_steps": 4}, measures=["cosine"], sample_size=0, sinks=[sink]),
        ActivationMonitor(statistics="cheap", sinks=[sink]),
        FairnessMonitor({"sex": GROUPS}, metrics=["demographic_parity_difference"], sinks=[sink]),
    ]
    with pytest.warns(UserWarning, match="FairnessMonitor failed.*no sample"):
        fit(Classifier(), [*watching, gate], tmp_path, val=DataLoader(RunsDry(), batch_size=16), max_epochs=3)
    found: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        found.setdefault(name, []).append(value)
    for name in ("count/sex/Female", "rate/sex/accuracy/Male", "activation/net.2/mean"):
        first, second, third = found[name]
        assert first > 0 < third, name
        assert math.isnan(second), name
    lines = [json.loads(line) for line in gate.audit_path.read_text().splitlines()]
    assert [line["gate"] for line in lines if "event" not in line] == ["open", "closed", "open"]


class Configures(Classifier):
    """Brings a checkpoint callback of its own."""

    def __init__(self, made: pl.callbacks.ModelCheckpoint) -> None:
        super().__init__()
        self.made = [made]

    def configure_callbacks(self) -> list[pl.Callback]:
        return list(self.made)


def test_a_gate_of_the_trainers_stays_beside_a_checkpoint_that_the_module_brings(tmp_path: Path) -> None:
    """Trap 52: both are there, and what no gate has seen is named; the gate must not be the one that is brought."""
    gate = GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}, dirpath=tmp_path / "kept")
    plain = pl.callbacks.ModelCheckpoint(tmp_path / "plain", monitor="val_loss")
    with pytest.warns(
        UserWarning, match="ModelCheckpoint beside GatedCheckpoint saves checkpoints that no gate has judged"
    ):
        made = fit(Configures(plain), [gate], tmp_path)
    assert set(made.checkpoint_callbacks) == {gate, plain}
    assert gate.best_model_path
    # the other way round Lightning removes what the gate's class descends from, which the page says
    swapped = fit(
        Configures(GatedCheckpoint("val_loss", at_least={"val_acc": 0.0}, dirpath=tmp_path / "own")),
        [pl.callbacks.ModelCheckpoint(tmp_path / "lost", monitor="val_loss")],
        tmp_path,
    )
    assert [type(callback) for callback in swapped.checkpoint_callbacks] == [GatedCheckpoint]
    assert not (tmp_path / "lost").exists()


# --- TensorBoard


def lines_that(pattern: str) -> list[str]:
    """Lines of what a user reads or runs that match."""
    paths = [ROOT / "README.md", ROOT / "Makefile", *(ROOT / "docs").glob("*.md"), *(ROOT / "examples").glob("*.py")]
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    return [line for line in lines if re.search(pattern, line)]


def test_whoever_starts_tensorboard_as_we_say_sees_every_picture() -> None:
    """Trap 62: ten per name is TensorBoard's default, and 0 shows none where it loads fast."""
    commands, advice = lines_that(r"tensorboard(\.main)? --logdir"), lines_that("--samples_per_plugin")
    assert len(commands) >= 7
    assert len(advice) > len(commands), "the README explains it"
    assert [line for line in {*commands, *advice} if "--samples_per_plugin images=500" not in line] == []
    parser = argparse.ArgumentParser()
    CorePluginLoader().define_flags(parser)
    assert parser.parse_args(["--samples_per_plugin", "images=500"]).samples_per_plugin == {"images": 500}


def test_an_empty_histogram_is_not_written(tmp_path: Path) -> None:
    """Trap 64: of a layer that no finite sample reached there is nothing to draw."""
    (sink,) = logger_sinks([TensorBoardLogger(tmp_path, name="", version="")])
    for name, state in (("nothing", empty(3)), ("something", observe(torch.ones(2, 3), 1))):
        sink.histogram(name, histogram_summary(state), 1)
    sink.flush()
    assert events(tmp_path).Tags()["histograms"] == ["something"]


# --- what is required


def required(name: str) -> Requirement:
    (found,) = [r for r in map(Requirement, PROJECT["dependencies"]) if r.name == name]
    return found


@pytest.mark.parametrize(
    ("name", "bad"),
    [("captum", ["0.8.0", "0.10.0"]), ("tensorboard", ["2.18.0", "2.20.0"]), ("numpy", ["1.26.4"])],
)
def test_releases_with_which_numbers_would_differ_or_nothing_starts_are_excluded(name: str, bad: list[str]) -> None:
    """Traps 33 and 76."""
    requirement = required(name)
    assert list(requirement.specifier.filter(bad)) == []
    assert requirement.specifier.contains(version(name)), "what is tested must be allowed"
