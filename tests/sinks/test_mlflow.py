"""Names that MLflow takes, in stores that keep them, and what it costs to lose one."""

import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from pytorch_lightning.loggers import MLFlowLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from small import Classifier, fit
from xai_lightning import FairnessMonitor, GatedCheckpoint, MemorySink, tags
from xai_lightning.sinks import MLFlowSink
from xai_lightning.sinks.mlflow import MOST, MOST_OF_A_PICTURE, accepted

pytest.importorskip("mlflow", reason="needs the extra `mlflow`")

HOSTILE = [
    "..",
    ".",
    "...",
    "<",
    ">",
    "é",
    "è",
    "a:b",
    "ab",
    "a,b",
    "#1",
    "1",
    " ",
    "a\nb",
    "日本",
    "x" * 300,
    "x" * 301,
]


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is sent, and files are allowed, which MLflow has ceased to develop."""
    for name in ("MLFLOW_ALLOW_FILE_STORE", "MLFLOW_DISABLE_TELEMETRY"):
        monkeypatch.setenv(name, "true")
    with warnings.catch_warnings():
        # SQLAlchemy 2.1 deprecates what MLflow 3.17 asks of it
        warnings.filterwarnings("ignore", "The ``noload`` loader strategy is deprecated")
        yield


def logger(folder: Path, store: str = "file", **options: Any) -> MLFlowLogger:
    places = {"file": f"file:{folder / 'runs'}", "sqlite": f"sqlite:///{folder / 'runs.db'}"}
    return MLFlowLogger(tracking_uri=places[store], **{"artifact_location": str(folder / "artifacts"), **options})


@given(st.lists(st.text(), max_size=4), st.integers(20, MOST))
def test_every_name_becomes_one_that_mlflow_takes(parts: list[str], most: int) -> None:
    from mlflow.utils.validation import _validate_metric_name

    name = accepted(tags.join("rate", *parts), most)
    _validate_metric_name(name)
    assert len(name) <= most
    assert name.isascii()


@given(st.sets(st.text(), min_size=2, max_size=6))
@example({"\ud800"})
def test_two_names_never_become_one(groups: set[str]) -> None:
    names = {tags.rate("sex", "selection_rate", group) for group in groups}
    assert len({accepted(name) for name in names}) == len(names)
    assert len({accepted(f"{'long ' * 60}{name}") for name in names}) == len(names)


def test_ordinary_names_are_left_as_they_are() -> None:
    for name in ("fairness/sex/demographic_parity_difference/bound", "activation/net.0/dead", "count/race/Asian-Pac 1"):
        assert accepted(name) == name


@pytest.mark.slow
@pytest.mark.parametrize("store", ["file", "sqlite"])
def test_hostile_names_and_numbers_are_kept_by_the_real_store(tmp_path: Path, store: str) -> None:
    """Trap 66: all apart, NaN as NaN, and files stay in their folder."""
    made = logger(tmp_path, store, prefix="a prefix")
    sink = MLFlowSink(made)
    values = {tags.rate("sex", "recall", group): float(i) for i, group in enumerate(HOSTILE)}
    values |= {"nan": float("nan"), "inf": float("inf"), "large": 1e300}
    sink.scalars(values, step=7)
    picture = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    for group in HOSTILE:
        sink.picture(tags.fairness_picture(group, "rates"), picture, step=7)
    sink.flush()
    client, run_id = made.experiment, made.run_id
    names = client.get_run(run_id).data.metrics
    found = {n: [(m.step, m.value) for m in client.get_metric_history(run_id, n)] for n in names}
    assert len(found) == len(values)
    ranks = sorted(cell for n, [cell] in found.items() if "/rate/" in n or n.startswith("a prefix-rate"))
    assert ranks == sorted((7, value) for name, value in values.items() if name.startswith("rate/"))
    assert len(ranks) >= len(HOSTILE) - 1, "dots alone become one underscore, as one group's name is already"
    assert np.isnan(found["a prefix-nan"][0][1])
    assert found["a prefix-inf"][0][1] > 1e308
    stored = [Path(item.path).name for item in client.list_artifacts(run_id, "images")]
    assert len({name.split("+")[0] for name in stored}) == len(ranks)
    assert all(len(name.split("+")[0]) <= MOST_OF_A_PICTURE for name in stored)
    outside = {p.name for p in tmp_path.iterdir()} - {"runs", "runs.db", "artifacts"}
    assert outside == set()


@pytest.mark.parametrize(
    ("names", "sentence"),
    [
        (["fairness/" + "x" * MOST], r"at most 250 characters.*'fairness/xxx"),
        (["fairness/../x"], r"parts like '\.\.'; got 'fairness/\.\./x'"),
        (["fairness/é/x"], r"got 'fairness/é/x'"),
        (["a<b", "ab"], r"would log all of \['a<b', 'ab'\] as 'p-ab'"),
    ],
)
def test_names_on_which_lightnings_own_logging_would_stumble_are_refused(
    tmp_path: Path, names: list[str], sentence: str
) -> None:
    """They go through ``self.log``, where no sink of ours can mend them."""
    with pytest.raises(MisconfigurationException, match=sentence):
        MLFlowSink(logger(tmp_path, prefix="p")).check(names)


def test_what_lightning_refuses_is_refused_before_anything_is_trained(tmp_path: Path) -> None:
    """Law 8: the store would end the training at its first validation."""
    model = Classifier()
    monitor = FairnessMonitor(groups={"sex": ["Female", "Male"]}, name=f"{'n' * 125}/{'n' * 125}")
    with pytest.raises(MisconfigurationException, match="at most 250 characters"):
        fit(model, [monitor], tmp_path, logger=logger(tmp_path))
    assert model.trainer.global_step == 0


def test_a_store_that_fails_ends_no_training_and_keeps_the_numbers(tmp_path: Path) -> None:
    """Law 8: pictures go to a folder that cannot be made; the weights are those of a training without us."""
    (tmp_path / "file").touch()
    made, sink = logger(tmp_path, artifact_location=str(tmp_path / "file" / "below")), MemorySink()
    watched, plain = Classifier(), Classifier()
    gate = GatedCheckpoint("val_loss", at_least={"val_acc": 0.1}, dirpath=tmp_path / "kept")
    monitor = FairnessMonitor(groups={"sex": ["Female", "Male"]}, sinks=[sink])
    with pytest.warns(UserWarning, match="could not write") as warned:
        fit(watched, [monitor, gate], tmp_path, logger=made, enable_checkpointing=True)
    fit(plain, [], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    sentences = [str(warning.message) for warning in warned]
    for who in ("FairnessMonitor", "GatedCheckpoint"):
        told = [s for s in sentences if s.startswith(who) and "could not write to MLFlow" in s]
        assert any("NotADirectoryError" in s for s in told), sentences
    steps = {step for step, _, _ in sink.records}
    for name in ("rate/sex/selection_rate/Male", "gate/open"):
        assert {m.step for m in made.experiment.get_metric_history(made.run_id, name)} == steps


def test_a_logger_that_uploads_checkpoints_gets_what_the_gate_kept_and_last(tmp_path: Path) -> None:
    """Both carry their evidence within; nothing else that was written in between remains."""
    made = logger(tmp_path, log_model=True)
    gate = GatedCheckpoint("val_loss", at_least={"val_acc": 0.1}, dirpath=tmp_path / "kept")
    fit(Classifier(), [gate], tmp_path, logger=made, max_epochs=3)
    kept = {path.stem: path for path in (tmp_path / "kept").glob("*.ckpt")}
    client, run_id = made.experiment, made.run_id
    assert {item.path for item in client.list_artifacts(run_id)} - {"images"} == set(kept)
    for stem, path in kept.items():
        uploaded = Path(client.download_artifacts(run_id, f"{stem}/{path.name}"))
        assert uploaded.read_bytes() == path.read_bytes()


def test_a_store_that_fails_ends_the_training_if_asked_to(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    made = logger(tmp_path, artifact_location=str(tmp_path / "file" / "below"))
    monitor = FairnessMonitor(groups={"sex": ["Female", "Male"]}, on_error="raise")
    with pytest.raises(NotADirectoryError):
        fit(Classifier(), [monitor], tmp_path, logger=made)
