"""How many passes adaptive integrated gradients and occlusion take on trained networks, and how accurate the former is.

    python benchmarks/adaptive.py

The networks of the MNIST and the Adult example, and a convolutional one on MNIST, trained for some epochs; 512
validation samples each. Completeness errors are relative to max(|f(x) - f(b)|, a tenth of its median). For comparison,
the rule with a fixed number of 50 passes. Occlusion by zeros: how many of its passes it makes, since windows that are
already zero need none, and its time as a share of that of all passes (median of 15 alternating repeats). KernelSHAP and
LIME on the variables of the Adult table: the root mean square error relative to the result of all coalitions, for the
median sample, at the default number of coalitions and at 32: once as shipped, where KernelSHAP takes small and large
subsets once and the others come with their complements, and once with as many coalitions drawn one by one.
"""

import itertools
import statistics
import sys
import time
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parents[1] / "examples"))

from adult_data import AdultDataModule
from adult_income import quiet
from adult_model import IncomeClassifier
from mnist_data import read_digits, training_loader, validation_loader
from mnist_shortcut import Reader
from xai_lightning.functional.attribution import (
    Explained,
    Variables,
    attribute,
    coalitions,
    completeness_error,
    per_variable,
    surrogates,
    table_variables,
)

PAIRED, PLAN = coalitions.PAIRED, coalitions.plan
QUIET = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}


def trained(model: pl.LightningModule, epochs: int, *data: object) -> pl.LightningModule:
    """``model`` after some epochs."""
    pl.seed_everything(0, verbose=False)
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        pl.Trainer(max_epochs=epochs, accelerator="cpu", **QUIET).fit(model, *data)  # type: ignore[arg-type]
    return model.eval()


def tell(label: str, network: nn.Module, x: Tensor, targets: Tensor) -> None:
    """Print one line per rule."""
    variables = table_variables(x[0].numel())
    for rule, options in (("adaptive", {}), ("50 passes", {"tolerance": None})):
        explained = Explained(network)
        found = attribute(
            "integrated_gradients",
            explained,
            x,
            targets,
            baselines=torch.zeros_like(x[:1]),
            variables=variables,
            seeds=range(len(x)),
            options=options,
        )
        error = completeness_error(found.gap, found.change)
        within = (error <= 0.01).double().mean()
        passes = explained.gradients / len(x)
        told = f"error at most 1 % for {within:.1%}, worst {error.max():.1%}"
        print(f"{label}, {rule}: {passes:.1f} passes on average; {told}", flush=True)
    occlude(label, network, x, targets)


def occlude(label: str, network: nn.Module, x: Tensor, targets: Tensor) -> None:
    """Print how many of its passes occlusion makes."""
    variables, both = (
        table_variables(x[0].numel()),
        (Explained(network), Explained(network, passing=lambda _: nullcontext())),
    )
    fixed = {"baselines": torch.zeros_like(x[:1]), "variables": variables, "seeds": range(len(x))}
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(15):
        for explained, spent in zip(both, times, strict=True):
            began = time.perf_counter()
            attribute("occlusion", explained, x, targets, **fixed)
            spent.append(time.perf_counter() - began)
    made, all_of_them = (explained.rows // len(times[0]) for explained in both)
    share = statistics.median(times[0]) / statistics.median(times[1])
    print(f"{label}, occlusion: {made} of {all_of_them} passes, in {share:.2f} of the time of all", flush=True)


def one_by_one(count: int, number: int) -> coalitions.Plan:
    """KernelSHAP's coalitions, all but the first two of which are drawn at random."""
    weights = torch.ones(1, count, dtype=torch.float64)
    weights[:, :2] = coalitions.ENDPOINT_WEIGHT
    return coalitions.Plan(0, count - 2, 1, weights)


def misses(network: nn.Module, x: Tensor, targets: Tensor, variables: Variables) -> None:
    """Print the errors of methods that draw coalitions, and those that they would have if they drew them one by one."""
    for method, options in itertools.product(("kernel_shap", "lime"), ({}, {"n_samples": 32})):

        def found(seed: int, options: dict[str, int], method: str = method) -> Tensor:
            seeds, fixed = range(seed, seed + len(x)), {"baselines": torch.zeros_like(x[:1]), "variables": variables}
            explained = Explained(network)
            asked: Any = {"seeds": seeds, "options": options, **fixed}
            return per_variable(attribute(method, explained, x, targets, **asked).values[0].double(), variables)

        expected, errors = found(10**6, {"n_samples": 2**variables.number}), []
        for least, plan in ((PAIRED, PLAN), (sys.maxsize, one_by_one)):
            coalitions.PAIRED, coalitions.plan, surrogates.plan = least, plan, plan
            squares = torch.stack([(found(1000 * i, options) - expected).square().sum(dim=1) for i in range(20)])
            errors.append((squares.mean(dim=0) / expected.square().sum(dim=1)).sqrt().median())
        coalitions.PAIRED, coalitions.plan, surrogates.plan = PAIRED, PLAN, PLAN
        count = options.get("n_samples", "default")
        print(
            f"Adult, {method}, {count} coalitions: error {errors[0]:.1%}, drawn one by one {errors[1]:.1%}", flush=True
        )


def main() -> None:
    """Train three networks, and print the results for each."""
    torch.set_num_threads(2)
    training, validation = read_digits()
    loaders = training_loader(training, (0.0, 0.0), 0), validation_loader(validation)
    pictures, labels = validation.pictures[:512], validation.labels[:512]
    tell("MNIST, dense", trained(Reader(), 10, *loaders), pictures, labels)
    convolution = Reader()
    convolution.net = nn.Sequential(
        *(nn.Conv2d(1, 16, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(16, 32, 3), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(800, 10)),
    )
    tell("MNIST, convolutional", trained(convolution, 5, *loaders), pictures, labels)
    census = AdultDataModule()
    model = trained(IncomeClassifier(census.width), 8, census)
    rows = next(iter(census.val_dataloader()))
    table, incomes = rows["x"][:512].float(), rows["y"][:512].long()
    tell("Adult", model, table, incomes)
    misses(model, table[:64], incomes[:64], table_variables(census.width, census.features))


if __name__ == "__main__":
    main()
