"""What is kept, and said, when nothing passes; and what could have been had."""

import json
import math
import os
import signal
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint

from gated import LOADER, Scripted, audit, checkpoints, fit, stamped, weight
from xai_lightning import GatedCheckpoint

pytestmark = pytest.mark.filterwarnings("ignore:No checkpoint passed:UserWarning")

LEAST, LAST = {"fallback": "least_violation"}, {"fallback": "last"}


def infeasible(folder: Path) -> list[str]:
    return [name for name in checkpoints(folder) if "INFEASIBLE" in name]


def test_without_a_fallback_nothing_but_the_file_for_resuming_is_there(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.3, 0.15, 0.2])
    assert checkpoints(tmp_path) == ["last.ckpt"]
    assert gate.fallback_model_path == ""


def test_the_least_violation_is_kept_and_called_infeasible_everywhere(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.3, 0.15, 0.2], settings=LEAST)
    assert infeasible(tmp_path) == ["INFEASIBLE-epoch=1-step=4.ckpt"]
    assert Path(gate.fallback_model_path) == tmp_path / "INFEASIBLE-epoch=1-step=4.ckpt"
    assert gate.best_model_path == ""
    assert weight(gate.fallback_model_path) == 4
    evidence = stamped(gate.fallback_model_path)
    beside = json.loads((tmp_path / "INFEASIBLE-epoch=1-step=4.verdict.json").read_text())
    for found in (evidence, beside):
        assert (found["role"], found["gate"], found["kept"]) == ("fallback", "closed", None)
        assert found["note"].startswith("INFEASIBLE: this checkpoint did not pass the gate")
    assert [line["fallback"] for line in audit(tmp_path)] == [
        "INFEASIBLE-epoch=0-step=2.ckpt",
        "INFEASIBLE-epoch=1-step=4.ckpt",
        None,
    ]
    assert sorted(path.name for path in tmp_path.glob("*.verdict.json")) == [
        "INFEASIBLE-epoch=1-step=4.verdict.json",
        "last.verdict.json",
    ]


def test_the_violation_is_relative_and_the_largest_of_all_limits(tmp_path: Path) -> None:
    """2 of 1 is twice the limit, .15 of .1 half of it: the second is nearer, though 1 is more than .05."""
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1, "val_loss": 1.0}, **LEAST)
    fit(tmp_path, [0.3, 0.05, 0.15], [0.5, 2.0, 0.5], gate=gate)
    assert weight(gate.fallback_model_path) == 6
    relative = [line["violation"] for line in audit(tmp_path)]
    assert relative == pytest.approx([2.0, 1.0, 0.5])


@pytest.mark.parametrize(("mode", "steps"), [("min", 4), ("max", 2)])
def test_equal_violations_are_ranked_by_the_monitored_value(tmp_path: Path, mode: Any, steps: int) -> None:
    gate = GatedCheckpoint("val_loss", dirpath=tmp_path, at_most={"gap": 0.1}, mode=mode, **LEAST)
    fit(tmp_path, [0.2, 0.2, 0.2], [0.9, 0.1, 0.5], gate=gate)
    assert weight(gate.fallback_model_path) == steps


def test_what_is_not_known_is_not_the_least(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [math.nan, 0.5, math.nan], settings=LEAST)
    assert weight(gate.fallback_model_path) == 4
    _, gate = fit(tmp_path / "never", [math.nan, math.nan], settings=LEAST)
    assert gate.fallback_model_path == ""
    assert checkpoints(tmp_path / "never") == ["last.ckpt"]


def test_the_last_is_that_of_the_last_validation_whatever_it_was(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.2, 0.9, math.nan], settings=LAST)
    assert infeasible(tmp_path) == ["INFEASIBLE-epoch=2-step=6.ckpt"]
    assert weight(gate.fallback_model_path) == 6


@pytest.mark.parametrize("settings", [LEAST, LAST], ids=["least", "last"])
@pytest.mark.parametrize("options", [{}, {"filename": "always"}], ids=["named", "one name"])
def test_once_something_passes_the_fallback_goes_and_none_comes_again(
    tmp_path: Path, settings: dict[str, Any], options: dict[str, Any]
) -> None:
    _, gate = fit(tmp_path, [0.2, 0.05, 0.3], settings={**settings, **options})
    assert infeasible(tmp_path) == []
    assert len(list(tmp_path.glob("*.verdict.json"))) == len(checkpoints(tmp_path)) == 2
    assert gate.fallback_model_path == ""
    assert weight(gate.best_model_path) == 4


def test_a_fallback_of_one_name_is_overwritten_in_place(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.3, 0.2], settings={**LEAST, "filename": "sub/always"})
    assert Path(gate.fallback_model_path) == tmp_path / "sub" / "INFEASIBLE-always.ckpt"
    assert weight(gate.fallback_model_path) == 4


def test_the_fallback_of_an_earlier_run_is_not_overwritten(tmp_path: Path) -> None:
    fit(tmp_path, [0.3], settings=LEAST)
    with pytest.warns(UserWarning, match="exists and is not empty"):
        fit(tmp_path, [0.2], settings=LEAST)
    assert infeasible(tmp_path) == ["INFEASIBLE-epoch=0-step=2-v1.ckpt", "INFEASIBLE-epoch=0-step=2.ckpt"]


KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from gated import fit, pl
class Kill(pl.Callback):
    def on_train_epoch_start(self, trainer, pl_module):
        if trainer.current_epoch == 2:
            os.kill(os.getpid(), signal.SIGKILL)
fit(Path(sys.argv[1]), gaps=[0.15, 0.3, 0.2], callbacks=[Kill()], settings={"fallback": "least_violation"})
"""


@pytest.mark.slow
@pytest.mark.parametrize("passes", [True, False])
def test_a_fallback_survives_a_kill_and_a_resume_and_goes_when_something_passes(tmp_path: Path, passes: bool) -> None:
    tests = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(tests.parent)}
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path), str(tests)], env=environment, check=False, timeout=120
    )
    assert done.returncode == -signal.SIGKILL
    assert infeasible(tmp_path) == ["INFEASIBLE-epoch=0-step=2.ckpt"]
    with pytest.warns(UserWarning, match="exists and is not empty"):
        _, gate = fit(
            tmp_path, [0.05 if passes else 0.2], settings=LEAST, ckpt_path=tmp_path / "last.ckpt", max_epochs=3
        )
    assert infeasible(tmp_path) == ([] if passes else ["INFEASIBLE-epoch=0-step=2.ckpt"])
    assert gate.fallback_model_path == ("" if passes else str(tmp_path / "INFEASIBLE-epoch=0-step=2.ckpt"))


def test_weights_changed_after_their_validation_are_no_fallback_either(tmp_path: Path) -> None:
    class Rewrites(pl.Callback):
        def on_validation_end(self, trainer: pl.Trainer, pl_module: Any) -> None:
            if trainer.current_epoch == 1:
                pl_module.weight.data.add_(100.0)

    _, gate = fit(tmp_path, [0.3, 0.2], settings=LEAST, callbacks=[Rewrites()])
    assert infeasible(tmp_path) == ["INFEASIBLE-epoch=0-step=2.ckpt"]
    assert audit(tmp_path)[1]["fallback"] is None
    assert weight(gate.fallback_model_path) == 2


def test_fast_dev_run_keeps_no_fallback(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.5], settings=LEAST, fast_dev_run=True)
    assert list(tmp_path.rglob("*.*")) == []
    assert gate.fallback_model_path == ""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"fallback": "best"}, "fallback must be one of none, least_violation, last; got 'best'"),
        ({"fallback": "last", "save_top_k": 0}, "fallback='last' keeps a file, but save_top_k=0 keeps none"),
    ],
    ids=str,
)
def test_fallbacks_that_cannot_be_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GatedCheckpoint("val_loss", at_most={"gap": 0.1}, **settings)


# --- "best"


def loaded(trainer: pl.Trainer) -> float:
    """The weight with which ``trainer.test(ckpt_path="best")`` ran."""

    class Tested(Scripted):
        def test_step(self, batch: Any) -> None:
            self.log("weight", self.weight)

    return trainer.test(Tested([], []), LOADER, ckpt_path="best", verbose=False)[0]["weight"]


@pytest.mark.parametrize("settings", [{}, LEAST, LAST], ids=["none", "least", "last"])
def test_best_of_a_gate_that_never_opened_is_lightnings_error_below_our_warning(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    """Trap 38."""
    trainer, _ = fit(tmp_path, [0.3, 0.15, 0.2], settings=settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(ValueError, match="not configured to save the best model"):
            loaded(trainer)
    message = str(caught[-1].message)
    assert message.startswith("No checkpoint passed the gate in 3 validations")
    assert "epoch 1: gap 0.15 exceeds 0.1 by 0.05" in message
    assert ("INFEASIBLE-epoch" in message) == bool(settings)


def test_nothing_is_said_of_the_best_before_it_is_asked_for_nor_if_one_passed(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.3])
    passed, kept = fit(tmp_path / "passed", [0.05])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "The 'test_dataloader' does not have many workers|.*treespec")
        assert (gate.best_model_path, weight(kept.best_model_path)) == ("", 2)
        assert loaded(passed) == 2


def test_best_is_the_gates_file_alone_and_first_beside_another_checkpoint(tmp_path: Path) -> None:
    """Trap 38: the other one keeps the lowest loss, which passed no gate."""
    gaps, losses = [0.2, 0.05, 0.3, 0.08], [0.9, 0.5, 0.1, 0.6]
    trainer, _ = fit(tmp_path / "alone", gaps, losses)
    assert loaded(trainer) == 4
    plain = ModelCheckpoint(tmp_path / "plain", monitor="val_loss")
    with pytest.warns(UserWarning, match="saves checkpoints that no gate has judged"):
        trainer, _ = fit(tmp_path / "beside", gaps, losses, callbacks=[plain])
    assert weight(plain.best_model_path) == 6
    with pytest.warns(UserWarning, match="best checkpoint path from first checkpoint callback"):
        assert loaded(trainer) == 4


def test_two_fits_into_one_folder_keep_each_its_own_best(tmp_path: Path) -> None:
    first, one = fit(tmp_path, [0.05, 0.5], [0.5, 0.1])
    with pytest.warns(UserWarning, match="exists and is not empty"):
        second, two = fit(tmp_path, [0.5, 0.05, 0.05], [0.1, 0.5, 0.4])
    assert loaded(first) == 2
    assert loaded(second) == 6
    assert checkpoints(tmp_path) == ["epoch=0-step=2.ckpt", "epoch=2-step=6.ckpt", "last-v1.ckpt", "last.ckpt"]
    assert len(audit(tmp_path)) == 5
    assert {Path(gate.best_model_path).name for gate in (one, two)} == set(checkpoints(tmp_path)[:2])


def test_a_second_fit_of_the_same_trainer_goes_on_with_the_same_gate(tmp_path: Path) -> None:
    trainer, gate = fit(tmp_path, [0.5], max_epochs=1)
    trainer.fit_loop.max_epochs = 2
    with pytest.warns(UserWarning, match="exists and is not empty"):
        trainer.fit(Scripted([0.05], [0.3]), LOADER, LOADER)
    assert [line["look"] for line in audit(tmp_path)] == [1, 2]
    assert weight(gate.best_model_path) == loaded(trainer)


# --- what could have been had


def test_the_archive_holds_what_no_other_validation_beats_and_survives_a_resume(tmp_path: Path) -> None:
    gaps, losses = [0.3, 0.2, 0.05, 0.25], [0.2, 0.5, 0.9, 0.1]
    whole = [line["pareto"] for line in (fit(tmp_path / "whole", gaps, losses) and audit(tmp_path / "whole"))]
    assert [[point["look"] for point in front] for front in whole] == [[1], [1, 2], [1, 2, 3], [4, 2, 3]]
    assert [point["violation"] for point in whole[-1]] == pytest.approx([1.5, 1.0, 0.0])
    fit(tmp_path / "cut", gaps[:2], losses[:2])
    with pytest.warns(UserWarning, match="exists and is not empty"):
        fit(tmp_path / "cut", gaps[2:], losses[2:], ckpt_path=tmp_path / "cut" / "last.ckpt", max_epochs=4)
    assert [line["pareto"] for line in audit(tmp_path / "cut")] == whole
    assert checkpoints(tmp_path / "whole") == ["epoch=2-step=6.ckpt", "last.ckpt"], "numbers, never files"


def test_the_archive_is_in_the_evidence_and_in_plain_state(tmp_path: Path) -> None:
    _, gate = fit(tmp_path, [0.3, 0.05])
    assert stamped(gate.best_model_path)["pareto"] == audit(tmp_path)[1]["pareto"]
    state = torch.load(tmp_path / "last.ckpt", weights_only=True)["callbacks"][gate.state_key]["gate"]
    assert state["front"] == audit(tmp_path)[1]["pareto"]
