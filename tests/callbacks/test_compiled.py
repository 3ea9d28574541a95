"""What a callback hears of a network of which a part, or all, is compiled."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from small import GROUPS, STOPWATCH, Classifier, Compilable, loader, network, rows, trainer
from xai_lightning import FairnessMonitor
from xai_lightning.callbacks._compiled import is_hidden
from xai_lightning.callbacks._guard import Hooks

EVALUATED = loader(rows(20, seed=1), batch_size=8)


@pytest.fixture(autouse=True)
def nothing_is_compiled_yet() -> None:
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()


def classifier(**more: Any) -> Classifier:
    return Classifier(net=lambda: Compilable(*network()), **more)


def in_place(model: Classifier) -> Any:
    model.net.compile(backend="eager")
    return model


def wrapped(model: Classifier) -> Any:
    model.net = torch.compile(model.net, backend="eager")
    return model


def around(model: Classifier) -> Any:
    model.compile(backend="eager")
    return model


def whole(model: Classifier) -> Any:
    # dynamo stumbles over how it looks at signatures
    model.log, model.log_dict = torch.compiler.disable(model.log), torch.compiler.disable(model.log_dict)
    return torch.compile(model, backend="eager")


def plain(model: Classifier) -> Any:
    return model


def measured(model: Any, folder: Path, monitors: list[pl.Callback]) -> dict[str, str]:
    made = trainer(monitors, folder, logger=False)
    made.validate(model, EVALUATED, verbose=False)
    return {n: repr(float(value)) for n, value in made.callback_metrics.items() if not STOPWATCH.fullmatch(n)}


def pair(network: str | None) -> list[pl.Callback]:
    """Two that listen to the same network."""
    return [FairnessMonitor(groups={"sex": GROUPS}, network=network, name=name) for name in ("", "again")]


def compiled() -> dict[str, Any]:
    """How much has been compiled."""
    return {kind: dict(count) for kind, count in torch._dynamo.utils.counters.items()}


@pytest.mark.parametrize(
    ("how", "network"),
    [(in_place, "net"), (in_place, None), (wrapped, "net"), (wrapped, None), (around, None)],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
def test_a_network_that_is_compiled_already_is_heard_and_not_compiled_anew(
    how: Callable[[Classifier], Any], network: str | None, tmp_path: Path
) -> None:
    """Traps 22 and 89, law 1: hooks that come late never fire inside, and those that come early are compiled too."""
    expected = measured(classifier(), tmp_path, pair(network))
    model = how(classifier())
    measured(model, tmp_path, [])
    before, calls = compiled(), [vars(module).get("_compiled_call_impl") for module in model.modules()]
    assert before["stats"]["unique_graphs"] > 0
    assert measured(model, tmp_path, pair(network)) == expected
    assert compiled() == before
    assert all(
        vars(module).get("_compiled_call_impl") is call for module, call in zip(model.modules(), calls, strict=True)
    )


@pytest.mark.parametrize(("how", "network"), [(whole, None), (whole, "net"), (around, "net"), (in_place, "net.0")])
def test_a_network_that_cannot_be_heard_is_an_error_at_the_first_batch_that_names_the_reason(
    how: Callable[[Classifier], Any], network: str | None, tmp_path: Path
) -> None:
    """Trap 22."""
    with pytest.raises(ValueError, match=r"called inside compiled code, where hooks do not fire\. Return them"):
        measured(how(classifier()), tmp_path, pair(network))


@pytest.mark.parametrize("before", [False, True], ids=["first", "late"])
def test_what_a_compiled_step_returns_is_taken_wherever_the_network_is(before: bool, tmp_path: Path) -> None:
    """Trap 22."""
    expected = measured(classifier(), tmp_path, pair(None))
    model = whole(classifier(returns=lambda logits: logits))
    if before:
        measured(model, tmp_path, [])
    assert measured(model, tmp_path, pair(None)) == expected


def test_what_is_called_from_what_is_compiled_is_hidden_and_nothing_else() -> None:
    """Trap 22."""

    def hidden(model: nn.Module) -> list[str]:
        return [name for name, module in model.named_modules() if is_hidden(model, module, name)]

    parts = [str(i) for i in range(5)]
    assert hidden(plain(classifier())) == []
    assert hidden(in_place(classifier())) == [f"net.{part}" for part in parts]
    assert hidden(wrapped(classifier())) == ["net._orig_mod", *(f"net._orig_mod.{part}" for part in parts)]
    assert hidden(around(classifier())) == ["net", *(f"net.{part}" for part in parts)]


def test_hooks_around_a_compiled_call_are_removed_one_by_one() -> None:
    """Trap 22: each is heard until it is removed, in whichever order, and the last leaves nothing."""
    network, heard = in_place(classifier()).net, list[str]()
    call = vars(network)["_compiled_call_impl"]
    first, second = Hooks(), Hooks()
    first.add(network, lambda *_: heard.append("first"))
    second.add(network, lambda *_: heard.append("second"))
    network(torch.zeros(2, 6))
    first.remove()
    network(torch.zeros(2, 6))
    first.add(network, lambda *_: heard.append("again"))
    second.remove()
    network(torch.zeros(2, 6))
    first.remove()
    network(torch.zeros(2, 6))
    assert heard == ["first", "second", "second", "again"]
    assert vars(network)["_compiled_call_impl"] is call
