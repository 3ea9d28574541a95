"""Time of explanations compared with the bare passes that they need, side by side in one run.

    python benchmarks/methods.py [--repeats 5] [--image] [--table]

"Ideal" is the time of the same number of forward, or forward and backward, passes of the network and its margin, which
is explained, in a bare loop at the best of several micro-batch sizes, over as many inputs, which are ready in memory.
"One block" is the same, but over the same few inputs again and again, which stay in the processor's cache: less than
any method can take. Captum is called with its defaults on the whole batch, after the others, since the state in which
it leaves the memory would slow them down. Medians of alternating repeats, two threads.

Freed memory is kept in the process, as other allocators do. By default glibc returns it, and the system clears it
again, or does not, depending on what is next to it: that made a pass of the bare loop itself take 290 or 710 ns.
"""

import argparse
import ctypes
import statistics
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import captum.attr
import torch
from networks import residual, tabular
from torch import Tensor, nn

from xai_lightning.functional.attribution import (
    METHODS,
    Explained,
    Variables,
    attribute,
    grid_variables,
    margin,
    resolve_options,
    table_variables,
)

NAMES = (
    "saliency",
    "integrated_gradients",
    "adaptive integrated_gradients",
    "occlusion",
    "feature_ablation",
    "kernel_shap",
    "lime",
)
IDEALS = "ideal", "one block"
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


class Scalar(nn.Module):
    """The explained scalar of class 1, as a user of captum would write it."""

    def __init__(self, explained: Explained) -> None:
        super().__init__()
        self.explained = explained

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.explained(x, torch.ones(len(x), dtype=torch.int64))
        return found


def keep_memory() -> None:
    """Make glibc, if it is used, keep freed memory of any size in the process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    for what in (M_TRIM_THRESHOLD, M_MMAP_THRESHOLD) if mallopt else ():
        mallopt(what, 2**30)


def seconds(action: Callable[[], Any]) -> float:
    """Time of one call."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def bare(network: nn.Module, inputs: Tensor, rows: int, batch: int, *, backward: bool) -> None:
    """Make ``rows`` passes in blocks of ``batch``, over one input after another, repeating them if there are fewer."""
    ones = torch.ones(batch, dtype=torch.int64)
    with torch.set_grad_enabled(backward):
        for start in range(0, rows, batch):
            count, first = min(batch, rows - start), start % len(inputs)
            block = inputs[first : first + count].requires_grad_(backward)
            scalars = margin(network(block), ones[:count])
            if backward:
                torch.autograd.grad(scalars.sum(), block)


def bare_loops(network: nn.Module, x: Tensor, rows: int, *, backward: bool) -> dict[str, Callable[[], Any]]:
    """The bare loops over as many inputs and over one block, each at the fastest of several micro-batch sizes."""
    sizes = [size for size in (2**i for i in range(2, 15)) if size <= max(4, rows)]
    if x[0].numel() > 10_000:
        sizes = [size for size in sizes if size <= 128]
    inputs = x[torch.arange(rows) % len(x)]

    def loop(size: int, rows: int, held: int) -> None:
        bare(network, inputs[:held], rows, size, backward=backward)

    def best(one_block: bool) -> Callable[[], None]:
        def per_pass(size: int) -> float:
            count = min(rows, 4 * size)
            loop(size, count, size if one_block else rows)
            return seconds(lambda: loop(size, count, size if one_block else rows)) / count

        size = min(sizes, key=per_pass)
        return partial(loop, size, rows, size if one_block else rows)

    return {"ideal": best(one_block=False), "one block": best(one_block=True)}


def captum_defaults(name: str, explained: Explained, x: Tensor, variables: Variables, options: dict[str, Any]) -> None:
    """Ask captum the same question, with its defaults."""
    given = {k: v for k, v in options.items() if k not in ("windows", "background", "tolerance")}
    classes = {
        "saliency": captum.attr.Saliency,
        "integrated_gradients": captum.attr.IntegratedGradients,
        "occlusion": captum.attr.Occlusion,
        "feature_ablation": captum.attr.FeatureAblation,
        "kernel_shap": captum.attr.KernelShap,
        "lime": captum.attr.Lime,
    }
    if METHODS[name].masked:
        given["feature_mask"] = variables.mask
    inputs = x.clone().requires_grad_(METHODS[name].gradient)
    with torch.set_grad_enabled(METHODS[name].gradient):
        classes[name](Scalar(explained)).attribute(inputs, **given)


def ask(name: str, network: nn.Module, x: Tensor) -> tuple[int, dict[str, Callable[[], Any]]]:
    """The number of passes that one method needs, and the ways to make them: two bare loops, ours and captum's."""
    name, adaptive = name.removeprefix("adaptive "), name.startswith("adaptive ")
    variables = census_variables(x.shape[1]) if x.ndim == 2 else grid_variables(x.shape[1:], METHODS[name].cells)
    asked = {"tolerance": None} if name == "integrated_gradients" and not adaptive else {}
    options = resolve_options(name, asked, x.shape[1:], variables.number)
    explained, ones = Explained(network), torch.ones(len(x), dtype=torch.int64)
    common: dict[str, Any] = {"baselines": torch.zeros_like(x[:1]), "variables": variables, "seeds": range(len(x))}
    ours = partial(attribute, name, explained, x, ones, options=asked, **common)
    ours()
    rows, backward = explained.rows, METHODS[name].gradient
    return rows, {
        **bare_loops(network, x, rows, backward=backward),
        "ours": ours,
        "captum": lambda: captum_defaults(name, explained, x, variables, options),
    }


def census_variables(columns: int) -> Variables:
    """Variables like those of the Adult table: five numbers, then one-hot blocks of these sizes."""
    features: dict[str, int | slice] = {f"number_{i}": i for i in range(5)}
    place = 5
    for i, size in enumerate((8, 16, 7, 14, 6, 5, 2, columns - 63)):
        features[f"block_{i}"] = slice(place, place + size)
        place += size
    return table_variables(columns, features)


def medians(actions: dict[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """The median time of each action, over alternating repeats."""
    times: dict[str, list[float]] = {key: [] for key in actions}
    for _ in range(repeats):
        for key, action in actions.items():
            times[key].append(seconds(action))
    return {key: statistics.median(values) for key, values in times.items()}


def compare(label: str, network: nn.Module, x: Tensor, repeats: int, *, slow: bool = False) -> None:
    """Print one line per method; leave out captum's time where it would take minutes."""
    for name in NAMES:
        rows, actions = ask(name, network, x)
        beside = {"captum": actions.pop("captum")}
        median = medians(actions, repeats)
        if not (slow and METHODS[name.removeprefix("adaptive ")].seeded):
            median |= medians(beside, min(3, repeats))
        ideals = {key: " ".join(f"{median[key] / median[ideal]:.2f}" for ideal in IDEALS) for key in median}
        ratios = ", ".join(f"{key} {ratio}" for key, ratio in ideals.items() if key not in IDEALS)
        print(
            f"{label} {name}: {rows} passes, ideal {median['ideal']:.4f} s; ratio to it, and to one block: {ratios}",
            flush=True,
        )


def main() -> None:
    """Compare on images and on a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--image", action="store_true")
    parser.add_argument("--table", action="store_true")
    given = parser.parse_args()
    keep_memory()
    torch.set_num_threads(2)
    torch.manual_seed(0)
    warnings.filterwarnings("ignore", ".*multiple inputs for Lime.*", UserWarning)
    everything = not (given.image or given.table)
    if given.table or everything:
        for rows in (128, 1024, 4096, 16_281):
            compare(f"table of {rows}", tabular(108), torch.randn(rows, 108), given.repeats, slow=rows > 128)
    if given.image or everything:
        compare("image", residual(), torch.randn(8, 3, 96, 96), given.repeats)


if __name__ == "__main__":
    main()
