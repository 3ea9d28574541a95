"""How batches, groups and predictions are read."""

import math
from collections import UserDict
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

from xai_lightning.callbacks._positions import Positions
from xai_lightning.functional.attribution import output_tensor
from xai_lightning.readers import (
    Column,
    Outputs,
    Sample,
    Table,
    check_space,
    decide,
    read,
    read_inputs,
    step_output,
    targets_of,
    vocabularies,
)
from xai_lightning.readers.groups import group_values

X, Y = torch.arange(12.0).reshape(4, 3), torch.tensor([0, 1, 0, 1])


@pytest.mark.parametrize(
    "batch",
    [(X, Y), [X, Y], {"x": X, "y": Y}, {"pixel_values": X, "labels": Y}, UserDict(input_ids=X, label=Y), (X, Y, Y)],
    ids=["tuple", "list", "xy", "huggingface", "userdict", "triple"],
)
def test_common_batches_need_no_reader(batch: Any) -> None:
    sample = read(batch)
    assert sample.inputs is read_inputs(batch) is X
    assert sample.targets is Y


@pytest.mark.parametrize(
    ("batch", "reader"),
    [
        ({"img": X, "cls": Y}, {"input": "img", "target": "cls"}),
        ((Y, "name", X), {"input": 2, "target": 0}),
        (SimpleNamespace(a=X, b=Y), {"input": lambda b: b.a, "target": lambda b: b.b}),
        (SimpleNamespace(a=X, b=Y), lambda b: Sample(b.a, b.b)),
    ],
    ids=["names", "positions", "callables", "callable"],
)
def test_a_reader_says_where_things_are(batch: Any, reader: Any) -> None:
    sample = read(batch, reader)
    assert sample.inputs is read_inputs(batch, reader) is X
    assert sample.targets is Y


@pytest.mark.parametrize(
    ("batch", "shown"),
    [
        ({"foo": X}, "'foo': Tensor[4, 3] float32"),
        ((X,), "tuple of 1"),
        (X, "Tensor[4, 3] float32"),
        ("text", "str"),
        ((["a", "b"], Y), "list of 2"),
    ],
    ids=["dict", "single", "tensor", "string", "no tensor"],
)
def test_an_unreadable_batch_shows_what_came_and_how_to_describe_it(batch: Any, shown: str) -> None:
    for reading in (read, read_inputs):
        with pytest.raises(ValueError, match="reader=") as caught:
            reading(batch)
        assert shown in str(caught.value)


def test_a_reader_that_names_what_is_not_there_is_shown() -> None:
    with pytest.raises(ValueError, match="'pixels'"):
        read({"x": X, "y": Y}, {"input": "pixels"})


def test_targets_of_another_length_are_refused() -> None:
    with pytest.raises(ValueError, match=r"one target for each of 4 samples; got Tensor\[3\]"):
        read((X, Y[:3]))


# --- groups

SEX = vocabularies({"sex": ["Female", "Male"]})["sex"]
CODES = vocabularies({"race": {1: "White", 5: "Black"}})["race"]


@pytest.mark.parametrize(
    ("values", "rows"),
    [
        (["Male", "Female", None], [1, 0, 2]),
        (torch.tensor([0, 1, -1]), [0, 1, 2]),
        (torch.tensor([0.0, 1.0, math.nan]), [0, 1, 2]),
        (np.array([1, 0, -1]), [1, 0, 2]),
        (pd.Series(["Female", None, "Male"]), [0, 2, 1]),
        (torch.tensor([True, False]), [1, 0]),
        ([float("nan"), "Male"], [2, 1]),
    ],
    ids=["strings", "ints", "floats", "numpy", "pandas", "bools", "nan"],
)
def test_a_declared_list_matches_strings_and_positions(values: Any, rows: list[int]) -> None:
    """Trap 83: None, NaN and -1 are missing, never dropped."""
    assert SEX.rows == ("Female", "Male", "missing", "unknown")
    assert SEX.encode(values).tolist() == rows


@pytest.mark.parametrize("values", [torch.tensor([5, 1, -1]), [5, 1, None], np.array([5.0, 1.0, np.nan])])
def test_a_declared_dict_matches_codes(values: Any) -> None:
    assert CODES.encode(values).tolist() == [1, 0, 2]


@pytest.mark.parametrize("values", [torch.tensor([0, 2]), ["Female", "Other"], torch.tensor([0.5, 1.0])])
def test_an_undeclared_value_is_an_error_that_shows_it_or_unknown_on_request(values: Any) -> None:
    """Traps 77 and 83."""
    with pytest.raises(ValueError, match=r"undeclared group value (2|'Other'|0\.5)"):
        SEX.encode(values)
    lenient = vocabularies({"sex": ["Female", "Male"]}, "unknown")["sex"]
    assert 3 in lenient.encode(values).tolist()


def test_missing_can_be_declared_a_group_of_its_own() -> None:
    declared = vocabularies({"sex": ["Female", "Male", "missing"]})["sex"]
    assert declared.rows == ("Female", "Male", "missing", "unknown")
    assert declared.encode(torch.tensor([0, -1])).tolist() == [0, 2]


@pytest.mark.parametrize("declared", [[], "Female", [0, 1], ["a", "a"], ["a/b", "a_b"]])
def test_an_ambiguous_declaration_is_refused(declared: Any) -> None:
    with pytest.raises(ValueError, match="sex"):
        vocabularies({"sex": declared})


def test_groups_come_from_the_entry_first_then_from_the_source() -> None:
    batch = {"x": X, "y": Y, "sex": ["Male"] * 4}
    assert group_values(read(batch), batch, "sex", source=lambda _: [0, 0, 0, 0]) == ["Male"] * 4
    plain = (X, Y)
    assert group_values(read(plain), plain, "sex", source=lambda b: b[1] * 0).tolist() == [0, 0, 0, 0]
    assert group_values(read(plain), plain, "sex", source={"sex": Column(0, 1)}).tolist() == X[:, 1].tolist()
    with pytest.raises(ValueError, match="groups_from"):
        group_values(read(plain), plain, "sex")


def test_a_one_hot_column_block_is_a_group_and_all_zeros_are_missing() -> None:
    table = torch.tensor([[9.0, 0, 1], [9.0, 1, 0], [9.0, 0, 0]])
    assert Column("x", slice(1, 3))({"x": table}).tolist() == [1, 0, -1]
    assert Column("x", [2, 1])({"x": table}).tolist() == [0, 1, -1]


def test_a_table_gives_the_value_of_each_dataset_row() -> None:
    frame = pd.Series(["a", "b", "c", "d"], index=[7, 8, 9, 10])
    assert Table(frame).rows(torch.tensor([2, 3])) == ["c", "d"]
    with pytest.raises(ValueError, match="has 4 values"):
        Table(frame).rows(torch.tensor([4]))


# --- positions


def test_positions_count_rows_and_refuse_a_loader_that_shuffles() -> None:
    data = TensorDataset(torch.arange(5))
    positions = Positions(DataLoader(data, batch_size=2))
    assert positions.advance(2).all()
    assert positions.advance(2).all()
    assert positions.rows(2).tolist() == [2, 3]
    shuffled = Positions(DataLoader(data, batch_size=2, shuffle=True))
    shuffled.advance(2)
    with pytest.raises(ValueError, match="RandomSampler"):
        shuffled.rows(2)


@given(st.integers(1, 40), st.integers(1, 5), st.integers(1, 7))
def test_padded_duplicates_are_marked_and_every_row_is_real_once(rows: int, ranks: int, size: int) -> None:
    """Trap 44: whatever the length, the ranks and the batch size."""
    data = TensorDataset(torch.arange(rows))
    found: list[int] = []
    for rank in range(ranks):
        sampler = DistributedSampler(data, num_replicas=ranks, rank=rank, shuffle=False)
        positions = Positions(DataLoader(data, batch_size=size, sampler=sampler))
        for (batch,) in DataLoader(data, batch_size=size, sampler=sampler):
            real = positions.advance(len(batch))
            assert positions.rows(len(batch)).tolist() == batch.tolist()
            found += batch[real].tolist()
    assert sorted(found) == list(range(rows))


# --- predictions


@pytest.mark.parametrize(
    ("outputs", "expected"),
    [
        ({"preds": Y}, Y),
        ({"loss": X.sum(), "logits": X}, X),
        (X, X),
        (X.sum(), None),
        (None, None),
        ({"loss": X.sum()}, None),
        (torch.zeros(9), None),
    ],
    ids=["preds", "logits", "tensor", "loss", "none", "no predictions", "other length"],
)
def test_predictions_are_found_in_what_a_step_returned(outputs: Any, expected: Any) -> None:
    """Trap 48."""
    assert step_output(outputs, 4) is expected


@pytest.mark.parametrize("output", [X, {"logits": X}, SimpleNamespace(logits=X), (X, "state")])
def test_the_tensor_of_an_output_is_found(output: Any) -> None:
    """Trap 5."""
    assert output_tensor(output) is X


@pytest.mark.parametrize(
    ("outputs", "space", "classes"),
    [
        (torch.tensor([-1.0, 0.0, 2.0]), "logits", [0, 0, 1]),
        (torch.tensor([[0.2], [0.5], [0.7]]), "probabilities", [0, 0, 1]),
        (torch.tensor([[0.1, 3.0], [2.0, 1.0]]), "logits", [1, 0]),
        (torch.tensor([1, 0]), "labels", [1, 0]),
    ],
)
def test_outputs_become_classes(outputs: torch.Tensor, space: Any, classes: list[int]) -> None:
    assert decide(outputs, Outputs.of(space, None)).classes.tolist() == classes


def test_outputs_that_are_not_finite_are_marked() -> None:
    found = decide(torch.tensor([[math.nan, 1.0], [1.0, math.inf], [0.0, 1.0]]), Outputs.of("logits", None))
    assert found.finite.tolist() == [False, False, True]


@pytest.mark.parametrize(
    ("outputs", "declared", "hint"),
    [
        (torch.tensor([0.1, 0.9]), "logits", "set outputs='probabilities'"),
        (torch.tensor([[0.1, 0.9], [0.6, 0.4]]), "logits", "rows sum to 1"),
        (torch.tensor([-0.1, 0.9]), "probabilities", "set outputs='logits'"),
        (torch.tensor([[0.5, 0.9]]), "probabilities", "sums to 1.4"),
        (torch.tensor([0.5, 1.0]), "labels", "integer classes"),
        (torch.tensor([1, 0]), "logits", "set outputs='labels'"),
    ],
)
def test_outputs_in_the_wrong_space_are_refused(outputs: torch.Tensor, declared: Any, hint: str) -> None:
    """Trap 84."""
    with pytest.raises(ValueError, match=r"outputs=") as caught:
        check_space(outputs, declared)
    assert hint in str(caught.value)


@pytest.mark.parametrize("outputs", [torch.tensor([0.2, 0.3]), torch.tensor([0.7, 0.8]), torch.tensor([-1.0, 0.7])])
def test_logits_that_happen_to_lie_between_0_and_1_are_not_taken_for_probabilities(outputs: torch.Tensor) -> None:
    """Trap 84: an untrained network's logits may all lie on one side of one half."""
    check_space(outputs, "logits")


@pytest.mark.parametrize(
    ("targets", "classes", "shown"),
    [(torch.tensor([0, 3]), 3, "3"), (torch.tensor([-1, 1]), 2, "-1"), (torch.tensor([0.5, 1.0]), 2, "0.5")],
)
def test_targets_out_of_range_are_refused_with_their_value(targets: torch.Tensor, classes: int, shown: str) -> None:
    """Trap 4: on the CPU, before any kernel could fail on them."""
    with pytest.raises(ValueError, match=f"got {shown}"):
        targets_of(targets, classes)


def test_float_labels_of_a_binary_task_are_read() -> None:
    assert targets_of(torch.tensor([[0.0], [1.0]]), 2).tolist() == [0, 1]


@pytest.mark.parametrize(("space", "threshold"), [("sigmoid", None), ("probabilities", 1.5)])
def test_an_unknown_space_or_threshold_is_refused(space: Any, threshold: float | None) -> None:
    with pytest.raises(ValueError, match=r"sigmoid|1\.5"):
        Outputs.of(space, threshold)


@pytest.mark.parametrize("targets", [{}, [{}, {}], ["a", "b"]])
def test_targets_that_are_no_numbers_are_an_unreadable_batch(targets):
    with pytest.raises(ValueError, match="numeric targets"):
        read((torch.zeros(2, 3), targets))
