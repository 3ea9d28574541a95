"""A training is watched alike whatever torch's default device, which is the user's and may be set at any time."""

import sys
from collections.abc import Callable, Iterator
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
from torch.utils._pytree import tree_leaves

from small import GROUPS, IMAGE, STOPWATCH, TABLE, Classifier, Ledger, Rows, fit, loader, rows
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


def usual() -> AbstractContextManager[Any]:
    """The CPU, though named: torch's attention is another one, by its last bit, as soon as a default device is set."""
    return torch.device("cpu")


class Texts(nn.Module):
    """Attends to token ids."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.attend = nn.Embedding(12, 8), nn.MultiheadAttention(8, 2, batch_first=True)
        self.act, self.head = nn.ReLU(), nn.Linear(8, 2)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embed(ids)
        return self.head(self.act(self.attend(x, x, x)[0]).mean(dim=1))


# none draws: the generator is that of the device, and each loader takes from that of the default one
NETS: dict[str, Callable[[], nn.Module]] = {
    "table": lambda: nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)),
    "image": lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(108, 2)),
    "tokens": Texts,
}
QUICK = {"options": {"n_steps": 4}}
METHODS: dict[str, list[dict[str, Any]]] = {
    "table": [
        {**QUICK, "features": {"a": 0, "b": slice(1, 3), "c": [3, 4, 5]}, "sensitive": ["a"]},
        {"method": "gradient_shap", "best_of": ("val_loss", "min"), "baseline": "background"},
    ],
    "image": [
        {"method": "saliency", "smooth": "smoothgrad", "regions": {"top": (0, 0, 4, 8)}, "pictures": False},
        {"method": "feature_ablation", "baseline": "blur", "target": "reference_prediction"},
    ],
    "tokens": [{**QUICK, "embedding": "embed", "words": [*"-abcdefghijk"], "pad_to": 6}],
}


def data(kind: str, seed: int) -> Rows:
    found = rows(32, IMAGE if kind == "image" else TABLE, seed=seed)
    if kind == "table":
        found.x[:, 5] = found.sex
    if kind == "tokens":
        found.x = (found.x.abs() * 7).long().clamp(max=11)
    return found


def callbacks(kind: str, untouched: Rows, sink: MemorySink) -> list[pl.Callback]:
    common: dict[str, Any] = {"groups": SEX, "on_error": "raise", "sinks": [sink]}
    common["pictures"] = kind == "image"
    drawn = {"network": "net", "probe_size": 8, "sample_size": 4, "noise_every": 1}
    table: dict[str, Any] = {"consistency_features": [0, 1], "flips": {"sex": Column("x", 5)}, "exact": True}
    return [
        *(AttributionMonitor(**{**common, **drawn, **each}, name=f"n{i}") for i, each in enumerate(METHODS[kind])),
        ActivationMonitor(statistics="cheap", representation=True, best_of=("val_loss", "min"), **common),
        FairnessMonitor(**common, replicates=20, **(table if kind == "table" else {})),
        GatedCheckpoint("val_loss", at_most={BOUND: 1.0}, utility_floor=False, certify=untouched, on_error="raise"),
    ]


def watched(kind: str, folder: Path, default: AbstractContextManager[Any], on: str) -> dict[str, Any]:
    """What is logged and drawn, the weights, and on which devices the states in the checkpoint are."""
    ledger, sink, train, val, untouched = Ledger(), MemorySink(), *(data(kind, seed) for seed in range(3))
    model = Classifier(net=NETS[kind], returns=lambda logits: logits)
    # the plugin takes a Trainer without a strategy to its device
    options: dict[str, Any] = {"strategy": SingleDeviceStrategy("cpu")} if on == "cpu" else {}
    with default:
        made = callbacks(kind, untouched, sink)
        trainer = fit(model, made, folder, train=loader(train), val=loader(val), logger=ledger, **options)
    content = torch.load(trainer.checkpoint_callback.best_model_path, weights_only=True)
    drawn = [(step, name, picture.shape, picture.tobytes()) for step, name, picture in sink.pictures]
    numbers = {(s, n): v for s, each in ledger.numbers.items() for n, v in each.items() if not STOPWATCH.fullmatch(n)}
    return {
        "numbers": numbers,
        "pictures": drawn,
        "weights": bits(model.state_dict()),
        "states": {x.device.type for x in tree_leaves(content["callbacks"]) if isinstance(x, Tensor)},
    }


@pytest.mark.parametrize("on", ["cpu", "emulated"] if hasattr(torch, "emulated") else ["cpu"])
@pytest.mark.parametrize("kind", NETS)
def test_a_training_is_watched_alike_whatever_the_default_device(kind: str, on: str, tmp_path: Path) -> None:
    """Number for number, with states on the CPU; the weights bit for bit."""
    expected = watched(kind, tmp_path / "usual", usual(), on=on)
    found = watched(kind, tmp_path / "elsewhere", elsewhere(), on=on)
    assert found["weights"] == expected["weights"]
    torch.testing.assert_close(found["numbers"], expected["numbers"], rtol=0, atol=0, equal_nan=True)
    assert found["pictures"] == expected["pictures"]
    assert found["states"] == expected["states"] == {"cpu"}
