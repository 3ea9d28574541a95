"""Fairness to individuals in a validation: decisions with another value of the attribute, and likes treated alike."""

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
WATCHED = 0.025
UNMOVED = 2


class Question(NamedTuple):
    """What one batch asks the network.

    Args:
        explained: the network.
        batch: as it came.
        inputs: what the network is called with.
        positive: the favourable class.
    """

    explained: Explained
    batch: Any
    inputs: list[Tensor]
    positive: int


class Gathered(NamedTuple):
    """What all ranks found.

    Args:
        effects: of inputs whose attributes were changed; `COLUMNS` for each attribute.
        likes: features of inputs, and whether the favourable decision was made; None if they were not asked for.
        passes: rows that were sent forward.
    """

    effects: Held
    likes: Held | None
    passes: int


class Tally(NamedTuple):
    """Rows whose decision changed, all that were looked at, and whether every output was finite."""

    flipped: int
    rows: int
    finite: bool


class Individuals:
    """Counts, in each validation, whose decision another value of an attribute would change, and compares neighbours.

    Rows are drawn by their own bits, the same in each validation, in any order, batching and number of ranks. Of a draw
    it keeps numbers, never inputs: a row is sent through the network, unchanged and with each other value, when it
    enters the draw. That takes one pass of the unchanged row and one for each other value; of N rows in all,
    ``flip_samples (1 + ln(N / flip_samples))`` enter. The network runs as it would explain: evaluation mode, its own
    precision without autocast, nothing left behind.

    Logs ``fairness/<attribute>/flip_rate/{value,lower,upper,bound}``, ``individual/consistency/{value,rows}`` and
    ``xai/fairness/forward_passes``, to be shared; and ``rate/<attribute>/flip_score_change/{signed,absolute}``: how the
    score of the favourable class changes, over rows and other values.

    Args:
        flips: attribute to how it is changed: a `Column` of an input of the network that holds the codes of the
            declared groups, or the columns of their one-hot code; or a callable from inputs ``[N, ...]`` to a list of
            the inputs with each other value.
        vocabularies: declared groups by attribute.
        how: space and threshold of the network's outputs.
        flip_samples: how many distinct inputs are changed.
        consistency_features: columns of the first input, a table, by which rows are compared; None: not at all.
        consistency_samples: how many rows are compared.
        n_classes: number of classes of outputs that are labels.
        output_key: which of several tensors that the network returns.
        seed: chooses the draws.

    Raises:
        ValueError: on a setting that cannot be.
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
                raise ValueError(f"{option} must be a number of rows of at least 1; got {size!r}")
        if not isinstance(flips, Mapping):
            raise TypeError(f"flips must map attributes to a Column or a callable; got {flips!r}")
        self.flips = {choose("attribute", name, vocabularies): flip for name, flip in flips.items()}
        self._vocabularies, self._how, self._n_classes, self._seed = dict(vocabularies), how, n_classes, seed
        self._output_key = output_key
        for attribute, flip in self.flips.items():
            check_flip(attribute, flip, self._vocabularies[attribute])
        chosen = consistency_features
        self._features = chosen if chosen is None or isinstance(chosen, slice) else list(chosen)
        self._effects, self._likes = Sketch(flip_samples), Sketch(consistency_samples)
        self._passes, self._checked = 0, False
        self._unmoved = dict.fromkeys(self.flips, 0)
        self._told: set[str] = set()
        self.tallies: dict[str, Tally] = {}

    def names(self) -> tuple[list[str], list[str]]:
        """Names that it logs: those to be shared, and those that go to the loggers directly."""
        shared = [tags.fairness(a, FLIP_RATE, part) for a in self.flips for part in tags.ESTIMATE_PARTS]
        shared += [PASSES] * bool(self.flips)
        shared += list(CONSISTENCY.values()) if self._features is not None else []
        scored = self.flips if self._how.space != "labels" else ()
        return shared, [tags.rate(a, SCORE_CHANGE, part) for a in scored for part in ("signed", "absolute")]

    @property
    def passes_per_row(self) -> int | None:
        """Passes that a row takes, known before any batch; None if a callable tells how many values there are."""
        if not all(isinstance(flip, Column) for flip in self.flips.values()):
            return None
        return bool(self.flips) + sum(len(self._vocabularies[a].names) - 1 for a in self.flips)

    def elsewhere(self) -> "Individuals":
        """The same for other rows, of which none was seen yet."""
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
            network: the module that maps inputs to outputs; None will do if no attribute is changed.
            batch: as it came.
            sample: as it was read.
            real: ``bool[N]``, rows that are not padding.
            decision: what was predicted, in the user's own step.
            positive: the favourable class.

        Raises:
            ValueError: if the batch is not what the settings say.
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
            raise ValueError(f"flips of {', '.join(self.flips)} need the network: name it with network=..., got None")
        explained = Explained(network, signature=arguments.signature, output_key=self._output_key, writes=True)
        ask = Question(explained, batch, inputs, positive)
        self._effects.offer(hashes, lambda index: self._effect(pl_module, ask, where[index]))

    def _like(self, sample: Sample, decision: Decision, positive: int, index: Tensor) -> Tensor:
        """Features and decision of the rows at ``index``."""
        table = sample.inputs
        if table.ndim != 2:
            raise ValueError(f"consistency_features are columns of a table [N, D]; got {describe(table)}")
        features = table[index.to(table.device)][:, self._features].cpu().double()
        where = index.to(decision.classes.device)
        favoured = (decision.classes[where] == positive).cpu().double()
        favoured = torch.where(decision.finite[where].cpu(), favoured, torch.nan)
        return torch.cat([features, favoured[:, None]], dim=1)

    def _effect(self, pl_module: nn.Module, ask: Question, index: Tensor) -> Tensor:
        """`COLUMNS` for each attribute of the rows at ``index``: none of the network is seen afterwards."""
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
        # a network that draws in forward draws the same for every value
        with isolated(self._seed):
            outputs = ask.explained.outputs(*rows)
        if not self._checked:
            check_space(outputs, self._how.space)
            self._checked = True
        decision = decide(outputs, self._how, n_classes=self._n_classes)
        return Answer(outputs, decision, favour(outputs, self._how, ask.positive, decision.classes))

    def alone(self) -> Gathered:
        """What this rank found."""
        effects, likes = (sketch.held or nothing(0) for sketch in (self._effects, self._likes))
        return Gathered(effects, likes if self._features is not None else None, self._passes)

    def gather(self, trainer: Trainer) -> Gathered:
        """Put the ranks together: fixed shapes, called by every rank alike; what was kept of rows is forgotten."""
        passes = int(summed(trainer, torch.tensor(self._passes, device="cpu"), "sum"))
        effects = self._effects.gather(trainer) if self.flips else nothing(0)
        likes = self._likes.gather(trainer) if self._features is not None else None
        self.open()
        return Gathered(effects, likes, passes)

    def conclude(self, gathered: Gathered, error: float) -> dict[str, float]:
        """Every name with its number; ``bound`` is the upper limit at the one-sided ``error``."""
        effects, likes, passes = gathered
        # no rank has seen a row: without columns
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
        """Warn once where nothing that the network returns depends on the attribute."""
        self._unmoved[attribute] = 0 if moved or self._how.space == "labels" else self._unmoved[attribute] + 1
        if self._unmoved[attribute] == UNMOVED and attribute not in self._told:
            self._told.add(attribute)
            rank_zero_warn(
                f"flip rate of {attribute!r}: in {UNMOVED} validations no output changed with its value, so it is no "
                "input of the network. That is fairness through unawareness, not fairness: other inputs can stand for "
                "the attribute, and its groups may be treated very differently. Look at the metrics between groups."
            )


def _limits(value: float, weights: Tensor, complete: bool, error: float) -> tuple[float, float]:
    """Wilson limits; drawn inputs that stand for several rows each are worth fewer rows than they stand for."""
    total = weights.sum().double()
    worth = total if complete else total.square() / weights.square().sum()
    lower, upper = wilson_of(torch.tensor(value, dtype=torch.float64, device="cpu"), worth, error)
    return float(lower), float(upper)
