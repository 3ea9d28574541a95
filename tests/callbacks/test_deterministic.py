"""Where torch is told to be deterministic, it refuses operators on CUDA that have no such form."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from small import GROUPS, Classifier, fit
from xai_lightning import AttributionMonitor, FairnessMonitor


@pytest.fixture(autouse=True)
def deterministic() -> Iterator[None]:
    """What ``Trainer(deterministic=True)`` asks for, and leaves behind."""
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


def test_weighted_samples_are_counted(tmp_path: Path) -> None:
    monitor = FairnessMonitor({"sex": list(GROUPS)}, weights=lambda batch: batch["sex"] + 0.5, on_error="raise")
    trainer = fit(Classifier(returns=lambda logits: logits), [monitor], tmp_path, max_epochs=1)
    assert trainer.callback_metrics["fairness/sex/demographic_parity_difference/value"].isfinite()


def test_integrated_gradients_take_more_steps_where_they_need_them(tmp_path: Path) -> None:
    monitor = AttributionMonitor(network="net", probe_size=8, baseline=-3.0, pictures=False, on_error="raise")
    model = Classifier(net=lambda: nn.Sequential(nn.Linear(6, 16), nn.ReLU(), nn.Linear(16, 2)))
    trainer = fit(model, [monitor], tmp_path, max_epochs=1)
    assert trainer.callback_metrics["xai/integrated_gradients/completeness_error"] < 0.01
