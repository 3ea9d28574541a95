"""What each callback costs: seconds and their share of the time, by a clock that the test turns, and passes."""

import pkgutil
import time
from collections.abc import Callable, Mapping
from operator import itemgetter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

import xai_lightning
from small import GROUPS, STOPWATCH, Classifier, Ledger, fit, loader, rows, trainer
from xai_lightning import AttributionMonitor
from xai_lightning.callbacks._stopwatch import Stopwatch
from xai_lightning.functional import attribution

NAMES = {
    "ActivationMonitor": "activation",
    "AttributionMonitor": "saliency",
    "FairnessMonitor": "fairness",
    "GatedCheckpoint": "gate",
}
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ActivationMonitor": {"statistics": "cheap"},
    "AttributionMonitor": {"method": "saliency", "measures": ["cosine"]},
    "FairnessMonitor": {"groups": {"sex": GROUPS}, "metrics": ["demographic_parity_difference"]},
    "GatedCheckpoint": {"monitor": "val_loss", "at_least": {"val_acc": 0.0}},
}
LOST = 7.0
# the callback, what takes longer in the second validation, and in the number of which validation that is
WORK = [
    ("ActivationMonitor", "ActivationMonitor._after", 2),
    ("ActivationMonitor", "ActivationMonitor._before", 2),
    ("ActivationMonitor", "ActivationMonitor._add", 2),
    ("ActivationMonitor", "ActivationMonitor._gather", 2),
    ("ActivationMonitor", "ActivationMonitor._conclude", 2),
    ("ActivationMonitor", "callbacks._monitor.log_equal", 2),
    ("ActivationMonitor", "callbacks._publish.write", 3),
    ("AttributionMonitor", "AttributionMonitor._explain", 2),
    ("AttributionMonitor", "AttributionMonitor._share_out", 2),
    ("AttributionMonitor", "AttributionMonitor._gather", 2),
    ("AttributionMonitor", "AttributionMonitor._draw", 2),
    ("AttributionMonitor", "callbacks._publish.write", 3),
    ("FairnessMonitor", "FairnessMonitor._after", 2),
    ("FairnessMonitor", "FairnessMonitor._conclude", 2),
    ("FairnessMonitor", "callbacks._publish.write", 3),
    ("GatedCheckpoint", "callbacks._gate.feedback.Feedback.validation_ends", 2),
    ("GatedCheckpoint", "callbacks._gate.feedback.Feedback.training_goes_on", 3),
    ("GatedCheckpoint", "callbacks._gate.stamped.fingerprint", 2),
    ("GatedCheckpoint", "callbacks._gate.deciding.gate.decide", 2),
    ("GatedCheckpoint", "GatedCheckpoint._save_checkpoint", 2),
    ("GatedCheckpoint", "callbacks._gate.audit.append", 3),
    ("GatedCheckpoint", "callbacks._gate.deciding.logger_sinks", 3),
]


class Turned:
    """A clock that stands still unless it is turned."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Turned:
    turned = Turned()
    monkeypatch.setattr(time, "perf_counter", turned)
    return turned


class Slow(Classifier):
    """Takes three seconds in each validation, and one in each training step."""

    def __init__(self, clock: Turned) -> None:
        super().__init__()
        self.clock, self.looks = clock, 0

    def on_train_batch_start(self, *_: Any) -> None:
        self.clock.now += 1

    def on_validation_start(self) -> None:
        self.looks += 1
        self.clock.now += 3


def lose(monkeypatch: pytest.MonkeyPatch, where: str, when: Callable[[], bool], clock: Turned) -> None:
    """Let a function of the package take longer, once, when it is time."""
    path, name = f"xai_lightning.{where}".rsplit(".", 1)
    owner = pkgutil.resolve_name(path)
    original, calls = getattr(owner, name), []

    def slow(*args: Any, **kwargs: Any) -> Any:
        if when() and not calls:
            calls.append(name)
            clock.now += LOST
        return original(*args, **kwargs)

    monkeypatch.setattr(owner, name, slow)


def logged(callbacks: list[pl.Callback], folder: Path, model: pl.LightningModule, **more: Any) -> Any:
    """What each validation logged."""
    ledger = Ledger()
    fit(model, callbacks, folder, **{"logger": ledger, "limit_train_batches": 2, "max_epochs": 3, **more})
    return ledger.validations()


def build(name: str, **more: Any) -> pl.Callback:
    made: pl.Callback = getattr(xai_lightning, name)(**{**ARGUMENTS[name], **more})
    return made


@pytest.mark.parametrize(("name", "where", "counted"), WORK, ids=str)
def test_seconds_hold_all_that_a_callback_does(
    name: str, where: str, counted: int, clock: Turned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """What comes after the numbers were logged is in those of the next validation."""
    model = Slow(clock)
    lose(monkeypatch, where, lambda: model.looks == 2, clock)
    looks = logged([build(name)], tmp_path, model)
    expected = [LOST * (look == counted) for look in (1, 2, 3)]
    assert [look[f"xai/{NAMES[name]}/seconds"] for look in looks] == expected
    # the time between two validations: a second for each training step, three for the validation, and what was lost
    assert [look[f"xai/{NAMES[name]}/time_share"] for look in looks] == [lost / (5 + lost) for lost in expected]


@pytest.mark.parametrize("name", NAMES)
def test_what_is_not_the_callbacks_own_is_not_counted(name: str, clock: Turned, tmp_path: Path) -> None:
    looks = logged([build(name)], tmp_path, Slow(clock), num_sanity_val_steps=1)
    assert [look[f"xai/{NAMES[name]}/seconds"] for look in looks] == [0, 0, 0]


def test_left_out_validations_count_among_the_time_since_the_last_one(
    clock: Turned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Slow(clock)
    lose(monkeypatch, "AttributionMonitor._explain", lambda: model.looks == 3, clock)
    looks = logged([build("AttributionMonitor", every_n_validations=2)], tmp_path, model)
    assert "xai/saliency/seconds" not in looks[1]
    assert looks[2]["xai/saliency/time_share"] == 7 / (10 + 7)


@pytest.mark.parametrize("fn", ["validate", "test"])
def test_alone_an_evaluation_is_all_the_time_there_is(
    fn: str, clock: Turned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Steps(Classifier):
        def evaluate(self, batch: Any, stage: str) -> Any:
            clock.now += 1
            return super().evaluate(batch, stage)

    lose(monkeypatch, "FairnessMonitor._conclude", lambda: True, clock)
    made = trainer([build("FairnessMonitor")], tmp_path)
    getattr(made, fn)(Steps(), loader(rows()), verbose=False)
    prefix = "test/" if fn == "test" else ""
    assert float(made.callback_metrics[f"{prefix}xai/fairness/seconds"]) == LOST
    assert float(made.callback_metrics[f"{prefix}xai/fairness/time_share"]) == LOST / (3 + LOST)


def test_two_monitors_of_one_name_log_the_sum_of_their_times(
    clock: Turned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    model = Slow(clock)
    lose(monkeypatch, "FairnessMonitor._conclude", lambda: model.looks == 2, clock)
    two = [
        build("FairnessMonitor"),
        build("FairnessMonitor", groups={"y": ["no", "yes"]}, groups_from={"y": itemgetter("y")}),
    ]
    looks = logged(two, tmp_path, model)
    assert [look["xai/fairness/seconds"] for look in looks] == [0, LOST, 0]


def test_a_failed_monitor_logs_its_time_all_the_same(
    clock: Turned, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def fail(*_: Any) -> None:
        clock.now += LOST
        raise ZeroDivisionError

    monkeypatch.setattr(xai_lightning.FairnessMonitor, "_conclude", fail)
    with pytest.warns(UserWarning, match="failed in validation"):
        looks = logged([build("FairnessMonitor")], tmp_path, Slow(clock))
    assert [look["xai/fairness/seconds"] for look in looks] == [LOST] * 3


def test_every_callback_says_what_it_costs(tmp_path: Path) -> None:
    public = [getattr(xai_lightning, name) for name in xai_lightning.__all__]
    found = [x.__name__ for x in public if isinstance(x, type) and issubclass(x, pl.Callback)]
    assert sorted(found) == sorted(NAMES), "another callback: what does it cost?"
    looks = logged([build(name) for name in NAMES], tmp_path, Classifier())
    wanted = {f"xai/{name}/{what}" for name in NAMES.values() for what in ("seconds", "time_share")}
    assert [{name for name in look if STOPWATCH.fullmatch(name)} for look in looks] == [wanted] * 3
    assert all(0 < look[f"xai/{name}/time_share"] < 1 for look in looks for name in NAMES.values())


def test_what_is_entered_twice_counts_once_and_a_lap_may_end_within(clock: Turned) -> None:
    watch = Stopwatch()
    clock.now += 1
    with watch:
        clock.now += 1
        with watch:
            clock.now += 1
            assert watch.lap() == (2, 2 / 3)
        clock.now += 4
    clock.now += 4
    assert watch.lap() == (4, 0.5)
    assert watch.lap() == (0, 0)


def test_a_hook_that_raises_ends_its_time(clock: Turned) -> None:
    watch = Stopwatch()
    with pytest.raises(ZeroDivisionError), watch:
        raise ZeroDivisionError
    clock.now += 1
    assert watch.lap() == (0, 0)


class Counting(Classifier):
    """Counts rows that go through the network outside of its steps."""

    def __init__(self) -> None:
        super().__init__()
        self.stepping, self.made = False, SimpleNamespace(rows=[])

    def evaluate(self, batch: Any, stage: str) -> Any:
        self.stepping = True
        found = super().evaluate(batch, stage)
        self.stepping = False
        return found

    def on_validation_start(self) -> None:
        self.made.rows.append(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not self.stepping and not self.training:
            self.made.rows[-1] += len(x)
        return super().forward(x)


def flipped(x: torch.Tensor) -> list[torch.Tensor]:
    """The inputs of the other group."""
    return [torch.cat([x[:, :1], 1 - x[:, 1:]], dim=1)]


def test_flips_log_the_passes_that_were_made(tmp_path: Path) -> None:
    model = Counting()
    looks = logged([build("FairnessMonitor", flips={"sex": flipped})], tmp_path, model)
    assert [look["xai/fairness/forward_passes"] for look in looks] == model.made.rows
    assert all(model.made.rows)


@pytest.mark.parametrize(
    ("name", "more"),
    [
        ("ActivationMonitor", {"representation": True, "statistics": "default", "pictures": True}),
        ("FairnessMonitor", {}),
        ("GatedCheckpoint", {}),
    ],
)
def test_callbacks_that_log_no_passes_make_none(name: str, more: Mapping[str, Any], tmp_path: Path) -> None:
    model = Counting()
    looks = logged([build(name, **more)], tmp_path, model)
    assert model.made.rows == [0, 0, 0]
    assert not any(found.endswith("passes") for look in looks for found in look)


@pytest.mark.parametrize(
    ("method", "options", "compiled"),
    [
        ("kernel_shap", {}, ["coalitions"]),
        ("occlusion", {}, ["coalitions"]),
        ("integrated_gradients", {}, ["paths"]),
        ("integrated_gradients", {"n_steps": 5}, []),
        ("saliency", {}, []),
    ],
)
@pytest.mark.on_cpu("loops are compiled for the CPU")
def test_loops_are_compiled_before_any_validation_whose_time_is_told(
    method: str, options: dict[str, Any], compiled: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    order: list[str] = []
    monkeypatch.setattr(attribution.fast, "kernels", lambda: order.append("coalitions"))
    monkeypatch.setattr(attribution.fast_paths, "kernels", lambda: order.append("paths"))

    class Begin(pl.Callback):
        def on_validation_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            order.append("validation")

    fit(Classifier(), [AttributionMonitor(method, probe_size=4, options=options), Begin()], tmp_path, max_epochs=1)
    assert order[: order.index("validation")] == compiled
