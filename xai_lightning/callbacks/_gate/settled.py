"""A ``ModelCheckpoint`` that loses neither a file that counts nor a decision, whenever it is killed."""

import os
from abc import abstractmethod
from pathlib import Path
from typing import Any

from typing_extensions import override

from xai_lightning._lightning import ModelCheckpoint, Trainer
from xai_lightning.callbacks._gate import audit, evidence
from xai_lightning.callbacks._gate.enduring import STANDS, EnduringCheckpoint
from xai_lightning.callbacks._gate.files import CHECKPOINT, InHand, discard, draft_of, put_aside, verdict_path

AUDIT_FILE, NOTE = "gate_audit.jsonl", "gate_in_hand.json"


class SettledCheckpoint(EnduringCheckpoint):
    """Removes no file while ``last.ckpt`` needs it, and notes which files are in hand.

    What counts is what ``last.ckpt`` says: after a kill before it is written, a restart undoes what that validation
    wrote; after a kill later on, it does again what was still to be done.

    Args:
        name: prefix of its audit file and of its note.
        options: further arguments of ``ModelCheckpoint``.
    """

    def __init__(self, *, name: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.name = name
        self._decision: dict[str, Any] = {}
        self._obsolete: list[str] = []
        self._same_folder = True

    @property
    def audit_path(self) -> Path:
        """The audit file: one JSON line per decision, and one per event between them."""
        return self._own_file(AUDIT_FILE)

    def _own_file(self, name: str) -> Path:
        return Path(str(self.dirpath)) / (f"{self.name}_{name}" if self.name else name)

    @property
    def in_hand(self) -> InHand:
        """The note of the files that this validation touches."""
        return InHand(self._own_file(NOTE), Path(str(self.dirpath)), self.state_key)

    def _note(self, trainer: Trainer, filepath: str) -> str:
        """Note that a file will be touched; returns why that failed, or an empty string."""
        return (
            self._failure_of(f"note in {self.in_hand.path.name} which files are being changed", self._touch, filepath)
            if trainer.is_global_zero
            else ""
        )

    def _touch(self, filepath: str) -> None:
        self.in_hand.note(self._decision["look"], self._relative(filepath))
        # a symbolic link of that name might lead elsewhere
        discard(draft_of(Path(filepath)))

    def _relative(self, filepath: str) -> str:
        """The name of a file in the note."""
        return os.path.relpath(filepath, str(self.dirpath))

    @property
    @abstractmethod
    def _known(self) -> set[str]:
        """Paths of the files that count."""

    @abstractmethod
    def _evidence(self, filepath: str) -> dict[str, Any]:
        """What is written into and beside a file."""

    @override
    def _remove_checkpoint(self, trainer: Trainer, filepath: str) -> None:
        # removed later: a kill before `last.ckpt` knows of the removal would lose the best file
        if failure := self._note(trainer, filepath):
            self._complain(failure, STANDS)
        self._obsolete.append(filepath)

    @override
    def _find_last_checkpoints(self, trainer: Trainer) -> set[str]:
        # `ckpt_path="last"` searches this folder, before `setup`
        folder: str = vars(ModelCheckpoint)["_ModelCheckpoint__resolve_ckpt_dir"](self, trainer)
        aside = put_aside(Path(folder), f"{self.CHECKPOINT_NAME_LAST}*{CHECKPOINT}")
        return super()._find_last_checkpoints(trainer) | {str(path) for path in aside}

    def _clear(self, trainer: Trainer) -> None:
        """Remove the files that the file for resuming no longer needs."""
        obsolete, self._obsolete = self._obsolete, []
        for filepath in obsolete:
            if failure := self._failure_of(f"remove {Path(filepath).name}", self._discard, trainer, filepath):
                self._obsolete.append(filepath)
                self._complain(failure, STANDS)
        what = f"remove {self.in_hand.path.name}"
        if trainer.is_global_zero and (failure := self._failure_of(what, lambda: self.in_hand.settle())):
            self._complain(failure, STANDS)

    def _discard(self, trainer: Trainer, filepath: str) -> None:
        super()._remove_checkpoint(trainer, filepath)
        if trainer.is_global_zero:
            verdict_path(filepath).unlink(missing_ok=True)

    def _undo(self, looks: int) -> None:
        """Clean up what a killed process had in hand; on rank zero."""
        for path in self.in_hand.undo(looks, {self._relative(path) for path in self._known if path}):
            # the kill came between checkpoint and side file; the evidence in the checkpoint still describes it
            if not evidence.agrees(path):
                evidence.renew_verdict(path)
        self.in_hand.settle()

    def _put_in_order(self, trainer: Trainer, looks: int, *, resumed: bool) -> int:
        """Make the folder match a state after ``looks`` validations; returns how many decisions were dropped."""
        dropped: list[int] = []
        failure = ""
        if trainer.is_global_zero:
            failure = self._failure_of("write evidence", self._go_on, trainer.global_step, looks, resumed, dropped)
        told, failure = trainer.strategy.broadcast((sum(dropped), failure))
        if failure:
            self._complain(failure, "The audit file still holds decisions of the previous run")
        return int(told)

    def _go_on(self, step: int, looks: int, resumed: bool, dropped: list[int]) -> None:
        if self._same_folder:
            self._undo(looks)
        if resumed:
            made = self._decision if self._same_folder else {}
            dropped.append(audit.cut_back(self.audit_path, step, made or None))
        else:
            audit.mark(self.audit_path, step)
