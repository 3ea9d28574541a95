"""Advice for networks that fail while they are explained."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.callbacks._guard import out_of_memory

_NO_GRADIENT = ("not have been used in the graph", "does not require grad", "doesn't require gradient")


@contextmanager
def hints(network: nn.Module, ways: Ways) -> Iterator[None]:
    """Say what to do if there are no gradients (traps 2 and 27), or if the network rejects a text of padding alone.

    Args:
        network: the explained network.
        ways: the settings.

    Raises:
        RuntimeError: the original error, or one in its place that says more.
    """
    try:
        yield
    except RuntimeError as error:
        said = str(error)
        if any(words in said for words in _NO_GRADIENT):
            raise RuntimeError(_without_gradient(network, ways)) from error
        if "Inference tensors cannot be saved" in said:
            raise RuntimeError(
                f"the network {type(network).__name__} keeps tensors that it created in inference mode (such as a "
                "cached table), so no gradient can pass through it; use Trainer(inference_mode=False)"
            ) from error
        if ways.tokens and not ways.embeds and not out_of_memory(error):
            error.add_note(
                f"AttributionMonitor({ways.label!r}) calls {type(network).__name__} with tokens replaced by the "
                "baseline. If it cannot process a text of nothing but padding, set baseline= to another id (such as "
                "that of a mask token), let it keep some tokens with special_tokens=, or explain the embedding with "
                "'integrated_gradients' and embedding="
            )
        raise


def never_fits(error: BaseException) -> str:
    """The message if memory runs out even with one sample."""
    return (
        f"one sample at a time does not fit either ({error}). Methods that make all draws of a sample in one pass need "
        "fewer draws, options={'n_samples': ...}, or a smaller background; methods such as 'saliency' need only one row"
    )


def _without_gradient(network: nn.Module, ways: Ways) -> str:
    if ways.explains_layer and ways.embeds and ways.layer == ways.embedding:
        return (
            f"method {ways.label!r} cannot explain the embedding {ways.layer!r} as a layer while ids are explained "
            "through it; name another layer, or use 'layer_integrated_gradients' or 'layer_gradient_x_activation'"
        )
    return (
        f"the output of {type(network).__name__} does not depend differentiably on its input (a detach, no_grad, or an "
        "unused input), so this method cannot explain it; use feature_ablation or occlusion, or name another module "
        "with network=..."
    )
