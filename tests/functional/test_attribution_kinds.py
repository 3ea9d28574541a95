"""Every method on every kind of input: runs, counts, refusals, and captum called on one sample at a time."""

import copy
import warnings
from typing import Any

import captum.attr
import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.kinds import TARGETS, Kind, kinds
from xai_lightning.functional.attribution import (
    METHODS,
    Explained,
    Found,
    Signature,
    attribute,
    centred,
    check_inputs,
    margin,
    proof,
    resolve_options,
    table_variables,
)
from xai_lightning.functional.attribution.coalitions import even_coalitions, plan, shapley_coalitions
from xai_lightning.functional.attribution.relevance import unsupported
from xai_lightning.functional.attribution.surrogates import coefficients

KINDS = ("image", "table", "series", "several", "integers", "tokens")


def claims(method: str, kind: str) -> bool:
    spec, layout = METHODS[method], "table" if kind == "several" else kind
    few = kinds()[kind].number <= (spec.most_variables or 99)
    return layout in spec.layouts and (kind != "several" or spec.several) and few


CLAIMED = [(m, k) for m in METHODS for k in KINDS if claims(m, k)]
REFUSED = [(m, k) for m in METHODS for k in KINDS if not claims(m, k)]


def explain(method: str, kind: Kind, where: slice = slice(None), **more: Any) -> tuple[Found, Explained]:
    spec, explained = METHODS[method], kind.explained(method)
    found = attribute(
        method,
        explained,
        tuple(x[where] for x in kind.inputs),
        TARGETS[where],
        baselines=tuple(torch.full_like(x[:1], 0) for x in kind.inputs),
        background=tuple(x.flip(0) for x in kind.inputs),
        variables=kind.variables,
        seeds=[11, 12, 13, 14][where],
        extras=tuple(x[where] for x in kind.extras),
        layer=kind.layer if spec.layer else None,
        **more,
    )
    return found, explained


@pytest.mark.parametrize(("method", "kind"), CLAIMED)
def test_a_method_explains_every_kind_it_claims_in_any_batching_at_the_stated_cost(method: str, kind: str) -> None:
    """Laws 2, 6 and 7; the passes are counted in the network itself."""
    given, rows = kinds()[kind], []
    given.network.register_forward_hook(lambda module, args, output: rows.append(len(output)))
    more: dict[str, Any] = {"options": {"tolerance": None}} if method == "integrated_gradients" else {}
    check_inputs(method, given.layouts, variables=given.number, layer=METHODS[method].layer)
    before = torch.get_rng_state()
    whole, explained = explain(method, given, **more)
    assert torch.equal(before, torch.get_rng_state())
    options = resolve_options(method, more.get("options", {}), given.inputs[0].shape[1:], given.number, 4)
    cost = METHODS[method].cost(options, given.number)
    checked = 4 * proof(METHODS[method], options)
    copied = METHODS[method].rules == "lrp"
    made, stated = explained.rows, 4 * cost.forward + checked
    assert made == (8 if copied else sum(rows))
    # of token ids, some are the baseline's already
    assert made < stated if METHODS[method].sparing and kind == "integers" else made == stated
    assert explained.gradients == 4 * cost.backward
    parts = [explain(method, given, where, **more)[0] for where in (slice(0, 1), slice(1, 4))]
    for i, values in enumerate(whole.values):
        assert values.isfinite().all()
        assert values.abs().sum() > 0
        atol = 1e-6 * float(values.abs().max())
        torch.testing.assert_close(torch.cat([part.values[i] for part in parts]), values, atol=atol, rtol=0)


@pytest.mark.parametrize(("method", "kind"), REFUSED)
def test_a_method_refuses_every_kind_that_it_does_not_claim(method: str, kind: str) -> None:
    given = kinds()[kind]
    with pytest.raises(ValueError, match=rf"method '{method}': it (cannot explain|explains)"):
        check_inputs(method, given.layouts, variables=given.number, layer=METHODS[method].layer)


def test_all_offences_are_told_at_once() -> None:
    with pytest.raises(
        ValueError, match=r"cannot explain integers .*; it explains one input, not 2 .leave out inputs=.*layer=\.\.\."
    ):
        check_inputs("guided_grad_cam", ["image", "integers"], variables=3, layer=False)
    with pytest.raises(ValueError, match="at most 8 variables, not 9"):
        check_inputs("shapley_values", ["table"], variables=9, layer=False)


class OneTarget(nn.Module):
    """The scalar of one target, as a user of captum would write it."""

    def __init__(self, kind: Kind, target: Tensor, scalar: Any) -> None:
        super().__init__()
        self.network, self.keyword = kind.network, kind.signature.inputs[1:]
        self.target, self.scalar = target, scalar

    def forward(self, x: Tensor, *others: Tensor) -> Tensor:
        outputs = self.network(x, **dict(zip(self.keyword, others, strict=True)))
        return self.scalar(outputs, self.target.expand(len(x)))


def classes() -> dict[str, Any]:
    """captum's own, and the options by which ours differ from its defaults."""
    linear = captum._utils.models.linear_model.SkLearnLinearRegression
    c = captum.attr
    return {
        "saliency": lambda f, layer: c.Saliency(f),
        "input_x_gradient": lambda f, layer: c.InputXGradient(f),
        "integrated_gradients": lambda f, layer: c.IntegratedGradients(f),
        "guided_backprop": lambda f, layer: c.GuidedBackprop(f),
        "deconvolution": lambda f, layer: c.Deconvolution(f),
        "deep_lift": lambda f, layer: c.DeepLift(f),
        "deep_lift_shap": lambda f, layer: c.DeepLiftShap(f),
        "gradient_shap": lambda f, layer: c.GradientShap(f),
        "grad_cam": c.LayerGradCam,
        "guided_grad_cam": c.GuidedGradCam,
        "feature_ablation": lambda f, layer: c.FeatureAblation(f),
        "occlusion": lambda f, layer: c.Occlusion(f),
        "shapley_value_sampling": lambda f, layer: c.ShapleyValueSampling(f),
        "shapley_values": lambda f, layer: c.ShapleyValues(f),
        "kernel_shap": lambda f, layer: drawing(c.KernelShap(f), shapley_coalitions),
        "lime": lambda f, layer: drawing(c.Lime(f, interpretable_model=linear()), even_coalitions),
        "layer_integrated_gradients": c.LayerIntegratedGradients,
        "conductance": c.LayerConductance,
        "internal_influence": c.InternalInfluence,
        "layer_deep_lift": c.LayerDeepLift,
        "layer_gradient_x_activation": c.LayerGradientXActivation,
    }


def drawing(method: Any, coalitions: Any) -> Any:
    """captum's method on our draws, of the seed that stands in the global generator, with KernelSHAP's weights."""

    def draws(original: Any, **known: Any) -> Any:
        number = known["num_interp_features"]
        count = min(2**number, 4 * number + 64)
        drawn = coalitions(count, number, [torch.initial_seed()]).present[0][:, None].long()
        for one, weight in zip(drawn, plan(count, number).weights[0], strict=True):
            if isinstance(method, captum.attr.KernelShap):
                method.similarity_func = lambda *given, weight=weight, **known: weight
            yield one

    method.perturb_func = draws
    return method


def captum_alone(method: str, kind: Kind, i: int) -> tuple[Tensor, ...]:
    """captum on sample ``i`` alone, with the generator that its seed gives."""
    spec = METHODS[method]
    options = resolve_options(method, {}, kind.inputs[0].shape[1:], kind.number, 4)
    options = {k: v for k, v in options.items() if k not in ("windows", "background", "tolerance")}
    x = tuple(t[i : i + 1].clone() for t in kind.inputs)
    if spec.gradient:
        x = tuple(t.requires_grad_(True) if t.is_floating_point() else t for t in x)
    if spec.baseline:
        options["baselines"] = tuple(t.flip(0) if spec.background else torch.zeros_like(t[:1]) for t in kind.inputs)
    if spec.masked:
        first = kind.variables[0].number
        options["feature_mask"] = tuple(v.mask + n * first for n, v in enumerate(kind.variables))
    if method == "occlusion":
        options |= {k: (options[k],) for k in ("sliding_window_shapes", "strides")}
    scalar = margin if spec.kind == "margin" else centred
    one = OneTarget(kind, TARGETS[i : i + 1], scalar)
    torch.manual_seed(11 + i)
    np.random.seed(11 + i)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = classes()[method](one, kind.layer).attribute(x, **options)
    found = (found,) if isinstance(found, Tensor) else tuple(found)
    if spec.masked:
        found = tuple(f / v.sizes[v.mask] for f, v in zip(found, kind.variables, strict=True))
    return tuple(f.detach() for f in found)


OWN = ("lrp", "feature_permutation")
COMPARED = [(m, k) for m, k in CLAIMED if m not in OWN and k != "tokens" and (m, k) != ("shapley_values", "several")]


@pytest.mark.parametrize(("method", "kind"), COMPARED)
def test_every_method_agrees_with_captum_on_one_sample_at_a_time(method: str, kind: str) -> None:
    given = kinds()[kind]
    more: dict[str, Any] = {"options": {"tolerance": None}} if method == "integrated_gradients" else {}
    found = explain(method, given, **more)[0].values
    # captum adds up V! orderings, and forms surrogates, in single precision
    single, samples = method in ("shapley_values", "kernel_shap", "lime"), 1 if method == "shapley_values" else 4
    atol, rtol = (1e-5, 1e-4) if single else (1e-9, 1e-6)
    for i in range(samples):
        for ours, theirs in zip(found, captum_alone(method, given, i), strict=True):
            torch.testing.assert_close(ours[i : i + 1], theirs.to(ours.dtype), atol=atol, rtol=rtol)


def test_tokens_are_explained_as_captum_explains_the_embedding_layer() -> None:
    given = kinds()["tokens"]
    ids, network = given.extras[0], given.network
    explained = given.explained("integrated_gradients")
    embedded = explained.embedded(ids)
    torch.testing.assert_close(embedded, network.embedding(ids).detach())
    pads = explained.embedded(torch.zeros_like(ids))
    found = attribute(
        "integrated_gradients",
        explained,
        embedded,
        TARGETS,
        baselines=pads,
        variables=given.variables,
        seeds=range(4),
        extras=given.extras,
        options={"tolerance": None},
    ).values[0]
    for i in range(4):
        one = OneTarget(given, TARGETS[i : i + 1], margin)
        method = captum.attr.LayerIntegratedGradients(one, network.embedding)
        expected = method.attribute(ids[i : i + 1], baselines=torch.zeros_like(ids[:1]))
        torch.testing.assert_close(found[i : i + 1], expected.detach(), atol=1e-9, rtol=1e-6)
    assert not network.embedding._forward_hooks


def test_relevance_of_the_centred_logit_is_the_same_combination_of_captums_relevances() -> None:
    """Epsilon rules are linear in what they pass on; captum explains one raw logit at a time."""
    given = kinds()["table"]
    found = explain("lrp", given)[0].values[0]
    lrp, x = captum.attr.LRP, given.inputs[0]
    each = torch.stack(
        [
            lrp(copy.deepcopy(given.network)).attribute(x.clone().requires_grad_(True), target=k).detach()
            for k in range(3)
        ]
    )
    expected = each[TARGETS, torch.arange(4)] - each.mean(dim=0)
    torch.testing.assert_close(found, expected, atol=1e-7, rtol=1e-5)


@pytest.mark.parametrize("name", ["image", "table"])
def test_relevance_of_a_rectifier_network_without_biases_is_input_times_gradient(name: str) -> None:
    """A known identity; it covers the layers that only move numbers, too."""
    given = kinds()[name]
    for module in given.network.modules():
        if getattr(module, "bias", None) is not None:
            module.bias.data.zero_()
    explained = given.explained("lrp")
    x = given.inputs[0].clone().requires_grad_(True)
    (gradient,) = torch.autograd.grad(explained(x, TARGETS).sum(), x)
    found = explain("lrp", given)[0].values[0]
    torch.testing.assert_close(found, (x * gradient).detach(), atol=1e-6, rtol=1e-5)


def test_relevance_works_on_a_copy_and_keeps_the_users_rules() -> None:
    """Trap 10: captum overwrites weights, deletes rules and keeps activations."""
    given = kinds()["table"]
    rule = captum.attr._utils.lrp_rules.GammaRule()
    given.network[0].rule = rule
    before = {name: set(vars(module)) for name, module in given.network.named_modules()}
    once = explain("lrp", given)[0].values[0]
    assert torch.equal(once, explain("lrp", given)[0].values[0])
    assert given.network[0].rule is rule
    assert before == {name: set(vars(module)) for name, module in given.network.named_modules()}
    del given.network[0].rule
    assert not torch.allclose(once, explain("lrp", given)[0].values[0])


def test_layers_without_a_relevance_rule_are_listed() -> None:
    """Trap 31."""
    network = nn.Sequential(nn.Linear(3, 3), nn.GELU(), nn.Flatten(), nn.Dropout(), nn.LayerNorm(3))
    assert unsupported(network) == ["1 (GELU)", "4 (LayerNorm)"]


def test_feature_permutation_is_the_mean_effect_of_a_donors_value() -> None:
    """With every donor drawn often enough, and in no batch but its own."""
    given = kinds()["table"]
    network, x = given.network, given.inputs[0]
    found = explain("feature_permutation", given, slice(0, 1), options={"n_samples": 4000})[0].values[0]
    whole = margin(network(x[:1]), TARGETS[:1]).detach()
    for column in range(5):
        exchanged = x[:1].repeat(4, 1)
        exchanged[:, column] = x.flip(0)[:, column]
        expected = (whole - margin(network(exchanged), TARGETS[:1].expand(4)).detach()).mean()
        assert abs(float(found[0, column] - expected)) < 0.02


@pytest.mark.slow
def test_the_glove_game_has_its_shapley_values() -> None:
    class Glove(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x[:, 0] * torch.maximum(x[:, 1], x[:, 2])

    class Weighted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x @ torch.tensor([2.0, 1, 1, 1]) >= 3).float()

    games: list[tuple[nn.Module, list[float]]] = [(Glove(), [2 / 3, 1 / 6, 1 / 6]), (Weighted(), [1 / 2] + [1 / 6] * 3)]
    for game, values in games:
        x, one = torch.ones(1, len(values)), torch.tensor([1])
        for method, options in (("shapley_values", {}), ("shapley_value_sampling", {"n_samples": 4000})):
            found = attribute(
                method,
                Explained(game),
                x,
                one,
                baselines=0 * x,
                variables=table_variables(len(values)),
                seeds=[1],
                options=options,
            )
            atol = 1e-6 if not options else 0.03
            torch.testing.assert_close(found.values[0], torch.tensor([values]), atol=atol, rtol=0)


@pytest.mark.parametrize("number", [12, 18])
def test_coalitions_have_the_sizes_of_the_shapley_kernel(number: int) -> None:
    """Where they are drawn, and where all of a size are taken."""
    count = 4000
    found, weights = shapley_coalitions(count, number, seeds=[3]).present[0], plan(count, number).weights[0, 2:]
    assert found[0].all()
    assert not found[1].any()
    sizes = torch.zeros(number + 1).double().index_add_(0, found[2:].sum(dim=1), weights)
    odds = torch.tensor([0.0, *(1 / (k * (number - k)) for k in range(1, number)), 0.0]).double()
    torch.testing.assert_close(sizes / sizes.sum(), odds / odds.sum(), atol=0.01, rtol=0)
    middle = found[2:][found[2:].sum(dim=1) == number // 2].double().mean(dim=0)
    torch.testing.assert_close(middle, torch.full((number,), 0.5).double(), atol=0.1, rtol=0)
    assert even_coalitions(50_000, 17, seeds=[1]).present.double().mean().item() == pytest.approx(0.5, abs=0.005)


def test_noiseless_linear_responses_are_recovered_for_any_weights_and_rank() -> None:
    generator = torch.Generator().manual_seed(0)
    design = (torch.rand(3, 40, 6, generator=generator) < 0.5).double()
    design[1, :, 5] = design[1, :, 4]  # two variables that are never apart
    weights, truth = torch.rand(3, 40, generator=generator).double(), torch.randn(3, 6, generator=generator).double()
    values = (design @ truth[..., None]).squeeze(2) + 0.7
    values[2, 7] = float("nan")
    found = coefficients(design, values, weights)
    torch.testing.assert_close(found[0], truth[0], atol=1e-9, rtol=0)
    shared = (truth[1, 4] + truth[1, 5]) / 2
    expected = torch.cat([truth[1, :4], shared[None], shared[None]])
    torch.testing.assert_close(found[1], expected, atol=1e-9, rtol=0)
    assert found[2].isnan().all()


@pytest.mark.parametrize(("method", "kind"), [(m, k) for m, k in CLAIMED if k != "integers"])
def test_every_method_can_be_smoothed_on_every_kind_in_any_batching(method: str, kind: str) -> None:
    given, options = kinds()[kind], {"nt_samples": 3, "stdevs": 0.2}
    before = torch.get_rng_state()
    whole, _ = explain(method, given, smooth="smoothgrad", options=options)
    assert torch.equal(before, torch.get_rng_state())
    parts = [
        explain(method, given, where, smooth="smoothgrad", options=options)[0] for where in (slice(0, 1), slice(1, 4))
    ]
    plain = explain(method, given)[0]
    for i, values in enumerate(whole.values):
        assert values.isfinite().all()
        assert values.shape == plain.values[i].shape
        atol = 1e-6 * float(values.abs().max())
        torch.testing.assert_close(torch.cat([part.values[i] for part in parts]), values, atol=atol, rtol=0)


@pytest.mark.parametrize("smooth", ["smoothgrad", "smoothgrad_sq", "vargrad"])
@pytest.mark.parametrize("method", ["saliency", "integrated_gradients", "occlusion", "deep_lift", "grad_cam"])
def test_any_method_can_be_smoothed_and_agrees_with_captums_noise_tunnel(method: str, smooth: Any) -> None:
    given = kinds()["image"]
    options: dict[str, Any] = {"nt_samples": 3, "stdevs": 0.2}
    if method == "integrated_gradients":
        options["tolerance"] = None
    found, explained = explain(method, given, smooth=smooth, options=options)
    parts = [explain(method, given, where, smooth=smooth, options=options)[0] for where in (slice(0, 3), slice(3, 4))]
    torch.testing.assert_close(torch.cat([p.values[0] for p in parts]), found.values[0], atol=1e-9, rtol=1e-6)
    cost = METHODS[method].cost(resolve_options(method, {"n_steps": 50}, (3, 8, 8), 4), 4)
    assert explained.rows == 4 * 3 * cost.forward
    scalar = margin if METHODS[method].kind == "margin" else centred
    arguments = {
        k: v
        for k, v in resolve_options(method, {}, (3, 8, 8), 4).items()
        if k not in ("windows", "background", "tolerance")
    }
    if METHODS[method].baseline:
        arguments["baselines"] = torch.zeros(1, 3, 8, 8).double()
    torch.manual_seed(11)
    np.random.seed(11)
    tunnel = captum.attr.NoiseTunnel(classes()[method](OneTarget(given, TARGETS[:1], scalar), given.layer))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        x = given.inputs[0][:1].clone().requires_grad_(True)
        expected = tunnel.attribute(x, nt_type=smooth, nt_samples=3, stdevs=0.2, nt_samples_batch_size=3, **arguments)
    # captum forms occlusions in single precision, and variances as a difference of squares
    torch.testing.assert_close(found.values[0][:1], expected.detach().double(), atol=1e-8, rtol=1e-6)


def test_an_unused_input_gets_zeros_also_with_frozen_parameters() -> None:
    """Trap 27."""

    class Ignoring(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.out = nn.Linear(3, 2).requires_grad_(False)

        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return self.out(x)

    x, y = torch.randn(2, 3), torch.randn(2, 4)
    for method in ("saliency", "integrated_gradients", "deep_lift", "feature_ablation"):
        found = attribute(
            method,
            Explained(Ignoring(), kind=METHODS[method].kind, signature=Signature((None, None))),
            (x, y),
            torch.tensor([0, 1]),
            baselines=(0 * x[:1], 0 * y[:1]),
            variables=(table_variables(3), table_variables(4)),
            seeds=[0, 1],
        ).values
        assert found[0].abs().sum() > 0
        assert not found[1].any()


def test_arguments_without_samples_are_bound_and_never_repeated() -> None:
    """Trap 26: graph edges, a shared mask, position ids."""
    shapes = set()

    class Shared(nn.Module):
        def forward(self, x: Tensor, *, table: Tensor, weight: Tensor) -> Tensor:
            shapes.add((tuple(table.shape), len(weight) == len(x)))
            return (x @ table) * weight

    explained = Explained(Shared(), signature=Signature((None,), ("weight",), {"table": torch.randn(3, 2)}))
    found = attribute(
        "integrated_gradients",
        explained,
        torch.randn(2, 3),
        torch.tensor([0, 1]),
        baselines=torch.zeros(1, 3),
        variables=table_variables(3),
        seeds=[0, 1],
        extras=(torch.ones(2, 1),),
    )
    assert shapes == {((3, 2), True)}
    assert float((found.gap / found.change.abs().clamp(min=1)).abs().max()) < 1e-5


@pytest.mark.parametrize("method", [m for m, k in CLAIMED if k == "image"])
def test_no_result_depends_on_how_much_is_computed_at_once(method: str) -> None:
    """Trap 16."""
    given = kinds()["image"]
    whole, _ = explain(method, given)
    largest: list[int] = []
    given.network.register_forward_pre_hook(lambda module, args: largest.append(len(args[0])))
    least, _ = explain(method, given, at_once=3 * 192)
    atol = 1e-9 * float(whole.values[0].abs().max())
    torch.testing.assert_close(least.values[0], whole.values[0], atol=atol, rtol=1e-9)
    if not METHODS[method].background and METHODS[method].rules != "lrp":
        assert max(largest[:-2] or largest) <= (4 if METHODS[method].complete else 3)


class Reshaped(nn.Module):
    """Sees inputs and further arguments in other shapes, which only some layouts in memory allow."""

    def forward(self, x: Tensor, weights: Tensor) -> Tensor:
        weighted = x.view(-1).view(len(x), -1) * weights.view(-1).view(len(x), -1)
        return weighted.sum(dim=1).tanh()


ALIKE = [m for m, spec in METHODS.items() if "table" in spec.layouts and not spec.layer and spec.rules != "lrp"]


@pytest.mark.parametrize("method", ALIKE)
@pytest.mark.parametrize("at_once", [1, 13, 10_000])
def test_networks_may_see_rows_in_another_shape_however_many_there_are(method: str, at_once: int) -> None:
    """Law 2; of a sample that is passed several times, a further argument lies in memory once."""
    x, weights, b = torch.randn(3, 4), torch.rand(3, 4), torch.randn(2, 4)
    for behind in [b, b[:1].expand(2, 4)] if METHODS[method].background else [b[:1]]:
        for count in (1, 3):
            explained = Explained(Reshaped(), task="regression", signature=Signature((None,), (None,)))
            given = {"variables": table_variables(4), "seeds": range(count), "at_once": at_once, "background": behind}
            given |= {"extras": (weights[:count],), "baselines": b[:1]}
            assert attribute(method, explained, x[:count], torch.zeros(count), **given).values[0].isfinite().all()


@pytest.mark.parametrize("method", ALIKE)
def test_what_is_found_of_inputs_that_require_gradients_has_none(method: str) -> None:
    more = [{"tolerance": None}, {"tolerance": 0.01}] if method == "integrated_gradients" else [{}]
    network, x, b = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2)), torch.randn(2, 3), torch.randn(1, 3)
    given = {"variables": table_variables(3), "seeds": range(2)}
    for options in more:
        found = [
            attribute(method, Explained(network), x, torch.zeros(2).long(), baselines=b, options=options, **given)
            for x, b in ((x, b), (x.clone().requires_grad_(True), b.clone().requires_grad_(True)))
        ]
        torch.testing.assert_close(found[1].values[0], found[0].values[0])
        assert not any(each.requires_grad for each in (*found[1].values, found[1].gap, found[1].change))
