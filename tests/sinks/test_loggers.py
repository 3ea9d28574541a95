"""What each of Lightning's loggers receives: one training with all of them, and each is read back as its users do."""

import csv
import importlib.util
import io
import logging
import math
import re
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from PIL import Image
from pytorch_lightning.loggers import CSVLogger, Logger, MLFlowLogger, TensorBoardLogger, WandbLogger

from small import Classifier, Ledger, events, fit, loader, rows
from wandb_log import history
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.sinks.mlflow import accepted

AXIS = "trainer/global_step"
GROUPS = ("Some-college, 1st<", "Some-college, 1st>")
QUIET = {
    "MLFLOW_ALLOW_FILE_STORE": "true",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
}
HAS = {name: importlib.util.find_spec(name) is not None for name in ("mlflow", "wandb")}
needs_mlflow = pytest.mark.skipif(not HAS["mlflow"], reason="needs the extra `mlflow`")
needs_wandb = pytest.mark.skipif(not HAS["wandb"], reason="needs the extra `wandb`")


def monitors(folder: Path, *sinks: MemorySink) -> list[pl.Callback]:
    """One of each callback, with groups whose names differ in what MLflow does not take."""
    return [
        FairnessMonitor(groups={"sex": dict(enumerate(GROUPS))}, sinks=sinks),
        AttributionMonitor("saliency", network="net", probe_size=8, sinks=sinks),
        ActivationMonitor(["net.0", "net.2"], statistics="cheap", sinks=sinks),
        GatedCheckpoint("val_loss", at_least={"val_acc": 0.1}, dirpath=folder / "kept"),
    ]


@dataclass
class Run:
    """A training with every logger, and what a sink of ours received beside them."""

    folder: Path
    loggers: Mapping[str, Any]
    sink: MemorySink


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    folder, sink = tmp_path_factory.mktemp("loggers"), MemorySink()
    with pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates what MLflow 3.17 asks of it
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated")
        for name, value in QUIET.items():
            patch.setenv(name, value)
        loggers: dict[str, Logger] = {
            "tensorboard": TensorBoardLogger(folder / "tensorboard", prefix="own"),
            "csv": CSVLogger(folder / "csv"),
        }
        if HAS["wandb"]:
            loggers["wandb"] = WandbLogger(save_dir=folder / "wandb", offline=True, project="ours")
            (folder / "wandb").mkdir()
        if HAS["mlflow"]:
            loggers["file"] = MLFlowLogger(tracking_uri=f"file:{folder / 'runs'}")
            places = {"tracking_uri": f"sqlite:///{folder / 'runs.db'}", "artifact_location": str(folder / "artifacts")}
            loggers["sqlite"] = MLFlowLogger(prefix="own", **places)
        fit(
            Classifier(),
            monitors(folder, sink),
            folder,
            logger=list(loggers.values()),
            max_epochs=3,
            accumulate_grad_batches=2,
        )
        if HAS["wandb"]:
            loggers["wandb"].experiment.finish()
        yield Run(folder, loggers, sink)


def scalars(run: Run) -> dict[tuple[str, int], float]:
    return {(name, step): value for step, name, value in run.sink.records}


def same(found: Mapping[Any, float], expected: Mapping[Any, float]) -> None:
    """Every expected number was found, NaN for NaN."""
    assert expected
    assert not expected.keys() - found.keys()
    wrong = {key for key, value in expected.items() if not np.array_equal(found[key], value, equal_nan=True)}
    assert not wrong, f"{[(key, found[key], expected[key]) for key in wrong][:3]}"


def pictures_of(run: Run) -> dict[tuple[str, int], np.ndarray]:
    return {(name, step): image for step, name, image in run.sink.pictures}


def same_pictures(found: Mapping[tuple[str, int], np.ndarray], run: Run) -> None:
    """All pictures of ours, bit for bit, and one more per validation: the gate's own."""
    expected = pictures_of(run)
    steps = sorted({step for _, step in expected})
    assert len(steps) == 3
    assert found.keys() - expected.keys() == {("gate/timeline", step) for step in steps}
    assert all(np.array_equal(found[key], image) for key, image in expected.items())


@pytest.mark.slow
def test_our_own_sink_receives_numbers_pictures_and_histograms_of_every_validation(run: Run) -> None:
    steps = {step for step, _, _ in run.sink.records}
    assert len(steps) == 3
    assert {step for step, _, _ in run.sink.pictures} == steps
    assert {step for step, _, _ in run.sink.histograms} == steps
    groups = {name.rpartition("/")[2] for _, name, _ in run.sink.records if name.startswith("rate/sex/")}
    assert groups == set(GROUPS)


@pytest.mark.slow
def test_tensorboard_receives_everything_below_the_prefix_of_its_logger(run: Run) -> None:
    """Traps 54, 55, 64: numbers to float32, which is what an event file holds."""
    log = events(run.loggers["tensorboard"].log_dir)
    found = {(tag, e.step): e.value for tag in log.Tags()["scalars"] for e in log.Scalars(tag)}
    expected = {(f"own-{name}", step): float(np.float32(value)) for (name, step), value in scalars(run).items()}
    same(found, expected)
    assert {step for tag, step in found if tag == "own-val_loss"} == {step for _, step in expected}
    assert all(tag.startswith("own-") for tag in log.Tags()["images"])
    shown = {
        (tag.removeprefix("own-"), event.step): decoded(event.encoded_image_string)
        for tag in log.Tags()["images"]
        for event in log.Images(tag)
    }
    same_pictures(shown, run)
    counted = {(tag, e.step) for tag in log.Tags()["histograms"] for e in log.Histograms(tag)}
    assert counted == {(f"own-{name}", step) for step, name, _ in run.sink.histograms}


def decoded(encoded: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(encoded)))


@pytest.mark.slow
def test_csv_receives_the_numbers_at_the_steps_of_val_loss_and_nothing_else(run: Run) -> None:
    """Traps 54, 55."""
    with (Path(run.loggers["csv"].log_dir) / "metrics.csv").open() as file:
        lines = list(csv.DictReader(file))
    found = {(name, int(line["step"])): float(text) for line in lines for name, text in line.items() if text}
    same(found, scalars(run))
    assert {step for name, step in found if name == "val_loss"} == {step for _, step in scalars(run)}
    files = {path.name for path in Path(run.loggers["csv"].log_dir).rglob("*") if path.is_file()}
    assert files == {"metrics.csv"}


@needs_wandb
@pytest.mark.slow
def test_wandb_receives_numbers_pictures_and_histograms_on_lightnings_axis(run: Run) -> None:
    """Law 5, traps 54, 55, 64: every row carries the axis that Lightning's own metrics have."""
    logged = history(run.folder / "wandb")
    assert all(AXIS in row for row in logged)
    cells = [(name, row[AXIS], value) for row in logged for name, value in row.items()]
    found = {(name, step): value for name, step, value in cells if isinstance(value, int | float)}
    same(found, scalars(run))
    assert {step for name, step in found if name == "val_loss"} == {step for _, step in scalars(run)}
    assert {step for name, step in found if name == "gate/open"} == {step for _, step in scalars(run)}
    (files,) = (run.folder / "wandb").glob("wandb/offline-run-*/files")
    media = [(name, step, value) for name, step, value in cells if isinstance(value, dict)]
    shown = {
        (name, step): np.asarray(Image.open(files / value["path"]))
        for name, step, value in media
        if value["_type"] == "image-file"
    }
    same_pictures(shown, run)
    counted = {(name, step): value for name, step, value in media if value["_type"] == "histogram"}
    expected = {(name, step): summary for step, name, summary in run.sink.histograms}
    assert counted.keys() == expected.keys()
    for key, value in counted.items():
        assert sum(value["values"]) == expected[key].num
        assert value["bins"][0] <= expected[key].min
        assert value["bins"][-1] >= expected[key].max


@needs_wandb
@pytest.mark.slow
def test_wandb_gets_few_rows_however_many_pictures_there_are(run: Run) -> None:
    """Per validation: Lightning's own, two of each monitor and of the gate; and two at the end of the training."""
    logged = history(run.folder / "wandb")
    ours = [row for row in logged if not any(name.startswith("train_loss") for name in row)]
    assert len(ours) <= 3 * (1 + 2 * 4) + 2


def artifacts(client: Any, run_id: str) -> Iterator[tuple[str, int, np.ndarray]]:
    for found in client.list_artifacts(run_id, "images"):
        key, _, step, *_ = Path(found.path).name.split("+")
        if found.path.endswith(".png"):
            yield (
                key.replace("~", "/"),
                int(step),
                np.asarray(Image.open(client.download_artifacts(run_id, found.path))),
            )


@needs_mlflow
@pytest.mark.parametrize(("store", "prefix"), [("file", ""), ("sqlite", "own-")])
@pytest.mark.slow
def test_mlflow_receives_numbers_and_pictures_with_their_steps(run: Run, store: str, prefix: str) -> None:
    """Law 5, traps 54, 55: in either store; NaN stays NaN, and no two groups become one."""
    logger = run.loggers[store]
    client, run_id = logger.experiment, logger.run_id
    names = client.get_run(run_id).data.metrics
    found = {(name, m.step): m.value for name in names for m in client.get_metric_history(run_id, name)}
    assert {step for name, step in found if name == f"{prefix}val_loss"} == {step for _, step in scalars(run)}
    same(found, {(prefix + accepted(name), step): value for (name, step), value in scalars(run).items()})
    assert any(math.isnan(value) for value in found.values())
    groups = {name.rpartition("/")[2] for name in names if name.startswith(f"{prefix}rate/sex/")}
    assert len(groups) == 2
    assert all(re.fullmatch(r"Some-college 1st-[0-9a-f]{8}", group) for group in groups)
    stored = list(artifacts(client, run_id))
    assert all(key.startswith(prefix) for key, _, _ in stored)
    shown = {(key.removeprefix(prefix), step): image for key, step, image in stored}
    same_pictures(shown, run)


@needs_mlflow
def test_mlflow_is_asked_once_for_all_numbers_of_a_monitor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in QUIET.items():
        monkeypatch.setenv(name, value)
    logger = MLFlowLogger(tracking_uri=f"file:{tmp_path / 'runs'}")
    asked: list[set[str]] = []
    plain = logger.experiment.log_batch
    monkeypatch.setattr(
        logger.experiment, "log_batch", lambda metrics, **more: asked.append(metrics) or plain(metrics=metrics, **more)
    )
    fit(Classifier(), monitors(tmp_path), tmp_path, logger=logger, max_epochs=1, limit_train_batches=1)
    # of the training step, of Lightning's validation metrics, of three monitors and of the gate
    assert len(asked) == 1 + 1 + 3 + 1


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [text for text in caplog.messages if text.startswith("xai_lightning: ")]


def test_a_logger_without_pictures_is_named_exactly_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Trap 55: however many callbacks there are, and validations."""
    loggers = [CSVLogger(tmp_path / "csv"), TensorBoardLogger(tmp_path / "tensorboard")]
    with caplog.at_level(logging.INFO):
        made = fit(Classifier(), monitors(tmp_path), tmp_path, logger=loggers, max_epochs=2)
        made.validate(Classifier(), loader(rows(seed=1)), verbose=False)
    (sentence,) = said(caplog)
    assert "are not sent to CSVLogger" in sentence


def test_a_gate_alone_names_a_logger_without_pictures_too(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        fit(Classifier(), monitors(tmp_path)[-1:], tmp_path, logger=CSVLogger(tmp_path), max_epochs=1)
    (sentence,) = said(caplog)
    assert "are not sent to CSVLogger" in sentence


def test_a_trainer_without_logger_is_told_where_pictures_go(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    sink = MemorySink()
    with caplog.at_level(logging.INFO):
        fit(Classifier(), [AttributionMonitor("saliency", sinks=[sink])], tmp_path, logger=False, max_epochs=2)
    (sentence,) = said(caplog)
    assert "the Trainer has no logger" in sentence
    assert "sinks=[...] of a monitor" in sentence
    assert sink.pictures


@pytest.mark.parametrize("dry", [False, True])
def test_loggers_that_take_pictures_and_dry_runs_are_not_spoken_of(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, dry: bool
) -> None:
    logger = CSVLogger(tmp_path) if dry else TensorBoardLogger(tmp_path)
    with caplog.at_level(logging.INFO):
        fit(Classifier(), monitors(tmp_path)[:-1], tmp_path, logger=logger, max_epochs=1, fast_dev_run=dry)
    assert said(caplog) == []


def test_without_a_logger_that_is_said_once_and_own_sinks_receive_everything(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    sink = MemorySink()
    with caplog.at_level(logging.INFO):
        fit(Classifier(), monitors(tmp_path, sink), tmp_path, logger=False, max_epochs=1)
    (sentence,) = said(caplog)
    assert "no logger" in sentence
    assert sink.records
    assert sink.pictures
    assert sink.histograms


class FullDisk(CSVLogger):
    """A logger that takes what Lightning logs and fails at what we write."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        if any(name.startswith("rate/") for name in metrics):
            raise OSError(28, "No space left on device")
        super().log_metrics(metrics, step)


def test_a_logger_that_fails_ends_no_training_and_no_other_logger(tmp_path: Path) -> None:
    """Law 8: the weights are those of a training without us, and the next logger has everything."""
    loggers = [FullDisk(tmp_path / "full"), CSVLogger(tmp_path / "csv")]
    watched, plain, sink = Classifier(), Classifier(), MemorySink()
    with pytest.warns(UserWarning, match=r"FairnessMonitor could not write to .*No space left on device"):
        fit(watched, monitors(tmp_path, sink)[:1], tmp_path, logger=loggers)
    fit(plain, [], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    with (Path(loggers[1].log_dir) / "metrics.csv").open() as file:
        found = {(name, line["step"]) for line in csv.DictReader(file) for name, text in line.items() if text}
    assert {(name, str(step)) for step, name, _ in sink.records} <= found


def test_other_ranks_draw_and_write_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 55: loggers are dummies there that swallow all, after it was computed in vain."""

    def drawn(*args: object) -> None:
        raise AssertionError("drawn on another rank")

    monkeypatch.setattr(pl.Trainer, "is_global_zero", property(lambda trainer: False))
    monkeypatch.setattr("xai_lightning.sinks.TensorBoardSink.picture", drawn)
    monkeypatch.setattr("xai_lightning.callbacks._publish.write", drawn)
    ledger, sink = Ledger(), MemorySink()
    fit(Classifier(), monitors(tmp_path, sink), tmp_path, logger=[ledger, TensorBoardLogger(tmp_path)], max_epochs=1)
    names = {name for numbers in ledger.numbers.values() for name in numbers}
    assert "val_loss" in names
    assert not any(name.startswith(("rate/", "gate/", "importance/")) for name in names)
    assert sink.records == sink.pictures == sink.histograms == []
