"""Groups: binned, discovered, intersected; weights; and what is refused."""

import enum
import io
import itertools
import math
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml
from hypothesis import assume, given
from hypothesis import strategies as st
from jsonargparse import ArgumentParser
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

import xai_lightning
from xai_lightning import Bins, Column, Table
from xai_lightning.callbacks._batches import Batches
from xai_lightning.readers import intersect, moved, vocabularies
from xai_lightning.readers.groups import Declared, met, moves, settled, values_met

nan, inf = math.nan, math.inf


def vocabulary(declared: Any, undeclared: Any = "error", **options: Any) -> Any:
    return vocabularies({"a": declared}, undeclared, **options)["a"]


# --- bins


def test_bins_are_public_and_named_after_their_edges() -> None:
    assert xai_lightning.Bins is Bins
    assert Bins([25, 45, 65]).names == ("below 25", "25 to 45", "45 to 65", "65 and above")
    assert Bins((0.5,)).names == ("below 0.5", "0.5 and above")
    assert Bins([1234567.0, 1234567.25]).names == ("below 1234567", "1234567 to 1234567.25", "1234567.25 and above")


def slow_bin(edges: list[float], value: float | None) -> str:
    """The definition: left-closed intervals."""
    names = Bins(edges).names
    if value is None or math.isnan(value):
        return "missing"
    for i, edge in enumerate(edges):
        if value < edge:
            return names[i]
    return names[-1]


@given(
    st.lists(st.floats(-100, 100), min_size=1, max_size=5, unique=True).map(sorted),
    st.lists(st.none() | st.floats(-200, 200) | st.just(nan) | st.just(inf), min_size=1, max_size=20),
)
def test_a_value_lies_in_the_interval_that_the_definition_says(edges: list[float], values: list[Any]) -> None:
    binned = vocabulary(Bins(edges))
    wanted = [slow_bin(edges, value) for value in values]
    as_tensor = torch.tensor([nan if v is None else v for v in values], dtype=torch.float64)
    for form in (values, as_tensor, as_tensor.numpy(), pd.Series(values, dtype=object)):
        assert [binned.rows[i] for i in binned.encode(form).tolist()] == wanted


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=5, unique=True).map(sorted))
def test_an_edge_that_stands_in_the_data_opens_its_interval_in_every_precision(edges: list[float]) -> None:
    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        rounded = torch.tensor(edges, dtype=torch.float64).to(dtype)
        if len(set(rounded.tolist())) == len(edges):
            assert vocabulary(Bins(edges)).encode(rounded).tolist() == list(range(1, len(edges) + 1))


def test_minus_one_is_a_value_of_a_continuous_attribute() -> None:
    assert vocabulary(Bins([-2, 0])).encode(torch.tensor([-3, -1, 0])).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("edges", "error", "shown"),
    [
        ([], ValueError, r"at least one edge.*\[\]"),
        ([1, nan], ValueError, "finite.*nan"),
        ([1, inf], ValueError, "finite.*inf"),
        ([1, 1], ValueError, "increase; got 1 after 1"),
        ([3, 2], ValueError, "increase; got 2 after 3"),
        (["25"], TypeError, "numbers; got '25'"),
        ([True, 2], TypeError, "numbers; got True"),
        ("25", TypeError, "list of numbers.*'25'"),
        (25, TypeError, "list of numbers.*25"),
        ([None], TypeError, "numbers; got None"),
    ],
)
def test_edges_that_cannot_be_are_refused(edges: Any, error: type[Exception], shown: str) -> None:
    with pytest.raises(error, match=shown):
        Bins(edges)


@pytest.mark.parametrize("values", [["34"], [30, True], torch.tensor([True]), [30, [1]]])
def test_what_is_no_number_is_not_binned(values: Any) -> None:
    with pytest.raises(ValueError, match=r"'a', whose groups are Bins\(edges=\(25, 45\)\), must be numbers; got"):
        vocabulary(Bins([25, 45])).encode(values)


def test_bins_are_plain_equal_and_frozen() -> None:
    assert Bins([1, 2]) == Bins((1, 2))
    assert hash(Bins([1, 2])) == hash(Bins((1, 2)))
    with pytest.raises(AttributeError):
        Bins([1]).edges = (2,)  # type: ignore[misc]


DECLARATIONS = {
    "bins": ({"class_path": "xai_lightning.Bins", "init_args": {"edges": [25, 45.5]}}, Bins([25, 45.5])),
    "discover": ("discover", "discover"),
    "names": (["Female", "Male"], ["Female", "Male"]),
    "codes": ({0: "Female", 1: "Male"}, {0: "Female", 1: "Male"}),
}


# LightningCLI 2.6 calls this method too, which jsonargparse 4.53 deprecates.
@pytest.mark.filterwarnings("ignore::jsonargparse._deprecated.JsonargparseDeprecationWarning")
@pytest.mark.parametrize("kind", DECLARATIONS)
def test_every_declaration_can_be_written_in_yaml(kind: str) -> None:
    """Trap 58: in the order in which jsonargparse tries the types."""
    written, meant = DECLARATIONS[kind]
    parser = ArgumentParser()
    parser.add_argument("--groups", type=Mapping[str, Declared])
    text = yaml.safe_dump({"groups": {"a": written}})
    found = parser.parse_string(text)
    assert parser.parse_string(parser.dump(found)) == found
    (declared,) = parser.instantiate_classes(found).groups.values()
    assert type(declared) is type(meant)
    assert declared == meant
    assert vocabulary(declared) == vocabulary(meant)


# --- declared


@pytest.mark.parametrize("name", ["missing_share", " missing_share ", " missing", "unknown ", "missing/share"])
def test_a_group_that_would_be_logged_as_something_else_is_refused(name: str) -> None:
    if name == "missing/share":
        with pytest.raises(ValueError, match="missing/share"):
            vocabulary(["x", name])
        return
    with pytest.raises(ValueError, match=f"'a'.*{name}"):
        vocabulary({0: "x", 1: name})


@pytest.mark.parametrize("code", [None, nan, 0.5, (1, 2)])
def test_a_code_that_no_value_could_match_is_refused(code: Any) -> None:
    with pytest.raises(ValueError, match="a code must be an integer, a bool or a string; got"):
        vocabulary({0: "x", code: "y"})


@pytest.mark.parametrize("declared", ["Discover", "discover ", 5, {"x"}, None])
def test_what_is_no_declaration_shows_the_four_that_are(declared: Any) -> None:
    with pytest.raises(ValueError, match=r"list of names .* dict .* Bins.* 'discover'; got"):
        vocabulary(declared)


def slow_row(codes: list[int], value: float) -> int:
    """The law: a code first, then what is missing, else unknown."""
    if value in codes:
        return codes.index(int(value))
    return len(codes) if value == -1 or math.isnan(value) else len(codes) + 1


@given(
    st.lists(st.integers(-3, 9), min_size=1, max_size=6, unique=True),
    st.lists(st.integers(-4, 10) | st.just(nan) | st.just(0.5), min_size=1, max_size=20),
)
def test_codes_are_matched_as_the_definition_says_in_every_form(codes: list[int], values: list[Any]) -> None:
    declared = vocabulary({code: f"g{code}" for code in codes}, "unknown")
    wanted = [slow_row(codes, value) for value in values]
    forms = [values, torch.tensor(values, dtype=torch.float64), torch.tensor(values, dtype=torch.float16)]
    forms += [np.array(values, dtype=float)]
    if all(isinstance(value, int) for value in values):
        forms += [torch.tensor(values), torch.tensor(values, dtype=torch.int8)]
    for form in forms:
        assert declared.encode(form).tolist() == wanted


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (torch.zeros(4, 1), r"one value per sample; got Tensor\[4, 1\]"),
        (np.zeros((2, 2)), r"one value per sample; got Tensor\[2, 2\]"),
        (torch.zeros(2, dtype=torch.complex64), r"got Tensor\[2\] complex64"),
        ([torch.zeros(2)], "one value per sample"),
        ("Female", "one value per sample; got str"),
        ({"x": 1}, "one value per sample"),
        (3, "one value per sample; got int"),
        ([["Female"]], r"undeclared group value \['Female'\]"),
        (torch.tensor([0.5]), r"undeclared group value 0\.5.*Bins\("),
        ([1.5], r"undeclared group value 1\.5.*Bins\("),
        (torch.tensor([2]), "undeclared group value 2"),
        (torch.tensor([inf]), "undeclared group value inf"),
        ([b"Female"], "undeclared group value b'Female'"),
        (np.array(["Femal"]), "undeclared group value 'Femal'"),
    ],
)
def test_group_values_that_cannot_be_are_shown(values: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=f"'a'.*{shown}"):
        vocabulary(["Female", "Male"]).encode(values)


def test_declared_codes_are_shown_with_their_names() -> None:
    with pytest.raises(ValueError, match=r"value 3; declared are '1 \(White\)', '5 \(Black\)'\. Declare it"):
        vocabulary({1: "White", 5: "Black"}).encode(torch.tensor([1, 3]))


def test_one_group_only_is_allowed() -> None:
    assert vocabulary(["Female"]).encode(["Female", None]).tolist() == [0, 1]


def test_ten_thousand_groups_take_no_time() -> None:
    names = [f"g{i}" for i in range(10_000)]
    started = time.perf_counter()
    listed = vocabulary(names, "unknown")
    coded = vocabulary({7 * i: name for i, name in enumerate(names)}, "unknown")
    values = torch.arange(10_000).flip(0)
    for _ in range(10):
        assert torch.equal(listed.encode(values), values)
        assert torch.equal(coded.encode(values * 7), values)
        assert (listed.encode([value + 0.5 for value in range(1_000)]) == 10_001).all()
    with pytest.raises(ValueError, match="and 9,988 more") as caught:
        vocabulary(names).encode([10_000])
    assert len(str(caught.value)) < 500
    assert time.perf_counter() - started < 2


# --- discovered


KINDS: list[Any] = [
    st.sampled_from(["Ulm", "Bonn", "köln", "Aachen", "10", "9", None, "missing", "unknown"]),
    st.integers(-1, 12) | st.none() | st.just(nan),
    st.sampled_from([0.0, 3.0, 10.0, -1.0, -7.0, nan]),
    st.sampled_from([True, False, None]),
]
discoverable = st.sampled_from(KINDS).flatmap(lambda kind: st.lists(kind, min_size=1, max_size=40))


def slow_name(value: Any) -> str:
    if value is None or (value == -1 and not isinstance(value, bool)) or value != value:
        return "missing"
    return str(int(value)) if isinstance(value, float) else str(value)


def slow_order(values: list[Any]) -> tuple[str, ...]:
    found = {v for v in values if slow_name(v) not in ("missing", "unknown")}
    return (*(slow_name(value) for value in sorted(found)), "missing", "unknown")


def shape_of(values: list[Any], form: int) -> Any:
    """The same values as a loader may give them."""
    if form == 1 and not any(v is None or isinstance(v, str) for v in values):
        return torch.tensor(values)
    return np.array(values, dtype=object) if form == 2 else values


def validation(batches: Batches, parts: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
    """What one rank counts: by attribute and intersection ``float64[R, 2]``, rows and weights."""
    batches.open(None)
    names = [*batches.vocabularies, *batches.intersections]
    total = {name: torch.zeros(batches.size(name), 2, dtype=torch.float64) for name in names}
    for part in parts:
        reading = batches.read(part)
        assert reading.weights is not None
        numbers = torch.stack([torch.ones_like(reading.weights), reading.weights], dim=1)
        for name, rows in reading.groups.items():
            assert len(total[name]) == batches.size(name)
            total[name].index_add_(0, rows, numbers)
    return total


def settle(ranks: list[Batches], counts: list[dict[str, torch.Tensor]]) -> dict[str, torch.Tensor]:
    """The end of a validation: gather, fix, move, sum."""
    gathered = [batches.found() for batches in ranks]
    for batches, own in zip(ranks, counts, strict=True):
        for name, rows in batches.fix(gathered).items():
            own[name] = moved(own[name], rows, batches.size(name))
    return {name: torch.stack([own[name] for own in counts]).sum(dim=0) for name in counts[0]}


def as_batch(rows: list[tuple[int, Any]], form: int) -> dict[str, Any]:
    """Rows by number: the second attribute goes -1, 0, 1, and weights 0, 1, 2, 3."""
    return {
        "x": torch.zeros(len(rows), 1),
        "a": shape_of([value for _, value in rows], form),
        "b": torch.tensor([i % 3 - 1 for i, _ in rows]),
        "w": [float(i % 4) for i, _ in rows],
    }


def slow_counts(values: list[Any], names: tuple[str, ...]) -> dict[str, dict[str, tuple[int, int]]]:
    """Rows and weights by name, of `as_batch`: ``names`` are those of the second attribute."""
    found: dict[str, Counter[str]] = {name: Counter() for name in ("a", "a+b")}
    weights: dict[str, Counter[str]] = {name: Counter() for name in ("a", "a+b")}
    for i, value in enumerate(values):
        one, other = slow_name(value), ["missing", *names][i % 3]
        pair = "missing" if {one, other} & {"missing", "unknown"} else f"{one}+{other}"
        for attribute, name in (("a", one), ("a+b", pair)):
            found[attribute][name] += 1
            weights[attribute][name] += i % 4
    return {
        attribute: {name: (n, weights[attribute][name]) for name, n in found[attribute].items()} for attribute in found
    }


@given(
    discoverable, st.lists(st.integers(1, 7), min_size=1, max_size=9), st.integers(1, 3), st.booleans(), st.randoms()
)
def test_discovered_counts_are_those_of_the_definition_however_the_rows_are_cut(
    values: list[Any], sizes: list[int], n_ranks: int, declared: bool, random: Any
) -> None:
    """Traps 43 and 83: values, weights, pairs with a declared and with a discovered attribute."""
    order = slow_order(values)
    assume(len(order) > 2 and len(values) > 2)
    rows = random.sample([*enumerate(values)], len(values))
    cuts = [0, *itertools.takewhile(lambda end: end < len(rows), itertools.accumulate(itertools.cycle(sizes)))]
    shares: list[list[dict[str, Any]]] = [[] for _ in range(n_ranks)]
    for i, j in itertools.pairwise([*cuts, len(rows)]):
        random.choice(shares).append(as_batch(rows[i:j], random.randrange(3)))
    groups: Any = {"a": "discover", "b": ["0", "1"] if declared else "discover"}
    options: Any = {"max_groups": 13, "intersections": 2, "weights": "w"}
    ranks = [Batches(None, groups, None, "error", **options) for _ in range(n_ranks)]

    total = settle(ranks, [validation(batches, share) for batches, share in zip(ranks, shares, strict=True)])
    for batches in ranks:
        assert batches.undecided == []
        assert batches.vocabularies["a"].rows == order
        assert batches.vocabularies["b"].names == ("0", "1")
    for name, wanted in slow_counts(values, ("0", "1")).items():
        named = ranks[0].intersections[name].rows if "+" in name else order
        found = {row: tuple(n) for row, n in zip(named, total[name].tolist(), strict=True) if any(n)}
        assert found == wanted
    # and in the next validation, in which rows are final from the first batch on
    again = [validation(batches, share) for batches, share in zip(ranks, shares, strict=True)]
    for name in total:
        assert torch.equal(torch.stack([own[name] for own in again]).sum(dim=0), total[name])


def discovering(undeclared: Any = "error", **groups: Any) -> Batches:
    return Batches(None, groups or {"a": "discover"}, None, undeclared, max_groups=4)


def batch_of(values: Any, **more: Any) -> dict[str, Any]:
    return {"x": torch.zeros(len(values), 1), "a": values, **more}


def test_numbers_are_ordered_by_value_and_strings_by_text() -> None:
    for values, names in (([10, 9, -2], ("-2", "9", "10")), (["10", "9", "b", "B"], ("10", "9", "B", "b"))):
        batches = discovering()
        batches.read(batch_of(values))
        assert batches.found() == {"a": values}
        batches.fix([batches.found()])
        assert batches.vocabularies["a"].names == names


def test_what_is_discovered_is_of_plain_types() -> None:
    class Site(enum.StrEnum):
        ULM = "Ulm"

    for values, plain in (
        ([Site.ULM], "Ulm"),
        (np.array(["Ulm"]), "Ulm"),
        (np.array([3]), 3),
        ([np.int16(3)], 3),
        ([3.0], 3),
        (torch.tensor([3.0]), 3),
        (torch.tensor([True]), True),
        ([np.bool_(False)], False),
        (pd.Series(["x"], dtype="category"), "x"),
    ):
        batches = discovering()
        batches.read(batch_of(values))
        (found,) = batches.found()["a"]
        assert found == plain
        assert type(found) in (str, int, bool)
        batches.fix([batches.found()])
        assert batches.read(batch_of(values)).groups["a"].tolist() == [0]


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (torch.tensor([0.5, 1.0]), r"continuous attribute; got 0\.5\. Give edges.*Bins"),
        ([1, 2.5], r"continuous attribute; got 2\.5.*Bins"),
        (torch.tensor([inf]), "continuous attribute; got inf"),
        ([1, "x"], r"one type; got 1 \(int\) and 'x' \(str\)"),
        ([True, 1], r"one type; got True \(bool\) and 1 \(int\)"),
        (list(range(5)), r"more than max_groups=4 values; got 5: 0, 1, 2, 3, 4\..*Bins"),
        (torch.arange(1_000), "got 1,000: 0, 1, 2.* and 988 more"),
        (list("abcde"), r"got 5: 'a', 'b', 'c', 'd', 'e'\. Declare the groups, or raise max_groups"),
        ([b"x"], "got b'x', a bytes"),
        ([["x"]], r"got \['x'\], a list"),
        (torch.zeros(3, 2), r"one value per sample; got Tensor\[3, 2\]"),
    ],
)
def test_what_cannot_be_discovered_is_shown_at_the_first_batch(values: Any, shown: str) -> None:
    batches = discovering()
    with pytest.raises(ValueError, match=f"'a'.*{shown}"):
        batches.read(batch_of(values))
    assert batches.found() == {"a": []}


@pytest.mark.parametrize(
    ("ranks", "shown"),
    [
        ([[1, 2, 3], [3, 4, 5]], r"more than max_groups=4 values; got 5: 1, 2, 3, 4, 5"),
        ([[1], ["1"]], "one type; got"),
        ([[True], [1]], "one type; got"),
        ([[], []], "all its values in the first validation are missing"),
        ([["a/b"], ["a_b"]], "must be distinct.*'a_b' and 'a/b'"),
        ([["missing_share"]], "missing_share"),
    ],
)
def test_what_only_all_ranks_together_show_is_refused_and_fixes_nothing(ranks: Any, shown: str) -> None:
    batches = discovering(a="discover", b="discover")
    with pytest.raises(ValueError, match=shown):
        batches.fix([{"b": ["fine"], "a": values} for values in ranks])
    assert batches.undecided == ["a", "b"]


def test_values_of_the_sanity_check_are_forgotten() -> None:
    batches = discovering()
    batches.open(None)
    batches.read(batch_of(["early"]))
    batches.open(None)
    batches.read(batch_of(["real"]))
    batches.fix([batches.found()])
    batches.open(None)
    assert batches.vocabularies["a"].names == ("real",)


def test_a_value_that_appears_later_is_an_error_or_unknown() -> None:
    """Traps 77 and 83."""
    for undeclared in ("error", "unknown"):
        batches = discovering(undeclared)
        batches.read(batch_of(["x", "y"]))
        batches.fix([batches.found()])
        if undeclared == "unknown":
            assert batches.read(batch_of(["y", "z", None])).groups["a"].tolist() == [1, 3, 2]
            continue
        with pytest.raises(ValueError, match="undeclared group value 'z'; found are 'x', 'y'"):
            batches.read(batch_of(["y", "z"]))


def test_a_resumed_run_keeps_the_rows() -> None:
    first = discovering()
    first.read(batch_of([7, 3]))
    assert first.state() == {}
    first.fix([first.found()])
    file = io.BytesIO()
    torch.save(first.state(), file)
    file.seek(0)
    second = discovering(undeclared="unknown")
    second.load(torch.load(file, weights_only=True))
    assert second.undecided == []
    assert second.vocabularies["a"].rows == first.vocabularies["a"].rows == ("3", "7", "missing", "unknown")
    assert second.read(batch_of([3, 5, 7])).groups["a"].tolist() == [0, 3, 1]
    second.load({"a": ["p"]})
    assert second.vocabularies["a"].names == ("p",)
    second.load({})
    assert second.undecided == ["a"]
    with pytest.raises(ValueError, match=r"only groups of \['a'\] are discovered here; got those of \['c'\]"):
        second.load({"c": [1]})


def test_declared_groups_are_no_part_of_the_state() -> None:
    assert discovering(a=["x"], b=Bins([1])).state() == {}
    assert discovering(a=["x"], b=Bins([1])).fix([{}]) == {}


def test_discovery_can_be_refused_and_limited() -> None:
    with pytest.raises(ValueError, match="must be declared here, not discovered; got 'discover'"):
        Batches(None, {"a": "discover"}, None, "error")
    with pytest.raises(ValueError, match="max_groups must be at least 1; got 0"):
        vocabulary("discover", max_groups=0)


def test_a_rank_that_met_nothing_gets_the_same_groups() -> None:
    idle = vocabulary("discover")
    busy = met(idle, ["b", "a"])
    both = settled(idle, [values_met(idle), values_met(busy)])
    assert both.names == ("a", "b")
    assert set(moves(idle, both).tolist()) == {2, 3}
    assert moves(busy, both).tolist() == [1, 0, *[2] * 14, 2, 3]


# --- intersections


def test_pairs_have_a_row_for_every_combination_whether_or_not_it_occurs() -> None:
    three = vocabularies({"race": ["B", "W"], "sex": {1: "F", 2: "M"}, "age": Bins([40])})
    pairs = intersect(three)
    assert list(pairs) == ["race+sex", "race+age", "sex+age"]
    assert pairs["race+age"].rows == ("B+below 40", "B+40 and above", "W+below 40", "W+40 and above", "missing")
    race, sex = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    rows = pairs["race+sex"].of(race.flatten(), sex.flatten()).tolist()
    assert rows == [0, 1, 4, 4, 2, 3, 4, 4, *[4] * 8]


def test_a_declared_group_called_missing_is_a_group_of_pairs_too() -> None:
    pair = intersect(vocabularies({"a": ["x", "missing"], "b": ["y"]}))["a+b"]
    assert pair.rows == ("x+y", "missing+y", "missing")
    assert pair.of(torch.tensor([0, 1, 2]), torch.tensor([0, 0, 0])).tolist() == [0, 1, 2]


@pytest.mark.parametrize(
    ("groups", "order", "shown"),
    [
        ({"a": ["x"]}, 2, r"at least two attributes; got \['a'\]"),
        ({"a": ["x"], "b": ["y"]}, 3, r"must be 2 \(pairs of attributes\); got 3"),
        ({"a": ["x"], "b": ["y"], "a+b": ["z"]}, 2, r"must be distinct; got.*'a\+b'"),
        ({"a": [f"{i}" for i in range(33)], "b": [f"{i}" for i in range(32)]}, 2, "33 x 32 = 1,056 groups"),
        ({"a": "discover", "b": [f"{i}" for i in range(65)]}, 2, "16 x 65 = 1,040 groups"),
        ({"a": ["x", "x+y"], "b": ["y+z", "z"]}, 2, r"must be distinct.*'x\+y\+z'"),
    ],
)
def test_intersections_that_cannot_be_are_refused(groups: Any, order: int, shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        Batches(None, groups, None, "error", max_groups=16, intersections=order)


def test_as_many_groups_as_are_allowed_are_allowed() -> None:
    names = [f"{i}" for i in range(32)]
    assert len(intersect(vocabularies({"a": names, "b": names}))["a+b"].rows) == 1_025


def test_names_that_only_the_data_show_to_be_ambiguous_fix_nothing() -> None:
    batches = Batches(None, {"a": "discover", "b": ["y+z", "z"]}, None, "error", max_groups=4, intersections=2)
    with pytest.raises(ValueError, match=r"'x\+y\+z'"):
        batches.fix([{"a": ["x", "x+y"]}])
    assert batches.undecided == ["a"]
    assert batches.intersections["a+b"].undecided


def test_without_being_asked_for_there_are_no_intersections() -> None:
    batches = discovering(a=["x"], b=["y"])
    assert batches.intersections == {}
    assert set(batches.read(batch_of(["x"], b=["y"])).groups) == {"a", "b"}


# --- weights


@pytest.mark.parametrize(
    ("source", "wanted"),
    [
        ("w", [0.5, 0.0, 2.0]),
        (Column("x", 1), [1.0, 2.0, 3.0]),
        (Table(pd.Series([9, 8, 7], index=[5, 6, 7])), [9.0, 8.0, 7.0]),
        (lambda batch: batch["x"][:, 1] * 2, [2.0, 4.0, 6.0]),
        (lambda _: np.array([1, 2, 3], dtype=np.int8), [1.0, 2.0, 3.0]),
        (lambda _: torch.tensor([1.5, 2, 3], dtype=torch.float16, requires_grad=True), [1.5, 2.0, 3.0]),
    ],
    ids=["name", "column", "table", "callable", "numpy", "half"],
)
def test_weights_are_read(source: Any, wanted: list[float]) -> None:
    batches = Batches(None, {"a": ["p"]}, None, "error", weights=source)
    batches.open(DataLoader(TensorDataset(torch.arange(3)), batch_size=3))
    table = torch.tensor([[0.0, 1], [0, 2], [0, 3]])
    weights = batches.read({"x": table, "a": ["p"] * 3, "w": [0.5, 0, 2]}).weights
    assert weights is not None
    assert (weights.dtype, weights.tolist(), weights.requires_grad) == (torch.float64, wanted, False)


@pytest.mark.parametrize(
    ("weights", "shown"),
    [
        ([1.0, -0.5], r"not negative; got -0\.5 in row 1"),
        (torch.tensor([nan, 1.0]), "finite.*got nan in row 0"),
        ([1.0, None], "finite.*got nan in row 1"),
        ([inf, 1.0], "finite.*got inf in row 0"),
        (["1", "2"], "must be numbers; got '1'"),
        ([True, 1.0], "must be numbers; got True"),
        (torch.ones(2, 1), r"one value per sample; got Tensor\[2, 1\]"),
        ([1.0] * 3, "one weight for each of 2 samples; got 3"),
        (torch.tensor(1.0), r"one weight for each of 2 samples; got Tensor\[\]"),
        (None, "one weight for each of 2 samples; got NoneType"),
    ],
)
def test_weights_that_cannot_be_are_refused_with_their_value(weights: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        Batches(None, {"a": ["p"]}, None, "error", weights="w").read(batch_of(["p", "p"], w=weights))


def test_weights_that_are_not_there_show_what_is() -> None:
    with pytest.raises(ValueError, match=r"cannot find the weights 'w'.*Column.*'a': list"):
        Batches(None, {"a": ["p"]}, None, "error", weights="w").read(batch_of(["p"]))
    with pytest.raises(TypeError, match="weights must be a name, a Column, a Table or a callable; got 2"):
        Batches(None, {"a": ["p"]}, None, "error", weights=2)  # type: ignore[arg-type]


def test_without_weights_there_are_none() -> None:
    assert discovering(a=["p"]).read(batch_of(["p"])).weights is None


# --- where groups stand


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        (torch.zeros(5), "one value of 'a' for each of 4 samples; got 5"),
        (torch.tensor(1), r"one value of 'a' for each of 4 samples; got Tensor\[\]"),
        (3, "one value of 'a' for each of 4 samples; got int"),
        (iter("abcd"), "one value of 'a' for each of 4 samples; got str_"),
    ],
)
def test_groups_of_another_length_are_refused(values: Any, shown: str) -> None:
    with pytest.raises(ValueError, match=shown):
        discovering(a=["p"]).read({"x": torch.zeros(4, 1), "a": values})


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        (Column("x", 7), r"Column\('x', 7\) needs a table .* these columns; got Tensor\[4, 2\]"),
        (Column("y", 0), r"Column\('y', 0\) needs a table .* got Tensor\[4\]"),
        (Column("z", 0), "table named 'z'"),
        (lambda _: {"b": [0] * 4}, "groups_from returned no 'a'.*'b'"),
    ],
)
def test_a_source_that_has_no_such_values_shows_what_there_is(source: Any, shown: str) -> None:
    batches = Batches(None, {"a": ["p"]}, source, "error")
    with pytest.raises(ValueError, match=shown):
        batches.read({"x": torch.zeros(4, 2), "y": torch.zeros(4)})


@given(st.integers(1, 30), st.integers(1, 4), st.integers(1, 7))
def test_rows_that_a_sampler_repeats_find_no_group_of_their_own_and_are_not_counted(
    n: int, ranks: int, size: int
) -> None:
    """Trap 44."""
    data = TensorDataset(torch.arange(n) % 5)
    every = [Batches(None, {"a": "discover"}, None, "error", max_groups=5) for _ in range(ranks)]
    counts = []
    for rank, batches in enumerate(every):
        sampler = DistributedSampler(data, num_replicas=ranks, rank=rank, shuffle=False)
        loader = DataLoader(data, batch_size=size, sampler=sampler)
        batches.open(loader)
        counts.append(torch.zeros(batches.size("a"), dtype=torch.int64))
        for (values,) in loader:
            reading = batches.read(batch_of(values))
            counts[-1] += torch.bincount(reading.groups["a"][reading.real], minlength=batches.size("a"))
    total = settle(every, [{"a": own} for own in counts])["a"]
    wanted = Counter(str(i % 5) for i in range(n))
    assert dict(zip(every[0].vocabularies["a"].rows, total.tolist(), strict=True)) == {
        **wanted,
        "missing": 0,
        "unknown": 0,
    }
