"""Individual fairness in a validation: decisions under other values of an attribute, consistency among neighbours."""

import copy
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from xai_lightning import tags
from xai_lightning._lightning import Trainer, rank_zero_warn
from xai_lightning.callbacks._arguments import Arguments
from xai_lightning.callbacks._draw import HASHED, row_hash
from xai_lightning.callbacks._fairness.flips import COLUMNS, Answer, Flip, changed, check_flip, compared, favour
from xai_lightning.callbacks._guard import explaining
from xai_lightning.callbacks._sketch import Held, Sketch, nothing
from xai_lightning.callbacks._trainer import summed
from xai_lightning.functional.attribution import Explained
from xai_lightning.functional.fairness.individual import consistency
from xai_lightning.functional.intervals import wilson_of
from xai_lightning.functional.rng import isolated
from xai_lightning.functional.tables import choose
from xai_lightning.readers import Column, Outputs, Sample, Vocabulary, check_space, decide
from xai_lightning.readers.batch import describe
from xai_lightning.readers.predictions import Decision

FLIP_RATE, SCORE_CHANGE = "flip_rate", "flip_score_change"
CONSISTENCY = {part: tags.individual("consistency", part) for part in ("value", "rows")}
PASSES = tags.xai("fairness", "forward_passes")
WATCHED, UNMOVED = 0.025, 2


class Question(NamedTuple):
    """What the network is asked about one batch.

    Args:
        explained: the network.
        batch: the batch as the loader gave it.
        inputs: the network's arguments.
        positive: the favourable class.
    """

    explained: Explained
    batch: Any
    inputs: list[Tensor]
    positive: int


class Gathered(NamedTuple):
    """The results of all ranks.

    Args:
        effects: inputs whose attributes were changed, with `COLUMNS` for each attribute.
        likes: features of inputs and whether their decision was favourable; None if not requested.
        passes: number of rows in forward passes.
    """

    effects: Held
    likes: Held | None
    passes: int


class Tally(NamedTuple):
    """Number of rows whose decision changed, number of rows examined, and whether every output was finite."""

    flipped: int
    rows: int
    finite: bool


class Individuals:
    """Counts, in each validation, how many decisions another value of an attribute would change; compares neighbours.

    Rows are drawn by a hash of their bits: the same rows in each validation, in any order, batching and number of
    ranks. Only numbers are kept about them, never inputs: a row goes through the network when it enters the draw, once
    unchanged and once with each other value. Of N rows, about ``flip_samples (1 + ln(N / flip_samples))`` enter. The
    network runs as for an explanation: in evaluation mode, in its own precision without autocast, leaving no trace.

    Logs ``fairness/<attribute>/flip_rate/{value,lower,upper,bound}``, ``individual/consistency/{value,rows}`` and
    ``xai/fairness/forward_passes`` as shared names, and ``rate/<attribute>/flip_score_change/{signed,absolute}``: the
    mean change in the score of the favourable class, over rows and other values.

    Args:
        flips: how to change each attribute: a `Column` of a network input that holds the codes of the declared groups,
            or the columns of their one-hot code; or a callable from inputs ``[N, ...]`` to a list of the inputs with
            each other value.
        vocabularies: declared groups by attribute.
        how: space and threshold of the network's outputs.
        flip_samples: number of distinct inputs that are changed.
        consistency_features: columns of the first input, a table, by which rows are compared; None: no comparison.
        consistency_samples: number of rows that are compared.
        n_classes: number of classes, for outputs that are labels.
        output_key: which of several tensors to take from the network's output.
        seed: selects the draws.

    Raises:
        ValueError: on an invalid setting.
        TypeError: if ``flips`` is not a mapping.
    """

    def __init__(
        self,
        flips: Mapping[str, Flip],
        vocabularies: Mapping[str, Vocabulary],
        how: Outputs,
        *,
        flip_samples: int = 1024,
        consistency_features: slice | Sequence[int] | None = None,
        consistency_samples: int = 2000,
        n_classes: int | None = None,
        output_key: int | str | None = None,
        seed: int = 0,
    ) -> None:
        for option, size in (("flip_samples", flip_samples), ("consistency_samples", consistency_samples)):
            if size < 1:
                raise ValueError(f"{option}, a number of rows, must be at least 1; got {size!r}")
        if not isinstance(flips, Mapping):
            raise TypeError(f"flips must map attributes to a Column or a callable; got {flips!r}")
        self.flips = {choose("attribute", name, vocabularies): flip for name, flip in flips.items()}
        self._vocabularies, self._how, self._n_classes, self._seed = dict(vocabularies), how, n_classes, seed
        for attribute, flip in self.flips.items():
            check_flip(attribute, flip, self._vocabularies[attribute])
        self._features = f if (f := consistency_features) is None or isinstance(f, slice) else list(f)
        self._effects, self._likes = Sketch(flip_samples), Sketch(consistency_samples)
        self._passes, self._checked, self._output_key = 0, False, output_key
        self._unmoved = dict.fromkeys(self.flips, 0)
        self._told: set[str] = set()
        self.tallies: dict[str, Tally] = {}

    def names(self) -> tuple[list[str], list[str]]:
        """The names that it logs: the shared ones, and those that go to the loggers directly."""
        shared = [tags.fairness(a, FLIP_RATE, part) for a in self.flips for part in tags.ESTIMATE_PARTS]
        shared += [PASSES] * bool(self.flips)
        shared += list(CONSISTENCY.values()) if self._features is not None else []
        scored = self.flips if self._how.space != "labels" else ()
        return shared, [tags.rate(a, SCORE_CHANGE, part) for a in scored for part in ("signed", "absolute")]

    @property
    def passes_per_row(self) -> int | None:
        """Forward passes per row, known before any batch; None if a callable determines the number of values."""
        if not all(isinstance(flip, Column) for flip in self.flips.values()):
            return None
        return bool(self.flips) + sum(len(self._vocabularies[a].names) - 1 for a in self.flips)

    def elsewhere(self) -> "Individuals":
        """A copy with the same settings that has seen no rows yet, for use on other rows."""
        found = copy.copy(self)
        found._effects, found._likes = Sketch(self._effects.quota), Sketch(self._likes.quota)
        found._unmoved, found._told, found.tallies = dict.fromkeys(self.flips, 0), set(self.flips), {}
        found._passes, found._checked = 0, False
        return found

    def open(self) -> None:
        """Begin a validation."""
        self._effects.clear()
        self._likes.clear()
        self._passes, self._checked = 0, False

    def after(
        self,
        pl_module: nn.Module,
        network: nn.Module | None,
        batch: Any,
        *,
        sample: Sample,
        real: Tensor,
        decision: Decision,
        positive: int,
    ) -> None:
        """Consider a batch.

        Args:
            pl_module: the outermost module.
            network: the module that maps inputs to outputs; may be None if no attribute is changed.
            batch: the batch as the loader gave it.
            sample: the sample read from it.
            real: ``bool[N]``, which rows are not padding.
            decision: the predictions of the user's own step.
            positive: the favourable class.

        Raises:
            ValueError: if the batch does not match the settings.
        """
        where = real.cpu().nonzero().flatten()
        if len(where) == 0 or not (self.flips or self._features is not None):
            return
        arguments = Arguments() if network is None else Arguments.of(network, sample, ())
        inputs = [sample.inputs, *(sample.further.values() if network is None else arguments.columns(sample))]
        hashes = row_hash(inputs, self._seed, HASHED).cpu()[where]
        if self._features is not None:
            self._likes.offer(hashes, lambda index: self._like(sample, decision, positive, where[index]))
        if not self.flips:
            return
        if network is None:
            raise ValueError(f"flips of {', '.join(self.flips)} need the network; name it with network=... (got None)")
        explained = Explained(network, signature=arguments.signature, output_key=self._output_key, writes=True)
        ask = Question(explained, batch, inputs, positive)
        self._effects.offer(hashes, lambda index: self._effect(pl_module, ask, where[index]))

    def _like(self, sample: Sample, decision: Decision, positive: int, index: Tensor) -> Tensor:
        """Features and decision of the rows at ``index``."""
        table = sample.inputs
        if table.ndim != 2:
            raise ValueError(
                f"consistency_features are columns, so inputs must be a table [N, D]; got {describe(table)}"
            )
        features = table[index.to(table.device)][:, self._features].cpu().double()
        where = index.to(decision.classes.device)
        favoured = (decision.classes[where] == positive).cpu().double()
        favoured = torch.where(decision.finite[where].cpu(), favoured, torch.nan)
        return torch.cat([features, favoured[:, None]], dim=1)

    def _effect(self, pl_module: nn.Module, ask: Question, index: Tensor) -> Tensor:
        """`COLUMNS` for each attribute and the rows at ``index``; leaves no trace on the network."""
        with explaining(pl_module, seed=self._seed), torch.no_grad():
            rows = [x[index.to(x.device)] for x in ask.inputs]
            own = self._answer(ask, rows)
            found = []
            for attribute, flip in self.flips.items():
                grouped, others = changed(flip, self._vocabularies[attribute], ask.batch, ask.inputs, rows)
                found.append(compared(grouped, own, [self._answer(ask, each) for each in others]))
        self._passes += ask.explained.rows
        return torch.cat(found, dim=1).cpu()

    def _answer(self, ask: Question, rows: Sequence[Tensor]) -> Answer:
        # a network that draws random numbers in forward draws the same ones for every value
        with isolated(self._seed):
            outputs = ask.explained.outputs(*rows)
        if not self._checked:
            check_space(outputs, self._how.space)
            self._checked = True
        decision = decide(outputs, self._how, n_classes=self._n_classes)
        return Answer(outputs, decision, favour(outputs, self._how, ask.positive, decision.classes))

    def alone(self) -> Gathered:
        """The results of this rank."""
        likes = None if self._features is None else self._likes.held or nothing(0)
        return Gathered(self._effects.held or nothing(0), likes, self._passes)

    def gather(self, trainer: Trainer) -> Gathered:
        """Combine all ranks and forget the rows: a collective of fixed shapes, which every rank must call."""
        passes = int(summed(trainer, torch.tensor(self._passes, device="cpu"), "sum"))
        effects = self._effects.gather(trainer) if self.flips else nothing(0)
        likes = self._likes.gather(trainer) if self._features is not None else None
        self.open()
        return Gathered(effects, likes, passes)

    def conclude(self, gathered: Gathered, error: float) -> dict[str, float]:
        """All numbers by name; ``bound`` is the upper limit at the one-sided ``error``."""
        effects, likes, passes = gathered
        # there are no columns if no rank has seen a row
        effects = effects if effects.columns.shape[1] else nothing(len(COLUMNS) * len(self.flips))
        found: dict[str, float] = {PASSES: float(passes)} if self.flips else {}
        blocks = torch.split(effects.columns, len(COLUMNS), dim=1) if self.flips else ()
        for attribute, columns in zip(self.flips, blocks, strict=True):
            found |= self._concluded(attribute, effects._replace(columns=columns), error)
        if likes is not None:
            rows = likes.columns[likes.rows(self._likes.quota)]
            value = float(consistency(rows[:, :-1], rows[:, -1])) if len(rows) else math.nan
            found |= {CONSISTENCY["value"]: value, CONSISTENCY["rows"]: float(len(rows))}
        return found

    def _concluded(self, attribute: str, held: Held, error: float) -> dict[str, float]:
        columns = dict(zip(COLUMNS, held.columns.unbind(dim=1), strict=True))
        weights = torch.where(columns["grouped"] == 1, held.weights, 0)
        defined = not bool(columns["flipped"][weights > 0].isnan().any())
        flipped = int((weights * columns["flipped"].nan_to_num()).sum())
        tally = self.tallies[attribute] = Tally(flipped, int(weights.sum()), defined)
        estimate = dict.fromkeys(tags.ESTIMATE_PARTS, math.nan)
        if defined and tally.rows:
            value = flipped / tally.rows
            (lower, upper), (_, bound) = (_limits(value, weights, held.complete, e) for e in (WATCHED, error))
            estimate = {"value": value, "lower": lower, "upper": upper, "bound": bound}
            self._tell(attribute, moved=bool(columns["moved"][weights > 0].any()))
        found = {tags.fairness(attribute, FLIP_RATE, part): number for part, number in estimate.items()}
        for part in ("signed", "absolute") if self._how.space != "labels" else ():
            changes = (weights * columns[part])[weights > 0].sum() / weights.sum()
            found[tags.rate(attribute, SCORE_CHANGE, part)] = float(changes)
        return found

    def _tell(self, attribute: str, *, moved: bool) -> None:
        """Warn once if no output of the network depends on the attribute."""
        self._unmoved[attribute] = 0 if moved or self._how.space == "labels" else self._unmoved[attribute] + 1
        if self._unmoved[attribute] == UNMOVED and attribute not in self._told:
            self._told.add(attribute)
            rank_zero_warn(
                f"flip rate of {attribute!r}: in {UNMOVED} validations no output changed with its value, so the "
                "network does not use it as an input. That is fairness through unawareness, not fairness: other "
                "inputs can act as proxies, and groups may still be treated very differently. Look at the metrics "
                "between groups."
            )


def _limits(value: float, weights: Tensor, complete: bool, error: float) -> tuple[float, float]:
    """Wilson limits; sampled inputs that each stand for several rows count as fewer rows than they stand for."""
    total = weights.sum().double()
    worth = total if complete else total.square() / weights.square().sum()
    lower, upper = wilson_of(torch.tensor(value, dtype=torch.float64, device="cpu"), worth, error)
    return float(lower), float(upper)
