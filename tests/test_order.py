"""Laws 1 and 2 with everything that runs the network or reads its layers switched on, in any order of the callbacks."""

from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from small import STOPWATCH
from xai_lightning import ActivationMonitor, AttributionMonitor, Column, FairnessMonitor, GatedCheckpoint, MemorySink

SEX = {"sex": ["F", "M"]}


class People(Dataset[dict[str, Any]]):
    """A table whose last column is the attribute."""

    def __init__(self, seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.x = torch.randn(96, 6, generator=generator)
        self.x[:, 5] = (torch.arange(96) % 2).float()
        self.y = (self.x[:, 0] + self.x[:, 5] / 2 > 0).long()

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {"x": self.x[index], "y": self.y[index], "sex": int(self.x[index, 5])}


class Net(pl.LightningModule):
    """Draws in training, keeps statistics, and remembers its gradients at each validation."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        first = [nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.3)]
        self.net = nn.Sequential(*first, nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 2))
        self.found: list[list[Tensor | None]] = []

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x)

    def training_step(self, batch: Any) -> Tensor:
        return nn.functional.cross_entropy(self(batch["x"]), batch["y"])

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        logits = self(batch["x"])
        self.log("val_loss", nn.functional.cross_entropy(logits, batch["y"]), batch_size=len(logits))

    def on_validation_end(self) -> None:
        self.found.append([None if p.grad is None else p.grad.clone() for p in self.parameters()])

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-2)


def trained(order: str, folder: Path, precision: str) -> tuple[list[bytes], list[tuple[int, str, str]]]:
    """Weights, gradients and generator state as bytes, and what was logged; callbacks in the order of their letters."""
    pl.seed_everything(3, verbose=False)
    sink = MemorySink()
    made = {
        "a": lambda: AttributionMonitor("saliency", sinks=[sink]),
        "n": lambda: ActivationMonitor(
            statistics="cheap", representation=True, probe_size=32, groups=SEX, pictures=False, sinks=[sink]
        ),
        "f": lambda: FairnessMonitor(
            SEX, flips={"sex": Column("x", 5)}, consistency_features=[0, 1, 2], pictures=False, sinks=[sink]
        ),
        "g": lambda: GatedCheckpoint(
            "val_loss",
            at_most={"fairness/sex/demographic_parity_difference/bound": 0.99},
            utility_floor=False,
            certify=DataLoader(People(9), batch_size=16),
            dirpath=folder / order,
        ),
    }
    trainer = pl.Trainer(
        max_epochs=2,
        callbacks=[made[letter]() for letter in order],
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing="g" in order,
        # validations fall between the batches whose gradients are accumulated
        accumulate_grad_batches=4,
        val_check_interval=2,
        precision=precision,  # type: ignore[arg-type]
    )
    model = Net()
    trainer.fit(model, DataLoader(People(0), batch_size=16, shuffle=True), DataLoader(People(5), batch_size=13))
    gradients = [g for grads in model.found for g in grads if g is not None]
    tensors = [*model.state_dict().values(), *gradients, torch.get_rng_state()]
    numbers = [(step, name, repr(value)) for step, name, value in sink.records if not STOPWATCH.fullmatch(name)]
    return [tensor.cpu().reshape(-1).view(torch.uint8).numpy().tobytes() for tensor in tensors], sorted(numbers)


HALF = ("bf16-mixed", "bf16-true")


@pytest.mark.filterwarnings("ignore:Sample sizes:UserWarning")
@pytest.mark.parametrize("precision", ["32-true", *(pytest.param(x, marks=pytest.mark.slow) for x in HALF)])
def test_no_order_of_callbacks_changes_the_training_or_what_another_sees(precision: str, tmp_path: Path) -> None:
    """Flips run the network while others listen to it, and a certificate at the end (traps 8, 35 and 40)."""
    plain, _ = trained("", tmp_path, precision)
    (first, numbers), (second, others) = (trained(order, tmp_path, precision) for order in ("anfg", "gfna"))
    assert any('"certificate"' in path.read_text() for path in (tmp_path / "anfg").glob("epoch*.verdict.json"))
    assert first == plain
    assert second == plain
    assert numbers == others
