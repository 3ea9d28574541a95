"""AttributionMonitor in a real Trainer."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import AttributionMonitor, MemorySink


class Linear(pl.LightningModule):
    """A linear model, whose integrated gradients are weight times input."""

    def __init__(self, in_place: bool) -> None:
        super().__init__()
        self.in_place = in_place
        self.net = nn.Linear(3, 1, bias=False)
        self.net.weight.data = torch.tensor([[1.0, 2.0, 3.0]])

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def validation_step(self, batch: list[Tensor]) -> None:
        x = batch[0]
        self(x.mul_(10.0) if self.in_place else x)


@pytest.mark.parametrize("in_place", [False, True], ids=["plain", "in place"])
def test_inputs_are_explained_as_they_came_whatever_the_step_writes_into_them(in_place: bool) -> None:
    sink = MemorySink()
    quiet: dict[str, Any] = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[AttributionMonitor(sinks=[sink])], logger=False, **quiet)
    data = TensorDataset(torch.ones(4, 3) * torch.arange(1.0, 5.0)[:, None], torch.tensor([0, 1, 0, 1]))
    trainer.validate(Linear(in_place), DataLoader(data, batch_size=2), verbose=False)
    found = {name: value for _, name, value in sink.records}
    expected = torch.arange(1.0, 5.0).mean() * torch.tensor([1.0, 2.0, 3.0])
    logged = [found[f"importance/integrated_gradients/column_{i}"] for i in range(3)]
    assert logged == pytest.approx(expected.tolist(), rel=1e-5)
