"""Attributions against closed forms, captum called sample by sample, and the laws of partition and seed."""

import math
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from xai_lightning.functional import precision
from xai_lightning.functional.attribution import (
    METHODS,
    Explained,
    Variables,
    attribute,
    centred,
    check_method,
    completeness_error,
    grid_variables,
    margin,
    per_variable,
    resolve_options,
    table_variables,
)
from xai_lightning.functional.attribution.scalars import scalar as explained_scalar

COMPARING = [name for name, method in METHODS.items() if method.baseline and not method.layer]


class Function(nn.Module):
    """A network that is a given function of its input's columns."""

    def __init__(self, function: Any) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.function(*x.unbind(dim=1))


def explain(method: str, network: nn.Module, x: Tensor, **options: Any) -> Tensor:
    """Attributions to class 1 of a single logit, with baseline 0 unless given."""
    baselines = options.pop("baselines", torch.zeros_like(x[:1]))
    variables = options.pop("variables", table_variables(x.shape[1]))
    return attribute(
        method,
        Explained(network, kind=METHODS[method].kind),
        x,
        torch.ones(len(x), dtype=torch.int64),
        baselines=baselines,
        variables=variables,
        seeds=list(range(len(x))),
        options=options,
        background=baselines,
    ).values[0]


@pytest.fixture
def linear() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """A linear model, its weights, inputs and a baseline."""
    generator = torch.Generator().manual_seed(5)
    w, x, b = (torch.randn(n, 6, generator=generator) for n in (1, 4, 1))
    network = nn.Linear(6, 1)
    network.weight.data = w
    return network, w, x, b


@pytest.mark.parametrize("method", COMPARING)
def test_a_linear_model_is_explained_by_weight_times_change(
    method: str, linear: tuple[nn.Module, Tensor, Tensor, Tensor]
) -> None:
    """For every baseline, also when columns belong to one variable (trap 28)."""
    network, w, x, b = linear
    variables = table_variables(6, {"a": 0, "b": slice(1, 4)})
    found = explain(method, network, x, baselines=b, variables=variables)
    expected = per_variable(w * (x - b), variables)
    torch.testing.assert_close(per_variable(found, variables), expected, atol=2e-5, rtol=2e-5)


def test_gradients_of_a_linear_model_are_its_weights(linear: tuple[nn.Module, Tensor, Tensor, Tensor]) -> None:
    network, w, x, _ = linear
    torch.testing.assert_close(explain("saliency", network, x), w.abs().expand_as(x))
    torch.testing.assert_close(explain("saliency", network, x, abs=False), w.expand_as(x))
    torch.testing.assert_close(explain("input_x_gradient", network, x), w * x)


@pytest.mark.parametrize(
    ("function", "expected"),
    [(lambda a, b: a * b, (3.0, 3.0)), (lambda a, b: a**2 * b, (8.0, 4.0))],
    ids=["x1 x2", "x1^2 x2"],
)
def test_integrated_gradients_of_polynomials(function: Any, expected: tuple[float, float]) -> None:
    found = explain("integrated_gradients", Function(function), torch.tensor([[2.0, 3.0]]), tolerance=None)
    torch.testing.assert_close(found, torch.tensor([expected]), atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    "function",
    [
        lambda a, b: torch.relu(torch.relu(a) - 1 - torch.relu(b)),
        lambda a, b: torch.relu(torch.relu(a - 1) - torch.relu(b)),
    ],
    ids=["BasicModel2", "BasicModel3"],
)
def test_integrated_gradients_do_not_depend_on_the_implementation(function: Any) -> None:
    found = explain("integrated_gradients", Function(function), torch.tensor([[3.0, 1.0]]), n_steps=2000)
    torch.testing.assert_close(found, torch.tensor([[1.5, -0.5]]), atol=2e-3, rtol=0)


def test_integrated_gradients_of_a_saturated_function_are_complete() -> None:
    found = explain(
        "integrated_gradients", Function(lambda a: 1 - torch.relu(1 - a)), torch.tensor([[2.0]]), n_steps=500
    )
    torch.testing.assert_close(found, torch.tensor([[1.0]]), atol=5e-3, rtol=0)


@pytest.mark.parametrize(
    ("game", "values"),
    [
        (lambda a, b, c: a * torch.maximum(b, c), (2 / 3, 1 / 6, 1 / 6)),
        (lambda a, b, c: (a + b + c >= 2).float(), (1 / 3, 1 / 3, 1 / 3)),
    ],
    ids=["glove", "majority"],
)
def test_kernel_shap_with_every_coalition_gives_the_shapley_values(game: Any, values: tuple[float, ...]) -> None:
    found = explain("kernel_shap", Function(game), torch.ones(1, 3), n_samples=2000)
    torch.testing.assert_close(found, torch.tensor([values]), atol=0.03, rtol=0)


def small_net(classes: int) -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(5, 16), nn.ReLU(), nn.Linear(16, classes)).double()


@pytest.mark.parametrize("classes", [2, 3, 10])
def test_deep_lift_is_complete_on_the_centred_logit_at_any_number_of_classes(classes: int) -> None:
    """The margin's logsumexp would break its rules: 12 % error at 3 classes, 41 % at 10."""
    network, x = small_net(classes), torch.randn(16, 5).double()
    targets, b = torch.arange(16) % classes, torch.zeros(1, 5).double()
    explained = Explained(network, kind="centred")
    arguments: dict[str, Any] = {"baselines": b, "variables": table_variables(5), "seeds": range(16)}
    found = attribute("deep_lift", explained, x, targets, **arguments)
    assert float(completeness_error(found.gap, found.change).max()) < 1e-6


def test_a_custom_method_is_called_once_per_sample_with_its_own_seed() -> None:
    network, x = nn.Linear(5, 1), torch.randn(3, 5)
    sizes: list[int] = []

    def noise(forward: Any, inputs: Tensor, baselines: Tensor) -> Tensor:
        sizes.append(len(inputs))
        assert forward(inputs.expand(4, -1)).shape == (4,)
        return torch.randn_like(inputs)

    def run(seeds: list[int]) -> Tensor:
        arguments: dict[str, Any] = {"baselines": torch.zeros(1, 5), "variables": table_variables(5), "seeds": seeds}
        return attribute(noise, Explained(network), x, torch.ones(3, dtype=torch.int64), **arguments).values[0]

    assert torch.equal(run([1, 2, 3]), run([1, 2, 3]))
    assert torch.equal(run([1, 2, 3])[1], run([9, 2, 9])[1])
    assert set(sizes) == {1}


def test_a_custom_method_of_another_shape_is_refused() -> None:
    arguments: dict[str, Any] = {"baselines": torch.zeros(1, 5), "variables": table_variables(5), "seeds": [0]}
    with pytest.raises(ValueError, match=r"shape \[1, 5\]; got \[1\]"):
        attribute(
            lambda f, x, b: x.sum(1), Explained(nn.Linear(5, 1)), torch.ones(1, 5), torch.ones(1).long(), **arguments
        )


# --- the explained scalar


def test_the_margin_is_the_log_odds_and_does_not_see_a_shift_of_all_logits() -> None:
    logits, targets = torch.randn(6, 4).double(), torch.arange(6) % 4
    p = logits.softmax(dim=1).gather(1, targets[:, None]).squeeze(1)
    torch.testing.assert_close(margin(logits, targets), torch.log(p / (1 - p)))
    for scalar in (margin, centred):
        torch.testing.assert_close(scalar(logits + 7.5, targets), scalar(logits, targets))


def test_probabilities_are_explained_as_log_odds() -> None:
    x, targets = torch.randn(5, 3), torch.tensor([0, 1, 0, 1, 1])
    logits = nn.Sequential(nn.Linear(3, 1))
    single = Explained(nn.Sequential(logits, nn.Sigmoid()), probabilities=True)
    torch.testing.assert_close(single(x, targets), Explained(logits)(x, targets), atol=1e-5, rtol=1e-5)
    several = nn.Linear(3, 4)
    found = Explained(nn.Sequential(several, nn.Softmax(dim=1)), probabilities=True)(x, targets)
    torch.testing.assert_close(found, Explained(several)(x, targets), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 3, 4, 4)])
def test_outputs_of_more_dimensions_are_refused_with_their_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3, 4"):
        margin(torch.zeros(shape), torch.zeros(2, dtype=torch.int64))


# --- what is given


@pytest.mark.parametrize("fails", [False, True])
@pytest.mark.parametrize("method", [m for m, row in METHODS.items() if "table" in row.layouts and not row.layer])
def test_what_is_given_stays_as_it_is(method: str, fails: bool) -> None:
    """Trap 3: captum marks what it is handed, warns of that, and after an error leaves the marks."""
    network = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 1))
    handle = network.register_forward_pre_hook(lambda module, args: {}["planted"]) if fails else None
    x, baseline = torch.randn(3, 6), torch.zeros(1, 6)
    before = x.clone()
    with pytest.raises(KeyError, match="planted") if handle is not None else nullcontext():
        explain(method, network, x, baselines=baseline)
    for tensor in (x, baseline):
        assert (tensor.requires_grad, tensor.grad, tensor._version) == (False, None, 0)
    assert torch.equal(x, before)


# --- variables


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(1, 40), st.integers(1, 3), st.integers(1, 14))
def test_patches_cover_an_image_once_and_are_at_most_so_many(
    height: int, width: int, channels: int, cells: int
) -> None:
    """Trap 17: a photograph would otherwise cost a forward pass per number."""
    variables = grid_variables((channels, height, width), cells)
    assert variables.mask.shape == (1, channels, height, width)
    assert variables.number == min(cells, height) * min(cells, width)
    assert (variables.sizes > 0).all()
    assert torch.equal(variables.mask[:, :1].expand_as(variables.mask), variables.mask)


def test_sums_within_variables_keep_the_total() -> None:
    variables = table_variables(5, {"b": [3, 1], "a": 0})
    assert variables.names == ("b", "a", "column_2", "column_4")
    found = per_variable(torch.tensor([[1.0, 2, 4, 8, 16]]), variables)
    assert found.tolist() == [[10.0, 1.0, 4.0, 16.0]]


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ({"a": 0, "b": [0, 1]}, "column 0 belongs to both 'b' and 'a'"),
        ({"a": 5}, r"0 \.\. 4; got 5"),
        ({"a": slice(7, 9)}, r"got slice\(7, 9"),
    ],
)
def test_features_that_do_not_fit_the_table_are_refused(features: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        table_variables(5, features)


def test_unknown_features_methods_and_options_name_the_nearest() -> None:
    with pytest.raises(ValueError, match="Did you mean 'age'"):
        Variables(("age", "job"), torch.tensor([[0, 1]])).indices(["ages"])
    with pytest.raises(ValueError, match=r"Did you mean 'integrated_gradients'.*saliency"):
        check_method("integrated_gradient", {})
    with pytest.raises(ValueError, match="Did you mean 'n_steps'"):
        check_method("integrated_gradients", {"steps": 3})


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("integrated_gradients", {"n_steps": 0}, "'n_steps' of 'integrated_gradients' must be a whole number.*got 0"),
        ("integrated_gradients", {"n_steps": "5"}, "must be a whole number of at least 1; got '5'"),
        ("gradient_shap", {"n_samples": -3}, "must be a whole number of at least 1; got -3"),
        (
            "integrated_gradients",
            {"tolerance": -1},
            "'tolerance' .* must be above 0, such as 0.01, or None; got -1",
        ),
        ("integrated_gradients", {"tolerance": 0.01, "n_steps": 5}, "n_steps cannot be given as well"),
    ],
)
def test_options_that_cannot_be_are_refused_before_any_data(method: str, options: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_method(method, options)


def test_options_of_a_noise_tunnel_are_checked_too() -> None:
    check_method("saliency", {"nt_samples": 3, "stdevs": 0.2}, also=("nt_samples", "stdevs"))
    check_method("saliency", {"stdevs": (0.2, 0.1)}, also=("nt_samples", "stdevs"))
    with pytest.raises(ValueError, match="'nt_samples' of 'saliency' must be a whole number of at least 1; got 0"):
        check_method("saliency", {"nt_samples": 0}, also=("nt_samples", "stdevs"))
    with pytest.raises(
        ValueError,
        match=r"'stdevs' of 'saliency' must be at least 0, a number or one per input; got -1\.0",
    ):
        check_method("saliency", {"stdevs": -1.0}, also=("nt_samples", "stdevs"))


@pytest.mark.parametrize(
    ("options", "windows", "strides", "count"),
    [
        ({}, (1, 3, 3), (1, 3, 3), 36),
        ({"sliding_window_shapes": (1, 2, 2)}, (1, 2, 2), (1, 2, 2), 64),
        ({"sliding_window_shapes": [1, 4, 4], "strides": [1, 2, 2]}, (1, 4, 4), (1, 2, 2), 49),
        ({"sliding_window_shapes": ((1, 4, 4),), "strides": 1}, (1, 4, 4), (1, 1, 1), 169),
    ],
)
def test_windows_lie_side_by_side_unless_strides_are_given(
    options: Any, windows: tuple[int, ...], strides: tuple[int, ...], count: int
) -> None:
    found = resolve_options("occlusion", options, (1, 16, 16), 256)
    assert (found["sliding_window_shapes"], found["strides"], found["windows"]) == (windows, strides, count)


@pytest.mark.parametrize(
    "options", [{"sliding_window_shapes": (4, 4)}, {"strides": (1, 8, 8)}, {"sliding_window_shapes": "a"}]
)
def test_windows_that_do_not_fit_are_refused(options: Any) -> None:
    with pytest.raises(ValueError, match="of 'occlusion' must"):
        resolve_options("occlusion", options, (1, 16, 16), 256)


def test_a_missing_package_is_named_in_the_constructor(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trap 18."""
    monkeypatch.setitem(METHODS, "lime", METHODS["lime"]._replace(package="not_installed"))
    with pytest.raises(ImportError, match="method 'lime' needs the package not_installed"):
        check_method("lime", {})
    check_method("saliency", {})


@pytest.mark.parametrize(("has", "dtype"), [(True, torch.float64), (False, torch.float32)])
def test_scalars_of_whole_numbers_are_the_widest_fractions_the_device_has(
    has: bool, dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(precision, "_has_float64", lambda kind: has)
    assert explained_scalar("regression", "margin", torch.tensor([1, 2]), torch.zeros(2)).dtype == dtype


def test_the_completeness_error_is_relative_to_the_change_of_the_scalar() -> None:
    found = completeness_error(torch.tensor([-1.0, 0.0, 0.1]), torch.tensor([2.0, 4.0, 0.01]))
    assert found.tolist() == pytest.approx([0.5, 0.0, 0.5])  # the last is held against a tenth of the median
    assert completeness_error(torch.tensor([math.nan]), torch.tensor([math.nan])).isnan().all()


class Clamped(nn.Module):
    """A line whose gradient a hook cuts off, in place; no bound is reached here."""

    def __init__(self, columns: int) -> None:
        super().__init__()
        self.line, self.columns = nn.Linear(3, 1), columns

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.line(x) if self.columns else self.line(x).squeeze(1)
        if y.requires_grad:
            y.register_hook(lambda gradient: gradient.clamp_(-2, 2))  # type: ignore[no-untyped-call]
        return y


@pytest.mark.parametrize("columns", [0, 1])
@pytest.mark.parametrize("task", ["regression", "classification"])
@pytest.mark.parametrize("options", [{}, {"tolerance": None}])
def test_a_network_may_write_into_its_gradient(columns: int, task: Any, options: dict[str, Any]) -> None:
    """Some clip it so; torch refuses to write into the gradient of a sum, which is one number, expanded."""
    network, x = Clamped(columns), torch.randn(4, 3)
    given = {"baselines": torch.zeros(1, 3), "variables": table_variables(3), "seeds": range(4), "options": options}
    names = ["integrated_gradients"] if options else ["saliency", "input_x_gradient", "integrated_gradients"]
    for name in names:
        found = attribute(name, Explained(network, task=task), x, torch.ones(4).long(), **given).values[0]
        known = network.line.weight.detach() * (1 if name == "saliency" else x)
        torch.testing.assert_close(found, known.abs().expand(4, 3) if name == "saliency" else known)


class Exhausted(nn.Module):
    """A line for whose gradients there is no memory."""

    def __init__(self) -> None:
        super().__init__()
        self.line = nn.Sequential(nn.Linear(3, 1), nn.ReLU())

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.line(x + 0)
        y.register_hook(self.refuse)  # type: ignore[no-untyped-call]
        return y

    def refuse(self, gradient: Tensor) -> None:
        raise torch.OutOfMemoryError(f"no room for {list(gradient.shape)}")


@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "guided_backprop"])
def test_rows_whose_backward_pass_fails_count_as_those_of_their_forward_pass(method: str) -> None:
    explained, ones = Explained(Exhausted(), task="regression"), torch.ones(2, dtype=torch.int64)
    given = {"baselines": torch.zeros(1, 3), "variables": table_variables(3), "seeds": range(2)}
    with pytest.raises(torch.OutOfMemoryError):
        attribute(method, explained, torch.randn(2, 3), ones, **given)
    assert explained.rows == explained.gradients > 0


@pytest.mark.parametrize("fails", [False, True])
def test_a_differentiated_pass_is_announced_as_such_and_leaves_nothing_behind(fails: bool) -> None:
    """What follows on the same network is announced and counted as on a fresh one."""
    told: list[str] = []

    def passing(kind: str) -> Any:
        told.append(kind)
        return nullcontext()

    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    explained, ones = Explained(network, passing=passing), torch.ones(2, dtype=torch.int64)
    given = {"baselines": torch.zeros(1, 3), "variables": table_variables(3), "seeds": range(2)}
    if fails:
        with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
            attribute("saliency", explained, torch.randn(2, 5), ones, **given | {"baselines": torch.zeros(1, 5)})
    attribute("saliency", explained, torch.randn(2, 3), ones, **given)
    assert told == ["gradient"] * (1 + fails)
    rows, gradients = explained.rows, explained.gradients
    attribute("guided_backprop", explained, torch.randn(2, 3), ones, **given)
    assert (told[1 + fails :], explained.rows - rows, explained.gradients - gradients) == (["whole"], 2, 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("scalar_of", [margin, centred])
def test_the_scalar_of_a_single_logit_is_that_logit_up_to_its_sign(scalar_of: Any, dtype: torch.dtype) -> None:
    logits = torch.tensor([2.5, -0.1, math.inf], dtype=dtype)
    for outputs in (logits, logits[:, None]):
        found = scalar_of(outputs, torch.tensor([1, 0, 0]))
        assert found.dtype == dtype
        assert torch.equal(found, torch.stack([logits[0], -logits[1], -logits[2]]))
