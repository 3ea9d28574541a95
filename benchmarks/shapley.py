"""How far KernelSHAP misses the Shapley values, compared with the peer library at the same number of passes.

    pip install shap
    python benchmarks/shapley.py

The trained network of the Adult example, with its 14 variables, and random networks of three layers; zeros as
baselines. The truth comes from all coalitions, or from 60,000 of them for 20 variables. Errors are root mean squares
over five seeds, relative to the size of the sample's Shapley values, for the median sample; shap's ``KernelExplainer``
runs without a penalty.
"""

import logging
import sys
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from adaptive import AdultDataModule, IncomeClassifier, trained
from torch import Tensor, nn

from xai_lightning.functional.attribution import Explained, Variables, attribute, per_variable, table_variables

try:
    import shap
except ImportError:
    sys.exit("the benchmark compares with shap, which is not installed: pip install shap")

SEEDS = 5


def ours(network: nn.Module, x: Tensor, targets: Tensor, variables: Variables, count: int, seed: int) -> Tensor:
    """This package's values for each sample, ``float64[N, V]``."""
    fixed: dict[str, Any] = {"baselines": torch.zeros_like(x[:1]), "options": {"n_samples": count}}
    seeds = range(1000 * seed, 1000 * seed + len(x))
    found = attribute("kernel_shap", Explained(network), x, targets, variables=variables, seeds=seeds, **fixed)
    return per_variable(found.values[0].double(), variables)


def theirs(network: nn.Module, x: Tensor, targets: Tensor, variables: Variables, count: int, seed: int) -> Tensor:
    """The values of shap, which counts neither the sample's own pass nor the baseline's."""
    explained, mask, found = Explained(network), variables.mask[0], []
    np.random.seed(seed)
    for i in range(len(x)):

        @torch.no_grad()
        def of(present: Any, i: int = i) -> Any:
            inside = torch.as_tensor(np.asarray(present) > 0.5)[:, mask]
            return explained(torch.where(inside, x[i], 0.0), targets[i].expand(len(inside))).double().numpy()

        explainer = shap.KernelExplainer(of, np.zeros((1, variables.number)))
        values = explainer.shap_values(np.ones((1, variables.number)), nsamples=count - 2, l1_reg=False, silent=True)
        found.append(torch.as_tensor(np.asarray(values)).flatten())
    return torch.stack(found)


def compare(
    label: str, counts: Sequence[int], network: nn.Module, x: Tensor, targets: Tensor, variables: Variables
) -> None:
    """Print one line per number of passes."""
    asked = network, x, targets, variables
    truth = ours(*asked, min(2**variables.number, 60_000), SEEDS)
    for count in counts:
        errors = []
        for way in (ours, theirs):
            squares = torch.stack([(way(*asked, count, seed) - truth).square().sum(dim=1) for seed in range(SEEDS)])
            errors.append((squares.mean(dim=0) / truth.square().sum(dim=1)).sqrt().median())
        told = f"error {errors[0]:.1%}, shap's {errors[1]:.1%}"
        print(f"{label}, {variables.number} variables, {count} passes: {told}", flush=True)


def main() -> None:
    """Compare on a trained and on random networks."""
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    torch.manual_seed(0)
    census = AdultDataModule()
    model = trained(IncomeClassifier(census.width), 8, census)
    rows = next(iter(census.val_dataloader()))
    table = rows["x"][:64].float(), rows["y"][:64].long()
    compare("Adult", (32, 60, 120, 240, 1000), model, *table, table_variables(census.width, census.features))
    for number in (5, 8, 12, 20):
        torch.manual_seed(number)
        layers = nn.Linear(number, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)
        given = torch.randn(16, number) * 2, torch.ones(16, dtype=torch.int64), table_variables(number)
        default = min(2**number, 4 * number + 64)
        compare("random", (2 * number + 4, 3 * number, default), nn.Sequential(*layers), *given)


if __name__ == "__main__":
    main()
