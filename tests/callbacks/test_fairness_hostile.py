"""FairnessMonitor against settings, outputs and data that would make it claim what it cannot know."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xai_lightning import Column, FairnessMonitor, MemorySink, tags
from xai_lightning.functional.fairness import METRICS, Confusion, Metric, confusion, count, estimate

QUIET: dict[str, Any] = {
    "logger": False,
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
}
N = 240
SEX = {"sex": ["F", "M"]}
JOBS = {"sex": ["F", "M"], "job": ["a", "b"]}


class Rows(Dataset[dict[str, Any]]):
    def __init__(self, **columns: Any) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return N

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {name: column[index] for name, column in self.columns.items()}


class Given(pl.LightningModule):
    """Returns what stands in the batch as its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 1)

    def training_step(self, batch: Any) -> Tensor:
        return self.net.weight.sum() * 0

    def validation_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return {"preds": batch["out"]}

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.0)


def table(out: Tensor | None = None, y: Tensor | None = None, **more: Any) -> dict[str, Any]:
    torch.manual_seed(0)
    place = torch.arange(N)
    columns = {
        "x": torch.stack([place % 2, place], dim=1).float(),
        "out": torch.randn(N) if out is None else out,
        "y": place // 2 % 2 if y is None else y,
        "sex": ["FM"[i % 2] for i in range(N)],
        "job": ["ab"[i // 2 % 2] for i in range(N)],
    }
    return columns | more


def loader(**columns: Any) -> DataLoader[Any]:
    return DataLoader(Rows(**table(**columns)), batch_size=50)


def validate(monitor: FairnessMonitor, module: pl.LightningModule | None = None, **columns: Any) -> dict[str, float]:
    sink = MemorySink()
    monitor.sinks.append(sink)
    trainer = pl.Trainer(callbacks=[monitor], **QUIET)
    trainer.validate(module or Given(), loader(**columns), verbose=False)
    return {name: value for _, name, value in sink.records}


# --- what bins hide


@pytest.mark.parametrize("mean", [1e3, 1e4, 1e6])
def test_predictions_far_from_zero_have_no_distance_rather_than_none(mean: float) -> None:
    """Bins are a hundredth of a value wide: at 1e4 a gap of six deviations lay within one, and the distance was 0."""
    out = mean + 3.0 * (torch.arange(N) % 2) + 0.5 * torch.randn(N, dtype=torch.float64)
    names = ["prediction_distance", "prediction_wasserstein_distance", "mean_prediction_difference"]
    found = validate(FairnessMonitor(SEX, outputs="values", metrics=names, replicates=100), out=out, y=out + 1)
    for name in names[:2]:
        assert all(
            found[f"fairness/sex/{name}/{part}"] != found[f"fairness/sex/{name}/{part}"] for part in ("value", "bound")
        )
    assert found["fairness/sex/mean_prediction_difference/value"] == pytest.approx(3, abs=0.3)
    assert found["xai/fairness/undefined_rates"] == 4


def test_equal_predictions_far_from_zero_are_told_apart_from_others() -> None:
    out = 1e4 + 1e3 * (torch.arange(N) % 2)
    found = validate(FairnessMonitor(SEX, outputs="values", metrics=["prediction_distance"]), out=out, y=out)
    assert found["fairness/sex/prediction_distance/value"] == 0.5


def test_replicates_do_not_blind_what_the_samples_tell_apart() -> None:
    found = validate(
        FairnessMonitor(SEX, outputs="values", metrics=["prediction_distance", "residual_distance"], replicates=400)
    )
    assert all(0 < found[f"fairness/sex/{name}_distance/bound"] < 0.5 for name in ("prediction", "residual"))


@pytest.mark.parametrize("name", ["auc_difference", "worst_group_auc", "score_distance", "xauc_difference"])
def test_scores_that_share_a_bin_are_not_taken_for_equal(name: str) -> None:
    """One group is ranked perfectly and the other in reverse, at the scores of an outcome of one in 3,000."""
    y, sex = torch.arange(N) // 2 % 2, torch.arange(N) % 2
    out = -8 + (2 * y - 1) * (1 - 2 * sex) * 0.8 + 0.05 * torch.randn(N)
    aucs = [roc_auc_score(y[sex == g], out[sex == g].double().sigmoid()) for g in (0, 1)]
    assert aucs == [1, 0]
    found = validate(FairnessMonitor(SEX, metrics=[name], replicates=100), out=out, y=y)
    assert math.isnan(found[f"fairness/sex/{name}/bound"])


def test_scores_that_are_equal_are_ties() -> None:
    found = validate(FairnessMonitor(SEX, metrics=["auc_difference", "score_distance"]), out=torch.full((N,), -8.0))
    assert found["rate/sex/auc/F"] == 0.5
    assert found["fairness/sex/score_distance/value"] == 0


# --- outputs


def test_several_labels_are_checked_against_their_space() -> None:
    labels = torch.arange(3 * N).reshape(N, 3) % 2
    for out, options, said in (
        (torch.rand(N, 3), {}, "look like probabilities"),
        (torch.rand(N, 3), {"outputs": "labels"}, "needs integer classes"),
        (torch.randn(N, 3) * 5, {"outputs": "probabilities"}, "set outputs='logits'"),
    ):
        with pytest.raises(ValueError, match=said):
            validate(FairnessMonitor(SEX, multi_label=True, **options), out=out, y=labels)


def test_a_threshold_is_not_left_out_silently() -> None:
    with pytest.raises(ValueError, match=r"threshold=0\.3 is for a single output; got outputs of 2 classes"):
        validate(FairnessMonitor(SEX, outputs="probabilities", threshold=0.3), out=torch.rand(N, 2).softmax(1))
    for options in (
        {"outputs": "labels", "threshold": 0.3},
        {"outputs": "values", "threshold": 0.3},
        {"threshold": torch.nan},
    ):
        with pytest.raises(ValueError, match="threshold must be finite, and is for outputs='logits' or"):
            FairnessMonitor(SEX, **options)


def test_probabilities_of_low_precision_are_recognised() -> None:
    out = (3 * torch.randn(N, 100)).softmax(1).to(torch.bfloat16)
    monitor = FairnessMonitor(SEX, metrics=["accuracy_difference"])
    with pytest.raises(ValueError, match="look like probabilities"):
        validate(monitor, out=out, y=torch.arange(N) % 100)
    validate(
        FairnessMonitor(SEX, metrics=["accuracy_difference"], outputs="probabilities"), out=out, y=torch.arange(N) % 100
    )


def test_too_many_classes_for_a_metric_are_told_at_the_first_batch() -> None:
    out, y = torch.randn(N, 70), torch.arange(N) % 70
    for name in ("multiclass_equalized_odds_difference", "differential_fairness"):
        with pytest.raises(ValueError, match=f"70 classes: {name}"):
            validate(FairnessMonitor(SEX, metrics=[name], positive_class=0), out=out, y=y)


def test_predictions_none_of_which_is_finite_are_counted() -> None:
    out = torch.full((N,), torch.nan)
    found = validate(FairnessMonitor(SEX, outputs="values"), out=out, y=torch.randn(N))
    assert found["xai/nonfinite_predictions"] == N


# --- settings


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n_classes": 7}, "n_classes must be at least 2, and is for outputs='labels' only; got 7"),
        ({"outputs": "labels", "n_classes": 1}, "got 1"),
        ({"positive_class": -1}, "positive_class must be at least 0.*got -1"),
        ({"outputs": "labels", "n_classes": 3, "positive_class": 3}, "got 3"),
        ({"metrics": "accuracy_difference"}, "metrics must be a list.*got 'accuracy_difference'"),
        ({"intersections": True}, "got True"),
        (
            {"outputs": "values", "given": {"sex": "job"}},
            "compares rates, but none of the metrics is made of rates: mean_residual",
        ),
        ({"metrics": ["auc_difference"], "given": {"sex": "job"}}, "compares rates"),
    ],
)
def test_settings_that_cannot_be_are_refused_in_the_constructor(options: dict[str, Any], said: str) -> None:
    with pytest.raises((ValueError, TypeError), match=said):
        FairnessMonitor(JOBS, **options)


def test_attributes_are_a_mapping_without_the_sign_of_strata() -> None:
    for groups in (["sex"], "sex", {}):
        with pytest.raises((ValueError, TypeError), match=r"groups must (be a dict|declare at least one attribute)"):
            FairnessMonitor(groups)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"name must not contain '\|'.*got 'sex\|job'"):
        FairnessMonitor(JOBS | {"sex|job": ["a", "b"]}, given={"sex": "job"})


def test_weights_leave_the_default_metrics_that_cannot_have_them() -> None:
    monitor = FairnessMonitor(SEX, weights="w")
    found = validate(monitor, w=torch.rand(N))
    assert "calibration_in_the_large" not in monitor.metrics
    assert found["fairness/sex/demographic_parity_difference/value"] >= 0


def own(fn: Callable[[Confusion], Any], **names: Any) -> dict[str, Metric]:
    return {name: Metric((fn,), "difference") for name in names or ["mine"]}


@pytest.mark.parametrize("name", ["rates", "calibration", "flip_rate", " accuracy_difference", "accuracy/difference"])
def test_own_metrics_take_no_name_that_something_else_is_logged_under(name: str) -> None:
    metric = Metric((lambda c: (c.tp, c.total),), "difference")
    taken = name if name in ("rates", "calibration", "flip_rate") else tags.part(name)
    assert taken in METRICS or taken in ("rates", "calibration", "flip_rate")
    with pytest.raises(ValueError, match="must have unique names"):
        FairnessMonitor(SEX, own_metrics={name: metric})
    with pytest.raises(ValueError, match="got 'a_b', which is taken by 'a/b'"):
        FairnessMonitor(SEX, own_metrics={"a/b": metric, "a_b": metric})


def test_own_metrics_are_tried_out_in_the_constructor() -> None:
    with pytest.raises(TypeError, match="must be a Metric"):
        FairnessMonitor(SEX, own_metrics={"mine": lambda c: c.tp / c.total})  # type: ignore[dict-item]
    for fn, said in (
        (lambda c: c.tp.sum(), "it raised IndexError"),
        (lambda c: torch.rand(3), r"for 2 groups it returned shape \[1, 3\]"),
        (lambda c: torch.stack([c.tp, c.fp]), "for 2 groups it returned shape"),
        (lambda c: 1 / 0, "it raised ZeroDivisionError"),
        (lambda c: None, "it raised TypeError"),
    ):
        with pytest.raises(ValueError, match=rf"own_metrics\['mine'\] must return .*{said}"):
            FairnessMonitor(SEX, own_metrics=own(fn))


# --- other rows


class Flipped(Given):
    """A step that cannot do without the number of its loader, and a network that sees the attribute."""

    def forward(self, x: Tensor) -> Tensor:
        return 4 * x[:, 0] - 2 + x[:, 1] * 0

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int) -> dict[str, Tensor]:
        return {"preds": self(batch["x"])}


def test_other_rows_are_measured_with_all_that_fit_logs() -> None:
    """A certificate of a limit on the flip rate was closed, as never logged; and a step with loaders was not run."""
    columns = {"sex": torch.arange(N) % 2}
    monitor = FairnessMonitor(SEX, flips={"sex": Column("x", 0)}, consistency_features=[1], dataloader_idx=1)
    trainer, module = pl.Trainer(callbacks=[monitor], **QUIET), Flipped()
    trainer.validate(module, [loader(**columns), loader(**columns)], verbose=False)
    before = monitor.state_dict(), monitor.evidence()
    metrics, _ = monitor.measure(trainer, module, loader(**columns))
    assert set(metrics) == set(monitor.logged_names()[0]) - {
        "xai/nonfinite_predictions",
        "xai/fairness/error",
        "xai/fairness/error_spent",
    }
    assert metrics["fairness/sex/flip_rate/value"] == 1
    assert metrics["xai/fairness/forward_passes"] == 2 * N
    assert (monitor.state_dict(), monitor.evidence()) == before


def test_a_checkpoint_brings_its_groups_to_the_test_of_another_process(tmp_path: Path) -> None:
    """A group that the test set lacks made nothing undefined there, since groups were discovered anew."""
    trainer = pl.Trainer(callbacks=[FairnessMonitor({"sex": "discover"})], max_epochs=1, **QUIET)
    module = Given()
    trainer.fit(module, loader(), loader())
    trainer.save_checkpoint(tmp_path / "kept.ckpt")
    torch.load(tmp_path / "kept.ckpt", weights_only=True)
    fresh = FairnessMonitor({"sex": "discover"})
    again = pl.Trainer(callbacks=[fresh], **QUIET)
    women = loader(sex=["F"] * N)
    again.test(AlsoTests(), women, ckpt_path=tmp_path / "kept.ckpt", verbose=False)
    assert fresh.evidence()["groups"]["sex"][:2] == ["F", "M"]
    assert again.callback_metrics["test/fairness/sex/demographic_parity_difference/value"].isnan()
    assert fresh.state_dict()["number"] == 0


class AlsoTests(Given):
    def test_step(self, batch: Any, batch_idx: int) -> dict[str, Tensor]:
        return self.validation_step(batch, batch_idx)


def test_pairs_of_classes_are_not_set_aside_for_weights_that_nobody_has() -> None:
    """With 20,000 classes 19 gigabytes were asked for, to count nothing in them."""
    y = torch.arange(N)
    out = torch.nn.functional.one_hot(y, 20_000).to(torch.float16)
    with pytest.warns(UserWarning, match=r"no row belongs to 19\d\d\d classes \("):
        found = validate(FairnessMonitor(SEX, metrics=["accuracy_difference"], pictures=False), out=out * 2 - 1, y=y)
    assert found["rate/sex/accuracy/F"] == 1


def test_a_metric_of_two_rates_is_as_by_hand() -> None:
    rows = table()
    found = validate(FairnessMonitor(SEX, metrics=["equalized_odds_difference"]))
    predicted = (rows["out"] > 0).long()
    cells = count(predicted, rows["y"], torch.arange(N) % 2, classes=2, n_groups=2)
    by_hand = estimate(METRICS["equalized_odds_difference"], confusion(cells, 1), error=0.05)
    assert found["fairness/sex/equalized_odds_difference/bound"] == float(by_hand.bound)
