"""Group fairness at every validation, counted over the whole validation set."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._fairness.asked import ask
from xai_lightning.callbacks._fairness.counted import CountingMonitor
from xai_lightning.callbacks._fairness.counting import Counting
from xai_lightning.callbacks._fairness.flips import Flip
from xai_lightning.callbacks._fairness.individual import Individuals
from xai_lightning.callbacks._fairness.judging import Judging
from xai_lightning.callbacks._fairness.spending import Spending
from xai_lightning.callbacks._kinds import other_than_default
from xai_lightning.callbacks._record import OnError
from xai_lightning.callbacks._settings import check_arguments
from xai_lightning.functional.fairness import REPLICATES, Metric, Strata
from xai_lightning.readers import Column, GroupSource, Outputs, Reader, Space, Table, WeightSource
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink


class FairnessMonitor(CountingMonitor):
    """Counts outcomes by group over the whole validation set, and logs rates, metrics and their confidence limits.

    Logs ``fairness/<attribute>/<metric>/{value,lower,upper,bound}``, ``utility/balanced_accuracy/{value,bound,chance}``
    (``utility/r2/…`` for regression) and ``count/<attribute>/missing_share`` through ``self.log`` on every rank, with
    equal values; ``rate/<attribute>/<rate>/<group>``, ``count/<attribute>/<group>`` and pictures of rates and
    calibration on rank zero. ``lower`` and ``upper`` are a 95 % interval for watching; ``bound`` is the one-sided
    limit at the error that this validation may spend, for gating. Costs no forward or backward pass, unless ``flips``
    asks for some: rows sent forward are logged as ``xai/fairness/forward_passes``.

    A group that lacks the samples for a rate makes the metrics of that rate NaN, a class without samples makes the
    balanced accuracy NaN (which a warning says once), and a non-finite prediction makes all of them NaN: undefined is
    never fair. Definitions: `xai_lightning.functional.fairness` and ``docs/metrics.md``.

    Args:
        groups: attribute to its groups: a list of names (matches strings, and integers as positions), a dict from code
            to name, `Bins` of a number, or ``"discover"`` for the values met in the first real validation. None, NaN
            and -1 count as ``missing``.
        groups_from: where to find an attribute if no entry of the batch has its name: `Column`, `Table`, a callable of
            the batch, or a mapping from attribute to these.
        metrics: names from `xai_lightning.functional.fairness.METRICS`; by default the usual ones for the kind of
            outputs, which ``docs/fairness.md`` lists.
        own_metrics: further metrics by name, see `xai_lightning.functional.fairness.Metric`.
        reader: how to read a batch, see `xai_lightning.readers.read`.
        network: submodule whose output holds the predictions if the step returns none; not one that is called from
            compiled code, where hooks do not run.
        outputs: space of the outputs: ``"logits"``, ``"probabilities"``, ``"labels"``, or ``"values"`` for regression.
        output_key: which tensor holds the predictions if there are several: its name among what the step returned, else
            its key, field, attribute or position among what the network returned.
        threshold: value above which a single output means the positive class, in the space of ``outputs``; default 0
            for logits, 0.5 for probabilities.
        n_classes: number of classes, for ``outputs="labels"``.
        positive_class: the class whose prediction is the favourable decision; by default 1 if there are two classes.
        multi_label: treat each output as a label by itself; metrics are those of the worst label.
        weights: sample weights: name of a batch entry, `Column`, `Table` or a callable. ``utility/…`` and ``count/…``
            remain unweighted. Refused with ``multi_label=True``.
        intersections: 2 to compare the groups of every pair of attributes as well, as ``race+sex``.
        given: attribute to a legitimate one, to compare the first within the groups of the second as well, as
            ``sex|job``.
        strata: which of the comparisons within groups that ``given`` asks for to log: the ``"worst"``, or their
            ``"mean"`` weighted by size.
        max_groups: the most groups that may be discovered per attribute declared as ``"discover"``.
        flips: attribute to its `Column` of the input, or to a callable that makes the inputs for its other values: logs
            how many decisions another value would change. Costs one forward pass of a sample of rows per value.
        consistency_features: columns of the input table that define which samples are similar: logs how similarly those
            are treated.
        exact: use limits that hold at any sample size, but are wider.
        replicates: number of bootstrap replicates for metrics without a closed form.
        delta: error probability shared by all bounds of one ``fit``.
        horizon: number of validations that share ``delta``; by default derived from the Trainer's limits; if it has
            none, validation t may spend ``6 delta / (pi t)^2``.
        undeclared: how to treat an undeclared group value: as an ``"error"``, or as ``"unknown"``, which is counted.
        dataloader_idx: index of the validation loader to observe.
        pictures: whether to draw rates and calibration.
        custom_scalars: whether to lay out TensorBoard margin charts of value, lower and upper.
        name: prefix of everything it logs, to tell two such monitors apart.
        on_error: on a failure, ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers of what is logged, besides the Trainer's loggers.

    Raises:
        ValueError: on an invalid setting; lists the valid ones.

    Example:
        >>> monitor = FairnessMonitor({"sex": ["Female", "Male"]})
    """

    def __init__(
        self,
        groups: Mapping[str, Declared],
        *,
        # jsonargparse tries in this order; a mapping first would take YAML's class_path for an attribute (trap 58)
        groups_from: Column | Table | Mapping[str, GroupSource] | Callable[[Any], Any] | None = None,
        metrics: Sequence[str] | None = None,
        own_metrics: Mapping[str, Metric] | None = None,
        reader: Reader | None = None,
        network: str | None = None,
        outputs: Space = "logits",
        output_key: int | str | None = None,
        threshold: float | None = None,
        n_classes: int | None = None,
        positive_class: int | None = None,
        multi_label: bool = False,
        weights: WeightSource | None = None,
        intersections: int = 1,
        given: Mapping[str, str] | None = None,
        strata: Strata = "worst",
        max_groups: int = 16,
        flips: Mapping[str, Flip] | None = None,
        consistency_features: list[int] | None = None,
        exact: bool = False,
        replicates: int = REPLICATES,
        delta: float = 0.05,
        horizon: int | None = None,
        undeclared: Literal["error", "unknown"] = "error",
        dataloader_idx: int = 0,
        pictures: bool = True,
        custom_scalars: bool = False,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        check_arguments(locals())
        self._settings = other_than_default(FairnessMonitor.__init__, locals())
        _check_attributes(groups)
        asked = ask(
            metrics,
            own_metrics,
            outputs,
            multi_label=multi_label,
            exact=exact,
            replicates=replicates,
            weighted=weights is not None,
            given=given,
            intersections=intersections,
            strata=strata,
        )
        _check_given(asked.given, groups)
        batches = Batches(
            reader,
            groups,
            groups_from,
            undeclared,
            max_groups=max_groups,
            intersections=2 if intersections == 2 else list(asked.given.items()) or None,
            weights=weights,
        )
        judging = Judging(
            Outputs.of(outputs, threshold),
            asked,
            n_classes=n_classes,
            positive_class=positive_class,
            multi_label=multi_label,
            network=network,
            output_key=output_key,
        )
        identity = {"groups": groups, "outputs": outputs, "positive_class": positive_class, "network": network}
        identity |= {} if output_key is None else {"output_key": output_key}
        reads: dict[str, object] = {"network": network, "outputs": outputs, "output_key": output_key, "reader": reader}
        reads |= {"threshold": judging.how.threshold, "n_classes": n_classes, "dataloader_idx": dataloader_idx}
        super().__init__(
            Counting(asked, batches, judging),
            _individuals(batches, judging, flips, consistency_features),
            Spending(delta, horizon),
            identity=identity,
            reads=reads,
            network=network,
            pictures=pictures,
            custom_scalars=custom_scalars,
            name=name,
            dataloader_idx=dataloader_idx,
            on_error=on_error,
            sinks=sinks,
        )
        self.metrics, self.positive_class = list(asked.metrics), positive_class


def _check_attributes(groups: object) -> None:
    if not isinstance(groups, Mapping) or not groups:
        raise ValueError(
            f"groups must declare at least one attribute, such as {{'sex': ['Female', 'Male']}}; got {groups!r}"
        )
    barred = [attribute for attribute in groups if "|" in attribute]
    if barred:
        raise ValueError(f"an attribute's name must not contain '|', which given= uses in names; got {barred[0]!r}")


def _check_given(given: Mapping[str, str], groups: Mapping[str, Declared]) -> None:
    for attribute, other in given.items():
        for name in (attribute, other):
            if name not in groups:
                raise ValueError(
                    f"given={dict(given)!r} names {name!r}, which is not among the attributes {list(groups)}; declare "
                    "it in groups"
                )
        if attribute == other:
            raise ValueError(f"given must name another attribute for {attribute!r}; got itself")


def _individuals(
    batches: Batches, judging: Judging, flips: Mapping[str, Flip] | None, features: Sequence[int] | None
) -> Individuals | None:
    if not flips and features is None:
        return None
    if judging.numbers or judging.multi_label:
        got = "multi_label=True" if judging.multi_label else f"outputs={judging.how.space!r}"
        raise ValueError(f"flips and consistency_features need a single class per sample; got {got}")
    vocabularies = batches.vocabularies
    chosen = None if features is None else list(features)
    return Individuals(
        flips or {},
        vocabularies,
        judging.how,
        consistency_features=chosen,
        n_classes=judging.n_classes,
        output_key=judging.output_key,
    )
