"""Explains a sharded model: every rank makes equally many passes, on samples of its own or on padding."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from xai_lightning._lightning import MisconfigurationException
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._sharded import Steps
from xai_lightning.functional.attribution import Explained

UNCOPIED = {"lrp"}
"""Methods that work on a copy of the network, which `fully_shard` does not allow."""


def check_in_step(ways: Ways) -> None:
    """Refuse methods that make an unknown number of passes, or that copy the network.

    Raises:
        MisconfigurationException: names the method.
    """
    if ways.spec is None:
        raise MisconfigurationException(
            f"the callable method {ways.label!r} cannot explain a sharded model, since it is unknown how many passes "
            "it makes on each rank. Use integrated_gradients or another named method, or run trainer.validate on one "
            "device from a checkpoint"
        )
    if ways.method in UNCOPIED:
        raise MisconfigurationException(
            f"{ways.label!r} works on a copy of the network, but a sharded model cannot be copied. Use deep_lift or "
            "another method, or run trainer.validate on one device from a checkpoint"
        )


def check_root(pl_module: nn.Module, network: nn.Module) -> None:
    """Refuse a network whose weights are gathered by an enclosing module.

    Raises:
        MisconfigurationException: names the network.
    """
    held = {id(p) for p in network.parameters() if hasattr(p, "to_local")}
    inside = [m for m in network.modules() if hasattr(m, "unshard")]
    known = {id(p) for m in inside for p in m.parameters()}
    if held - known:
        names = [name for name, m in pl_module.named_modules() if hasattr(m, "unshard")]
        raise MisconfigurationException(
            f"{type(network).__name__} lies inside a sharded module that gathers its weights, so it cannot be called "
            f"alone; name one of the sharded modules with network=...: {', '.join(names)}"
        )


def filled(steps: Steps, explainer: Explainer, rows: Rows | None, padding: Rows | None) -> Rows | None:
    """Pad rows to the largest number on any rank, and lower ``at_once`` to the smallest on any rank; a collective.

    Args:
        steps: keeps the ranks in step.
        explainer: its ``at_once`` is lowered.
        rows: this rank's rows; None if it has none.
        padding: one sample, for a rank that has no rows.

    Returns:
        The rows, repeated from the first on; None if no rank has any.

    Raises:
        ValueError: if another rank has rows, and this one has not even padding.
    """
    own = 0 if rows is None else len(rows.hashes)
    most = steps.largest(own)
    explainer.at_once = -steps.largest(-explainer.at_once)
    if not most:
        return None
    some = padding if rows is None else rows
    if some is None:
        raise ValueError(
            f"this rank read no batch, while others explain {most} samples of a sharded model; give each rank at "
            "least one batch"
        )
    return some.take(torch.arange(most, device="cpu") % len(some.hashes))


def differentiate(explained: Explained, inputs: Sequence[Tensor], rest: Sequence[Tensor]) -> None:
    """Make one forward and backward pass, keep nothing of it, and do not announce it.

    Args:
        explained: network and scalar.
        inputs: ``[1, ...]`` each.
        rest: target and further arguments.
    """
    given = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    with explained.unannounced(), torch.enable_grad():
        # clones, since a network may write into its input, which autograd forbids for leaves
        scalars = explained(*(x.clone() for x in given), *rest)
        torch.autograd.grad(scalars, [x for x in given if x.requires_grad], torch.ones_like(scalars))
