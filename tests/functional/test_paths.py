"""Paths whose nodes are added until the sum is right: compiled, of operations of torch, and as a slow twin does it."""

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.loops import Broken, interpreted
from xai_lightning.functional.attribution import fast_paths
from xai_lightning.functional.attribution.adaptive import Refined, refine
from xai_lightning.functional.attribution.segments import Path, Segments, Table

WAYS = ["compiled", "interpreted", "operations"]


@pytest.fixture
def _compiled() -> None:
    pytest.importorskip("numba")
    assert fast_paths.kernels() is not None


@pytest.fixture(params=WAYS)
def _way(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    if request.param == "operations":
        monkeypatch.setattr(fast_paths, "kernels", lambda: None)
    else:
        request.getfixturevalue("_compiled")
    if request.param == "interpreted":
        from xai_lightning.functional.attribution import path_kernels

        interpreted(monkeypatch, path_kernels)
    with np.errstate(all="ignore"):
        yield


def network(*widths: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(sum(widths))
        layers = [m for a, b in itertools.pairwise(widths) for m in (nn.Linear(a, b), nn.ReLU())]
        return nn.Sequential(*layers[:-1])


def differentiated(forward: Callable[..., Tensor], seen: list[int] | None = None) -> Any:
    """What `refine` asks for, of a function of the inputs; ``seen`` is told the rows of each call."""

    def gradient(points: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        if seen is not None:
            seen.append(len(sample))
        given = tuple(x.detach().requires_grad_(True) for x in points)
        scalars = forward(*given)
        return scalars.detach(), torch.autograd.grad(scalars.sum(), given)

    return gradient


def drawn(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def twin(forward: Callable[[Tensor], Tensor], x: Tensor, b: Tensor, tolerance: float, most: int) -> tuple[Tensor, int]:
    """One sample by the text: segments in a list, halved one after the other; attributions and passes."""

    def node(place: float) -> tuple[float, float, Tensor]:
        point = torch.lerp(b, x, place).requires_grad_(True)
        scalar = forward(point[None])[0]
        (gradient,) = torch.autograd.grad(scalar, point)
        return place, float(scalar.detach()), gradient

    def error(left: Any, right: Any) -> float:
        slopes = sum(float((each[2] * (x - b)).double().sum()) for each in (left, right))
        return right[1] - left[1] - (right[0] - left[0]) * slopes / 2

    ends = [node(place) for place in (0.0, 0.5, 1.0)]
    cut, passes = list(itertools.pairwise(ends)), 3
    allowed = tolerance * abs(ends[2][1] - ends[0][1])
    while passes < most:
        off = [error(*each) for each in cut]
        if not (abs(sum(off)) > allowed or sum(map(abs, off)) > 2 * allowed):
            break
        order = sorted(range(len(cut)), key=lambda i: -abs(off[i]))
        needed = next(k for k in range(len(cut) + 1) if sum(abs(off[i]) for i in order[k:]) <= allowed)
        halved = [i for k, i in enumerate(order) if k < needed or abs(off[i]) >= abs(off[order[0]]) / 2]
        kept = [each for i, each in enumerate(cut) if i not in halved[: most - passes]]
        for i in halved[: most - passes]:
            left, right = cut[i]
            middle = node((left[0] + right[0]) / 2)
            kept += [(left, middle), (middle, right)]
            passes += 1
        cut = kept
    return sum((right[0] - left[0]) * (left[2] + right[2]) / 2 for left, right in cut) * (x - b), passes


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("most", [3, 4, 8, 65])
def test_nodes_are_those_of_a_slow_twin(most: int) -> None:
    forward, x, b = network(5, 40, 20, 1), 3 * drawn(24, 5), drawn(1, 5).expand(24, 5)
    found = refine(differentiated(lambda p: forward(p)[:, 0]), (x,), (b,), tolerance=0.003, most=most)
    slow = [twin(lambda p: forward(p)[:, 0], *pair, 0.003, most) for pair in zip(x, b, strict=True)]
    assert found.passes.tolist() == [passes for _, passes in slow]
    assert most < 65 or len(set(found.passes.tolist())) > 3
    torch.testing.assert_close(found.values[0], torch.stack([values for values, _ in slow]), atol=2e-5, rtol=1e-5)
    torch.testing.assert_close(found.gap, found.values[0].double().sum(dim=1) - found.change, atol=1e-4, rtol=0)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("at_once", [1, 7, 10**6])
@pytest.mark.parametrize("own", [False, True], ids=["shared baseline", "own baselines"])
def test_several_inputs_of_any_shape_are_followed_together(at_once: int, own: bool) -> None:
    """Law 2: neither blocks nor other samples change the nodes."""
    forward, xs = network(18, 30, 1), (drawn(9, 2, 3), drawn(9, 1, 4, 3).transpose(2, 3))
    bs = tuple(0.1 * drawn(*x.shape) if own else x.new_zeros(1, *x.shape[1:]).expand_as(x) for x in xs)
    seen: list[int] = []

    def scalars(*points: Tensor) -> Tensor:
        return forward(torch.cat([p.flatten(1) for p in points], dim=1))[:, 0]

    found = refine(differentiated(scalars, seen), xs, bs, tolerance=0.02, at_once=at_once)
    assert max(seen) <= at_once
    assert sum(seen) == found.passes.sum()
    one_input = (torch.cat([each.flatten(1) for each in ends], dim=1) for ends in (xs, bs))
    joined = refine(differentiated(scalars), *((each,) for each in one_input), tolerance=0.02)
    assert joined.passes.tolist() == found.passes.tolist()
    torch.testing.assert_close(joined.gap, found.gap, atol=1e-5, rtol=0)
    for i in range(9):
        one = (tuple(x[i : i + 1] for x in each) for each in (xs, bs))
        alone = refine(differentiated(scalars), *one, tolerance=0.02)
        assert alone.passes == found.passes[i]
        for mine, all_ in zip(alone.values, found.values, strict=True):
            torch.testing.assert_close(mine[0], all_[i], atol=2e-5, rtol=1e-5)


def both_ways(monkeypatch: pytest.MonkeyPatch, ask: Callable[[], Refined]) -> tuple[Refined, Refined]:
    """Compiled, and by operations."""
    compiled = ask()
    monkeypatch.setattr(fast_paths, "kernels", lambda: None)
    return compiled, ask()


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_compiled_loops_find_what_operations_find(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of samples that are dead, undefined or infinite too."""
    forward, x = network(12, 50, 20, 1), 2 * drawn(300, 12)
    x[7], x[11, 3], x[13, 2] = 0, math.nan, math.inf
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        one, other = both_ways(
            monkeypatch,
            lambda: refine(
                differentiated(lambda p: forward(p)[:, 0]), (x,), (torch.zeros_like(x),), tolerance=1e-4, at_once=101
            ),
        )
    finally:
        torch.set_num_threads(before)
    assert (one.passes == other.passes).double().mean() > 0.99
    assert one.passes[7] == one.passes[11] == 3
    assert other.passes.max() == 65
    same = one.passes == other.passes
    for mine, theirs in ((one.values[0], other.values[0]), (one.gap, other.gap), (one.change, other.change)):
        torch.testing.assert_close(mine[same], theirs[same], atol=1e-5, rtol=1e-4, equal_nan=True)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("far", ["input", "baseline"])
def test_ends_of_a_path_are_baseline_and_input_themselves(far: str) -> None:
    """Bit for bit: what is logged as f(x) is that of x."""
    x, b = 1e6 * drawn(50, 7), drawn(50, 7) + 0.1
    x, b = (x, b) if far == "input" else (b, x)
    seen: list[Tensor] = []

    def scalars(p: Tensor) -> Tensor:
        seen.append(p.detach().clone())
        return p.sum(dim=1)

    refine(differentiated(scalars), (x,), (b,), tolerance=0.01)
    first = seen[0].view(50, 3, 7)
    assert torch.equal(first[:, 0], b)
    assert torch.equal(first[:, 2], x)
    torch.testing.assert_close(first[:, 1], (x + b) / 2)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types_are_followed_by_operations(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    x = torch.linspace(0.5, 2, 6, dtype=dtype)[:, None]
    monkeypatch.setattr(fast_paths, "Path", None)
    found = refine(differentiated(lambda p: p[:, 0] ** 3), (x,), (0 * x,), tolerance=0.01)
    assert found.values[0].dtype == dtype
    torch.testing.assert_close(found.values[0][:, 0], x[:, 0] ** 3, atol=0.1, rtol=0.05)


@pytest.mark.usefixtures("_compiled")
@pytest.mark.parametrize("name", ["walk", "add_slopes", "gather", "advance", "append"])
@pytest.mark.parametrize("fault", ["does nothing", "raises"])
def test_loops_that_do_not_work_are_told_and_left_alone(name: str, fault: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fast_paths.kernels(), name, Broken(fault))
    fast_paths.kernels.cache_clear()
    try:
        with pytest.warns(UserWarning, match=r"gradients take longer.*(no space left|wrongly followed)"):
            assert fast_paths.kernels() is None
    finally:
        monkeypatch.undo()
        fast_paths.kernels.cache_clear()


@pytest.mark.usefixtures("_compiled")
def test_networks_in_torch_of_another_default_type_and_device_can_be_explained() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        with torch.device("meta"):
            again = fast_paths.kernels.__wrapped__()
    finally:
        torch.set_default_dtype(torch.float32)
    assert again is fast_paths.kernels()


def test_the_way_by_operations_is_not_compiled() -> None:
    table = Table.of(2, 5, torch.device("cpu"))
    assert table.sample.tolist() == [0, 0, 0, 1, 1, 1, 0, 0, 0, 0]
    assert table.rows[:6, 0].tolist() == [0, 0.5, 1] * 2
    assert table.weight[:6].tolist() == [0.25, 0.5, 0.25] * 2
    assert Path(torch.ones(2, 3), torch.zeros(2, 3), table).points(range(1, 3)).tolist() == [[0.5] * 3, [1.0] * 3]
    assert Segments(table, torch.zeros(2).double(), 5).advance(0, 6) == 0


@pytest.mark.usefixtures("_compiled")
def test_no_more_points_are_written_than_there_is_room_for() -> None:
    path = fast_paths.Path(torch.ones(2, 3), torch.zeros(2, 3), Table.of(2, 5, torch.device("cpu")), room=2)
    assert len(path.points(range(2))) == 2
    with pytest.raises(ValueError, match="room for 2 rows; got 3"):
        path.points(range(3))
