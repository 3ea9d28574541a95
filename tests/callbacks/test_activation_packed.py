"""ActivationMonitor and recurrent layers that return packed sequences, which hold no padding."""

import math
from collections.abc import Sequence
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils.data import DataLoader, Dataset

from watched import validated
from xai_lightning.callbacks._activation.packed import packed_in, places_of
from xai_lightning.functional.activation import observe, statistics
from xai_lightning.functional.representation import class_selectivity, class_sums, rank_statistics

N, T = 37, 9
LENGTHS = [1 + i * 5 % T for i in range(N)]


class Texts(Dataset):
    """Texts of 1 to 9 tokens, padded with what would show; a mask that leaves out the first token of every third."""

    def __init__(self, order: Sequence[int] = range(N)) -> None:
        self.order = order

    def __len__(self) -> int:
        return N

    def __getitem__(self, place: int) -> dict[str, Any]:
        i = self.order[place]
        x = torch.full((T, 4), 50.0)
        x[: LENGTHS[i]] = torch.randn(LENGTHS[i], 4, generator=torch.Generator().manual_seed(i))
        real = torch.arange(T) < LENGTHS[i]
        some = real & ((torch.arange(T) > 0) | (i % 3 > 0) | (LENGTHS[i] == 1))
        return {"x": x, "y": i % 2, "length": LENGTHS[i], "real": real, "some": some}


class Reads(pl.LightningModule):
    """A recurrent layer that reads packed texts, or padded ones."""

    def __init__(self, kind: type[nn.RNNBase] = nn.LSTM, *, packed: bool = True, in_order: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = kind(4, 6, batch_first=True), nn.Linear(6, 2)
        self.packed, self.in_order = packed, in_order

    def validation_step(self, batch: dict[str, Tensor]) -> Tensor:
        x, lengths = batch["x"], batch["length"].cpu()
        if self.in_order:
            lengths, order = lengths.sort(descending=True)
            x = x[order]
        if self.packed:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=self.in_order)
            h = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
        else:
            h = self.rnn(x)[0]
        return self.head(h[torch.arange(len(h)), lengths - 1])


def logged(model: Reads, *, batch_size: int = 8, order: Sequence[int] = range(N), **options: Any) -> dict[str, float]:
    found = validated(model, DataLoader(Texts(order), batch_size=batch_size), **options)
    return {name: value for name, value in found.items() if name.startswith("activation/rnn/")}


def outputs(kind: type[nn.RNNBase], mask: str = "real") -> list[Tensor]:
    """The layer's outputs for the real tokens of each text, one text at a time."""
    model, texts = Reads(kind), Texts()
    with torch.no_grad():
        return [model.rnn(texts[i]["x"][None, : LENGTHS[i]])[0][0][texts[i][mask][: LENGTHS[i]]] for i in range(N)]


def expected(kind: type[nn.RNNBase], mask: str = "real") -> dict[str, float]:
    return statistics([observe(torch.cat(outputs(kind, mask)), 1)], ["mean", "std", "minimum", "maximum", "zero_share"])


def same(found: dict[str, float], numbers: dict[str, float]) -> None:
    for name, value in numbers.items():
        assert found[f"activation/rnn/{name}"] == pytest.approx(value, rel=1e-5, abs=1e-6), name


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU, nn.RNN])
@pytest.mark.parametrize("in_order", [False, True], ids=["any order", "sorted in the step"])
def test_all_elements_are_seen_and_no_padding(kind: type[nn.RNNBase], in_order: bool) -> None:
    found = logged(Reads(kind, in_order=in_order))
    same(found, expected(kind))
    assert not any(math.isnan(value) for value in found.values())


@pytest.mark.parametrize("mask", ["real", "some"])
@pytest.mark.parametrize("batch_size", [1, 8, N])
def test_a_mask_selects_the_same_elements_as_of_padded_outputs(mask: str, batch_size: int) -> None:
    found = logged(Reads(), mask=mask, batch_size=batch_size)
    same(found, expected(nn.LSTM, mask))
    padded = logged(Reads(packed=False), mask=mask, batch_size=batch_size)
    assert found == pytest.approx(padded, rel=1e-5, abs=1e-6, nan_ok=True)


def test_a_share_draws_the_same_samples_as_of_padded_outputs() -> None:
    chosen = [logged(Reads(packed=packed), share=0.4, mask="real", statistics="cheap") for packed in (True, False)]
    assert chosen[0] == pytest.approx(chosen[1], rel=1e-5, abs=1e-6, nan_ok=True)
    drawn, everything = logged(Reads(), share=0.4), expected(nn.LSTM)
    assert drawn["activation/rnn/mean"] == pytest.approx(chosen[0]["activation/rnn/mean"], rel=1e-5)
    assert drawn["activation/rnn/mean"] != pytest.approx(everything["mean"], rel=1e-3)


@pytest.mark.parametrize("mask", [None, "real", "some"])
@pytest.mark.parametrize("order", [range(N), range(N - 1, -1, -1)], ids=["forwards", "backwards"])
def test_a_sample_is_represented_by_the_mean_of_its_elements(mask: str | None, order: Sequence[int]) -> None:
    found = logged(Reads(), order=order, representation=True, pictures=False, mask=mask)
    rows = torch.stack([own.double().mean(0) for own in outputs(nn.LSTM, mask or "real")])
    by_class = class_selectivity(*class_sums(rows, torch.arange(N) % 2, 2))
    same(found, rank_statistics(rows) | {"class_selectivity_mean": float(by_class.nanmean())})


def test_samples_that_the_step_sorted_are_not_taken_for_those_of_the_batch() -> None:
    with pytest.warns(UserWarning, match=r"return packed sequences .* enforce_sorted=False.*: rnn"):
        found = logged(Reads(in_order=True), share=0.4)
    same(found, expected(nn.LSTM))
    with pytest.warns(UserWarning, match=r"with samples \(.*enforce_sorted=False\); what they represent is NaN: rnn"):
        found = logged(Reads(in_order=True), representation=True, pictures=False)
    same(found, expected(nn.LSTM))
    assert math.isnan(found["activation/rnn/effective_rank"])


def test_only_the_first_output_is_taken_for_a_packed_sequence() -> None:
    packed = pack_padded_sequence(torch.zeros(2, 3, 1), torch.tensor([3, 1]), batch_first=True)
    assert packed_in(packed) is packed
    assert packed_in((packed, torch.zeros(2))) is packed
    assert packed_in([packed]) is packed
    assert packed_in((torch.zeros(2), packed)) is None
    assert packed_in(()) is None
    assert packed_in(torch.zeros(2)) is None


def test_elements_have_no_place_in_a_batch_of_other_samples() -> None:
    packed = pack_padded_sequence(torch.zeros(3, 2, 1), torch.tensor([1, 2, 1]), batch_first=True, enforce_sorted=False)
    places = places_of(packed, 3)
    assert places is not None
    assert sorted(zip(*(place.tolist() for place in places), strict=True)) == [(0, 0), (1, 0), (1, 1), (2, 0)]
    assert places_of(packed, 6) is None, "only some of its samples were packed"
    assert places_of(packed._replace(sorted_indices=None, unsorted_indices=None), 3) is None, "sorted by whom?"
