"""A training is watched alike whatever torch's default device, which is the user's and may be set at any time."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.strategies import SingleDeviceStrategy
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils.data import Dataset

from small import GROUPS, IMAGE, STOPWATCH, Classifier, Ledger, fit, loader, network, rows
from traced import bits
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.readers import Column

SEX: dict[str, Any] = {"sex": list(GROUPS)}
BOUND = "fairness/sex/demographic_parity_difference/bound"


class Ours(TorchFunctionMode):
    """The default device of this package alone: torch and Lightning need one that can be computed on.

    Tensors on ``meta`` hold nothing, so that none can be taken for another.
    """

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        asked = sys._getframe(1).f_globals.get("__name__", "")
        if asked.startswith("xai_lightning") and function in _device_constructors() and kwargs.get("device") is None:
            kwargs = {**kwargs, "device": "meta"}
        return function(*args, **kwargs)


@contextmanager
def emulated() -> Iterator[None]:
    """Everybody's, where ``tools/emulated_device.py`` is a plugin."""
    torch.set_default_device("emulated")
    try:
        yield
    finally:
        torch.set_default_device(None)


def elsewhere() -> AbstractContextManager[Any]:
    return emulated() if hasattr(torch, "emulated") else Ours()


class Columns(Dataset):
    """Rows in columns."""

    def __init__(self, **columns: Tensor) -> None:
        self.columns = columns

    def __len__(self) -> int:
        return len(self.columns["y"])

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        return {name: column[i] for name, column in self.columns.items()}


class Texts(nn.Module):
    """Attends to token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend, self.out = nn.Embedding(12, 8), nn.MultiheadAttention(8, 2, batch_first=True), None
        self.act, self.head = nn.ReLU(), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.act(self.attend(x, x, x)[0]).mean(dim=1))


def table_net() -> nn.Module:
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2))


def data(kind: str, seed: int) -> Dataset:
    if kind != "tokens":
        return rows(32, IMAGE if kind == "image" else (6,), seed=seed)
    generator, number = torch.Generator().manual_seed(seed), torch.arange(32)
    ids = torch.randint(1, 12, (32, 5), generator=generator)
    ids[:, 3:] *= number[:, None] % 3 != 0
    return Columns(x=ids, y=number % 2, sex=number // 2 % 2)


def sets(kind: str) -> list[Any]:
    return [*(data(kind, seed) for seed in range(3)), rows(8).batch()]


def explainers(kind: str, probe: Any) -> list[AttributionMonitor]:
    settings: list[dict[str, Any]] = {
        "table": [
            {"options": {"n_steps": 4}, "features": {"a": 0, "b": slice(1, 3), "c": [3, 4, 5]}, "sensitive": ["a"]},
            {"method": "kernel_shap", "options": {"n_samples": 12}, "baseline": "background"},
            {"method": "gradient_shap", "best_of": ("val_loss", "min"), "probe": probe},
        ],
        "image": [
            {"method": "saliency", "smooth": "smoothgrad", "regions": {"top": (0, 0, 4, 8)}},
            {"method": "occlusion", "baseline": "blur", "target": "reference_prediction"},
        ],
        "tokens": [{"embedding": "embed", "words": [*"-abcdefghijk"], "options": {"n_steps": 4}, "pad_to": 6}],
    }[kind]
    return [
        AttributionMonitor(
            **each,
            network="net",
            groups=SEX,
            probe_size=8,
            sample_size=4,
            noise_every=1,
            name=f"n{i}",
            on_error="raise",
        )
        for i, each in enumerate(settings)
    ]


def monitors(kind: str, untouched: Dataset, probe: Any) -> list[pl.Callback]:
    flips: dict[str, Any] = {"flips": {"sex": Column("x", 5)}} if False else {}
    more: dict[str, Any] = {"consistency_features": [0, 1], **flips} if kind == "table" else {}
    return [
        *explainers(kind, probe),
        ActivationMonitor(
            statistics="cheap", representation=True, groups=SEX, best_of=("val_loss", "min"), on_error="raise"
        ),
        FairnessMonitor(SEX, on_error="raise", replicates=20, **more),
        GatedCheckpoint("val_loss", at_most={BOUND: 1.0}, certify=untouched, on_error="raise"),
    ]


def model(kind: str) -> Classifier:
    nets = {"table": table_net, "image": lambda: network(IMAGE), "tokens": Texts}
    return Classifier(net=nets[kind], returns=lambda logits: logits)


def watched(kind: str, folder: Path, default: AbstractContextManager[Any], **options: Any) -> dict[str, Any]:
    """What was logged and drawn, and the weights."""
    ledger, sink, made, (train, val, untouched, probe) = Ledger(), MemorySink(), model(kind), sets(kind)
    with default:
        own = monitors(kind, untouched, probe)
        for monitor in own[:-1]:
            monitor.sinks = [sink]
        trainer = fit(made, own, folder, train=loader(train), val=loader(val), logger=ledger, **options)
    numbers = {(s, n): v for s, each in ledger.numbers.items() for n, v in each.items() if not STOPWATCH.fullmatch(n)}
    return {
        "numbers": numbers,
        "pictures": sink.pictures,
        "weights": bits(made.state_dict()),
        "checkpoint": trainer.checkpoint_callback.best_model_path,
    }
