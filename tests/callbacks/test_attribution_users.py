"""AttributionMonitor on networks and batches as people write them."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from learners import Items, cross_entropy, curves, draw, first, fitted, seeded
from xai_lightning import AttributionMonitor, MemorySink

# --- texts


def text(i: int) -> tuple[Tensor, int]:
    length = 2 + i % 4
    ids = torch.zeros(6, dtype=torch.int64)
    ids[:length] = 1 + draw(length, seed=i).mul(9).long().abs() % 10
    return ids, int(ids[0] > 3)


class Packed(nn.Module):
    """A recurrent network that finds lengths out from padding, and so takes no text that is padding alone."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(12, 4), nn.GRU(4, 4, batch_first=True), nn.Linear(4, 2)

    def forward(self, ids: Tensor) -> Tensor:
        lengths = (ids != 0).sum(dim=1)
        packed = pack_padded_sequence(self.embed(ids), lengths, batch_first=True, enforce_sorted=False)
        return self.out(self.rnn(packed)[1][0])


@pytest.mark.parametrize("method", ["integrated_gradients", "gradient_shap"])
def test_a_network_that_takes_no_text_of_padding_alone_is_explained(method: str) -> None:
    """Only the embedding is given the baseline; lengths and masks are those of the text."""
    sink = MemorySink()
    monitor = AttributionMonitor(method, embedding="embed", network="net", probe_size=8, sinks=[sink])
    fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor, epochs=1, lr=0.0)
    errors = curves(sink).get(f"xai/{method}/completeness_error", [0.0])
    assert errors[0] < 0.01
    assert first(monitor).isfinite().all()
    assert first(monitor).abs().sum() > 0


def test_an_error_on_a_text_of_padding_alone_comes_with_what_to_do() -> None:
    monitor = AttributionMonitor("kernel_shap", embedding="embed", network="net", probe_size=8)
    with pytest.raises(RuntimeError, match="Length of all samples") as raised:
        fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor)
    assert "give baseline= another id" in "".join(raised.value.__notes__)


@pytest.mark.parametrize("method", ["layer_deep_lift", "internal_influence"])
def test_an_embedding_is_no_layer_of_what_is_explained_through_it(method: str) -> None:
    monitor = AttributionMonitor(method, embedding="embed", layer="embed", network="net", probe_size=8)
    with pytest.raises(RuntimeError, match=r"cannot explain the embedding 'embed' as a layer.*name another layer"):
        fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor)


class Turned(Packed):
    """Time first, as torch's recurrent networks are by default."""

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids.t())[0])


class Bag(Packed):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.EmbeddingBag(12, 4)

    def forward(self, ids: Tensor) -> Tensor:
        return self.out(self.embed(ids))


@pytest.mark.parametrize("net", [Turned, Bag])
def test_an_embedding_that_does_not_return_a_row_for_each_token_is_refused_with_a_way_out(net: Any) -> None:
    monitor = AttributionMonitor("saliency", embedding="embed", network="net", probe_size=8)
    with pytest.raises(ValueError, match=r"for ids \[N, T\], here \[\d, 6\].*leave embedding= out.*feature_ablation"):
        fitted(seeded(net), cross_entropy, Items(text, 16), monitor)
