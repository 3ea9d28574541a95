"""Paths followed node by node, and segments halved sample by sample: loops like those of :mod:`.kernels`."""

from typing import Any

import numpy as np

from xai_lightning.functional.attribution.segments import CANCELLING, NO_ERROR
from xai_lightning.functional.compiled import loops
from xai_lightning.functional.threads import (
    as_double_rows,
    as_doubles,
    as_float_rows,
    as_int_rows,
    as_ints,
    parts,
    shared,
)


@loops
def _walk(begin: Any, end: Any, first: Any, x: Any, b: Any, sample: Any, nodes: Any, rows: Any) -> None:
    """Points on the paths from baselines to inputs; exactly these at the ends.

    Arrays:
        first: int64[1], the node of the first row.
        x: float32[N, W].
        b: float32[N or 1, W].
        sample: int64[most], the sample of each node.
        nodes: float64[most, 3], whose first number is its place in [0, 1].
        rows: float32[at least R, W], to be overwritten.
    """
    for r in range(begin, end):
        node = first[0] + r
        to, start, row = x[sample[node]], b[sample[node] % len(b)], rows[r]
        place = np.float32(nodes[node, 0])
        left = np.float32(1) - place
        # measured from the nearer end, so that rounding misses neither end
        if place < np.float32(0.5):
            for c in range(len(row)):
                row[c] = start[c] + place * (to[c] - start[c])
        else:
            for c in range(len(row)):
                row[c] = to[c] - (to[c] - start[c]) * left


@shared(_walk, as_ints, as_float_rows, as_float_rows, as_ints, as_double_rows, as_float_rows)
def walk(t: Any) -> None:
    """See `_walk`."""
    first, x, b, sample, nodes, rows = (
        as_ints(t, 0),
        as_float_rows(t, 1),
        as_float_rows(t, 2),
        as_ints(t, 3),
        as_double_rows(t, 4),
        as_float_rows(t, 5),
    )
    for begin, end in parts(t):
        _walk(begin, end, first, x, b, sample, nodes, rows)


@loops
def _add_slopes(begin: Any, end: Any, first: Any, x: Any, b: Any, sample: Any, gradients: Any, nodes: Any) -> None:
    """Add the slope of the scalar along the path.

    Arrays:
        first: int64[1], the node of the first gradient.
        x: float32[N, W].
        b: float32[N or 1, W].
        sample: int64[most], the sample of each node.
        gradients: float32[R, W].
        nodes: float64[most, 3], to whose last number the slope is added.
    """
    for r in range(begin, end):
        node = first[0] + r
        to, start, gradient, slope = x[sample[node]], b[sample[node] % len(b)], gradients[r], 0.0
        for c in range(len(gradient)):
            slope += np.float64(gradient[c] * (to[c] - start[c]))
        nodes[node, 2] += slope


@shared(_add_slopes, as_ints, as_float_rows, as_float_rows, as_ints, as_float_rows, as_double_rows)
def add_slopes(t: Any) -> None:
    """See `_add_slopes`."""
    first, x, b, sample, gradients, nodes = (
        as_ints(t, 0),
        as_float_rows(t, 1),
        as_float_rows(t, 2),
        as_ints(t, 3),
        as_float_rows(t, 4),
        as_double_rows(t, 5),
    )
    for begin, end in parts(t):
        _add_slopes(begin, end, first, x, b, sample, gradients, nodes)


@loops
def _gather(begin: Any, end: Any, first: Any, sample: Any, weight: Any, gradients: Any, totals: Any) -> None:
    """Add the weighted gradients of each sample's nodes, which are adjacent, for the samples that begin in this part.

    Arrays:
        first: int64[1], the node of the first gradient.
        sample: int64[most], the sample of each node.
        weight: float64[most], the weight of each node.
        gradients: float32[R, W].
        totals: float32[N, W], to be added to.
    """
    r, rows = begin, len(gradients)
    # the previous part finishes its last sample beyond its end, so that no two threads add to one row
    while 0 < r < end and sample[first[0] + r] == sample[first[0] + r - 1]:
        r += 1
    while r < end:
        own = sample[first[0] + r]
        total = totals[own]
        while r < rows and sample[first[0] + r] == own:
            gradient, much = gradients[r], np.float32(weight[first[0] + r])
            for c in range(len(total)):
                total[c] += much * gradient[c]
            r += 1


@shared(_gather, as_ints, as_ints, as_doubles, as_float_rows, as_float_rows)
def gather(t: Any) -> None:
    """See `_gather`."""
    for begin, end in parts(t):
        _gather(begin, end, as_ints(t, 0), as_ints(t, 1), as_doubles(t, 2), as_float_rows(t, 3), as_float_rows(t, 4))


@loops
def _error(nodes: Any, left: Any, right: Any) -> Any:
    """How far the trapezoid between two nodes misses the change of the scalar."""
    begin, end = nodes[left], nodes[right]
    return end[1] - begin[1] - (end[0] - begin[0]) * (begin[2] + end[2]) / 2


@loops
def _halve(place: Any, new: Any, middle: Any, left: Any, right: Any, size: Any, nodes: Any, weight: Any) -> Any:
    """Put a segment's halves in its place and a new one; what this adds to the sums of errors and absolute errors."""
    begin, end = left[place], right[place]
    whole, before, after = _error(nodes, begin, end), _error(nodes, begin, middle), _error(nodes, middle, end)
    left[new], right[new], right[place] = middle, end, middle
    size[place], size[new] = abs(before), abs(after)
    # a trapezoid gives half its width to each end; once it is halved, a quarter remains there
    quarter = (nodes[end, 0] - nodes[begin, 0]) / 4
    weight[begin] -= quarter
    weight[end] -= quarter
    weight[middle] = 2 * quarter
    return before + after - whole, abs(before) + abs(after) - abs(whole)


@loops
def _least(size: Any, allowed: Any) -> Any:
    """The size from which on segments are halved: see `segments.Segments`."""
    least = np.max(size) / 2
    while True:
        rest, next_one = 0.0, 0.0
        for each in size:
            if each < least:
                rest += each
                next_one = max(next_one, each)
        # the errors that are not halved must together be within what is allowed
        if rest <= allowed:
            return max(least, NO_ERROR)
        least = next_one


@loops
def _choose(size: Any, least: Any, room: Any, chosen: Any) -> Any:
    """Write down the places of segments of at least some size, of the largest if there is no room; return how many."""
    many = 0
    for place in range(len(size)):
        if size[place] >= least:
            chosen[many] = place
            many += 1
    while many > room:
        smallest = 0
        for k in range(1, many):
            if size[chosen[k]] <= size[chosen[smallest]]:
                smallest = k
        many -= 1
        chosen[smallest:many] = chosen[smallest + 1 : many + 1].copy()
    return many


@loops
def _advance(
    begin: Any,
    end: Any,
    middle: Any,
    nodes: Any,
    weight: Any,
    left: Any,
    right: Any,
    size: Any,
    chosen: Any,
    many: Any,
    passes: Any,
    sums: Any,
) -> None:
    """Halve the chosen segments, and choose the next.

    Arrays:
        middle: int64[N], the middle node of each sample's first chosen segment; those of its others follow.
        nodes: float64[most, 3].
        weight: float64[most], to be changed.
        left: int64[N, M], the node where each segment begins, to be changed.
        right: int64[N, M], the node where it ends, likewise.
        size: float64[N, M], its absolute error, likewise.
        chosen: int64[N, M], which segments are chosen, likewise.
        many: int64[N], how many, likewise; 0 for a sample that is done, -1 for one without a choice yet.
        passes: int64[N], the number of nodes of each sample, likewise.
        sums: float64[N, 3], the sums of errors and of absolute errors, both to be changed, and what is allowed.
    """
    most = left.shape[1] + 1
    for i in range(begin, end):
        if many[i] == 0:
            continue
        missed, total, allowed = sums[i]
        for k in range(many[i]):
            place, new = chosen[i, k], passes[i] - 1
            more = _halve(place, new, middle[i] + k, left[i], right[i], size[i], nodes, weight)
            missed += more[0]
            total += more[1]
            passes[i] += 1
        sums[i, 0], sums[i, 1], many[i] = missed, total, 0
        # comparisons with NaN are false: a sample that is not finite is done
        if passes[i] < most and (abs(missed) > allowed or total > CANCELLING * allowed):
            held = size[i, : passes[i] - 1]
            many[i] = _choose(held, _least(held, allowed), most - passes[i], chosen[i])


@shared(
    _advance,
    *(as_ints, as_double_rows, as_doubles, as_int_rows, as_int_rows, as_double_rows),
    *(as_int_rows, as_ints, as_ints, as_double_rows),
)
def advance(t: Any) -> None:
    """See `_advance`."""
    middle, nodes, weight, left, right, size = (
        as_ints(t, 0),
        as_double_rows(t, 1),
        as_doubles(t, 2),
        as_int_rows(t, 3),
        as_int_rows(t, 4),
        as_double_rows(t, 5),
    )
    chosen, many, passes, sums = as_int_rows(t, 6), as_ints(t, 7), as_ints(t, 8), as_double_rows(t, 9)
    for begin, end in parts(t):
        _advance(begin, end, middle, nodes, weight, left, right, size, chosen, many, passes, sums)


@loops
def _append(
    begin: Any,
    end: Any,
    free: Any,
    ends: Any,
    many: Any,
    chosen: Any,
    left: Any,
    right: Any,
    middle: Any,
    sample: Any,
    nodes: Any,
) -> None:
    """Append the nodes in the middle of chosen segments to the table, sample by sample.

    Arrays:
        free: int64[1], the first node that is not used yet.
        ends: int64[N], how many segments are chosen of a sample and those before it.
        many: int64[N], how many of the sample alone.
        chosen: int64[N, M], which ones.
        left: int64[N, M], the node where each segment begins.
        right: int64[N, M], the node where it ends.
        middle: int64[N], to be overwritten by each sample's first new node.
        sample: int64[most], to be overwritten at new nodes.
        nodes: float64[most, 3], whose first number is to be overwritten, likewise.
    """
    for i in range(begin, end):
        middle[i] = free[0] + ends[i] - many[i]
        for k in range(many[i]):
            place, node = chosen[i, k], middle[i] + k
            sample[node], nodes[node, 0] = i, (nodes[left[i, place], 0] + nodes[right[i, place], 0]) / 2


@shared(
    _append,
    *(as_ints, as_ints, as_ints, as_int_rows, as_int_rows),
    *(as_int_rows, as_ints, as_ints, as_double_rows),
)
def append(t: Any) -> None:
    """See `_append`."""
    free, ends, many, chosen = as_ints(t, 0), as_ints(t, 1), as_ints(t, 2), as_int_rows(t, 3)
    left, right, middle, sample = as_int_rows(t, 4), as_int_rows(t, 5), as_ints(t, 6), as_ints(t, 7)
    for begin, end in parts(t):
        _append(begin, end, free, ends, many, chosen, left, right, middle, sample, as_double_rows(t, 8))
