"""What the example of dying ReLUs claims: the alarm rings where units die and nowhere else, and the gate obeys it."""

import re
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dying_relus
from dying_relus import LIMIT, RAISE_AFTER, VALIDATIONS
from mnist_data import read_digits


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_alarm_rings_when_units_die_and_the_gate_refuses_from_then_on(seed: int, tmp_path: Path) -> None:
    story = dying_relus.train("raised", seed=seed, raise_after=RAISE_AFTER, out=tmp_path)
    assert story.alarms == list(range(RAISE_AFTER + 1, VALIDATIONS + 1))
    assert story.open == [True] * RAISE_AFTER + [False] * (VALIDATIONS - RAISE_AFTER)
    assert story.kept == RAISE_AFTER
    assert min(story.losses[RAISE_AFTER:]) < min(story.losses[:RAISE_AFTER]), "by the loss it would be kept"


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_at_a_sane_learning_rate_there_is_no_alarm_and_the_lowest_loss_is_kept(seed: int, tmp_path: Path) -> None:
    story = dying_relus.train("sane", seed=seed, raise_after=None, out=tmp_path)
    assert story.alarms == []
    assert max(story.dead) < LIMIT - 0.1
    assert story.open == [True] * VALIDATIONS
    assert story.losses[story.kept - 1] == min(story.losses)


@pytest.mark.slow
def test_the_units_that_were_called_dead_are_dead_in_the_network_that_was_written(tmp_path: Path) -> None:
    story = dying_relus.train("raised", seed=0, raise_after=RAISE_AFTER, out=tmp_path)
    folder = tmp_path / "raised" / "checkpoints"
    for file, told in (("last.ckpt", story.dead[-1]), (f"step={RAISE_AFTER * dying_relus.EVERY}.ckpt", story.dead[5])):
        network = dying_relus.Reader().eval()
        network.load_state_dict(torch.load(folder / file, weights_only=True)["state_dict"])
        h, shares = read_digits()[1].pictures, []
        with torch.no_grad():
            for module in network.net:
                h = module(h)
                if isinstance(module, nn.ReLU):
                    shares.append((h.amax(0) <= 0).double().mean().item())
        assert max(shares) == pytest.approx(told, abs=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_the_account_says_what_was_seen(
    seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["example", "--seed", str(seed), "--out", str(tmp_path)])
    dying_relus.main()
    raised, sane = capsys.readouterr().out.split("\nsane\n")
    alarm = re.search(r"ALARM at validation 7: dead units went from (\d+)% to (\d+)%, over 40%", raised)
    assert int(alarm[1]) <= 40 < int(alarm[2])
    assert "the gate was open at 6 validations and kept the network of validation 6." in raised
    assert raised.count(" open\n") == 6
    assert raised.count(" closed\n") == 14
    assert "No alarm: no layer ever had more than" in sane
    assert sane.count(" open\n") == 20
    assert "The learning rate of the first was raised after validation 6, from 0.001 to 0.03." in sane


@pytest.mark.slow
def test_the_example_runs_twice_in_one_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dying_relus, "VALIDATIONS", 2)
    monkeypatch.setattr(dying_relus, "RAISE_AFTER", 1)
    told = []
    for _ in range(2):
        monkeypatch.setattr(sys, "argv", ["example", "--out", str(tmp_path)])
        dying_relus.main()
        told.append(capsys.readouterr().out)
    assert told[0] == told[1]
    assert told[0].count("and kept the network of validation") == 2
