"""What is learnt of one method, one network and its outputs before anything is explained."""

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from xai_lightning._lightning import LightningModule, rank_zero_warn
from xai_lightning.callbacks._arguments import Arguments
from xai_lightning.callbacks._attribution.baselines import Baselines
from xai_lightning.callbacks._attribution.canonical import Canon, Columns
from xai_lightning.callbacks._attribution.first_batch import (
    Heard,
    called,
    check_channels,
    check_made,
    heard,
    lost_relevance,
    tell_choice,
    tell_reading,
)
from xai_lightning.callbacks._attribution.regions import Regions
from xai_lightning.callbacks._attribution.targets import explained_targets
from xai_lightning.callbacks._attribution.ways import Ways
from xai_lightning.callbacks._compiled import names_within, submodule
from xai_lightning.callbacks._guard import explaining
from xai_lightning.callbacks._sharded import Steps
from xai_lightning.functional import attribution, drift
from xai_lightning.functional.attribution import METHODS, Explained, Passes
from xai_lightning.functional.attribution.preflight import Finding, inspect_call, inspect_network
from xai_lightning.functional.tables import listed
from xai_lightning.readers import Sample, check_space

REHEARSED = 64


class Explainer:
    """Explains samples of one network.

    Args:
        ways: how samples are explained.
    """

    def __init__(self, ways: Ways) -> None:
        self.ways = ways
        self.canon: Canon | None = None
        self.arguments = Arguments()
        self.n_classes = 0
        self.pictured = self.mapped = self.writes = False
        self.shape: tuple[int, ...] = ()
        self.layer_shape: tuple[int, ...] = ()
        self.numbers, self.at_once = 0, attribution.NUMBERS_AT_ONCE
        self.regions = Regions(ways.regions)

    @property
    def task(self) -> attribution.Task:
        """What the outputs are."""
        return self.ways.task

    @property
    def columns(self) -> Columns:
        """The columns of canonical maps; none for maps of a layer."""
        return Columns() if self.canon is None or self.ways.explains_layer else self.canon.columns

    @property
    def grid(self) -> tuple[int, int] | None:
        """Rows and columns of canonical maps, if these are images: of the only input, or of a convolution's output."""
        if not self.pictured or (len(self.arguments.further) and not self.ways.explains_layer):
            return None
        rows, columns = (self.layer_shape if self.ways.explains_layer else self.shape)[-2:]
        return min(rows, drift.CELLS), min(columns, drift.CELLS)

    @property
    def picture(self) -> Literal["maps", "tokens", "series"] | None:
        """How explained samples are drawn, known once one was explained; None if they are not drawn."""
        if self.canon is None:
            return None
        layout = self.canon.forms[0]
        if layout == "image":
            return "maps" if self.mapped else None
        by_token = not self.ways.explains_layer or self.ways.layer == self.ways.embedding
        if layout in ("tokens", "integers") and self.ways.tokens and by_token:
            return "tokens"
        return "series" if layout == "series" and not self.ways.explains_layer else None

    def check(self, network: nn.Module) -> None:
        """Refuse what can be seen without data: unknown modules, and layers for which the method has no rules.

        Raises:
            ValueError: if a module does not exist, or the method's rules do not cover the network.
        """
        for role in ("layer", "embedding"):
            self.module(network, role)
        if self.ways.spec is not None and self.ways.layer is None and self.ways.spec.layer:
            raise ValueError(
                f"method {self.ways.label!r} explains a layer: name it with layer=..., one of "
                f"{', '.join(names_within(network)[:40])}"
            )
        self._judge(inspect_network(self.ways.spec.rules if self.ways.spec else None, network))

    def module(self, network: nn.Module, role: str) -> nn.Module | None:
        """The submodule that is named as ``role`` (``layer`` or ``embedding``); None if none is.

        Raises:
            ValueError: if it does not exist.
        """
        name = getattr(self.ways, role)
        if name is None:
            return None
        found = submodule(network, name)
        if found is None:
            known = names_within(network, nn.Embedding if role == "embedding" else nn.Module)
            raise ValueError(
                f"{role}={name!r} is not a module of {type(network).__name__}. {listed(name, known, most=40)}"
            )
        return found

    def _judge(self, findings: Sequence[Finding]) -> None:
        refused = [finding.text for finding in findings if finding.severity == "refuse"]
        if refused:
            raise ValueError(
                f"method {self.ways.label!r} cannot explain this network: {'; '.join(refused)}. Name the module to "
                "explain with network=..., or use another method"
            )
        for finding in findings:
            rank_zero_warn(f"AttributionMonitor({self.ways.label!r}): {finding.text}")

    def learn(self, pl_module: LightningModule, network: nn.Module, sample: Sample) -> None:
        """Learn the shapes of inputs and outputs from the first batch, and check what can be checked on it.

        Raises:
            ValueError: if the method cannot explain such inputs, or outputs or targets are not what was declared.
        """
        check_made(network)
        canon, columns = self._learn_inputs(network, sample)
        layer = self.module(network, "layer")
        output, returned = self._try_once(pl_module, network, layer, columns)
        if self.ways.output_key is None:
            tell_choice(self.ways.label, network, returned.network, len(columns[0]))
        self._learn_layer(layer, returned.layer[-1] if returned.layer else (), canon.forms[0])
        self._learn_outputs(output)
        if self.ways.spec is not None and self.ways.spec.rules == "lrp":
            with self.guarded(pl_module):
                self._judge(lost_relevance(self.ways, self.explained(network), columns, output))

    def _learn_inputs(self, network: nn.Module, sample: Sample) -> tuple[Canon, list[Tensor]]:
        """The form of the inputs, and a few rows of each, and of the extras, on which to try the network."""
        ways, spec = self.ways, self.ways.spec
        self.arguments = Arguments.of(network, sample, ways.inputs)
        columns = [x[:REHEARSED].detach().clone() for x in (sample.inputs, *self.arguments.columns(sample))]
        inputs = columns[: len(self.arguments.further) + 1]
        Baselines(ways).suit(inputs)
        self.canon = canon = Canon(
            inputs,
            self.arguments.further,
            ways.features,
            embedded=ways.embeds,
            tokens=ways.tokens,
            time_first=ways.time_first,
            cells=spec.cells if spec else 14,
        )
        self.shape = tuple(sample.inputs.shape[1:])
        tell_reading(ways, canon.layouts[0], sample.inputs)
        self.numbers = sum(x[:1].numel() for x in inputs)
        if spec is not None:
            self._check_inputs(canon)
        places = [canon.spatial(torch.zeros(1, *x.shape[1:], device="cpu"), i).shape[1:] for i, x in enumerate(inputs)]
        self.regions.learn(places, sample, self.arguments.further)
        return canon, columns

    def _try_once(
        self, pl_module: LightningModule, network: nn.Module, layer: nn.Module | None, columns: list[Tensor]
    ) -> tuple[Tensor, Heard]:
        """What the network and the layer return for a few rows; refuses operations the method has no rule for."""
        spec, found = self.ways.spec, list[Tensor]()
        with self.guarded(pl_module), torch.no_grad(), heard(network, layer) as returned:
            findings = inspect_call(
                spec.rules if spec else None,
                network,
                layer,
                lambda: found.append(called(self.explained(network), columns, returned)),
            )
        # the rows are copies, whose version counters show whether the network wrote into them
        self.writes = any(x._version > 0 for x in columns)
        self._judge(findings)
        return found[0], returned

    def _learn_layer(self, layer: nn.Module | None, shape: tuple[int, ...], form: str) -> None:
        """Learn what the layer returns, and whether explanations of inputs of this form can be drawn."""
        ways, self.layer_shape = self.ways, shape
        check_channels(ways, form, self.shape, layer, shape)
        self.pictured = form == "image" and (not ways.explains_layer or len(shape) == 3)
        elsewhere = self.regions.elsewhere
        if ways.explains_layer and elsewhere:
            raise ValueError(
                f"regions in {', '.join(elsewhere.values())} need a method that explains inputs, such as "
                f"'integrated_gradients': {ways.label!r} explains the layer {ways.layer!r}, whose maps are laid over "
                "the first input only"
            )
        if ways.regions and ways.explains_layer and not self.pictured:
            raise ValueError(
                f"regions={list(ways.regions)} lie in inputs, but {ways.label!r} explains the layer {ways.layer!r}, "
                f"of shape {list(shape)}: name a convolution over images with layer=..., or use a method that "
                "explains inputs, such as 'integrated_gradients'"
            )

    def _check_inputs(self, canon: Canon) -> None:
        if isinstance(self.ways.method, str):
            layer = self.ways.layer is not None
            attribution.check_inputs(
                self.ways.method, canon.layouts, variables=canon.number, layer=layer, smooth=self.ways.smooth
            )

    def _learn_outputs(self, outputs: Tensor) -> None:
        if self.task == "classification":
            if outputs.ndim > 2:
                raise ValueError(
                    f"task='classification' explains outputs [N, K], one row per sample; got {list(outputs.shape)}. "
                    "For classes of pixels [N, K, H, W], set task='segmentation' and target= to the number of one; "
                    "otherwise name a module that returns one row per sample with network=..."
                )
            check_space(outputs, self.ways.outputs.space)
            self.n_classes = 2 if outputs.ndim == 1 or outputs.shape[1] == 1 else int(outputs.shape[1])
        elif self.task in ("multilabel", "segmentation"):
            count = int(outputs.shape[1]) if outputs.ndim > 1 else 1
            # one logit per pixel separates two classes
            self.n_classes = 2 if count == 1 and self.task == "segmentation" else count
            if not isinstance(self.ways.target, int) or self.ways.target >= self.n_classes:
                got = f"target={self.ways.target!r} and {count} outputs"
                what = f"the index of a label or class, in 0 .. {self.n_classes - 1}"
                raise ValueError(f"task={self.task!r} needs target=, {what}; got {got}")
        elif isinstance(self.ways.target, int):
            count = 1 if outputs.ndim == 1 else int(outputs.shape[1])
            if self.ways.target >= count:
                raise ValueError(f"target={self.ways.target} is none of the network's {count} outputs, numbered from 0")

    def learnt(self) -> dict[str, Any]:
        """What was learnt of the data and the network, for a rank that sees no batch."""
        names = ("canon", "arguments", "n_classes", "pictured", "mapped", "writes", "shape", "layer_shape", "numbers")
        return {name: getattr(self, name) for name in names}

    def take_up(self, learnt: Mapping[str, Any]) -> None:
        """Take over what another rank has learnt."""
        vars(self).update(learnt)

    def columns_of(self, sample: Sample) -> list[Tensor]:
        """What is kept of ``sample`` besides its first input: further inputs, extras, masks of regions."""
        return [*self.arguments.columns(sample), *self.regions.columns(sample)]

    def targets(self, sample: Sample) -> Tensor:
        """What is kept as the target of each sample, see `explained_targets`."""
        return explained_targets(sample, self.task, self.ways.target, self.n_classes)

    def cost(self) -> Passes | None:
        """The most passes that one sample takes; None for a callable, whose passes are counted as it runs."""
        if self.canon is None or not isinstance(self.ways.method, str):
            return None
        return self._cost(self.shape, self.canon.number)

    def _cost(self, shape: Sequence[int], number: int) -> Passes:
        method = cast(str, self.ways.method)
        options = attribution.resolve_options(method, self.ways.options, shape, number, Baselines(self.ways).rows)
        spec, smooth = METHODS[method], self.ways.smooth
        cost = spec.cost(options, number)
        noisy = int(options.get("nt_samples", attribution.SMOOTH_OPTIONS["nt_samples"])) if smooth else 1
        # the prediction, the completeness check, and the embedding of token ids and of their baseline
        beside = 1 + (0 if smooth else attribution.proof(spec, options)) + 2 * self.ways.embeds
        return Passes(noisy * cost.forward + beside, noisy * cost.backward)

    def fixed_cost(self) -> Passes | None:
        """Passes of one sample, if they do not depend on its shape and so are known before any batch (law 7)."""
        if not isinstance(self.ways.method, str) or self.ways.method == "occlusion":
            return None
        one, two = (self._cost((n,), n) for n in (1, 2))
        return one if one == two else None

    def explained(self, network: nn.Module, steps: Steps | None = None) -> Explained:
        """The network and the scalar to explain, as captum sees them; with ``steps``, each pass is announced."""
        target = self.ways.target
        return Explained(
            network,
            task=self.task,
            kind=self.ways.spec.kind if self.ways.spec else "margin",
            probabilities=self.ways.outputs.space == "probabilities",
            signature=self.arguments.signature,
            embedding=self.module(network, "embedding") if self.ways.embeds else None,
            output=target if isinstance(target, int) else None,
            output_key=self.ways.output_key,
            writes=self.writes,
            **({} if steps is None else {"passing": steps.passing}),
        )

    def guarded(self, pl_module: LightningModule) -> AbstractContextManager[None]:
        """A context in which the module may be explained, and which leaves it as it was."""
        context = pl_module.trainer.precision_plugin.forward_context() if self.ways.autocast else None
        return explaining(pl_module, seed=self.ways.seed, precision=context)
