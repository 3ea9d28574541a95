"""Where LRP passes relevance on whole, and where something between modules makes captum lose or add some."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from captum.attr._utils.custom_modules import Addition_Module
from captum.attr._utils.lrp_rules import Alpha1_Beta0_Rule, EpsilonRule, GammaRule, PropagationRule
from torch import Tensor, nn

from tests.kinds import kinds
from xai_lightning.functional.attribution import Explained, attribute, table_variables
from xai_lightning.functional.attribution.preflight import inspect_relevance

LABELS = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])


def found(network: nn.Module, x: Tensor, **more: Any) -> list[str]:
    before = copy.deepcopy(network.state_dict())
    texts = [each.text for each in inspect_relevance(Explained(network, kind="centred", **more), x, (LABELS,))]
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert not [name for m in network.modules() for name in ("rule", "activations") if name in vars(m)]
    return texts


class Table(nn.Module):
    """Three layers, put together by a function."""

    def __init__(self, together: Callable[["Table", Tensor], Tensor]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b, self.c, self.d = nn.Linear(6, 16), nn.Linear(16, 16), nn.Linear(16, 3), nn.Linear(32, 3)
        self.relu, self.tanh, self.add, self.e = nn.ReLU(inplace=True), nn.Tanh(), Addition_Module(), nn.Linear(6, 16)
        self.together = together

    def forward(self, x: Tensor) -> Tensor:
        return self.together(self, x)


class Block(nn.Module):
    """A residual block as torchvision's, and with its sum as a module."""

    def __init__(self, join: Callable[["Block", Tensor], Tensor]) -> None:
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.first, self.last = nn.ReLU(), nn.ReLU()
        self.add, self.join = Addition_Module(), join
        nn.init.normal_(self.norm.weight)
        nn.init.normal_(self.norm.bias)
        nn.init.normal_(self.norm.running_mean)

    def body(self, x: Tensor) -> Tensor:
        return self.norm(self.conv(x))

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.join(self, x))


def pictures(join: Callable[[Block, Tensor], Tensor], blocks: int = 2) -> nn.Module:
    torch.manual_seed(1)
    body = [Block(join) for _ in range(blocks)]
    stem = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(inplace=True), nn.MaxPool2d(2))
    return nn.Sequential(stem, *body, nn.AdaptiveAvgPool2d(2), nn.Dropout(), nn.Flatten(), nn.Linear(16, 3)).eval()


def rows(*shape: int) -> Tensor:
    return torch.randn(8, *shape, generator=torch.Generator().manual_seed(5))


WHOLE: dict[str, tuple[Callable[[], nn.Module], Tensor]] = {
    "a table": (lambda: kinds()["table"].network.float(), rows(5)),
    "a picture": (lambda: kinds()["image"].network.float(), rows(3, 8, 8)),
    "tanh": (lambda: Table(lambda s, x: s.c(s.tanh(s.a(x)))), rows(6)),
    "functional relu": (lambda: Table(lambda s, x: s.c(F.relu(s.b(F.relu(s.a(x)))))), rows(6)),
    "a shift": (lambda: Table(lambda s, x: s.c(F.relu(s.a(x - 0.5)))), rows(6)),
    "paths side by side": (lambda: Table(lambda s, x: s.d(torch.cat([F.relu(s.a(x)), s.e(x)], 1))), rows(6)),
    "a sum that is a module": (lambda: Table(lambda s, x: s.c(s.add(s.tanh(s.a(x)), s.e(x)))), rows(6)),
    "no sum": (lambda: pictures(lambda s, x: s.body(x)), rows(1, 10, 10)),
    "so many layers that signals fade": (lambda: pictures(lambda s, x: s.body(x), 20), rows(1, 10, 10)),
    "blocks with sums that are modules": (lambda: pictures(lambda s, x: s.add(s.body(x), x)), rows(1, 10, 10)),
}


@pytest.mark.parametrize("what", WHOLE)
def test_nothing_is_found_where_relevance_is_passed_on_whole(what: str) -> None:
    """Biases and running means absorb some, and are no offence."""
    made, x = WHOLE[what]
    assert found(made(), x) == []


LOST: dict[str, tuple[Callable[[], nn.Module], Tensor, str]] = {
    "residual blocks": (
        lambda: pictures(lambda s, x: s.body(x) + x),
        rows(1, 10, 10),
        "outside of any submodule in 1, 2, and",
    ),
    "a tensor for an activation and a sum": (
        lambda: pictures(lambda s, x: s.add(s.body(s.first(x)), x)),
        rows(1, 10, 10),
        "a tensor that both an activation and another module receive. Use 'integrated",
    ),
    "in place": (lambda: pictures(lambda s, x: s.body(x).add_(x)), rows(1, 10, 10), "joined .* in 1, 2, and"),
    "many": (lambda: pictures(lambda s, x: s.body(x) + x, 6), rows(1, 10, 10), r"joined .* in 1, 2, 3, 4, \.\.\., and"),
    "a sum": (lambda: Table(lambda s, x: s.c(s.tanh(s.a(x)) + s.e(x))), rows(6), "joined .* in the network, and"),
    "a dense skip": (
        lambda: Table(lambda s, x: (lambda h: s.d(torch.cat([h, s.b(h)], 1)))(s.a(x))),
        rows(6),
        "joined",
    ),
    "a gate": (lambda: Table(lambda s, x: s.c(s.a(x) * s.e(x))), rows(6), "joined .* in the network, and"),
    "a scale": (lambda: Table(lambda s, x: s.c(s.tanh(s.a(x)) * 0.5)), rows(6), "50%.*outside of any module changes"),
    "functional tanh": (lambda: Table(lambda s, x: s.c(torch.tanh(s.a(x)))), rows(6), "outside of any module changes"),
    "compiled": (
        lambda: nn.Sequential(torch.compile(Table(lambda s, x: s.c(s.tanh(s.a(x)) + s.e(x))), backend="eager")),
        rows(6),
        "an operation outside of any module changes it: a sum of two paths",
    ),
}


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.parametrize("what", LOST)
def test_what_captum_loses_or_adds_between_modules_is_found_by_name(what: str) -> None:
    made, x, said = LOST[what]
    texts = found(made(), x)
    assert len(texts) == 1
    with pytest.raises(ValueError, match=f"^its relevance differs from the explained output by .*{said}"):
        raise ValueError(texts[0])


def test_the_advice_holds_a_sum_that_is_a_module_shares_relevance_out() -> None:
    """Without biases z-rules are input times gradient, by Euler; captum's alone are not, where paths are summed."""
    x = rows(6).double()
    given = {"baselines": torch.zeros_like(x[:1]), "variables": table_variables(6), "seeds": list(range(8))}
    errors = {}
    for name, join in {"module": lambda s, h, x: s.add(h, x), "plain": lambda s, h, x: h + x}.items():
        network = Table(lambda s, x, join=join: s.c(join(s, s.relu(s.a(x)), s.e(x)))).double()
        for layer in (network.a, network.c, network.e):
            nn.init.zeros_(layer.bias)
        maps = [
            attribute(method, Explained(network, kind="centred"), x, LABELS, **given).values[0]
            for method in ("lrp", "input_x_gradient")
        ]
        errors[name] = float((maps[0] - maps[1]).abs().max() / maps[1].abs().max())
    assert errors["module"] < 1e-6
    assert errors["plain"] > 0.5


class Own(PropagationRule):
    """A rule of the user's."""

    def _manipulate_weights(self, module: nn.Module, inputs: Any, outputs: Any) -> None:
        pass


def test_rules_that_users_chose_are_taken_at_their_word() -> None:
    """What they absorb is no offence, and a residual sum is found all the same, unless a layer is theirs alone."""
    for rule in (EpsilonRule(0.5), GammaRule(), Alpha1_Beta0_Rule(set_bias_to_zero=True)):
        for together, count in ((lambda s, x: s.c(s.tanh(s.a(x))), 0), (lambda s, x: s.c(s.tanh(s.a(x)) + s.e(x)), 1)):
            network = Table(together)
            network.a.rule = rule
            assert len(inspect_relevance(Explained(network, kind="centred"), rows(6), (LABELS,))) == count
            assert network.a.rule is rule
    strange = nn.Sequential(nn.Linear(6, 8), nn.Sigmoid(), nn.Linear(8, 3))
    strange[1].rule = Own()
    assert inspect_relevance(Explained(strange, kind="centred"), rows(6), (LABELS,)) == []


def test_a_network_that_returns_nothing_is_not_accused() -> None:
    network = Table(lambda s, x: s.c(s.tanh(s.a(x)) + s.e(x)))
    nn.init.zeros_(network.c.weight)
    assert found(network, rows(6)) == []


def test_numbers_that_are_too_coarse_accuse_nobody() -> None:
    """Roundings of 16 bits would, where logits are alike; under autocast the copy is weighed in full."""
    plain, summed = (Table(lambda s, x, add=add: s.c(s.tanh(s.a(x)) + add * s.e(x))) for add in (0, 1))
    for each in (plain, summed):
        each.c.weight.data.mul_(0.01).add_(1)
    low = copy.deepcopy(plain).bfloat16()
    assert inspect_relevance(Explained(low, kind="centred"), rows(6).bfloat16(), (LABELS,)) == []
    with torch.autocast("cpu", torch.bfloat16):
        assert found(plain, rows(6)) == []
        assert len(found(summed, rows(6))) == 1
