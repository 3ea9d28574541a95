"""Regions of networks with several inputs: which input they lie in is said, and shares are of all attribution."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from learners import Items, curves, draw, fitted, seeded
from xai_lightning import AttributionMonitor, MemorySink


class Two(nn.Module):
    """Linear in a picture and in something beside it, so that attributions are known."""

    def __init__(self, *shape: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 1, 1)
        self.picture, self.beside = nn.Linear(64, 2), nn.Linear(torch.Size(shape).numel(), 2)

    def forward(self, image: Tensor, depth: Tensor) -> Tensor:
        return self.picture(self.conv(image).flatten(1)) + self.beside(depth.flatten(1))


def make(*shape: int) -> Any:
    where = torch.zeros(shape[-2:] if len(shape) == 3 else shape[-1:], dtype=torch.bool)
    where[..., :2] = True
    return lambda i: {
        "image": draw(1, 8, 8, seed=i),
        "depth": draw(*shape, seed=i + 99) * 3,
        "label": i % 2,
        "where": where,
    }


def by_name(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(batch["image"], batch["depth"]), batch["label"])


def in_order(net: nn.Module, batch: Any) -> Tensor:
    return nn.functional.cross_entropy(net(*batch[0]), batch[1])


def shares(shape: tuple[int, ...], regions: Any, *, method: str = "input_x_gradient", **more: Any) -> dict[str, float]:
    """The share of each region in a run without progress."""
    sink, inputs = MemorySink(), ["depth"]
    monitor = AttributionMonitor(
        method, inputs=inputs, regions=regions, network="net", probe_size=16, sample_size=0, sinks=[sink], **more
    )
    fitted(seeded(lambda: Two(*shape)), by_name, Items(make(*shape), 16), monitor, lr=0.0)
    found = {name.rpartition("/region/")[2]: v[0] for name, v in curves(sink).items() if "/region/" in name}
    assert set(found) == set(regions)
    return found


def expected(shape: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Absolute input times gradient of all samples over the places of each input, by hand."""
    net, rows = seeded(lambda: Two(*shape)), [make(*shape)(i) for i in range(16)]
    inputs = [torch.stack([row[name] for row in rows]).requires_grad_() for name in ("image", "depth")]
    logits, labels = net(*inputs), torch.tensor([row["label"] for row in rows])
    own = logits[range(16), labels] - logits[range(16), 1 - labels]
    gradients = torch.autograd.grad(own.sum(), inputs)
    found = [(x * g).detach() for x, g in zip(inputs, gradients, strict=True)]
    return tuple(x.sum(1).abs() if x.ndim > 2 else x.abs() for x in found)  # type: ignore[return-value]


@pytest.mark.parametrize("shape", [(2, 6, 6), (2, 6), (6,)], ids=["picture", "series", "table"])
def test_a_region_lies_in_the_input_that_is_named_and_else_in_the_first(shape: tuple[int, ...]) -> None:
    box = (0, 0, 6, 2) if len(shape) == 3 else (0, 2)
    mask = make(*shape)(0)["where"]
    regions = {"own": (0, 0, 4, 4), "named": ("image", (0, 0, 4, 4)), "all": torch.ones(8, 8, dtype=torch.bool)}
    regions |= {"box": ("depth", box), "mask": ("depth", mask), "batch": ["depth", "where"]}
    found = shares(shape, regions)
    picture, beside = expected(shape)
    total = picture.sum() + beside.sum()
    assert found["own"] == found["named"] == pytest.approx(float(picture[:, :4, :4].sum() / total), rel=1e-5)
    assert found["all"] == pytest.approx(float(picture.sum() / total), rel=1e-5)
    assert found["box"] == found["mask"] == found["batch"]
    assert found["box"] == pytest.approx(float(beside[..., :2].sum() / total), rel=1e-5)


def test_inputs_without_names_are_counted() -> None:
    sink = MemorySink()
    monitor = AttributionMonitor("saliency", regions={"r": ("input_2", (0, 2))}, network="net", sinks=[sink])
    items = Items(lambda i: ([draw(1, 8, 8, seed=i), draw(2, 6, seed=i)], i % 2), 16)
    fitted(seeded(lambda: Two(2, 6)), in_order, items, monitor)
    assert 0 < curves(sink)["attribution/saliency/region/r"][0] < 1


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "no input": (("width", (0, 2)), {}, r"unknown explained input 'width'.*Known names: image, depth|depth, image"),
    "an entry that is none": (("where", (0, 2)), {}, "unknown explained input 'where'"),
    "the box of another": (
        (0, 2),
        {},
        r"regions\['r'\]: a box must be .*\[8, 8\]; got \(0, 2\); for another input .*'depth'",
    ),
    "the mask of another": (
        torch.ones(6, dtype=torch.bool),
        {},
        r"must have the shape \[8, 8\]; got \[6\]; for another input than the first, write \('depth', region\)",
    ),
    "too far": (("depth", (0, 9)), {}, r"regions\['r'\]: a box must be \(begin, end\) within \[6\]; got \(0, 9\)"),
    "no place": (("depth", None), {}, r"regions\['r'\] must be a mask .*got None"),
    "the map of a layer": (
        ("depth", (0, 2)),
        {"method": "grad_cam", "layer": "conv"},
        "regions in depth need a method that explains inputs, .*: 'grad_cam' explains the layer 'conv'",
    ),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_region_that_is_nowhere_is_refused_at_the_first_batch(what: str) -> None:
    region, more, said = WRONG[what]
    with pytest.raises(ValueError, match=said):
        shares((2, 6), {"r": region}, **more)
