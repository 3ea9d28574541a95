"""Generators that explanations seed, and leave as they were, on machines with and without an accelerator."""

import random
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from xai_lightning.functional.rng import isolated


class Device:
    """Generators of an accelerator, each as a number: ``of_one`` as torch.mps has them, else as torch.cuda."""

    def __init__(self, of_one: bool) -> None:
        self.seeds = [11] if of_one else [11, 12]
        if of_one:
            self.get_rng_state, self.set_rng_state = lambda: self.seeds[0], lambda state: self.seed(state)
            self.manual_seed = self.seed
        else:
            self.get_rng_state_all, self.set_rng_state_all = lambda: list(self.seeds), self.put
            self.manual_seed_all = self.seed

    def seed(self, seed: int) -> None:
        """All of them."""
        self.put([seed] * len(self.seeds))

    def put(self, states: list[int]) -> None:
        """One state for each."""
        self.seeds = list(states)


@pytest.fixture(params=[True, False], ids=["one device", "two devices"])
def device(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Device:
    """An accelerator that torch names."""
    found = Device(request.param)
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: True)
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda: SimpleNamespace(type="some"))
    monkeypatch.setattr(torch, "get_device_module", lambda device: found)
    return found


def drawn() -> tuple[Any, ...]:
    """A number of each generator."""
    return random.random(), float(np.random.rand()), float(torch.rand(()))


def test_generators_of_the_accelerator_are_seeded_and_put_back(device: Device) -> None:
    """Trap 34: `torch.manual_seed` seeds every device, so that all of them have to be read before."""
    before = list(device.seeds)
    with isolated(5):
        assert set(device.seeds) == {5}
    assert device.seeds == before
    with pytest.raises(RuntimeError, match="within"), isolated(5):
        raise RuntimeError("within")
    assert device.seeds == before
    with isolated():
        assert device.seeds == before


def test_inside_a_seed_decides_and_outside_nothing_is_changed() -> None:
    """Trap 34: the same numbers inside, and outside those that would have come without."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = [drawn() for _ in range(3)]
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    found, inside = [drawn()], []
    for _ in range(2):
        with isolated(7):
            inside.append(drawn())
        found.append(drawn())
    assert found == expected
    assert inside[0] == inside[1] not in found
    with isolated(7):
        assert float(torch.rand(())) == float(torch.rand((), generator=torch.Generator().manual_seed(7)))


def test_no_device_is_seeded_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """A seed left for a device that is only initialized later would be ours, not that of the training."""
    for name in ("cuda", "mps", "xpu", "mtia"):
        module = getattr(torch, name)
        seed = "manual_seed" if name == "mps" else "manual_seed_all"
        monkeypatch.setattr(module, seed, lambda seed, name=name: pytest.fail(f"{name} was seeded with {seed}"))
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: False)
    with isolated(5):
        pass
