"""Files of a gate that are written over in place, on a disk that fails: each has its own side file, or none."""

import errno
from pathlib import Path
from typing import Any

import pytest
from lightning_fabric.plugins.io.torch_io import TorchCheckpointIO

from gated import checkpoints, fit, weight
from xai_lightning.callbacks._gate import evidence
from xai_lightning.callbacks._gate.files import verdict_path

pytestmark = pytest.mark.filterwarnings("ignore:No checkpoint passed the gate:UserWarning")

# how a file of that role is written over, and the name of it
WAYS: dict[str, tuple[float, dict[str, Any], str]] = {
    "kept": (0.0, {"filename": "one", "enable_version_counter": False}, "one.ckpt"),
    "fallback": (0.5, {"filename": "one", "fallback": "last"}, "INFEASIBLE-one.ckpt"),
    "last": (0.5, {}, "last.ckpt"),
}


def failing(monkeypatch: pytest.MonkeyPatch, what: str, name: str, nth: int = 2) -> None:
    """A disk on which the ``nth`` file of that name is not written in full."""
    owner, method = (TorchCheckpointIO, "save_checkpoint") if what == "checkpoint" else (evidence, "replace")
    original, calls = getattr(owner, method), []
    wanted = f"{name}.tmp" if what == "checkpoint" else verdict_path(name).name

    def write(*args: Any, **kwargs: Any) -> None:
        calls.extend(arg for arg in args if isinstance(arg, str | Path) and Path(arg).name == wanted)
        if len(calls) == nth:
            calls.append("once")
            raise OSError(errno.ENOSPC, "planted")
        original(*args, **kwargs)

    monkeypatch.setattr(owner, method, write)


@pytest.mark.parametrize("what", ["checkpoint", "verdict"])
@pytest.mark.parametrize("role", WAYS)
def test_a_file_that_is_written_over_in_vain_leaves_nothing_of_another_file(
    role: str, what: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trap 52, law 10: what a gate names is there, and what stands beside a file is of that very file."""
    gap, settings, name = WAYS[role]
    failing(monkeypatch, what, name)
    with pytest.warns(UserWarning, match="validation 2: .*planted"):
        _, gate = fit(tmp_path, [gap] * 2, [0.3, 0.2], settings=settings)
    named = {gate.best_model_path, gate.fallback_model_path, gate.last_model_path, *gate.best_k_models} - {""}
    assert {Path(path).name for path in named} == set(checkpoints(tmp_path))
    beside = {path.name for path in tmp_path.glob("*.verdict.json")}
    assert beside <= {verdict_path(path).name for path in named}
    assert [p for p in named if verdict_path(p).exists() and not evidence.agrees(Path(p))] == []
    if what == "checkpoint":
        assert weight(tmp_path / name) == 2, "what stood there still does"
        assert verdict_path(tmp_path / name).name in beside
    else:
        assert (tmp_path / name).exists() == (role == "last")


@pytest.mark.parametrize("role", WAYS)
def test_the_next_validation_writes_what_the_one_before_could_not(
    role: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    gap, settings, name = WAYS[role]
    failing(monkeypatch, "verdict", name)
    with pytest.warns(UserWarning, match="validation 2: .*planted"):
        fit(tmp_path, [gap] * 3, [0.3, 0.2, 0.1], settings=settings)
    assert weight(tmp_path / name) == 6
    assert all(evidence.agrees(path) for path in tmp_path.glob("*.ckpt"))


def test_a_file_for_resuming_that_was_never_written_is_not_named(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Law 10."""
    failing(monkeypatch, "checkpoint", "last.ckpt", nth=1)
    with pytest.warns(UserWarning, match="validation 1: .*planted"):
        _, gate = fit(tmp_path, [0.0])
    assert gate.last_model_path == ""
    assert checkpoints(tmp_path) == [Path(gate.best_model_path).name]


@pytest.mark.parametrize("epochs", [2, 3])
def test_no_file_is_removed_that_the_file_for_resuming_still_counts_on(
    epochs: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Trap 52: while that file is of the validation before, so is the best; with the next one, the needless go."""
    failing(monkeypatch, "checkpoint", "last.ckpt")
    with pytest.warns(UserWarning, match="validation 2: .*planted"):
        fit(tmp_path, [0.0] * epochs, [0.3, 0.2, 0.1][:epochs])
    kept = ["epoch=0-step=2.ckpt", "epoch=1-step=4.ckpt"] if epochs == 2 else ["epoch=2-step=6.ckpt"]
    assert checkpoints(tmp_path) == [*kept, "last.ckpt"]
    assert {path.name for path in tmp_path.glob("*.verdict.json")} == {
        verdict_path(p).name for p in checkpoints(tmp_path)
    }


@pytest.mark.filterwarnings("ignore:GatedCheckpoint, validation 1. cannot write:UserWarning")
def test_a_validation_whose_file_cannot_be_written_counts_as_closed(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Law 3: at the end, too."""
    failing(monkeypatch, "checkpoint", "epoch=0-step=2.ckpt", nth=1)
    with pytest.warns(UserWarning, match="in 1 validation, .* epoch 0: cannot write epoch=0"):
        fit(tmp_path, [0.0])
