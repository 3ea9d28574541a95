"""A ``ModelCheckpoint`` whose files carry their evidence, and hold the weights that were validated."""

import copy
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from xai_lightning._lightning import LightningModule, ModelCheckpoint, Trainer, TrainerFn, rank_zero_warn
from xai_lightning.callbacks import _evidence as evidence
from xai_lightning.callbacks._guard import checksum
from xai_lightning.callbacks._sharded import is_shard
from xai_lightning.callbacks._stopwatch import Stopwatch, timed
from xai_lightning.callbacks._trainer import is_last_batch, stage_of, summed

Fallback = Literal["none", "least_violation", "last"]
FALLBACKS = ("none", "least_violation", "last")
INFEASIBLE = "INFEASIBLE"
LAST_NOTE = "Written at the end of every validation, for resuming, whether the gate was open or not; never the best."
FALLBACK_NOTE = f"{INFEASIBLE}: this checkpoint passed nothing. It was kept because no checkpoint had passed the gate."
KEPT_STATE = (
    "best_k_models",
    "_best_path",
    "best_model_score",
    "current_score",
    "kth_best_model_path",
    "kth_value",
    "_last_checkpoint_saved",
    "_last_global_step_saved",
)


class NotKeptError(RuntimeError):
    """A file that must not be kept: other weights than were validated, or no evidence beside it.

    Args:
        message: which, and why.
        written: the path of a file that was written and removed again.
    """

    def __init__(self, message: str, written: str = "") -> None:
        super().__init__(message)
        self.written = written


Print = tuple[torch.dtype, int]


def fingerprint(state: Mapping[str, Any], loaded_as: Mapping[str, Print] | None = None) -> dict[str, Print]:
    """Type and a number for the content of each tensor of a state dict; shards' numbers add up to the whole's.

    Args:
        state: the tensors.
        loaded_as: prints of tensors of the module; each tensor is taken as it is once it is loaded there. Averages are
            kept in single precision where the module that was validated is in half.
    """
    tensors = {name: value for name, value in state.items() if isinstance(value, Tensor)}
    types = {name: dtype for name, (dtype, _) in (loaded_as or {}).items()}
    loaded = {name: value.to(types.get(name, value.dtype)) for name, value in tensors.items()}
    return {name: (value.dtype, checksum(value)) for name, value in loaded.items()}


def shards(state: Mapping[str, Any]) -> list[str]:
    """Names of the tensors of a state dict of which other ranks hold other parts."""
    return [name for name, value in state.items() if isinstance(value, Tensor) and is_shard(value)]


class StampedCheckpoint(ModelCheckpoint):
    """Writes files with evidence: those that are kept, the one for resuming, and a fallback while nothing passed.

    It saves when it is told to, and at no moment of Lightning's own (traps 36 and 37).

    Args:
        fallback: which file to keep while nothing has passed.
        options: of ``ModelCheckpoint``.
    """

    def __init__(self, *, fallback: Fallback = "none", **options: Any) -> None:
        self._best_path, self._missing = "", ""
        self._trainer: weakref.ref[Trainer] | None = None
        super().__init__(save_last=True, **options)
        self.fallback = fallback
        self._decision: dict[str, Any] = {}
        self._candidate: dict[str, Any] = {}
        self._validated: dict[str, Print] = {}
        self._parts: list[str] = []
        self._writing: dict[str, Any] | None = None
        self._complained = False
        self._watch = Stopwatch()

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hands each callback the module's own log, and with it the module (trap 56)
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {
            "_trainer": None
        }

    @property
    def best_model_path(self) -> str:
        """The best file that passed; empty if there is none, of which ``ckpt_path="best"`` then warns (trap 38)."""
        trainer = self._trainer() if self._trainer is not None else None
        asked = trainer is not None and trainer.state.status == "running"
        if asked and self._missing and not self._best_path:
            rank_zero_warn(f"{self._missing} It was asked for with ckpt_path='best'.")
        return self._best_path

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        self._best_path = path

    @property
    def fallback_model_path(self) -> str:
        """The file that was kept although it passed nothing; empty if one has passed, or none was asked for."""
        return str(self._candidate.get("path", ""))

    @override
    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._trainer = weakref.ref(trainer)
        if stage == TrainerFn.FITTING:
            self._missing = ""
        super().setup(trainer, pl_module, stage)

    @override
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._watch.begin()

    @override
    @timed
    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any, **kwargs: Any) -> None:
        # inside the window in which averaged weights are live
        if is_last_batch(trainer) and stage_of(trainer) == "fit":
            state = pl_module.state_dict()
            self._validated, self._parts = fingerprint(state), shards(state)

    def _add_up(self, trainer: Trainer) -> None:
        """Of weights that are spread over ranks, the number of the whole, which is what is written; a collective."""
        parts, self._parts = self._parts, []
        if parts:
            sums = summed(trainer, torch.tensor([self._validated[name][1] for name in parts]), "sum").tolist()
            self._validated |= {n: (self._validated[n][0], total) for n, total in zip(parts, sums, strict=True)}

    # --- what is kept

    def _keep(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        """Keep the file if it is among the best; why that was not possible, or nothing."""
        before = {name: copy.copy(vars(self)[name]) for name in KEPT_STATE if name in vars(self)}
        try:
            self._save_topk_checkpoint(trainer, candidates)
        except NotKeptError as error:
            vars(self).update(before)
            self._decision["kept"] = None
            self._forget(error.written)
            return str(error)
        return ""

    def _forget(self, path: str) -> None:
        """Leave a file that is gone out of the best."""
        self.best_k_models.pop(path, None)
        if path and self._best_path == path:
            best = min if self.mode == "min" else max
            self._best_path = best(self.best_k_models, key=lambda p: float(self.best_k_models[p]), default="")
            self.best_model_score = self.best_k_models.get(self._best_path)

    def _offer(self, trainer: Trainer, candidates: dict[str, Tensor], violation: float, value: float) -> None:
        """Make this validation's weights the fallback if they are nearer to passing."""
        # logged values may differ between ranks, files may not
        if trainer.strategy.broadcast(self._is_nearer(violation, value)):
            before, path = self._candidate, self._fallback_name(trainer, candidates)
            self._candidate = {"path": path, "violation": violation, "value": value}
            try:
                self._save_checkpoint(trainer, path)
            except NotKeptError:
                self._candidate = before
                self._decision["fallback"] = None

    def _is_nearer(self, violation: float, value: float) -> bool:
        if self.fallback == "last" or not self._candidate:
            return self.fallback == "last" or violation < float("inf")
        sign = 1 if self.mode == "min" else -1
        then = self._candidate["violation"], sign * self._candidate["value"]
        return (violation, sign * value) < then

    def _fallback_name(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        version = None
        while True:
            plain = Path(self.format_checkpoint_name(candidates, ver=version))
            path = str(plain.with_name(f"{INFEASIBLE}{self.CHECKPOINT_JOIN_CHAR}{plain.name}"))
            known = path == self.fallback_model_path or not self._enable_version_counter
            if known or not self.file_exists(path, trainer):
                return path
            version = (version or 0) + 1

    # --- how it is written

    def _evidence(self, filepath: str) -> dict[str, Any]:
        if filepath == self.last_model_path:
            return {"role": "last", "note": LAST_NOTE} | self._decision
        if filepath == self.fallback_model_path:
            self._decision["fallback"] = Path(filepath).name
            return {"role": "fallback", "note": FALLBACK_NOTE} | self._decision
        self._decision["kept"] = Path(filepath).name
        return {"role": "kept"} | self._decision

    @override
    def _save_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        self._writing = self._evidence(filepath)
        try:
            super()._save_checkpoint(trainer, filepath)
        finally:
            self._writing = None
        failure = ""
        if trainer.is_global_zero:
            failure = evidence.failure_of(evidence.write_verdict, filepath, self._evidence(filepath))
        failure = trainer.strategy.broadcast(failure)
        if failure:
            self._complain(failure)
        if failure and filepath != self.last_model_path:
            trainer.strategy.remove_checkpoint(filepath)
            raise NotKeptError(failure, filepath)

    def _complain(self, failure: str) -> None:
        if not self._complained:
            rank_zero_warn(f"The gate stays closed, and training goes on: {failure}")
        self._complained = True

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._writing is None:
            return
        # the file for resuming holds what training goes on with, whatever was validated
        if self._writing["role"] != "last":
            now = fingerprint(checkpoint["state_dict"], self._validated)
            # what rank zero writes is what counts, and the other ranks of a sharded model do not have it
            differing = [name for name in now if self._validated.get(name, now[name]) != now[name]]
            changed = trainer.strategy.broadcast(differing)
            if changed:
                raise NotKeptError(f"{changed[0]} changed between validation and saving: another callback wrote to it")
        checkpoint[evidence.CHECKPOINT_KEY] = evidence.dumps(self._writing)

    @override
    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            evidence.verdict_path(filepath).unlink(missing_ok=True)

    # decisions are made where metrics are made: Lightning's other moments to save are left out (traps 36, 37)

    @override
    def on_train_batch_end(self, *args: Any, **kwargs: Any) -> None:
        return None

    @override
    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        return None

    @override
    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        return None
