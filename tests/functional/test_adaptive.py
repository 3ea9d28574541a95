"""Adaptive integrated gradients: against the integral, captum's rule, and on a trained network."""

import math
from typing import Any

import pytest
import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

from tests.kinds import TARGETS, kinds
from xai_lightning.functional.attribution import (
    Explained,
    attribute,
    completeness_error,
    grid_variables,
    table_variables,
)
from xai_lightning.functional.attribution.adaptive import refine
from xai_lightning.functional.attribution.segments import Segments, Table


def both(network: nn.Module, x: Tensor, targets: Tensor, **options: Any) -> Any:
    explained = Explained(network)
    found = attribute(
        "integrated_gradients",
        explained,
        x,
        targets,
        baselines=torch.zeros_like(x[:1]),
        variables=table_variables(x.shape[1]) if x.ndim == 2 else grid_variables(x.shape[1:]),
        seeds=range(len(x)),
        options=options,
    )
    return found, explained


@pytest.fixture(scope="module")
def trained() -> tuple[nn.Module, Tensor, Tensor]:
    """A network that has learned to read handwritten digits."""
    digits = load_digits()
    x = torch.tensor(digits.images, dtype=torch.float32)[:, None] / 16
    y = torch.tensor(digits.target)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = nn.Sequential(
            nn.Conv2d(1, 16, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Flatten(),
            nn.Linear(256, 64),
            nn.ReLU(),
            nn.Linear(64, 10),
        )
        optimizer = torch.optim.Adam(network.parameters(), 3e-3)
        for _ in range(150):
            rows = torch.randint(1500, (64,))
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network, x[1500:1628], y[1500:1628]


@pytest.mark.slow
def test_on_a_trained_network_few_passes_reach_one_percent(trained: tuple[nn.Module, Tensor, Tensor]) -> None:
    network, x, y = trained
    found, explained = both(network, x, y)
    error = completeness_error(found.gap, found.change)
    assert (error <= 0.01).double().mean() >= 0.97
    assert explained.rows / len(x) <= 25
    assert explained.rows == explained.gradients
    truth, _ = both(network, x, y, n_steps=1500, method="riemann_middle")
    distance = (found.values[0] - truth.values[0]).flatten(1).norm(dim=1) / truth.values[0].flatten(1).norm(dim=1)
    fifty, _ = both(network, x, y, tolerance=None)
    usual = (fifty.values[0] - truth.values[0]).flatten(1).norm(dim=1) / truth.values[0].flatten(1).norm(dim=1)
    assert float(distance.median()) < 0.02
    assert float(usual.median()) < 0.02


@pytest.mark.parametrize("kind", ["table", "image", "series"])
def test_a_samples_attributions_do_not_depend_on_its_batch(kind: str) -> None:
    """Law 2: bit for bit the same nodes, whoever else is in the batch."""
    given = kinds()[kind]
    x = given.inputs[0]
    whole, _ = both(given.network, x, TARGETS)
    for i in range(4):
        alone, explained = both(given.network, x[i : i + 1], TARGETS[i : i + 1])
        torch.testing.assert_close(alone.values[0][0], whole.values[0][i], atol=1e-12, rtol=1e-9)
        assert 3 <= explained.rows <= 65


def test_polynomials_are_integrated_to_the_tolerance() -> None:
    class Cubic(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] ** 2 * x[:, 1]

    x, one = torch.tensor([[2.0, 3.0]]).double(), torch.tensor([1])
    for tolerance in (0.1, 0.01, 0.001):
        found, _ = both(Cubic(), x, one, tolerance=tolerance)
        assert abs(float(found.gap)) <= tolerance * 12
        torch.testing.assert_close(found.values[0], torch.tensor([[8.0, 4.0]]).double(), atol=12 * tolerance, rtol=0)


def test_errors_that_cancel_do_not_end_the_search() -> None:
    """Two kinks of opposite sign: the sum is right at once, the attributions are not."""

    def kinks(points: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = points[0].detach().requires_grad_(True)
        y = torch.relu(x[:, 0] - 0.3) - torch.relu(x[:, 1] - 0.3) + 0.1 * x[:, 0]
        return y.detach(), torch.autograd.grad(y.sum(), x)

    ones = torch.ones(1, 2).double()
    found = refine(kinks, (ones,), (0 * ones,), tolerance=0.01)
    torch.testing.assert_close(found.change, torch.tensor([0.1]).double())
    assert int(found.passes) == 3  # along this path the kinks do cancel in the scalar itself, so no segment is wrong


def test_dead_and_undefined_samples_end() -> None:
    def flat(points: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        value = torch.where(sample == 1, math.nan, 0.0)
        return value.double(), (torch.zeros_like(points[0]) + value[:, None],)

    x = torch.ones(2, 3).double()
    found = refine(flat, (x,), (0 * x,), tolerance=0.01)
    assert found.passes.tolist() == [3, 3]
    assert not found.values[0][0].any()
    assert found.values[0][1].isnan().all()


@pytest.mark.parametrize("kind", [torch.float32, torch.float64])
def test_what_rounding_leaves_of_errors_that_are_gone_is_not_refined(kind: torch.dtype) -> None:
    """Where a device has no float64, least sizes are those of float32."""
    sample, rows, weight = Table.of(2, 9, torch.device("cpu"))
    segments = Segments(Table(sample, rows.to(kind), weight.to(kind)), torch.zeros(2, dtype=kind), 9)
    segments._total += 1e-7
    assert segments.advance(0, 6) == 0


def test_no_sample_takes_more_passes_than_allowed() -> None:
    def wild(points: tuple[Tensor, ...], sample: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        x = points[0]
        return (400 * x).sin().sum(1) + 0.01 * x.sum(1), (400 * (400 * x).cos() + 0.01,)

    x = torch.linspace(0.5, 1.5, 6).double()[:, None]
    found = refine(wild, (x,), (0 * x,), tolerance=1e-6)
    assert found.passes.max() == 65
    assert found.passes.min() >= 3
