"""References of another way of explaining are not compared; and nobody changes the way without saying so."""

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from small import Classifier, Rows, fit, loader, needs
from xai_lightning import AttributionMonitor
from xai_lightning.functional.attribution import FIRST, METHODS, versions
from xai_lightning.functional.attribution.versions import VERSIONS
from xai_lightning.functional.rng import random_words

CHANGED = "this release of xai_lightning computes explanations differently"


def test_versions_are_those_of_methods() -> None:
    assert set(VERSIONS) <= set(METHODS)
    assert versions("saliency") == versions(lambda forward, x, b: x) == FIRST
    assert versions("kernel_shap") == (1, 2)


def resumed(method: str, folder: Path, saved: Any) -> tuple[dict[str, float], Any]:
    """Metrics of the third validation, resumed from a checkpoint whose versions are ``saved``; and what was said."""
    settings: dict[str, Any] = {"probe_size": 8, "measures": ["cosine"], "pictures": False, "options": {}}
    first = fit(Classifier(), [AttributionMonitor(method, **settings)], folder, max_epochs=2)
    first.save_checkpoint(folder / "last.ckpt")
    checkpoint = torch.load(folder / "last.ckpt", weights_only=True)
    [state] = [state for name, state in checkpoint["callbacks"].items() if "AttributionMonitor" in name]
    assert state.pop("versions") == list(versions(method))
    state |= {} if saved is None else {"versions": saved}
    torch.save(checkpoint, folder / "last.ckpt")
    again = AttributionMonitor(method, **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = fit(Classifier(), [again], folder, max_epochs=3, ckpt_path=folder / "last.ckpt")
    assert again.state_dict()["number"] == 3
    assert again.state_dict()["versions"] == list(versions(method))
    told = [str(warning.message) for warning in caught if CHANGED in str(warning.message)]
    return {name: float(value) for name, value in found.callback_metrics.items()}, told


@pytest.mark.parametrize(
    ("method", "saved"),
    [("kernel_shap", [1, 2]), ("saliency", None), ("kernel_shap", [1, 1]), ("kernel_shap", None), ("saliency", [2, 1])],
)
def test_references_of_another_way_of_explaining_are_not_compared(method: str, saved: Any, tmp_path: Path) -> None:
    """Those that were saved before versions were are of the first: of what has changed since, drift starts anew."""
    found, told = resumed(method, tmp_path, saved)
    first, previous = (found[f"drift/{method}/cosine/{name}/mean"] for name in ("first", "previous"))
    assert found["xai/errors"] == 0
    if (saved or list(FIRST)) == list(versions(method)):
        assert told == []
        assert first > 0 < previous
    else:
        own, theirs = (".".join(map(str, each)) for each in (versions(method), saved or FIRST))
        assert told == [
            f"AttributionMonitor({method!r}): {CHANGED} (version {own}) from the one that wrote the checkpoint "
            f"(version {theirs}), which would show as drift; drift starts over. To continue with its drift, resume "
            "with the release that wrote it"
        ]
        assert first == 0
        assert math.isnan(previous)


@pytest.mark.parametrize("cusum", [[-1.0, -2.0], [], None])
def test_an_alarm_of_earlier_rules_starts_anew_and_says_so(cusum: Any, tmp_path: Path) -> None:
    settings: dict[str, Any] = {"probe_size": 8, "measures": ["cosine"], "pictures": False}
    fit(Classifier(), [AttributionMonitor("saliency", **settings)], tmp_path, max_epochs=3).save_checkpoint(
        tmp_path / "last.ckpt"
    )
    checkpoint = torch.load(tmp_path / "last.ckpt", weights_only=True)
    [state] = [state for name, state in checkpoint["callbacks"].items() if "AttributionMonitor" in name]
    course = state["course"]
    course["cusum"] = course["cusum"] if cusum is None else cusum
    torch.save(checkpoint, tmp_path / "last.ckpt")
    again = AttributionMonitor("saliency", **settings)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        fit(Classifier(), [again], tmp_path, max_epochs=4, ckpt_path=tmp_path / "last.ckpt")
    told = [str(warning.message) for warning in caught if "alarm" in str(warning.message)]
    assert told == [
        "AttributionMonitor('saliency'): this release of xai_lightning predicts drift differently from the one "
        "that wrote the checkpoint; the alarm starts over and cannot fire before the ninth validation from now"
    ] * bool(cusum)
    assert len(again.state_dict()["course"]["cusum"]["recent"]) == (3 if cusum is None else 1)


@pytest.mark.parametrize(
    ("features", "same"),
    [
        ({"a": slice(0, 5), "b": 5}, False),
        ({"b": slice(1, 6), "a": 0}, False),
        ({f"f{i}": i for i in range(6)}, False),
        ({"A": 0, "B": slice(1, 6)}, True),
    ],
)
def test_references_by_other_variables_are_not_compared(features: dict[str, Any], same: bool, tmp_path: Path) -> None:
    """Of as many variables drift would be that of the settings; names alone change nothing."""
    settings: dict[str, Any] = {"probe_size": 8, "measures": ["cosine"], "pictures": False}
    before = AttributionMonitor("saliency", features={"a": 0, "b": slice(1, 6)}, **settings)
    fit(Classifier(), [before], tmp_path, max_epochs=2).save_checkpoint(tmp_path / "last.ckpt")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        after = AttributionMonitor("saliency", features=features, **settings)
        found = fit(Classifier(), [after], tmp_path, max_epochs=3, ckpt_path=tmp_path / "last.ckpt").callback_metrics
    told = [str(warning.message) for warning in caught if "drift starts over" in str(warning.message)]
    said = "AttributionMonitor('saliency'): features changed since the references were made; drift starts over"
    assert (told, float(found["xai/errors"])) == ([] if same else [said], 0)
    assert (float(found["drift/saliency/cosine/first/mean"]) > 0) == same
    assert math.isnan(found["drift/saliency/cosine/previous/mean"]) != same


@pytest.mark.parametrize(
    ("setting", "other"),
    [
        ("task", "regression"),
        ("outputs", "probabilities"),
        ("inputs", ["z"]),
        ("layout", "NTC"),
        ("autocast", True),
        ("pad_token", 1),
        ("special_tokens", [3]),
    ],
)
def test_a_state_tells_each_setting_that_determines_a_map(setting: str, other: Any) -> None:
    plain, changed = (AttributionMonitor("saliency", **given).state_dict() for given in ({}, {setting: other}))
    assert {name for name in plain["making"] if plain["making"][name] != changed["making"][name]} == {setting}


NETS = {
    (1, 6, 6): lambda: nn.Sequential(nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(108, 3)),
    (2, 40): lambda: nn.Sequential(nn.Conv1d(2, 3, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(120, 3)),
    (12,): lambda: nn.Sequential(nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)),
}
IMAGE, SERIES, TABLE = NETS
PINNED: dict[str, tuple[tuple[int, int], float]] = {
    "saliency": ((1, 1), 4.0846280),
    "input_x_gradient": ((1, 1), 0.1879264),
    "integrated_gradients": ((1, 2), -0.1094029),
    "guided_backprop": ((1, 1), 3.1492830),
    "deconvolution": ((1, 1), -0.4594765),
    "deep_lift": ((1, 1), 0.0552222),
    "deep_lift_shap": ((1, 1), 0.0552222),
    "gradient_shap": ((1, 1), -0.0941857),
    "grad_cam": ((1, 1), 0.1577115),
    "guided_grad_cam": ((1, 1), 0.3080841),
    "feature_ablation": ((1, 1), -0.1047077),
    "occlusion": ((1, 1), -0.1047077),
    "feature_permutation": ((1, 1), 0.0939622),
    "shapley_value_sampling": ((1, 1), -0.0652675),
    "shapley_values": ((1, 1), 0.0316762),
    "kernel_shap": ((1, 2), -0.0668217),
    "lime": ((1, 2), 0.0084022),
    "lrp": ((1, 1), 0.0541595),
    "layer_integrated_gradients": ((1, 1), -0.0304160),
    "conductance": ((1, 1), -0.0318064),
    "internal_influence": ((1, 1), 2.1010152),
    "layer_deep_lift": ((1, 1), 0.2360965),
    "layer_gradient_x_activation": ((1, 1), 2.0355009),
    "kernel_shap of a table": ((1, 2), -0.1087437),
    "lime of a table": ((1, 2), -0.1729012),
    "saliency of series": ((1, 1), 7.3877874),
    "saliency, smooth": ((1, 1), 4.3201059),
    "integrated_gradients by steps": ((1, 2), -0.1269943),
}


def exact(*shape: int, seed: int) -> Tensor:
    """Numbers in [-1, 1], the very same on every machine."""
    return ((random_words([seed], math.prod(shape)) % 65 - 32) / 32).float().view(shape)


def number(method: str, shape: Sequence[int], folder: Path, **more: Any) -> tuple[float, float]:
    """A sum of what a monitor keeps of two samples, by which changes are seen; and the size of what is summed."""
    model = Classifier(net=NETS[tuple(shape)], lr=0)
    data = Rows(exact(6, *shape, seed=1), torch.arange(6) % 3, torch.arange(6) % 2)
    for seed, parameter in enumerate(model.parameters()):
        parameter.data = exact(*parameter.shape, seed=2 + seed)
    settings: dict[str, Any] = {"probe_size": 3, "sample_size": 0, "measures": ["cosine"], "pictures": False, **more}
    monitor = AttributionMonitor(method, **needs(method), **settings)
    fit(model, [monitor], folder, train=loader(data), val=loader(data), max_epochs=1)
    maps = monitor.state_dict()["references"]["maps"]["first"].double().flatten()
    return float((maps / torch.arange(1, 1 + len(maps))).sum()), float(maps.abs().sum())


CASES: dict[str, tuple[str, Sequence[int], dict[str, Any]]] = {
    **{method: (method, IMAGE, {}) for method in METHODS},
    "kernel_shap of a table": ("kernel_shap", TABLE, {}),
    "lime of a table": ("lime", TABLE, {}),
    "saliency of series": ("saliency", SERIES, {}),
    "saliency, smooth": ("saliency", IMAGE, {"smooth": "smoothgrad"}),
    "integrated_gradients by steps": ("integrated_gradients", IMAGE, {"options": {"n_steps": 7}}),
}


@pytest.mark.parametrize("case", CASES)
def test_whoever_changes_what_a_method_finds_raises_its_version(case: str, tmp_path: Path) -> None:
    """Then pin the number that is found now: a checkpoint's references would otherwise show the change as drift.

    Sums are equal to 1e-9 of their size without numba, without AVX, and by any number of threads. Draws are those of
    torch and numpy: where another version of them draws otherwise, that is to be known too.
    """
    method, shape, more = CASES[case]
    found, size = number(method, shape, tmp_path, **more)
    assert (versions(method), found) == (PINNED[case][0], pytest.approx(PINNED[case][1], abs=1e-6 * size))
