"""Which samples of a batch count."""

import torch

from xai_lightning.callbacks._fairness.judging import Kept


def test_if_all_samples_count_nothing_is_copied() -> None:
    values = torch.arange(3)
    kept = Kept(torch.ones(3, dtype=torch.bool))
    assert kept.of(values) is values
    assert kept.left_out(torch.ones(3, dtype=torch.bool)) == 0


def test_samples_that_do_not_count_are_left_out_of_values_of_any_shape() -> None:
    kept = Kept(torch.tensor([True, False, True]))
    assert kept.of(torch.tensor([[1, 2], [3, 4], [5, 6]])).tolist() == [[1, 2], [5, 6]]


def test_only_real_samples_are_said_to_be_left_out() -> None:
    real, finite = torch.tensor([True, True, False, False]), torch.tensor([True, False, True, False])
    assert Kept(real & finite).left_out(real) == 1
    nothing = torch.zeros(4, dtype=torch.bool)
    assert Kept(nothing).left_out(nothing) == 0
