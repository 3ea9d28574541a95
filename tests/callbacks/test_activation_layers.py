"""ActivationMonitor in a real Trainer: which modules are watched, refused, or named because they stay silent."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException
from torch import Tensor, nn

from small import Classifier, fit
from watched import Residual, attention, found
from xai_lightning import ActivationMonitor


def watched(logged: dict[str, float]) -> list[str]:
    return list(dict.fromkeys(name.split("/")[1] for name in logged if name.startswith("activation/")))


IMAGES = torch.rand(7, 4, 6, 6, generator=torch.Generator().manual_seed(1)) - 0.5


def test_outputs_of_non_linearities_and_of_blocks_are_watched_and_never_containers() -> None:
    logged = found(nn.Sequential(nn.Sequential(Residual(), Residual()), nn.Flatten(), nn.Linear(144, 2)), IMAGES)
    names = ["network.0.0", "network.0.0.body.2", "network.0.1", "network.0.1.body.2"]
    assert watched(logged) == names
    assert logged["activation/network.0.1/minimum"] >= 0, "the function after the block is seen"


def test_at_most_sixteen_evenly_spaced_are_watched_and_the_others_named(caplog) -> None:
    deep = nn.Sequential(*[m for _ in range(20) for m in (nn.Linear(4, 4), nn.Tanh())])
    with caplog.at_level("INFO", "pytorch_lightning"):
        logged = found(deep, torch.randn(5, 4))
    names = watched(logged)
    assert len(names) == 16
    assert (names[0], names[-1]) == ("network.1", "network.39")
    left_out = next(r.getMessage() for r in caplog.records if "evenly spaced" in r.getMessage()).split("left out: ")[1]
    assert sorted([*names, *left_out.split(", ")]) == sorted(f"network.{2 * i + 1}" for i in range(20))


def test_non_linearities_and_layers_of_transformers_are_known() -> None:
    """Its own classes, of which torch has no base: GPT-2 watches its functions, and knows their units."""
    transformers = pytest.importorskip("transformers")
    sizes = {"n_layer": 2, "n_embd": 8, "n_head": 2, "vocab_size": 10, "n_positions": 6}
    config = transformers.GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)
    logged = found(transformers.GPT2Model(config), torch.randint(0, 10, (6, 5)), statistics="cheap")
    names = [f"network.h.{i}{part}" for i in range(2) for part in ("", ".mlp.act")]
    assert watched(logged) == names
    for name in names:
        assert math.isfinite(logged[f"activation/{name}/hoyer"]), "a statistic of units"


def test_types_and_patterns_choose_modules_together() -> None:
    logged = found(nn.Sequential(Residual(), nn.Flatten()), IMAGES, layers=[nn.Conv2d, "*.body.1"])
    assert watched(logged) == ["network.0.body.0", "network.0.body.1"]


class Doubled(nn.Module):
    """A custom layer of which nothing is known."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(2.0))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


def test_an_unknown_type_gives_numbers_over_all_elements_and_one_warning() -> None:
    x = torch.randn(7, 3, 5)
    with pytest.warns(UserWarning, match=r"no known units.*network\.0, network\.1$") as seen:
        logged = found(nn.Sequential(Doubled(), Doubled()), x, layers=["network.*"], statistics="cheap")
    assert len([w for w in seen if "known units" in str(w.message)]) == 1
    assert logged["activation/network.0/mean"] == pytest.approx(float((2 * x).mean()), abs=1e-6)
    assert logged["activation/network.0/kurtosis"] > 0
    for name in ("dormant_0", "outlier_kurtosis", "hoyer", "dead_share"):
        assert f"activation/network.0/{name}" not in logged


class Gathers(nn.Module):
    """Returns no tensor, or one that is not real."""

    def __init__(self, output: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.linear, self.output = nn.Linear(4, 4), output

    def forward(self, x: Tensor) -> Any:
        return self.output(self.linear(x))


@pytest.mark.parametrize("output", [lambda x: "text", lambda x: torch.complex(x, x)], ids=["text", "complex"])
def test_an_output_that_is_no_real_tensor_is_named_and_logs_nan(output: Callable[[Tensor], Any]) -> None:
    network = nn.Sequential(Gathers(output))
    with pytest.warns(UserWarning, match=r"no dense real tensor, so that NaN is logged: network\.0"):
        logged = found(network, torch.randn(7, 4), layers=["network.0", "network.0.linear"])
    assert math.isnan(logged["activation/network.0/mean"])
    assert math.isfinite(logged["activation/network.0.linear/mean"])


@pytest.mark.parametrize("how", ["in place", "wrapped", "around"])
def test_modules_inside_a_compiled_one_are_refused_by_name(how: str, tmp_path: Path) -> None:
    """Trap 22."""
    model = Classifier()
    name = r"net\._orig_mod\.2" if how == "wrapped" else r"net\.2"
    if how == "in place":
        model.net.compile(backend="eager")
    elif how == "wrapped":
        model.net = torch.compile(model.net, backend="eager")
    else:
        model.compile(backend="eager")
    for layers in (None, [nn.ReLU]):
        with pytest.raises(MisconfigurationException, match=rf"inside a compiled module.*{name}"):
            fit(model, [ActivationMonitor(layers)], tmp_path)


def test_what_is_beside_a_compiled_module_is_watched_and_what_is_inside_named(tmp_path: Path) -> None:
    model = Classifier()
    model.act = nn.ReLU()
    model.act.compile(backend="eager")
    monitor = ActivationMonitor()
    with pytest.warns(UserWarning, match=r"inside a compiled module, where hooks do not fire: act$"):
        fit(model, [monitor], tmp_path, max_epochs=1)
    assert [layer.name for layer in monitor._layers] == ["net.2"]


def test_a_silent_module_is_named_once_with_the_reason_where_it_is_known() -> None:
    """Trap 89; the others are counted all the same."""
    network = Takes(nn.Sequential(attention(), nn.ReLU()))
    layers = ["*out_proj", "*inner.1", "*inner.0.layer"]
    silent = r"inner\.0\.layer\.out_proj \(nn\.MultiheadAttention uses [^)]*\), network\.inner\.1$"
    with pytest.warns(UserWarning, match=silent):
        logged = found(network, torch.randn(7, 3, 6), layers=layers)
    assert math.isfinite(logged["activation/network.inner.0.layer/mean"])
    assert math.isnan(logged["activation/network.inner.1/mean"])


class Takes(nn.Module):
    """Calls the first of its parts only."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Any:
        return self.inner[0](x)
