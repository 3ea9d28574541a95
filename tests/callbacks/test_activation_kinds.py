"""What a kind of layer cannot have is not logged for it: no empty chart, and no gate that can never open."""

import math
from pathlib import Path
from typing import Any

import pytest
from pytorch_lightning.loggers import TensorBoardLogger
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from small import STOPWATCH, Classifier, events, fit
from xai_lightning import ActivationMonitor, GatedCheckpoint, MemorySink

RELU = {"dead_share", "nearly_dead_share", "dead_among"}


def net(*between: nn.Module) -> Any:
    """Makes a network with these between two layers."""
    return lambda: nn.Sequential(nn.Linear(6, 4), *between, nn.Linear(4, 2))


class Block(nn.Module):
    """A transformer's layer: attention, and two layers with a GELU between them."""

    def __init__(self) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(4, 2, batch_first=True)
        self.norm, self.feed = nn.LayerNorm(4), nn.Sequential(nn.Linear(4, 8), nn.GELU(), nn.Linear(8, 4))

    def forward(self, x: Tensor) -> Tensor:
        x = x.unsqueeze(1)
        return self.feed(self.norm(x + self.attention(x, x, x)[0])).squeeze(1)


def scalars(folder: Path, model: Classifier, **options: Any) -> dict[str, list[float]]:
    """What a run wrote of activations: by name the values of all validations."""
    logger = TensorBoardLogger(folder, name=None, version="")
    fit(model, [ActivationMonitor(**options)], folder, logger=logger)
    read = events(folder)
    return {x: [e.value for e in read.Scalars(x)] for x in read.Tags()["scalars"] if x.startswith("activation")}


def test_a_transformer_without_relus_fills_every_chart(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level("INFO"):
        found = scalars(tmp_path, Classifier(net=net(nn.Sequential(Block(), Block()))))
    assert len(found) > 20
    assert [name for name, values in found.items() if len(values) != 2 or any(map(math.isnan, values))] == []
    assert not [name for name in found if "dead" in name]
    assert [name for name in found if "dormant" in name]
    said = (
        "watches no layer that has dead_share, dead_among (only for ReLUs and the like); it logs dormant_0.025 instead"
    )
    assert caplog.messages.count(f"ActivationMonitor {said}") == 1


@pytest.mark.parametrize(
    ("layer", "has", "lacks"),
    [
        (nn.ReLU(), RELU, {"saturated_share"}),
        (nn.ReLU6(), RELU | {"saturated_share"}, set()),
        (nn.Tanh(), {"saturated_share"}, RELU),
        (nn.GELU(), set(), RELU | {"saturated_share"}),
        (nn.Identity(), set(), RELU | {"saturated_share"}),
    ],
    ids=lambda x: type(x).__name__ if isinstance(x, nn.Module) else "",
)
def test_each_kind_of_layer_logs_what_it_can_have(
    layer: nn.Module, has: set[str], lacks: set[str], tmp_path: Path
) -> None:
    found = scalars(tmp_path, Classifier(net=net(layer)), layers=["net.1"], statistics="cheap")
    own = {name.removeprefix("activation/net.1/") for name in found if name.startswith("activation/net.1/")}
    assert has | {"dormant_0.025", "hoyer", "mean"} <= own
    assert not own & lacks
    worst = {name.removeprefix("activation_max/") for name in found if name.startswith("activation_max/")}
    assert (has - {"dead_among"}) <= worst
    assert not worst & lacks


def test_the_worst_layer_is_that_of_those_that_can_have_it(tmp_path: Path) -> None:
    model = Classifier(net=net(nn.ReLU(), nn.Linear(4, 4), nn.GELU()), lr=0.0)
    model.net[0].bias.data[:1] = -100
    found = scalars(tmp_path, model)
    assert found["activation_max/dead_share"] == found["activation/net.1/dead_share"] == [0.25, 0.25]
    assert "activation/net.3/dead_share" not in found
    # of the ReLU's units a quarter are dormant, too, which is told already
    assert found["activation_max/dormant_0.025"] == found["activation/net.3/dormant_0.025"] == [0, 0]
    assert "activation/net.1/dormant_0.025" not in found


def test_units_of_a_gelu_that_hardly_answer_are_told_unasked(tmp_path: Path) -> None:
    model = Classifier(net=net(nn.GELU()), lr=0.0)
    model.net[0].bias.data[:2] = -100
    assert scalars(tmp_path / "default", model)["activation/net.1/dormant_0.025"] == [0.5, 0.5]
    named = scalars(tmp_path / "named", model, statistics=["rms"])
    assert {name for name in named if "dormant" in name} == set()


def test_a_gate_on_what_no_layer_can_have_is_refused_before_it_stays_shut(tmp_path: Path) -> None:
    gate = GatedCheckpoint("val_loss", at_most={"activation_max/dead_share": 0.5}, dirpath=tmp_path)
    with pytest.raises(MisconfigurationException, match="nothing logs 'activation_max/dead_share'"):
        fit(Classifier(net=net(nn.GELU())), [ActivationMonitor(), gate], tmp_path, num_sanity_val_steps=1)


def test_statistics_that_no_layer_can_have_are_refused_in_setup(tmp_path: Path) -> None:
    said = (
        r"dead_share \(only for ReLUs and the like\), saturated_share \(only for tanh.* any of net\.1; .*dormant_0\.025"
    )
    monitor = ActivationMonitor(statistics=["dead_share", "saturated_share"])
    with pytest.raises(MisconfigurationException, match=said):
        fit(Classifier(net=net(nn.GELU())), [monitor], tmp_path)
    some = ActivationMonitor(statistics=["dead_share", "rms"], sinks=[sink := MemorySink()])
    fit(Classifier(net=net(nn.GELU())), [some], tmp_path)
    names = {name for _, name, _ in sink.records if not STOPWATCH.fullmatch(name)}
    assert names == {"activation/net.1/rms", "activation_max/rms"}
