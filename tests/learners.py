"""Networks of any form, trained on items of any form under one AttributionMonitor, in a fraction of a second."""

from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from xai_lightning import AttributionMonitor, MemorySink

QUIET: dict[str, Any] = {
    "enable_progress_bar": False,
    "enable_model_summary": False,
    "enable_checkpointing": False,
    "logger": False,
    "num_sanity_val_steps": 1,
}


class Items(Dataset):
    """Samples from a function of their number."""

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self.items = [make(i) for i in range(count)]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, i: int) -> Any:
        return self.items[i]


class Learner(pl.LightningModule):
    """Trains a network on batches of any form, by a loss of its own."""

    def __init__(self, net: nn.Module, call: Callable[[nn.Module, Any], Tensor], *, lr: float = 0.05) -> None:
        super().__init__()
        self.net, self.call, self.lr = net, call, lr

    def training_step(self, batch: Any) -> Tensor:
        return self.call(self.net, batch)

    def validation_step(self, batch: Any) -> None:
        self.log("val_loss", self.call(self.net, batch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.net.parameters(), self.lr)


def fitted(
    net: nn.Module,
    call: Callable[[nn.Module, Any], Tensor],
    data: Dataset,
    monitor: AttributionMonitor,
    *,
    epochs: int = 2,
    lr: float = 0.05,
    callbacks: Sequence[pl.Callback] = (),
    batch_size: int = 8,
) -> tuple[pl.Trainer, Learner]:
    pl.seed_everything(0, verbose=False)
    model = Learner(net, call, lr=lr)
    trainer = pl.Trainer(max_epochs=epochs, callbacks=[*callbacks, monitor], **QUIET)
    loaders = [DataLoader(data, batch_size=batch_size) for _ in range(2)]
    trainer.fit(model, *loaders)
    assert not trainer.callback_metrics["xai/errors"]
    return trainer, model


def seeded(make: Callable[[], nn.Module], seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def cross_entropy(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch[0]), batch[1])


def first(monitor: AttributionMonitor) -> Tensor:
    return monitor.state_dict()["references"]["maps"]["first"]


def table(i: int) -> tuple[Tensor, int]:
    x = draw(5, seed=i)
    return x, int(x[0] > 0)


def table_net() -> nn.Module:
    return nn.Sequential(nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 2))


def curves(sink: MemorySink) -> dict[str, list[float]]:
    """Every logged name with its values in order."""
    found: dict[str, list[float]] = {}
    for _, name, value in sink.records:
        found.setdefault(name, []).append(value)
    return found
