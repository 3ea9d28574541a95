"""What another value of an attribute changes, and whether likes are treated alike: counted within a validation."""

import math
import pickle
import random
import threading
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from small import Classifier, Rows
from xai_lightning import tags
from xai_lightning.callbacks._fairness.individual import Individuals
from xai_lightning.callbacks._trainer import resolve_network
from xai_lightning.functional.fairness.individual import consistency
from xai_lightning.functional.intervals import wilson
from xai_lightning.readers import Bins, Column, Outputs, Table, decide, read, vocabularies

LOGITS = Outputs.of("logits", None)
SEX = {"sex": ["Female", "Male"]}
PARTS = tuple(tags.fairness("sex", "flip_rate", part) for part in tags.ESTIMATE_PARTS)
SIGNED, ABSOLUTE = (tags.rate("sex", "flip_score_change", part) for part in ("signed", "absolute"))
CONSISTENCY = ("individual/consistency/value", "individual/consistency/rows")
PASSES = "xai/fairness/forward_passes"


@pytest.fixture(scope="module")
def trainer() -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False, barebones=False
    )


def table(n: int = 300, width: int = 4, seed: int = 0) -> Tensor:
    """Column 0 holds the sex, 0 or 1."""
    x = torch.randn(n, width, generator=torch.Generator().manual_seed(seed))
    x[:, 0] = torch.arange(n) % 2
    return x


def linear(weights: Sequence[float], bias: float = 0.0) -> nn.Linear:
    net = nn.Linear(len(weights), 1)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([weights]))
        net.bias.fill_(bias)
    return net


def individuals(flips: Any = None, groups: Any = None, how: Outputs = LOGITS, **options: Any) -> Individuals:
    flips = {"sex": Column("x", 0)} if flips is None else flips
    return Individuals(flips, vocabularies(SEX if groups is None else groups), how, **options)


def cut(x: Tensor, size: int) -> list[dict[str, Tensor]]:
    return [{"x": part} for part in x.split(size)]


def see(them: Individuals, net: nn.Module, batches: Sequence[Any], how: Outputs = LOGITS, **options: Any) -> None:
    them.open()
    for batch in batches:
        sample = read(batch)
        with torch.no_grad():
            decision = decide(net(sample.inputs), how)
        given = {"real": torch.ones(len(sample), dtype=torch.bool), "positive": 1, **options}
        them.after(net, net, batch, sample=sample, decision=decision, **given)


def look(
    them: Individuals, net: nn.Module, batches: Sequence[Any], trainer: Any, *, error: float = 0.05, **options: Any
) -> dict[str, float]:
    see(them, net, batches, **options)
    return them.conclude(them.gather(trainer), error)


def same(found: dict[str, float], other: dict[str, float]) -> bool:
    return found.keys() == other.keys() and all(
        found[name] == pytest.approx(other[name], abs=1e-6, nan_ok=True) for name in found if name != PASSES
    )


def test_the_flip_rate_of_a_linear_network_that_uses_the_column_is_known_in_closed_form(trainer: pl.Trainer) -> None:
    x, net = table(), linear([0.8, 1.0, -0.5, 0.25], bias=-0.3)
    base = x[:, 1:].double() @ torch.tensor([1.0, -0.5, 0.25]).double() - 0.3
    flipped = int(((base <= 0) & (base + 0.8 > 0)).sum())
    assert 40 < flipped < 150
    female, male = base.sigmoid(), (base + 0.8).sigmoid()
    change = torch.where(x[:, 0] == 0, male - female, female - male)
    found = look(individuals(), net, cut(x, 64), trainer, error=0.01)
    assert found[PARTS[0]] == flipped / 300
    limits = wilson(torch.tensor(flipped), torch.tensor(300), 0.025)
    assert [found[name] for name in PARTS[1:3]] == [float(limit) for limit in limits]
    assert found[PARTS[3]] == float(wilson(torch.tensor(flipped), torch.tensor(300), 0.01).upper)
    assert found[SIGNED] == pytest.approx(change.mean().item(), abs=1e-6)
    assert found[ABSOLUTE] == pytest.approx(change.abs().mean().item(), abs=1e-6)
    assert found[PASSES] == 2 * 300


def test_a_network_that_ignores_the_column_has_rate_zero_and_one_warning_that_this_is_not_fairness(
    trainer: pl.Trainer,
) -> None:
    x, net, them = table(), linear([0.0, 1.0, -0.5, 0.25]), individuals()
    found = look(them, net, cut(x, 64), trainer)
    with pytest.warns(UserWarning, match=r"'sex'.*unawareness, not fairness"):
        assert look(them, net, cut(x, 64), trainer) == found
    assert look(them, net, cut(x, 64), trainer) == found
    assert [found[name] for name in (PARTS[0], PARTS[1], SIGNED, ABSOLUTE)] == [0, 0, 0, 0]
    assert found[PARTS[3]] == float(wilson(torch.tensor(0), torch.tensor(300), 0.05).upper) > 0


def test_a_network_that_uses_the_column_too_little_to_flip_anything_is_not_called_unaware(trainer: pl.Trainer) -> None:
    x, net, them = table(), linear([1e-6, 1.0, 0.0, 0.0], bias=50.0), individuals()
    for _ in range(4):
        found = look(them, net, cut(x, 64), trainer)
        assert found[PARTS[0]] == 0


def test_two_validations_without_effect_must_follow_each_other_to_be_told(trainer: pl.Trainer) -> None:
    x, them = table(), individuals()
    for weight in (0.0, 1.0, 0.0, 1.0):
        look(them, linear([weight, 1.0, 0.0, 0.0]), cut(x, 64), trainer)


def test_a_network_that_becomes_unaware_again_is_not_told_of_again(trainer: pl.Trainer) -> None:
    x, them, told = table(), individuals(), []
    for weight in (0.0, 0.0, 1.0, 0.0, 0.0):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            look(them, linear([weight, 1.0, 0.0, 0.0]), cut(x, 64), trainer)
        told.append(len(caught))
    assert told == [0, 1, 0, 0, 0]


RACE = {"race": ["A", "B", "C"]}


@pytest.mark.parametrize("columns", [slice(1, 4), [3, 1, 2], slice(-3, None)], ids=["slice", "list", "negative"])
def test_one_hot_codes_of_three_groups_are_changed_to_each_other_group(columns: Any, trainer: pl.Trainer) -> None:
    n, weights = 400, [1.0, 0.0, 0.4, -0.6]
    places = torch.arange(4)[columns]
    own = torch.arange(n) % 3
    x = torch.zeros(n, 4)
    x[:, 0] = torch.randn(n, generator=torch.Generator().manual_seed(0))
    x[torch.arange(n), places[own]] = 1
    base, effect = x[:, 0].double(), torch.tensor(weights).double()[places]
    logits = base[:, None] + effect
    decided = logits > 0
    flipped = (decided != decided.gather(1, own[:, None])).any(dim=1)
    p = logits.sigmoid()
    change = (p - p.gather(1, own[:, None])).sum(dim=1) / 2
    them = individuals({"race": Column("x", columns)}, RACE)
    found = look(them, linear(weights), cut(x, 50), trainer)
    assert found["fairness/race/flip_rate/value"] == pytest.approx(flipped.double().mean().item())
    assert found["rate/race/flip_score_change/signed"] == pytest.approx(change.mean().item(), abs=1e-6)
    assert found[PASSES] == 3 * n == them.passes_per_row * n


def test_codes_are_those_declared_and_rows_without_a_declared_value_are_left_out(trainer: pl.Trainer) -> None:
    """Codes 5 and 2; the rate of all rows would be another."""
    x = table()
    x[:, 0] = torch.where(x[:, 0] == 0, 5.0, 2.0)
    x[:30, 0] = -1
    x[30:40, 0] = math.nan
    them = individuals(groups={"sex": {5: "Female", 2: "Male"}})
    net = linear([1.0, 1.0, 0.0, 0.0], bias=-3.5)
    found = look(them, nn.Sequential(_NoNan(), net), cut(x, 64), trainer)
    base = x[40:, 1].double() - 3.5
    flipped = ((base + 5 > 0) != (base + 2 > 0)).double().mean().item()
    assert found[PARTS[0]] == pytest.approx(flipped)
    assert 0.3 < flipped < 1
    assert them.tallies["sex"] == (round(flipped * 260), 260, True)


class _Without(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x * torch.tensor([0.0, 1.0, 1.0, 1.0])


class _NoNan(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.nan_to_num(0.0)


def test_without_a_row_that_has_a_declared_value_the_rate_is_undefined(trainer: pl.Trainer) -> None:
    x, them = table(), individuals()
    x[:, 0] = -1
    found = look(them, linear([1.0, 1.0, 0.0, 0.0]), cut(x, 64), trainer)
    assert all(math.isnan(found[name]) for name in (*PARTS, SIGNED, ABSOLUTE))
    assert same(them.conclude(individuals().gather(trainer), 0.05), found), "nor without any row"


def test_batches_order_and_duplicates_change_nothing_and_only_drawn_rows_pass(trainer: pl.Trainer) -> None:
    """Law 2."""
    x, net = table(1000).round(decimals=1), linear([0.8, 1.0, -0.5, 0.25])
    options = {"flip_samples": 100, "consistency_features": slice(1, 4), "consistency_samples": 120}
    first = look(individuals(**options), net, cut(x, 1000), trainer)
    shuffled = x[torch.randperm(1000, generator=torch.Generator().manual_seed(1))]
    uneven = [{"x": part} for part in x.split([1, 1, 600, 398])]
    for batches in (cut(x, 64), cut(x, 7), cut(shuffled, 1000), cut(shuffled, 33), uneven):
        assert same(look(individuals(**options), net, batches, trainer), first)
    whole = look(individuals(), net, cut(x, 64), trainer)
    assert first[PASSES] == 2 * 100 < 0.2 * whole[PASSES]
    assert first[PARTS[1]] <= whole[PARTS[0]] <= first[PARTS[2]]
    seven = look(individuals(**options), net, cut(x, 7), trainer)[PASSES]
    assert seven < 1.3 * 2 * 100 * (1 + math.log(10)), "few rows enter the draw and leave it again"
    other = look(individuals(**options, seed=1), net, cut(x, 64), trainer)
    assert not same(other, first), "another seed, another sample"


class Rank:
    """One of several ranks that run as threads: what the monitors ask a Trainer for."""

    def __init__(self, rank: int, barrier: threading.Barrier, shared: list[Any]) -> None:
        self.global_rank, self.world_size, self.strategy = rank, barrier.parties, self
        self.root_device, self._barrier, self._shared = torch.device("cpu"), barrier, shared

    def reduce(self, mine: Tensor, reduce_op: str) -> Tensor:
        self._shared[self.global_rank] = mine
        self._barrier.wait(30)
        assert len({(part.shape, part.dtype) for part in self._shared}) == 1, "fixed shapes"
        parts = torch.stack(list(self._shared))
        self._barrier.wait(30)
        return parts.sum(dim=0) if reduce_op == "sum" else parts.amax(dim=0)

    def reduce_boolean_decision(self, decision: bool, all: bool = True) -> bool:  # noqa: A002 - the name is Lightning's
        votes = int(self.reduce(torch.tensor(int(decision)), "sum"))
        return votes == self.world_size if all else votes > 0


def on_ranks(work: Callable[[Any, int], dict[str, float]], size: int) -> list[dict[str, float]]:
    barrier, shared, found = threading.Barrier(size), [None] * size, [{}] * size

    def run(rank: int) -> None:
        found[rank] = work(Rank(rank, barrier, shared), rank)

    threads = [threading.Thread(target=run, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


@pytest.mark.parametrize("samples", [100, 2000])
def test_ranks_find_together_what_one_finds_alone_even_if_one_saw_nothing(samples: int, trainer: pl.Trainer) -> None:
    x, net = table(600).round(decimals=1), linear([0.8, 1.0, -0.5, 0.25])
    options = {"flip_samples": samples, "consistency_features": [1, 2], "consistency_samples": samples}
    alone = look(individuals(**options), net, cut(x, 64), trainer)
    # sketches are filled one after the other: a network is not explained by two threads at once
    shares = [individuals(**options) for _ in range(3)]
    for them, part in zip(shares, (x[::2], x[1::2], x[:0]), strict=True):
        see(them, net, cut(part, 16))
    found = on_ranks(lambda rank, i: shares[i].conclude(shares[i].gather(rank), 0.05), 3)
    assert found[0] == found[1] == found[2]
    assert same(found[0], alone)
    assert found[0][PASSES] >= alone[PASSES]


def test_padding_is_not_counted(trainer: pl.Trainer) -> None:
    x, net, them = table(100), linear([0.8, 1.0, -0.5, 0.25]), individuals()
    alone = look(them, net, cut(x[:90], 90), trainer)
    real = torch.arange(100) < 90
    assert look(them, net, cut(x, 100), trainer, real=real) == alone
    nobody = look(them, net, cut(x, 100), trainer, real=~real & ~real.roll(50) & False)
    assert math.isnan(nobody[PARTS[0]])
    assert nobody[PASSES] == 0


def test_rows_that_are_equal_are_counted_as_often_as_they_occur_and_passed_once(trainer: pl.Trainer) -> None:
    patterns = torch.tensor([[a, b] for a in (0.0, 1.0) for b in (-1.0, 0.5, 2.0)])
    x = patterns.repeat_interleave(torch.tensor([10, 70, 20, 5, 30, 65]), dim=0)
    net = linear([1.2, 1.0])
    found = look(individuals(consistency_features=[1], consistency_samples=150), net, cut(x, 32), trainer)
    assert found[PARTS[0]] == 15 / 200, "only -1 is decided by sex"
    assert found[PARTS[3]] == float(wilson(torch.tensor(15), torch.tensor(200), 0.05).upper)
    assert found[PASSES] == 2 * 6
    assert found[CONSISTENCY[1]] == 150
    assert found[CONSISTENCY[0]] > 0.8


def test_drawn_rows_that_stand_for_many_are_not_worth_as_many(trainer: pl.Trainer) -> None:
    x = table(100).repeat_interleave(torch.arange(100) % 7 + 1, dim=0)
    them = individuals(flip_samples=20)
    found = look(them, linear([1.5, 1.0, 0.0, 0.0]), cut(x, 64), trainer)
    flipped, rows, _ = them.tallies["sex"]
    assert rows > 40
    assert found[PARTS[0]] == flipped / rows
    naive, distinct = (wilson(torch.tensor(round(flipped / rows * n)), torch.tensor(n), 0.025) for n in (rows, 20))
    width = found[PARTS[2]] - found[PARTS[1]]
    assert float(naive.upper - naive.lower) < width
    assert width == pytest.approx(float(distinct.upper - distinct.lower), rel=0.4)


def test_limits_of_a_drawn_sample_hold_the_rate_of_all_rows(trainer: pl.Trainer) -> None:
    """Coverage over seeds of the draw, with rows that occur up to seven times."""
    distinct, net = table(400), linear([1.5, 1.0, 0.0, 0.0])
    x = distinct.repeat_interleave(torch.arange(400) % 7 + 1, dim=0)
    truth = look(individuals(flip_samples=1000), net, cut(x, 2000), trainer)[PARTS[0]]
    drawn = [look(individuals(flip_samples=40, seed=s), net, cut(x, 2000), trainer) for s in range(120)]
    covered = sum(found[PARTS[1]] <= truth <= found[PARTS[2]] for found in drawn) / 120
    assert covered >= 0.9
    mean = sum(found[PARTS[0]] for found in drawn) / 120
    assert mean == pytest.approx(truth, abs=0.03)


def streams() -> list[Any]:
    numbers = np.random.get_state()
    return [torch.get_rng_state().tolist(), (numbers[0], numbers[1].tolist(), *numbers[2:]), random.getstate()]


@pytest.mark.parametrize("training", [True, False])
def test_nothing_of_the_network_the_batch_and_the_generators_is_changed(training: bool, trainer: pl.Trainer) -> None:
    """Law 1: batch normalisation, dropout, a network that writes into its input, and a callable that does."""

    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            random.random()
            np.random.random()
            torch.rand(1)
            return x.mul_(1.0)

    net = nn.Sequential(Writes(), nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.5), nn.Linear(8, 2))

    def other(x: Tensor) -> list[Tensor]:
        x[:, 0] = 1 - x[:, 0]
        return [x]

    x, batches = table(), cut(table(), 64)
    net(x).sum().backward()
    net.train(training)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    grads, versions = [p.grad.clone() for p in net.parameters()], [b["x"]._version for b in batches]
    them = individuals({"sex": other}, consistency_features=[1, 2])
    sample, decision = read(batches[0]), decide(torch.zeros(64, 2), LOGITS)
    states = streams()
    them.open()
    for batch in batches[:-1]:
        sample = read(batch)
        them.after(net, net, batch, sample=sample, real=torch.ones(64) > 0, decision=decision, positive=1)
    assert streams() == states
    assert all(module.training is training for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(torch.equal(p.grad, grad) for p, grad in zip(net.parameters(), grads, strict=True))
    assert [b["x"]._version for b in batches] == versions
    assert torch.equal(torch.cat([b["x"] for b in batches]), x)
    assert not any(module._forward_hooks for module in net.modules())
    found = them.conclude(them.gather(trainer), 0.05)
    net.eval()
    assert same(found, look(individuals(consistency_features=[1, 2]), net, batches[:-1], trainer) | _likes(found))


def _likes(found: dict[str, float]) -> dict[str, float]:
    return {name: found[name] for name in CONSISTENCY}


def test_a_network_that_draws_in_forward_draws_the_same_for_every_value(trainer: pl.Trainer) -> None:
    class Noisy(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return nn.functional.dropout(x[:, 1:], 0.5, training=True).sum(dim=1)

    found = look(individuals(), Noisy(), cut(table(), 64), trainer)
    assert found[PARTS[0]] == found[ABSOLUTE] == 0


def test_neither_a_network_nor_a_callable_that_writes_into_its_input_disturbs_what_comes_after(
    trainer: pl.Trainer,
) -> None:
    class Writes(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.add_(torch.tensor([0.7, -0.2, 0.1, 0.3])).sum(dim=1)

    class Pure(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x + torch.tensor([0.7, -0.2, 0.1, 0.3])).sum(dim=1)

    def upwards(x: Tensor) -> list[Tensor]:
        return [x.mul_(2.0)]

    flips = {"size": upwards, "sex": Column("x", 0)}
    groups = {"sex": SEX["sex"], "size": ["small", "large"]}
    x, sample = table(), read({"x": table()})
    given = {"sample": sample, "real": torch.ones(300) > 0, "decision": decide(x[:, 1], LOGITS), "positive": 1}
    found = []
    for net in (Writes(), Pure()):
        them = individuals(flips, groups)
        them.after(net, net, {"x": sample.inputs}, **given)
        found.append(them.conclude(them.gather(trainer), 0.05))
    assert found[0] == found[1]
    alone = look(individuals(), Pure(), cut(x, 300), trainer)
    assert all(found[1][name] == alone[name] for name in alone if name != PASSES)
    assert torch.equal(sample.inputs, x)


class Watching(pl.Callback):
    """Does what a monitor does."""

    def __init__(self, them: Individuals) -> None:
        self.them, self.found, self.inference = them, [], []

    def on_validation_epoch_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.them.open()

    def on_validation_batch_end(self, trainer, pl_module, outputs, batch, batch_idx, dataloader_idx=0) -> None:
        self.inference.append(torch.is_inference_mode_enabled())
        sample, network = read(batch), resolve_network(pl_module, None)
        decision, real = decide(outputs, LOGITS), torch.ones(len(sample), dtype=torch.bool)
        self.them.after(pl_module, network, batch, sample=sample, real=real, decision=decision, positive=1)

    def on_validation_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        self.found.append(self.them.conclude(self.them.gather(trainer), 0.05))


@pytest.mark.parametrize("inference_mode", [True, False])
def test_it_works_within_fit_and_validate_in_inference_mode_and_without(inference_mode: bool) -> None:
    """Trap 1."""
    x = table(120)
    data = Rows(x, (x[:, 1] > 0).long(), x[:, 0].long())
    loader = DataLoader(data, batch_size=32)
    module = Classifier((4,), returns=lambda logits: logits, lr=0.0)
    watching = Watching(individuals(consistency_features=slice(1, 4)))
    options = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    options |= {"enable_model_summary": False, "accelerator": "cpu", "inference_mode": inference_mode}
    runner = pl.Trainer(callbacks=[watching], max_epochs=1, num_sanity_val_steps=0, **options)
    runner.validate(module, loader, verbose=False)
    assert set(watching.inference) == {inference_mode}
    assert all(not p.is_inference() for p in module.parameters())
    runner.fit(module, DataLoader(data, batch_size=60), loader)
    validated, fitted = watching.found
    assert all(math.isfinite(value) for value in validated.values())
    assert validated[PARTS[0]] > 0
    assert validated.keys() == fitted.keys()


def test_a_callable_changes_inputs_that_are_no_table(trainer: pl.Trainer) -> None:
    """The first channel stands for the attribute; two other values."""
    x = torch.randn(40, 2, 3, 3, generator=torch.Generator().manual_seed(0))

    class Mean(nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, 0].mean(dim=(1, 2)) + image[:, 1].mean(dim=(1, 2))

    def others(image: Tensor) -> list[Tensor]:
        return [torch.cat([image[:, :1] + step, image[:, 1:]], dim=1) for step in (-0.5, 0.25)]

    them = individuals({"sex": others})
    found = look(them, Mean(), cut(x, 16), trainer)
    z = x.mean(dim=(2, 3)).sum(dim=1)
    expected = (((z - 0.5 > 0) != (z > 0)) | ((z + 0.25 > 0) != (z > 0))).double().mean().item()
    assert found[PARTS[0]] == pytest.approx(expected)
    assert found[PASSES] == 3 * 40
    assert them.passes_per_row is None


def test_the_table_may_be_another_argument_of_the_network_and_rows_differ_by_it(trainer: pl.Trainer) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, traits: Tensor) -> Tensor:
            return x.sum(dim=1) + traits[:, 0]

    x = torch.tensor([[-0.5], [-0.5], [1.0], [-3.0]])
    batch = {"x": x, "traits": torch.tensor([[0.0], [1.0], [0.0], [1.0]]), "y": torch.zeros(4)}
    them = individuals({"sex": Column("traits", 0)})
    them.open()
    decision = decide(torch.zeros(4), LOGITS)
    them.after(Two(), Two(), batch, sample=read(batch), real=torch.ones(4) > 0, decision=decision, positive=1)
    found = them.conclude(them.gather(trainer), 0.05)
    assert them.tallies["sex"] == (2, 4, True)
    assert found[PASSES] == 8


@pytest.mark.parametrize("space", ["logits", "probabilities"])
def test_scores_are_probabilities_of_the_favourable_class(space: Any, trainer: pl.Trainer) -> None:
    class Three(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = torch.stack([x[:, 0], x[:, 1], -x[:, 0]], dim=1)
            return z if space == "logits" else z.softmax(dim=1)

    x, how = table(), Outputs.of(space, None)
    them = individuals(how=how)
    see(them, Three(), cut(x, 64), how, positive=2)
    found = them.conclude(them.gather(trainer), 0.05)
    swapped = x.clone()
    swapped[:, 0] = 1 - x[:, 0]
    one, two = (torch.stack([r[:, 0], r[:, 1], -r[:, 0]], dim=1).softmax(dim=1) for r in (x, swapped))
    assert found[PARTS[0]] == pytest.approx((one.argmax(1) != two.argmax(1)).double().mean().item())
    assert found[SIGNED] == pytest.approx((two - one)[:, 2].mean().item(), abs=1e-6)
    assert found[ABSOLUTE] == pytest.approx((two - one)[:, 2].abs().mean().item(), abs=1e-6)


def test_labels_have_no_scores(trainer: pl.Trainer) -> None:
    class Label(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x[:, 0] + x[:, 1] > 0).long()

    how = Outputs.of("labels", None)
    them = individuals(how=how)
    blind = nn.Sequential(_Without(), Label())
    for _ in range(3):
        see(them, blind, cut(table(), 64), how)
        assert them.conclude(them.gather(trainer), 0.05)[PARTS[0]] == 0, "equal labels do not say unaware"
    see(them, Label(), cut(table(), 64), how)
    found = them.conclude(them.gather(trainer), 0.05)
    assert found.keys() == {*PARTS, PASSES} == set(them.names()[0])
    assert them.names()[1] == []
    assert found[PARTS[0]] > 0.2


def test_an_output_that_is_not_finite_makes_the_rate_undefined(trainer: pl.Trainer) -> None:
    """Law 3: only with the other value is one of them infinite."""

    class Breaks(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            z = x[:, 1] + x[:, 0]
            return torch.where((x[:, 2] > 2) & (x[:, 0] == 1), math.nan, z)

    x = table()
    x[:, 2] = 0
    x[0, 2] = 3
    assert x[0, 0] == 0
    them = individuals()
    found = look(them, Breaks(), cut(x, 64), trainer)
    assert all(math.isnan(found[name]) for name in PARTS)
    assert them.tallies["sex"].finite is False


def test_an_error_of_nothing_makes_the_bound_infinite(trainer: pl.Trainer) -> None:
    assert look(individuals(), linear([1.0] * 4), cut(table(), 64), trainer, error=0.0)[PARTS[3]] == math.inf


def test_a_network_in_half_precision_is_asked_in_it(trainer: pl.Trainer) -> None:
    """Trap 20."""
    x = table().bfloat16()
    found = look(individuals(consistency_features=[1]), linear([0.8, 1, -0.5, 0]).bfloat16(), cut(x, 64), trainer)
    assert found[PARTS[0]] > 0.05
    assert math.isfinite(found[CONSISTENCY[0]])


def test_consistency_is_that_of_the_rows_and_their_own_decisions(trainer: pl.Trainer) -> None:
    x, net = table(), linear([0.8, 1.0, -0.5, 0.25])
    with torch.no_grad():
        decided = net(x).squeeze(1) > 0
    for features in (slice(1, 3), [1, 2]):
        them = individuals({}, consistency_features=features)
        found = look(them, net, cut(x, 64), trainer)
        assert found.keys() == set(CONSISTENCY) == set(them.names()[0])
        assert found[CONSISTENCY[0]] == pytest.approx(consistency(x[:, 1:3], decided).item())
        assert found[CONSISTENCY[1]] == 300


def test_consistency_is_undefined_without_rows_with_few_and_if_a_prediction_is_not_finite(trainer: pl.Trainer) -> None:
    them = individuals({}, consistency_features=[1])
    them.open()
    nobody = them.conclude(them.gather(trainer), 0.05)
    assert math.isnan(nobody[CONSISTENCY[0]])
    assert nobody[CONSISTENCY[1]] == 0
    x, net = table(), linear([0.0, 1.0, 0.0, 0.0])
    assert math.isnan(look(them, net, cut(x[:5], 5), trainer)[CONSISTENCY[0]])
    assert math.isfinite(look(them, net, cut(x, 50), trainer)[CONSISTENCY[0]])
    broken = linear([0.0, 1.0, 0.0, math.inf])
    assert math.isnan(look(them, broken, cut(x.clamp(min=0), 50), trainer)[CONSISTENCY[0]]), "infinity times 0"
    x[7, 1] = math.nan
    assert math.isnan(look(them, net, cut(x, 50), trainer)[CONSISTENCY[0]])


def test_no_network_is_needed_for_consistency_alone_and_it_is_for_flips(trainer: pl.Trainer) -> None:
    x = table(30)
    given = {"sample": read({"x": x}), "real": torch.ones(30) > 0, "decision": decide(x[:, 1], LOGITS), "positive": 1}
    them = individuals({}, consistency_features=[1])
    them.after(nn.Identity(), None, {"x": x}, **given)
    assert math.isfinite(them.conclude(them.gather(trainer), 0.05)[CONSISTENCY[0]])
    with pytest.raises(ValueError, match=r"flips of sex need the network.*None"):
        individuals().after(nn.Identity(), None, {"x": x}, **given)


def test_names_are_those_announced_and_none_is_a_path_prefix_of_another(trainer: pl.Trainer) -> None:
    """Law 4, with attributes that are called like parts of names."""
    attributes = {name: ["a", "b"] for name in ("sex", "individual", "consistency", "flip_rate")}
    them = individuals(dict.fromkeys(attributes, Column("x", 0)), attributes, consistency_features=[1])
    shared, direct = them.names()
    found = look(them, linear([1.0] * 4), cut(table(), 64), trainer)
    assert set(found) == {*shared, *direct}
    groups = [tags.rate(a, "selection_rate", g) for a in attributes for g in ("a", "b")]
    assert tags.prefixes([*found, *groups]) == []


def test_what_was_kept_of_rows_is_gone_once_it_is_gathered_and_never_pickled(trainer: pl.Trainer) -> None:
    """Laws 7 and 9."""
    them = individuals(flip_samples=50, consistency_features=[1], consistency_samples=50)
    see(them, linear([1.0] * 4), cut(table(1000), 64))
    assert len(them._effects.held.hashes) == len(them._likes.held.hashes) == 50
    copy = pickle.loads(pickle.dumps(them))
    assert copy._effects.held is copy._likes.held is None
    them.gather(trainer)
    assert them._effects.held is them._likes.held is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"flips": {"age": Column("x", 0)}}, r"attribute.*'age'"),
        ({"flips": {"sex": Table([1, 2])}}, r"flips\['sex'\] must be a Column.*Table"),
        ({"flips": {"sex": Column("x", 0)}, "groups": {"sex": {"f": "Female", "m": "Male"}}}, r"numbers; got \['f'"),
        ({"flips": {"sex": Column("x", [0, 1])}, "groups": {"sex": {"f": "F", "m": "M"}}}, r"positions.*\['f', 'm'\]"),
        ({"flips": {"sex": Column("x", 0)}, "groups": {"sex": ["Female"]}}, r"two declared groups; got \['Female'\]"),
        ({"groups": {"sex": Bins([0.5])}}, r"flips\['sex'\] needs to know .* groups=Bins.* does not tell"),
        ({"groups": {"sex": "discover"}}, r"flips\['sex'\] needs to know .* groups='discover' does not tell"),
        ({"flip_samples": 0}, "flip_samples, .* got 0"),
        ({"consistency_samples": -1}, "consistency_samples, .* got -1"),
    ],
)
def test_settings_that_cannot_be_are_refused_at_once(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        individuals(**settings)


def test_batches_that_are_not_what_the_settings_say_are_refused_with_what_came(trainer: pl.Trainer) -> None:
    x, net = table(8), linear([1.0] * 4)
    half, several = x.clone(), x.clone()
    half[:, :2] = 0.5
    several[:, :2] = 1
    hot = {"sex": Column("x", [0, 1])}
    cases: list[tuple[Any, Tensor, str]] = [
        ({"sex": Column("z", 0)}, x, r"table named 'z'"),
        ({"sex": Column("y", 0)}, x, r"not called with 'y' of the batch.*; got Tensor\[8\]"),
        ({"sex": lambda rows: []}, x, r"shape \[8, 4\], one for each other value of the attribute; got list of 0"),
        ({"sex": lambda rows: [rows[:, :2]]}, x, r"got list of 1 \(Tensor\[8, 2\]"),
        (hot, half, r"a single 1 and otherwise zeros; got 0\.5"),
        (hot, several, r"got a row that does not sum to 1"),
        ({"sex": Column("x", [0])}, x.round(), r"of 1 columns cannot hold groups at the positions \[0, 1\]"),
        ({"sex": Column("x", 1)}, x, r"undeclared group value"),
        ({"sex": Column("x", 9)}, x, r"Column\('x', 9\) needs a table \[N, D\] with these columns"),
    ]
    for flips, rows, message in cases:
        batch = {"x": rows, "y": torch.zeros(8)}
        with pytest.raises(ValueError, match=message):
            see(individuals(flips), net, [batch])
    with pytest.raises(ValueError, match="set outputs='logits'"):
        see(individuals(how=Outputs.of("probabilities", None)), net, cut(x, 8))
    with pytest.raises(ValueError, match=r"inputs must be a table \[N, D\]; got Tensor\[8, 2, 2\]"):
        see(individuals({}, consistency_features=[0]), nn.Flatten(), cut(x.reshape(8, 2, 2), 8))
