"""What a training did, bit by bit: what watching must leave as it is (law 1), and the callbacks that watch."""

import random
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

import xai_lightning
from small import GROUPS, TABLE, Classifier, fit, loader, rows
from xai_lightning.callbacks._monitor import Monitor

# What each public callback is built with. Small explanations: the laws do not depend on their size.
ARGUMENTS: dict[str, dict[str, Any]] = {
    "ActivationMonitor": {"statistics": "cheap"},
    "AttributionMonitor": {"options": {"n_steps": 4}, "measures": ["cosine"], "groups": {"sex": GROUPS}},
    "FairnessMonitor": {"groups": {"sex": GROUPS}, "metrics": ["demographic_parity_difference"]},
    "GatedCheckpoint": {"monitor": "val_loss", "at_least": {"val_acc": 0.0}},
}


def public_callbacks() -> list[str]:
    found = ((name, getattr(xai_lightning, name)) for name in xai_lightning.__all__)
    return [name for name, value in found if isinstance(value, type) and issubclass(value, pl.Callback)]


NAMES = public_callbacks()
MONITORS = [name for name in NAMES if issubclass(getattr(xai_lightning, name), Monitor)]


class Boom(Exception):
    """Raised by a model of the enemy's."""


def bits(value: Any) -> Any:
    """``value`` as something that can be compared: tensors become their bytes."""
    if isinstance(value, Tensor):
        flat = value.detach().cpu().contiguous().reshape(-1)
        return str(value.dtype), tuple(value.shape), flat.view(torch.uint8).numpy().tobytes()
    if isinstance(value, Mapping):
        return {key: bits(item) for key, item in value.items()}
    return [bits(item) for item in value] if isinstance(value, list | tuple) else value


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Everything that watching must not change."""
    modules = dict(model.named_modules())
    kind, keys, *rest = np.random.get_state()
    return {
        "weights": bits(dict(model.named_parameters())),
        "buffers": bits(dict(model.named_buffers())),
        "gradients": bits({name: p.grad for name, p in model.named_parameters()}),
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "flags": {name: m.training for name, m in modules.items()},
        "tables": {
            f"{n}.{key}": len(v) for n, m in modules.items() for key, v in vars(m).items() if isinstance(v, dict)
        },
        "attributes": {name: list(vars(m)) for name, m in modules.items()},
        "generators": [bits(torch.get_rng_state()), kind, keys.tobytes(), rest, random.getstate()],
    }


def held(model: nn.Module) -> dict[str, Any]:
    """What stands in the attributes of each module, to be compared by identity, and where parameters lie."""
    found: dict[str, Any] = {f"{n}.{k}": v for n, m in model.named_modules() for k, v in vars(m).items()}
    for name, module in model.named_modules():
        for table in (module._parameters, module._buffers, module._modules):
            found |= {f"{name}[{k}]": v for k, v in table.items()}
    return found


class Traced(Classifier):
    """Notes what happens to it from its own hooks, which run after those of the callbacks.

    Args:
        fuse: number of the forward pass outside of any step at which the second validation fails.
        step_fuse: number of the forward pass inside of the second validation's steps at which it fails.
    """

    def __init__(self, *args: Any, fuse: int | None = None, step_fuse: int | None = None, **more: Any) -> None:
        super().__init__(*args, **more)
        # a plain object, which no guard puts back: an explanation that is noted stays noted
        self.notes = SimpleNamespace(stepping=False, batches=[], validations=[], moved=[], inference=[], left=None)
        self.fuses = {False: fuse, True: step_fuse}

    @contextmanager
    def _step(self) -> Iterator[None]:
        self.notes.stepping = True
        yield
        self.notes.stepping = False

    def _meets(self, batch: Any) -> None:
        """Notes what a step begins with."""
        if self.training:
            self.notes.batches.append(bits(batch))
        else:
            self.notes.inference.append(torch.is_inference_mode_enabled())

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        self._meets(batch)
        with self._step():
            return super().training_step(batch, batch_idx)

    def evaluate(self, batch: Any, stage: str) -> Any:
        self._meets(batch)
        with self._step():
            return super().evaluate(batch, stage)

    def forward(self, x: Tensor) -> Tensor:
        left = self.notes.left
        if left is not None and not self.training and left[self.notes.stepping] is not None:
            left[self.notes.stepping] -= 1
            if left[self.notes.stepping] < 0:
                raise Boom(f"forward pass {self.fuses[self.notes.stepping]}")
        return super().forward(x)

    def on_validation_start(self) -> None:
        self.notes.before = held(self), [p.data_ptr() for p in self.parameters()]
        self.notes.left = dict(self.fuses) if len(self.notes.validations) == 1 else None

    def on_validation_end(self) -> None:
        before, pointers = self.notes.before
        after = held(self)
        moved = {key for key in before.keys() | after.keys() if before.get(key) is not after.get(key)}
        self.notes.moved.append((moved, pointers == [p.data_ptr() for p in self.parameters()]))
        self.notes.validations.append(snapshot(self))


def trace(model: Traced, made: pl.Trainer | None = None) -> dict[str, Any]:
    """Everything that two trainings must have in common."""
    notes = model.notes
    found = {f"{key} at validation {i + 1}": v for i, s in enumerate(notes.validations) for key, v in s.items()}
    found |= {
        "batches": notes.batches,
        "moved": notes.moved,
        **{f"{k} at the end": v for k, v in snapshot(model).items()},
    }
    if made is not None:
        own = {name: bits(v) for name, v in made.callback_metrics.items() if "/" not in name}
        found |= {"metrics": own, "optimizers": [bits(o.state_dict()) for o in made.optimizers]}
    return found


def differences(watched: Mapping[str, Any], plain: Mapping[str, Any]) -> list[str]:
    """Names of what is not equal; short, where pytest would print every byte."""
    return [key for key in {**plain, **watched} if watched.get(key, "-") != plain.get(key, "-")]


ACCUMULATE = {"accumulate_grad_batches": 4, "val_check_interval": 2}


def traced(
    make: Callable[[], Traced], callbacks: list[pl.Callback], folder: Path, shape: Any = TABLE, **more: Any
) -> Any:
    """The trace of a training that validates while gradients are being accumulated."""
    model, data = make(), loader(rows(shape=shape), shuffle=True, batch_size=8)
    options = {**ACCUMULATE, **more}
    made = fit(model, callbacks, folder, train=data, val=loader(rows(24, shape, seed=1), batch_size=8), **options)
    return trace(model, made)
