"""Fits of a sharded model over gloo processes, started by `test_sharded.py`; rank zero prints what came of them.

Usage: python sharded_run.py RANKS FOLDER SCENARIO...
"""

import json
import os
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from torch import Tensor

import sharded_methods
from sharded_model import FLOOR, Numbers, Sharded, loader, trainer
from small import STOPWATCH
from xai_lightning import ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint, MemorySink
from xai_lightning.callbacks._sharded import local, reshard

IG = "integrated_gradients"
FIXED = {"tolerance": None, "n_steps": 8}


def everything(folder: Path, sink: MemorySink) -> list[Any]:
    """Callbacks of every kind, with methods that cut their passes in each of the ways there are."""
    groups, common = {"sex": ["F", "M"]}, {"probe_size": 16, "measures": ["cosine"], "sinks": [sink]}
    return [
        AttributionMonitor("saliency", groups=groups, **{**common, "measures": None}),
        AttributionMonitor("integrated_gradients", groups=groups, **common),
        AttributionMonitor("integrated_gradients", options=FIXED, name="fixed", **common),
        AttributionMonitor("gradient_shap", options={"n_samples": 3, "nt_samples": 2}, smooth="smoothgrad", **common),
        AttributionMonitor("feature_ablation", **common),
        AttributionMonitor("layer_gradient_x_activation", layer="net.2", **common),
        ActivationMonitor(
            statistics="cheap", representation=True, probe_size=32, groups=groups, sinks=[sink], name="neurons"
        ),
        FairnessMonitor({**groups, "town": "discover"}, intersections=2, sinks=[sink]),
        GatedCheckpoint("val_loss", dirpath=folder / "kept", at_most={FLOOR: 0.9}, utility_floor=False, save_top_k=2),
    ]


def values(ranks: int, folder: Path) -> dict[str, Any]:
    """What is logged, counted, kept and explained."""
    sink = Numbers()
    callbacks = everything(folder, sink)
    fit = trainer(ranks, folder, callbacks)
    fit.fit(Sharded(), loader(), loader())
    # an evaluation that stands alone, of the weights before any training
    alone = trainer(ranks, folder, [AttributionMonitor("saliency", probe_size=8, name="alone", sinks=[sink])])
    alone.validate(Sharded(), loader(), verbose=False)
    gate, fairness = callbacks[-1], callbacks[-2]
    explained = [callback for callback in callbacks if isinstance(callback, AttributionMonitor)]
    return {
        "records": [[name, value] for _, name, value in sink.records if not STOPWATCH.fullmatch(name)],
        "counts": {name: table.tolist() for name, table in fairness._total.counts.items()},
        "maps": [callback._history.references.maps["first"].tolist() for callback in explained],
        "failures": [callback._failures for callback in callbacks[:-1]],
        "files": sorted(path.name for path in (folder / "kept").iterdir()),
        "best": gate.best_model_path,
    }


def untouched(ranks: int, folder: Path) -> dict[str, bool]:
    """Whether a training with everything attached ends on all ranks as one with nothing attached."""
    ends = []
    for callbacks in ([], everything(folder, Numbers())):
        pl.seed_everything(5)
        model, fit = Sharded(moving=False), trainer(ranks, folder, callbacks)
        fit.fit(model, loader(), loader())
        reshard(model)
        ends.append(
            {
                "weights": [local(weight) for weight in tensors(dict(model.named_parameters()))],
                "optimizer": [local(x) for x in tensors(fit.optimizers[0].state_dict()["state"])],
                "random": [torch.get_rng_state(), torch.tensor(np.random.get_state()[1].astype(np.int64))],
                "python": [torch.tensor(random.getstate()[1])],
                "metric": [fit.callback_metrics["val_loss"]],
                "flags": [torch.tensor([module.training for module in model.modules()])],
                "hooks": [torch.tensor([len(module._forward_hooks) for module in model.modules()])],
                "attributes": [torch.tensor([len(vars(module)) for module in model.net.modules()])],
            }
        )
    plain, watched = ends
    same = [bool(plain[name]) and all(map(torch.equal, plain[name], watched[name])) for name in plain]
    everywhere = torch.tensor(same, dtype=torch.int64)
    torch.distributed.all_reduce(everywhere, op=torch.distributed.ReduceOp.MIN)
    return dict(zip(plain, map(bool, everywhere.tolist()), strict=True))


def tensors(state: Any) -> list[Tensor]:
    """All tensors in nested dicts, in order."""
    if isinstance(state, dict):
        return [tensor for value in state.values() for tensor in tensors(value)]
    return [state.detach()] if isinstance(state, Tensor) else []


def failing(ranks: int, folder: Path) -> dict[str, list[bool]]:
    """Which validations each monitor survived: in the second, the last rank fails at different moments."""
    sink = Numbers()
    options = {"reading": FIXED, "between": FIXED, "adaptive": {"tolerance": 1e-3}, "whole": FIXED}
    monitors = {n: AttributionMonitor(IG, probe_size=8, name=n, sinks=[sink], options=o) for n, o in options.items()}
    spoil(monitors["reading"], monitors["reading"]._probe, "see", 1)
    spoil(monitors["between"], monitors["between"]._explainer, "explained", 2)
    spoil(monitors["adaptive"], monitors["adaptive"]._explainer, "module", 2)
    fit = trainer(ranks, folder, list(monitors.values()))
    fit.fit(Sharded(), loader(), loader())
    drift = {name: [v for _, n, v in sink.records if n == f"{name}/drift/{IG}/cosine/first/mean"] for name in options}
    return {name: [value == value for value in values] for name, values in drift.items()}


def spoil(monitor: AttributionMonitor, owner: Any, name: str, call: int) -> None:
    """Let a method fail on the last rank in a ``call`` of the second validation of ``monitor``."""
    original, calls = getattr(owner, name), []

    def spoilt(*args: Any, **more: Any) -> Any:
        look, last = monitor._look, torch.distributed.get_rank() == torch.distributed.get_world_size() - 1
        if last and look is not None and look.number == 2:
            calls.append(name)
            if len(calls) == call:
                raise ValueError("planted failure on the last rank")
        return original(*args, **more)

    setattr(owner, name, spoilt)


def broken(ranks: int, folder: Path) -> None:
    """The network itself fails on rank 1, inside of a pass that the others make too."""

    class Broken(Sharded):
        def forward(self, x: Tensor) -> Tensor:
            found = self.net(x)
            if torch.is_grad_enabled() and not self.training and self.trainer.current_epoch and self.global_rank:
                # rank zero goes backward now, for which it gathers weights anew
                raise ValueError("planted failure inside of a pass")
            return found

    fit = trainer(ranks, folder, [AttributionMonitor(IG, probe_size=8)])
    fit.fit(Broken(), loader(), loader())


def resumed(ranks: int, folder: Path) -> dict[str, Any]:
    """A training of four epochs, and one that stops after two and goes on."""
    ends = {}
    for name, stops in (("whole", [4]), ("halves", [2, 4])):
        for last in stops:
            gate = GatedCheckpoint("val_loss", dirpath=folder / name, at_most={FLOOR: 0.9}, utility_floor=False)
            monitors = [AttributionMonitor("saliency", probe_size=8), FairnessMonitor({"sex": ["F", "M"]}), gate]
            model, fit = Sharded(), trainer(ranks, folder, monitors, max_epochs=last)
            begun = folder / name / "last.ckpt"
            fit.fit(model, loader(), loader(), ckpt_path=begun if last != stops[0] else None)
        lines = (folder / name / "gate_audit.jsonl").read_text().splitlines()
        weights = torch.cat([weight.full_tensor().detach().flatten() for weight in model.parameters()])
        decisions = [line for line in map(json.loads, lines) if "gate" in line]
        ends[name] = {"audit": decisions, "weights": weights.tolist()}
        ends[name] |= {"best": Path(gate.best_model_path).name, "folder": str(folder / name)}
        ends[name]["drift"] = {n: float(v) for n, v in fit.callback_metrics.items() if n.startswith("drift/")}
    return ends


SCENARIOS: dict[str, Callable[[int, Path], Any]] = {
    "values": values,
    "untouched": untouched,
    "failing": failing,
    "broken": broken,
    "resumed": resumed,
    **sharded_methods.SCENARIOS,
}


def main() -> None:
    """Run the scenarios one after the other, and print what rank zero has of each."""
    ranks, folder, names = int(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]
    found = {name: SCENARIOS[name](ranks, folder / name) for name in names}
    if torch.distributed.get_rank() == 0:
        print("RESULT " + json.dumps(found), flush=True)


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
