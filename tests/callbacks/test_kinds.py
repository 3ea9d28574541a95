"""Every setting of every callback: what it must be is said, what it is not is refused, what it is can be read."""

import copy
import inspect
import pickle
from typing import Any

import numpy as np
import pytest
import torch

import xai_lightning
from small import GROUPS
from xai_lightning import (
    ActivationMonitor,
    AttributionMonitor,
    Column,
    FairnessMonitor,
    GatedCheckpoint,
    MemorySink,
    Table,
)
from xai_lightning.callbacks._kinds import KINDS
from xai_lightning.callbacks._monitor import Monitor

CALLBACKS = (ActivationMonitor, AttributionMonitor, FairnessMonitor, GatedCheckpoint)
NEEDED: dict[type, dict[str, Any]] = {
    FairnessMonitor: {"groups": {"sex": GROUPS}},
    GatedCheckpoint: {"at_least": {"val_acc": 0.5}},
}
SETTINGS = [(made, name) for made in CALLBACKS for name in inspect.signature(made).parameters]
ANY_BATCH = "probe"
"""What a batch may be is known at the first one."""


def attempt(made: Any, **more: Any) -> Any:
    return made(**{**NEEDED.get(made, {}), **more})


def test_all_public_callbacks_are_here():
    public = [getattr(xai_lightning, name) for name in xai_lightning.__all__]
    ours = [x for x in public if isinstance(x, type) and issubclass(x, Monitor | GatedCheckpoint)]
    assert set(CALLBACKS) == set(ours)


@pytest.mark.parametrize(("made", "name"), [(m, n) for m, n in SETTINGS if n != ANY_BATCH])
def test_a_setting_that_is_no_such_thing_is_refused_by_name_in_the_constructor(made, name):
    """Law 8: not by an error of Python's somewhere below, and not in the middle of a training."""
    said = "output space" if (made, name) == (AttributionMonitor, "outputs") else name
    with pytest.raises((TypeError, ValueError), match=rf"\b{said}\b.*object"):
        attempt(made, **{name: object()})


@pytest.mark.parametrize(("made", "name"), [(m, n) for m, n in SETTINGS if n in KINDS])
def test_defaults_are_of_the_kind_that_is_asked_for(made, name):
    default = inspect.signature(made).parameters[name].default
    assert default is inspect.Parameter.empty or KINDS[name].accepts(default)


def test_every_kind_is_that_of_a_setting():
    assert set(KINDS) <= {name for _, name in SETTINGS}


WRONG = {
    "log_inputs": (AttributionMonitor, "False", "True or False; got 'False'"),
    "pictures": (ActivationMonitor, None, "True or False; got None"),
    "dataloader_idx": (ActivationMonitor, 1.5, "a whole number and must not be negative; got 1.5"),
    "share": (ActivationMonitor, "half", "a number; got 'half'"),
    "replicates": (FairnessMonitor, 99.5, "a whole number; got 99.5"),
    "positive_class": (FairnessMonitor, "yes", "a whole number; got 'yes'"),
    "probe_size": (AttributionMonitor, True, "a whole number; got True"),
    "best_of": (AttributionMonitor, "val_loss", r".*such as \('val_loss', 'min'\); got 'val_loss'"),
    "network": (FairnessMonitor, torch.nn.Linear(1, 1), "the name of a submodule.*; got <Linear>"),
    "output_key": (FairnessMonitor, ["logits"], r"the name or position .*; got \['logits'\]"),
    "reader": (FairnessMonitor, "image", "a dict such as .* or a callable; got 'image'"),
    "groups_from": (FairnessMonitor, "sex", "a Column, a Table, .*; got 'sex'"),
    "filename": (GatedCheckpoint, 3, "a string.*; got 3"),
    "save_top_k": (GatedCheckpoint, "all", "a whole number; got 'all'"),
    "sinks": (ActivationMonitor, MemorySink(), r"a list, such as \[MemorySink\(\)\]; got <MemorySink>"),
    "name": (ActivationMonitor, 3, "a string; got 3"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_came_is_shown_beside_what_is_wanted(name):
    made, value, said = WRONG[name]
    with pytest.raises(TypeError, match=f"{name} must be {said}"):
        attempt(made, **{name: value})


@pytest.mark.parametrize(
    ("made", "more"),
    [
        (AttributionMonitor, {"probe_size": np.int64(8), "max_overhead": np.float32(0.5), "log_inputs": np.bool_(0)}),
        (FairnessMonitor, {"threshold": np.float32(0.5), "metrics": ("accuracy_difference",)}),
        (ActivationMonitor, {"layers": (torch.nn.ReLU, "net.*"), "mask": 2}),
        (GatedCheckpoint, {"verbose": 1}),
    ],
)
def test_numbers_of_numpy_tuples_and_flags_as_numbers_are_taken(made, more):
    assert isinstance(attempt(made, **more), made)


def test_a_table_of_no_values_is_refused():
    with pytest.raises(TypeError, match=r"one value per row.*got 5"):
        Table(5)


# --- how they read


def read_all(batch: Any) -> Any:
    return batch


SHOWN = {
    "ActivationMonitor()": ActivationMonitor(),
    "ActivationMonitor(['net.*', ReLU], share=0.5)": ActivationMonitor(["net.*", torch.nn.ReLU], share=0.5),
    "AttributionMonitor('saliency', features={'age': 0, 'job': slice(1, 9, None)})": AttributionMonitor(
        "saliency", features={"age": 0, "job": slice(1, 9)}
    ),
    "AttributionMonitor(baseline=Tensor[6] float32, options={'n_steps': 3})": AttributionMonitor(
        baseline=torch.zeros(6), options={"n_steps": 3}
    ),
    "FairnessMonitor({'sex': ['Female', 'Male']}, groups_from=Column(input=0, index=9), reader=read_all)": (
        FairnessMonitor({"sex": ["Female", "Male"]}, groups_from=Column(0, 9), reader=read_all)
    ),
    "FairnessMonitor({'job': ['a', 'b', 'c', 'd', ...]}, groups_from={'job': Table(900 values)})": FairnessMonitor(
        {"job": list("abcdef")}, groups_from={"job": Table([0] * 900)}
    ),
    "GatedCheckpoint('val_loss', at_least={'val_acc': 0.8}, save_top_k=3)": GatedCheckpoint(
        "val_loss", at_least={"val_acc": 0.8}, save_top_k=3
    ),
}


@pytest.mark.parametrize("shown", SHOWN)
def test_a_callback_shows_the_settings_that_it_was_given(shown):
    made: Any = SHOWN[shown]
    assert repr(made) == shown
    assert repr(copy.deepcopy(made)) == repr(pickle.loads(pickle.dumps(made))) == shown
