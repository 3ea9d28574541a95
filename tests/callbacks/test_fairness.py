"""FairnessMonitor in a real Trainer: counts, agreement with fairlearn, spending of the error, several classes."""

import json
import logging
import math
from pathlib import Path
from typing import Any

import fairlearn.metrics as fl
import numpy as np
import pandas as pd
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from sklearn.metrics import accuracy_score, balanced_accuracy_score
from torch import Tensor
from torch.utils.data import BatchSampler, DataLoader, Dataset, SequentialSampler

from adult_data import AdultDataModule
from xai_lightning import Column, FairnessMonitor, MemorySink, Table
from xai_lightning.callbacks._fairness.horizon import planned_validations
from xai_lightning.callbacks._fairness.spending import Spending
from xai_lightning.callbacks._record import Look
from xai_lightning.readers import vocabularies

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}


class Linear(pl.LightningModule):
    """A fixed linear classifier: what matters is what becomes of its outputs."""

    def __init__(self, width: int, classes: int = 1, seed: int = 0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.net = torch.nn.Linear(width, classes)

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        return self(batch["x"]).sum() * 0

    def validation_step(self, batch: Any) -> None:
        self(batch["x"])

    test_step = validation_step

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Rows(Dataset[dict[str, Any]]):
    """A table in memory; strings stay strings, and the default collate makes lists of them."""

    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def validate(module: pl.LightningModule, loader: Any, monitor: FairnessMonitor, **options: Any) -> dict[str, float]:
    """Everything the monitor logs in one ``trainer.validate``."""
    sink = MemorySink()
    monitor.sinks.append(sink)
    pl.Trainer(callbacks=[monitor], **QUIET, **options).validate(module, loader, verbose=False)
    return {name: value for _, name, value in sink.records}


METRICS = {
    "demographic_parity_difference": fl.demographic_parity_difference,
    "demographic_parity_ratio": fl.demographic_parity_ratio,
    "equalized_odds_difference": fl.equalized_odds_difference,
    "equal_opportunity_difference": fl.equal_opportunity_difference,
}


@pytest.mark.parametrize("attribute", ["sex", "race"])
def test_all_metrics_agree_with_fairlearn_on_the_adult_data(attribute: str) -> None:
    """6,512 rows, 2 and 5 groups, read by a one-hot column of the input."""
    data = AdultDataModule()
    rows, loader = data.validation, data.val_dataloader()
    batches = list(loader)
    x, y = torch.cat([b["x"] for b in batches]), torch.cat([b["y"] for b in batches])
    where = data.features[attribute]
    assert isinstance(where, slice)
    codes = x[:, where].argmax(dim=1)
    names = [f"group {i}" for i in range(where.stop - where.start)]
    module = Linear(data.width, seed=3)
    monitor = FairnessMonitor({attribute: names}, groups_from=Column("x", where))
    if attribute == "sex":
        # the batch has an entry of that name, which comes first; its codes are positions likewise
        codes, names = torch.cat([b["sex"] for b in batches]), ["Female", "Male"]
        monitor = FairnessMonitor({"sex": names})
    found = validate(module, loader, monitor)
    with torch.no_grad():
        predicted = (module(x).squeeze(1) > 0).long().numpy()
    actual, groups = y.numpy(), codes.numpy()
    for name, metric in METRICS.items():
        expected = metric(actual, predicted, sensitive_features=groups)
        assert found[f"fairness/{attribute}/{name}/value"] == pytest.approx(expected, abs=1e-12), name
    frame = fl.MetricFrame(metrics=accuracy_score, y_true=actual, y_pred=predicted, sensitive_features=groups)
    assert found[f"fairness/{attribute}/accuracy_difference/value"] == pytest.approx(frame.difference(), abs=1e-12)
    assert found[f"fairness/{attribute}/worst_group_accuracy/value"] == pytest.approx(frame.group_min(), abs=1e-12)
    assert found["utility/balanced_accuracy/value"] == pytest.approx(balanced_accuracy_score(actual, predicted))
    assert sum(found[f"count/{attribute}/{name}"] for name in names) == len(rows)


def table(n: int = 90, seed: int = 0) -> dict[str, Any]:
    generator = np.random.default_rng(seed)
    x = torch.tensor(generator.normal(size=(n, 4)), dtype=torch.float32)
    return {
        "x": x,
        "y": torch.tensor(generator.integers(0, 2, n)),
        "sex": [str(s) for s in generator.choice(["F", "M"], n)],
    }


@pytest.mark.parametrize("size", [1, 7, 90])
@pytest.mark.parametrize("order", ["given", "reversed", "by group"])
def test_counts_are_equal_however_the_rows_are_cut_and_ordered(size: int, order: str) -> None:
    """Law 2, traps 42, 77, 81: also when each batch holds one group only."""
    columns = table()
    index = {"given": range(90), "reversed": range(89, -1, -1), "by group": np.argsort(columns["sex"])}[order]
    cut = {name: [column[i] for i in index] for name, column in columns.items()}
    expected = FairnessMonitor({"sex": ["F", "M"]})
    validate(Linear(4), DataLoader(Rows(**columns), batch_size=90), expected)
    monitor = FairnessMonitor({"sex": ["F", "M"]})
    validate(Linear(4), DataLoader(Rows(**cut), batch_size=size), monitor)
    assert monitor._total.counts["sex"].tolist() == expected._total.counts["sex"].tolist()


def test_a_table_gives_groups_that_the_batches_do_not_hold() -> None:
    columns = table()
    sex = columns.pop("sex")
    monitor = FairnessMonitor({"sex": ["F", "M"]}, groups_from=Table(sex))
    found = validate(Linear(4), DataLoader(Rows(**columns), batch_size=8), monitor)
    assert found["count/sex/F"] == sex.count("F")


@pytest.mark.parametrize("lacks", ["samples", "positives", "negatives"])
def test_a_group_without_what_a_rate_needs_makes_its_metrics_undefined(lacks: str) -> None:
    """Law 3, traps 79 and 80: fairlearn gives 0 there."""
    columns = table()
    female = torch.tensor([s == "F" for s in columns["sex"]])
    if lacks == "samples":
        columns["sex"] = ["M"] * 90
    else:
        columns["y"] = torch.where(female, int(lacks == "negatives"), columns["y"])
    found = validate(Linear(4), DataLoader(Rows(**columns), batch_size=32), FairnessMonitor({"sex": ["F", "M"]}))
    odds = [found[f"fairness/sex/equalized_odds_difference/{part}"] for part in ("value", "lower", "upper", "bound")]
    assert all(math.isnan(value) for value in odds)
    parity = found["fairness/sex/demographic_parity_difference/value"]
    assert math.isnan(parity) is (lacks == "samples")
    assert found["xai/fairness/undefined_rates"] > 0


def test_missing_and_unknown_are_counted_apart_and_stay_out_of_metrics() -> None:
    columns = table()
    plain = validate(Linear(4), DataLoader(Rows(**columns), batch_size=90), FairnessMonitor({"sex": ["F", "M"]}))
    more = table(20, seed=9)
    columns = {
        "x": torch.cat([columns["x"], more["x"]]),
        "y": torch.cat([columns["y"], more["y"]]),
        "sex": columns["sex"] + ["X"] * 20,
    }
    monitor = FairnessMonitor({"sex": ["F", "M"]}, undeclared="unknown")
    found = validate(Linear(4), DataLoader(Rows(**columns), batch_size=16), monitor)
    assert found["count/sex/unknown"] == 20
    for name in (name for name in plain if name.startswith("fairness/")):
        assert found[name] == pytest.approx(plain[name], nan_ok=True)


@pytest.mark.parametrize("classes", [3, 70])
def test_several_classes_need_a_favourable_one_or_accuracy_metrics(classes: int) -> None:
    """Trap 85; above 64 classes the counts have another layout."""
    columns = table()
    columns["y"] = torch.arange(90) % classes
    loader = DataLoader(Rows(**columns), batch_size=32)
    with pytest.raises(ValueError, match=f"{classes} classes: name the class.*positive_class"):
        validate(Linear(4, classes), loader, FairnessMonitor({"sex": ["F", "M"]}))
    module = Linear(4, classes)
    with torch.no_grad():
        predicted = module(columns["x"]).argmax(dim=1).numpy()
    monitor = FairnessMonitor({"sex": ["F", "M"]}, positive_class=2, metrics=["demographic_parity_difference"])
    found = validate(module, loader, monitor)
    expected = fl.demographic_parity_difference(
        columns["y"].numpy() == 2, predicted == 2, sensitive_features=columns["sex"]
    )
    assert found["fairness/sex/demographic_parity_difference/value"] == pytest.approx(expected, abs=1e-12)
    only = validate(module, loader, FairnessMonitor({"sex": ["F", "M"]}, metrics=["worst_group_accuracy"]))
    assert only["fairness/sex/worst_group_accuracy/value"] >= 0
    assert not any("selection_rate" in name for name in only)


# --- the error that a run may spend


def errors(folder: Path, *, epochs: int, resume: Path | None = None, horizon: int | None = None) -> list[float]:
    """What each validation of a fit may spend; the last state is kept in ``folder``."""
    sink = MemorySink()
    monitor = FairnessMonitor({"sex": ["F", "M"]}, horizon=horizon, sinks=[sink])
    trainer = pl.Trainer(callbacks=[monitor], max_epochs=epochs, num_sanity_val_steps=0, **QUIET)
    loader = DataLoader(Rows(**table()), batch_size=45)
    trainer.fit(Linear(4), loader, loader, ckpt_path=resume)
    trainer.save_checkpoint(folder / "state.ckpt")
    return [value for _, name, value in sink.records if name == "xai/fairness/error"]


def test_a_run_divides_its_error_among_its_validations(tmp_path: Path) -> None:
    assert errors(tmp_path, epochs=4) == pytest.approx([0.0125] * 4, rel=1e-12)


def test_a_longer_resumed_run_has_only_what_is_unspent(tmp_path: Path) -> None:
    """The horizon is fixed at the first fit; when nothing is left, bounds are infinite."""
    errors(tmp_path, epochs=4)
    assert errors(tmp_path, epochs=6, resume=tmp_path / "state.ckpt") == [0.0, 0.0]
    spent = errors(tmp_path, epochs=2, horizon=4)
    assert spent == pytest.approx([0.0125] * 2)
    later = errors(tmp_path, epochs=5, resume=tmp_path / "state.ckpt", horizon=4)
    assert later == pytest.approx([0.0125, 0.0125, 0.0])


@pytest.mark.parametrize(
    ("options", "planned"),
    [
        ({"max_epochs": 7}, 7),
        ({"max_epochs": 7, "check_val_every_n_epoch": 3}, 2),
        ({"max_epochs": 3, "val_check_interval": 0.25}, 15),
        ({"max_epochs": 3, "val_check_interval": 5}, 6),
        ({"max_epochs": 4, "val_check_interval": 15, "check_val_every_n_epoch": None}, 2),
        ({"max_steps": 25, "max_epochs": -1}, 3),
        ({"max_steps": 24, "max_epochs": -1, "val_check_interval": 0.5}, 6),
        ({"max_epochs": -1, "max_time": {"seconds": 1}}, None),
    ],
    ids=str,
)
def test_the_number_of_planned_validations_is_not_below_what_comes(
    options: dict[str, Any], planned: int | None
) -> None:
    class Count(pl.Callback):
        planned: int | None = None
        seen = 0

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.planned = planned_validations(trainer)

        def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.seen += 1

    count = Count()
    loader = DataLoader(Rows(**table(40)), batch_size=4)
    trainer = pl.Trainer(callbacks=[count], num_sanity_val_steps=0, **QUIET, **options)
    trainer.fit(Linear(4), loader, DataLoader(Rows(**table(4)), batch_size=4))
    assert count.planned == planned
    assert planned is None or count.seen <= planned


def test_the_evidence_is_plain_json_and_holds_the_counts() -> None:
    monitor = FairnessMonitor({"sex": ["F", "M"]})
    validate(Linear(4), DataLoader(Rows(**table()), batch_size=90), monitor)
    found = json.loads(json.dumps(monitor.evidence(), allow_nan=False))
    assert sum(np.ravel(found["counts_group_actual_predicted"]["sex"])) == 90
    assert found["groups"] == {"sex": ["F", "M", "missing", "unknown"]}


def test_a_run_that_becomes_longer_than_planned_says_once_why_its_bounds_are_infinite(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    spending = Spending(0.05, 1)
    for number in (1, 2, 3):
        spending.spend(Look("fit", sanity=False, number=number, started={}, due=True))
    assert spending.error == 0
    (told,) = [record.getMessage() for record in caplog.records if "is left" in record.getMessage()]
    assert (
        "nothing of delta=0.05 is left at validation 2: it was divided among the validations planned when the run began"
        in told
    )


def test_a_share_is_spent_also_where_the_validation_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    sink, monitor = MemorySink(), FairnessMonitor({"sex": ["F", "M"]})
    monitor.sinks.append(sink)
    original, calls = monitor._concluded, []

    def fails_at_second(*args: Any) -> Any:
        calls.append(args)
        if len(calls) == 2:
            raise OSError("planted")
        return original(*args)

    monkeypatch.setattr(monitor, "_concluded", fails_at_second)
    loader = DataLoader(Rows(**table()), batch_size=45)
    trainer = pl.Trainer(callbacks=[monitor], max_epochs=4, num_sanity_val_steps=0, **QUIET)
    with pytest.warns(UserWarning, match="planted"):
        trainer.fit(Linear(4), loader, loader)
    found = [value for _, name, value in sink.records if name == "xai/fairness/error"]
    assert found[0] == found[2] == found[3] == pytest.approx(0.0125)
    assert monitor._spending.spent == pytest.approx(0.05)
    assert monitor.evidence()["failed"] is False


def test_evidence_of_a_failed_validation_is_not_that_of_the_one_before() -> None:
    monitor = FairnessMonitor({"sex": ["F", "M"]})
    validate(Linear(4), DataLoader(Rows(**table()), batch_size=90), monitor)
    assert monitor.evidence()["failed"] is False
    look = Look("validate", sanity=False, number=0, started={}, due=True)
    trainer = pl.Trainer(**QUIET)
    trainer.validate(Linear(4), DataLoader(Rows(**table()), batch_size=90), verbose=False)
    monitor._open(trainer, look)
    assert monitor.evidence()["failed"] is True
    assert monitor.evidence()["metrics"] == {}


def test_two_monitors_of_one_name_must_read_the_same_outputs() -> None:
    """Otherwise one would borrow the other's utility floor."""
    pair = [FairnessMonitor({"sex": ["F", "M"]}), FairnessMonitor({"age": ["young", "old"]}, outputs="probabilities")]
    trainer = pl.Trainer(callbacks=pair, **QUIET)
    with pytest.raises(MisconfigurationException, match=r"no name=, .* outputs='logits' and 'probabilities'"):
        trainer.validate(Linear(4), DataLoader(Rows(**table())), verbose=False)


def test_a_table_refuses_batches_whose_order_it_cannot_know() -> None:
    columns = table()
    sex = columns.pop("sex")

    class Backwards(BatchSampler):
        def __iter__(self) -> Any:
            return reversed(list(super().__iter__()))

    data = Rows(**columns)
    loader = DataLoader(data, batch_sampler=Backwards(SequentialSampler(data), 8, False))
    with pytest.raises(ValueError, match="consecutive rows"):
        validate(Linear(4), loader, FairnessMonitor({"sex": ["F", "M"]}, groups_from=Table(sex)))


def test_a_network_that_squeezes_a_batch_of_one_is_read() -> None:
    class Squeezes(Linear):
        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).squeeze()

    loader = DataLoader(Rows(**table(9)), batch_size=4)
    found = validate(Squeezes(4), loader, FairnessMonitor({"sex": ["F", "M"]}))
    assert sum(found[f"count/sex/{group}"] for group in "FM") == 9


@pytest.mark.parametrize("missing", [None, float("nan"), pd.NA, pd.NaT, -1])
def test_every_kind_of_missing_value_is_missing(missing: Any) -> None:
    encoded = vocabularies({"sex": ["F", "M"]})["sex"].encode(["F", missing])
    assert encoded.tolist() == [0, 2]
