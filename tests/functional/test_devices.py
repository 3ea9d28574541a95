"""Torch's default device is the user's: nothing of ours is made there unless it is told to be."""

import ast
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._device import _device_constructors

import xai_lightning
from tests.functional.test_attribution_kinds import CLAIMED, explain
from tests.kinds import kinds
from xai_lightning.functional.attribution import METHODS, Explained, attribute, coalitions, paths, table_variables

ROOT = Path(xai_lightning.__file__).parent
MAKERS = {maker.__name__ for maker in _device_constructors()}
# what checks compiled loops does so within ``torch.device("cpu")``
WITHIN = {"fast.py", "fast_paths.py"}


def forget() -> None:
    """What was made before is made anew."""
    for remembered in (coalitions.plan, coalitions._subsets, coalitions._listed, paths._rule):
        remembered.cache_clear()


def without_device(path: Path) -> list[str]:
    """Where a file makes a tensor without naming its device."""
    calls = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Call)]
    made = [call for call in calls if isinstance(call.func, ast.Attribute) and call.func.attr in MAKERS]
    own = [call for call in made if ast.unparse(call.func).startswith("torch.")]
    return [
        f"{path.relative_to(ROOT)}:{call.lineno}" for call in own if "device" not in [key.arg for key in call.keywords]
    ]


def test_every_tensor_is_made_on_a_device_that_is_named() -> None:
    files = [path for path in ROOT.rglob("*.py") if path.name not in WITHIN]
    assert [place for path in files for place in without_device(path)] == []


@pytest.mark.parametrize(("method", "kind"), CLAIMED)
def test_samples_are_explained_on_their_own_device_whatever_the_default_one(method: str, kind: str) -> None:
    """Captum's tensors too; meta tensors hold nothing, so that none can be taken for another."""
    given = kinds()[kind]
    expected = explain(method, given)[0]
    forget()
    with torch.device("meta"):
        found = explain(method, given)[0]
    assert all(map(torch.equal, found.values, expected.values))
    torch.testing.assert_close((found.gap, found.change), (expected.gap, expected.change), equal_nan=True)


WAYS: list[tuple[str, dict[str, Any]]] = [
    *((name, {}) for name, row in METHODS.items() if row.masked and not row.most_variables),
    ("occlusion", {"options": {"sliding_window_shapes": 3, "strides": 1}}),
    ("saliency", {"smooth": "smoothgrad"}),
    ("integrated_gradients", {"options": {"n_steps": 9}}),
]


@pytest.mark.parametrize(("method", "more"), WAYS, ids=[name for name, _ in WAYS])
def test_many_variables_are_explained_on_their_own_device_too(method: str, more: dict[str, Any]) -> None:
    x, network, targets = torch.randn(3, 40), nn.Linear(40, 2), torch.tensor([0, 1, 1])
    more = {"baselines": 0 * x[:1], "background": x.flip(0), "seeds": range(3), **more}

    def found() -> Tensor:
        return attribute(method, Explained(network), x, targets, variables=table_variables(40), **more).values[0]

    expected = found()
    forget()
    with torch.device("meta"):
        assert torch.equal(found(), expected)


def test_where_the_default_device_is_the_usual_one_passes_take_no_detour() -> None:
    """A device that is entered has a part in every operation of the network."""
    inside: list[int] = []

    class Seeing(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            inside.append(len(torch.overrides._get_current_function_mode_stack()))
            return super().forward(x)

    x, fixed = torch.ones(1, 2), {"variables": table_variables(2), "seeds": [0]}
    attribute("occlusion", Explained(Seeing(2, 1)), x, torch.ones(1).long(), baselines=0 * x, **fixed)
    assert set(inside) == {0}
