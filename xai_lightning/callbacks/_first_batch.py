"""What is told, or refused, of how the first batch went through the network."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from xai_lightning._lightning import rank_zero_warn
from xai_lightning.callbacks._ways import Ways
from xai_lightning.functional.attribution import unclear

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.ConvTranspose1d, nn.ConvTranspose2d)


class Heard(NamedTuple):
    """What came out meanwhile: shapes of one sample that the layer returned, and what the network did."""

    layer: list[tuple[int, ...]]
    network: list[Any]


@contextmanager
def heard(network: nn.Module, layer: nn.Module | None) -> Iterator[Heard]:
    """What ``network`` and ``layer`` return meanwhile."""
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


def tell_choice(label: str, network: nn.Module, outputs: Sequence[Any], n: int) -> None:
    """Say which of several tensors is explained, where the network returns more than one that may be meant."""
    choice = unclear(outputs[-1], n) if outputs else None
    if choice is not None:
        rank_zero_warn(f"AttributionMonitor({label!r}): {type(network).__name__} {choice}")


def check_channels(
    ways: Ways, form: str, shape: Sequence[int], layer: nn.Module | None, layer_shape: Sequence[int]
) -> None:
    """Refuse a layer without channels before places, over which class activation maps would average.

    Args:
        ways: the settings.
        form: of the input.
        shape: of one input.
        layer: the layer that is looked through.
        layer_shape: of what it returns of one sample.

    Raises:
        ValueError: if it returns tokens, or a vector.
    """
    if ways.method not in ("grad_cam", "guided_grad_cam"):
        return
    wanted = "[N, C, H, W]" if form == "image" else "[N, C, T]"
    fits = len(layer_shape) == (3 if form == "image" else 2)
    if ways.time_first and fits and not isinstance(layer, _CONVOLUTIONS):
        fits = layer_shape[0] != shape[0] or layer_shape[1] == shape[0]
    if not fits:
        raise ValueError(
            f"method {ways.label!r} weighs the channels of a layer that returns {wanted}; {ways.layer!r} returns "
            f"{['N', *layer_shape]}: name a convolution, or use a method that explains inputs, such as "
            "'integrated_gradients' or 'occlusion'"
        )
