from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import references_fairness as slow
from cases_fairness import GUIDE, counted, of_guide, samples
from xai_lightning.functional.fairness import confusion, count


def test_the_counts_of_the_user_guide_of_fairlearn():
    counts = of_guide()
    assert [part.tolist() for part in counts[:4]] == [[1, 3, 2], [2, 0, 2], [1, 2, 3], [0, 1, 1]]
    assert counts.total.tolist() == [4, 6, 8]
    assert counts.correct.tolist() == [1, 4, 3]


@given(samples())
def test_counts_equal_their_slow_twin(rows):
    assert counted(rows).tolist() == slow.counts(rows.predictions, rows.targets, rows.groups, 2, 3)


@given(samples(), st.lists(st.integers(0, 60), max_size=5))
def test_counts_of_any_split_add_up_to_the_counts_of_the_whole(rows, cuts):
    """Trap 42: epoch-mean of per-batch fairness is not fairness. Trap 82: aggregation must be of counts."""
    edges = sorted({0, len(rows.groups), *(min(cut, len(rows.groups)) for cut in cuts)})
    parts = [SimpleNamespace(**{k: v[a:b] for k, v in vars(rows).items()}) for a, b in pairwise(edges)]
    assert torch.equal(sum(counted(part) for part in parts), counted(rows))


def test_batches_of_a_single_group_count_for_that_group():
    """Trap 77: torchmetrics 1.9.0 relabels missing groups."""
    streamed = torch.zeros(3, 2, 2, dtype=torch.int64)
    for group in (2, 0, 1):
        rows = GUIDE.groups == group
        part = count(GUIDE.predictions[rows], GUIDE.targets[rows], GUIDE.groups[rows], classes=2, n_groups=3)
        assert part.sum(dim=(1, 2)).nonzero().tolist() == [[group]]
        streamed += part
    assert torch.equal(streamed, count(GUIDE.predictions, GUIDE.targets, GUIDE.groups, classes=2, n_groups=3))


@pytest.mark.parametrize(
    ("column", "wrong"),
    [("predictions", 2), ("predictions", -1), ("targets", 2), ("targets", -7), ("groups", 3), ("groups", -1)],
)
def test_an_index_outside_its_range_is_refused_and_shown(column, wrong):
    """Trap 77: there a group equal to the number of groups, or below zero, passes unseen."""
    rows = SimpleNamespace(predictions=[0, 1, 0], targets=[0, 1, 1], groups=[0, 1, 2])
    vars(rows)[column][1] = wrong
    with pytest.raises(ValueError, match=f"{column} must lie in .* got {wrong}"):
        counted(rows)


def test_samples_of_different_length_are_refused():
    with pytest.raises(ValueError, match=r"same shape, got .*'groups': \[2\]"):
        count(torch.zeros(3).long(), torch.zeros(3).long(), torch.zeros(2).long(), classes=2, n_groups=1)


def test_probabilities_instead_of_classes_are_refused():
    with pytest.raises(TypeError, match=r"predictions must be integer indices, got dtype torch\.float32"):
        count(torch.rand(3), torch.zeros(3).long(), torch.zeros(3).long(), classes=2, n_groups=1)


@pytest.mark.parametrize(("sizes", "shown"), [((1, 1), "classes .* got 1"), ((2, 0), "n_groups .* got 0")])
def test_too_few_classes_or_groups_are_refused(sizes, shown):
    empty = torch.zeros(0).long()
    with pytest.raises(ValueError, match=shown):
        count(empty, empty, empty, classes=sizes[0], n_groups=sizes[1])


def test_an_empty_batch_counts_nothing():
    empty = torch.zeros(0).long()
    counts = count(empty, empty, empty, classes=3, n_groups=2)
    assert counts.shape == (2, 3, 3)
    assert counts.dtype == torch.int64
    assert not counts.any()


@pytest.mark.parametrize(
    ("dtype", "classes"), [(torch.bool, 2), (torch.uint8, 20), (torch.int8, 65), (torch.int32, 20)]
)
def test_narrow_types_count_like_wide_ones_and_do_not_overflow(dtype, classes):
    predictions, targets, groups = (
        torch.tensor(x).repeat(200) * (classes - 1) for x in ([1, 0, 1, 1], [1, 1, 0, 1], [0])
    )
    columns = predictions, targets, groups.repeat(4)
    columns[2][1::2] = 1
    narrow = count(*(column.to(dtype) for column in columns), classes=classes, n_groups=2)
    assert torch.equal(narrow, count(*columns, classes=classes, n_groups=2))
    assert narrow.dtype == torch.int64


def test_pictures_of_classes_count_every_pixel():
    predictions, targets, groups = (torch.randint(0, 2, (4, 5, 6)) for _ in range(3))
    flat = count(predictions.flatten(), targets.flatten(), groups.flatten(), classes=2, n_groups=2)
    assert torch.equal(count(predictions, targets, groups, classes=2, n_groups=2), flat)


@given(samples(classes=5))
def test_both_layouts_of_counts_give_the_same_confusion(rows):
    square = counted(rows, classes=5)
    compact = counted(rows, classes=65)
    assert compact.shape == (3, 65, 3)
    for positive in range(5):
        pairs = zip(confusion(square, positive)[:6], confusion(compact, positive)[:6], strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@given(samples(classes=5), st.integers(0, 4))
def test_the_four_cells_of_a_confusion_are_the_one_against_rest_counts(rows, positive):
    columns = zip(rows.predictions, rows.targets, rows.groups, strict=True)
    pairs = [[p == positive, t == positive, g] for p, t, g in columns]
    twin = slow.counts(*zip(*pairs, strict=True), classes=2, n_groups=3)
    counts = confusion(counted(rows, classes=5), positive)
    assert [[[tn, fp], [fn, tp]] for tp, fp, fn, tn in torch.stack(counts[:4], -1).tolist()] == twin
    assert counts.total.tolist() == [rows.groups.count(g) for g in range(3)]
    hits = [g for p, t, g in zip(rows.predictions, rows.targets, rows.groups, strict=True) if p == t]
    assert counts.correct.tolist() == [hits.count(g) for g in range(3)]


@pytest.mark.parametrize("positive", [-1, 2])
def test_a_favourable_class_that_does_not_exist_is_refused(positive):
    with pytest.raises(ValueError, match=f"positive .* got {positive}"):
        confusion(torch.zeros(3, 2, 2).long(), positive)


@pytest.mark.parametrize("shape", [(4,), (2, 4, 3), (2, 4, 5)])
def test_counts_of_another_layout_are_refused(shape):
    with pytest.raises(ValueError, match=r"counts must end in .* got shape \["):
        confusion(torch.zeros(shape).long(), 0)
