"""What to report or refuse once the first batch has gone through the network."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.utils.hooks import RemovableHandle

from xai_lightning._lightning import rank_zero_info, rank_zero_warn
from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.functional.attribution import NUMBERS_AT_ONCE, Explained, unclear
from xai_lightning.functional.attribution.preflight import Finding, inspect_relevance
from xai_lightning.functional.attribution.variables import Where

WEIGHED, ALIKE = 8, 4
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class Heard(NamedTuple):
    """What modules returned while they were observed: the layer's shapes for one sample, the network's outputs."""

    layer: list[tuple[int, ...]]
    network: list[Any]


@contextmanager
def heard(network: nn.Module, layer: nn.Module | None) -> Iterator[Heard]:
    """Record what ``network`` and ``layer`` return inside this context."""
    found = Heard([], [])

    def hear(module: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        if isinstance(output, Tensor):
            found.layer.append(tuple(output.shape[1:]))

    handles: list[RemovableHandle] = [network.register_forward_hook(lambda m, args, out: found.network.append(out))]
    if layer is not None:
        handles.append(layer.register_forward_hook(hear))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def called(explained: Explained, arguments: Sequence[Tensor], returned: Heard) -> Tensor:
    """What the network returns for the first rows.

    Raises:
        ValueError: if it cannot be called with them, or does not return a tensor, or lacks the one that was named.
    """
    try:
        return explained.outputs(*arguments)
    except Exception as error:
        if returned.network:
            # it can be called; what it returned is not what was expected
            raise
        signature = explained.signature
        names = [*(name or "an input" for name in signature.inputs), *(name or "" for name in signature.extras)]
        given = ", ".join([f"the input {list(arguments[0].shape)}", *names[1:]])
        raise ValueError(
            f"{type(explained.network).__name__} cannot be called with {given} alone ({error!r}); name the module that "
            "can with network=..., or say with reader={'input': ..., 'target': ..., 'mask': ...} which entry of the "
            "batch is its input, and which is each further argument, by its name; inputs=['mask'] explains that one too"
        ) from error


def check_made(network: nn.Module) -> None:
    """Refuse parameters that take their shape from the first batch: an explanation must not be what creates them.

    Raises:
        ValueError: names them.
    """
    unmade = [name for name, parameter in network.named_parameters() if is_lazy(cast(Any, parameter))]
    if unmade:
        raise ValueError(
            f"parameters {', '.join(unmade)} of {type(network).__name__} take their shape from the first batch; call "
            "the network once on a batch before the training, in the module's setup or configure_model, which "
            "Lightning requires as well"
        )


def tell_reading(ways: Ways, layout: str, inputs: Tensor) -> None:
    """Point out settings that were probably forgotten: for tokens that are not words, or series with time first."""
    if ways.tokens and inputs.ndim == 2:
        _tell_special(ways, inputs)
    elif layout == "series" and ways.features is not None and not ways.time_first:
        _tell_layout(ways, inputs.shape[1:], ways.features)


def _tell_special(ways: Ways, ids: Tensor) -> None:
    """Report that every text begins with the same token, as in transformers: it takes much of the attribution."""
    first, known = ids[:, 0], (ways.pad_token, *ways.special_tokens)
    if len(ids) >= ALIKE and bool((first == first[0]).all()) and int(first[0]) not in known:
        rank_zero_info(
            f"AttributionMonitor({ways.label!r}): every text of the first batch begins with token {int(first[0])}, "
            f"which is explained like a word; if it is not one, leave it out with special_tokens=[{int(first[0])}, ...]"
        )


def _tell_layout(ways: Ways, shape: Sequence[int], features: Mapping[str, Where]) -> None:
    """Warn if there are as many names as a series has steps, rather than channels."""
    named = sum(
        1 if isinstance(where, int) else len(range(shape[0])[where]) if isinstance(where, slice) else len(where)
        for where in features.values()
    )
    if named == shape[1] != shape[0]:
        rank_zero_warn(
            f"AttributionMonitor({ways.label!r}): features name {named} channels, and inputs {['N', *shape]} are read "
            f"as {shape[0]} channels of {shape[1]} steps; if time comes first, set layout='NTC'"
        )


def tell_choice(label: str, network: nn.Module, outputs: Sequence[Any], n: int) -> None:
    """Warn which tensor is explained, if the network returns more than one that may be meant."""
    choice = unclear(outputs[-1], n) if outputs else None
    if choice is not None:
        rank_zero_warn(f"AttributionMonitor({label!r}): {type(network).__name__} {choice}")


def lost_relevance(ways: Ways, explained: Explained, columns: Sequence[Tensor], outputs: Tensor) -> list[Finding]:
    """Operations between the network's modules that the rules of LRP do not cover.

    Args:
        ways: the settings.
        explained: network and scalar.
        columns: the first rows of the input, and of the arguments that go along with it.
        outputs: the network's outputs for these rows.
    """
    few = slice(0, max(1, min(WEIGHED, NUMBERS_AT_ONCE // (4 * columns[0][0].numel()))))
    x, *extras = (column[few] for column in columns)
    target = ways.target if isinstance(ways.target, int) else 0
    targets = torch.full((len(x),), target, device=x.device)
    masks = [torch.ones_like(outputs[few, 0], dtype=torch.bool)] if ways.task == "segmentation" else []
    return inspect_relevance(explained, x, (targets, *masks, *extras))


def check_channels(
    ways: Ways, form: str, shape: Sequence[int], layer: nn.Module | None, layer_shape: Sequence[int]
) -> None:
    """Refuse a layer that does not return channels, then positions, over which class activation maps average.

    Args:
        ways: the settings.
        form: form of the input.
        shape: shape of one input.
        layer: the layer whose channels are weighed.
        layer_shape: shape of its output for one sample.

    Raises:
        ValueError: if it returns tokens or a vector.
    """
    if ways.method not in ("grad_cam", "guided_grad_cam"):
        return
    wanted = "[N, C, H, W]" if form == "image" else "[N, C, T]"
    fits = len(layer_shape) == (3 if form == "image" else 2)
    if ways.time_first and fits and not isinstance(layer, _CONVOLUTIONS):
        fits = layer_shape[0] != shape[0] or layer_shape[1] == shape[0]
    if not fits:
        raise ValueError(
            f"method {ways.label!r} weights the channels of a layer that returns {wanted}, but {ways.layer!r} returns "
            f"{['N', *layer_shape]}; name a convolution with layer=..., or use a method that explains inputs, such as "
            "'integrated_gradients' or 'occlusion'"
        )
