"""ActivationMonitor in a real Trainer: which dimension holds the units, modules called at several widths."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from watched import Bottleneck, LastOf, attention, found
from xai_lightning.callbacks._activation import record as activation_record


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


@pytest.mark.parametrize(
    ("make", "shape", "units"),
    [
        (lambda: LastOf(nn.Conv1d(2, 5, 3)), (2, 9), 5),
        (lambda: LastOf(nn.Conv2d(1, 5, 3).to(memory_format=torch.channels_last)), (1, 8, 8), 5),
        (lambda: LastOf(nn.Linear(4, 5)), (3, 4), 5),
        (lambda: LastOf(nn.LayerNorm(4)), (3, 4), 4),
        (lambda: LastOf(nn.GroupNorm(2, 4)), (4, 5), 4),
        (lambda: LastOf(nn.LSTM(4, 5, batch_first=True)), (3, 4), 5),
        (lambda: LastOf(nn.GRU(4, 5, bidirectional=True)), (3, 4), 10),
        (attention, (3, 6), 6),
        (lambda: LastOf(nn.TransformerEncoderLayer(6, 2, 8, batch_first=True)), (3, 6), 6),
        (lambda: LastOf(nn.PReLU(4)), (4, 5), 4),
    ],
    ids=["conv1d", "last", "tokens", "layernorm", "groupnorm", "lstm", "gru", "attention", "encoder", "prelu"],
)
def test_the_units_of_each_type_are_its_channels_or_features(
    make: Callable[[], nn.Module], shape: tuple[int, ...], units: int, monkeypatch
) -> None:
    """Trap 96."""
    seen = []
    original = activation_record._numbers
    monkeypatch.setattr(
        activation_record, "_numbers", lambda *a: seen.extend(len(s.mean) for s in a[2]) or original(*a)
    )
    found(make(), torch.randn(7, *shape), layers=["network.layer"])
    assert seen == [units]
