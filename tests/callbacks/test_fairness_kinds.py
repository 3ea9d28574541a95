"""FairnessMonitor on every kind of task, group and sample, in a real Trainer."""

import math
import warnings
from pathlib import Path
from typing import Any

import fairlearn.metrics as fl
import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from sklearn.metrics import mean_absolute_error, r2_score, roc_auc_score
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from xai_lightning import Bins, Column, FairnessMonitor, MemorySink
from xai_lightning.functional.fairness import METRICS, Metric, confusion, count, estimate

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
N = 120


class Given(pl.LightningModule):
    """Returns what stands in the batch as its outputs, so that a test decides what was predicted."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))

    def training_step(self, batch: Any) -> Tensor:
        return self.weight * 0

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        self.log("val_loss", batch["x"].mean(), batch_size=len(batch["x"]))
        return {"preds": batch["out"] + self.weight}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


class Rows(Dataset[dict[str, Any]]):
    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["x"])

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


def table(seed: int = 0, classes: int = 2, **more: Any) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    outputs = torch.tensor(rng.normal(size=(N, classes) if classes > 2 else N)).float()
    return {
        "x": torch.arange(N).float()[:, None],
        "out": outputs,
        "y": torch.tensor(rng.integers(0, classes, N)),
        "sex": [["F", "M"][i] for i in rng.integers(0, 2, N)],
        "job": [["a", "b", "c"][i] for i in rng.integers(0, 3, N)],
    } | more


def validate(columns: dict[str, Any], monitor: FairnessMonitor, size: int = 50) -> dict[str, float]:
    sink = MemorySink()
    monitor.sinks.append(sink)
    trainer = pl.Trainer(callbacks=[monitor], **QUIET)
    trainer.validate(Given(), DataLoader(Rows(**columns), batch_size=size), verbose=False)
    return {name: value for _, name, value in sink.records} | dict.fromkeys((n for _, n, _ in sink.pictures), 1.0)


SEX = {"sex": ["F", "M"]}


def test_scores_agree_with_scikit_learn_per_group() -> None:
    columns = table()
    found = validate(columns, FairnessMonitor(SEX, metrics=["auc_difference", "calibration_in_the_large"]))
    scores, sex = columns["out"].sigmoid().numpy(), np.array(columns["sex"])
    aucs = {g: roc_auc_score(columns["y"][sex == g], scores[sex == g]) for g in "FM"}
    for group, right in aucs.items():
        assert found[f"rate/sex/auc/{group}"] == pytest.approx(right, abs=2e-3)
        gap = float((scores - columns["y"].numpy())[sex == group].mean())
        assert found[f"rate/sex/calibration_in_the_large/{group}"] == pytest.approx(gap, abs=1e-6)
    assert found["fairness/sex/auc_difference/value"] == pytest.approx(abs(aucs["F"] - aucs["M"]), abs=4e-3)
    assert found["fairness/sex/auc_difference/bound"] > found["fairness/sex/auc_difference/value"]
    assert "fairness/sex/calibration" in found


def test_numbers_agree_with_fairlearn_and_scikit_learn() -> None:
    columns = table(y=torch.randn(N, generator=torch.Generator().manual_seed(1)) + 10)
    columns["out"] = columns["y"] + columns["out"] / 2
    monitor = FairnessMonitor(SEX, outputs="values")
    found = validate(columns, monitor)
    truth = {"y_true": columns["y"].numpy(), "y_pred": columns["out"].numpy()}
    frame = fl.MetricFrame(metrics=mean_absolute_error, sensitive_features=columns["sex"], **truth)
    assert found["fairness/sex/mean_absolute_error_difference/value"] == pytest.approx(frame.difference(), rel=1e-5)
    assert found["fairness/sex/worst_group_mean_absolute_error/value"] == pytest.approx(frame.group_max(), rel=1e-5)
    assert found["utility/r2/value"] == pytest.approx(r2_score(*truth.values()), abs=1e-5)
    assert found["utility/r2/bound"] < found["utility/r2/value"]
    assert found["utility/r2/chance"] == 0
    assert monitor.evidence()["samples"] == {"sex": [columns["sex"].count(g) for g in "FM"] + [0, 0]}


@pytest.mark.parametrize("size", [7, 120])
def test_of_several_labels_the_worst_counts(size: int) -> None:
    generator = torch.Generator().manual_seed(2)
    columns = table(out=torch.randn(N, 3, generator=generator), y=torch.randint(0, 2, (N, 3), generator=generator))
    found = validate(columns, FairnessMonitor(SEX, multi_label=True), size)
    rows = torch.tensor([["F", "M"].index(s) for s in columns["sex"]])
    each = []
    for label in range(3):
        cells = count((columns["out"][:, label] > 0).long(), columns["y"][:, label], rows, classes=2, n_groups=2)
        each.append(estimate(METRICS["equalized_odds_difference"], confusion(cells, 1), error=0.05))
    assert found["fairness/sex/equalized_odds_difference/value"] == max(float(e.value) for e in each)
    assert found["fairness/sex/equalized_odds_difference/bound"] == max(float(e.bound) for e in each)
    assert found["utility/balanced_accuracy/chance"] == 0.5
    assert sum(found[f"count/sex/{g}"] for g in "FM") == N


def test_several_classes_need_no_favourable_one_for_metrics_of_all_classes() -> None:
    columns = table(classes=4)
    names = ["multiclass_demographic_parity_difference", "multiclass_equalized_odds_difference"]
    found = validate(columns, FairnessMonitor(SEX, metrics=names))
    predicted, rows = columns["out"].argmax(dim=1), np.array(columns["sex"])
    shares = [[float((predicted[rows == g] == c).float().mean()) for c in range(4)] for g in "FM"]
    gap = max(abs(a - b) for a, b in zip(*shares, strict=True))
    assert found["fairness/sex/multiclass_demographic_parity_difference/value"] == pytest.approx(gap)
    assert "rate/sex/selection_rate/F" not in found
    with pytest.raises(ValueError, match="multiclass_demographic_parity_difference"):
        validate(columns, FairnessMonitor(SEX))


def test_weights_agree_with_fairlearn() -> None:
    columns = table(w=torch.rand(N, generator=torch.Generator().manual_seed(3)) + 0.1)
    names = ["demographic_parity_difference", "equalized_odds_difference"]
    found = validate(columns, FairnessMonitor(SEX, metrics=names, weights="w"))
    rows = {
        "y_true": columns["y"].numpy(),
        "y_pred": (columns["out"] > 0).long().numpy(),
        "sensitive_features": columns["sex"],
        "sample_weight": columns["w"].double().numpy(),
    }
    for name in names:
        assert found[f"fairness/sex/{name}/value"] == pytest.approx(getattr(fl, name)(**rows), abs=1e-9)
    assert found["count/sex/F"] == columns["sex"].count("F")


def test_groups_are_discovered_in_the_first_validation_and_kept() -> None:
    declared_by = {"sex": "discover", "x": Bins([40, 80])}
    source = {"x": lambda batch: batch["x"][:, 0]}
    monitor = FairnessMonitor(declared_by, groups_from=source)
    found = validate(table(), monitor, size=3)
    declared = validate(table(), FairnessMonitor(SEX), size=120)
    for name, value in declared.items():
        if "/sex/" in name:
            assert found[name] == pytest.approx(value, abs=1e-9), name
    assert found["count/x/below 40"] == found["count/x/40 to 80"] == 40
    again = FairnessMonitor(declared_by, groups_from=source)
    again.load_state_dict(monitor.state_dict())
    other = table(sex=["M"] * N)
    assert validate(other, again)["count/sex/F"] == 0


def test_intersections_and_strata_are_those_of_the_counts() -> None:
    columns = table()
    names = ["demographic_parity_difference", "demographic_parity_ratio"]
    found = validate(
        columns, FairnessMonitor(SEX | {"job": "discover"}, metrics=names, intersections=2, given={"sex": "job"})
    )
    chosen = columns["out"].numpy() > 0
    sex, job = np.array(columns["sex"]), np.array(columns["job"])
    both = [chosen[(sex == s) & (job == j)].mean() for s in "FM" for j in "abc"]
    assert found["fairness/sex+job/demographic_parity_difference/value"] == pytest.approx(max(both) - min(both))
    within = [abs(chosen[(sex == "F") & (job == j)].mean() - chosen[(sex == "M") & (job == j)].mean()) for j in "abc"]
    assert found["fairness/sex|job/demographic_parity_difference/value"] == pytest.approx(max(within))
    frame = fl.MetricFrame(
        metrics=fl.selection_rate, y_true=columns["y"], y_pred=chosen, sensitive_features=sex, control_features=job
    )
    assert found["fairness/sex|job/demographic_parity_difference/value"] == pytest.approx(frame.difference().max())
    assert not [name for name in found if name.startswith(("rate/sex+job", "count/sex+job", "rate/sex|job"))]


def test_the_mean_over_strata_is_logged_and_stamped_if_wanted() -> None:
    columns = table()
    names = ["demographic_parity_difference"]
    groups, chosen = SEX | {"job": ["a", "b", "c"]}, columns["out"].numpy() > 0
    monitor = FairnessMonitor(groups, metrics=names, given={"sex": "job"}, strata="mean")
    found = validate(columns, monitor)
    sex, job = np.array(columns["sex"]), np.array(columns["job"])
    gaps = {j: abs(chosen[(sex == "F") & (job == j)].mean() - chosen[(sex == "M") & (job == j)].mean()) for j in "abc"}
    right = sum(gaps[j] * (job == j).mean() for j in "abc")
    assert found["fairness/sex|job/demographic_parity_difference/value"] == pytest.approx(right)
    assert monitor.evidence()["strata"] == "mean"


def test_limits_within_strata_and_on_labels_have_a_report_of_their_sizes() -> None:
    # six women and fourteen men in job a; twenty of each in b and c, and the rest
    jobs, sexes = ["a"] * 20 + ["b"] * 50 + ["c"] * 50, (["F"] * 6 + ["M"] * 14) + ["F", "M"] * 50
    columns = table(job=jobs, sex=sexes)
    groups = SEX | {"job": ["a", "b", "c"]}
    monitor = FairnessMonitor(groups, metrics=["demographic_parity_difference"], given={"sex": "job"})
    validate(columns, monitor)
    report = monitor.outlook("fairness/sex|job/demographic_parity_difference/bound", "at_most", 0.1)
    assert report is not None
    assert (report.group, report.of, report.smallest, report.can_open) == ("F", "samples", 6, False)
    assert "in the smallest stratum or label" in report.sentence
    labels = FairnessMonitor(SEX, metrics=["equal_opportunity_difference"], multi_label=True)
    second = (torch.arange(N) < 15).float()
    several = table(out=torch.randn(N, 2), y=torch.stack([torch.ones(N), second], dim=1).long(), sex=sexes)
    with pytest.warns(UserWarning, match="every row has label 0, which leaves utility/.*with and without each label"):
        validate(several, labels)
    found = labels.outlook("fairness/sex/equal_opportunity_difference/bound", "at_most", 0.2)
    assert found is not None
    assert (found.group, found.of, found.smallest) == ("F", "positives", 6)


def test_an_empty_cell_closes_only_what_names_the_intersection() -> None:
    columns = table()
    columns["job"] = ["b" if s == "F" and j == "a" else j for s, j in zip(columns["sex"], columns["job"], strict=True)]
    monitor = FairnessMonitor(SEX | {"job": ["a", "b", "c"]}, intersections=2)
    found = validate(columns, monitor)
    assert math.isnan(found["fairness/sex+job/demographic_parity_difference/bound"])
    assert math.isfinite(found["fairness/sex/demographic_parity_difference/bound"])
    assert found["xai/fairness/undefined_rates"] == 0


def test_the_share_of_samples_without_a_group_can_be_limited() -> None:
    columns = table()
    columns["sex"] = [None if i < 30 else s for i, s in enumerate(columns["sex"])]
    loader = DataLoader(Rows(**columns), batch_size=N, collate_fn=_lists)
    sink = MemorySink()
    monitor = FairnessMonitor(SEX, sinks=[sink])
    pl.Trainer(callbacks=[monitor], **QUIET).validate(Given(), loader, verbose=False)
    found = {name: value for _, name, value in sink.records}
    assert found["count/sex/missing_share"] == 0.25
    assert found["count/sex/missing"] == 30
    assert "count/sex/missing_share" in monitor.logged_names()[0]


def _lists(rows: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        name: torch.stack([row[name] for row in rows]) if isinstance(rows[0][name], Tensor) else [r[name] for r in rows]
        for name in rows[0]
    }


def test_exact_bounds_are_wider_and_a_metric_of_ones_own_is_one_of_the_metrics() -> None:
    own = {"cost_difference": Metric((lambda c: (5 * c.fn + c.fp) / c.total,), "difference")}
    names = ["demographic_parity_difference"]
    plain = validate(table(), FairnessMonitor(SEX, metrics=names, own_metrics=own))
    exact = validate(table(), FairnessMonitor(SEX, metrics=names, exact=True))
    bound = "fairness/sex/demographic_parity_difference/bound"
    assert exact[bound] > plain[bound]
    assert plain["fairness/sex/cost_difference/lower"] <= plain["fairness/sex/cost_difference/value"]
    assert plain["fairness/sex/cost_difference/bound"] > plain["fairness/sex/cost_difference/value"]


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({"metrics": ["theil_index"], "exact": True}, "no exact limits for theil_index"),
        ({"metrics": ["theil_index"], "weights": "w"}, "theil_index cannot be computed from weighted samples"),
        ({"exact": True, "weights": "w"}, "exact=True and weights"),
        ({"multi_label": True, "weights": "w"}, "multi_label=True and weights cannot be combined"),
        (
            {"metrics": ["auc_difference"], "outputs": "labels"},
            "outputs='labels' gives counts, from which auc_difference",
        ),
        ({"metrics": ["auc_difference"], "outputs": "values"}, "outputs='values' gives errors"),
        ({"metrics": ["mean_residual_difference"]}, "which mean_residual_difference cannot be computed"),
        ({"metrics": ["multiclass_demographic_parity_difference"], "multi_label": True}, "has no classes to compare"),
        ({"metrics": []}, "at least one metric"),
        ({"metrics": ["demographic_parity"]}, "Did you mean 'demographic_parity_"),
        ({"own_metrics": {"theil_index": Metric(("accuracy",), "worst")}}, "unique names, .* got 'theil_index'"),
        ({"intersections": 3}, "intersections must be 1 .* got 3"),
        ({"replicates": 0}, "replicates, .* must be at least 1; got 0"),
        ({"strata": "sum"}, "strata must be .* got 'sum'"),
        ({"strata": "mean", "multi_label": True}, "or, without multi_label=True, 'mean'"),
        ({"given": {"sex": "job"}}, "given=.* names 'job'"),
        ({"given": {"sex": "sex"}}, "another attribute for 'sex'"),
        ({"flips": {"sex": Column("x", 0)}, "outputs": "values"}, "a single class per sample"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_the_constructor(options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        FairnessMonitor(SEX, **options)


@pytest.mark.parametrize(
    ("change", "options", "shown"),
    [
        ({"w": torch.full((N,), -1.0)}, {"weights": "w", "metrics": ["accuracy_difference"]}, "-1"),
        ({"out": torch.full((N,), 1.5)}, {"outputs": "probabilities"}, "1.5"),
        ({"y": torch.full((N,), 7)}, {}, "got 7"),
        ({"y": torch.zeros(N, 2)}, {"multi_label": True}, "one real output per label"),
        ({"out": torch.zeros(N, 2), "y": torch.full((N, 2), 3)}, {"multi_label": True}, "0 or 1; got 3"),
        ({"out": torch.zeros(N, 2)}, {"outputs": "values"}, "one number per sample.*from the step as 'preds'"),
    ],
)
def test_input_that_cannot_be_is_an_error_that_shows_it(change: Any, options: dict[str, Any], shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        validate(table(**change), FairnessMonitor(SEX, **options))


@pytest.mark.parametrize("outputs", ["logits", "probabilities"])
def test_the_scores_of_the_other_class_are_those_of_the_favourable_one_from_above(outputs: Any) -> None:
    """Trap 85: the favourable class may be 0."""
    columns = table()
    columns["out"] = columns["out"].sigmoid() if outputs == "probabilities" else columns["out"]
    names = ["calibration_in_the_large", "auc_difference"]
    zero, one = (
        validate(columns, FairnessMonitor(SEX, metrics=names, outputs=outputs, positive_class=positive))
        for positive in (0, 1)
    )
    for group in "FM":
        name = f"rate/sex/calibration_in_the_large/{group}"
        assert zero[name] == pytest.approx(-one[name], abs=1e-8)
        assert abs(one[name]) > 1e-3
        # rows of either class trade places, so that the ranking is as good
        assert zero[f"rate/sex/auc/{group}"] == pytest.approx(one[f"rate/sex/auc/{group}"], abs=1e-2)


@pytest.mark.parametrize("metric", ["accuracy_difference", "calibration_in_the_large"])
def test_a_later_batch_in_another_space_closes_the_validation_and_loses_nothing_of_the_run(metric: str) -> None:
    """Trap 84: logits and probabilities mixed between batches."""
    columns = table()
    columns["out"] = columns["out"].sigmoid()
    columns["out"][60:] = 3.0
    sink = MemorySink()
    monitor = FairnessMonitor(SEX, outputs="probabilities", metrics=[metric], sinks=[sink])
    loader = DataLoader(Rows(**columns), batch_size=60)
    trainer = pl.Trainer(callbacks=[monitor], max_epochs=1, num_sanity_val_steps=0, **QUIET)
    with pytest.warns(UserWarning, match="a value is 3"):
        trainer.fit(Given(), loader, loader)
    assert all(math.isnan(value) for _, name, value in sink.records if name.startswith("fairness/"))


def test_a_measurement_on_other_rows_leaves_no_trace(tmp_path: Path) -> None:
    monitor = FairnessMonitor(SEX)
    loader, other = (DataLoader(Rows(**table(seed)), batch_size=50) for seed in (0, 1))
    measured: dict[str, Any] = {}

    class Measures(pl.Callback):
        def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            before = dict(vars(pl_module)), torch.get_rng_state(), monitor.evidence(), dict(trainer.callback_metrics)
            measured["found"] = monitor.measure(trainer, pl_module, other)
            assert before[0] == dict(vars(pl_module))
            assert torch.equal(before[1], torch.get_rng_state())
            assert before[2] == monitor.evidence()
            assert before[3] == dict(trainer.callback_metrics)

    trainer = pl.Trainer(callbacks=[monitor, Measures()], max_epochs=2, num_sanity_val_steps=0, **QUIET)
    trainer.fit(Given(), loader, loader)
    alone = validate(table(1), FairnessMonitor(SEX))
    metrics, evidence = measured["found"]
    for name in ("fairness/sex/equalized_odds_difference/bound", "utility/balanced_accuracy/bound"):
        assert metrics[name] == alone[name]
    assert evidence["error"] == 0.05


def test_margin_charts_and_pictures_reach_tensorboard(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    logger = TensorBoardLogger(str(tmp_path), name="", version="")
    monitor = FairnessMonitor(SEX, custom_scalars=True)
    loader = DataLoader(Rows(**table()), batch_size=50)
    trainer = pl.Trainer(callbacks=[monitor], max_epochs=2, **{**QUIET, "logger": logger})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Given(), loader, loader)
    events = EventAccumulator(str(tmp_path), size_guidance={"images": 0, "tensors": 0})
    events.Reload()
    assert {"fairness/sex/rates", "fairness/sex/calibration"} <= set(events.Tags()["images"])
    assert [e.step for e in events.Images("fairness/sex/rates")] == [2, 5]
    assert any("custom_scalars" in tag for tag in events.Tags()["tensors"])


def test_a_flip_of_the_sensitive_column_is_logged_by_the_monitor() -> None:
    class Uses(Given):
        def __init__(self) -> None:
            super().__init__()
            self.net = torch.nn.Linear(2, 1)
            self.net.weight.data = torch.tensor([[1.0, 2.0]])
            self.net.bias.data.fill_(-1.0)

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x)

        def validation_step(self, batch: Any, batch_idx: int) -> None:
            self(batch["x"])

    generator = torch.Generator().manual_seed(0)
    x = torch.stack([torch.rand(N, generator=generator) * 2 - 1, (torch.arange(N) % 2).float()], dim=1)
    sink = MemorySink()
    monitor = FairnessMonitor(SEX, groups_from=Column("x", 1), flips={"sex": Column("x", 1)}, sinks=[sink])
    rows = DataLoader(Rows(x=x, y=table()["y"]), batch_size=50)
    pl.Trainer(callbacks=[monitor], **QUIET).validate(Uses(), rows, verbose=False)
    found = {name: value for _, name, value in sink.records}
    # without the attribute the logit is x - 1 < 0, with it x + 1 > 0: every decision flips
    assert found["fairness/sex/flip_rate/value"] == 1.0
    assert found["fairness/sex/flip_rate/bound"] == 1.0
    assert 0.9 < found["fairness/sex/flip_rate/lower"] < 1
