"""Strategies that spread weights: what is refused in `setup`, with what to do instead, and what is not (trap 23)."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pytorch_lightning.strategies import DDPStrategy, FSDPStrategy, ModelParallelStrategy, Strategy

from small import GROUPS, Classifier, loader, network, rows, trainer
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning._lightning import MisconfigurationException
from xai_lightning.readers import Column

SEX = {"sex": list(GROUPS)}
LIMIT: dict[str, Any] = {"at_most": {"fairness/sex/demographic_parity_difference/value": 0.5}}


class DeepSpeedStrategy(DDPStrategy):
    """Stands in for Lightning's, which cannot be made without a package that needs a GPU."""


class Derived(DeepSpeedStrategy):
    """A user's own, made from it."""


class Planned(ModelParallelStrategy):
    """With a plan of tensor parallelism over two ranks."""

    def __init__(self) -> None:
        super().__init__(1, 2)
        self._device_mesh = _Mesh()  # type: ignore[assignment]


class _Mesh:
    mesh_dim_names = ("data_parallel", "tensor_parallel")

    def __getitem__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(size=lambda: {"data_parallel": 1, "tensor_parallel": 2}[name])


UNSEEN = [FSDPStrategy, DeepSpeedStrategy, Derived]


def set_up(callback: Any, strategy: Strategy, folder: Path) -> None:
    """What `setup` does under ``strategy``."""
    fit, model = trainer([callback], folder), Classifier()
    fit._accelerator_connector.strategy = strategy
    callback.setup(fit, model, "fit")


@pytest.mark.parametrize("kind", UNSEEN)
def test_explanations_are_refused_where_sharded_passes_were_never_run(kind: type[Strategy], tmp_path: Path) -> None:
    """Trap 23: with a sentence that says what to use instead."""
    with pytest.raises(MisconfigurationException) as refused:
        set_up(AttributionMonitor("saliency"), kind(), tmp_path)
    name = "FSDPStrategy" if kind is FSDPStrategy else "DeepSpeedStrategy"
    for words in (
        "AttributionMonitor('saliency')",
        name,
        "fully_shard",
        "trainer.validate",
        "leave AttributionMonitor",
    ):
        assert words in str(refused.value)


@pytest.mark.parametrize("kind", UNSEEN)
def test_fairness_and_activations_are_not_refused_there(kind: type[Strategy], tmp_path: Path) -> None:
    """Trap 23: they make no pass; weights, which such strategies flatten or take away, are left out."""
    set_up(FairnessMonitor(SEX), kind(), tmp_path)
    plain = ActivationMonitor(representation=True)
    set_up(plain, kind(), tmp_path)
    assert plain._expensive is not None
    assert plain._expensive.representation.layers
    assert not plain._expensive.weights.names
    set_up(watched := ActivationMonitor(representation=True), DDPStrategy(), tmp_path)
    assert watched._expensive is not None
    assert watched._expensive.weights.names


SHARDED = ModelParallelStrategy(1, 1)
UNEQUAL = [
    pytest.param(lambda: AttributionMonitor(lambda f, x, b: torch.ones_like(x)), id="a callable method"),
    pytest.param(lambda: FairnessMonitor(SEX, flips={"sex": Column("x", 0)}), id="flips"),
    pytest.param(lambda: GatedCheckpoint("val_loss", certify=rows(), **LIMIT), id="certify"),
]


@pytest.mark.parametrize("make", UNEQUAL)
def test_what_makes_an_unknown_number_of_passes_is_refused_for_sharded_models(make: Any, tmp_path: Path) -> None:
    """Trap 23: ranks of a sharded model must make as many."""
    with pytest.raises(MisconfigurationException, match=r"trainer\.validate on one device from a checkpoint"):
        set_up(make(), ModelParallelStrategy(1, 1, save_distributed_checkpoint=False), tmp_path)


@pytest.mark.parametrize("strategy", [*UNSEEN, lambda: ModelParallelStrategy(1, 1)])
def test_a_gate_is_refused_where_a_checkpoint_is_a_folder(strategy: Any, tmp_path: Path) -> None:
    """It stamps and hashes one file."""
    with pytest.raises(MisconfigurationException, match="save_distributed_checkpoint=False"):
        set_up(GatedCheckpoint("val_loss", **LIMIT), strategy(), tmp_path)


def test_a_method_that_copies_the_network_is_refused_for_sharded_models(tmp_path: Path) -> None:
    """Trap 23: `fully_shard` allows no copy, and LRP changes weights, so that it needs one."""
    with pytest.raises(MisconfigurationException, match=r"'lrp' works on a copy .* Use deep_lift"):
        set_up(AttributionMonitor("lrp"), ModelParallelStrategy(1, 1), tmp_path)


@pytest.mark.parametrize("make", [lambda: FairnessMonitor(SEX), lambda: GatedCheckpoint("val_loss", **LIMIT)])
def test_ranks_that_read_the_same_rows_are_refused(make: Any, tmp_path: Path) -> None:
    """Trap 44: under a plan of tensor parallelism each row would be counted once per rank."""
    with pytest.raises(MisconfigurationException, match="tensor_parallel_size=2"):
        set_up(make(), Planned(), tmp_path)


class Late(Classifier):
    """Its network is made in `configure_model`, as that of a model too large for one process is."""

    def __init__(self) -> None:
        super().__init__()
        del self.net

    def configure_model(self) -> None:
        if not hasattr(self, "net"):
            self.net = network()


@pytest.mark.parametrize("entry", ["fit", "validate"])
def test_modules_that_configure_model_makes_are_found_once_they_exist(entry: str, tmp_path: Path) -> None:
    """Traps 23 and 97: `setup` comes before them."""
    sink = MemorySink()
    monitors = [
        AttributionMonitor("saliency", probe_size=4, sinks=[sink]),
        ActivationMonitor(sinks=[sink]),
        FairnessMonitor(SEX, sinks=[sink]),
    ]
    given = [loader(rows())] * (2 if entry == "fit" else 1)
    getattr(trainer(monitors, tmp_path), entry)(Late(), *given)
    logged = {name for _, name, _ in sink.records}
    assert {"xai/saliency/probe_size", "activation/net.2/mean", "count/sex/Male"} <= logged
    refused = getattr(trainer([ActivationMonitor(layers=["nowhere"])], tmp_path), entry)
    with pytest.raises(MisconfigurationException, match="matches no module"):
        refused(Late(), *given)
