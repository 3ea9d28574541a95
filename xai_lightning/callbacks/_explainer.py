"""One method, one network, one way to read outputs: explains rows of the probe."""

import importlib
import inspect
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn

from xai_lightning._lightning import LightningModule
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._guard import explaining
from xai_lightning.functional import attribution, drift
from xai_lightning.functional.attribution import METHODS, Custom, Explained, Method, Variables, check_method
from xai_lightning.functional.attribution.scalars import rows
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.readers import Outputs, Sample, check_space, targets_of

REHEARSED = 64
TAKEN = {"activation", "errors", "fairness", "nonfinite_predictions"}


class Explanation(NamedTuple):
    """Explained rows, on the CPU.

    Args:
        maps: ``float32[M, D]``, canonical: summed within variables, or pooled over an image's channels and cells.
        shown: ``float32[S, H, W]`` of the rows asked for, if they are images, else empty: what is drawn.
        error: ``float64[M]`` completeness errors, NaN where the method has none.
        forward: rows sent forward through the network.
        backward: rows sent backward.
    """

    maps: Tensor
    shown: Tensor
    error: Tensor
    forward: int
    backward: int


def resolve_method(method: str | Custom, options: Mapping[str, Any]) -> str | Custom:
    """A name of METHODS, checked; or a callable, given itself or as its dotted path, for configuration files (trap 58).

    Raises:
        ValueError: on an unknown name or option, or a path that leads to nothing callable.
    """
    if callable(method):
        return method
    if not isinstance(method, str):
        raise TypeError(f"method must be a name or a callable; got {method!r}")
    module, dot, name = method.rpartition(".")
    if not dot:
        check_method(method, options)
        return method
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise ValueError(f"method {method!r} is a dotted path that cannot be imported: {error}") from error
    if not callable(found):
        raise ValueError(f"method {method!r} must lead to a callable; got {type(found).__name__}")
    return cast(Custom, found)


class Explainer:
    """Explains samples of one network.

    Args:
        method: name in METHODS, or a callable.
        options: further arguments of captum's ``attribute``.
        task: ``classification`` or ``regression``.
        outputs: how to read outputs.
        baseline: a number, or a tensor ``[...]`` or ``[B, ...]`` in the shape of inputs.
        features: the variables of a table.
        seed: of the methods that draw.
        autocast: explain under the Trainer's mixed precision.
    """

    def __init__(
        self,
        method: str | Custom,
        *,
        options: Mapping[str, Any],
        task: attribution.Task,
        outputs: Outputs,
        baseline: float | Tensor,
        features: Mapping[str, Where] | None,
        seed: int,
        autocast: bool,
    ) -> None:
        self.method, self.options, self.task, self.outputs = method, dict(options), task, outputs
        self.baseline, self.features, self.seed, self.autocast = baseline, features, seed, autocast
        self.variables: Variables | None = None
        self.blocks = attribution.grid_variables((1,))
        self.n_classes = 0
        self.pictured = False
        self.shape: tuple[int, ...] = ()
        self._names: tuple[str, ...] = ()

    def learn(self, pl_module: LightningModule, network: nn.Module, sample: Sample) -> None:
        """Take the shape of inputs and outputs from the first batch, and check what can be checked on it.

        Raises:
            ValueError: if the method cannot explain such inputs, or outputs or targets are not what was declared.
        """
        inputs = sample.inputs[:REHEARSED]
        if not inputs.is_floating_point() and (self.spec is None or self.spec.gradient):
            raise ValueError(
                f"method {self.label!r} differentiates, which integer inputs ({inputs.dtype}) do not allow; use a "
                "method that switches features off (feature_ablation, occlusion, kernel_shap, lime), or give the "
                "network floats"
            )
        self._names = tuple(_known_extras(network, sample))
        self._learn_variables(inputs)
        extras = [sample.extras[name][:REHEARSED] for name in self._names]
        self.shape = tuple(inputs.shape[1:])
        named = {name: extra.clone() for name, extra in zip(self._names, extras, strict=True)}
        with self._explaining(pl_module), torch.no_grad():
            outputs = _called(network, inputs.detach().clone(), named)
        if self.task == "classification":
            check_space(outputs, self.outputs.space)
            self.n_classes = 2 if outputs.ndim == 1 or outputs.shape[1] == 1 else int(outputs.shape[1])

    @property
    def spec(self) -> Method | None:
        """The method's row of the table; None for a callable."""
        return METHODS[self.method] if isinstance(self.method, str) else None

    @property
    def label(self) -> str:
        """The method's name in what is logged; a callable's own, unless it is taken below ``xai/``."""
        if isinstance(self.method, str):
            return self.method
        name = str(getattr(self.method, "__name__", "custom"))
        return f"{name}_method" if name in TAKEN or name in METHODS else name

    def _learn_variables(self, inputs: Tensor) -> None:
        shape = inputs.shape[1:]
        self.pictured = len(shape) == 3
        if len(shape) == 1:
            self.variables = attribution.table_variables(shape[0], self.features)
        elif self.features is not None:
            raise ValueError(
                f"features=... names the columns of a table [N, D]; the inputs have the shape {list(inputs.shape)}"
            )
        self.blocks = self.variables or attribution.grid_variables(shape, self.spec.cells if self.spec else 14)

    def extras(self, sample: Sample) -> list[Tensor]:
        """The further arguments of the network in ``sample``."""
        return [sample.extras[name] for name in self._names]

    def targets(self, sample: Sample, fixed: int | None) -> Tensor:
        """What is explained of each sample: its class, the ``fixed`` one, or the regression target.

        Raises:
            ValueError: if it is out of range (on the CPU, trap 4), or there is none.
        """
        if self.task == "regression":
            if sample.targets is None:
                raise ValueError("this batch has no target; name it with reader={'input': ..., 'target': ...}")
            return sample.targets.detach().flatten().to(torch.float64)
        if fixed is not None:
            return targets_of(torch.full((len(sample),), fixed), self.n_classes)
        return targets_of(sample.targets, self.n_classes)

    def cost(self, shape: Sequence[int]) -> attribution.Passes | None:
        """Passes of one sample of ``shape``; None for a callable, which is counted when it runs."""
        if self.spec is None or not isinstance(self.method, str):
            return None
        number = self.blocks.number
        return self.spec.cost(attribution.resolve_options(self.method, self.options, shape, number), number)

    def fixed_cost(self) -> attribution.Passes | None:
        """Passes of one sample, where they do not depend on its shape and so are known before any batch (law 7)."""
        if not isinstance(self.method, str):
            return None
        options = [attribution.resolve_options(self.method, self.options, (n,), n) for n in (1, 2)]
        one, two = (METHODS[self.method].cost(each, n) for n, each in enumerate(options, start=1))
        return one if one == two else None

    def explain(self, pl_module: LightningModule, network: nn.Module, probe: Rows, shown: Tensor) -> Explanation:
        """Explain ``probe`` in one guard that leaves no trace, and keep whole maps of those at ``shown``."""
        device = pl_module.device
        with self._explaining(pl_module):
            explained = Explained(
                network,
                task=self.task,
                kind=self.spec.kind if self.spec else "margin",
                probabilities=self.outputs.space == "probabilities",
                names=self._names,
            )
            inputs = probe.inputs.to(device).clone()
            targets = probe.targets.to(device).clone()
            extras = [extra.to(device).clone() for extra in probe.extras]
            with _hints(network):
                found, error = self._attribute(explained, inputs, targets, extras, probe.hashes)
        forward = explained.rows
        canonical = attribution.per_variable(found, self.variables) if self.variables else found
        pictures = found.cpu()[shown].sum(dim=1).float() if found.ndim == 4 else torch.empty(0)
        backward = forward if self.spec and self.spec.gradient else 0
        if self.spec and self.spec.complete:
            backward = max(0, backward - 2 * len(probe.hashes))
        return Explanation(drift.pool(canonical).float().cpu(), pictures, error.cpu(), forward, backward)

    def _explaining(self, pl_module: LightningModule) -> AbstractContextManager[None]:
        context = pl_module.trainer.precision_plugin.forward_context() if self.autocast else None
        return explaining(pl_module, seed=self.seed, precision=context)

    def _attribute(
        self, explained: Explained, inputs: Tensor, targets: Tensor, extras: list[Tensor], hashes: Tensor
    ) -> tuple[Tensor, Tensor]:
        baselines = self._baselines(inputs)
        own = zlib.crc32(self.label.encode()) << 31
        seeds = [(int(h) ^ self.seed ^ own) % 2**63 for h in hashes]
        found = attribution.attribute(
            self.method,
            explained,
            inputs,
            targets,
            baselines=baselines,
            variables=self.blocks,
            seeds=seeds,
            extras=extras,
            options=self.options,
        )
        if not (self.spec and self.spec.complete):
            return found, torch.full((len(inputs),), float("nan"), dtype=torch.float64)
        error = attribution.completeness_error(explained, found, inputs, targets, baselines=baselines, extras=extras)
        return found, error

    def _baselines(self, inputs: Tensor) -> Tensor:
        if not isinstance(self.baseline, Tensor):
            return torch.full_like(inputs[:1], self.baseline)
        baseline = self.baseline.to(inputs)
        baseline = baseline[None] if baseline.shape == inputs.shape[1:] else baseline
        if baseline.shape[1:] != inputs.shape[1:]:
            raise ValueError(
                f"baseline must have the shape of one input, {list(inputs.shape[1:])}; got {list(self.baseline.shape)}"
            )
        return baseline


@contextmanager
def _hints(network: nn.Module) -> Iterator[None]:
    """Say what to do where gradients cannot be had (traps 2 and 27)."""
    try:
        yield
    except RuntimeError as error:
        if "not have been used in the graph" in str(error) or "does not require grad" in str(error):
            raise RuntimeError(
                f"the output of {type(network).__name__} does not depend differentiably on its input (a detach, "
                "no_grad, or an unused input), so this method cannot explain it; use feature_ablation or occlusion, or "
                "name another module with network=..."
            ) from error
        if "Inference tensors cannot be saved" not in str(error):
            raise
        raise RuntimeError(
            f"the network {type(network).__name__} keeps tensors that it made in inference mode (a cached table, say), "
            "so nothing can be differentiated through it; use Trainer(inference_mode=False)"
        ) from error


def _called(network: nn.Module, inputs: Tensor, named: Mapping[str, Tensor]) -> Tensor:
    try:
        output = network(inputs, **named)
    except Exception as error:
        given = ", ".join(["the input", *named])
        raise ValueError(
            f"{type(network).__name__} cannot be called with {given} alone ({error!r}); name the module that can with "
            "network=..., or say what the input is with reader=..."
        ) from error
    return rows(attribution.output_tensor(output), len(inputs))


def _known_extras(network: nn.Module, sample: Sample) -> list[str]:
    """Entries of a dict batch that are arguments of the network's ``forward``, one row per sample each."""
    forward: Callable[..., Any] = network.forward
    parameters = list(inspect.signature(forward).parameters)[1:]
    tensors = {
        name: x for name, x in sample.extras.items() if isinstance(x, Tensor) and x.ndim and len(x) == len(sample)
    }
    return [name for name in parameters if name in tensors and tensors[name] is not sample.inputs]
