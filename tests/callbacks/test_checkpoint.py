"""What the gate keeps, refuses, writes and says. Laws 3 and 10."""

import hashlib
import json
import math
import os
import signal
import subprocess
import sys
import warnings
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import small
from gated import LOADER, Scripted, audit, checkpoints, fit, weight
from small import Classifier
from xai_lightning import GatedCheckpoint
from xai_lightning.callbacks._gate import decision
from xai_lightning.functional.gate import limits

# most of these gates never open, which is said, and tested below
pytestmark = pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning")

NAN = math.nan


def test_the_best_of_those_that_pass_is_kept_not_the_best_of_all(tmp_path: Path) -> None:
    """Traps 36 and 40: the gap is logged in the module's own hook, which runs after those of callbacks."""
    _, gate = fit(tmp_path, gaps=[0.2, 0.05, 0.3, 0.08], losses=[0.9, 0.5, 0.1, 0.6])
    assert weight(gate.best_model_path) == 4
    assert float(gate.best_model_score) == 0.5
    assert [line["gate"] for line in audit(tmp_path)] == ["closed", "open", "closed", "open"]
    assert [line["kept"] is not None for line in audit(tmp_path)] == [False, True, False, False]


@pytest.mark.parametrize("gap", [0.11, NAN, math.inf, None], ids=["too large", "nan", "infinite", "missing"])
def test_a_gap_that_is_too_large_undefined_or_stale_closes_the_gate(tmp_path: Path, gap: float | None) -> None:
    """Law 3. A gap that is logged at the first validation only is stale at the second (trap 37)."""
    _, gate = fit(tmp_path, gaps=[0.05, gap], losses=[0.9, 0.1])
    assert weight(gate.best_model_path) == 2
    reasons = {0.11: "exceeds 0.1 by 0.01", None: "stale"}
    expected = reasons.get(gap, "NaN" if gap is not None and math.isnan(gap) else "not finite")
    assert expected.lower() in audit(tmp_path)[1]["reason"].lower()


def test_a_monitored_value_that_is_nan_is_never_the_best(tmp_path: Path) -> None:
    """Trap 36: ModelCheckpoint would save it as infinite."""
    _, gate = fit(tmp_path, gaps=[0.05, 0.05], losses=[NAN, NAN])
    assert gate.best_model_path == ""
    assert "val_loss" in audit(tmp_path)[0]["reason"]


def test_without_a_pass_there_is_no_best_and_the_closest_is_named(tmp_path: Path) -> None:
    """Trap 38."""
    with pytest.warns(UserWarning, match=r"No checkpoint passed.*epoch 1: gap 0\.15 exceeds 0\.1 by 0\.05"):
        trainer, gate = fit(tmp_path, gaps=[0.3, 0.15, 0.2])
    assert gate.best_model_path == ""
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]
    with pytest.raises(ValueError, match="best"):
        trainer.validate(Scripted([0.1], [1.0]), LOADER, ckpt_path="best", verbose=False)


@pytest.mark.parametrize(
    ("options", "files"),
    [
        ({"monitor": "val_loss", "save_top_k": 1}, {4}),
        ({"monitor": "val_loss", "save_top_k": 2}, {4, 6}),
        ({"monitor": "val_loss", "save_top_k": -1}, {2, 4, 6}),
        ({"monitor": "val_loss", "save_top_k": 0}, set()),
        ({"monitor": "val_loss", "mode": "max"}, {2}),
        ({"monitor": None}, {6}),
        ({"monitor": None, "save_top_k": -1}, {2, 4, 6}),
    ],
    ids=str,
)
def test_whatever_is_saved_passed_the_gate(tmp_path: Path, options: dict[str, Any], files: set[int]) -> None:
    """Trap 36: validations 1 to 3 pass, 4 and 5 do not, and are the best and the worst of all."""
    gate = GatedCheckpoint(dirpath=tmp_path, at_most={"gap": 0.1}, **options)
    fit(tmp_path, gaps=[0.1, 0.0, 0.05, 0.2, 0.2], losses=[0.9, 0.5, 0.7, 0.01, 5.0], gate=gate)
    kept = {int(weight(path)) for path in tmp_path.glob("*.ckpt") if path.name != "last.ckpt"}
    assert kept == files
    assert {p.stem for p in tmp_path.glob("*.ckpt")} == {p.name.split(".")[0] for p in tmp_path.glob("*.verdict.json")}


def test_last_is_written_at_every_validation_and_says_what_it_is(tmp_path: Path) -> None:
    """Traps 36 and 38: the one file that is not gated."""
    fit(tmp_path, gaps=[0.05, 0.5])
    evidence = json.loads(torch.load(tmp_path / "last.ckpt", weights_only=True)["xai_lightning"])
    assert weight(tmp_path / "last.ckpt") == 4
    assert (evidence["role"], evidence["gate"]) == ("last", "closed")
    assert "never the best" in evidence["note"]


def test_checkpoint_side_file_and_audit_line_are_one_record(tmp_path: Path) -> None:
    """Law 10."""
    trainer, gate = fit(tmp_path, gaps=[0.3, 0.05])
    path = Path(gate.best_model_path)
    inside = json.loads(torch.load(path, weights_only=True)["xai_lightning"])
    beside = json.loads(path.with_suffix(".verdict.json").read_text())
    line = audit(tmp_path)[1]
    assert beside.pop("sha256") == hashlib.sha256(path.read_bytes()).hexdigest()
    assert beside.pop("file") == path.name == line["kept"]
    assert inside == beside == {"role": "kept", **line}
    assert line["checks"][0]["value"] == float(trainer.callback_metrics["gap"]) == 0.05
    assert line["step"] == trainer.fit_loop.epoch_loop._batches_that_stepped - 1


@pytest.mark.parametrize("passes", [True, False])
def test_validations_within_an_epoch_are_decided_on_the_weights_they_saw(tmp_path: Path, passes: bool) -> None:
    """Trap 37: val_check_interval=0.5, two validations per epoch, of which the first or the second passes."""
    gaps = [0.05, 0.5] if passes else [0.5, 0.05]
    _, gate = fit(tmp_path, gaps=gaps, max_epochs=1, val_check_interval=0.5)
    assert weight(gate.best_model_path) == (1 if passes else 2)


def test_epochs_without_a_validation_are_not_decided(tmp_path: Path) -> None:
    """Trap 37: what was logged before is still visible there."""
    fit(tmp_path, gaps=[0.05, 0.05], max_epochs=4, check_val_every_n_epoch=2)
    assert [line["epoch"] for line in audit(tmp_path)] == [1, 3]


class Raises(pl.Callback):
    """Fails in the second epoch."""

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            raise RuntimeError("planted")


def test_an_exception_saves_nothing_that_no_gate_has_seen(tmp_path: Path) -> None:
    """Trap 36: ModelCheckpoint can save where the training broke off."""
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1})
    with pytest.raises(RuntimeError, match="planted"):
        fit(tmp_path, gaps=[0.5, 0.5, 0.5], gate=gate, callbacks=[Raises()])
    assert [path.name for path in tmp_path.glob("*.ckpt")] == ["last.ckpt"]


SAVING = ("on_train_batch_end", "on_train_epoch_end", "on_validation_end", "on_train_end", "on_exception")


@pytest.mark.parametrize("raises", [False, True])
def test_no_moment_of_lightnings_to_save_is_used(raises: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Traps 36 and 37: whatever ``ModelCheckpoint`` would write there, now or in a later release."""
    called: list[str] = []
    for hook in SAVING:
        monkeypatch.setattr(ModelCheckpoint, hook, lambda *args, hook=hook, **more: called.append(hook))
    with pytest.raises(RuntimeError, match="planted") if raises else nullcontext():
        fit(tmp_path, gaps=[0.05, 0.5], callbacks=[Raises()] if raises else [])
    assert called == []
    assert checkpoints(tmp_path) != []


def test_fast_dev_run_decides_and_writes_no_file(tmp_path: Path) -> None:
    """Trap 47."""
    _, gate = fit(tmp_path, gaps=[0.05], fast_dev_run=True)
    assert gate._memory.opened == 1
    assert list(tmp_path.rglob("*.*")) == []


def test_fast_dev_run_does_not_complain_that_nothing_passed(tmp_path: Path) -> None:
    """One batch seldom opens a gate, and nothing would have been kept."""
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "No checkpoint passed")
        _, gate = fit(tmp_path, gaps=[0.5], fast_dev_run=True)
    assert gate._memory.opened == 0


def test_another_checkpoint_callback_is_named_in_one_warning(tmp_path: Path) -> None:
    """Trap 36: its files are nobody's decision."""
    with pytest.warns(
        UserWarning, match="ModelCheckpoint beside GatedCheckpoint saves checkpoints that no gate has judged"
    ):
        fit(tmp_path, gaps=[0.05], callbacks=[ModelCheckpoint(dirpath=tmp_path / "other")])


def test_a_gate_from_the_model_takes_the_place_of_a_plain_checkpoint_and_one_of_the_trainer_does_not(
    tmp_path: Path,
) -> None:
    """Trap 52: Lightning removes callbacks of which one from ``configure_callbacks`` is a subclass."""
    gates = [GatedCheckpoint("val_loss", dirpath=tmp_path / name, at_most={"gap": 0.1}) for name in ("a", "b")]

    class Configures(Scripted):
        def configure_callbacks(self) -> list[pl.Callback]:
            return [gates[0]]

    quiet = {"max_epochs": 1, "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    plain = ModelCheckpoint(dirpath=tmp_path / "plain")
    trainer = pl.Trainer(callbacks=[plain], **quiet)
    trainer.fit(Configures([0.05], [0.5]), LOADER, LOADER)
    assert trainer.checkpoint_callbacks == [gates[0]]
    with pytest.warns(UserWarning, match="ModelCheckpoint beside GatedCheckpoint"):
        trainer, _ = fit(tmp_path, gaps=[0.05], gate=gates[1], callbacks=[plain])
    assert set(trainer.checkpoint_callbacks) == {gates[1], plain}


def test_two_gates_keep_their_own_files(tmp_path: Path) -> None:
    """Trap 39."""
    strict = GatedCheckpoint("val_loss", dirpath=tmp_path / "strict", at_most={"gap": 0.01}, name="strict")
    loose = GatedCheckpoint("val_loss", dirpath=tmp_path / "loose", at_most={"gap": 0.1})
    with pytest.warns(UserWarning, match="No checkpoint passed"):
        fit(tmp_path, gaps=[0.05], gate=loose, callbacks=[strict])
    assert loose.best_model_path
    assert not strict.best_model_path
    assert (tmp_path / "strict" / "strict_gate_audit.jsonl").exists()


def test_two_gates_of_one_name_in_one_folder_are_refused(tmp_path: Path) -> None:
    """Trap 39: they would cut back each other's decisions."""
    strict, loose = (GatedCheckpoint(dirpath=tmp_path, at_most={"gap": limit}) for limit in (0.01, 0.1))
    with pytest.raises(
        MisconfigurationException, match=r"two gates would write .*gate_audit\.jsonl; give one of them another"
    ):
        fit(tmp_path, gaps=[0.05], gate=loose, callbacks=[strict])


@pytest.mark.parametrize("count", [2, 3])
def test_all_gates_decide_before_any_of_them_writes_the_file_for_resuming(count: int, tmp_path: Path) -> None:
    """Trap 40: whichever file is resumed from holds the last decision of each, not of those alone that came before."""
    gates = [GatedCheckpoint(dirpath=tmp_path / f"{i}", at_most={"gap": 0.1}, name=f"{i}") for i in range(count)]
    found: list[list[int]] = []

    class Looks(pl.Callback):
        def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            for gate in gates:
                states = torch.load(gate.last_model_path, weights_only=True)["callbacks"].values()
                found.append([json.loads(own["gate"]["decision"])["look"] for own in states if "gate" in own])

    fit(tmp_path, gaps=[0.05, 0.2, 0.05], gate=gates[0], callbacks=[*gates[1:], Looks()])
    assert found == [[look] * count for look in (1, 2, 3) for _ in gates]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "without limits"),
        ({"at_most": {"gap": NAN}}, "finite"),
        ({"at_most": {"gap": math.inf}}, "finite"),
        ({"at_most": {"gap": 0.1}, "every_n_train_steps": 5}, "refuses every_n_train_steps=5"),
        ({"at_most": {"gap": 0.1}, "train_time_interval": timedelta(1)}, "refuses train_time_interval"),
        ({"at_most": {"gap": 0.1}, "save_on_train_epoch_end": True}, "refuses save_on_train_epoch_end=True"),
        ({"at_most": {"gap": 0.1}, "save_weights_only": True}, "refuses save_weights_only=True"),
        ({"at_most": {"gap": 0.1}, "at_least": {"gap": 0.2}}, "must not exceed"),
        ({"at_most": {"fairness/sex/demographic_parity_ratio/bound": 0.8}}, "belongs in at_least; got 0.8"),
        ({"at_least": {"fairness/sex/equalized_odds_difference/value": 0.1}}, "belongs in at_most"),
        ({"at_least": {"mine/fairness/sex/accuracy_difference/bound": 0.1}}, "belongs in at_most"),
    ],
    ids=str,
)
def test_the_constructor_refuses_what_cannot_be_gated(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedCheckpoint("val_loss", **options)


@pytest.mark.parametrize("options", [{"limit_val_batches": 0}, {"limit_val_batches": 0.0}])
def test_a_trainer_without_validation_is_refused_in_setup(tmp_path: Path, options: dict[str, Any]) -> None:
    """Trap 47."""
    with pytest.raises(MisconfigurationException, match="this Trainer runs none"):
        fit(tmp_path, gaps=[0.05], **options)


@pytest.mark.parametrize("sanity", [0, 2])
@pytest.mark.parametrize("wrong", ["limit", "monitor"])
def test_a_name_that_nobody_logs_is_an_error_that_names_the_nearest(tmp_path: Path, sanity: int, wrong: str) -> None:
    limit, monitor = ("gapp", "val_loss") if wrong == "limit" else ("gap", "val_los")
    gate = GatedCheckpoint(monitor, dirpath=tmp_path, at_most={limit: 0.1})
    with pytest.raises(MisconfigurationException, match=r"nothing logs.*Did you mean '(gap|val_loss)'"):
        fit(tmp_path, gaps=[0.05, 0.05], gate=gate, num_sanity_val_steps=sanity)


class TwoLoaders(Classifier):
    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> Any:
        return super().validation_step(batch, batch_idx)


@pytest.mark.parametrize(("name", "known"), [("val_acc/dataloader_idx_1", True), ("val_acc/dataloader_idx_2", False)])
def test_metrics_of_several_loaders_can_be_limited_after_a_sanity_check(tmp_path: Path, name: str, known: bool) -> None:
    """Traps 46 and 47: Lightning keeps no metric of a sanity check with several loaders; names are checked later."""
    gate = GatedCheckpoint(at_least={name: 0.0}, dirpath=tmp_path)
    val = [small.loader(small.rows(seed=1)), small.loader(small.rows(seed=2))]
    with nullcontext() if known else pytest.raises(MisconfigurationException, match="nothing logs"):
        small.fit(TwoLoaders(), [gate], tmp_path, val=val, num_sanity_val_steps=2, max_epochs=1)
    assert bool(gate.best_model_path) == known


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from gated import fit, pl
class Kill(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
fit(Path(sys.argv[1]), gaps=[0.4, 0.3, 0.2, 0.2], callbacks=[Kill()])
"""


@pytest.mark.slow
def test_a_run_whose_gate_never_opened_is_killed_and_resumed_from_last(tmp_path: Path) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(tests)], env=environment, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1})
    module = Scripted([0.25, 0.05], [0.3, 0.2])
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = pl.Trainer(callbacks=[gate], max_epochs=4, default_root_dir=tmp_path, **options)
    with pytest.warns(UserWarning, match="exists and is not empty"):
        trainer.fit(module, LOADER, LOADER, ckpt_path="last")
    assert [line["look"] for line in audit(tmp_path)] == [1, 2, 3, 4]
    assert [line["epoch"] for line in audit(tmp_path)] == [0, 1, 2, 3]
    assert weight(gate.best_model_path) == 8
    assert sorted(path.name for path in tmp_path.glob("last*.ckpt")) == ["last.ckpt"]


class Rewrites(pl.Callback):
    """Changes the weights after they were validated, before the gate decides."""

    def on_validation_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        if trainer.current_epoch == 1:
            pl_module.weight.data.add_(100.0)


def test_weights_that_were_changed_after_their_validation_are_not_kept(tmp_path: Path) -> None:
    """Traps 37 and 60: a file holds what was validated, or there is none."""
    _, gate = fit(tmp_path, gaps=[0.05, 0.05], losses=[0.9, 0.1], callbacks=[Rewrites()])
    assert weight(gate.best_model_path) == 2
    assert float(gate.best_model_score) == 0.9
    assert audit(tmp_path)[1]["gate"] == "closed"
    assert "weight changed between validation and saving" in audit(tmp_path)[1]["reason"]
    assert len([path for path in tmp_path.glob("*.ckpt") if path.name != "last.ckpt"]) == 1


def test_averaged_weights_are_kept_as_they_were_validated(tmp_path: Path) -> None:
    """Trap 60: the average is swapped in for the validation, and is what the file holds."""
    seen: list[float] = []

    class Watch(pl.Callback):
        def on_validation_batch_end(self, trainer: Any, pl_module: Any, *args: Any, **kwargs: Any) -> None:
            seen.append(float(pl_module.weight.detach()))

    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    _, gate = fit(tmp_path, gaps=[0.05, 0.05], callbacks=[averaging, Watch()], num_sanity_val_steps=0)
    assert gate.best_model_path
    assert weight(gate.best_model_path) == seen[-1]


def test_averages_of_a_module_in_half_precision_are_kept_as_they_were_validated(tmp_path: Path) -> None:
    """Traps 20 and 60: Lightning keeps them in single precision, and writes them so."""
    seen: list[Any] = []

    class Watched(Classifier):
        def on_validation_batch_end(self, *args: Any) -> None:
            seen.append({name: value.clone() for name, value in self.state_dict().items()})

    gate = GatedCheckpoint(at_least={"val_acc": 0.0}, dirpath=tmp_path)
    averaging = pl.callbacks.EMAWeightAveraging(decay=0.5)
    small.fit(Watched(), [averaging, gate], tmp_path, precision="bf16-true")
    kept = torch.load(gate.best_model_path, weights_only=True)["state_dict"]
    assert {value.dtype for name, value in kept.items() if "weight" in name} == {torch.float32}
    assert all(torch.equal(value.to(seen[-1][name].dtype), seen[-1][name]) for name, value in kept.items())


@pytest.mark.parametrize("filename", ["last", "last-v1"])
def test_the_name_of_the_file_for_resuming_is_refused(filename: str) -> None:
    with pytest.raises(ValueError, match="choose another"):
        GatedCheckpoint("val_loss", at_most={"gap": 0.1}, filename=filename)


def test_validating_the_best_file_rolls_nothing_back(tmp_path: Path) -> None:
    """Lightning restores callbacks for validate and test too."""
    trainer, gate = fit(tmp_path, gaps=[0.05, 0.3, 0.3])
    best = gate.best_model_path
    trainer.validate(Scripted([0.05], [1.0]), LOADER, ckpt_path="best", verbose=False)
    assert (gate._memory.looks, gate._memory.opened, gate.best_model_path) == (3, 1, best)


def test_a_users_own_name_that_only_looks_like_ours_needs_no_floor(tmp_path: Path) -> None:
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1})
    assert [limit.name for limit in decision.all_limits(gate.limits, None, {}, utility_floor=True)] == ["gap"]
    ours = GatedCheckpoint("val_loss", at_most={"a/fairness/sex/accuracy_difference/bound": 0.1})
    named = decision.all_limits(ours.limits, None, {}, utility_floor=True)
    assert [limit.name for limit in named][1:] == ["a/utility/balanced_accuracy/bound"]
    mine = GatedCheckpoint("val_loss", at_most={"val_fairness/gap": 0.1})
    assert len(decision.all_limits(mine.limits, None, {}, utility_floor=True)) == 1


def test_limits_that_exclude_each_other_where_base_rates_differ_are_named() -> None:
    """Trap 87: predictive parity and equalized odds."""
    names = ["predictive_parity_difference", "equalized_odds_difference", "demographic_parity_difference"]
    both = limits(at_most={f"fairness/sex/{name}/bound": 0.1 for name in names})
    with pytest.warns(UserWarning, match="predictive_parity_difference.* and .*equalized_odds.* cannot both"):
        decision.warn_of_conflicts(both)
    apart = {
        "fairness/sex/predictive_parity_difference/bound": 0.1,
        "fairness/race/equalized_odds_difference/bound": 0.1,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decision.warn_of_conflicts(limits(at_most=apart | {"val_loss": 1.0}))
