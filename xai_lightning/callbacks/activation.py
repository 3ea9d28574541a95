"""Statistics of layer outputs over the whole validation set: are the neurons alive?"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor
from typing_extensions import override

from xai_lightning import tags
from xai_lightning._lightning import LightningModule, Trainer, rank_zero_info, rank_zero_warn
from xai_lightning.callbacks._activation.expensive import Expensive
from xai_lightning.callbacks._activation.kernels import BestOf
from xai_lightning.callbacks._activation.layers import Layer, Pattern, find_layers, why_silent
from xai_lightning.callbacks._activation.names import Wanted
from xai_lightning.callbacks._activation.packed import elements_of, kept_of, rowless, unfit
from xai_lightning.callbacks._activation.record import recorded
from xai_lightning.callbacks._activation.running import Running, gathered
from xai_lightning.callbacks._batches import Batches
from xai_lightning.callbacks._draw import Share
from xai_lightning.callbacks._guard import Made, in_forward
from xai_lightning.callbacks._kinds import other_than_default
from xai_lightning.callbacks._monitor import Monitor
from xai_lightning.callbacks._positions import Positions
from xai_lightning.callbacks._record import Look, OnError, Record
from xai_lightning.callbacks._selection import Kept, Mask, both, mask_of
from xai_lightning.callbacks._settings import check_arguments, check_counts, check_seed
from xai_lightning.callbacks._sharded import unseen
from xai_lightning.callbacks._trainer import Stage, loader_of
from xai_lightning.functional.activation import Measured, fused
from xai_lightning.readers import Column, GroupSource, Reader, Table, read_inputs
from xai_lightning.readers.groups import Declared
from xai_lightning.sinks import Sink

# with `share` below 1, a sample's hash covers at most this many of its numbers
HASHED = 64


class ActivationMonitor(Monitor):
    """Statistics of the outputs of chosen modules, reduced in a hook while the user's own validation step runs.

    Logs ``activation_max/<statistic>`` (the worst layer; for signed statistics, the largest absolute value) through
    ``self.log`` on every rank, with equal values, and ``activation/<module>/<statistic>`` on rank zero, with a
    histogram per module if wanted. Hooks exist only during a step. Costs no forward or backward pass. Definitions:
    `xai_lightning.functional.activation.statistics`; besides these, ``rms_growth`` is the root mean square over that of
    the first validation (in ``fit`` only), and ``calls`` is how often each step called the module.

    With ``representation`` it also analyses how up to eight layers represent a fixed sample of rows, see `Expensive`.

    Args:
        layers: glob patterns of module names, and module types, such as ``["encoder.*.act", nn.ReLU]``; by default
            non-linearities and blocks (children of a container that have children of their own), at most 16. Modules
            inside torch's own transformer layers are left out unless named, since a hook there switches off their fused
            path, which changes the last bit of the validation metrics.
        statistics: ``"default"`` for those that one reduction yields; ``"cheap"`` for third and fourth moments,
            sparsity, saturation and histograms as well; or names of statistics, which may include ``"histogram"``.
        max_layers: the most layers to watch if ``layers`` is not given.
        share: share of the samples to observe, chosen by hash; above 0 and at most 1.
        mask: which elements are not padding: the name or position of a batch entry ``[N, T, ...]`` that is non-zero
            there, or a callable that computes one from the batch.
        reader: how to read a batch, for ``share`` below 1, ``representation``, or a distributed sampler that pads.
        seed: seed of the choice by ``share``, and of the rows sampled for ``representation``.
        representation: also analyse what layers represent: True for up to eight of the watched layers, evenly spaced,
            or patterns that choose them.
        probe_size: how many rows to sample for ``representation``, from 4 to 1,024.
        groups: attribute to its declared groups, as in `FairnessMonitor`; logs whether units encode the group beyond
            the class. Needs ``representation``.
        groups_from: where to find an attribute if no entry of the batch has its name, as in `FairnessMonitor`.
        best_of: a logged metric and ``"min"`` or ``"max"``, such as ``("val_loss", "min")``: also compute CKA with the
            earlier validation where this metric was best. Needs ``representation``.
        pictures: with ``representation``, whether to draw heat maps, CKA of all layers, histograms (if among the
            statistics), and top samples of the most selective units.
        log_inputs: whether pictures may show the inputs.
        dataloader_idx: index of the validation loader to observe.
        name: prefix of everything it logs, to tell two such monitors apart.
        on_error: on a failure, ``"warn"``, or ``"raise"`` to stop training.
        sinks: further receivers of what is logged, besides the Trainer's loggers.

    Raises:
        ValueError: if a number is out of range, a statistic is unknown, or a setting lacks ``representation``.
        TypeError: if the seed is not an integer.
        MisconfigurationException: in ``setup``, if a pattern matches no module, or one inside a compiled module.

    Example:
        >>> monitor = ActivationMonitor(["network.*"], statistics="cheap", share=0.25)
    """

    def __init__(
        self,
        layers: Sequence[Pattern] | None = None,
        *,
        statistics: str | Sequence[str] = "default",
        max_layers: int = 16,
        share: float = 1.0,
        mask: Mask | None = None,
        reader: Reader | None = None,
        seed: int = 0,
        representation: bool | Sequence[str] = False,
        probe_size: int = 256,
        groups: Mapping[str, Declared] | None = None,
        groups_from: Column | Table | Mapping[str, GroupSource] | Callable[[Any], Any] | None = None,
        best_of: BestOf | None = None,
        pictures: bool = True,
        log_inputs: bool = True,
        dataloader_idx: int = 0,
        name: str = "",
        on_error: OnError = "warn",
        sinks: Sequence[Sink] = (),
    ) -> None:
        check_arguments(locals())
        self._settings = other_than_default(ActivationMonitor.__init__, locals())
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1; got {share}")
        check_counts(max_layers=max_layers)
        check_seed(seed)
        if (groups or best_of) and not representation:
            raise ValueError(f"groups and best_of need representation=True; got {groups!r} and {best_of!r}")
        identity: dict[str, object] = {"layers": layers, "statistics": statistics, "share": share, "mask": mask}
        own = {"representation": representation, "probe_size": probe_size, "groups": groups} if representation else {}
        identity |= {"seed": seed, **own}
        super().__init__(
            "activation", identity, name=name, dataloader_idx=dataloader_idx, on_error=on_error, sinks=sinks
        )
        self.layers, self.max_layers, self.share, self.mask = layers, max_layers, share, mask
        self.reader, self.seed, self.statistics = reader, seed, statistics
        self._wanted = Wanted(statistics, also=["outlier_kurtosis"] if representation else [])
        self._expensive: Expensive | None = None
        if representation:
            self._expensive = Expensive(
                Batches(reader, groups or {}, groups_from, "error"),
                representation,
                size=probe_size,
                seed=seed,
                best_of=best_of,
                pictures=pictures,
                log_inputs=log_inputs,
            )
        # without these, nothing that is made in one step is used in another
        self._as_it_is = mask is None and reader is None and not representation
        self._reads_batches = share < 1 or mask is not None or bool(representation)
        self._layers: list[Layer] = []
        self._measured: list[Measured] = []
        self._reducing: list[Made] = []
        self._running, self._positions = Running(), Positions(None)
        self._draw = Share(share, seed, HASHED)
        self._keep: Kept | None = None
        self._first: dict[str, float] = {}
        self._told: set[str] = set()
        self._unreadable: set[str] = set()

    @override
    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_reducing": []}

    @override
    def logged_names(self, stage: Stage = "fit") -> tuple[list[str], list[str]]:
        fit = stage == "fit"
        direct = [tags.activation(x.name, own) for x in self._layers for own in self._wanted.direct(x, fit=fit)]
        shared = [tags.activation_max(statistic) for statistic in self._wanted.worst(self._layers, fit=fit)]
        more = ([], []) if self._expensive is None else self._expensive.names(fit=fit)
        return shared + more[0], direct + more[1]

    @override
    def _set_up(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._layers = find_layers(pl_module, self.layers, self.max_layers)
        self._measured, self._reducing = [self._wanted.measured(layer) for layer in self._layers], []
        unknown = [layer.name for layer in self._layers if layer.units is None]
        self._tell("have no known units; their statistics are over all elements", unknown)
        absent = self._wanted.absent(self._layers, alone=self._expensive is None)
        if absent and absent not in self._told:
            self._told.add(absent)
            rank_zero_info(f"ActivationMonitor watches no layer that has {absent}")
        if self._expensive is not None:
            worst, ridges = list(self._wanted.worst(self._layers, fit=True)), self._wanted.histogram
            self._expensive.set_up(pl_module, self._layers, worst, ridges=ridges, hidden=unseen(trainer))

    def _tell(self, what: str, names: Sequence[str]) -> None:
        """Warn about modules, once each."""
        new = [name for name in names if f"{name} {what}" not in self._told]
        self._told |= {f"{name} {what}" for name in new}
        if new:
            rank_zero_warn(f"ActivationMonitor: these modules {what}: {', '.join(new)}")

    @override
    def _open(self, trainer: Trainer, look: Look) -> None:
        if trainer.lightning_module.device.type == "cpu":
            # compile now rather than within a step
            _ = fused.kernels(), self.share < 1 and fused.row_kernels()
        self._running = Running(len(self._layers))
        self._positions = Positions(loader_of(trainer, self.dataloader_idx))
        if self._expensive is not None:
            self._expensive.open(trainer, self.dataloader_idx)

    @override
    def _at_a_step(self, action: Callable[..., Any], *args: Any) -> Any:
        return (self._attempt_in_a_hook if self._as_it_is else self._attempt)(action, *args)

    @override
    def _before(self, pl_module: LightningModule, batch: Any) -> None:
        mask = None if self.mask is None else mask_of(batch, self.mask)
        for layer in [] if self._expensive is None else self._expensive.before(batch):
            self._hooks.add(layer.of(pl_module), in_forward(self._represent, layer, mask))
        self._keep = self._kept(batch, mask)
        if not self._running.begin(self._keep):
            return
        if not self._reducing:
            hooks = map(partial(in_forward, self._add), self._layers, self._measured)
            self._reducing = [self._hooks.made(hook, self._attempt_as_it_is) for hook in hooks]
        for layer, made in zip(self._layers, self._reducing, strict=True):
            self._hooks.attach(layer.of(pl_module), made)

    def _kept(self, batch: Any, mask: Tensor | None) -> Kept | None:
        """The elements to observe: those of drawn samples that are not padded in, as far as the mask allows."""
        if self.share == 1 and not self._positions.pads:
            return None if mask is None else Kept(mask)
        inputs = read_inputs(batch, self.reader)
        drawn = None if self.share == 1 else self._draw.among(inputs)
        if not self._positions.pads:
            return drawn if drawn is None or mask is None else Kept(both(drawn.mask, mask))
        real = self._positions.advance(len(inputs)).to(inputs.device)
        return Kept(both(real if drawn is None else drawn.mask & real, mask))

    def _add(self, layer: Layer, measured: Measured, call: tuple[Any, ...]) -> None:
        h = self._readable(layer, call[-1])
        keep = None if self._keep is None else kept_of(self._keep, call[-1])
        if h is None or self._running.again(layer.name, h, keep):
            return
        h = h.reshape(1, 1) if h.ndim == 0 else h.unsqueeze(-1) if layer.units is None or h.ndim == 1 else h
        dim = h.ndim - 1 if layer.units is None else layer.unit_dim(h.ndim)
        keep = None if keep is None else keep.fitted(h.shape[:dim] + h.shape[dim + 1 :], h.device)
        if keep is None and self._keep is not None:
            self._tell(unfit(call[-1]), [layer.name])
        self._running.observe(layer.name, h, dim, keep, measured)

    def _represent(self, layer: Layer, mask: Tensor | None, call: tuple[Any, ...]) -> None:
        h = self._readable(layer, call[-1])
        if h is not None and self._expensive is not None and not self._expensive.keep(layer, h, mask, call):
            self._tell(rowless(call[-1]), [layer.name])

    def _readable(self, layer: Layer, output: Any) -> Tensor | None:
        h = elements_of(output)
        if h is None:
            self._unreadable.add(layer.name)
            self._tell("return no dense real tensor, so that NaN is logged", [layer.name])
        return h

    @override
    def _after(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any) -> None:
        if self._expensive is not None:
            self._expensive.representation.probe.after()

    @override
    def _close(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._running.close()
        if self._expensive is not None:
            self._expensive.weights.look(pl_module)

    @override
    def _gather(self, trainer: Trainer, pl_module: LightningModule) -> Any:
        merged, steps = gathered(trainer, self._running, [layer.name for layer in self._layers])
        called = {name for name, _ in merged} | self._unreadable
        silent = [why_silent(pl_module, layer.name) for layer in self._layers if layer.name not in called]
        more = None if self._expensive is None else self._expensive.gather(trainer)
        return merged, steps, silent, more

    @override
    def _conclude(self, trainer: Trainer, look: Look, gathered: Any) -> Record:
        merged, steps, silent, more = gathered
        record, found = recorded(self._layers, self._wanted, merged, steps, self._first, fit=look.stage == "fit")
        self._tell("were never called in a validation step, so that NaN is logged", silent if steps else [])
        if self._expensive is not None:
            self._expensive.conclude(record, look, more, found)
        return record

    @override
    def _save(self) -> dict[str, Any]:
        more = {} if self._expensive is None else {"expensive": self._expensive.state()}
        return {"first_rms": dict(self._first), **more}

    @override
    def _load(self, state: Mapping[str, Any]) -> None:
        self._first = dict(state.get("first_rms", {}))
        if self._expensive is not None and "expensive" in state:
            self._expensive.load(state["expensive"])

    # ranks roll back to the state that is saved
    _memory, _go_back = _save, _load

    @override
    def _end(self, trainer: Trainer) -> None:
        look = self._look
        if self._expensive is not None and look is not None and look.record is not None and look.failure is None:
            self._try("remember this validation", self._expensive.note, trainer, look)
        super()._end(trainer)

    @override
    def _after_training(self, trainer: Trainer) -> None:
        if self._expensive is not None and trainer.is_global_zero:
            last = self._try("make the closing pictures", self._expensive.at_end) or Record()
            self._show(trainer, last.renamed(partial(tags.within, self.name)), self._expensive.step)
