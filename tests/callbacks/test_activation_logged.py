"""ActivationMonitor in a real Trainer: hooks, names, growth, alarms."""

import math
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import EarlyStopping
from torch import Tensor, nn

from small import Classifier, fit, loader, rows
from watched import Bottleneck, found
from xai_lightning import ActivationMonitor, GatedCheckpoint, MemorySink


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in model.modules())


class Counts(pl.Callback):
    """Notes the hooks of the model between validations."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def on_train_batch_end(self, trainer: Any, pl_module: nn.Module, *args: Any) -> None:
        self.seen.append(hooks(pl_module))


def test_hooks_are_there_during_a_step_only(tmp_path: Path) -> None:
    model, counts = Classifier(), Counts()
    model.net[0].register_forward_hook(lambda *_: None)
    made = fit(model, [ActivationMonitor(statistics="cheap"), counts], tmp_path)
    for entry in (made.validate, made.test):
        entry(model, loader(rows()), verbose=False)
        assert hooks(model) == 1
    assert set(counts.seen) == {1}


def rectified() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2))


def test_growth_is_over_the_first_validation_and_survives_a_resume(tmp_path: Path) -> None:
    class Grows(Classifier):
        def on_train_epoch_end(self) -> None:
            self.net[0].weight.data.mul_(2)
            self.net[0].bias.data.mul_(2)

    def grown(epochs: int, **more: Any) -> tuple[list[float], pl.Trainer]:
        sink, model = (
            MemorySink(),
            Grows(net=lambda: nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)), lr=0.0),
        )
        made = fit(model, [ActivationMonitor(sinks=[sink])], tmp_path / str(epochs), max_epochs=epochs, **more)
        return [value for _, name, value in sink.records if name == "activation_max/rms_growth"], made

    growth, made = grown(2)
    assert growth == pytest.approx([1, 2])
    made.save_checkpoint(tmp_path / "two.ckpt")
    assert grown(4, ckpt_path=tmp_path / "two.ckpt")[0] == pytest.approx([4, 8])


def test_outside_of_fit_there_is_no_growth() -> None:
    assert "activation_max/rms_growth" not in found(Bottleneck(), torch.randn(7, 4))


@pytest.mark.filterwarnings("ignore:No checkpoint passed the gate")
def test_a_gate_and_early_stopping_can_use_the_worst_layer(tmp_path: Path) -> None:
    """Trap 40."""
    model = Classifier(net=rectified)
    model.net[0].bias.data[:3] = -100
    gate = GatedCheckpoint("val_loss", at_most={"activation_max/dead_share": 0.5}, dirpath=tmp_path / "kept")
    stop = EarlyStopping("activation_max/dead_share", mode="min", patience=1, stopping_threshold=-1.0)
    made = fit(model, [ActivationMonitor(), stop, gate], tmp_path, max_epochs=4, enable_checkpointing=True)
    assert made.callback_metrics["activation_max/dead_share"] == 0.6
    assert made.current_epoch == 2, "patience is spent: the metric was found"
    assert [path.name for path in (tmp_path / "kept").glob("*.ckpt")] == ["last.ckpt"]


def test_chosen_statistics_are_all_that_is_logged() -> None:
    logged = found(Bottleneck(), torch.randn(7, 4), statistics=["hoyer", "std"])
    ours = {name for name in logged if name.startswith("activation")}
    assert ours == {f"{stem}/{x}" for stem in ("activation_max", "activation/network.relu") for x in ("hoyer", "std")}


@pytest.mark.parametrize(
    ("statistics", "message"),
    [("all", r"set of statistics 'all'"), (["stdd"], r"'stdd'.*'std'"), ([], r"at least one; got \[\]")],
)
def test_unknown_statistics_are_refused_in_the_constructor(statistics: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ActivationMonitor(statistics=statistics)


def test_a_dimension_that_changes_each_time_holds_no_units() -> None:
    class Shrinks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.act, self.calls = nn.ReLU(), 0

        def forward(self, x: Tensor) -> Tensor:
            self.calls += 1
            return self.act(x[:, : self.calls])

    with pytest.warns(UserWarning, match=r"'network\.act'.* varying sizes \(\[1, 2, 3, 4, 5, 6, 7, 8, 9\]\)"):
        logged = found(Shrinks(), torch.randn(60, 20))
    assert math.isnan(logged["activation_max/mean"])
