import math

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from xai_lightning import GatedCheckpoint
from xai_lightning.callbacks._gate.timeline import MOST, Timeline
from xai_lightning.functional.gate import Limit

LIMIT = Limit("fairness/sex/gap/bound", "at_most", 0.1)


def filled(number: int) -> Timeline:
    timeline = Timeline([LIMIT])
    for step in range(number):
        timeline.add(step, {LIMIT.name: 0.2 - step / 1000, "fairness/sex/gap/value": 0.01})
        timeline.settle(opened=step % 2 == 0, best=step == 4)
    return timeline


def test_a_bound_brings_its_value_and_what_is_missing_is_nan():
    state = filled(3).state()
    assert state["numbers"][0, 0, :2].tolist() == [0.2, 0.01]
    assert state["numbers"][0, 0, 2:].isnan().all()
    assert state["numbers"][3:].isnan().all()


def test_a_long_run_keeps_every_second_validation_and_its_size():
    few, many = filled(3).state(), filled(MOST + 40).state()
    assert {name: part.shape for name, part in few.items() if name != "best"} == {
        name: part.shape for name, part in many.items() if name != "best"
    }
    steps = many["steps"][many["steps"] >= 0].tolist()
    assert steps == [*range(0, MOST, 2), *range(MOST, MOST + 40)]
    assert many["open"][: len(steps)].tolist() == [step % 2 == 0 for step in steps]
    assert many["best"] == 4


def test_a_course_that_was_saved_is_drawn_the_same_and_one_of_other_limits_is_left():
    first, again = filled(9), Timeline([LIMIT])
    again.load(first.state())
    assert np.array_equal(first.draw(), again.draw())
    other = Timeline([LIMIT, LIMIT._replace(name="val_acc")])
    other.load(first.state())
    assert other.state()["best"] == -1


class Scripted(pl.LightningModule):
    """Logs a given gap at each validation."""

    def __init__(self, gaps: list[float]) -> None:
        super().__init__()
        self.weight, self.gaps = torch.nn.Parameter(torch.zeros(1)), gaps

    def training_step(self, batch: object) -> torch.Tensor:
        return self.weight.sum() * 0

    def validation_step(self, batch: object) -> None:
        self.log("gap", self.gaps[self.current_epoch])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


@pytest.mark.filterwarnings("ignore::UserWarning")  # of Lightning's, on a folder that is not empty
def test_the_picture_of_a_run_reaches_tensorboard_and_goes_on_after_a_resume(tmp_path):
    def run(epochs: int, **more) -> GatedCheckpoint:
        gate = GatedCheckpoint(at_most={"gap": 0.1}, dirpath=tmp_path / "checkpoints")
        trainer = pl.Trainer(
            max_epochs=epochs,
            callbacks=[gate],
            logger=TensorBoardLogger(str(tmp_path), name="", version="log"),
            num_sanity_val_steps=0,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        loader = torch.utils.data.DataLoader(torch.zeros(2, 1), batch_size=1)
        trainer.fit(Scripted([0.3, 0.05, 0.2, math.nan]), loader, loader, **more)
        return gate

    run(2)
    gate = run(4, ckpt_path=str(tmp_path / "checkpoints" / "last.ckpt"))
    state = gate._timeline.state()
    assert state["numbers"][:4, 0, 0].tolist()[:3] == pytest.approx([0.3, 0.05, 0.2])
    assert state["open"][:4].tolist() == [False, True, False, False]
    assert state["best"] == state["steps"][1]
    events = EventAccumulator(str(tmp_path / "log"), size_guidance={"images": 0})
    events.Reload()
    assert len(events.Images("gate/timeline")) == 4
