"""What an explaining monitor does within a validation: it learns from a batch, rehearses, and makes its passes."""

import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from typing_extensions import override

from xai_lightning._lightning import LightningModule, Trainer, rank_zero_info
from xai_lightning.callbacks._attribution.available import available
from xai_lightning.callbacks._attribution.explainer import Explainer
from xai_lightning.callbacks._attribution.explanation import Explaining, Explanation, by_chance
from xai_lightning.callbacks._attribution.history import History
from xai_lightning.callbacks._attribution.in_step import check_root, filled
from xai_lightning.callbacks._attribution.probe import Probe, gallery
from xai_lightning.callbacks._attribution.record import check_columns
from xai_lightning.callbacks._attribution.timed import TimedMonitor
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._progress import working
from xai_lightning.callbacks._record import Look
from xai_lightning.callbacks._sharded import Steps
from xai_lightning.callbacks._trainer import everywhere, loader_of, meet, resolve_network
from xai_lightning.functional.attribution import Passes


class PassingMonitor(TimedMonitor):
    """Explains this process's share of a probe and of a fresh sample at each validation.

    Args:
        explainer: explains samples.
        probe: draws the samples to explain.
        history: what was explained before.
        shares: see `AttributionMonitor`, as are all below.
        noise_every: likewise.
        sample_size: likewise.
        network: likewise.
        identity: the settings that distinguish it from others of its kind.
        max_overhead: see `AttributionMonitor`.
        common: further arguments of `Monitor`.
    """

    shares_out = True

    def __init__(
        self,
        explainer: Explainer,
        probe: Probe,
        history: History,
        *,
        shares: Mapping[str, Sequence[str]],
        noise_every: int,
        sample_size: int | None,
        network: str | None,
        identity: dict[str, object],
        max_overhead: float | None,
        **common: Any,
    ) -> None:
        self.method = explainer.ways.label
        super().__init__(self.method, identity, max_overhead, **common)
        self._explainer, self._probe, self._history, self._shares = explainer, probe, history, shares
        self.noise_every, self._sample_size, self.network = noise_every, sample_size, network
        self._explained: tuple[Rows, Explanation] | None = None
        self._sampled: tuple[Rows, Explanation] | None = None
        self._rehearsal: list[Rows] = []
        self._steps: Steps | None = None
        self._padding: Rows | None = None
        self._learned = self._told = False
        self._learned_of: weakref.ref[nn.Module] | None = None

    def __getstate__(self) -> dict[str, Any]:
        passing = dict.fromkeys(("_explained", "_sampled", "_learned_of", "_steps", "_padding"))
        return {**super().__getstate__(), **passing, "_rehearsal": []}

    @override
    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # without a sanity check, the first validation may be hours away
        self._tell_early(trainer)

    def _tell_early(self, trainer: Trainer) -> None:
        """Report the cost before any batch, if it depends neither on an input nor on a size fitted to it (law 7)."""
        cost = self._explainer.fixed_cost() if self._probe.strata.fitted and not self._learned else None
        if cost is not None:
            self._tell_cost(trainer, cost, self._probe.beside(self._sample_size))

    def _tell_cost(self, trainer: Trainer, cost: Passes, fresh: int) -> None:
        if self._told:
            return
        self._told, rows = True, available(trainer, self.dataloader_idx)
        probe, fresh = self._probe.among(rows), fresh if rows is None else min(fresh, rows)
        count, beside = probe + fresh, f" and {fresh} fresh ones" if fresh else ""
        again = (
            f"; with the reference, and at one in {self.noise_every} of them, at most {probe * cost.forward:,} and "
            f"{probe * cost.backward:,} more, with other seeds, to estimate the noise"
        )
        rank_zero_info(
            f"AttributionMonitor({self.method!r}) explains about {probe} samples{beside} at each validation, with at "
            f"most {count * cost.forward:,} forward and {count * cost.backward:,} backward passes "
            f"({cost.forward} and {cost.backward} per sample)" + again * by_chance(self._explainer)
        )

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        self._explained = self._sampled = None
        self._tell_early(trainer)
        loader = loader_of(trainer, self.dataloader_idx)
        self._probe.open(loader, look.number, draw=not look.sanity, anew=look.stage != "fit")

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        # before the user's step, in which a network may write into its input
        if not self._learned:
            self._learn(pl_module, batch)
        look = self._look
        if look is not None and look.batches == 0 and self._steps is not None:
            self._padding = self._probe.first(batch)
        if look is not None and look.batches == 0 and (look.sanity or not self._proved):
            given = self._probe.first_given(pl_module.trainer)
            self._rehearsal = [self._probe.first(batch), *([] if given is None else [given])]
        self._probe.see(batch)

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        # fail now if it cannot work (law 8); after the user's step, since that may break every explanation (trap 2)
        rehearsed, self._rehearsal = self._rehearsal, []
        if rehearsed:
            self._in_step(pl_module, lambda: [self._explain(pl_module, rows, gallery(1)) for rows in rehearsed])

    def _learn(self, pl_module: LightningModule, batch: Any) -> None:
        explainer, sample = self._explainer, self._probe.batches.sample(batch)
        if self._steps is not None:
            check_root(pl_module, resolve_network(pl_module, self.network))
        explainer.learn(pl_module, resolve_network(pl_module, self.network), sample)
        if self._steps is not None:
            # what fits into memory cannot be found by trying, since a pass that fails cannot be repeated
            explainer.at_once = min(explainer.at_once, explainer.numbers * len(sample))
        check_columns(explainer, self._shares, sample)
        self._probe.fit(self._sample_size)
        self._learned, self._learned_of = True, weakref.ref(resolve_network(pl_module, self.network))
        cost = explainer.cost()
        if cost is not None:
            self._tell_cost(pl_module.trainer, cost, self._probe.fresh.size)

    @override
    def _share_out(self, trainer: Trainer) -> None:
        self._share_learnt(trainer)
        self._probe.take_given(trainer)
        self._probe.share_out(trainer)

    def _share_learnt(self, trainer: Trainer) -> None:
        """Tell ranks that saw no batch, from one that did, what is logged and how much is explained."""
        knows = everywhere(trainer, torch.tensor(int(self._learned), device="cpu")).flatten().bool()
        if bool(knows.all()) or not bool(knows.any()):
            return
        teacher = int(knows.nonzero()[0])
        meet(trainer)
        learnt: Any = trainer.strategy.broadcast(self._explainer.learnt() if self._learned else None, src=teacher)
        if not self._learned:
            self._explainer.take_up(learnt)
            self._probe.fit(self._sample_size)
            self._learned = True

    @override
    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._in_step(pl_module, lambda: self._explain_all(trainer, pl_module))

    @override
    def _sit_out(self, pl_module: LightningModule) -> None:
        if self._steps is not None:
            self._steps.sit_out(pl_module)

    def _in_step(self, pl_module: LightningModule, action: Callable[[], Any]) -> None:
        if self._steps is None:
            action()
        else:
            self._steps.together(pl_module, action)

    def _explain_all(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._probe.provisional and self._learned:
            self._probe.take_given(trainer)
        rows, fresh = self._probe.rows(), self._probe.fresh.rows()
        # which candidates remain may be known only after the exchange with other ranks
        shown = torch.arange if self._probe.provisional else gallery
        self._explained = self._explain_share(pl_module, rows, shown, probe=True)
        known = None if fresh is None else self._probe.fresh.known(fresh)
        sampled = self._explain_share(pl_module, known, lambda n: gallery(0))
        self._sampled = None if fresh is None or sampled is None else (fresh, sampled[1])

    def _explain_share(
        self, pl_module: LightningModule, rows: Rows | None, shown: Callable[[int], Tensor], *, probe: bool = False
    ) -> tuple[Rows, Explanation] | None:
        """Explain this rank's rows, and with a sharded model as much padding as keeps it in step with the others."""
        every = rows if self._steps is None else filled(self._steps, self._explainer, rows, self._padding)
        if every is None:
            return None
        own = 0 if rows is None else len(rows.hashes)
        found = self._explain(pl_module, every, shown(own), probe=probe)
        return None if rows is None else (rows, found.first(own))

    def _explain(self, pl_module: LightningModule, rows: Rows, shown: Tensor, *, probe: bool = False) -> Explanation:
        ways, look = self._explainer.ways, self._look
        frozen = self._history.references.classes(rows.hashes, ways.target)
        fitting = look is not None and look.stage == "fit"
        again = probe and ways.draws and look is not None and fitting and self._replicates(look.number)
        network = resolve_network(pl_module, self.network)
        explaining = Explaining(self._explainer, pl_module, network, self._steps)
        cost = self._explainer.cost()
        total = None if cost is None else len(rows.hashes) * cost.forward * (1 + (again and by_chance(self._explainer)))
        with working(pl_module.trainer, f"{self.method}: explaining", total):
            return explaining.explain(rows, shown, seen=self._probe.seen, frozen=frozen, replicate=again)

    def _replicates(self, number: int) -> bool:
        """Whether to estimate the noise: with the reference, and at every ``noise_every``-th explained validation."""
        history = self._history
        return history.course.count % self.noise_every == 0 or history.begins(number)
