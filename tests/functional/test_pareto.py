import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xai_lightning.functional.pareto import Point, extended

coarse = st.integers(0, 6).map(float)
runs = st.lists(st.tuples(coarse, coarse), max_size=30)


def archive(rows, mode="min", size=10):
    found = ()
    for look, (value, violation) in enumerate(rows, start=1):
        found = extended(found, Point(value, violation, look, look - 1), mode, size=size)
    return found


def beats(a, b, sign):
    no_worse = sign * a[0] <= sign * b[0] and a[1] <= b[1]
    return no_worse and (a[0] != b[0] or a[1] != b[1])


@given(runs, st.sampled_from(["min", "max"]))
def test_the_archive_is_what_nothing_beats_each_once_and_the_earliest(rows, mode):
    """By the definition, over all points at once."""
    sign = 1 if mode == "min" else -1
    expected = {row: rows.index(row) + 1 for row in rows if not any(beats(other, row, sign) for other in rows)}
    found = archive(rows, mode, size=100)
    assert {(p.value, p.violation): p.look for p in found} == expected
    assert [p.value for p in found] == sorted((p.value for p in found), reverse=mode == "max")


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), max_size=40), st.integers(2, 6))
def test_a_full_archive_keeps_its_ends_and_no_more_than_its_size(rows, size):
    found, every = archive(rows, size=size), archive(rows, size=1000)
    assert len(found) <= size
    assert not any(beats(a[:2], b[:2], 1) for a in found for b in found)
    if every:
        assert found[0][:2] == every[0][:2]
        assert found[-1][:2] == every[-1][:2]


def test_the_point_in_the_densest_place_goes():
    """Crowding by hand: of (0, 1), (.1, .9), (.2, .8), (1, 0) the inner two span .2 + .2 and .9 + .9."""
    rows = [(0.0, 1.0), (0.1, 0.9), (0.2, 0.8), (1.0, 0.0)]
    assert [p.look for p in archive(rows, size=3)] == [1, 3, 4]


@pytest.mark.parametrize("bad", [(math.nan, 0.0), (0.0, math.inf), (-math.inf, 0.0)])
def test_what_is_not_finite_changes_nothing(bad):
    assert archive([(0.5, 0.5), bad]) == archive([(0.5, 0.5)])


def test_settings_that_cannot_be_are_refused():
    point = Point(0.0, 0.0, 1, 0)
    with pytest.raises(ValueError, match=r"at least 2.*got 1"):
        extended((), point, size=1)
    with pytest.raises(ValueError, match="mode must be 'min' or 'max'; got 'best'"):
        extended((), point, "best")
