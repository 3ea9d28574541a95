"""Law 1 over a covering array of what a training can be; with ``MATRIX=3/100`` over a part of the whole product."""

import itertools
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.utilities.exceptions import MisconfigurationException

import xai_lightning
from covering import EXCLUDED, FACTORS, covering_array, is_permitted, name_of, part, product
from matrix import differing, refused, run, watching
from traced import NAMES, differences

PART = os.environ.get("MATRIX", "")
ARRAY = covering_array()
CELLS = part(PART) if PART else ARRAY

pytestmark = [
    pytest.mark.filterwarnings("ignore:Your `.*_dataloader`'s sampler has shuffling enabled:UserWarning"),
    # where a part is compiled, activations are watched in the rest
    pytest.mark.filterwarnings("ignore:ActivationMonitor leaves out modules inside a compiled module:UserWarning"),
    # dynamo looks at the loss of a whole module, watched or not
    pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf Tensor:UserWarning"),
]

PLAIN = {name: values[0] for name, values in FACTORS.items()}
BUSY = {**PLAIN, "accumulation": "4", "layers": "batchnorm", "averaging": "EMA", "sanity_steps": "2"}


def cases() -> list[Any]:
    """All cells take a minute: but for a few of the quickest they are for the slow tests."""
    quick = [cell for cell in CELLS if cell["entry"] == "validate" and cell["compiled"] == "nothing"][:4]
    marks = {id(cell): () if cell in quick else pytest.mark.slow for cell in CELLS}
    return [pytest.param(cell, id=name_of(cell), marks=marks[id(cell)]) for cell in CELLS]


@pytest.mark.parametrize("cell", cases())
def test_all_callbacks_together_change_nothing(cell, tmp_path):
    """Law 1. Traps 1, 20, 22, 34, 35, 46, 47 and 60: bit for bit the same without them."""
    assert differing(cell, tmp_path) == []


# --- the array


def test_every_permitted_pair_of_values_occurs_in_at_most_sixty_cells():
    """Under every entry point for which it is permitted, so that no pair occurs only where a factor is idle."""
    excluded = {frozenset((x.one, x.other)) for x in EXCLUDED}
    assert len(ARRAY) <= 60
    for one, other in itertools.combinations(FACTORS, 2):
        for a, b in itertools.product(FACTORS[one], FACTORS[other]):
            if {(one, a), (other, b)} in excluded:
                continue
            entries = {cell["entry"] for cell in ARRAY if cell[one] == a and cell[other] == b}
            shut = {x.one[1] for x in EXCLUDED if x.other in ((one, a), (other, b))}
            wanted = {a} if one == "entry" else set(FACTORS["entry"]) - shut
            assert entries == wanted, f"{one}={a} with {other}={b}"


def test_no_cell_of_the_array_holds_values_that_exclude_each_other():
    assert all(cell.keys() == FACTORS.keys() and is_permitted(cell) for cell in ARRAY)
    assert not is_permitted({"entry": "test", "sanity_steps": "2"})


def test_the_array_is_the_same_at_each_call():
    assert covering_array() == ARRAY
    assert covering_array(seed=1) != ARRAY


@pytest.mark.slow
def test_parts_of_the_product_are_all_of_it():
    whole = {name_of(cell) for cell in product()}
    told = (Path(__file__).parents[1] / "Makefile").read_text()
    assert f"{len(whole):,} combinations" in told
    assert f"make test {len(ARRAY)} of them" in told
    assert set().union(*({name_of(cell) for cell in part(f"{i}/7")} for i in range(1, 8))) == whole
    assert sum(len(part(f"{i}/7")) for i in range(1, 8)) == len(whole)
    with pytest.raises(ValueError, match="from 1 on; got '8/7'"):
        part("8/7")


@pytest.mark.parametrize("exclusion", EXCLUDED, ids=lambda x: f"{x.one[1]} and {'='.join(x.other)}")
def test_values_that_exclude_each_other_do_so_for_a_real_reason(exclusion, tmp_path):
    """The second has no effect under the first, and one where it is permitted."""
    name, value = exclusion.other
    assert exclusion.reason
    for entry in (exclusion.one[1], "fit"):
        cell = {**PLAIN, "entry": entry}
        found = [run({**cell, name: x}, [], tmp_path / x) for x in (FACTORS[name][0], value)]
        setting = {"trainer: accumulate_grad_batches"} if name == "accumulation" else set()
        idle = not set(differences(found[1], found[0])) - setting
        assert idle == (entry != "fit")


def test_every_public_callback_is_there(tmp_path):
    assert [type(callback).__name__ for callback in watching(PLAIN, tmp_path)] == NAMES


def test_what_has_no_place_where_all_is_compiled_is_refused_by_name(tmp_path):
    """Trap 22: the other callbacks are there."""
    cell = {**PLAIN, "compiled": "whole", "entry": "validate"}
    kinds = {type(callback).__name__ for callback in watching(cell, tmp_path)}
    assert kinds == set(NAMES) - refused(cell)
    for name in refused(cell):
        with pytest.raises(MisconfigurationException, match=rf"{name} cannot watch .* compiled module.*net\.head\.1"):
            run(cell, [getattr(xai_lightning, name)()], tmp_path)


@pytest.mark.parametrize("compiled", FACTORS["compiled"])
def test_something_is_compiled_wherever_a_cell_says_so(compiled, tmp_path):
    """Else a cell would only repeat another one."""
    found = run({**PLAIN, "compiled": compiled, "entry": "validate"}, [], tmp_path)
    graphs = dict(found.get("compilations at the end", {}).get("stats", [])).get("unique_graphs", 0)
    assert (graphs > 0) == (compiled != "nothing")


def test_gradients_are_pending_at_a_validation_in_mid_accumulation(tmp_path):
    """Trap 35: automatic or by hand; else nobody would see them destroyed."""
    for optimization in FACTORS["optimization"]:
        found = run({**PLAIN, "accumulation": "4", "optimization": optimization}, [], tmp_path)
        pending = found["gradients after an evaluation (1)"]
        assert all(gradient is not None and any(gradient[2]) for gradient in pending.values())


# --- the comparison


def head(module: Any) -> torch.nn.Linear:
    return module.net.head[0]


def norm(module: Any) -> torch.nn.BatchNorm1d:
    return module.net.body[1]


def flip_rows(trainer: Any, module: Any) -> None:
    data = trainer.train_dataloader.dataset
    data.x = data.x.flip(0)


def bump(mapping: Any, name: str) -> None:
    setattr(mapping, name, getattr(mapping, name) + 1)


def rebuild(trainer: Any, module: Any) -> None:
    head(module).bias = torch.nn.Parameter(head(module).bias.detach().clone())


def average(trainer: Any, module: Any) -> None:
    averaging = next(callback for callback in trainer.callbacks if hasattr(callback, "_average_model"))
    averaging._average_model.module.net.head[0].bias.data += 1


def worsen(trainer: Any, module: Any) -> None:
    trainer._results["validation_step.val_loss"].value += 1


def double(trainer: Any, module: Any) -> None:
    if head(module).weight.grad is not None:
        head(module).weight.grad.mul_(2)


# what an observer of the enemy's does in which hook, and what must give it away
PLANTED: dict[str, tuple[str, Callable[[Any, Any], Any], str]] = {
    "weights": ("on_validation_batch_end", lambda t, m: head(m).weight.data.add_(1e-3), "weights after a batch (1)"),
    "buffers": (
        "on_validation_end",
        lambda t, m: m.net.body[1].running_mean.add_(1),
        "buffers after an evaluation (2)",
    ),
    "gradients": ("on_validation_end", double, "gradients after an evaluation (2)"),
    "no gradients": ("on_validation_end", lambda t, m: m.zero_grad(), "gradients after an evaluation (2)"),
    "momentum": ("on_train_end", lambda t, m: t.optimizers[0].state[head(m).bias].clear(), "optimizers"),
    "learning rate": ("on_train_end", lambda t, m: t.optimizers[0].param_groups[0].update(lr=1.0), "optimizers"),
    "requires_grad": ("on_fit_end", lambda t, m: head(m).bias.requires_grad_(False), "requires_grad at the end"),
    "training": ("on_validation_batch_end", lambda t, m: m.net.head.train(), "flags after a batch (1)"),
    "hook": ("on_fit_end", lambda t, m: head(m).register_forward_hook(print), "tables at the end"),
    "attribute": ("on_fit_end", lambda t, m: setattr(m, "extra", 1), "attributes at the end"),
    "torch": ("on_validation_batch_end", lambda t, m: torch.rand(1), "generators after a batch (1)"),
    "numpy": ("on_validation_batch_end", lambda t, m: np.random.rand(), "generators after a batch (1)"),
    "python": ("on_validation_batch_end", lambda t, m: random.random(), "generators after a batch (1)"),
    "data": ("on_train_start", flip_rows, "batches"),
    "parameter": ("on_validation_batch_end", rebuild, "moved"),
    "average": ("on_fit_end", average, "averages"),
    "averaging": ("on_fit_end", lambda t, m: bump(t.callbacks[1], "_latest_update_step"), "averaging"),
    "progress": ("on_fit_end", lambda t, m: bump(t.fit_loop.epoch_progress.total, "ready"), "progress"),
    "step": ("on_validation_start", lambda t, m: bump(t.fit_loop.epoch_loop, "_batches_that_stepped"), "progress"),
    "stop": ("on_fit_end", lambda t, m: setattr(t, "should_stop", True), "trainer: should_stop"),
    "state": ("teardown", lambda t, m: setattr(t.state, "fn", None), "state"),
    "metric": ("on_validation_batch_end", worsen, "callback_metrics: val_loss"),
    "new metric": ("on_validation_epoch_end", lambda t, m: m.log("seen", 1.0), "callback_metrics: seen"),
    "mode": ("on_validation_end", lambda t, m: torch.set_grad_enabled(True), "grad mode after an evaluation (2)"),
}


@pytest.fixture(scope="module")
def busy(tmp_path_factory):
    """A training in which everything that is compared is there."""
    return run(BUSY, [], tmp_path_factory.mktemp("busy"))


def observer(hook: str, change: Callable[[Any, Any], Any]) -> pl.Callback:
    """A callback that makes ``change`` in ``hook``."""

    def act(trainer: Any, module: Any, *args: Any, **more: Any) -> None:
        change(trainer, module)

    made = pl.Callback()
    setattr(made, hook, act)
    return made


@pytest.mark.parametrize("name", PLANTED)
def test_the_comparison_sees_what_an_observer_changes(name, busy, tmp_path):
    hook, change, gives_away = PLANTED[name]
    assert gives_away in differences(run(BUSY, [observer(hook, change)], tmp_path), busy)


def test_two_runs_of_the_same_do_not_differ(busy, tmp_path):
    assert differences(run(BUSY, [pl.Callback()], tmp_path), busy) == []
