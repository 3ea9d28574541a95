"""ActivationMonitor in a real Trainer: what is counted: masks, shares, planted units, calls, precisions."""

import pickle
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.data import DataLoader, Dataset, TensorDataset

from small import Classifier, fit, rows
from watched import Bottleneck, Residual, Runs, found, validated
from xai_lightning import ActivationMonitor, MemorySink, Sample
from xai_lightning.callbacks._activation.running import Running
from xai_lightning.callbacks._draw import Share
from xai_lightning.callbacks._selection import Kept
from xai_lightning.functional.activation import EVERYTHING


class Texts(Dataset):
    """Texts of other lengths, padded to a width with what would show."""

    def __init__(self, width: int) -> None:
        self.width = width

    def __len__(self) -> int:
        return 9

    def __getitem__(self, i: int) -> dict[str, Tensor]:
        x = torch.full((self.width, 4), 1e3)
        x[: i % 5 + 1] = torch.randn(i % 5 + 1, 4, generator=torch.Generator().manual_seed(i))
        return {"input": x, "attention_mask": (torch.arange(self.width) <= i % 5).long()}


class ReadsTexts(pl.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = nn.Sequential(nn.Linear(4, 5), nn.ReLU())

    def validation_step(self, batch: dict[str, Tensor]) -> None:
        self.net(batch["input"])


@pytest.mark.parametrize(
    "mask", ["attention_mask", lambda batch: batch["attention_mask"] == 1], ids=["name", "callable"]
)
def test_padding_leaves_no_trace_under_a_mask(mask: Any) -> None:
    """Trap 95: padded to 8 or to 128, in any batches."""
    logged = [
        validated(ReadsTexts(), DataLoader(Texts(width), batch_size=size), mask=mask, statistics="cheap")
        for width, size in ((8, 4), (128, 9), (128, 2))
    ]
    for other in logged[1:]:
        assert other == pytest.approx(logged[0], rel=1e-6, abs=1e-7, nan_ok=True)
    assert (
        logged[0]["activation/net.1/maximum"]
        < 100
        < validated(ReadsTexts(), DataLoader(Texts(8)))["activation/net.1/maximum"]
    )
    assert logged[0]["activation/net.1/dead_among"] == 9


def test_a_mask_that_is_not_in_the_batch_is_refused_and_the_batch_shown() -> None:
    with pytest.raises(ValueError, match=r"mask='padding' is not an entry.*attention_mask"):
        validated(ReadsTexts(), DataLoader(Texts(8)), mask="padding")


@pytest.mark.parametrize("statistics", ["default", "cheap"])
def test_the_size_of_batches_changes_nothing(statistics: str) -> None:
    """Law 2; also where a share of the samples is looked at."""
    torch.manual_seed(0)
    network, x = nn.Sequential(Residual(), nn.Flatten(), nn.Linear(144, 8), nn.Tanh()), torch.randn(60, 4, 6, 6)
    for share in (1.0, 0.3):
        logged = []
        for size in (60, 7, 1):
            data = DataLoader(TensorDataset(x, torch.zeros(60)), batch_size=size)
            logged.append(validated(Runs(network), data, share=share, statistics=statistics))
        for other in logged[1:]:
            assert other == pytest.approx(logged[0], rel=1e-6, abs=1e-6, nan_ok=True)
        seen = logged[0]["activation/network.0.body.2/dead_among"]
        assert seen == 60 if share == 1 else 8 <= seen <= 30


def test_a_share_draws_by_the_seed_and_sees_the_same_at_each_validation() -> None:
    x = torch.randn(200, 4)
    data = DataLoader(TensorDataset(x, torch.zeros(200)), batch_size=50)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    one, again, other = (validated(Runs(network), data, share=0.2, seed=seed) for seed in (0, 0, 1))
    assert repr(one) == repr(again) != repr(other)


def test_copies_that_were_begun_in_inference_mode_go_on_outside_of_it() -> None:
    """Trap 1: a validation may run in it, and the next step not; the network may even ask for gradients there."""
    h, keep, running = torch.randn(90, 4), torch.rand(30) < 0.5, Running()
    kept = Kept(keep)
    with torch.inference_mode():
        running.observe("act", h[:30], 1, kept, EVERYTHING)
    running.observe("act", h[30:60].clone().requires_grad_(), 1, kept, EVERYTHING)
    with torch.inference_mode():
        running.observe("act", h[60:], 1, kept, EVERYTHING)
        running.close()
    state = running.merged()["act", 4]
    torch.testing.assert_close(state.mean, h[keep.repeat(3)].double().mean(0))
    assert not any(part.is_inference() for part in state if isinstance(part, Tensor))


@pytest.mark.parametrize("laid", ["plain", "transposed", "float64", "needs a gradient", "time first"])
def test_rows_that_are_drawn_are_those_of_the_mask(laid: str) -> None:
    """Law 2: they are copied by their addresses where the memory allows it."""
    x = torch.randn(50, 3, 40)
    h = {
        "plain": x,
        "transposed": torch.randn(40, 3, 50).permute(2, 1, 0),
        "float64": x.double(),
        "needs a gradient": x.clone().requires_grad_(),
        "time first": torch.randn(3, 50, 40),
    }[laid]
    found = []
    for draw in (Share(0.4, 0, 32).among, lambda inputs: Kept(Share(0.4, 0, 32).of(inputs))):
        kept, running = draw(x), Running()
        assert running.begin(kept)
        for _ in range(3):
            running.observe("act", h, 2, kept.fitted(h.shape[:2], h.device), EVERYTHING)
        running.close()
        found.append(running.merged()["act", 40])
    assert all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(*found, strict=True))
    rows = (h.transpose(0, 1) if laid == "time first" else h)[Share(0.4, 0, 32).of(x)]
    torch.testing.assert_close(found[0].mean, rows.detach().double().mean((0, 1)), rtol=1e-5, atol=1e-6)


def test_outputs_that_change_from_step_to_step_are_seen_as_the_mask_says() -> None:
    """Law 2: what is like the output before is copied at once; another type, layout, length or share of it is not."""
    x, found = torch.randn(60, 5, 33), []
    outputs = [
        x,
        x + 1,
        x.double(),
        x,
        x.transpose(1, 2).contiguous(),
        x,
        x.transpose(1, 2),
        x[:50],
        x,
        x.clone(),
        x[:, :, :32].contiguous(),
        x,
    ]
    for draw in (lambda inputs: Share(0.1, 0, 32).among(inputs), lambda inputs: Kept(Share(0.1, 0, 32).of(inputs))):
        running = Running()
        for i, h in enumerate(outputs):
            kept = draw(torch.roll(x, i, 0)[: len(h)])
            if not running.again("act", h, kept):
                running.observe("act", h, 2, kept, EVERYTHING)
            running = pickle.loads(pickle.dumps(running)) if i == 6 else running
        # of so many rows a layer is reduced at once
        assert not running.again("act", x, Share(1.0, 0, 32).among(x))
        running.close()
        found.append(running.merged())
    assert found[0].keys() == found[1].keys() == {("act", 33), ("act", 5), ("act", 32)}
    for key, state in found[0].items():
        assert all(
            torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in zip(state, found[1][key], strict=True)
        )


@pytest.mark.parametrize("option", ["reader", "mask"])
def test_what_a_callable_of_the_user_makes_can_be_used_outside_of_inference_mode(option: str) -> None:
    """Trap 1: it may keep it."""
    made = []

    def give(batch: list[Tensor]) -> Any:
        made.append(torch.ones(len(batch[0])))
        return Sample(batch[0]) if option == "reader" else made[-1]

    data = DataLoader(TensorDataset(torch.randn(20, 4), torch.zeros(20)), batch_size=10)
    network = nn.Sequential(nn.Linear(4, 4), nn.ReLU())
    validated(Runs(network), data, share=0.5, **{option: give})
    assert len(made) == 2
    assert not made[0].is_inference()


class Planted(pl.LightningModule):
    """Returns its input through layers that can be watched: the units are planted in the data."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.bounded, self.wide = nn.ReLU(), nn.Tanh(), nn.Identity()

    def validation_step(self, batch: list[Tensor]) -> None:
        self.act(batch[0])
        self.bounded(batch[0])
        self.wide(batch[0])


def test_planted_units_are_found() -> None:
    """A dead one, one that fires once in the last batch, one that saturates, one that is an outlier."""
    x = torch.randn(100, 8, generator=torch.Generator().manual_seed(0)) * 0.1
    x[:, 0], x[:, 1] = -1.0, -1.0
    x[-1, 1] = 0.5
    x[:, 2] *= 1000
    data = DataLoader(TensorDataset(x), batch_size=16)
    logged = validated(Planted(), data, statistics="cheap", layers=["act", "bounded", "wide"])
    assert logged["activation/act/dead_share"] == 1 / 8
    assert logged["activation_max/dead_share"] == 1 / 8
    assert logged["activation/act/dead_among"] == 100
    assert logged["activation/act/nearly_dead_share"] == 1 / 8
    assert logged["activation/bounded/saturated_share"] == pytest.approx(
        float((x.tanh().abs() >= 0.95).double().mean())
    )
    assert logged["activation/bounded/saturated_share"] > 0.1
    assert logged["activation/wide/outlier_kurtosis"] > 7
    for name in ("bounded/dead_share", "bounded/dead_among", "wide/nearly_dead_share", "act/saturated_share"):
        assert f"activation/{name}" not in logged, "a layer of this kind cannot have it"


class Checkpointed(pl.LightningModule):
    """Recomputes activations in a backward pass inside its validation step."""

    def __init__(self, reentrant: bool | None) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net, self.reentrant = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 1)), reentrant

    def validation_step(self, batch: list[Tensor]) -> None:
        with torch.inference_mode(False), torch.enable_grad():
            x = batch[0].clone().requires_grad_()
            called = self.reentrant is not None
            y = checkpoint(self.net, x, use_reentrant=self.reentrant) if called else self.net(x)
            torch.autograd.grad(y.sum(), x) if not self.reentrant else y.sum().backward()


@pytest.mark.parametrize("reentrant", [False, True])
def test_activations_that_are_computed_again_count_once(reentrant: bool) -> None:
    """Trap 91."""
    data = DataLoader(TensorDataset(torch.randn(10, 4)), batch_size=4)
    plain, again = (validated(Checkpointed(how), data, statistics="cheap") for how in (None, reentrant))
    assert repr(again) == repr(plain)
    assert plain["activation/net.1/calls"] == 1


def test_calls_per_step_are_counted() -> None:
    assert found(Bottleneck(), torch.randn(7, 4), statistics=["calls"])["activation/network.relu/calls"] == 2


@pytest.mark.parametrize("precision", ["bf16-mixed", "bf16-true", "32-true"])
def test_under_any_precision_the_numbers_are_those_of_the_activations(precision: str) -> None:
    torch.manual_seed(0)
    network, seen = nn.Sequential(nn.Linear(4, 16), nn.ReLU(inplace=True)), []
    sink = MemorySink()
    model = Runs(network)
    network[0].register_forward_hook(lambda m, a, output: seen.append(output.detach().clone()))
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "enable_checkpointing": False}
    monitor = ActivationMonitor(["network.0", "network.1"], statistics="cheap", sinks=[sink])
    trainer = pl.Trainer(callbacks=[monitor], logger=False, precision=precision, **quiet)
    trainer.validate(model, DataLoader(TensorDataset(5 + torch.randn(300, 4)), batch_size=64), verbose=False)
    h = torch.cat(seen).double()
    assert seen[0].dtype == (torch.float32 if precision == "32-true" else torch.bfloat16)
    logged = {name: value for _, name, value in sink.records}
    assert logged["activation/network.0/minimum"] == float(h.min()) < 0, "seen before it was overwritten"
    for name, values in (("network.0", h), ("network.1", h.relu())):
        assert logged[f"activation/{name}/mean"] == pytest.approx(float(values.mean()), rel=1e-6)
        assert logged[f"activation/{name}/std"] == pytest.approx(float(values.std(correction=0)), rel=1e-6)
        d = values - values.mean()
        assert logged[f"activation/{name}/kurtosis"] == pytest.approx(
            float((d**4).mean() / (d**2).mean() ** 2), rel=1e-5
        )


@pytest.mark.filterwarnings("ignore:Found 1 module.s. in eval mode")
def test_frozen_batch_norm_is_seen_as_it_normalises(tmp_path: Path) -> None:
    model, data, sink = Classifier(), rows(seed=1), MemorySink()
    model.net[1].requires_grad_(False).eval()
    fit(model, [ActivationMonitor(["net.1"], sinks=[sink])], tmp_path, max_epochs=1)
    logged = {name: value for _, name, value in sink.records}
    with torch.no_grad():
        expected = model.eval().net[:2](data.x)
    assert logged["activation/net.1/std"] == pytest.approx(float(expected.std(correction=0)), rel=1e-5)
