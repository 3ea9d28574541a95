"""ActivationMonitor in a real Trainer: which dimension holds the units, modules called at several widths."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from xai_lightning import ActivationMonitor, MemorySink


class Runs(pl.LightningModule):
    """Validates one network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def validation_step(self, batch: list[Tensor]) -> None:
        self.network(batch[0])


def found(network: nn.Module, x: Tensor, **options: Any) -> dict[str, float]:
    """Everything that is logged of one validation."""
    sink = MemorySink()
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    trainer = pl.Trainer(callbacks=[ActivationMonitor(sinks=[sink], **options)], logger=False, **quiet)
    trainer.validate(Runs(network), DataLoader(TensorDataset(x), batch_size=3), verbose=False)
    return {name: value for _, name, value in sink.records}


class Bottleneck(nn.Module):
    """One ReLU after layers of two widths, as in residual networks."""

    def __init__(self) -> None:
        super().__init__()
        self.narrow, self.wide, self.relu = nn.Linear(4, 2), nn.Linear(2, 6), nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        self.first = self.relu(self.narrow(x))
        self.second = self.relu(self.wide(self.first))
        return self.second


def test_one_module_at_two_widths_gives_the_statistics_of_both_together() -> None:
    torch.manual_seed(0)
    network, x = Bottleneck(), torch.randn(7, 4)
    logged = found(network, x)
    network(x)
    both = torch.cat([network.first.detach().flatten(), network.second.detach().flatten()])
    assert logged["activation/network.relu/mean"] == pytest.approx(float(both.mean()), rel=1e-6)
    assert logged["activation/network.relu/std"] == pytest.approx(float(both.std(correction=0)), rel=1e-5)
    assert logged["activation/network.relu/zero_share"] == pytest.approx(float((both == 0).double().mean()))
    dead = [(layer.detach() <= 0).all(dim=0) for layer in (network.first, network.second)]
    assert logged["activation/network.relu/dead_share"] == pytest.approx(float(torch.cat(dead).double().mean()))


class ActivationFirst(nn.Module):
    """Makes its activation before the convolution that it serves."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU()
        self.conv = nn.Conv2d(1, 4, 3)
        self.conv.bias.data[2] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


class Tokens(nn.Module):
    """A linear layer over the last of three dimensions."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.act = nn.Linear(4, 4), nn.ReLU()
        self.linear.bias.data[2] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.linear(x))


class Series(nn.Module):
    """A convolution over time: channels stand second."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.act = nn.Conv1d(2, 4, 3), nn.ReLU()
        self.conv.bias.data[2] = -100.0

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.conv(x))


@pytest.mark.parametrize(
    ("network", "shape"),
    [(ActivationFirst, (1, 8, 8)), (Tokens, (5, 4)), (Series, (2, 9))],
    ids=["image", "tokens", "series"],
)
def test_units_are_the_channels_or_features_wherever_they_stand(
    network: type[nn.Module], shape: tuple[int, ...]
) -> None:
    """Traps 94 and 96: one of four units is dead by construction."""
    torch.manual_seed(1)
    logged = found(network(), torch.rand(7, *shape) + 0.5)
    assert logged["activation/network.act/dead_share"] >= 0.25
    assert (4 * logged["activation/network.act/dead_share"]).is_integer()
