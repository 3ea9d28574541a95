"""The fresh sample of each validation: which samples it holds, and what is logged of it."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from small import IMAGE, TABLE, Classifier, fit, loader, rows, trainer
from xai_lightning import AttributionMonitor, MemorySink
from xai_lightning.callbacks._draw import row_hash

Curves = dict[str, list[float]]


def curves(sink: MemorySink) -> Curves:
    found: Curves = {}
    for _, name, value in sink.records:
        found.setdefault(name, []).append(value)
    return found


def run(folder: Path, *, batch: int = 16, shuffle: bool = False, validations: int = 2, **settings: object) -> Curves:
    """An unchanged linear model, explained at each of some validations of 200 rows."""
    sink = MemorySink()
    settings = {"method": "input_x_gradient", "probe_size": 8, "sample_size": 32, "sinks": [sink], **settings}
    model = Classifier(lr=0.0, net=lambda: nn.Linear(6, 2))
    data = {"train": loader(rows(16)), "val": loader(rows(200), batch_size=batch, shuffle=shuffle)}
    fit(model, [AttributionMonitor(**settings)], folder, max_epochs=validations, **data)  # type: ignore[arg-type]
    return curves(sink)


def importances(found: Curves, method: str = "input_x_gradient") -> Tensor:
    return torch.tensor([found[f"importance/{method}/column_{i}"] for i in range(6)])


@pytest.mark.filterwarnings("ignore:Your `val_dataloader`'s sampler has shuffling enabled")
def test_another_sample_is_drawn_at_each_validation_and_the_same_in_any_order_and_batching(tmp_path: Path) -> None:
    """Laws 2 and 6."""
    first = importances(run(tmp_path, batch=16))
    assert (first[:, 0] - first[:, 1]).abs().min() > 1e-4
    for cut in ({"batch": 7}, {"batch": 200}, {"shuffle": True}):
        torch.testing.assert_close(importances(run(tmp_path, **cut)), first, atol=1e-6, rtol=1e-6)  # type: ignore[arg-type]
    assert (importances(run(tmp_path, seed=1)) - first).abs().min() > 1e-4, "another seed, another sample"


@pytest.mark.parametrize("method", ["gradient_shap", "kernel_shap", "lime"])
def test_a_sample_is_explained_alike_whenever_it_is_drawn(method: str, tmp_path: Path) -> None:
    """Law 6: only which samples there are depends on the validation. Here all are drawn each time."""
    found = importances(run(tmp_path, method=method, sample_size=200), method)
    assert torch.equal(found[:, 0], found[:, 1])


def test_a_fresh_sample_of_numbers_is_explained_as_the_probe_explains_it(tmp_path: Path) -> None:
    """Law 6: what methods draw for a sample does not depend on what it is a sample of."""
    model = Classifier(lr=0.0, net=lambda: nn.Sequential(nn.Linear(6, 8), nn.Tanh(), nn.Linear(8, 1)))
    rest = {"task": "regression", "network": "net", "reader": {"input": "x", "target": "y"}}
    found = []
    for sizes in ({"probe_size": 4, "sample_size": 48}, {"probe_size": 48, "sample_size": 0}):
        sink, many = MemorySink(), {"val": loader(rows(48, seed=1))}
        monitor = AttributionMonitor("gradient_shap", sinks=[sink], **rest, **sizes)  # type: ignore[arg-type]
        trainer([monitor], tmp_path).validate(model, many["val"], verbose=False)
        found.append(importances(curves(sink), "gradient_shap"))
    torch.testing.assert_close(found[0], found[1], rtol=1e-5, atol=1e-7)


@pytest.mark.slow
def test_intervals_of_importance_hold_the_value_of_all_data(tmp_path: Path) -> None:
    x, model = rows(200).x, Classifier(lr=0.0, net=lambda: nn.Linear(6, 2))
    weight = model.net.weight.detach()
    truth = (x * (weight[1] - weight[0])).abs().mean(dim=0)
    found = run(tmp_path, validations=40)
    limits = [
        [found[f"importance_interval/input_x_gradient/column_{i}/{s}"] for i in range(6)] for s in ("lower", "upper")
    ]
    lower, upper = torch.tensor(limits[0]), torch.tensor(limits[1])
    held = ((lower <= truth[:, None]) & (truth[:, None] <= upper)).double().mean()
    # a percentile bootstrap of 32 skewed values falls short of .95
    assert 0.88 <= held <= 0.99
    assert importances(found).mean(dim=1).tolist() == pytest.approx(truth.tolist(), rel=0.05)


def test_without_a_sample_importance_is_that_of_the_probe(tmp_path: Path) -> None:
    found = importances(run(tmp_path, sample_size=0, probe_size=400))
    weight = Classifier(lr=0.0, net=lambda: nn.Linear(6, 2)).net.weight.detach()
    truth = (rows(200).x * (weight[1] - weight[0])).abs().mean(dim=0)
    torch.testing.assert_close(found, truth[:, None].expand(6, 2), atol=1e-6, rtol=1e-5)


def test_images_have_a_picture_of_their_average_and_both_samples_are_counted(tmp_path: Path) -> None:
    sink = MemorySink()
    data = {"train": loader(rows(16, IMAGE)), "val": loader(rows(64, IMAGE))}
    fit(Classifier(IMAGE), [AttributionMonitor("saliency", probe_size=16, sinks=[sink])], tmp_path, **data)
    assert [name for _, name, _ in sink.pictures if name.endswith("average")] == ["attribution/saliency/average"] * 2
    # one pass for each prediction, one for each explanation
    assert curves(sink)["xai/saliency/forward_passes"] == [2 * (16 + 8)] * 2


@pytest.mark.parametrize(("shape", "probe", "fresh"), [(TABLE, 128, 64), ((3, 60, 60), 32, 16)], ids=["small", "large"])
def test_the_default_probe_fits_the_input(shape: tuple[int, ...], probe: int, fresh: int, tmp_path: Path) -> None:
    sink = MemorySink()
    data = {"train": loader(rows(16, shape)), "val": loader(rows(256, shape))}
    fit(Classifier(shape), [AttributionMonitor("saliency", sinks=[sink])], tmp_path, max_epochs=1, **data)
    found = curves(sink)
    assert found["xai/saliency/probe_size"] == [probe]
    assert found["xai/saliency/forward_passes"] == [2 * (probe + fresh)]


def test_a_negative_size_is_refused() -> None:
    with pytest.raises(ValueError, match="sample_size must not be negative; got -1"):
        AttributionMonitor(sample_size=-1)


def test_samples_of_numbers_are_known_alike_whatever_the_device_has(tmp_path: Path) -> None:
    """Or a run that began on a device without float64 would not find its probe again on another (law 6)."""
    monitor = AttributionMonitor("saliency", task="regression", network="net", probe_size=8, on_error="raise")
    model, data = Classifier(lr=0.0, net=lambda: nn.Linear(6, 1)), rows(48)
    fit(model, [monitor], tmp_path, max_epochs=1, val=loader(data))
    known = row_hash([data.x, data.y.double()], 0).sort().values
    assert torch.equal(monitor.state_dict()["references"]["hashes"], known[:8])
