"""Attributions of a fixed set of samples, and how far they drift."""

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
from xai_lightning.callbacks._attribution.ways import LAYOUTS, Target, Ways, resolve_method
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


class AttributionMonitor(ExplainingMonitor):
    """Explains the same validation samples at every validation, and logs how far the explanations moved.

    These samples, the probe, are drawn at the first validation: from each stratum (class x group) those whose inputs
    have the smallest seeded hashes, so that the draw does not depend on order, batching or ranks. Logs
    ``drift/<method>/<measure>/<reference>/{mean,lower,upper,median,p90}``, ``attribution/<method>/sensitive_share`` and
    ``xai/<method>/…`` through ``self.log`` on every rank, with equal values; on rank zero also pictures, and
    ``importance/<method>/<feature>`` with its interval, from a fresh sample of each validation. Each rank explains its
    own share. The cost in passes is announced once and logged as ``xai/<method>/{forward_passes,backward_passes}``, in
    rows over all ranks, without the trial on the first batch. ``validate`` and ``test`` log no drift. Definitions:
    `xai_lightning.functional.attribution` and `xai_lightning.functional.drift`.

    Args:
        method: a name from `xai_lightning.functional.attribution.METHODS`, or a callable (or its dotted path), see
            ``attribute`` there.
        features: names of a table's variables: each name to a column, several columns, or a slice.
        sensitive: names of variables whose share of the attribution is logged.
        proxies: names of variables that stand in for sensitive ones; their share is logged separately.
        groups: as in `FairnessMonitor`: the probe is drawn from each group, and drift and attribution are compared
            between groups; samples given as ``probe`` must come with their groups. An undeclared value is ``unknown``.
        groups_from: where to find an attribute if no entry of the batch has its name, as in `FairnessMonitor`.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: the submodule to explain; default the LightningModule if it overrides ``forward``, else its only child.
        task: ``"classification"``, ``"multilabel"``, ``"segmentation"`` (targets ``[N, H, W]``) or ``"regression"``.
        target: which class to explain: each sample's ``"label"``, its ``"reference_prediction"`` (made at the first
            validation and kept), its ``"predicted"`` class at each validation, or a class number. For a regression with
            several outputs, the number of one; for ``"multilabel"`` and ``"segmentation"`` always a number.
        baseline: what stands for "absent": a number, one of ``zero``, ``mean``, ``background``, ``blur``, ``uniform``,
            ``pad``, or a tensor that broadcasts to one input (several rows: a background); a list gives one for each
            input. Default: padding for token ids, ``background`` for methods that take values from other rows, else 0.
            See `xai_lightning.functional.attribution.baselines`.
        inputs: names of batch entries to explain in addition to the first input.
        layer: name, within the network, of the layer that some methods explain or look through.
        smooth: ``"smoothgrad"``, ``"smoothgrad_sq"`` or ``"vargrad"``: mean, mean square or variance of attributions
            over noisy copies of the input.
        embedding: name, within the network, of the module that embeds token ids.
        pad_token: id of the padding token, which is left out of explanations and is the default baseline of token ids.
        pad_to: length to which token ids, and what goes along with them, are padded on the right for explanations only,
            if a collator pads each batch to its longest text; the network must ignore padding.
        special_tokens: further ids to leave out of explanations and keep in baselines.
        layout: axes of series: channels first (``"NCT"``), or time first (``"NTC"``).
        regions: name to a region whose share of the attribution is logged: edges ``(top, left, bottom, right)`` or
            ``(begin, end)``, a mask, or the name of a batch entry that holds a mask for each sample. For an input other
            than the first, a pair: the input's name, and the region in it.
        outputs: space of the network's outputs, ``"logits"`` or ``"probabilities"``.
        output_key: which tensor to explain if the network returns several: its key, field or attribute, or its
            position; default the one called ``logits``, ``preds``, ``probs``, ``y_hat`` or ``out``, else the first.
        options: further arguments of captum's ``attribute``, such as ``{"n_steps": 20}``.
        probe: a batch, dataset or loader to explain instead of drawn samples.
        probe_size: how many samples to draw, split equally among the strata; default 128, or 32 if a sample has 10,000
            numbers or more.
        sample_size: how many fresh samples to draw at each validation, for the global importance of variables or of
            image positions; default half the probe's size; with 0, importance is computed on the probe. Processes
            share these samples, as they share the probe; if one of them cannot foresee its last batch, each explains
            up to this many.
        measures: names from `xai_lightning.functional.drift.MEASURES`, for images also from ``IMAGE_MEASURES``; default
            all.
        references: some of ``"first"``, ``"previous"`` and ``"best"``; default all, ``"best"`` only with ``best_of``.
        best_of: a logged metric and ``"min"`` or ``"max"``, such as ``("val_loss", "min")``: ``best`` is the earlier
            validation where this metric was best.
        reference_after: number of the validation that serves as ``first``.
        noise_every: for stochastic methods: explain with other seeds as well at every n-th explained validation, to
            estimate the noise.
        every_n_validations: explain at every n-th validation, starting with the first.
        max_overhead: skip validations so that explaining and drawing take at most this share of the time; what is
            recorded then depends on the clock.
        pictures: whether to draw pictures.
        log_inputs: whether pictures may show the inputs themselves.
        words: maps token ids to words for pictures: a callable of one id, such as a tokenizer's
            ``convert_ids_to_tokens``, a list or a dict.
        seed: seed of the sample draws and of stochastic methods.
        autocast: explain under the Trainer's mixed precision instead of float32.
        dataloader_idx: index of the validation loader to observe.
        name: prefix of everything it logs, to tell two such monitors apart.
        on_error: on a failure, ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers of what is logged, besides the Trainer's loggers.

    Raises:
        ValueError: on an unknown method, option, measure or reference; names the nearest and lists the known ones.
        TypeError: if the seed is not an integer.
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
