"""AttributionMonitor on texts, as people batch and embed them."""

from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_sequence
from torch.utils.data import DataLoader, Subset

from learners import QUIET, Items, Learner, cross_entropy, curves, draw, first, fitted, seeded
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.readers.padding import read_padded

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
@pytest.mark.on_cpu("its network packs by lengths on the CPU")
def test_a_network_that_takes_no_text_of_padding_alone_is_explained(method: str) -> None:
    """Only the embedding is given the baseline; lengths and masks are those of the text."""
    sink = MemorySink()
    monitor = AttributionMonitor(method, embedding="embed", network="net", probe_size=8, sinks=[sink])
    fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor, epochs=1, lr=0.0)
    errors = curves(sink).get(f"xai/{method}/completeness_error", [0.0])
    assert errors[0] < 0.01
    assert first(monitor).isfinite().all()
    assert first(monitor).abs().sum() > 0


@pytest.mark.on_cpu("its network packs by lengths on the CPU")
def test_an_error_on_a_text_of_padding_alone_comes_with_what_to_do() -> None:
    monitor = AttributionMonitor("kernel_shap", embedding="embed", network="net", probe_size=8)
    with pytest.raises(RuntimeError, match="Length of all samples") as raised:
        fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor)
    assert "set baseline= to another id" in "".join(raised.value.__notes__)


@pytest.mark.filterwarnings("ignore:.*its rules do not cover rnn")
@pytest.mark.parametrize("method", ["layer_deep_lift", "internal_influence"])
@pytest.mark.on_cpu("its network packs by lengths on the CPU")
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
    with pytest.raises(
        ValueError, match=r"for token ids \[N, T\], here \[\d, 6\].*leave out embedding=.*feature_ablation"
    ):
        fitted(seeded(net), cross_entropy, Items(text, 16), monitor)


# --- texts of any length


LONG = 8


def sentence(i: int) -> dict[str, Any]:
    return {"input_ids": 1 + draw(2 + i % 5, seed=i).mul(9).long().abs() % 10, "labels": i % 2}


def as_long_as_needed(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    """As Hugging Face's collators do by default."""
    ids = pad_sequence([row["input_ids"] for row in rows], batch_first=True)
    labels = torch.tensor([row["labels"] for row in rows])
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


class Masked(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.out = nn.Embedding(12, 4), nn.Linear(4, 2)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        mask = attention_mask[..., None]
        return self.out((self.embed(input_ids).tanh() * mask).sum(dim=1) / mask.sum(dim=1))


def trained_on_texts(monitor: Any, order: Any) -> Any:
    data = Items(lambda i: sentence(order(i)), 24)
    model = Learner(
        seeded(Masked),
        lambda net, b: nn.functional.cross_entropy(net(b["input_ids"], b["attention_mask"]), b["labels"]),
        lr=0.0,
    )
    trainer = pl.Trainer(max_epochs=2, callbacks=[monitor], **QUIET)
    loaders = [DataLoader(data, 4, collate_fn=as_long_as_needed) for _ in range(2)]
    trainer.fit(model, *loaders)
    assert trainer.callback_metrics["xai/errors"] == 0
    return trainer.callback_metrics


@pytest.mark.parametrize("method", ["integrated_gradients", "kernel_shap"])
def test_texts_are_padded_to_one_length_for_explanations_alone(method: str) -> None:
    """Law 2: a text is the same sample in whatever batch it stands, and however long that is."""
    found = []
    for order in (lambda i: i, lambda i: 23 - i, lambda i: 7 * i % 24):
        monitor = AttributionMonitor(method, embedding="embed", pad_to=LONG, network="net", probe_size=16)
        metrics = trained_on_texts(monitor, order)
        assert metrics[f"drift/{method}/cosine/previous/mean"] == 0
        found.append(first(monitor))
    assert found[0].shape[1] == LONG
    assert found[0].abs().sum() > 0
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("length", "said"),
    [
        (None, "for token ids, pad_to=... does so without changing the batches"),
        (3, r"texts of \d tokens, more than pad_to=3: raise pad_to"),
    ],
)
def test_texts_that_are_not_of_one_length_are_refused_with_what_to_do(length: int | None, said: str) -> None:
    monitor = AttributionMonitor("saliency", embedding="embed", pad_to=length, network="net", on_error="raise")
    with pytest.raises(ValueError, match=said):
        trained_on_texts(monitor, lambda i: i)


@pytest.mark.parametrize(
    ("inputs", "said"),
    [
        (torch.tensor([[0, 5], [6, 7]]), "pads on the right, but texts of this batch begin with pad_token=0"),
        (torch.zeros(2, 3), r"is for token ids \[N, T\]; the input is Tensor\[2, 3\] float32"),
    ],
)
def test_what_cannot_be_padded_on_the_right_is_refused(inputs: Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        read_padded((inputs, torch.zeros(2)), reader=None, length=4, pad_token=0)


def test_given_rows_are_put_together_by_the_loaders_collator() -> None:
    sink, rows = MemorySink(), Subset(Items(sentence, 24), [1, 2, 5])
    monitor = AttributionMonitor(
        "saliency", embedding="embed", pad_to=LONG, network="net", probe=rows, sinks=[sink], sample_size=0
    )
    trained_on_texts(monitor, lambda i: i)
    assert curves(sink)["xai/saliency/probe_size"] == [3, 3]


@pytest.mark.parametrize("said", [{"special_tokens": [11]}, {"pad_to": LONG}, {"words": str}])
@pytest.mark.on_cpu("its network packs by lengths on the CPU")
def test_the_places_of_a_text_are_no_variables(said: dict[str, Any]) -> None:
    """Explained through its embedding or not; what is said of token ids shows that they are some."""
    sink = MemorySink()
    monitor = AttributionMonitor("feature_ablation", network="net", probe_size=8, sinks=[sink], **said)
    fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor, epochs=1, lr=0.0)
    assert not [name for name in curves(sink) if name.startswith("importance")]
    assert [name for _, name, _ in sink.pictures if name.endswith("tokens")]


@pytest.mark.on_cpu("its network packs by lengths on the CPU")
def test_words_that_cannot_be_looked_up_cost_a_picture_and_no_number() -> None:
    sink = MemorySink()
    words = dict.fromkeys(range(3), "word").__getitem__
    monitor = AttributionMonitor(
        "saliency", embedding="embed", network="net", probe_size=8, sinks=[sink], sample_size=0, words=words
    )
    with pytest.warns(UserWarning, match=r"could not draw .*/tokens.*KeyError"):
        fitted(seeded(Packed), cross_entropy, Items(text, 16), monitor, epochs=1, lr=0.0)
    assert curves(sink)["drift/saliency/cosine/first/mean"] == [0]
    assert not [name for _, name, _ in sink.pictures if name.endswith("tokens")]


@pytest.mark.parametrize(("given", "told"), [({}, True), ({"special_tokens": [11]}, False), ({"pad_token": 11}, False)])
@pytest.mark.on_cpu("its network packs by lengths on the CPU")
def test_a_token_that_begins_every_text_is_told(given: dict[str, Any], told: bool, caplog: Any) -> None:
    """As transformers' tokenizers put one there, which would take most of the attribution."""
    data = Items(lambda i: (torch.cat([torch.tensor([11]), text(i)[0]]), i % 2), 16)
    monitor = AttributionMonitor("saliency", embedding="embed", network="net", probe_size=8, **given)
    with caplog.at_level("INFO"):
        fitted(seeded(Packed), cross_entropy, data, monitor, epochs=1, lr=0.0)
    said = "every text of the first batch begins with token 11, which is explained like a word"
    assert (said in caplog.text) == told
