"""Which share of the samples is looked at: drawn by hash, uniformly, in any batching."""

import pytest
import torch

from mnist_data import read_digits
from xai_lightning.callbacks._draw import Share, known_by, row_hash, sample_hash
from xai_lightning.callbacks.activation import HASHED

N, SEEDS = 1000, 200
COUNTING = torch.arange(N)
GENERATOR = torch.Generator().manual_seed(0)
BITS = torch.rand(N, 40, generator=GENERATOR) < 0.2
INPUTS = {
    "counting, float32": COUNTING[:, None].float(),
    "counting, float64": COUNTING[:, None].double(),
    "token ids": COUNTING[:, None],
    "bits, float64": BITS.double(),
    "bits, float16": BITS.half(),
    "booleans": BITS,
    "numbers, bfloat16": torch.randn(N, 5, generator=GENERATOR).bfloat16(),
    "images": torch.randn(N, 3, 16, 16, generator=GENERATOR),
}


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize("inputs", INPUTS)
def test_a_share_varies_from_seed_to_seed_as_that_of_independent_draws(inputs, share):
    """Law 6: evenly spaced numbers and numbers with many zero bits too."""
    sizes = torch.tensor([int(Share(share, seed, 64).of(INPUTS[inputs]).sum()) for seed in range(SEEDS)]).double()
    expected = (N * share * (1 - share)) ** 0.5
    assert abs(float(sizes.mean()) - N * share) < 4 * expected / SEEDS**0.5
    # chi-squared with 199 degrees of freedom: five standard deviations are 0.25
    assert float(sizes.std()) / expected == pytest.approx(1, abs=0.25)


def test_a_share_is_the_same_in_any_batching_and_order():
    """Law 2."""
    x, draw = INPUTS["images"], Share(0.3, 5, 64)
    whole, order = draw.of(x), torch.randperm(N, generator=GENERATOR)
    assert torch.equal(torch.cat([Share(0.3, 5, 64).of(part) for part in x.split(77)]), whole)
    assert torch.equal(draw.of(x[order]), whole[order])
    assert not torch.equal(Share(0.3, 6, 64).of(x), whole)


def test_a_smaller_share_is_part_of_a_larger_one():
    smaller, larger = (Share(share, 5, 64).of(INPUTS["images"]) for share in (0.2, 0.4))
    assert not (smaller & ~larger).any()


def test_what_a_draw_keeps_can_be_used_outside_of_inference_mode():
    """Trap 1."""
    draw = Share(0.3, 5, 16)
    with torch.inference_mode():
        drawn = draw.of(INPUTS["images"])
    assert not any(x.is_inference() for x in draw._known if isinstance(x, torch.Tensor))
    assert torch.equal(draw.of(INPUTS["images"].clone().requires_grad_()), drawn)


def test_complex_numbers_are_known_by_both_of_their_parts() -> None:
    """A spectrum beside the input, say."""
    x = torch.complex(torch.ones(3), torch.tensor([0.0, 1.0, 0.0])).reshape(3, 1)
    hashes = sample_hash(x, 0).tolist()
    assert hashes[0] == hashes[2] != hashes[1]


def test_numbers_tell_equal_inputs_apart_and_classes_are_strata_that_do() -> None:
    x, y, region = torch.ones(3, 2), torch.tensor([0.0, 1.0, 0.0]), torch.tensor([[0, 1], [0, 1], [1, 1]])
    by_number = row_hash(known_by(x, y, ()), 0).tolist()
    assert by_number[0] == by_number[2] != by_number[1]
    by_region = row_hash(known_by(x, y.long(), (region,)), 0).tolist()
    assert by_region[0] == by_region[1] != by_region[2]


def test_digits_are_told_apart_by_the_runs_that_are_read() -> None:
    """Most of a digit is empty: of 32 single places, which take as long, a fifth looked alike."""
    x = read_digits()[0].pictures
    draw = Share(0.5, 0, HASHED)
    draw.of(x[:1])
    known = x.flatten(1)[:, draw._known.places]
    assert len(torch.unique(known, dim=0)) > 0.99 * len(x)


def test_a_draw_holds_no_memory_that_was_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is pickled with its monitor."""
    monkeypatch.setattr(torch, "empty", lambda *size, **more: torch.full(size, 77, **more))
    draw = Share(0.3, 5, 64)
    draw.of(INPUTS["images"])
    assert 77 not in list(draw._drawn)[int(draw.of(INPUTS["images"]).sum()) :]
