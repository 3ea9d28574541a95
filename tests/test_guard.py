"""What the guard puts back, and what it cannot and says so (law 1)."""

import random
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from xai_lightning.callbacks._guard import Hooks, described, explaining
from xai_lightning.callbacks._restored import restored


class Holder(nn.Module):
    """Holds one thing, and does something to it in forward."""

    def __init__(self, thing: Any, act: Any) -> None:
        super().__init__()
        self.register_buffer("steps", torch.zeros(2))
        self.layer = nn.Linear(2, 2)
        self.thing, self.act = thing, act

    def forward(self, x: Tensor) -> Tensor:
        self.act(self)
        return self.layer(x)


CASES: dict[str, tuple[Any, Any, Any]] = {
    "buffer through .data": (None, lambda m: m.steps.data.add_(1), lambda m: m.steps.tolist()),
    "torch generator": (
        torch.Generator().manual_seed(3),
        lambda m: torch.rand(1, generator=m.thing),
        lambda m: m.thing.get_state().tolist(),
    ),
    "numpy generator": (np.random.default_rng(3), lambda m: m.thing.random(), lambda m: m.thing.bit_generator.state),
    "python generator": ([random.Random(3)], lambda m: m.thing[0].random(), lambda m: m.thing[0].getstate()),
    "nested list": ({"a": [[1]]}, lambda m: m.thing["a"][0].append(2), lambda m: repr(m.thing)),
    "list in a tuple": (([],), lambda m: m.thing[0].append(2), lambda m: repr(m.thing)),
    "new attribute": (None, lambda m: setattr(m, "cache", 1), lambda m: hasattr(m, "cache")),
    "sparse tensor": (torch.eye(2).to_sparse(), lambda m: None, lambda m: m.thing.to_dense().tolist()),
}


@pytest.mark.parametrize("case", CASES)
def test_what_a_forward_does_under_explanation_is_undone(case: str) -> None:
    thing, act, look = CASES[case]
    module = Holder(thing, act)
    before = look(module)
    with explaining(module):
        module(torch.ones(1, 2))
    assert look(module) == before


def test_a_module_hidden_in_a_list_is_evaluated_and_put_back() -> None:
    hidden = nn.BatchNorm1d(2)
    module = Holder([hidden], lambda m: m.thing[0](torch.randn(4, 2)))
    with explaining(module):
        assert not hidden.training
        module(torch.ones(1, 2))
    assert hidden.training
    assert int(hidden.num_batches_tracked) == 0


@pytest.mark.parametrize("around", [torch.inference_mode, torch.no_grad])
def test_inference_mode_is_left_and_gradients_are_on_until_the_end(around: Any) -> None:
    """Trap 1: whatever mode the evaluation around it is in."""
    module = Holder(None, lambda m: None)
    with around():
        with explaining(module):
            x = torch.ones(1, 2, requires_grad=True)
            (gradient,) = torch.autograd.grad(module(x).sum(), x)
            assert torch.equal(gradient, module.layer.weight.sum(0, keepdim=True))
        assert torch.is_inference_mode_enabled() == (around is torch.inference_mode)
        assert not torch.is_grad_enabled()


@pytest.mark.parametrize("fails", [False, True])
def test_the_global_generators_go_on_from_where_they_were(fails: bool) -> None:
    """Trap 34: those of torch, numpy and python; inside they are seeded."""

    def draw(_: Any = None) -> tuple[float, float, float]:
        return float(torch.rand(())), float(np.random.rand()), random.random()

    def start() -> None:
        torch.manual_seed(2)
        np.random.seed(2)
        random.seed(2)

    drawn: list[tuple[float, float, float]] = []
    module = Holder(None, lambda m: drawn.append(draw()) or ({}["planted"] if fails else None))
    start()
    expected = draw()
    start()
    with pytest.raises(KeyError, match="planted") if fails else nullcontext(), explaining(module, seed=1):
        module(torch.ones(1, 2))
    with explaining(module, seed=1):
        drawn.append(draw())
    assert draw() == expected
    assert drawn[0] == drawn[1], "seeded alike"


@pytest.mark.parametrize("write", ["data", "grad"])
def test_a_changed_parameter_or_gradient_is_an_error(write: str) -> None:
    """Trap 35: a method that calls ``backward`` would add to gradients that are half accumulated."""
    module = Holder(None, lambda m: None)

    def change() -> None:
        if write == "data":
            module.layer.weight.data.mul_(2)
        else:
            module.layer.weight.grad = torch.ones(2, 2)

    with pytest.raises(RuntimeError, match=r"cannot be undone.*Linear"), restored(module):
        change()


def test_a_container_that_cannot_be_put_back_hinders_no_other_module() -> None:
    class Frozen(dict[str, int]):
        def clear(self) -> None:
            raise TypeError("frozen")

    module = nn.Sequential(Holder(Frozen(a=1), lambda m: m.thing.update(b=2)), nn.Dropout())
    with pytest.raises(RuntimeError, match=r"Holder \(TypeError\('frozen'\)\)"), explaining(module):
        module(torch.ones(1, 2))
    assert module[1].training


def test_a_failure_is_told_with_its_file_and_the_line_that_raised_it(tmp_path: Path) -> None:
    """Trap 49: which folder is full is what the user needs to know."""
    with pytest.raises(FileNotFoundError) as nowhere:
        (tmp_path / "none" / "file").open()
    assert f" on '{tmp_path / 'none' / 'file'}' (pathlib.py, line " in described(nowhere.value)
    assert described(OSError(28, "full")) == "OSError(28, 'full')"
    assert described(ValueError("no")) == "ValueError('no')"


def test_an_error_is_described_with_its_cause() -> None:
    """A logger may say that a number cannot be logged where its disk is full."""
    error = ValueError("no")
    error.__cause__ = OSError(28, "full", "log")
    assert described(error) == "ValueError('no'), because of OSError(28, 'full') on 'log'"


def test_a_hook_that_is_made_once_is_called_in_each_step_and_gone_after_it() -> None:
    """Traps 9, 57 and 97: after others, wherever it is put, and with the module that took the place of the first."""
    modules, calls, hooks = [nn.Linear(2, 2), nn.Linear(2, 2)], [], Hooks()
    made = hooks.made(lambda module, args, kwargs, output: calls.append(modules.index(module)))
    for step in (0, 0, 1, 1, 0):
        other = modules[step].register_forward_hook(lambda *_: calls.append("other"))
        hooks.attach(modules[step], made)
        for module in modules:
            module(torch.zeros(1, 2))
        assert calls == ["other", step]
        hooks.remove()
        other.remove()
        calls.clear()
        for module in modules:
            assert not module._forward_hooks
            assert not module._forward_hooks_with_kwargs
            module(torch.zeros(1, 2))
        assert calls == []
