"""What W&B makes of pictures and histograms, and what becomes of a run that fails or is resumed."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from pytorch_lightning.loggers import WandbLogger

from small import Classifier, fit
from wandb_log import history
from xai_lightning import FairnessMonitor, MemorySink
from xai_lightning.functional.activation import histogram_summary, observe
from xai_lightning.sinks import WandbSink
from xai_lightning.sinks.wandb import counts_and_edges

pytest.importorskip("wandb", reason="needs the extra `wandb`")

AXIS = "trainer/global_step"


@pytest.fixture(autouse=True)
def quiet(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Nothing is sent, and a run that a test left open is closed."""
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    yield
    wandb.finish()


def logger(folder: Path, **options: Any) -> WandbLogger:
    folder.mkdir(exist_ok=True)
    return WandbLogger(save_dir=folder, offline=True, project="ours", **options)


@pytest.mark.parametrize(
    ("values", "ends"),
    [
        ([0.0] * 9, (-0.5, 0.5)),
        ([1e30, 1e30], (0.5e30, 1.5e30)),
        ([-1e30, 1e30], (-1e30, 1e30)),
        ([3.0, -2.1, 0.5], (-2.1, 3.0)),
        ([-32768.0, 2.0], (-65536.0, 4.0)),
        ([3.4e38, -5.0], (-5.0, 3.4e38)),
        ([32768.0, -2.0], (-4.0, 65536.0)),
        ([0.0, 1.0], (0.0, 2.0)),
    ],
)
def test_edges_of_a_histogram_are_finite_and_hold_all_values(values: list[float], ends: tuple[float, float]) -> None:
    """Trap 64: the outer limits of ours are as large as floats are, and dead units are all zero."""
    summary = histogram_summary(observe(torch.tensor([values]).T, unit_dim=1))
    counts, found = counts_and_edges(summary)
    assert sum(counts) == len(values)
    assert len(found) == len(counts) + 1
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    assert (found[0], found[-1]) == pytest.approx(ends)


def test_the_zeros_of_a_relu_have_a_bin_of_their_own() -> None:
    summary = histogram_summary(observe(torch.tensor([[0.0, 0.0, 0.0, 0.7, 3.0]]).T, unit_dim=1))
    counts, edges = counts_and_edges(summary)
    assert counts[0] == 3
    assert edges[:2] == [0.0, 2.0**-16]
    assert edges[-1] == 3.0


def test_small_dark_pictures_stay_so_and_hostile_names_stay_in_the_folder(tmp_path: Path) -> None:
    """Trap 64: W&B would take an array of one row for a picture in grey."""
    made = logger(tmp_path / "wandb")
    sink = WandbSink(made)
    picture = (np.arange(48) % 2).astype(np.uint8).reshape(1, 16, 3)
    sink.picture("fairness/../../../../rates", picture, step=5)
    sink.histogram("empty", histogram_summary([]), step=5)
    sink.flush()
    sink.flush()
    folder = Path(made.experiment.dir)
    made.experiment.finish()
    (row,) = history(tmp_path / "wandb")
    assert row[AXIS] == 5
    assert "empty" not in row
    file = folder / row["fairness/../../../../rates"]["path"]
    assert folder in file.resolve().parents
    assert np.array_equal(np.asarray(Image.open(file)), picture)
    assert list(tmp_path.rglob("*.png")) == [file]


@pytest.mark.slow
def test_a_run_whose_folder_fails_ends_no_training_and_keeps_the_numbers(tmp_path: Path) -> None:
    """Law 8: a file stands where pictures go; the weights are those of a training without us."""
    made, sink = logger(tmp_path / "wandb"), MemorySink()
    (Path(made.experiment.dir) / "media").touch()
    watched, plain = Classifier(), Classifier()
    monitor = FairnessMonitor(groups={"sex": ["Female", "Male"]}, sinks=[sink])
    with pytest.warns(UserWarning, match="FairnessMonitor could not write to Wandb.*NotADirectoryError"):
        fit(watched, [monitor], tmp_path, logger=made)
    fit(plain, [], tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(watched.parameters(), plain.parameters(), strict=True))
    made.experiment.finish()
    found = {row[AXIS] for row in history(tmp_path / "wandb") if "rate/sex/selection_rate/Male" in row}
    assert found == {step for step, _, _ in sink.records}


@pytest.mark.slow
def test_an_offline_run_that_is_resumed_is_a_second_folder_whose_steps_go_on(tmp_path: Path) -> None:
    """Trap 68: of the same run, and no step is logged twice."""
    rows, saved = [], tmp_path / "last.ckpt"
    for part, epochs in (("first", 1), ("second", 3)):
        made = logger(tmp_path / part, version="same")
        monitor = FairnessMonitor(groups={"sex": ["Female", "Male"]})
        resumed = {"ckpt_path": saved} if saved.exists() else {}
        fit(Classifier(), [monitor], tmp_path, logger=made, max_epochs=epochs, **resumed).save_checkpoint(saved)
        assert made.experiment.id == "same"
        made.experiment.finish()
        rows.append(history(tmp_path / part))
    steps = [[row[AXIS] for row in part if "rate/sex/selection_rate/Male" in row] for part in rows]
    assert [len(part) for part in steps] == [1, 2]
    assert sorted({*steps[0], *steps[1]}) == steps[0] + steps[1]


def test_names_and_numbers_arrive_unchanged(tmp_path: Path) -> None:
    made = logger(tmp_path / "wandb")
    WandbSink(made).scalars(
        {"nan": float("nan"), "inf": float("inf"), "Some-college, 1st<": 1.0, "net.0/é": 2.0}, step=3
    )
    made.experiment.finish()
    (row,) = history(tmp_path / "wandb")
    assert np.isnan(row["nan"])
    assert np.isinf(row["inf"])
    assert (row["Some-college, 1st<"], row["net.0/é"], row[AXIS]) == (1.0, 2.0, 3)
