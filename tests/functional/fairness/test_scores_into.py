"""Counts of scores that are added to in place."""

import pytest
import torch

from xai_lightning.functional.fairness import score_counts


def drawn(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(n, generator=generator, dtype=torch.float64)
    return scores, torch.randint(2, (n,), generator=generator), torch.randint(3, (n,), generator=generator)


def test_batches_that_are_added_in_place_are_the_counts_of_all_samples() -> None:
    parts = [drawn(n, seed) for seed, n in enumerate((1, 70_000, 250))]
    into = score_counts(*parts[0], n_groups=3)
    for part in parts[1:]:
        assert score_counts(*part, n_groups=3, into=into) is into
    whole = [torch.cat(columns) for columns in zip(*parts, strict=True)]
    assert torch.equal(into, score_counts(*whole, n_groups=3))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s, t, g: (s + 1, t, g), r"scores must be finite and lie in \[0, 1\]"),
        (lambda s, t, g: (s, t, g + 1), r"groups must lie in 0\.\.2, got 3"),
    ],
)
def test_a_refused_batch_leaves_what_was_counted_as_it_was(change, message: str) -> None:
    into = score_counts(*drawn(50, 0), n_groups=3)
    before = into.clone()
    with pytest.raises(ValueError, match=message):
        score_counts(*change(*drawn(50, 1)), n_groups=3, into=into)
    assert torch.equal(into, before)


def test_counts_of_other_groups_are_not_added_to() -> None:
    other = score_counts(*drawn(50, 0), n_groups=3)
    with pytest.raises(ValueError, match=r"into must be counts of shape \[4, 2, 1024, 3\], got \[3, 2, 1024, 3\]"):
        score_counts(*drawn(50, 1), n_groups=4, into=other)
