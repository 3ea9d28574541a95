"""Hostile and odd input: what comes out is a result, or an error of ours that says what was refused."""

import inspect
import json
import math
import time
import tracemalloc
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

import xai_lightning
from hostile import FEW, FLOATS, MANY, NUMBERS, TEXTS, THINGS, WHOLE, circular, deep, refused, tensors
from xai_lightning import FairnessMonitor, tags
from xai_lightning.callbacks._fairness.counted import subject_names
from xai_lightning.functional import drift, gate, intervals, render
from xai_lightning.functional.fairness import count
from xai_lightning.readers import Bins, Outputs, Sample, read, target_of
from xai_lightning.readers.groups import vocabularies
from xai_lightning.readers.predictions import check_space, decide, decide_labels, labels_of, numbers_of, targets_of
from xai_lightning.verify.__main__ import main

PUBLIC: dict[str, dict[str, Any]] = {
    "ActivationMonitor": {},
    "AttributionMonitor": {},
    "FairnessMonitor": {"groups": {"sex": ["Female", "Male"]}},
    "GatedCheckpoint": {"at_least": {"val_acc": 0.0}},
}
SETTINGS = [(name, p) for name in PUBLIC for p in inspect.signature(getattr(xai_lightning, name)).parameters]
SPACES = st.sampled_from(["logits", "probabilities", "labels", "values"])
LIMITS = st.dictionaries(st.one_of(TEXTS, WHOLE), st.one_of(NUMBERS, TEXTS), max_size=4)
NAMES = st.lists(st.one_of(TEXTS, st.sampled_from(["x", "x/y", "x_y", " x", "x "])), max_size=5)
ODD = {
    "an array": torch.zeros(2, 2),
    "an array of numpy's": np.zeros((2, 2)),
    "an object": object(),
    "NaN": math.nan,
    "a huge number": 10**400,
    "a surrogate": "\ud800",
    "bytes": b"x",
    "a type": int,
    "a function": lambda *_: 1,
    "a negative number": -1,
    "nothing": None,
    "an empty list": [],
    "an empty mapping": {},
    "a list of lists": [[]],
    "a mapping of numbers": {1: 2},
    "a set": {1},
    "a mapping to a number": {"sex": 5},
    "a mapping to None": {"sex": ["a", None]},
    "a triple": ("a", "b", "c"),
    "a deep list": deep(5000),
    "a circle": circular(),
}

# --- batches


def reads(batch: Any) -> None:
    refused(read, batch)
    refused(read, batch, {"input": "x", "target": 1, "sex": len})


def encodes(values: Any) -> None:
    """Every declaration of groups gives an index in its rows, one for each value, or refuses."""
    for declared in (["F", "M"], {0: "F", 1: "M", "x": "X"}, Bins([0, 1.5])):
        for undeclared in ("error", "unknown"):
            vocabulary = vocabularies({"sex": declared}, undeclared)["sex"]  # type: ignore[arg-type]
            found: list[Tensor] = []
            if refused(lambda v=vocabulary, f=found: f.append(v.encode(values))) is None:
                assert found[0].dtype == torch.int64
                assert bool(((found[0] >= 0) & (found[0] < len(vocabulary.rows))).all())


def judges(outputs: Tensor, space: Any, given: Tensor | None) -> None:
    how = Outputs.of(space, None)
    for action in (check_space, lambda x, _: decide_labels(x, how), lambda x, _: numbers_of(x, "prediction")):
        refused(action, outputs, space)
    made: list[Any] = []
    if refused(lambda: made.append(decide(outputs, how))) is None and space == "logits":
        classes, finite, number = made[0][:3]
        assert bool(((classes >= 0) & (classes < number)).all())
        assert len(finite) == len(outputs)
    held: list[Tensor] = []
    refused(lambda: held.append(target_of(Sample(outputs, given))))
    for targets in held:
        refused(targets_of, targets, 3)
        refused(labels_of, targets, tuple(outputs.shape))


def counts(predictions: Tensor, targets: Tensor, groups: Tensor) -> None:
    made: list[Tensor] = []
    if refused(lambda: made.append(count(predictions, targets, groups, classes=3, n_groups=2))) is None:
        assert int(made[0].sum()) == predictions.numel()


def declares(declared: Any, undeclared: Any) -> None:
    refused(vocabularies, {"sex": declared}, undeclared)
    refused(vocabularies, declared)
    refused(Bins, declared)


# --- gates


def limits(at_most: Any, at_least: Any, metrics: Mapping[Any, Any], fresh: Any) -> None:
    made: list[Any] = []
    if refused(lambda: made.append(gate.limits(at_most, at_least))) is not None:
        return
    verdict = gate.decide(made[0], metrics, fresh)
    for check in verdict.checks:
        known = check.name in fresh and check.name in metrics and math.isfinite(metrics[check.name])
        held = known and {"at_most": 1, "at_least": -1}[check.kind] * (metrics[check.name] - check.threshold) <= 0
        assert check.passed == held, check
    assert verdict.open == all(check.passed for check in verdict.checks)
    assert (verdict.violation == 0) == verdict.open


# --- names


def names_of(groups: Any, metrics: Any = None) -> set[str] | None:
    """All names that a monitor of such groups logs; None if they are refused."""
    made: list[FairnessMonitor] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if refused(lambda: made.append(FairnessMonitor(groups, metrics=metrics))) is not None:
            return None
    shared, direct = made[0].logged_names()
    assert len({*shared, *direct}) == len(shared) + len(direct), "two things under one name"
    assert list(subject_names(made[0].asked, made[0]._batches)) == list(groups)
    return {*shared, *direct}


def keeps_names_apart(first: list[str], second: list[str]) -> None:
    """Law 4: no name is a path prefix of another, and no two groups have one name."""
    found = names_of({"a": first, "a/b": second}, ["demographic_parity_difference"])
    if found is not None:
        assert tags.prefixes(found) == []
        assert {f"count/a/{tags.part(group)}" for group in first} <= found
        assert len({tags.part(group) for group in first}) == len(first)


# --- numbers


def drifts(current: Tensor, reference: Tensor) -> None:
    for name, measure in drift.MEASURES.items():
        made: list[Tensor] = []
        if refused(lambda m=measure, f=made: f.append(m(current, reference))) is not None:
            continue
        found, finite = made[0], current.isfinite().all(dim=1) & reference.isfinite().all(dim=1)
        assert found.shape == current.shape[:1]
        assert not bool((found < 0).any()), name
        assert bool(found[~finite].isnan().all()), name
        assert bool((measure(current, current)[finite[: len(current)]] == 0).all()), name
    refused(drift.summarise, current.flatten())


def bounds(successes: Tensor, totals: Tensor, error: Any) -> None:
    for of in (intervals.wilson, intervals.clopper_pearson):
        made: list[Any] = []
        if refused(lambda f=of, m=made: m.append(f(successes, totals, error))) is None:
            lower, upper = made[0]
            assert not bool((lower > upper).any())


def draws(maps: Tensor) -> None:
    refused(render.colour_scale, maps)
    if refused(render.colour_scale, maps) is None and maps.ndim == 4 and len(maps):
        picture = render.attribution_grid(maps, maps, maps, labels=["a"] * len(maps), scale=1.0)
        assert picture.dtype == np.uint8


# --- files


def verifies(folder: Path, content: bytes) -> None:
    """A checkpoint, or the evidence beside it, of any bytes: never passed, and never a traceback."""
    checkpoint = folder / "some.ckpt"
    for verdict in (None, content):
        checkpoint.write_bytes(content)
        beside = folder / "some.verdict.json"
        beside.unlink(missing_ok=True)
        if verdict is not None:
            beside.write_bytes(verdict)
        assert main([str(checkpoint)]) in (1, 2)
        assert main([str(checkpoint), "--json"]) in (1, 2)


FIELDS = ["format", "gate", "checks", "reason", "monitors", "role"]
JSONS = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=4)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3),
        st.dictionaries(st.one_of(st.sampled_from(FIELDS), TEXTS), inner, max_size=4),
    ),
    max_leaves=8,
)
CONTENTS = st.one_of(st.binary(max_size=40), JSONS.map(lambda x: json.dumps(x).encode()))
VECTORS = st.sampled_from([0, 1, 3]).map(lambda n: [n])
PROPERTIES: dict[str, tuple[Callable[..., None], tuple[Any, ...]]] = {
    "batches": (reads, (THINGS,)),
    "group values": (encodes, (st.one_of(THINGS, tensors(VECTORS)),)),
    "outputs and targets": (judges, (tensors(), SPACES, st.none() | tensors())),
    "counts": (counts, (tensors(VECTORS), tensors(VECTORS), tensors(VECTORS))),
    "declarations": (declares, (THINGS, THINGS)),
    "limits": (
        limits,
        (
            st.one_of(LIMITS, THINGS),
            st.one_of(LIMITS, st.none()),
            st.dictionaries(TEXTS, FLOATS, max_size=4),
            st.sets(TEXTS, max_size=4),
        ),
    ),
    "names": (keeps_names_apart, (NAMES, NAMES)),
    "maps": (drifts, (tensors(st.just([2, 3])), tensors(st.just([2, 3])))),
    "proportions": (bounds, (tensors(VECTORS), tensors(VECTORS), FLOATS)),
    "pictures": (draws, (tensors(st.just([1, 1, 3, 3])),)),
}


def check(name: str, how: Any) -> None:
    action, values = PROPERTIES[name]

    def holds(*drawn: Any) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            action(*drawn)

    # hypothesis reads the arguments off a signature
    holds.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter(f"x{i}", inspect.Parameter.POSITIONAL_OR_KEYWORD) for i in range(len(values))]
    )
    how(given(*values)(holds))()


@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_comes_in_a_result_or_an_error_of_ours_comes_out(name: str) -> None:
    check(name, FEW)


@pytest.mark.slow
@pytest.mark.parametrize("name", PROPERTIES)
def test_whatever_comes_in_many_times_over(name: str) -> None:
    check(name, MANY)


@pytest.mark.parametrize(
    "groups", [["x", "x/y"], ["", "/"], ["x", "x/", "x/y/z"], ["é", "e\u0301"], ["\ud800", "\x00"]]
)
def test_groups_of_which_one_begins_like_another_stay_apart(groups: list[str]) -> None:
    keeps_names_apart(groups, groups[::-1])


def configure(name: str, setting: str, value: Any) -> None:
    also = (ImportError,) if setting == "method" else ()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused(getattr(xai_lightning, name), **{**PUBLIC[name], setting: value}, also=also)


@pytest.mark.parametrize("name", PUBLIC)
@pytest.mark.parametrize("value", ODD)
def test_every_setting_of_every_callback_takes_or_refuses_odd_values(name: str, value: str) -> None:
    """Neither an error of Python's or torch's own comes out, nor a recursion without end."""
    for setting in (p for callback, p in SETTINGS if callback == name):
        configure(name, setting, ODD[value])


def test_every_public_callback_is_configured() -> None:
    found = [getattr(xai_lightning, name) for name in xai_lightning.__all__]
    callbacks = {x.__name__ for x in found if hasattr(x, "on_validation_end") and isinstance(x, type)}
    assert callbacks == set(PUBLIC)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "setting"), SETTINGS)
def test_every_setting_takes_or_refuses_anything(name: str, setting: str) -> None:
    # hundreds of constructors, each with its checks
    @FEW
    @given(THINGS)
    def holds(value: Any) -> None:
        configure(name, setting, value)

    holds()


@pytest.mark.parametrize(
    "value", [b"", b"{", b"null", b"[" * 5000, b'{"format": 1e999}', b'{"a": 1, "a": 2}', b"\xff\xfe"]
)
def test_bytes_that_are_no_evidence_pass_nothing(value: bytes, tmp_path: Path) -> None:
    verifies(tmp_path, value)


def test_any_bytes_pass_nothing(tmp_path: Path) -> None:
    @FEW
    @given(CONTENTS)
    def holds(content: bytes) -> None:
        verifies(tmp_path, content)

    holds()


def test_ten_thousand_groups_take_bounded_time_and_memory() -> None:
    groups = [f"g/{i}" for i in range(10_000)]
    tracemalloc.start()
    began = time.process_time()
    vocabulary = vocabularies({"group": groups})["group"]
    found = vocabulary.encode(torch.arange(10_000))
    names = names_of({"group": groups}, ["demographic_parity_difference"])
    taken, (_, most) = time.process_time() - began, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert torch.equal(found, torch.arange(10_000))
    assert names is not None
    assert tags.prefixes(names) == []
    assert taken < 20
    assert most < 200 * 2**20
