"""The states of several ranks, joined as their collectives would give them."""

from types import SimpleNamespace

import pytest
import torch

from xai_lightning.callbacks._activation import running as running_states
from xai_lightning.callbacks._activation.running import Running, gathered
from xai_lightning.functional.activation import EVERYTHING, observe, pack


def seen(name: str, *outputs: torch.Tensor) -> Running:
    running = Running()
    for h in outputs:
        running.observe(name, h, 1, None, EVERYTHING)
        running.steps += 1
    running.close()
    return running


def test_ranks_together_have_seen_what_one_process_sees(monkeypatch: pytest.MonkeyPatch) -> None:
    """Law 2, trap 97: a width that one rank alone has seen, and a rank that saw nothing, are no exception."""
    h = torch.randn(11, 4, generator=torch.Generator().manual_seed(0)).double()
    ranks = [seen("act", h[:3], h[3:5]), seen("act", h[5:], h[:, :2]), Running()]
    sent: list[list[torch.Tensor]] = [[], [], []]
    waiting: list[torch.Tensor] = []

    def record(trainer: SimpleNamespace, mine: torch.Tensor) -> torch.Tensor:
        sent[trainer.global_rank].append(mine)
        return waiting[len(sent[trainer.global_rank]) - 1] if waiting else torch.stack([mine] * 3)

    monkeypatch.setattr(running_states, "everywhere", record)
    for collective in range(2):
        for rank, running in enumerate(ranks):
            sent[rank].clear()
            try:
                gathered(SimpleNamespace(world_size=3, global_rank=rank), running, ["act"])
            except IndexError:
                assert len(sent[rank]) == collective + 1
        waiting.append(torch.stack([each[collective] for each in sent]))
    assert len({each[1].shape for each in sent}) == 1, "a collective of unequal shapes hangs"
    sent[0].clear()
    merged, steps = gathered(SimpleNamespace(world_size=3, global_rank=0), ranks[0], ["act"])
    assert steps == 4
    assert set(merged) == {("act", 4), ("act", 2)}
    torch.testing.assert_close(pack(merged["act", 4])[:-2], pack(observe(h, 1))[:-2], rtol=1e-9, atol=1e-9)
    assert int(merged["act", 4].calls) == 3
    assert int(merged["act", 2].count) == 11
