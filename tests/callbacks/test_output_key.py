"""Networks that return several tensors, of which a setting chooses one: the same is explained, counted and flipped."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, NamedTuple

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from learners import QUIET, Items, Learner, curves, draw, first, fitted, seeded, table, table_net
from tests.kinds import kinds
from xai_lightning import AttributionMonitor, Column, FairnessMonitor, MemorySink
from xai_lightning.functional.attribution import METHODS, Explained, attribute, output_tensor


class Pair(NamedTuple):
    features: Tensor
    scores: Tensor


@dataclass
class Held:
    features: Tensor
    scores: Tensor


class Several(nn.Module):
    """A network with something before what it is for; or that alone."""

    def __init__(self, form: Callable[[Tensor, Tensor], Any], net: nn.Module | None = None) -> None:
        super().__init__()
        self.net, self.form = seeded(table_net) if net is None else net, form

    def forward(self, x: Tensor) -> Any:
        return self.form(x.flatten(1)[:, :2] * 2, self.net(x))


ALONE = Several(lambda features, scores: scores)
FORMS: dict[str, tuple[Any, Any]] = {
    "tuple": (lambda f, s: (f, s), 1),
    "from the end": (lambda f, s: [f, "state", s], -1),
    "among others": (lambda f, s: (3.0, f, s), 2),
    "dict": (lambda f, s: {"features": f, "scores": s}, "scores"),
    "a name that is not taken by itself": (lambda f, s: {"logits": f, "scores": s}, "scores"),
    "position in a dict": (lambda f, s: {"features": f, "scores": s}, 1),
    "number as key": (lambda f, s: {7: f, 0: s}, 0),
    "named tuple": (Pair, "scores"),
    "position in a named tuple": (Pair, 1),
    "dataclass": (Held, "scores"),
    "attribute": (lambda f, s: SimpleNamespace(features=f, scores=s), "scores"),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_is_chosen_by_its_name_or_position(form: str) -> None:
    """Trap 5."""
    made, key = FORMS[form]
    features, scores = torch.zeros(4, 3), torch.ones(4, 2)
    assert output_tensor(made(features, scores), key) is scores


WRONG: dict[str, tuple[Any, Any, str]] = {
    "no such key": (
        {"a": torch.zeros(4, 2), "b": 3},
        "c",
        r"'c' names no tensor in the dict that the network returned: 'a': \[4, 2\]",
    ),
    "no tensor": ({"a": torch.zeros(4, 2), "b": 3}, "b", r"'b' names no tensor in the dict.* 'b': int"),
    "no such place": ((torch.zeros(4, 2), None), 2, r"2 names no tensor in the tuple.*: 0: \[4, 2\], 1: NoneType"),
    "no field": (Pair(torch.zeros(4, 2), torch.zeros(4)), "count", r"'count' names no.*'features': \[4, 2\], 'scores'"),
    "a name of a tuple": ((torch.zeros(4, 2),), "logits", r"'logits' names no tensor in the tuple"),
    "one tensor": (torch.zeros(4, 2), 0, r"returned a single one, \[4, 2\]; leave out output_key"),
    "nothing": ({}, "a", "returned: nothing"),
}


@pytest.mark.parametrize("what", WRONG)
def test_what_is_not_there_is_refused_with_what_is(what: str) -> None:
    output, key, said = WRONG[what]
    with pytest.raises(ValueError, match=f"output_key={key!r} .*{said}" if what == "one tensor" else said):
        output_tensor(output, key)


@pytest.mark.parametrize("method", METHODS)
def test_every_method_explains_the_chosen_tensor_as_if_it_came_alone(method: str) -> None:
    spec, kind = METHODS[method], kinds()["image"]
    both = Several(lambda f, s: {"features": f, "scores": s}, kind.network)
    given = {
        "baselines": torch.zeros_like(kind.inputs[0][:1]),
        "background": kind.inputs[0].flip(0),
        "variables": kind.variables,
        "seeds": [11, 12, 13, 14],
        "layer": kind.layer if spec.layer else None,
    }
    explain = [Explained(kind.network, kind=spec.kind), Explained(both, kind=spec.kind, output_key="scores")]
    found = [attribute(method, each, kind.inputs[0], torch.tensor([0, 1, 2, 1]), **given) for each in explain]
    assert torch.equal(found[0].values[0], found[1].values[0])
    assert found[0].values[0].abs().sum() > 0


# --- monitors


def call_of(pick: Any) -> Any:
    return lambda net, batch: nn.functional.cross_entropy(output_tensor(net(batch[0]), pick), batch[1])


def run(net: nn.Module, pick: Any, *monitors: Any, items: Any = None) -> list[str]:
    """Warnings of a training without progress, under every monitor."""
    items = Items(table, 16) if items is None else items
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fitted(net, call_of(pick), items, monitors[0], callbacks=monitors[1:], lr=0.0)
    return [str(each.message) for each in caught if "is taken" in str(each.message)]


def explained(net: nn.Module, pick: Any, **settings: Any) -> dict[str, list[float]]:
    sink = MemorySink()
    settings = {"network": "net", "probe_size": 16, "sinks": [sink], **settings}
    monitor = AttributionMonitor(settings.pop("method", "lrp"), output_key=pick, **settings)
    assert run(net, pick, monitor) == []
    return {**curves(sink), "maps": first(monitor).flatten().tolist()}


def timeless(found: dict[str, list[float]]) -> Any:
    clock = ("seconds", "time_share")
    numbers = {(n, i): v for n, vs in found.items() if not n.endswith(clock) for i, v in enumerate(vs)}
    return pytest.approx(numbers, nan_ok=True)


@pytest.mark.parametrize("form", ["tuple", "a name that is not taken by itself", "named tuple", "attribute"])
def test_a_monitor_explains_the_chosen_tensor_and_compares_its_predictions(form: str) -> None:
    """Law 10: churn and probabilities are those of what is explained; nothing is told where one was chosen."""
    made, key = FORMS[form]
    alone, chosen = (explained(Several(f), k) for f, k in ((ALONE.form, None), (made, key)))
    assert timeless(chosen).expected == timeless(alone)
    assert "drift/lrp/predictions/first/churn" in chosen


def test_a_chosen_tensor_that_is_not_there_ends_the_run_at_its_first_batch() -> None:
    """Law 8: and not as if the network could not be called."""
    monitor = AttributionMonitor("saliency", network="net", output_key="preds")
    with pytest.raises(
        ValueError,
        match=r"^output_key='preds' names no tensor in the dict .*: 'features': \[8, 2",
    ):
        fitted(Several(FORMS["dict"][0]), call_of("scores"), Items(table, 16), monitor)
    monitor = AttributionMonitor("saliency", network="net", output_key=0)
    with pytest.raises(ValueError, match=r"^output_key=0 .*returned a single one, \[8, 2\]"):
        fitted(Several(ALONE.form), call_of(None), Items(table, 16), monitor)


class Pixels(nn.Module):
    """A segmentation beside a depth."""

    def __init__(self) -> None:
        super().__init__()
        self.body = seeded(lambda: nn.Conv2d(1, 3, 3, padding=1))

    def forward(self, x: Tensor) -> Any:
        found = self.body(x)
        return {"depth": found[:, :1], "classes": found[:, 1:]}


def test_a_segmentation_and_a_regression_choose_among_the_heads_of_one_network() -> None:
    sink, other = MemorySink(), MemorySink()
    settings: dict[str, Any] = {"network": "net", "probe_size": 8, "sample_size": 0, "target": 1}
    items = Items(lambda i: (draw(1, 6, 6, seed=i), (draw(6, 6, seed=i + 50) > 0).long()), 16)
    pixels = AttributionMonitor(
        "input_x_gradient", task="segmentation", output_key="classes", sinks=[sink], name="p", **settings
    )
    run(Pixels(), "classes", pixels, items=items)
    assert sum(curves(sink)["p/xai/input_x_gradient/zero_maps"]) == 0.0
    numbers = AttributionMonitor("input_x_gradient", task="regression", output_key=0, sinks=[other], **settings)
    run(Several(FORMS["tuple"][0]), 1, numbers)
    # the second of two features that are twice the input's first two
    maps = first(numbers).abs()
    assert maps[:, 1].min() > 0
    assert maps[:, [0, 2, 3, 4]].max() == 0


def grouped(i: int) -> tuple[Tensor, int, int]:
    x, y = table(i)
    return torch.cat([x[:4], torch.tensor([i % 2.0])]), y, i % 2


@pytest.mark.parametrize("form", ["tuple", "dict"])
def test_fairness_counts_and_flips_the_tensor_that_is_chosen(form: str) -> None:
    made, key = FORMS[form]
    found = []
    for form_of, pick in ((ALONE.form, None), (made, key)):
        sink = MemorySink()
        flips = {"sex": Column(0, 4)}
        monitor = FairnessMonitor(
            {"sex": {0: "F", 1: "M"}},
            network="net",
            output_key=pick,
            flips=flips,
            metrics=["demographic_parity_difference"],
            sinks=[sink],
        )
        assert run(Several(form_of), pick, monitor, items=Items(grouped, 16)) == []
        found.append({n: v for n, v in curves(sink).items() if n.startswith(("fairness/", "rate/", "count/"))})
    assert timeless(found[0]).expected == timeless(found[1])
    assert found[0]["fairness/sex/flip_rate/value"][0] > 0


@pytest.mark.parametrize(
    ("returned", "read"), [({"logits": 1.0, "scores": -1.0}, 0.0), ({"logits": 1.0}, 0.5), (None, 0.5)]
)
@pytest.mark.on_cpu("its network adds a tensor on the CPU")
def test_what_a_step_returns_under_the_chosen_name_comes_before_the_network(returned: Any, read: float) -> None:
    """And what it returns under another name does not."""

    class Returning(nn.Module):
        def forward(self, x: Tensor) -> Any:
            signs = torch.arange(len(x)) % 4 < 2
            return {"scores": torch.where(signs, 1.0, -1.0) + 0 * x.sum(1), "logits": x[:, 0]}

    class Stepping(Learner):
        def validation_step(self, batch: Any) -> Any:
            self.net(batch[0])
            return returned and {name: torch.full((len(batch[0]),), value) for name, value in returned.items()}

    sink = MemorySink()
    metrics = ["demographic_parity_difference"]
    monitor = FairnessMonitor({"sex": ["F", "M"]}, network="net", output_key="scores", metrics=metrics, sinks=[sink])
    pl.Trainer(callbacks=[monitor], **QUIET).validate(
        Stepping(Returning(), call_of(None)), DataLoader(Items(grouped, 16), batch_size=8), verbose=False
    )
    assert curves(sink)["rate/sex/selection_rate/F"] == [read]
