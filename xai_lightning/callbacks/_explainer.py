"""One method, one network, one way to read outputs: explains rows of the probe."""

import importlib
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, cast

import torch
from torch import Tensor, nn

from xai_lightning._lightning import LightningModule, rank_zero_warn
from xai_lightning.callbacks._arguments import Arguments
from xai_lightning.callbacks._baselines import Against, Baselines, Seen
from xai_lightning.callbacks._canonical import Canon, Columns
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._guard import explaining
from xai_lightning.callbacks._regions import Region, Regions
from xai_lightning.functional import attribution, drift
from xai_lightning.functional.attribution import METHODS, Custom, Explained, Method, Passes, Smooth, check_method
from xai_lightning.functional.attribution.preflight import Finding, inspect_call, inspect_network
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.readers import Outputs, Sample, check_space, targets_of

REHEARSED = 64
TAKEN = {"activation", "errors", "fairness", "nonfinite_predictions"}
FREE = {"forward_passes", "backward_passes"}
Target = Literal["label", "reference_prediction", "predicted"] | int


class Explanation(NamedTuple):
    """Explained rows, on the CPU.

    Args:
        columns: what is known of each row, ``float64[M, k]`` by name: ``maps`` (canonical), ``gap`` and ``change`` of
            the completeness, ``probabilities``, ``targets`` (the class that was explained; of a label, 1),
            ``regions`` (mass in each, then in all), and ``replicate`` (maps by other seeds); without columns where it
            does not apply.
        shown: ``float32[S, H, W]`` of the rows asked for, if they are images, else empty: what is drawn.
        forward: rows sent forward through the network.
        backward: rows sent backward.
    """

    columns: dict[str, Tensor]
    shown: Tensor
    forward: int
    backward: int


@dataclass(frozen=True)
class Ways:
    """How samples are explained; see `AttributionMonitor` for each."""

    method: str | Custom
    options: Mapping[str, Any]
    task: attribution.Task
    outputs: Outputs
    target: Target
    baseline: Any
    features: Mapping[str, Where] | None
    inputs: Sequence[str] = ()
    layer: str | None = None
    smooth: Smooth | None = None
    embedding: str | None = None
    pad_token: int = 0
    special_tokens: Sequence[int] = ()
    time_first: bool = False
    regions: Mapping[str, Region] = field(default_factory=dict)
    seed: int = 0
    autocast: bool = False

    @property
    def tokens(self) -> bool:
        """Whether the first input are token ids, of which some are padding or special."""
        return self.embedding is not None or bool(self.special_tokens) or self.baseline == "pad"


def resolve_method(method: str | Custom, options: Mapping[str, Any], smooth: Smooth | None = None) -> str | Custom:
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
        noisy = attribution.SMOOTH_OPTIONS if smooth else ()
        check_method(method, {name: value for name, value in options.items() if name not in noisy})
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
        ways: how.
    """

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.canon: Canon | None = None
        self.arguments = Arguments()
        self.n_classes = 0
        self.pictured = False
        self.shape: tuple[int, ...] = ()
        self.regions = Regions(ways.regions)

    @property
    def spec(self) -> Method | None:
        """The method's row of the table; None for a callable."""
        return METHODS[self.ways.method] if isinstance(self.ways.method, str) else None

    @property
    def task(self) -> attribution.Task:
        """What the outputs are."""
        return self.ways.task

    @property
    def columns(self) -> Columns:
        """Names of the columns of canonical maps; none for a layer's."""
        return Columns() if self.canon is None or self._explains_layer else self.canon.columns

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of canonical maps, if the only input are images."""
        if not self.pictured or len(self.arguments.further):
            return None
        return min(self.shape[1], drift.CELLS), min(self.shape[2], drift.CELLS)

    @property
    def label(self) -> str:
        """The method's name in what is logged; a callable's own, unless it is taken below ``xai/``."""
        if isinstance(self.ways.method, str):
            return f"{self.ways.method}_{self.ways.smooth}" if self.ways.smooth else self.ways.method
        name = str(getattr(self.ways.method, "__name__", "custom"))
        return f"{name}_method" if name in TAKEN or name in METHODS else name

    @property
    def complete(self) -> bool:
        """Whether attributions should add up to the change of the scalar."""
        return self.spec is not None and self.spec.complete and not self.ways.smooth

    @property
    def draws(self) -> bool:
        """Whether other seeds give other maps, so that there is noise to tell from drift."""
        return self.spec is None or self.spec.random or bool(self.ways.smooth)

    @property
    def _explains_layer(self) -> bool:
        return self.spec is not None and self.spec.layer and self.ways.method != "guided_grad_cam"

    @property
    def _embeds(self) -> bool:
        return self.ways.embedding is not None and (self.spec is None or "integers" not in self.spec.layouts)

    def check(self, network: nn.Module) -> None:
        """Refuse what is seen without data: names of modules, and layers that the method has no rules for.

        Raises:
            ValueError: if a module does not exist, or the method's rules do not cover the network.
        """
        for role in ("layer", "embedding"):
            self._module(network, role)
        if self.spec is not None and self.ways.layer is None and self.spec.layer:
            raise ValueError(
                f"method {self.label!r} explains a layer: name it with layer=..., one of {_names(network)}"
            )
        self._judge(inspect_network(self.spec.rules if self.spec else None, network))

    def _module(self, network: nn.Module, role: str) -> nn.Module | None:
        name = getattr(self.ways, role)
        if name is None:
            return None
        found: nn.Module | None = dict(network.named_modules()).get(name)
        if found is None:
            raise ValueError(f"{role}={name!r} is no module of {type(network).__name__}; it has {_names(network)}")
        return found

    def _judge(self, findings: Sequence[Finding]) -> None:
        refused = [finding.text for finding in findings if finding.severity == "refuse"]
        if refused:
            raise ValueError(
                f"method {self.label!r} cannot explain this network: {'; '.join(refused)}. Name the module to explain "
                "with network=..., or use another method"
            )
        for finding in findings:
            rank_zero_warn(f"AttributionMonitor({self.label!r}): {finding.text}")

    def learn(self, pl_module: LightningModule, network: nn.Module, sample: Sample) -> None:
        """Take the shape of inputs and outputs from the first batch, and check what can be checked on it.

        Raises:
            ValueError: if the method cannot explain such inputs, or outputs or targets are not what was declared.
        """
        ways, spec = self.ways, self.spec
        self.arguments = Arguments.of(network, sample, ways.inputs)
        columns = [x[:REHEARSED].detach().clone() for x in (sample.inputs, *self.arguments.columns(sample))]
        count = len(self.arguments.further) + 1
        cells = spec.cells if spec else 14
        self.canon = Canon(
            columns[:count],
            self.arguments.further,
            ways.features,
            embedded=self._embeds,
            time_first=ways.time_first,
            cells=cells,
        )
        self.shape = tuple(sample.inputs.shape[1:])
        self.pictured = self.canon.layouts[0] == "image" and not self._explains_layer
        if spec is not None:
            self._check_inputs(self.canon)
        self.regions.learn(self.canon.spatial(torch.zeros(1, *self.shape)).shape[1:], sample)
        layer = self._module(network, "layer")
        with self._explaining(pl_module), torch.no_grad():
            found: list[Tensor] = []
            findings = inspect_call(
                spec.rules if spec else None,
                network,
                layer,
                lambda: found.append(_called(self._explained(network), columns)),
            )
        self._judge(findings)
        self._learn_outputs(found[0])

    def _check_inputs(self, canon: Canon) -> None:
        if isinstance(self.ways.method, str):
            layer = self.ways.layer is not None
            attribution.check_inputs(self.ways.method, canon.layouts, variables=canon.number, layer=layer)

    def _learn_outputs(self, outputs: Tensor) -> None:
        if self.task == "classification":
            check_space(outputs, self.ways.outputs.space)
            self.n_classes = 2 if outputs.ndim == 1 or outputs.shape[1] == 1 else int(outputs.shape[1])
        elif self.task in ("multilabel", "segmentation"):
            self.n_classes = int(outputs.shape[1]) if outputs.ndim > 1 else 1
            if not isinstance(self.ways.target, int) or self.ways.target >= self.n_classes:
                got = f"target={self.ways.target!r} and {self.n_classes} outputs"
                raise ValueError(f"task={self.task!r} needs target=, the number of the label or class; got {got}")

    def columns_of(self, sample: Sample) -> list[Tensor]:
        """What is kept of ``sample`` beside its first input: further inputs, extras, masks of regions."""
        return [*self.arguments.columns(sample), *self.regions.columns(sample)]

    def targets(self, sample: Sample) -> Tensor:
        """What is kept as target of each sample: its class, the fixed one, or the regression target.

        Raises:
            ValueError: if it is out of range (on the CPU, trap 4), or there is none.
        """
        target, given = self.ways.target, sample.targets
        if self.task == "regression":
            if given is None:
                raise ValueError("this batch has no target; name it with reader={'input': ..., 'target': ...}")
            chosen = given[:, target] if isinstance(target, int) and given.ndim == 2 else given
            return chosen.detach().flatten().to(torch.float64)
        if self.task == "segmentation":
            if given is None or given.ndim != 3:
                raise ValueError("segmentation needs targets [N, H, W] of class numbers, whose mask is explained")
            return given.detach().to(torch.int64)
        if isinstance(target, int):
            return targets_of(torch.full((len(sample),), target), self.n_classes)
        if target != "label" and given is None:
            return torch.zeros(len(sample), dtype=torch.int64)
        if given is None:
            raise ValueError(
                "this batch has no target to explain; name it with reader={'input': ..., 'target': ...}, or explain "
                "predictions with target='reference_prediction'"
            )
        return targets_of(given, self.n_classes)

    def cost(self) -> Passes | None:
        """Passes of one sample, at most; None for a callable, which is counted when it runs."""
        if self.canon is None or not isinstance(self.ways.method, str):
            return None
        return self._cost(self.shape, self.canon.number)

    def _cost(self, shape: Sequence[int], number: int) -> Passes:
        method = cast(str, self.ways.method)
        options = attribution.resolve_options(method, self.ways.options, shape, number, Baselines(self.ways).rows)
        cost = METHODS[method].cost(options, number)
        noisy = int(options.get("nt_samples", attribution.SMOOTH_OPTIONS["nt_samples"])) if self.ways.smooth else 1
        return Passes(noisy * cost.forward, noisy * cost.backward)

    def fixed_cost(self) -> Passes | None:
        """Passes of one sample, where they do not depend on its shape and so are known before any batch (law 7)."""
        if not isinstance(self.ways.method, str):
            return None
        one, two = (self._cost((n,), n) for n in (1, 2))
        return one if one == two else None

    def explain(
        self,
        pl_module: LightningModule,
        network: nn.Module,
        probe: Rows,
        shown: Tensor,
        *,
        seen: Seen | None = None,
        frozen: Tensor | None = None,
        replicate: bool = False,
    ) -> Explanation:
        """Explain ``probe`` in one guard that leaves no trace.

        Args:
            pl_module: the module that may be touched.
            network: the network that is explained.
            probe: the rows.
            shown: positions of those whose whole maps are kept.
            seen: mean and background of the data, for baselines that need them.
            frozen: ``int64[M]``, the classes to explain, if those of the reference are explained.
            replicate: explain a second time, by other seeds.
        """
        with self._explaining(pl_module), _hints(network):
            explained = self._explained(network)
            asked = self._asked(explained, probe.on(pl_module.device), seen, frozen)
            found = self._attribute(explained, network, asked, probe.hashes, 0)
            again = self._attribute(explained, network, asked, probe.hashes, 1) if replicate else None
        values = self._left_out(found.values, asked.left_out)
        columns = {
            "maps": self._canonical(values),
            "gap": found.gap[:, None],
            "change": found.change[:, None],
            "probabilities": asked.probabilities,
            "targets": (torch.ones_like(asked.classes) if self.task == "multilabel" else asked.classes)[:, None],
            "regions": self.regions.mass(self.canon, values, asked.masks),
            "replicate": values[0].new_zeros(len(probe.hashes), 0),
        }
        if again is not None:
            columns["replicate"] = self._canonical(self._left_out(again.values, asked.left_out))
        pictures = values[0].cpu()[shown].sum(dim=1).float() if values[0].ndim == 4 else torch.empty(0)
        detached = {name: column.detach().double().cpu() for name, column in columns.items()}
        return Explanation(detached, pictures, explained.rows, explained.gradients)

    def _explained(self, network: nn.Module) -> Explained:
        target = self.ways.target
        return Explained(
            network,
            task=self.task,
            kind=self.spec.kind if self.spec else "margin",
            probabilities=self.ways.outputs.space == "probabilities",
            signature=self.arguments.signature,
            embedding=self._module(network, "embedding") if self._embeds else None,
            output=target if isinstance(target, int) else None,
        )

    def _explaining(self, pl_module: LightningModule) -> AbstractContextManager[None]:
        context = pl_module.trainer.precision_plugin.forward_context() if self.ways.autocast else None
        return explaining(pl_module, seed=self.ways.seed, precision=context)

    def _asked(self, explained: Explained, probe: Rows, seen: Seen | None, frozen: Tensor | None) -> "_Asked":
        count, extras = len(self.arguments.further), len(self.arguments.extras)
        inputs, given = (probe.inputs, *probe.extras[:count]), probe.extras[count : count + extras]
        masks = probe.extras[count + extras :]
        ids, outputs = inputs[0], _in_blocks(explained, inputs, given)
        probabilities = self._probabilities(outputs)
        classes = probe.targets
        if self.task == "segmentation":
            classes = torch.full_like(probe.targets[:, 0, 0], cast(int, self.ways.target))
        if self.ways.target in ("predicted", "reference_prediction"):
            classes = probabilities.argmax(dim=1) if frozen is None else frozen.to(classes.device)
        left_out = self._unexplained(ids, given) if self.ways.tokens else None
        regional = (probe.targets == self.ways.target,) if self.task == "segmentation" else ()
        seeds = self._seeds(probe.hashes, 0)
        baselines = Baselines(self.ways).of(inputs, self._layouts, seeds, seen, left_out)
        if self._embeds:
            rest = (*inputs[1:], *given)
            inputs, given = (explained.embedded(ids, *rest), *inputs[1:]), (ids, *given)
            baselines = baselines.embedded(lambda x: explained.embedded(x, *(y[: len(x)] for y in rest)))
        return _Asked(inputs, (*regional, *given), classes, probabilities, baselines, masks, left_out)

    @property
    def _layouts(self) -> Sequence[str]:
        return self.canon.layouts if self.canon is not None else ()

    def _unexplained(self, ids: Tensor, extras: Sequence[Tensor]) -> Tensor:
        """Padding and special tokens, ``bool[M, T]``."""
        special = torch.tensor([self.ways.pad_token, *self.ways.special_tokens], device=ids.device)
        found = torch.isin(ids, special)
        for name, extra in zip(self.arguments.extras, extras, strict=False):
            if name == "attention_mask" and extra.shape == ids.shape:
                found |= extra == 0
        return found

    def _left_out(self, values: tuple[Tensor, ...], left_out: Tensor | None) -> tuple[Tensor, ...]:
        """Attributions without those of padding and special tokens."""
        first = values[0]
        if left_out is None or first.shape[:2] != left_out.shape:
            return values
        mask = left_out.reshape(*left_out.shape, *[1] * (first.ndim - 2))
        return (first.masked_fill(mask, 0.0), *values[1:])

    def _canonical(self, values: tuple[Tensor, ...]) -> Tensor:
        if self._explains_layer or self.canon is None:
            summed = values[0].sum(dim=2) if self.ways.layer == self.ways.embedding else values[0]
            return drift.pool(summed if summed.ndim > 1 else summed[:, None])
        return self.canon.canonical(values)

    def _probabilities(self, outputs: Tensor) -> Tensor:
        """``[M, K]`` of a classifier, or ``[M, 1]``: the number of a regression; else nothing."""
        space = self.ways.outputs.space
        if self.task == "segmentation":
            return outputs.new_zeros(len(outputs), 0)
        if self.task == "regression":
            several = outputs.ndim == 2 and isinstance(self.ways.target, int)
            return outputs[:, self.ways.target, None] if several else outputs.reshape(len(outputs), -1)  # type: ignore[index]
        if self.task == "multilabel":
            outputs = outputs[:, cast(int, self.ways.target)]
        if outputs.ndim == 1 or outputs.shape[1] == 1:
            positive = outputs.reshape(-1) if space == "probabilities" else outputs.reshape(-1).sigmoid()
            return torch.stack([1 - positive, positive], dim=1)
        return outputs if space == "probabilities" else outputs.softmax(dim=1)

    def _seeds(self, hashes: Tensor, replicate: int) -> list[int]:
        own = zlib.crc32(f"{self.label}{replicate or ''}".encode()) << 31
        return [(int(h) ^ self.ways.seed ^ own) % 2**63 for h in hashes]

    def _attribute(
        self, explained: Explained, network: nn.Module, asked: "_Asked", hashes: Tensor, replicate: int
    ) -> attribution.Found:
        blocks = self.canon.blocks if self.canon is not None else ()
        if self._embeds and self.canon is not None:
            tokens = blocks[0].mask[..., None].expand(1, *asked.inputs[0].shape[1:])
            blocks = (attribution.Variables((), tokens.contiguous()), *blocks[1:])
        numbers = sum(x[:1].numel() for x in asked.inputs)
        at_once = attribution.NUMBERS_AT_ONCE
        while True:
            try:
                return attribution.attribute(
                    self.ways.method,
                    explained,
                    asked.inputs,
                    asked.classes.to(torch.int64),
                    baselines=asked.baselines.points,
                    background=asked.baselines.background,
                    variables=blocks,
                    seeds=self._seeds(hashes, replicate),
                    extras=asked.extras,
                    options=self.ways.options,
                    layer=self._module(network, "layer"),
                    smooth=self.ways.smooth,
                    at_once=at_once,
                )
            except RuntimeError as error:
                if not _out_of_memory(error) or at_once <= numbers:
                    raise
            at_once //= 2
            rank_zero_warn(f"AttributionMonitor({self.label!r}) ran out of memory; it computes half as much at once")


class _Asked(NamedTuple):
    """What is asked about the rows, on the device of the network."""

    inputs: tuple[Tensor, ...]
    extras: tuple[Tensor, ...]
    classes: Tensor
    probabilities: Tensor
    baselines: Against
    masks: tuple[Tensor, ...]
    left_out: Tensor | None


def _in_blocks(explained: Explained, inputs: tuple[Tensor, ...], extras: tuple[Tensor, ...]) -> Tensor:
    """The network's outputs, in blocks that fit at once."""
    size = max(1, attribution.NUMBERS_AT_ONCE // max(1, sum(x[:1].numel() for x in inputs)))
    blocks = [slice(i, i + size) for i in range(0, len(inputs[0]), size)]
    return torch.cat([explained.outputs(*(x[b] for x in inputs), *(x[b] for x in extras)) for b in blocks])


def _out_of_memory(error: RuntimeError) -> bool:
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def _names(network: nn.Module) -> str:
    names = [name for name, _ in network.named_modules() if name]
    return ", ".join(names[:40]) + (", …" if len(names) > 40 else "")


def _called(explained: Explained, arguments: Sequence[Tensor]) -> Tensor:
    try:
        return explained.outputs(*arguments)
    except Exception as error:
        signature = explained.signature
        names = [*(name or "an input" for name in signature.inputs), *(name or "" for name in signature.extras)]
        given = ", ".join(["the input", *names[1:]])
        raise ValueError(
            f"{type(explained.network).__name__} cannot be called with {given} alone ({error!r}); name the module that "
            "can with network=..., or say what the input is with reader=..."
        ) from error


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
