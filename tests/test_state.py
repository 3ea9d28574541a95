"""States of another release, unknown parts of a state, and damaged ones: a warning, and the training goes on."""

import copy
import math
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch

from small import Classifier, fit
from test_laws import build
from traced import NAMES, bits

Damage = tuple[str, dict[str, Any]]
SEEN = {
    "AttributionMonitor": "references missing",
    "ActivationMonitor": "number a text",
    "FairnessMonitor": "spent a text",
    "GatedCheckpoint": "looks a text",
}
each_callback = pytest.mark.parametrize("name", NAMES)


def part_of(name: str, state: dict[str, Any]) -> dict[str, Any]:
    """What this package keeps in the state of a callback."""
    return state["gate"] if name == "GatedCheckpoint" else state


@pytest.fixture(scope="module")
def states(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """The state of every callback after a validation, as it is in a checkpoint."""
    folder = tmp_path_factory.mktemp("states")
    callbacks = build("all")
    made = fit(Classifier(), callbacks, folder, max_epochs=1)
    made.save_checkpoint(folder / "saved.ckpt")
    saved = torch.load(folder / "saved.ckpt", weights_only=True)["callbacks"]
    return {type(callback).__name__: saved[callback.state_key] for callback in callbacks}


def loaded(name: str, state: dict[str, Any]) -> tuple[pl.Callback, list[str]]:
    """A new callback that was handed ``state``, and what was warned of."""
    [callback] = build(name)
    callback._entry = "fit"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        callback.load_state_dict(copy.deepcopy(state))
    about_us = [str(warning.message) for warning in caught if "dirpath" not in str(warning.message)]
    return callback, about_us


def own_bits(name: str, callback: pl.Callback) -> dict[str, Any]:
    found = bits(part_of(name, callback.state_dict()))
    # error that was spent before and is not known counts as all of it; a gate says what it does not know
    return {key: value for key, value in found.items() if key not in ("spent", "horizon", "feedback")}


def goes_on(callback: pl.Callback, folder: Path) -> dict[str, Any]:
    """The metrics of a training with the callback; any warning is an error, but that a gate passes nothing."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="No checkpoint passed|.*exists and is not empty")
        return dict(fit(Classifier(), [callback], folder, max_epochs=1).callback_metrics)


@each_callback
def test_a_state_is_taken_up_without_a_word(name: str, states: dict[str, dict[str, Any]]) -> None:
    callback, said = loaded(name, states[name])
    assert said == []
    assert bits(part_of(name, callback.state_dict())) == bits(part_of(name, states[name]))


@each_callback
@pytest.mark.parametrize("version", [99, None, "1"])
def test_a_state_of_another_version_is_ignored_with_one_warning(
    name: str, version: Any, states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Trap 53: it names the callback and the version."""
    state = copy.deepcopy(states[name])
    part_of(name, state)["version"] = version
    callback, said = loaded(name, state)
    assert said == [f"{name}: ignored a state of version {version!r}; this release reads 1"]
    [fresh] = build(name)
    assert own_bits(name, callback) == own_bits(name, fresh)
    if version == 99:
        assert goes_on(callback, tmp_path)["xai/errors" if name != "GatedCheckpoint" else "val_loss"] >= 0


@each_callback
def test_unknown_parts_of_a_state_are_named_and_the_rest_is_taken_up(
    name: str, states: dict[str, dict[str, Any]]
) -> None:
    """Trap 53."""
    state = copy.deepcopy(states[name])
    part_of(name, state).update(later=[1], also=2)
    callback, said = loaded(name, state)
    assert said == [f"{name}: ignored unknown parts of a state of version 1: also, later"]
    assert bits(part_of(name, callback.state_dict())) == bits(part_of(name, states[name]))


def damaged(name: str, state: dict[str, Any]) -> Iterator[Damage]:
    """The state with each of its parts in turn missing, or of another type."""
    for key in part_of(name, state):
        if key != "version":
            # without these it is that of an earlier release
            for what in ("missing",) * (key not in ("versions", "making")) + ("a text", "a number"):
                again = copy.deepcopy(state)
                own = part_of(name, again)
                if what == "missing":
                    del own[key]
                else:
                    own[key] = "rubbish" if what == "a text" else 0.5
                yield f"{key} {what}", again


@each_callback
def test_no_damage_to_a_state_is_more_than_one_warning(name: str, states: dict[str, dict[str, Any]]) -> None:
    """Trap 53: what is damaged is ignored as a whole, so that no half of it is left."""
    [fresh] = build(name)
    ignored = []
    for what, state in damaged(name, states[name]):
        callback, said = loaded(name, state)
        assert len(said) <= 1, (what, said)
        if said:
            assert said[0].startswith(f"{name}: ignored a damaged state of version 1: "), (what, said)
            assert own_bits(name, callback) == own_bits(name, fresh), what
            ignored.append(what)
    assert ignored
    for whole in (7, ["rubbish"], torch.zeros(2, 2)):
        state = {**states[name], "gate": whole} if name == "GatedCheckpoint" else whole
        _, said = loaded(name, state)
        assert said == [f"{name}: ignored a damaged state: expected a dict; got {str(whole)!r}"]


@each_callback
@pytest.mark.parametrize("number", [math.inf, 10**400, torch.zeros(2, 2)], ids=["infinite", "too large", "a tensor"])
def test_no_number_in_a_state_is_an_error(name: str, number: Any, states: dict[str, dict[str, Any]]) -> None:
    """Trap 53: wherever it stands, the version included."""
    for key in part_of(name, states[name]):
        state = copy.deepcopy(states[name])
        part_of(name, state)[key] = number
        told = [text for text in loaded(name, state)[1] if text.startswith(name)]
        assert len(told) <= 1, (key, told)
        assert told or key != "version"


def test_a_training_goes_on_after_a_damaged_state(states: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    for name in NAMES:
        callback, said = loaded(name, dict(damaged(name, states[name]))[SEEN[name]])
        assert len(said) == 1
        goes_on(callback, tmp_path / name)


def test_error_that_was_spent_before_and_cannot_be_read_counts_as_all_of_it(
    states: dict[str, dict[str, Any]], tmp_path: Path
) -> None:
    """Nothing is promised over again: bounds are infinite, and gates on them closed."""
    callback, _ = loaded("FairnessMonitor", {**states["FairnessMonitor"], "version": 99})
    bounds = {name: float(value) for name, value in goes_on(callback, tmp_path).items() if name.endswith("/bound")}
    assert bounds
    assert all(math.isinf(value) or math.isnan(value) for value in bounds.values()), bounds
