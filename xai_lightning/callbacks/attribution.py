"""What the model looks at, on a fixed probe, and whether that drifts."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

from torch import Tensor

from xai_lightning.callbacks._attribution.attributing import ExplainingMonitor
from xai_lightning.callbacks._attribution.baselines import Baselines
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.gallery import Gallery, Words
from xai_lightning.callbacks._attribution.probe import Probe
from xai_lightning.callbacks._attribution.references import REFERENCES
from xai_lightning.callbacks._attribution.regions import Region
from xai_lightning.callbacks._attribution.ways import Target, Ways, resolve_method
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._kinds import other_than_default
from xai_lightning.callbacks._record import OnError
from xai_lightning.callbacks._settings import (
    check_arguments,
    check_counts,
    check_measures,
    check_references,
    check_sample_size,
    check_seed,
    check_share,
    check_shares,
    check_target,
    check_tokens,
)
from xai_lightning.functional.attribution import SMOOTHS, Custom, Smooth, Task
from xai_lightning.functional.attribution.variables import Where
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Table
from xai_lightning.readers.groups import Declared
from xai_lightning.readers.padding import read_padded
from xai_lightning.sinks import Sink

TASKS = ("classification", "multilabel", "segmentation", "regression")
LAYOUTS = ("NCT", "NTC")


class AttributionMonitor(ExplainingMonitor):
    """Explains the same validation samples at every validation, and logs how far the explanations moved.

    The probe is drawn at the first validation: per stratum (class x group) the samples with the smallest seeded hash of
    their own input, which does not depend on order, batching or ranks. Logs
    ``drift/<method>/<measure>/<reference>/{mean,lower,upper,median,p90}``, ``attribution/<method>/sensitive_share`` and
    ``xai/<method>/…`` through ``self.log`` on every rank, equal on all; ``importance/<method>/<feature>`` with its
    interval, from a fresh sample of each validation, and the pictures on rank zero. Each rank explains its own share.
    The cost in passes is said once and logged, ``xai/<method>/{forward_passes,backward_passes}``, in rows over all
    ranks, without the trial on the first batch. Under ``validate`` and ``test`` there is no drift. Definitions:
    `xai_lightning.functional.attribution` and `xai_lightning.functional.drift`.

    Args:
        method: a name from `xai_lightning.functional.attribution.METHODS`, or a callable (or its dotted path), see
            ``attribute`` there.
        features: names of a table's variables: name to a column, columns, or a slice.
        sensitive: names of variables whose share of the attribution is logged.
        proxies: names of variables that stand in for sensitive ones; their share is logged beside.
        groups: as in `FairnessMonitor`: the probe is drawn from each, drift and attribution are compared between them;
            samples given as ``probe`` must come with theirs. A value that is not declared is ``unknown``.
        groups_from: where the attribute is, if no entry of the batch has its name, as in `FairnessMonitor`.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: the submodule to explain; default the LightningModule if it overrides ``forward``, else its only child.
        task: ``"classification"``, ``"multilabel"``, ``"segmentation"`` (targets ``[N, H, W]``) or ``"regression"``.
        target: which class is explained: each sample's ``"label"``, the ``"reference_prediction"`` (made at the first
            validation and kept), the ``"predicted"`` one of each validation, or a number; of a regression with several
            outputs the number of one; of labels or a segmentation always a number.
        baseline: what stands for "absent": a number, one of ``zero``, ``mean``, ``background``, ``blur``, ``uniform``,
            ``pad``, or a tensor that broadcasts to one input (several rows: a background); a list gives one for each
            input. Default: padding for token ids, else 0. See `xai_lightning.functional.attribution.baselines`.
        inputs: names of entries of the batch that are explained beside the first input.
        layer: name of the layer, within the network, of methods that need one.
        smooth: ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``: average over noisy copies of the input.
        embedding: name of the module that embeds token ids, within the network.
        pad_token: the id of padding, which is left out, and is the default baseline of token ids.
        pad_to: pads token ids, and what goes with them, on the right to so many tokens for explanations alone, where
            a collator pads each batch to its longest text; the network must not look at padding.
        special_tokens: further ids that are left out of explanations, and kept in baselines.
        layout: of series: channels first (``"NCT"``), or time first (``"NTC"``).
        regions: name to a region whose share of the attribution is logged: edges ``(top, left, bottom, right)`` or
            ``(begin, end)``, a mask, or the name of an entry of the batch that holds a mask for each sample. Of another
            input than the first, a pair: its name, and the region in it.
        outputs: space of the network's outputs, ``"logits"`` or ``"probabilities"``.
        output_key: which tensor is explained where the network returns several: its key, field or attribute, or its
            position; default the one called ``logits``, ``preds``, ``probs``, ``y_hat`` or ``out``, else the first.
        options: further arguments of captum's ``attribute``, such as ``{"n_steps": 20}``.
        probe: a batch, dataset or loader to explain instead of drawn samples.
        probe_size: how many samples to draw, an equal part from each stratum; default 128, and 32 where a sample has
            10,000 numbers or more.
        sample_size: how many fresh samples to draw at each validation, for the global importance of variables or of
            the places of an image; default half the probe's size; 0: none, importance is then the probe's. Several
            processes share them out, like the probe; where one may not know its last batch each explains as many.
        measures: names from `xai_lightning.functional.drift.MEASURES`, for images also from ``IMAGE_MEASURES``; default
            all.
        references: some of ``"first"``, ``"previous"`` and ``"best"``; default all that can be had.
        best_of: a logged metric and ``"min"`` or ``"max"``, such as ``("val_loss", "min")``: ``best`` is the earlier
            validation where it was best.
        reference_after: number of the validation that ``first`` means.
        noise_every: of a method that draws, explain by other seeds too at every so many validations, to know its noise.
        every_n_validations: explain at every n-th validation, beginning with the first.
        max_overhead: leave out validations so that explaining and drawing take at most this share of the time; then
            the record depends on the clock.
        pictures: whether to draw pictures.
        log_inputs: whether pictures may show the inputs themselves.
        words: of token ids, for pictures: a callable such as a tokenizer's ``convert_ids_to_tokens``, a list or a dict.
        seed: of the draw and of methods that draw.
        autocast: explain under the Trainer's mixed precision instead of float32.
        dataloader_idx: the validation loader it looks at.
        name: prefix of everything it logs, to tell two alike apart.
        on_error: ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers beside the Trainer's loggers.

    Raises:
        ValueError: on an unknown method, option, measure or reference; the nearest is named, the known ones are listed.
        TypeError: if the seed is no integer.
        ImportError: if the method needs a package that is not installed.

    Example:
        >>> monitor = AttributionMonitor("saliency", features={"age": 0, "job": slice(1, 9)}, sensitive=["age"])
    """

    def __init__(
        self,
        method: str | Custom = "integrated_gradients",
        *,
        features: Mapping[str, Where] | None = None,
        sensitive: Sequence[str] = (),
        proxies: Sequence[str] = (),
        groups: Mapping[str, Declared] | None = None,
        # jsonargparse tries in this order; a mapping first would take YAML's class_path for an attribute (trap 58)
        groups_from: Column | Table | Mapping[str, GroupSource] | Callable[[Any], Any] | None = None,
        reader: Reader | None = None,
        network: str | None = None,
        task: Task = "classification",
        target: Target = "label",
        baseline: float | str | Tensor | Sequence[Any] | None = None,
        inputs: Sequence[str] = (),
        layer: str | None = None,
        smooth: Smooth | None = None,
        embedding: str | None = None,
        pad_token: int = 0,
        pad_to: int | None = None,
        special_tokens: Sequence[int] = (),
        layout: Literal["NCT", "NTC"] = "NCT",
        regions: Mapping[str, Region] | None = None,
        outputs: Literal["logits", "probabilities"] = "logits",
        output_key: int | str | None = None,
        options: Mapping[str, Any] | None = None,
        probe: Any = None,
        probe_size: int | None = None,
        sample_size: int | None = None,
        measures: Sequence[str] | None = None,
        references: Sequence[str] | None = None,
        best_of: tuple[str, str] | None = None,
        reference_after: int = 1,
        noise_every: int = 5,
        every_n_validations: int = 1,
        max_overhead: float | None = None,
        pictures: bool = True,
        log_inputs: bool = True,
        words: Words | None = None,
        seed: int = 0,
        autocast: bool = False,
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        check_arguments(locals())
        self._settings = other_than_default(AttributionMonitor.__init__, locals())
        check_tokens(pad_token, special_tokens, words)
        options = dict(options or {})
        ways = Ways(
            resolve_method(method, options, smooth),
            options=options,
            task=choose("task", task, TASKS),
            outputs=Outputs.of(choose("output space", outputs, ("logits", "probabilities")), None),
            target=check_target(target),
            baseline=baseline,
            features=features,
            inputs=inputs,
            output_key=output_key,
            layer=layer,
            smooth=smooth if smooth is None else choose("smooth", smooth, SMOOTHS),
            embedding=embedding,
            pad_token=pad_token,
            special_tokens=special_tokens,
            time_first=choose("layout", layout, LAYOUTS) == "NTC",
            regions=regions or {},
            texts=pad_to is not None or words is not None,
            seed=check_seed(seed),
            autocast=autocast,
        )
        Baselines(ways).check()
        explainer, shares = Explainer(ways), check_shares(features, sensitive_share=sensitive, proxy_share=proxies)
        check_counts(reference_after=reference_after, every_n_validations=every_n_validations, noise_every=noise_every)
        check_counts(probe_size=probe_size, pad_to=pad_to)
        if pad_to is not None:
            reader = partial(read_padded, reader=reader, length=pad_to, pad_token=pad_token)
        batches = Batches(reader, groups or {}, groups_from, "unknown")
        super().__init__(
            explainer,
            Probe(batches, explainer, size=probe_size, given=probe, seed=seed),
            Gallery(ways.label, explainer, shares=shares, log_inputs=log_inputs, words=words),
            shares=shares,
            measures=check_measures(measures),
            references=check_references(references, best_of, REFERENCES),
            best_of=best_of,
            reference_after=reference_after,
            noise_every=noise_every,
            every_n_validations=every_n_validations,
            max_overhead=check_share(max_overhead),
            sample_size=check_sample_size(sample_size),
            pictures=pictures,
            network=network,
            seed=seed,
            identity=ways.identity(network),
            name=name,
            dataloader_idx=dataloader_idx,
            on_error=on_error,
            sinks=sinks,
        )
