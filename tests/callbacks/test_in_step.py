"""Ranks of a sharded model, here threads: each pass is announced, and nobody waits for one that does not come."""

import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from xai_lightning._lightning import MisconfigurationException
from xai_lightning.callbacks import _sharded
from xai_lightning.callbacks._activation.attention import heads_of
from xai_lightning.callbacks._attribution.in_step import check_root, filled
from xai_lightning.callbacks._draw import Rows
from xai_lightning.callbacks._sharded import BrokenPassError, OutOfStepError, Steps

SECONDS = 20
NOTHING = nn.Module()
Rank = Callable[[Steps], Any]


class Ranks:
    """Collectives of threads: each waits until all have called."""

    def __init__(self, count: int) -> None:
        self._barrier, self._given = threading.Barrier(count, timeout=SECONDS), [torch.tensor(0)] * count

    def reduce(self, trainer: SimpleNamespace, mine: Tensor, how: str) -> Tensor:
        self._given[trainer.rank] = mine
        self._barrier.wait()
        stacked = torch.stack(self._given)
        self._barrier.wait()
        return stacked.sum(dim=0) if how == "sum" else stacked.amax(dim=0)


def ends(monkeypatch: pytest.MonkeyPatch, *ranks: Rank) -> list[Any]:
    """What each rank ends with: what it returns, or the exception; a rank that hangs breaks the barrier of all."""
    found: list[Any] = [None] * len(ranks)
    monkeypatch.setattr(_sharded, "reduced", Ranks(len(ranks)).reduce)

    def run(number: int) -> None:
        steps = Steps(SimpleNamespace(rank=number))
        try:
            found[number] = steps.together(NOTHING, lambda: ranks[number](steps))
        except Exception as error:  # noqa: BLE001 - it is what is looked at
            found[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(len(ranks))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SECONDS)
    return found


def making(passes: int, *, kind: Any = "gradient", fail_after: int | None = None) -> Rank:
    """A rank that makes so many passes, then waits for the others; its own passes, and those on padding."""

    def rank(steps: Steps) -> tuple[int, int]:
        padding: list[int] = []
        for number in range(passes):
            if number == fail_after:
                raise ValueError("between passes")
            with steps.passing(kind):
                pass
        steps.level(lambda: padding.append(1))
        return passes, len(padding)

    return rank


def test_ranks_that_need_fewer_gradients_make_passes_on_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 23: every rank makes as many passes as the one that needs most."""
    assert ends(monkeypatch, making(2), making(7), making(0)) == [(2, 5), (7, 0), (0, 7)]


@pytest.mark.parametrize("after", [0, 1, 3])
def test_what_fails_between_passes_is_known_to_all_before_the_next(monkeypatch: pytest.MonkeyPatch, after: int) -> None:
    """Trap 45: the rank that failed, one that has many passes before it, and one that waits already."""
    failed, busy, waiting = ends(monkeypatch, making(4, fail_after=after), making(9), making(0))
    assert isinstance(failed, ValueError)
    assert isinstance(busy, OutOfStepError)
    assert isinstance(waiting, OutOfStepError)
    assert "another rank" in str(busy)


def test_a_rank_that_failed_before_sits_out_and_the_others_do_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 45: `sit_out` answers the others' first announcement."""
    monkeypatch.setattr(_sharded, "reduced", Ranks(2).reduce)
    out = threading.Thread(target=lambda: Steps(SimpleNamespace(rank=1)).sit_out(NOTHING))
    out.start()
    with pytest.raises(OutOfStepError, match="another rank"):
        Steps(SimpleNamespace(rank=0)).together(NOTHING, lambda: making(3)(Steps(SimpleNamespace(rank=0))))
    out.join(SECONDS)
    assert not out.is_alive()


def test_ranks_that_would_make_different_passes_all_stop_before_them(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traps 23 and 43: passes that cannot be made on padding must be as many on each rank."""
    found = ends(monkeypatch, making(2, kind="whole"), making(3, kind="whole"))
    assert [type(each) for each in found] == [OutOfStepError, OutOfStepError]
    assert "'whole'" in str(found[1])


def test_a_failure_inside_a_pass_is_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rank says that the training cannot go on; after a pass that captum ends, too."""

    def inside(steps: Steps) -> None:
        with steps.passing("gradient"):
            raise ValueError("in the network")

    def behind(steps: Steps) -> None:
        with steps.passing("whole"):
            pass
        raise ValueError("on the way back")

    for rank in (inside, behind):
        (found,) = ends(monkeypatch, rank)
        assert isinstance(found, BrokenPassError)
        assert "training cannot go on" in str(found)


def rows(count: int) -> Rows:
    numbers = torch.arange(count)
    return Rows(numbers, numbers, numbers[:, None].float(), numbers, ())


def test_ranks_fill_up_to_the_most_rows_and_compute_as_little_at_once_as_any(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 23: rows are repeated from the first on; a rank without any takes its padding, again and again."""
    explainers = [SimpleNamespace(at_once=size) for size in (100, 30, 60)]
    given = [rows(2), rows(5), None]

    def rank(number: int) -> Rank:
        return lambda steps: filled(steps, explainers[number], given[number], rows(1))

    found = ends(monkeypatch, *map(rank, range(3)))
    assert [each.hashes.tolist() for each in found] == [[0, 1, 0, 1, 0], [0, 1, 2, 3, 4], [0] * 5]
    assert [explainer.at_once for explainer in explainers] == [30, 30, 30]


def test_no_rows_on_any_rank_are_no_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    explainer = SimpleNamespace(at_once=1)
    ranks = [lambda steps: filled(steps, explainer, None, rows(1))] * 2
    assert ends(monkeypatch, *ranks) == [None, None]


def test_a_network_whose_weights_a_module_around_it_gathers_is_refused() -> None:
    """Trap 23: called alone it would find shards."""
    around, inner = nn.Sequential(nn.Linear(2, 2)), nn.Linear(2, 2)
    around.append(inner)
    around.unshard = lambda: None  # type: ignore[assignment]
    for weight in around.parameters():
        weight.to_local = lambda: None  # type: ignore[attr-defined]
    check_root(around, around)
    with pytest.raises(MisconfigurationException, match="lies inside a sharded module"):
        check_root(around, inner)


def test_heads_of_attention_that_is_sharded_by_itself_are_refused() -> None:
    """Trap 23: at the end of its own forward pass it has let go of the others' weights."""
    attention, tokens = nn.MultiheadAttention(4, 2, batch_first=True), torch.randn(3, 5, 4)
    call = (tokens, tokens, tokens), {}
    assert heads_of(attention, call, 3, torch.tensor([0])) is not None
    for weight in attention.parameters():
        weight.to_local = lambda: None  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=r"the block around nn\.MultiheadAttention"):
        heads_of(attention, call, 3, torch.tensor([0]))
