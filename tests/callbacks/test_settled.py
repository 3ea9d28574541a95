"""What a gate removes, and what a restart removes of it: only its own files, and none that counts."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO
from pytorch_lightning.plugins.io import AsyncCheckpointIO
from pytorch_lightning.plugins.io.wrapper import _WrappingCheckpointIO
from pytorch_lightning.utilities.exceptions import MisconfigurationException

from gated import LOADER, Scripted, audit, checkpoints, fit, weight
from xai_lightning import GatedCheckpoint
from xai_lightning.callbacks._gate.settled import SettledCheckpoint
from xai_lightning.callbacks._gate.stamped import StampedCheckpoint

GAPS = [0.0, 0.0, 0.0]


class Kill(BaseException):
    """Nothing of ours, and nothing of Lightning's, handles it."""


def killed(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, nth: int, train: Callable[[], Any]) -> None:
    """Kill a training before the ``nth`` call of a method."""
    original, calls = getattr(owner, method), []

    def dying(self: Any, *args: Any) -> Any:
        calls.append(self)
        if len(calls) >= nth:
            raise Kill
        return original(self, *args)

    with monkeypatch.context() as patch:
        patch.setattr(owner, method, dying)
        with pytest.raises(Kill):
            train()


def pair(folder: Path) -> list[GatedCheckpoint]:
    """Two gates of one folder: one keeps the smallest loss, the other the largest."""
    limits: dict[str, Any] = {"dirpath": folder, "at_most": {"gap": 0.1}}
    return [
        GatedCheckpoint("val_loss", name="least", filename="least-{epoch}", **limits),
        GatedCheckpoint("val_loss", mode="max", name="most", filename="most-{epoch}", **limits),
    ]


def train(folder: Path, gates: list[GatedCheckpoint], **options: Any) -> None:
    first, second = gates
    fit(folder, GAPS, [2.0, 1.0, 3.0], gate=first, callbacks=[second], **options)


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning")
@pytest.mark.parametrize(
    ("owner", "method", "nth"),
    [(SettledCheckpoint, "_clear", 1), (SettledCheckpoint, "_clear", 5), (StampedCheckpoint, "_save_last", 5)],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_restart_beside_another_gate_costs_that_one_no_file(
    owner: type, method: str, nth: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trap 52: what one gate has in hand, the other does not know."""
    killed(monkeypatch, owner, method, nth, lambda: train(tmp_path, pair(tmp_path)))
    gates, last = pair(tmp_path), tmp_path / "last.ckpt"
    looks = torch.load(last, weights_only=True)["epoch"] + 1
    trainer = pl.Trainer(
        max_epochs=looks, callbacks=gates, logger=False, enable_progress_bar=False, enable_model_summary=False
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer.fit(Scripted(GAPS, [2.0, 1.0, 3.0]), LOADER, LOADER, ckpt_path=last)
    for gate in gates:
        assert Path(gate.best_model_path).exists(), f"{gate.name} lost its best"
    assert weight(gates[0].best_model_path) == 2.0 * min(looks, 2)
    assert weight(gates[1].best_model_path) == (6.0 if looks == 3 else 2.0)


@pytest.mark.filterwarnings("ignore:Checkpoint directory:UserWarning", "ignore:You're resuming:UserWarning")
def test_what_a_kill_left_in_a_folder_of_its_own_is_removed_by_a_restart(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trap 52: a template may name folders, in which all files are called alike."""
    settings: dict[str, Any] = {"filename": "{epoch}/model", "save_top_k": -1}
    killed(monkeypatch, StampedCheckpoint, "_save_last", 2, lambda: fit(tmp_path, GAPS, settings=settings))
    assert (tmp_path / "epoch=1" / "model.ckpt").exists()
    fit(tmp_path, GAPS, settings=settings, ckpt_path=tmp_path / "last.ckpt")
    assert [p.relative_to(tmp_path).as_posix() for p in sorted(tmp_path.glob("*/*.ckpt"))] == [
        f"epoch={epoch}/model.ckpt" for epoch in range(3)
    ]


def test_a_run_that_goes_on_in_another_folder_writes_its_own_decisions_and_files_there(tmp_path: Path) -> None:
    """Law 10: those before stand where they were made."""
    one, other = tmp_path / "one", tmp_path / "other"
    fit(one, GAPS[:1])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _, gate = fit(other, GAPS[:2], ckpt_path=one / "last.ckpt")
    assert [line["look"] for line in audit(one)] == [1]
    assert [line["look"] for line in audit(other)] == [2]
    assert gate.best_model_path == str(other / "epoch=1-step=4.ckpt")
    assert checkpoints(one) == ["epoch=0-step=2.ckpt", "last.ckpt"]


@pytest.mark.parametrize("what", ["checkpoint", "verdict"])
def test_a_file_that_cannot_be_removed_ends_no_training(
    what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Law 8: it is told, and tried again at the next validation."""
    failing = [True]
    owner, method = (TorchCheckpointIO, "remove_checkpoint") if what == "checkpoint" else (Path, "unlink")
    original = getattr(owner, method)

    def remove(*args: Any, **kwargs: Any) -> None:
        path = str(args[-1])
        if failing and (what == "checkpoint" or path.endswith("verdict.json")):
            failing.clear()
            raise PermissionError(13, "planted", path)
        original(*args, **kwargs)

    monkeypatch.setattr(owner, method, remove)
    with pytest.warns(UserWarning, match=r"validation 2: cannot remove epoch=0-step=2.ckpt: .*The decision stands"):
        _, gate = fit(tmp_path, GAPS)
    assert [line["gate"] for line in audit(tmp_path)] == ["open"] * 3
    assert checkpoints(tmp_path) == ["epoch=2-step=6.ckpt", "last.ckpt"]
    assert sorted(path.name for path in tmp_path.glob("*.verdict.json")) == [
        "epoch=2-step=6.verdict.json",
        "last.verdict.json",
    ]
    assert gate.best_model_path == str(tmp_path / "epoch=2-step=6.ckpt")


def test_a_plugin_keeps_what_its_owner_put_into_it(tmp_path: Path) -> None:
    """Law 1."""
    plugin, calls = TorchCheckpointIO(), []

    def own(*args: Any, **kwargs: Any) -> None:
        calls.append(args)
        TorchCheckpointIO.save_checkpoint(plugin, *args, **kwargs)

    plugin.save_checkpoint = own  # type: ignore[method-assign]
    fit(tmp_path, GAPS, plugins=[plugin])
    assert vars(plugin) == {"save_checkpoint": own}
    assert len(calls) == 6


class Later(AsyncCheckpointIO):
    """What it saves is written by another thread."""


class Around(_WrappingCheckpointIO):
    """Adds nothing."""


@pytest.mark.parametrize("plugin", [AsyncCheckpointIO, Later, lambda: Around(Later())])
def test_a_plugin_that_writes_later_is_refused(plugin: Callable[[], Any], tmp_path: Path) -> None:
    """Law 8: a file that is not there yet cannot be hashed."""
    with pytest.raises(MisconfigurationException, match=r"(AsyncCheckpointIO|Later) writes it later"):
        fit(tmp_path, GAPS, plugins=[plugin()])
    assert checkpoints(tmp_path) == []


class Folders(TorchCheckpointIO):
    """Checkpoints that are folders."""

    def save_checkpoint(self, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        Path(path).mkdir()
        super().save_checkpoint(checkpoint, Path(path, "part"), storage_options)

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> Any:
        return super().load_checkpoint(Path(path, "part"), *args, **kwargs)


def test_a_run_whose_folder_was_put_aside_goes_on_from_there(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Trap 52: between two steps there is no ``last.ckpt``, and a run that began anew would lose the night."""
    rename, moves = Path.rename, []

    def dying(self: Path, target: Path) -> Path:
        moves.append(self.name)
        if moves.count("last.ckpt.tmp") == 3:
            raise Kill
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", dying)
        patch.setattr("xai_lightning.callbacks._gate.enduring.discard", lambda path: None)
        with pytest.raises(Kill):
            fit(tmp_path, GAPS, plugins=[Folders()])
    assert not (tmp_path / "last.ckpt").exists()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        trainer, gate = fit(tmp_path, GAPS, [0.3], plugins=[Folders()], ckpt_path="last")
    assert trainer.global_step == 6
    assert [line["look"] for line in audit(tmp_path)] == [1, 2, 3]
    assert checkpoints(tmp_path) == ["epoch=2-step=6.ckpt", "last.ckpt"]
    assert gate.best_model_path == str(tmp_path / "epoch=2-step=6.ckpt")
