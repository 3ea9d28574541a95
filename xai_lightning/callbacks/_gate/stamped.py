"""A ``ModelCheckpoint`` whose files carry their evidence, and hold the weights that were validated."""

import copy
import weakref
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from typing_extensions import override

from xai_lightning._lightning import LightningModule, Trainer, TrainerFn, rank_zero_warn
from xai_lightning.callbacks._gate import evidence
from xai_lightning.callbacks._gate.enduring import CLOSED, STANDS, NotKeptError, settle, writing
from xai_lightning.callbacks._gate.files import draft_of
from xai_lightning.callbacks._gate.prints import Print, fingerprint, shards
from xai_lightning.callbacks._gate.settled import SettledCheckpoint
from xai_lightning.callbacks._paths import check_within
from xai_lightning.callbacks._stopwatch import Stopwatch, timed
from xai_lightning.callbacks._trainer import is_last_batch, stage_of, summed

Fallback = Literal["none", "least_violation", "last"]
FALLBACKS = ("none", "least_violation", "last")
INFEASIBLE = "INFEASIBLE"
LAST_NOTE = "Written at the end of every validation, to resume from, whether the gate was open or not; never the best."
FALLBACK_NOTE = f"{INFEASIBLE}: this checkpoint did not pass the gate. It was kept because no checkpoint had passed."
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


class StampedCheckpoint(SettledCheckpoint):
    """Writes files with evidence: those that are kept, the one for resuming, and a fallback while nothing passed.

    It saves only when it is told to, never at Lightning's own moments (traps 36 and 37).

    Args:
        fallback: which file to keep while nothing has passed.
        options: further arguments of ``ModelCheckpoint``.
    """

    def __init__(self, *, fallback: Fallback = "none", **options: Any) -> None:
        self._best_path, self._missing = "", ""
        self._trainer: weakref.ref[Trainer] | None = None
        super().__init__(save_last=True, **options)
        self._check_filename()
        self.fallback = fallback
        self._candidate: dict[str, Any] = {}
        self._validated: dict[str, Print] = {}
        self._parts: list[str] = []
        self._writing: dict[str, Any] | None = None
        self._watch = Stopwatch()

    def __getstate__(self) -> dict[str, Any]:
        # Lightning hands each callback the module's own log, and with it the module (trap 56)
        return {name: value for name, value in vars(self).items() if name not in ("log", "log_dict")} | {
            "_trainer": None
        }

    @property
    def best_model_path(self) -> str:
        """The best file that passed; empty if there is none, and ``ckpt_path="best"`` then warns (trap 38)."""
        trainer = self._trainer() if self._trainer is not None else None
        asked = trainer is not None and trainer.state.status == "running"
        if asked and self._missing and not self._best_path:
            rank_zero_warn(f"{self._missing} It was asked for with ckpt_path='best'.")
        return self._best_path

    @best_model_path.setter
    def best_model_path(self, path: str) -> None:
        """Set by Lightning."""
        self._best_path = path

    @property
    def fallback_model_path(self) -> str:
        """The file that was kept although it passed nothing; empty if one has passed, or none was asked for."""
        return str(self._candidate.get("path", ""))

    @property
    @override
    def _known(self) -> set[str]:
        return {*self.best_k_models, self._best_path, self.last_model_path, self.fallback_model_path}

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
            self._validated, self._parts = {}, shards(state)
            self._validated = self._attempt("remember what was validated", fingerprint, state) or {}

    def _add_up(self, trainer: Trainer) -> None:
        """Sum the checksums of sharded weights over ranks, since the whole is what is written; a collective."""
        parts, self._parts = self._parts, []
        if parts:
            own = [self._validated.get(name, (torch.uint8, 0)) for name in parts]
            sums = summed(trainer, torch.tensor([number for _, number in own], device="cpu"), "sum").tolist()
            self._validated |= {n: (dtype, total) for n, (dtype, _), total in zip(parts, own, sums, strict=True)}

    def _check_filename(self) -> None:
        """Refuse a template, which names metrics, that would leave the folder or cannot be filled in."""
        try:
            filled = self.format_checkpoint_name({})
        except (ValueError, LookupError) as error:
            raise ValueError(f"filename={self.filename!r} cannot be filled in with metrics: {error!r}") from error
        folder = str(Path(str(self.dirpath), "_"))[:-1] if self.dirpath is not None else ""
        check_within(filled.removeprefix(folder), "filename")

    # --- what is kept

    def _keep(self, trainer: Trainer, candidates: dict[str, Tensor]) -> str:
        """Keep the file if it is among the best; returns why that failed, or an empty string."""
        before = {name: copy.copy(vars(self)[name]) for name in KEPT_STATE if name in vars(self)}
        try:
            self._save_topk_checkpoint(trainer, candidates)
        except NotKeptError as error:
            if self._error is not None:
                self._complain(str(error))
            vars(self).update(before)
            self._decision["kept"] = None
            self._forget(error.written)
            return str(error)
        return ""

    def _save_last(self, trainer: Trainer, candidates: dict[str, Tensor]) -> bool:
        """Write the file for resuming; returns whether that succeeded. Otherwise the previous one stays."""
        before = self.last_model_path
        try:
            self._save_last_checkpoint(trainer, candidates)
        except NotKeptError:
            self.last_model_path = before
            return False
        return True

    def _forget(self, path: str) -> None:
        """Drop a file that is gone from the best ones."""
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
            except NotKeptError as error:
                if self._error is not None:
                    self._complain(str(error))
                # a file that was overwritten is gone
                self._candidate = {} if error.written == before.get("path") else before
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

    @override
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
        is_last = filepath == self.last_model_path
        failure = trainer.strategy.broadcast(self._note(trainer, filepath))
        if failure and not is_last:
            raise NotKeptError(failure)
        if failure:
            self._complain(failure, STANDS)
        self._writing = self._evidence(filepath)
        try:
            self._write(trainer, filepath)
        finally:
            self._writing = None
        failure = ""
        if trainer.is_global_zero:
            what = f"write evidence beside {Path(filepath).name}"
            failure = self._failure_of(what, evidence.write_verdict, filepath, self._evidence(filepath))
        failure = trainer.strategy.broadcast(failure)
        if failure and not is_last:
            trainer.strategy.remove_checkpoint(filepath)
        if failure:
            self._complain(failure, STANDS if is_last else CLOSED)
        if failure and not is_last:
            raise NotKeptError(failure, filepath)

    def _write(self, trainer: Trainer, filepath: str) -> None:
        """Write a checkpoint beside its place, and move it there once it is whole.

        Raises:
            NotKeptError: on all ranks, if rank zero cannot write it; the file in its place then stays as it was.
        """
        path, failure = Path(filepath), ""
        with writing(trainer) as failures:
            trainer.save_checkpoint(draft_of(path), self.save_weights_only)
        if trainer.is_global_zero:
            failure = self._failure_of(f"write {path.name}", settle, path, failures)
        failure = trainer.strategy.broadcast(failure)
        if failure:
            last = filepath == self.last_model_path
            self._complain(failure, "The file to resume from is that of an earlier validation" if last else CLOSED)
            raise NotKeptError(failure)
        self._last_global_step_saved, self._last_checkpoint_saved = trainer.global_step, filepath
        for logger in trainer.loggers if trainer.is_global_zero else []:
            self._try(
                f"report the checkpoint to {type(logger).__name__}", logger.after_save_checkpoint, weakref.proxy(self)
            )

    @override
    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        if self._writing is None:
            return
        refusal: list[str] = []
        failure = self._failure_of("write evidence into the checkpoint", self._stamp, checkpoint, refusal)
        # what rank zero writes is what counts
        failure = trainer.strategy.broadcast(failure or "".join(refusal))
        if failure and self._writing["role"] != "last":
            raise NotKeptError(failure)
        if failure:
            self._complain(failure, STANDS)

    def _stamp(self, checkpoint: dict[str, Any], refusal: list[str]) -> None:
        writing = self._writing or {}
        # the file for resuming holds what training goes on with, whatever was validated
        if writing["role"] != "last":
            now = fingerprint(checkpoint["state_dict"], self._validated)
            changed = [name for name in now if self._validated.get(name, now[name]) != now[name]]
            refusal += [
                f"{name} changed between validation and saving: another callback wrote to it" for name in changed
            ][:1]
        checkpoint[evidence.CHECKPOINT_KEY] = evidence.dumps(writing)

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
