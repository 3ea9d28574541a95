"""Compiled loops give what operations of torch give."""

import itertools
import math
import os
import pickle
import subprocess
import sys

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from xai_lightning.callbacks._draw import Share
from xai_lightning.functional import compiled
from xai_lightning.functional.activation import EVERYTHING, Accumulator, Measured, Moments, fused, observe
from xai_lightning.functional.rng import random_words

EXACT = ("count", "zeros", "positives", "histogram", "minimum", "maximum", "saturated", "samples", "calls", "nonfinite")
BOUNDED = Measured(higher=True, histogram=True, sparsity=True, limits=(-0.5, 2.0))


@pytest.fixture(scope="module", autouse=True)
def _compiled():
    pytest.importorskip("numba")
    fused.kernels()


def normal(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_as_in_float64(state: Moments, h: torch.Tensor, unit_dim: int) -> None:
    """Operations of torch take float64 as it is, so that they round a billion times less."""
    expected = observe(h.double(), unit_dim, measured=BOUNDED)
    for name in EXACT:
        assert torch.equal(getattr(state, name), getattr(expected, name)), name
    elements = h.double().movedim(unit_dim, 0).flatten(1)
    elements = elements[:, elements.isfinite().all(0)]
    deviations = (elements - expected.mean[:, None]).abs()
    # what cancels: squares of means of up to four variances are left in, or sixteen without the higher powers
    spread = deviations.square().mean(1).sqrt()
    deviations += torch.minimum(expected.mean.abs(), 4 * spread)[:, None]
    sizes = {"mean": elements.abs().sum(1) / max(1, int(state.count)), "magnitude": elements.abs().sum(1)}
    sizes |= {f"m{power}": deviations.pow(power).sum(1) for power in (2, 3, 4)}
    for name, size in sizes.items():
        error = (getattr(state, name) - getattr(expected, name)).abs()
        assert (error <= 3e-7 * size).all(), (name, (error / size).max())
    torch.testing.assert_close(state.sparsity, expected.sparsity, rtol=1e-5, atol=1e-6)


LENGTHS = (1, 2, 9, 63, 64, 65, 511, 512, 1023, 1024, 1025, 2049)


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("units", [1, 2, 15, 16, 17])
def test_every_length_of_a_unit_is_summed_whole(length, units):
    """Runs end in the middle of a unit, of a row, or of what a register holds."""
    for samples in (1, 3, 70):
        h = normal(samples, units, length)
        assert_as_in_float64(observe(h, 1, measured=BOUNDED), h, 1)
        assert_as_in_float64(observe(h.movedim(1, 2).contiguous(), 2, measured=BOUNDED), h, 1)


def test_many_narrow_rows_are_summed_whole():
    for samples, units in itertools.product((1023, 1024, 1025, 3000), (1, 3, 33)):
        h = normal(samples, units)
        assert_as_in_float64(observe(h, 1, measured=BOUNDED), h, 1)


def test_batches_add_up_to_all_of_them():
    """Law 2: extremes of the first batch stay those of all."""
    h = normal(90, 4, 6)
    h[0, 0, 0], h[1, 1, 1] = -50.0, 50.0
    layer = Accumulator(4, BOUNDED, torch.device("cpu"))
    for part in h.split(30):
        layer.add(part, 1, len(part))
    assert_as_in_float64(layer.state()._replace(calls=torch.tensor(1)), h, 1)


CHECKED = """
import torch
from xai_lightning.functional.activation import fused, observe
for shape in [(3, 17), (1, 1), (70, 17, 9), (5, 3, 63), (2, 33, 2), (2, 2, 1025), (1030, 5)]:
    observe(torch.randn(shape), 1)
starts, drawn, room = (torch.tensor(x).numpy() for x in ([0, 4], [0] * 3, [0] * 60))
weights, room = torch.arange(32).view(2, 16).numpy(), room.astype("int32")
for least in (-(2**63), 0, 2**63 - 1):
    count = fused.draw_rows(torch.randn(3, 20), starts, weights, torch.tensor([0, 1, least]).numpy(), drawn)
    fused.copy_rows(torch.randn(3, 20), drawn, count, room, 60 - 20 * count)
"""


@pytest.mark.slow
def test_no_memory_beyond_the_numbers_is_read(tmp_path):
    environment = {**os.environ, "NUMBA_BOUNDSCHECK": "1", "NUMBA_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", CHECKED], env=environment, check=True)


values = st.one_of(
    st.floats(-1e3, 1e3, width=32), st.sampled_from([0.0, -0.0, 1e-3, -2.0, 2.0, -0.5, math.nan, math.inf, -math.inf])
)


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data(), shape=st.tuples(st.integers(1, 5), st.integers(1, 4), st.integers(1, 5)))
def test_whatever_is_given_is_counted_exactly(data, shape):
    count = math.prod(shape)
    h = torch.tensor(data.draw(st.lists(values, min_size=count, max_size=count))).view(shape)
    state, expected = observe(h, 1, measured=BOUNDED), observe(h.double(), 1, measured=BOUNDED)
    for name in EXACT:
        assert torch.equal(getattr(state, name), getattr(expected, name)), name


@pytest.mark.parametrize("scale", [1e-30, 1e-9, 1e-6, 1e8, 1e12, 1e30])
def test_what_float32_cannot_square_is_added_in_float64(scale):
    h = scale * normal(40, 3, 70)
    state, expected = observe(h, 1), observe(h.double(), 1)
    for name in ("mean", "m2", "m4", "magnitude"):
        torch.testing.assert_close(getattr(state, name), getattr(expected, name), rtol=1e-5, atol=0), name


def test_denormal_numbers_are_no_zeros():
    h = torch.tensor([[1e-40, -1e-40, 0.0, 1.0]])
    assert observe(h, 1).zeros.tolist() == [0, 0, 1, 0]


@pytest.mark.parametrize("memory", [torch.channels_last, torch.contiguous_format])
def test_the_order_in_memory_changes_nothing(memory):
    h = normal(6, 5, 7, 3)
    assert_as_in_float64(observe(h.to(memory_format=memory), 1, measured=BOUNDED), h, 1)


def test_a_slice_is_observed_without_what_lies_between():
    h = normal(8, 6, 20)[::2, 1:4, ::3]
    assert_as_in_float64(observe(h, 1, measured=BOUNDED), h, 1)


class Tagged(torch.Tensor):
    """What wraps memory of another kind has no array of numbers."""

    def __dlpack__(self, **kwargs):
        raise TypeError("no array")


def test_tensors_without_an_array_are_left_to_operations_of_torch():
    h = normal(7, 3, 4)
    mirrored = torch._neg_view(h)
    assert mirrored.is_neg()
    assert mirrored.is_contiguous()
    assert_as_in_float64(observe(mirrored, 1, measured=BOUNDED), -h, 1)
    assert not fused.takes(mirrored)
    assert_as_in_float64(observe(h.as_subclass(Tagged), 1, measured=BOUNDED), h, 1)
    layer = Accumulator(3, BOUNDED, torch.device("cpu"))
    layer.add((2 * h).requires_grad_(), 1, 7)
    assert_as_in_float64(layer.state(), 2 * h, 1)


def test_a_state_that_was_pickled_or_copied_goes_on_alone():
    layer = Accumulator(3, EVERYTHING, torch.device("cpu"))
    layer.add(normal(50, 3) + 100, 1, 50)
    before = layer.state()
    other = pickle.loads(pickle.dumps(layer))
    other.add(normal(60, 3) + 100, 1, 60)
    assert torch.equal(layer.state().m2, before.m2)
    assert layer.state().samples == 50
    layer.add(normal(60, 3) + 100, 1, 60)
    assert all(map(torch.equal, layer.state(), other.state()))


def test_what_was_begun_in_inference_mode_goes_on_outside_of_it(monkeypatch):
    """Trap 1: a validation may run in it, and the next one not."""
    whole = torch.cat([normal(50, 3) + 100, normal(50, 3), normal(7, 3)])
    with torch.inference_mode():
        layer = Accumulator(3, EVERYTHING, torch.device("cpu"))
        layer.add(whole[:50], 1, 50)
        layer.add(whole[50:100], 1, 50)
    monkeypatch.setattr(fused, "takes", lambda values: False)
    layer.add(whole[100:], 1, 7)
    torch.testing.assert_close(layer.state().m2, observe(whole.double(), 1).m2, rtol=1e-6, atol=0)


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_the_same_samples_are_drawn(share, monkeypatch):
    """Law 2: where numba is missing, as on another rank, the draw is the same."""
    x = normal(500, 1, 28, 28)
    drawn = Share(share, seed=3, most=32).of(x)
    monkeypatch.setattr(fused, "takes", lambda values: False)
    assert torch.equal(drawn, Share(share, seed=3, most=32).of(x))
    assert abs(float(drawn.float().mean()) - share) < 0.08


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 5, 3), (40, 0)])
def test_rows_are_copied_to_the_bit(shape):
    """Whatever their numbers are."""
    x = normal(*shape)
    x.view(-1)[:3] = torch.tensor([math.nan, -0.0, 1e-44])[: x.numel()]
    index, room = torch.tensor([0, 7, 39]), torch.zeros(5, *shape[1:])
    fused.copy_rows(x, index.numpy(), 2, room.view(-1).view(torch.int32).numpy(), room.numel() // 5)
    expected = torch.cat([torch.zeros(1, *shape[1:]), x[index[:2]], torch.zeros(2, *shape[1:])])
    assert torch.equal(room.view(torch.int32), expected.view(torch.int32))


def test_hashes_wrap_around():
    words = random_words([1], 16)[0]
    flat = torch.tensor([[-1.5, 3e38, 1e-40, *range(13)]])
    bits = flat.view(torch.int32)[0].tolist()
    total = (sum(b * w for b, w in zip(bits, words.tolist(), strict=True)) + 7) % 2**64
    total -= 2**64 * (total >= 2**63)
    hashed = (total ^ (total >> 32)) * 77 % 2**64
    hashed -= 2**64 * (hashed >= 2**63)
    for least, expected in ((hashed, True), (min(hashed + 1, 2**63 - 1), False)):
        drawn = torch.full((1,), -1).numpy()
        numbers = torch.tensor([7, 77, least]).numpy()
        assert fused.draw_rows(flat, torch.tensor([0]).numpy(), words[None].numpy(), numbers, drawn) == expected
        assert drawn[0] == 0


def test_without_numba_operations_of_torch_do_the_same(monkeypatch):
    monkeypatch.setattr(compiled, "find_spec", lambda name: None)
    fused.kernels.cache_clear()
    try:
        assert not fused.takes(normal(2, 2))
        assert_as_in_float64(observe(normal(9, 4, 5), 1, measured=BOUNDED), normal(9, 4, 5), 1)
    finally:
        fused.kernels.cache_clear()


def forget(monkeypatch, **modules):
    """As in a process that has not looked for numba yet."""
    monkeypatch.delattr("xai_lightning.functional.activation.kernels")
    for name, module in modules.items():
        monkeypatch.setitem(sys.modules, f"xai_lightning.functional.activation.{name}", module)
    fused.kernels.cache_clear()


def broken(*args):
    raise OSError("no space left on device")


@pytest.mark.parametrize("fault", ["import", "compile", "stale"])
def test_a_numba_that_cannot_be_used_is_told_once(fault, monkeypatch):
    loops, said = fused.kernels(), {"import": "ModuleNotFoundError", "compile": "no space left", "stale": "other sums"}
    if fault == "import":
        forget(monkeypatch, kernels=None)
    else:
        fused.kernels.cache_clear()
        add = loops.add_block_at

        def stale(address, rows, *args):
            return add(address, rows - 1, *args)

        monkeypatch.setattr(loops, "add_block_at", broken if fault == "compile" else stale)
    try:
        with pytest.warns(UserWarning, match=f"take longer, since numba's .* cannot be used: .*{said[fault]}"):
            assert not fused.takes(normal(2, 2))
        assert not fused.takes(normal(2, 2))
        assert_as_in_float64(observe(normal(9, 4, 5), 1, measured=BOUNDED), normal(9, 4, 5), 1)
    finally:
        fused.kernels.cache_clear()


@pytest.mark.parametrize("fault", ["draw_rows", "copy_rows"])
def test_loops_over_rows_that_do_something_else_are_told_once(fault, monkeypatch):
    compiled = getattr(fused.row_kernels(), fault)
    wrong = lambda at, n, width, *args: compiled(at, n, width - 1, *args)  # noqa: E731
    monkeypatch.setattr(fused.row_kernels(), fault, wrong)
    fused.row_kernels.cache_clear()
    x = normal(90, 1, 28, 28)
    try:
        with pytest.warns(UserWarning, match="a share of the samples takes longer, .*: .*draw other test rows"):
            assert not fused.takes_rows(x)
        assert torch.equal(Share(0.5, seed=3, most=32).of(x), Share(0.5, seed=3, most=32).of(x.transpose(0, 1)[0]))
    finally:
        fused.row_kernels.cache_clear()


def test_loops_that_are_not_compiled_are_not_used(monkeypatch):
    monkeypatch.setattr(sys.modules["numba"].config, "DISABLE_JIT", 1)
    fused.kernels.cache_clear()
    try:
        assert not fused.takes(normal(2, 2))
    finally:
        fused.kernels.cache_clear()


@pytest.mark.parametrize("limit", [0.1, 0.7, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_what_is_cut_at_a_limit_is_saturated(limit, dtype):
    """A type holds the limit rounded."""
    h = torch.nn.functional.hardtanh(normal(400, 3).to(dtype), -limit, limit)
    found = observe(h, 1, measured=Measured(limits=(-limit, limit))).saturated
    assert found == (h.abs() == h.abs().max()).sum() > 300


def test_an_activation_can_be_resized_afterwards():
    """Law 1: `Tensor.numpy` would forbid that for good."""
    h = normal(300, 1, 8, 8)
    observe(h, 1)
    Share(0.5, seed=0, most=32).of(h)
    assert h.untyped_storage().resizable()


def test_a_call_of_which_nothing_is_finite_is_a_call():
    layer = Accumulator(2, EVERYTHING, torch.device("cpu"))
    layer.add(torch.full((3, 2), math.nan), 1, 3)
    layer.add(normal(3, 2), 1, 3)
    assert (layer.state().calls, layer.state().samples) == (2, 3)
