"""What a gate asks, what it claims, when it claims less, and that a resume changes neither."""

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from jsonargparse import ArgumentParser
from pytorch_lightning.callbacks import EarlyStopping, EMAWeightAveraging, StochasticWeightAveraging
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from gated import LOADER, Scripted, audit, checkpoints, fit, stamped, weight
from small import Classifier, Ledger, loader, rows
from small import fit as fit_small
from xai_lightning import FairnessMonitor, GatedCheckpoint, tags
from xai_lightning.callbacks._gate import decision, evidence
from xai_lightning.callbacks._gate.evidence import Coverage
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.functional.gate import Limit, Outlook, decide

pytestmark = [
    pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning"),
    pytest.mark.filterwarnings("ignore:Checkpoint directory .* exists and is not empty:UserWarning"),
]

GAP = "fairness/sex/demographic_parity_difference/bound"
STEERS = "The validation set steers the training"


# --- the arbiter


class Arbiter:
    """Says what it is told to, and keeps what it was asked."""

    def __init__(self, answer: Any = (True, "looks right")) -> None:
        self.answer, self.asked = answer, []

    def __call__(self, metrics: Mapping[str, float]) -> Any:
        self.asked.append(dict(metrics))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def ruled(folder: Path, answer: Any, gaps: Sequence[float] = (0.05,)) -> tuple[Arbiter, list[dict[str, Any]]]:
    arbiter = Arbiter(answer)
    fit(folder, list(gaps), settings={"arbiter": arbiter})
    return arbiter, audit(folder)


@pytest.mark.parametrize(
    "answer",
    [(True, "fine"), SimpleNamespace(open=True, reason="fine"), decide([Limit("a", "at_most", 1)], {"a": 0}, {"a"})],
    ids=["tuple", "object", "verdict"],
)
def test_an_arbiter_that_agrees_keeps_the_gate_open_and_is_quoted(tmp_path: Path, answer: Any) -> None:
    _, [line] = ruled(tmp_path, answer)
    reason = answer[1] if isinstance(answer, tuple) and len(answer) == 2 else answer.reason
    assert (line["gate"], line["arbiter"]) == ("open", {"open": True, "reason": reason})
    assert line["reason"].endswith(f"arbiter: {reason}")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ((False, "too eager on weekends"), "arbiter: too eager on weekends"),
        (ValueError("planted"), r"the arbiter failed: ValueError('planted')"),
        (True, "must return (bool, reason), or an object with open and reason; got True"),
        ((1, "yes"), "must return (bool, reason)"),
        (None, "got None"),
    ],
    ids=["no", "exception", "no reason", "no bool", "nothing"],
)
def test_whatever_is_not_a_clear_yes_is_a_no(tmp_path: Path, answer: Any, reason: str) -> None:
    _, [line] = ruled(tmp_path, answer)
    assert line["gate"] == "closed"
    assert reason in line["reason"]
    assert checkpoints(tmp_path) == ["last.ckpt"]


def test_an_arbiter_is_asked_only_once_the_limits_hold_and_can_only_close(tmp_path: Path) -> None:
    arbiter, lines = ruled(tmp_path, (True, "fine"), gaps=[0.5, 0.05, math.nan])
    assert [line["gate"] for line in lines] == ["closed", "open", "closed"]
    assert [line["arbiter"] is None for line in lines] == [True, False, True]
    assert [metrics["gap"] for metrics in arbiter.asked] == [0.05]
    assert set(arbiter.asked[0]) == {"gap", "val_loss", "xai/errors"}


def test_an_arbiter_can_change_neither_the_metrics_nor_the_draws(tmp_path: Path) -> None:
    def meddles(metrics: Any) -> tuple[bool, str]:
        torch.rand(3)
        metrics["gap"] = 0.0
        return True, "mine"

    torch.manual_seed(0)
    before = torch.get_rng_state()
    fit(tmp_path, [0.05], settings={"arbiter": meddles})
    with_it = torch.get_rng_state()
    torch.set_rng_state(before)
    fit(tmp_path / "plain", [0.05])
    assert torch.equal(with_it, torch.get_rng_state())
    assert "does not support item assignment" in audit(tmp_path)[0]["reason"]


def test_an_arbiter_is_no_part_of_the_state(tmp_path: Path) -> None:
    """Law 9: this one could not be pickled at all."""
    _, gate = fit(tmp_path, [0.05], settings={"arbiter": lambda metrics: (True, "fine")})
    assert torch.load(gate.best_model_path, weights_only=True)["callbacks"][gate.state_key]["gate"]["looks"] == 1


def test_an_arbiter_that_cannot_be_called_is_refused() -> None:
    with pytest.raises(TypeError, match="arbiter must be a callable that takes a mapping of metrics; got 'me'"):
        GatedCheckpoint(at_most={"gap": 0.1}, arbiter="me")  # type: ignore[arg-type]


def test_an_arbiter_comes_from_yaml_by_its_class_path() -> None:
    """Trap 58."""
    parser = ArgumentParser()
    parser.add_class_arguments(GatedCheckpoint, "gate")
    path = f"{Arbiter.__module__}.{Arbiter.__name__}"
    text = json.dumps({"gate": {"at_most": {"gap": 0.1}, "arbiter": {"class_path": path}, "fallback": "last"}})
    gate = parser.instantiate(parser.parse_string(text)).gate
    assert type(gate.arbiter).__name__ == "Arbiter"
    assert gate.fallback == "last"


# --- wording


@pytest.mark.parametrize(
    ("limits", "guarantee", "words"),
    [
        ({"at_most": {GAP: 1.0}}, "holds", f"kept by confidence bounds: {GAP}. Over this whole run"),
        ({"at_most": {GAP: 1.0, "val_loss": 9.0}}, "holds", "No error probability for val_loss"),
        ({"at_most": {GAP.replace("bound", "value"): 1.0}}, "none", "no error probability"),
        ({"at_most": {GAP.replace("bound", "upper"): 1.0}}, "none", "no error probability"),
        ({"at_most": {"val_loss": 9.0}}, "none", "no error probability"),
        ({"at_least": {"utility/balanced_accuracy/bound": -1.0}}, "holds", "bounds: utility/balanced_accuracy/bound"),
    ],
    ids=["bound", "bound and loss", "value", "upper", "loss", "utility"],
)
def test_the_wording_claims_what_the_limits_carry_and_no_more(
    tmp_path: Path, limits: dict[str, Any], guarantee: str, words: str
) -> None:
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, utility_floor=False, **limits)
    fit_small(Classifier(), [FairnessMonitor({"sex": ["Female", "Male"]}), gate], tmp_path, max_epochs=1)
    found = stamped(gate.best_model_path)
    assert found["guarantee"] == guarantee
    assert words in found["promise"]
    assert ("at most 0.05" in found["promise"]) == (guarantee == "holds")


@pytest.mark.filterwarnings(
    "ignore:Sample sizes.* the limit of 0 cannot be kept by any number of them, so the gate cannot open"
)
def test_a_closed_gate_promises_nothing(tmp_path: Path) -> None:
    """Neither in a fallback nor in the file for resuming: that limits were kept would be false there."""
    limits = {"at_most": {GAP: 0.0}, "fallback": "least_violation"}
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, utility_floor=False, **limits)
    fit_small(Classifier(), [FairnessMonitor({"sex": ["Female", "Male"]}), gate], tmp_path, max_epochs=1)
    for file in (gate.fallback_model_path, tmp_path / "last.ckpt"):
        found = stamped(file)
        assert found["gate"] == "closed"
        assert found["guarantee"] == "none"
        assert found["promise"] == "The gate was closed: nothing is promised about these weights."


def test_a_bound_that_nobody_accounts_for_carries_no_promise(tmp_path: Path) -> None:
    """A user's own metric may have any name."""

    class Mine(Scripted):
        def on_validation_epoch_end(self) -> None:
            super().on_validation_epoch_end()
            self.log("mine/bound", 0.0)

    gate = GatedCheckpoint(dirpath=tmp_path, at_most={"mine/bound": 1.0})
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 1}
    trainer = pl.Trainer(callbacks=[gate], num_sanity_val_steps=0, default_root_dir=tmp_path, **options)
    trainer.fit(Mine([0.05], [0.5]), LOADER, LOADER)
    assert stamped(gate.best_model_path)["guarantee"] == "none"


def test_evidence_says_what_it_rests_on(tmp_path: Path) -> None:
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={GAP: 1.0}, utility_floor=False)
    fit_small(Classifier(), [FairnessMonitor({"sex": ["Female", "Male"]}), gate], tmp_path, max_epochs=2)
    found = stamped(gate.best_model_path)
    assert {"format", "xai_lightning", "gate", "reason", "step", "epoch", "look", "checks", "promise"} <= set(found)
    [monitor] = found["monitors"]
    assert monitor["looks"] == found["look"]
    assert monitor["error_spent"] == pytest.approx(0.05 * found["look"] / 2)
    assert monitor["groups"]["sex"][:2] == ["Female", "Male"]


# --- the utility floor, and sides


def test_the_floor_is_on_whatever_utility_the_monitor_logs() -> None:
    limit = (Limit("a/fairness/age/mean_difference/bound", "at_most", 0.1),)
    logged = {"a/utility/r2/value", "a/utility/r2/bound", "a/utility/r2/chance", "utility/balanced_accuracy/bound"}
    metrics = {"a/utility/r2/chance": 0.0, "utility/balanced_accuracy/chance": 0.5}
    found = decision.all_limits(limit, None, metrics, utility_floor=True, logged=logged)
    assert found[1:] == [Limit("a/utility/r2/bound", "above", 0.0)]


def test_a_floor_that_nobody_logs_stays_closed() -> None:
    limit = (Limit(GAP, "at_most", 0.1),)
    found = decision.all_limits(limit, None, {GAP: 0.0}, utility_floor=True)
    assert found[1:] == [Limit("utility/balanced_accuracy/bound", "above", math.inf)]
    assert not decide(found, {GAP: 0.0}, {GAP}).open


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"at_most": {"utility/r2/bound": 0.5}}, "high values of r2 are good, so its limit belongs in at_least"),
        ({"at_most": {"b/utility/balanced_accuracy/value": 0.5}}, "belongs in at_least; got 0.5"),
        ({"at_most": {"b/fairness/sex/demographic_parity_ratio/value": 0.8}}, "belongs in at_least; got 0.8"),
        ({"monitor": GAP, "mode": "max", "at_most": {"gap": 1}}, "needs mode='min'; got mode='max'"),
        ({"monitor": "utility/r2/value", "at_most": {"gap": 1}}, "needs mode='max'; got mode='min'"),
    ],
    ids=str,
)
def test_sides_that_would_keep_the_worst_are_refused(options: dict[str, Any], message: str) -> None:
    """Trap 86."""
    with pytest.raises(ValueError, match=message):
        GatedCheckpoint(**options)


@pytest.mark.parametrize("name", ["rate/sex/selection_rate/Female", "count/sex/Male"])
def test_a_limit_on_what_is_only_drawn_says_so(tmp_path: Path, name: str) -> None:
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={name: 0.8})
    with pytest.raises(MisconfigurationException, match=f"{name}' is logged for viewing only"):
        fit_small(Classifier(), [FairnessMonitor({"sex": ["Female", "Male"]}), gate], tmp_path, max_epochs=1)


# --- feedback


class Plateau(Scripted):
    """Follows a metric with its learning rate."""

    def __init__(self, monitor: str, *, manual: bool = False) -> None:
        super().__init__([0.05, 0.05], [0.5, 0.4])
        self.monitor, self.automatic_optimization = monitor, not manual

    def training_step(self, batch: Any) -> Any:
        self.log("train_loss", self.weight.detach(), on_epoch=True, on_step=False)
        if not self.automatic_optimization:
            self.optimizers().step()
        return self.weight

    def configure_optimizers(self) -> Any:
        optimizer = torch.optim.SGD(self.parameters(), lr=1.0, maximize=True)
        return {"optimizer": optimizer, "lr_scheduler": ReduceLROnPlateau(optimizer), "monitor": self.monitor}


def plain_fit(module: pl.LightningModule, folder: Path, *callbacks: pl.Callback, **more: Any) -> GatedCheckpoint:
    gate = GatedCheckpoint("val_loss", dirpath=folder, at_most={"gap": 0.1}, save_top_k=-1)
    options = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "max_epochs": 2, **more}
    trainer = pl.Trainer(callbacks=[gate, *callbacks], default_root_dir=folder, **options)
    trainer.fit(module, LOADER, LOADER)
    return gate


def test_a_plateau_schedule_on_a_validation_metric_is_feedback_and_is_said_once(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=STEERS) as caught:
        plain_fit(Plateau("val_loss"), tmp_path)
    assert sum(STEERS in str(found.message) for found in caught) == 1
    assert [line["feedback"] for line in audit(tmp_path)] == [
        ["ReduceLROnPlateau follows val_loss, which is logged in validation"]
    ] * 2


def test_a_plateau_schedule_on_a_training_metric_is_none(tmp_path: Path) -> None:
    plain_fit(Plateau("train_loss"), tmp_path)
    assert [line["feedback"] for line in audit(tmp_path)] == [[], []]


def test_a_plateau_schedule_that_is_stepped_by_hand_may_follow_anything(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="stepped manually, on a value that cannot be observed"):
        plain_fit(Plateau("train_loss", manual=True), tmp_path)


def loads(hook: str) -> pl.Callback:
    """A callback that goes back to the weights after two steps, at the end of the second epoch or thereabouts."""

    class Loads(pl.Callback):
        pass

    def load(self: Any, trainer: Any, pl_module: Any, *args: Any) -> None:
        due = trainer.current_epoch == (2 if hook.endswith("start") else 1)
        if due and not trainer.sanity_checking and float(pl_module.weight.detach()) == 4.0:
            pl_module.load_state_dict({"weight": torch.tensor(2.0)})

    setattr(Loads, hook, load)
    return Loads()


@pytest.mark.parametrize(
    "hook", ["on_validation_end", "on_train_epoch_end", "on_train_epoch_start", "on_train_batch_start"]
)
def test_earlier_weights_that_are_loaded_are_feedback_from_then_on(tmp_path: Path, hook: str) -> None:
    with pytest.warns(UserWarning, match=STEERS):
        fit(tmp_path, [0.05] * 3, callbacks=[loads(hook)])
    seen = [bool(line["feedback"]) for line in audit(tmp_path)]
    assert seen == [False, hook == "on_validation_end", True]


@pytest.mark.parametrize("stage", ["epochs", "steps"])
def test_early_stopping_averaging_and_reloaded_loaders_are_no_feedback(tmp_path: Path, stage: str) -> None:
    stopping = EarlyStopping("val_loss", patience=1)
    more = {"val_check_interval": 0.5} if stage == "steps" else {}
    fit(
        tmp_path,
        [0.05] * 6,
        callbacks=[stopping, EMAWeightAveraging(decay=0.5)],
        max_epochs=3,
        reload_dataloaders_every_n_epochs=1,
        **more,
    )
    assert not any(line["feedback"] for line in audit(tmp_path))


@pytest.mark.parametrize("precision", ["32-true", "bf16-true"])
def test_averages_that_are_moved_to_the_module_for_the_last_epoch_are_no_feedback(
    tmp_path: Path, precision: str
) -> None:
    """Trap 60: with BatchNorm, whose statistics are then made anew."""
    gate = GatedCheckpoint(at_least={"val_acc": 0.0}, dirpath=tmp_path)
    averaging = StochasticWeightAveraging(swa_lrs=0.01, swa_epoch_start=1)
    fit_small(Classifier(), [averaging, gate], tmp_path, max_epochs=2, precision=precision)
    assert [line["epoch"] for line in audit(tmp_path)] == [0, 1, 2], "the last one is that of the averages"
    assert not any(line["feedback"] for line in audit(tmp_path))


def test_a_feedback_that_was_seen_is_not_forgotten_by_a_resume(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match=STEERS):
        fit(tmp_path, [0.05] * 3, callbacks=[loads("on_train_epoch_end")])
    fit(tmp_path, [0.05], ckpt_path=tmp_path / "last.ckpt", max_epochs=4)
    assert audit(tmp_path)[-1]["feedback"] == audit(tmp_path)[-2]["feedback"] != []


def test_going_on_from_earlier_weights_in_a_second_fit_is_feedback(tmp_path: Path) -> None:
    trainer, _ = fit(tmp_path, [0.05, 0.05], max_epochs=2)
    module = trainer.lightning_module
    module.load_state_dict({"weight": torch.tensor(2.0)})
    module.gaps, module.losses, trainer.fit_loop.max_epochs = [0.05] * 3, [0.1] * 3, 3
    with pytest.warns(UserWarning, match="a later fit started from weights of an earlier validation"):
        trainer.fit(module, LOADER, LOADER)


def test_a_run_that_is_resumed_from_an_earlier_file_has_looked_more_than_it_counts(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.05, 0.5, 0.5])
    with pytest.warns(UserWarning, match="2 validations had followed the checkpoint that this run was resumed from"):
        fit(tmp_path, [0.05, 0.05], ckpt_path=gate.best_model_path, max_epochs=3)
    events = [json.loads(line) for line in (tmp_path / "gate_audit.jsonl").read_text().splitlines()]
    assert [line.get("event", line.get("look")) for line in events] == [1, "resumed", 2, 3]


@pytest.mark.parametrize("feedback", [[], ["it was"]])
def test_feedback_turns_the_promise_into_a_heuristic(feedback: list[str]) -> None:
    coverage = Coverage((GAP,), (), 0.05)
    text = evidence.promise(coverage, feedback)
    assert evidence.guarantee(coverage, feedback) == ("heuristic" if feedback else "holds")
    assert ("no error probability is claimed" in text) == text.startswith("Heuristic") == bool(feedback)
    assert ("is at most 0.05" in text) == (not feedback)


# --- sample sizes


class Knows(Monitor):
    """Has an outlook on its only metric."""

    def __init__(self, outlook: Callable[[str, str, float], Outlook | None]) -> None:
        super().__init__("knows", {}, name="", dataloader_idx=0, on_error="raise", sinks=[])
        self.answer = outlook

    def logged_names(self, stage: Any = "fit") -> tuple[list[str], list[str]]:
        return ["known/bound"], []

    def _conclude(self, trainer: Any, look: Any, gathered: Any) -> Any:
        record = super()._conclude(trainer, look, gathered)
        record.shared["known/bound"] = 0.2
        return record

    def outlook(self, name: str, kind: Any, threshold: float) -> Outlook | None:
        return self.answer(name, kind, threshold)


def known(name: str, kind: str, threshold: float) -> Outlook:
    needed = 87 if threshold < 0.2 else 20
    sentence = f"{name} {kind} {threshold:g}: group B has 37 positives and needs {needed}"
    return Outlook(name, "B", "positives", 37, needed, needed <= 37, sentence)


def reported(folder: Path, threshold: float, outlook: Any = known) -> list[dict[str, float]]:
    ledger = Ledger()
    gate = GatedCheckpoint(dirpath=folder, at_most={"known/bound": threshold, "gap": 1.0})
    fit(folder, [0.05, 0.05], gate=gate, callbacks=[Knows(outlook)], logger=ledger)
    return ledger.validations()


def test_data_that_cannot_open_a_gate_are_warned_of_once_in_one_line(tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="Sample sizes: known/bound at_most 0.1: group B has 37 positives") as caught:
        looks = reported(tmp_path, 0.1)
    assert sum("Sample sizes" in str(found.message) for found in caught) == 1
    expected = {
        "xai/gate/can_open": 0,
        "xai/sample_size/known/bound/smallest": 37,
        "xai/sample_size/known/bound/needed": 87,
    }
    for look in looks:
        assert {name: look[name] for name in expected} == expected
        assert tags.prefixes(look) == []


def test_data_that_suffice_are_no_reason_to_warn(tmp_path: Path) -> None:
    assert reported(tmp_path, 0.3)[0]["xai/gate/can_open"] == 1


def test_where_nobody_knows_nothing_is_logged(tmp_path: Path) -> None:
    assert not any("sample_size" in name for name in reported(tmp_path, 0.3, lambda *_: None)[0])


def test_a_report_that_fails_is_said_and_costs_no_training(tmp_path: Path) -> None:
    def fails(*_: Any) -> Outlook:
        raise ZeroDivisionError("planted")

    with pytest.warns(UserWarning, match=r"Knows could not report on the sample size of known/bound: ZeroDiv"):
        assert len(reported(tmp_path, 0.3, fails)) == 2


def test_the_report_is_logged_again_after_a_resume(tmp_path: Path) -> None:
    """Law 4."""
    first = reported(tmp_path, 0.3)[0]
    ledger = Ledger()
    gate = GatedCheckpoint(dirpath=tmp_path, at_most={"known/bound": 0.3, "gap": 1.0})
    more = {"ckpt_path": tmp_path / "last.ckpt", "max_epochs": 3, "logger": ledger}
    fit(tmp_path, [0.05], gate=gate, callbacks=[Knows(lambda *_: None)], **more)
    assert ledger.validations()[0].keys() == first.keys()


# --- evidence that cannot be written


def test_an_audit_file_that_cannot_be_written_closes_the_gate_and_costs_no_training(tmp_path: Path) -> None:
    (tmp_path / "gate_audit.jsonl").mkdir()
    with pytest.warns(
        UserWarning, match="cannot write evidence.*The gate is closed for this validation, and training continues"
    ) as caught:
        trainer, gate = fit(tmp_path, [0.05, 0.05])
    assert sum("cannot write evidence" in str(found.message) for found in caught) == 3, "and once in why nothing passed"
    assert trainer.global_step == 4
    assert (gate.best_model_path, checkpoints(tmp_path)) == ("", ["last.ckpt"])


@pytest.mark.parametrize("top", [1, 3])
def test_a_verdict_that_cannot_be_written_leaves_what_was_kept_before(tmp_path: Path, top: int) -> None:
    (tmp_path / "epoch=1-step=4.verdict.json").mkdir()
    with pytest.warns(UserWarning, match="The gate is closed for this validation, and training continues"):
        trainer, gate = fit(tmp_path, [0.05, 0.05, 0.5], settings={"save_top_k": top})
    assert trainer.global_step == 6
    assert [line["gate"] for line in audit(tmp_path)] == ["open", "closed", "closed"]
    assert [line["kept"] for line in audit(tmp_path)] == ["epoch=0-step=2.ckpt", None, None]
    assert checkpoints(tmp_path) == ["epoch=0-step=2.ckpt", "last.ckpt"]
    assert weight(gate.best_model_path) == 2


# --- resuming


def exact_net() -> nn.Module:
    """Without dropout, which would draw."""
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def resumable(
    folder: Path, epochs: int, *, stop: int | None = None, groups: Sequence[str] = ("Female", "Male"), **more: Any
) -> list[dict[str, Any]]:
    """The decisions of a training in order of rows, of ``epochs``, perhaps stopped after ``stop``."""

    class Stops(pl.Callback):
        def on_train_epoch_start(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch == stop:
                raise KeyError("stopped")

    gate = GatedCheckpoint("val_loss", dirpath=folder, at_most={GAP: 0.375}, utility_floor=False)
    callbacks = [FairnessMonitor({"sex": list(groups)}), gate, Stops()]
    options = {"max_epochs": epochs, "train": loader(rows(), batch_size=16), **more}
    model = Classifier(net=exact_net, lr=0.5)
    if stop is None:
        fit_small(model, callbacks, folder, **options)
    else:
        with pytest.raises(KeyError, match="stopped"):
            fit_small(model, callbacks, folder, **options)
    return audit(folder)


def test_decisions_and_error_spent_after_a_resume_are_those_of_the_uninterrupted_run(tmp_path: Path) -> None:
    whole = resumable(tmp_path / "whole", 8)
    resumable(tmp_path / "cut", 8, stop=3)
    resumed = resumable(tmp_path / "cut", 8, ckpt_path=tmp_path / "cut" / "last.ckpt")
    assert len({line["gate"] for line in whole}) == 2, "a test in which nothing changes shows nothing"
    assert resumed == whole
    assert whole[-1]["monitors"][0]["error_spent"] == pytest.approx(0.05)


def test_a_longer_resumed_run_shares_what_is_unspent_and_then_has_nothing_left(tmp_path: Path) -> None:
    """3 of 6 validations spent half; 9 more of a run made 12 long share the other half."""
    resumable(tmp_path, 6, stop=3)
    lines = resumable(tmp_path, 12, ckpt_path=tmp_path / "last.ckpt")
    spent = [line["monitors"][0]["error_spent"] for line in lines]
    steps = [b - a for a, b in zip([0.0, *spent], spent, strict=False)]
    assert steps == pytest.approx([0.05 / 6] * 3 + [0.025 / 9] * 9)
    more = resumable(tmp_path, 13, ckpt_path=tmp_path / "last.ckpt")
    assert more[-1]["monitors"][0]["error_spent"] == pytest.approx(0.05)
    assert more[-1]["gate"] == "closed"
    assert "inf" in more[-1]["reason"]


@pytest.mark.filterwarnings("ignore:Be aware that when using `ckpt_path`:UserWarning")
def test_a_monitor_that_accounts_anew_after_a_resume_ends_the_promise(tmp_path: Path) -> None:
    """With other groups it is another monitor, which does not know what the one before has spent."""
    before = resumable(tmp_path, 3)
    assert before[-1]["monitors"][0]["error_spent"] == pytest.approx(0.05)
    with pytest.warns(UserWarning, match="restarted its account of delta"):
        after = resumable(tmp_path, 6, groups=["Male", "Female"], ckpt_path=tmp_path / "last.ckpt")
    opened = [line for line in after if line["gate"] == "open"]
    assert {(line["look"] > 3, line["guarantee"]) for line in opened} == {(False, "holds"), (True, "heuristic")}
    assert after[-1]["feedback"] == [
        "FairnessMonitor restarted its account of delta at validation 4, with other settings than before"
    ]
