"""AttributionMonitor on networks and batches as people write them."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence

from learners import Items, cross_entropy, curves, draw, first, fitted, seeded, table
from xai_lightning import AttributionMonitor, FairnessMonitor, MemorySink

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


@pytest.mark.filterwarnings("ignore:.*its rules do not cover rnn")
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


# --- what a network returns


def pictures(i: int) -> tuple[Tensor, int]:
    return draw(1, 8, 8, seed=i), i % 2


class Features(nn.Module):
    """Returns what it found on the way, and its logits, in an order and form of its own."""

    def __init__(self, form: Any) -> None:
        super().__init__()
        self.form, self.body, self.head = form, nn.Linear(5, 7), nn.Linear(7, 2)

    def forward(self, x: Tensor) -> Any:
        features = self.body(x).relu()
        return self.form(features, self.head(features))


def told_of(form: Any, pick: Any, monitor: Any) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        net = seeded(lambda: Features(form))
        grouped = Items(lambda i: (*table(i), i % 2), 16)
        fitted(net, lambda net, batch: nn.functional.cross_entropy(pick(net(batch[0])), batch[1]), grouped, monitor)
    return [str(each.message) for each in caught if "of which the first is taken" in str(each.message)]


MONITORS = {
    "attribution": lambda: AttributionMonitor("saliency", network="net", probe_size=8),
    "fairness": lambda: FairnessMonitor({"sex": ["F", "M"]}, network="net", positive_class=1),
}


@pytest.mark.parametrize("kind", MONITORS)
def test_it_is_told_once_which_of_several_tensors_is_taken(kind: str) -> None:
    """Trap 5."""
    told = told_of(lambda features, logits: (features, logits), lambda found: found[1], MONITORS[kind]())
    assert len(told) == 1
    assert "returned a tuple of [8, 7], [8, 2]" in told[0]
    assert "as 'logits' of a dict" in told[0]


CLEAR = {
    "a name": (lambda features, logits: {"features": features, "logits": logits}, lambda found: found["logits"]),
    "the shape": (lambda features, logits: (logits, features[None]), lambda found: found[0]),
}


@pytest.mark.parametrize("what", CLEAR)
def test_nothing_is_told_where_a_name_or_the_shape_says_which_is_meant(what: str) -> None:
    assert told_of(*CLEAR[what], MONITORS["attribution"]()) == []


# --- layers


class Patches(nn.Module):
    """A transformer over patches, which knows tokens where a convolution knows channels."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(1, 4, 4, 4)
        self.block, self.out = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.block(self.patch(x).flatten(2).transpose(1, 2)).mean(dim=1))


@pytest.mark.parametrize("method", ["grad_cam", "guided_grad_cam"])
def test_a_layer_of_tokens_has_no_class_activation_map(method: str) -> None:
    """captum would average over the embedding, and call tokens channels."""
    said = r"returns \[N, C, H, W\]; 'block' returns \['N', 4, 4\]: name a convolution"
    with pytest.raises(ValueError, match=said):
        fitted(
            seeded(Patches),
            cross_entropy,
            Items(pictures, 16),
            AttributionMonitor(method, layer="block", network="net", probe_size=8),
        )
    monitor = AttributionMonitor("grad_cam", layer="patch", network="net", probe_size=8)
    fitted(seeded(Patches), cross_entropy, Items(pictures, 16), monitor)


# --- explanations that are left out


class Gated(nn.Module):
    """A product of two of its layers, which no rule of DeepLift covers and no module shows."""

    def __init__(self) -> None:
        super().__init__()
        self.value, self.gate, self.out = nn.Linear(5, 8), nn.Linear(5, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.value(x) * (9 * self.gate(x)).sigmoid())


class Rounded(Gated):
    """Whole numbers with a gradient that is not theirs."""

    def forward(self, x: Tensor) -> Tensor:
        value = 9 * self.value(x)
        return self.out(value + (value.sign() * 20 - value).detach())


@pytest.mark.parametrize(
    ("method", "net", "instead"),
    [
        ("deep_lift", Gated, "Take 'integrated_gradients'"),
        ("integrated_gradients", Rounded, "Take 'feature_ablation' or 'kernel_shap'"),
    ],
)
def test_it_is_told_once_that_most_explanations_miss_their_sum(method: str, net: Any, instead: str) -> None:
    """Trap 13."""
    monitor = AttributionMonitor(method, network="net", probe_size=16)
    with pytest.warns(UserWarning, match=rf"1\d explanations miss.*left out of drift.*{instead}") as caught:
        fitted(seeded(net), cross_entropy, Items(table, 16), monitor, lr=0.0)
    assert sum("explanations miss" in str(each.message) for each in caught) == 1
