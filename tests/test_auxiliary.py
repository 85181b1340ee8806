"""What the auxiliary terms and weights promise beyond their formulas."""
# Wrong arguments are given on purpose, and tables of arguments are unpacked.
# pyright: reportArgumentType=false, reportCallIssue=false

import copy

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import gan_blocks
from gan_blocks import (
    AdaptiveWeight,
    GradientBalancer,
    HistoricalAveraging,
    LayerwiseFeatureMatchingLoss,
    build,
    to_spec,
)
from gan_blocks.spec import recorded_arguments

F64 = torch.float64

# --- feature matching, layer by layer ----------------------------------------------------------------


def maps(seed, *shapes):
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(shape, generator=generator, dtype=F64) for shape in shapes]


def test_settings_of_the_sources():
    real = [maps(0, (2, 4, 9), (2, 8, 5), (2, 1, 5)), maps(1, (2, 4, 7), (2, 8, 3), (2, 1, 3))]
    fake = [maps(2, (2, 4, 9), (2, 8, 5), (2, 1, 5)), maps(3, (2, 4, 7), (2, 8, 3), (2, 1, 3))]
    l1 = [
        [torch.nn.functional.l1_loss(f, r) for r, f in zip(rs, fs, strict=True)]
        for rs, fs in zip(real, fake, strict=True)
    ]
    hifigan = LayerwiseFeatureMatchingLoss(weight=2)
    torch.testing.assert_close(hifigan(real, fake), 2 * sum(map(sum, l1)))
    dac = LayerwiseFeatureMatchingLoss(weight=2, last_map=False)
    torch.testing.assert_close(dac(real, fake), 2 * sum(sum(terms[:-1]) for terms in l1))
    pix2pix = LayerwiseFeatureMatchingLoss(
        weight=40, layers="mean", discriminators="mean", last_map=False
    )
    # Its code: (1 / num_D) (4 / (n_layers + 1)) lambda, with n_layers + 2 maps of which one is left out
    factor = (1 / 2) * (4 / 2) * 10
    expected = factor * sum(sum(terms[:-1]) for terms in l1)
    torch.testing.assert_close(pix2pix(real, fake), expected)


def test_maps_of_a_feature_extractor_are_taken_as_they_are():
    network = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1)).double()
    look = gan_blocks.FeatureExtractor(network, ["1", ""])
    (x, y), loss = maps(0, (5, 3), (5, 3)), LayerwiseFeatureMatchingLoss()
    expected = loss(list(look(x).values()), list(look(y).values()))
    torch.testing.assert_close(loss(look(x), look(y)), expected)
    torch.testing.assert_close(loss([look(x)] * 2, [look(y)] * 2), 2 * expected)


def test_one_discriminator_needs_no_outer_list():
    real, fake = maps(0, (2, 3), (2, 1)), maps(1, (2, 3), (2, 1))
    loss = LayerwiseFeatureMatchingLoss(discriminators="mean")
    torch.testing.assert_close(loss(real, fake), loss([real], [fake]))
    torch.testing.assert_close(loss(tuple(real), tuple(fake)), loss([real], [fake]))


def test_sums_over_more_discriminators_grow_and_means_do_not():
    real, fake = maps(0, (2, 3), (2, 1)), maps(1, (2, 3), (2, 1))
    for how, factor in (("sum", 3), ("mean", 1)):
        loss = LayerwiseFeatureMatchingLoss(discriminators=how)
        torch.testing.assert_close(loss([real] * 3, [fake] * 3), factor * loss(real, fake))


@given(st.floats(0.01, 100))
def test_relative_distance_does_not_see_the_scale_of_a_layer(scale):
    real, fake = maps(0, (2, 3), (2, 1)), maps(1, (2, 3), (2, 1))
    for distance in ("l1", "l2"):
        loss = LayerwiseFeatureMatchingLoss(distance=distance, relative=True)
        scaled = loss([real[0] * scale, real[1]], [fake[0] * scale, fake[1]])
        torch.testing.assert_close(scaled, loss(real, fake))


@pytest.mark.parametrize("distance", ["l1", "l2"])
def test_relative_distance_from_a_map_of_zeros_is_the_plain_one(distance):
    loss = LayerwiseFeatureMatchingLoss(distance=distance, relative=True)
    for value in (0.0, 2.0):
        fake = torch.full((2, 3), value, requires_grad=True)
        total = loss([torch.zeros(2, 3)], [fake])
        assert total.item() == value ** (1 if distance == "l1" else 2)
        (gradient,) = torch.autograd.grad(total, fake)
        assert gradient.isfinite().all()


def test_a_layer_of_weight_zero_does_not_count():
    real, fake = maps(0, (2, 3), (2, 1)), maps(1, (2, 3), (2, 1))
    loss = LayerwiseFeatureMatchingLoss(layer_weights=(0.0, 2.0))
    torch.testing.assert_close(loss(real, fake), 2 * (real[1] - fake[1]).abs().mean())


@pytest.mark.parametrize(
    ("arguments", "real", "fake", "error", "text"),
    [
        ({}, [], [], ValueError, "should be a list of the maps"),
        ({}, torch.ones(2, 3), torch.ones(2, 3), ValueError, "got Tensor"),
        ({}, [torch.ones(2)], [[torch.ones(2)]] * 2, ValueError, "from 1 sub-discriminators"),
        ({}, [torch.ones(2)], [torch.ones(2)] * 2, ValueError, "1 real maps and 2 generated"),
        ({}, [torch.ones(2, 1)], [torch.ones(2)], ValueError, r"map \(2, 1\) and its generated"),
        ({}, [torch.ones(2)], [torch.ones(3)], ValueError, "sample by sample"),
        ({}, [torch.ones(0)], [torch.ones(0)], ValueError, "empty map"),
        ({}, [torch.arange(2)], [torch.arange(2)], TypeError, "floating point, got torch.int64"),
        ({}, [[torch.ones(2)], torch.ones(2)], [[torch.ones(2)]] * 2, TypeError, "got Tensor"),
        ({}, [[[torch.ones(2)]]], [[[torch.ones(2)]]], TypeError, "should hold tensors in lists"),
        ({}, [None], [None], ValueError, "should be a list of the maps"),
        ({}, [[None]], [[None]], TypeError, "should hold tensors in lists, got NoneType"),
        ({}, [[]], [[]], ValueError, "should be a list of the maps"),
        ({}, {"a": torch.arange(2)}, {"a": torch.arange(2)}, TypeError, "floating point"),
        ({"last_map": False}, [torch.ones(2)], [torch.ones(2)], ValueError, "without the last"),
        (
            {"layer_weights": ()},
            [torch.ones(2)],
            [torch.ones(2)],
            ValueError,
            "0 layer_weights for 1",
        ),
        (
            {"layer_weights": (1, 2)},
            [torch.ones(2)],
            [torch.ones(2)],
            ValueError,
            "2 layer_weights for 1 maps",
        ),
    ],
)
def test_features_that_do_not_fit_are_refused(arguments, real, fake, error, text):
    with pytest.raises(error, match=text):
        LayerwiseFeatureMatchingLoss(**arguments)(real, fake)


# --- historical averaging ----------------------------------------------------------------------------


def test_average_is_over_all_earlier_steps():
    term, module = HistoricalAveraging(), nn.Linear(1, 1, bias=False)
    for value in (1.0, 2.0, 6.0):
        nn.init.constant_(module.weight, value)
        term(module)
        term.step()
    nn.init.constant_(module.weight, 4.0)
    for _ in range(3):
        assert term(module).item() == pytest.approx((4 - 3) ** 2)
    assert int(term.averaged) == 3


def test_the_weights_of_the_forward_are_averaged_and_not_those_after_the_optimizers_step():
    term, module = HistoricalAveraging(), nn.Linear(1, 1, bias=False)
    nn.init.constant_(module.weight, 1.0)
    term(module)
    nn.init.constant_(module.weight, 5.0)  # in place, as an optimizer does before its hooks
    term.step()
    assert term(module).item() == 16


def test_gradient_pulls_towards_the_average_and_first_step_gives_none():
    term, module = HistoricalAveraging(), nn.Linear(2, 1)
    term(module).backward()
    term.step()
    assert all((p.grad == 0).all() for p in module.parameters())
    with torch.no_grad():
        module.weight.add_(0.5)
    module.zero_grad()
    term(module).backward()
    torch.testing.assert_close(module.weight.grad, torch.full((1, 2), 2 * 0.5))
    assert not term.average.requires_grad


def test_state_loads_into_a_new_instance_and_into_a_used_one():
    term, module = HistoricalAveraging(), nn.Linear(2, 3)
    for _ in range(3):
        nn.init.normal_(module.weight)
        term(module)
        term.step()
    state = copy.deepcopy(term.state_dict())
    used = HistoricalAveraging()
    used(nn.Linear(5, 5))
    used.step()
    expected = copy.deepcopy(term)(module)
    for other in (HistoricalAveraging(), used):
        other.load_state_dict(state)
        assert int(other.averaged) == 3
        torch.testing.assert_close(other(module), expected)
    nested = nn.ModuleDict({"term": HistoricalAveraging()})
    nested.load_state_dict({f"term.{k}": v for k, v in state.items()})
    torch.testing.assert_close(nested["term"](module), expected)


def test_frozen_parameters_do_not_count():
    term, module = HistoricalAveraging(), nn.Linear(2, 3)
    module.bias.requires_grad_(False)
    term(module)
    term.step()
    assert len(term.average) == 6
    with pytest.raises(ValueError, match="should have parameters that require a gradient"):
        HistoricalAveraging()(module.requires_grad_(False))


def test_another_module_is_refused_before_the_average_is_touched():
    term = HistoricalAveraging()
    for _ in range(2):
        term(nn.Linear(2, 3))
        before = copy.deepcopy(term.state_dict())
        with pytest.raises(ValueError, match="use one HistoricalAveraging for each module"):
            term(nn.Linear(3, 3))
        assert all(torch.equal(before[name], x) for name, x in term.state_dict().items())
        term.step()


def test_weights_in_any_memory_format_and_dtype_keep_their_average():
    module = nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last).double()
    term, fresh = HistoricalAveraging(), HistoricalAveraging()
    assert term(module) == 0
    term.step()
    fresh.load_state_dict(term.state_dict())
    assert fresh.average.dtype == F64
    assert fresh(module) == 0


def test_half_precision_weights_are_averaged_in_float32():
    term, module = HistoricalAveraging(), nn.Linear(2, 3, dtype=torch.bfloat16)
    assert term(module).dtype == torch.float32
    term.step()
    assert term.average.dtype == torch.float32


# --- the adaptive weight -----------------------------------------------------------------------------


def autoencoder():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def test_weighted_gradients_at_the_last_layer_are_of_one_size():
    network, x = autoencoder(), torch.randn(8, 3, dtype=F64)
    last = network[-1].weight
    y = network(x)
    reconstruction, adversarial = (y - x).square().mean(), -50 * y.sum(1).tanh().mean()
    weight = AdaptiveWeight(eps=1e-12)(reconstruction, adversarial, last)
    assert not weight.requires_grad
    first = torch.autograd.grad(reconstruction, last, retain_graph=True)[0].norm()
    second = torch.autograd.grad(weight * adversarial, last, retain_graph=True)[0].norm()
    torch.testing.assert_close(first, second)
    (reconstruction + weight * adversarial).backward()  # both graphs are still there


def test_vanished_adversarial_gradient_gives_the_limit_and_not_infinity():
    network, x = autoencoder(), torch.randn(8, 3, dtype=F64)
    y = network(x)
    last = network[-1].weight
    rule = AdaptiveWeight(weight=0.5, maximum=100.0)
    assert float(rule(1e3 * y.square().mean(), 0 * y.mean(), last)) == 50
    assert float(rule(0 * y.square().mean(), 0 * y.mean(), last)) == 0


def test_adaptive_weight_says_what_is_wrong_with_its_losses():
    network, x = autoencoder(), torch.randn(8, 3, dtype=F64)
    y = network(x)
    last, good = network[-1].weight, y.mean()
    for bad, text in (
        (y.mean(1), r"reconstruction_loss should be a scalar, got shape \(8,\)"),
        (good.detach(), "reconstruction_loss does not depend on last_layer"),
        (x.sum(), "reconstruction_loss does not depend on last_layer"),
    ):
        with pytest.raises(ValueError, match=text):
            AdaptiveWeight()(bad, good, last)
    for bad in (x.sum(), nn.Linear(3, 3).weight.sum()):
        with pytest.raises(ValueError, match="adversarial_loss does not depend on last_layer"):
            AdaptiveWeight()(good, bad, last)
    with pytest.raises(TypeError, match=r"got Linear: pass layer.weight"):
        AdaptiveWeight()(good, good, network[-1])


def test_defaults_are_those_of_the_sources():
    assert recorded_arguments(AdaptiveWeight()) == {"weight": 1.0, "maximum": 1e4, "eps": 1e-4}
    balancer = recorded_arguments(GradientBalancer({"a": 1}))
    assert balancer == {
        "weights": {"a": 1.0},
        "total_norm": 1.0,
        "decay": 0.999,
        "per_sample": True,
        "eps": 1e-12,
    }


# --- the balancer ------------------------------------------------------------------------------------


def gradient_by_output(balancer, scales, n=4):
    torch.manual_seed(1)
    directions = torch.randn(len(scales), n, 6, dtype=F64)
    output = torch.zeros(n, 6, dtype=F64, requires_grad=True)
    losses = {
        name: scale * (d * output).sum()
        for (name, scale), d in zip(scales.items(), directions, strict=True)
    }
    balancer(losses, output).backward()
    balancer.step()
    return output.grad, directions


def test_shares_do_not_depend_on_the_scales_of_the_losses():
    expected = None
    for scale in (1e-3, 1.0, 1e4):
        balancer = GradientBalancer({"a": 1, "b": 3}, per_sample=False).double()
        gradient, (a, b) = gradient_by_output(balancer, {"a": scale, "b": 1.0})
        expected = 0.25 * a / a.norm() + 0.75 * b / b.norm() if expected is None else expected
        torch.testing.assert_close(gradient, expected)


def test_norm_per_sample_is_the_mean_over_the_batch():
    balancer = GradientBalancer({"a": 1}, total_norm=5).double()
    gradient, (a,) = gradient_by_output(balancer, {"a": 7.0})
    torch.testing.assert_close(gradient, 5 * a / a.norm(dim=1).mean())


def test_moving_average_is_corrected_for_its_start():
    balancer = GradientBalancer({"a": 1}, decay=0.9, per_sample=False).double()
    first, (a,) = gradient_by_output(balancer, {"a": 1.0})
    torch.testing.assert_close(first, a / a.norm())
    second, _ = gradient_by_output(balancer, {"a": 3.0})
    average = (0.9 * 1 + 3) / (0.9 + 1) * a.norm()
    torch.testing.assert_close(second, 3 * a / average)
    balancer.eval()
    state = copy.deepcopy(balancer.state_dict())
    gradient_by_output(balancer, {"a": 100.0})
    assert torch.equal(balancer.sums, state["sums"])
    assert torch.equal(balancer.counts, state["counts"])
    fresh = GradientBalancer({"a": 1}, decay=0.9, per_sample=False).double()
    fresh.load_state_dict(state)
    torch.testing.assert_close(
        gradient_by_output(fresh, {"a": 1.0})[0], gradient_by_output(balancer, {"a": 1.0})[0]
    )


def test_absent_losses_leave_their_share_and_their_average_to_the_others():
    balancer = GradientBalancer({"a": 1, "b": 3}, per_sample=False).double()
    gradient, (b,) = gradient_by_output(balancer, {"b": 2.0})
    torch.testing.assert_close(gradient, b / b.norm())
    assert balancer.counts.tolist() == [0, 1]


def test_result_has_the_value_of_the_weighted_losses_and_spares_the_discriminator():
    torch.manual_seed(0)
    generator, critic = nn.Linear(3, 5), nn.Linear(5, 1)
    balancer = GradientBalancer({"l1": 1, "adversarial": 1})
    output = generator(torch.randn(8, 3))
    losses = {"l1": output.abs().mean(), "adversarial": -critic(output).mean()}
    commitment = generator.weight.square().sum()
    total = balancer(losses, output) + commitment
    total.backward()
    balancer.step()
    assert critic.weight.grad is None
    assert generator.weight.grad is not None
    norms = balancer.sums / balancer.counts / len(output)
    norms = dict(zip(["adversarial", "l1"], norms, strict=True))
    value = 0.5 * sum(losses[name] / norms[name] for name in losses) + commitment
    torch.testing.assert_close(total, value)


@pytest.mark.parametrize("bad", [float("inf"), float("nan")])
def test_a_step_that_overflows_leaves_no_trace_in_the_average(bad):
    balancer = GradientBalancer({"a": 1, "b": 1}).double()
    gradient_by_output(balancer, {"a": bad, "b": 1.0})
    after, _ = gradient_by_output(balancer, {"a": 1.0, "b": 1.0})
    fresh, _ = gradient_by_output(GradientBalancer({"a": 1, "b": 1}).double(), {"a": 1.0, "b": 1.0})
    torch.testing.assert_close(after, fresh)
    assert balancer.sums.isfinite().all()


def test_average_is_kept_in_float32_by_a_half_precision_model():
    balancer = GradientBalancer({"a": 1})
    nn.Sequential(balancer).bfloat16()
    for scale in [1.0] * 200 + [0.5] * 10_000:
        balancer.pool(torch.tensor([scale]), 1)
        balancer.step()
    assert (balancer.sums / balancer.counts).item() == pytest.approx(0.5, rel=0.02)


def test_state_does_not_depend_on_the_order_of_the_weights():
    one, other = GradientBalancer({"b": 1, "a": 2}), GradientBalancer({"a": 2, "b": 1})
    gradient_by_output(one, {"b": 1.0, "a": 100.0})
    other.load_state_dict(one.state_dict())
    first, _ = gradient_by_output(one, {"b": 1.0, "a": 100.0})
    second, _ = gradient_by_output(other, {"b": 1.0, "a": 100.0})
    torch.testing.assert_close(first, second)


def test_state_of_losses_of_other_names_is_refused():
    state = GradientBalancer({"a": 1, "b": 1}).state_dict()
    with pytest.raises(ValueError, match="should be of losses named a, c, got one of a, b"):
        GradientBalancer({"a": 1, "c": 1}).load_state_dict(state)


def test_losses_may_share_a_part_of_their_graph():
    critic = nn.Linear(3, 4)
    output = torch.randn(2, 3, requires_grad=True)
    features = critic(output)
    losses = {"matching": features.abs().mean(), "adversarial": -features[:, 0].mean()}
    GradientBalancer({"matching": 1, "adversarial": 1})(losses, output).backward()
    assert output.grad is not None


def test_eps_is_added_to_the_norm():
    output = torch.zeros(2, 4, requires_grad=True)
    balancer = GradientBalancer({"a": 1}, eps=3.0)
    balancer({"a": output.sum()}, output).backward()
    # Each sample's norm is 2.
    torch.testing.assert_close(output.grad, torch.full((2, 4), 1 / (2 + 3)))


@pytest.mark.parametrize("shape", [(), (3,)])
def test_outputs_of_one_number_for_each_sample_have_its_size_as_norm(shape):
    output = torch.zeros(shape, requires_grad=True)
    slope = torch.tensor([1.0, -2.0, 6.0]) if shape else torch.tensor(-5.0)
    GradientBalancer({"a": 1})({"a": (slope * output).sum()}, output).backward()
    torch.testing.assert_close(output.grad, slope / slope.abs().mean())


def test_vanished_gradient_of_one_loss_is_no_nan():
    balancer = GradientBalancer({"a": 1, "b": 1})
    output = torch.zeros(2, 3, requires_grad=True)
    value = balancer({"a": 0 * output.sum(), "b": output.sum()}, output)
    value.backward()
    assert value.isfinite()
    torch.testing.assert_close(output.grad, torch.full((2, 3), 0.5 / 3**0.5))


def test_weights_are_a_table_in_a_spec():
    spec = {"block": "GradientBalancer", "weights": {"l1": 1, "adversarial": 3.5}}
    block = build(spec)
    assert to_spec(block)["weights"] == {"l1": 1.0, "adversarial": 3.5}
    for weights, text in (
        ({"l1": 0}, "weights.l1: should be greater than 0"),
        ({1: 1.0}, "weights"),
        ({}, "should name at least one loss"),
        ([1.0], "weights: should be a valid dictionary"),
    ):
        with pytest.raises(gan_blocks.InvalidArgumentsError, match=text):
            build(spec | {"weights": weights})


def test_balancer_says_what_is_wrong_before_it_counts():
    balancer = GradientBalancer({"a": 1})
    output = torch.zeros(2, 3, requires_grad=True)
    for losses, at, text in (
        ({"b": output.sum()}, output, "losses should be some of a, .* got b"),
        ({}, output, "got none"),
        ({"a": output.sum(1)}, output, r"losses\['a'\] should be a scalar, got shape \(2,\)"),
        (
            {"a": torch.ones(2, 3, requires_grad=True).sum()},
            output,
            r"losses\['a'\] does not depend on output",
        ),
        ({"a": output.sum()}, output.detach(), "output should carry a gradient"),
        ({"a": output.sum()}, output[:0], r"output should not be empty, got shape \(0, 3\)"),
    ):
        with pytest.raises(ValueError, match=text):
            balancer(losses, at)
    assert balancer.counts.tolist() == [0]


# --- LeCam and orthogonal regularisation -----------------------------------------------------------


def test_lecam_anchors_start_at_the_first_batch_and_follow_slowly():
    regularizer = gan_blocks.LeCamRegularizer(1.0, decay=0.9, form="paper")
    real, fake = torch.full((4,), 2.0), torch.full((4,), -1.0)
    assert regularizer(real, fake).item() == pytest.approx(9 + 9)
    regularizer.step()
    # Averages of 0.9 * first + second, over 1.9.
    moved = regularizer(real + 1, fake)
    anchor_real = (0.9 * 2 + 3) / 1.9
    assert moved.item() == pytest.approx((3 + 1) ** 2 + (-1 - anchor_real) ** 2)


@pytest.mark.parametrize(("form", "expected"), [("code", 0.0), ("paper", 9.0 + 9.0)])
def test_lecam_of_the_code_leaves_logits_on_the_wrong_side_alone(form, expected):
    regularizer = gan_blocks.LeCamRegularizer(1.0, form=form)
    assert regularizer(torch.full((4,), -1.0), torch.full((4,), 2.0)).item() == expected


def test_lecam_anchors_get_no_gradient_and_stand_still_in_evaluation():
    regularizer = gan_blocks.LeCamRegularizer(1.0)
    real, fake = torch.tensor([2.0, 4.0], requires_grad=True), torch.zeros(2, requires_grad=True)
    regularizer(real, fake).backward()
    torch.testing.assert_close(real.grad, real.detach())  # 2 (x - 0) / 2
    torch.testing.assert_close(fake.grad, torch.full((2,), -3.0))  # -2 (3 - 0) / 2
    regularizer.eval()
    before = regularizer.sums.clone()
    regularizer(real + 10, fake)
    assert torch.equal(regularizer.sums, before)


def test_lecam_forgets_a_step_that_overflowed():
    regularizer = gan_blocks.LeCamRegularizer(1.0)
    real, fake = torch.ones(4), -torch.ones(4)
    expected = regularizer(real, fake)
    regularizer.step()
    before = copy.deepcopy(regularizer.state_dict())
    # The side that is finite has moved, and is left out as well.
    regularizer(real * torch.inf, fake - 5)
    regularizer(real + 5, fake - torch.inf)
    regularizer.step()
    for name in ("sums", "count"):
        assert torch.equal(regularizer.state_dict()[name], before[name])
    torch.testing.assert_close(regularizer(real, fake), expected)


@pytest.mark.parametrize("discriminators", [1, 2])
def test_lecam_in_evaluation_compares_with_the_averages_without_the_batch_at_hand(discriminators):
    regularizer = gan_blocks.LeCamRegularizer(
        1.0, decay=0.5, form="paper", discriminators=discriminators
    )
    real, fake = torch.full((4,), 2.0), torch.full((4,), -1.0)
    regularizer([real] * discriminators, [fake] * discriminators)
    regularizer.step()
    regularizer.eval()
    moved = regularizer([real + 3] * discriminators, [fake - 1] * discriminators)
    assert moved.item() == pytest.approx(discriminators * ((5 + 1) ** 2 + (2 + 2) ** 2))


def test_lecam_keeps_averages_of_each_sub_discriminator_in_its_state():
    regularizer = gan_blocks.LeCamRegularizer(1.0, discriminators=2, combine="mean")
    one, two = gan_blocks.LeCamRegularizer(1.0), gan_blocks.LeCamRegularizer(1.0)
    fresh = gan_blocks.LeCamRegularizer(1.0, discriminators=2, combine="mean")
    real, fake = torch.randn(2, 2, 5)
    for _ in range(3):
        real, fake = real + torch.randn(2, 5), fake - torch.randn(2, 5)
        fresh.load_state_dict(regularizer.state_dict())
        value = regularizer(list(real), list(fake))
        expected = (one(real[0], fake[0]) + two(real[1], fake[1])) / 2
        torch.testing.assert_close(value, expected)
        gan_blocks.step(regularizer, one, two)
        torch.testing.assert_close(fresh(list(real), list(fake)), value)
    with pytest.raises(ValueError, match="2 sub-discriminators, got the logits of 1"):
        regularizer(real[0], fake[0])


def test_orthogonal_regulariser_is_zero_on_orthogonal_rows_only():
    layer = torch.nn.Linear(5, 3)
    torch.nn.init.orthogonal_(layer.weight)
    free, unit = gan_blocks.OrthogonalRegularizer(1.0), gan_blocks.OrthogonalRegularizer(1.0, True)
    assert free(layer) < 1e-10
    assert unit(layer) < 1e-10
    layer.weight.data *= 2
    assert free(layer) < 1e-10
    assert unit(layer).item() == pytest.approx(3 * (4 - 1) ** 2, rel=1e-4)


def test_orthogonal_regulariser_looks_at_maps_only_and_at_each_once():
    shared = torch.nn.Linear(3, 3)
    layers = [shared, torch.nn.BatchNorm1d(3), torch.nn.Embedding(4, 3), shared]
    regularizer = gan_blocks.OrthogonalRegularizer(1.0)
    torch.testing.assert_close(regularizer(torch.nn.Sequential(*layers)), regularizer(shared))
    frozen = torch.nn.Linear(3, 3).requires_grad_(False)
    for module in (frozen, torch.nn.BatchNorm1d(3), torch.nn.Embedding(4, 3)):
        with pytest.raises(ValueError, match="should have a weight of two dimensions"):
            regularizer(module)


# --- path length -------------------------------------------------------------------------------------


def one_pixel_images(w):
    """Images of one channel and one pixel: the noise is N(0, 1) and the Jacobian a row."""
    return (w @ torch.tensor([3.0, 4.0], dtype=w.dtype))[:, None, None]


def test_path_length_is_the_jacobian_times_images_of_unit_norm():
    torch.manual_seed(0)
    a = torch.randn(5, 3 * 8 * 8, dtype=F64)
    w = torch.randn(4000, 5, dtype=F64).requires_grad_()
    penalty = gan_blocks.PathLengthPenalty(weight=1.0, decay=1 - 1e-9)  # from lengths of 0
    value = penalty((w @ a).view(-1, 3, 8, 8), w)
    # E|J^T y|^2 is |J|^2 over the number of pixels, 64 here, whatever the channels.
    assert value.item() == pytest.approx(a.square().sum().item() / 64, rel=0.03)


def test_average_of_path_lengths_starts_at_0_and_takes_in_the_batch_first():
    w = torch.randn(6, 2).requires_grad_()
    penalty, average = gan_blocks.PathLengthPenalty(weight=2.0, decay=0.75), 0.0
    for seed in range(3):
        draws = torch.Generator().manual_seed(seed)
        lengths = 5 * torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(seed)).abs()
        value = penalty(one_pixel_images(w), w, generator=draws)
        penalty.step()
        average = 0.75 * average + 0.25 * lengths.mean().item()
        assert penalty.average.item() == pytest.approx(average, rel=1e-5)
        expected = 2 * (lengths - average).square().mean().item()
        assert value.item() == pytest.approx(expected, rel=1e-5)
    fresh = gan_blocks.PathLengthPenalty()
    fresh.load_state_dict(penalty.state_dict())
    assert fresh.average == penalty.average
    penalty(one_pixel_images(w), w)
    assert fresh.average == penalty.average, "it stands still"
    assert penalty.half().average.dtype == torch.float32


def test_the_average_of_path_lengths_carries_no_gradient():
    w, scale = torch.randn(6, 2, dtype=F64), torch.tensor(2.0, dtype=F64, requires_grad=True)
    w.requires_grad_()
    penalty = gan_blocks.PathLengthPenalty(weight=1.0, decay=0.5)
    draws = torch.Generator().manual_seed(0)
    penalty(one_pixel_images(scale * w), w, generator=draws).backward()
    draws.manual_seed(0)
    lengths = 5 * torch.randn(6, 1, 1, generator=draws).abs().double()  # at the scale 1
    average = 0.5 * (2 * lengths).mean()
    expected = (2 * (2 * lengths - average) * lengths).mean()
    assert scale.grad is not None
    assert scale.grad.item() == pytest.approx(expected.item(), rel=1e-6)


def test_path_lengths_in_evaluation_are_compared_with_the_average_without_the_batch_at_hand():
    w = torch.randn(6, 2).requires_grad_()
    penalty = gan_blocks.PathLengthPenalty(weight=1.0, decay=0.5)
    penalty(one_pixel_images(w), w)
    penalty.step()
    penalty.eval()
    draws = torch.Generator().manual_seed(1)
    lengths = 15 * torch.randn(6, 1, 1, generator=torch.Generator().manual_seed(1)).abs()
    value = penalty(one_pixel_images(3 * w), w, generator=draws)
    expected = (lengths - penalty.average).square().mean()
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_styles_of_layers_share_the_length():
    x = torch.randn(6, 2)
    layers = x[:, None].repeat(1, 7, 1).requires_grad_()
    single = x.clone().requires_grad_()
    draws = [torch.Generator().manual_seed(0) for _ in "ab"]
    penalties = [gan_blocks.PathLengthPenalty(decay=0.0) for _ in "ab"]
    penalties[0](one_pixel_images(single), single, generator=draws[0])
    # Each of seven layers moves the image by a seventh: the root of the mean of the squares is so too.
    penalties[1](one_pixel_images(layers.mean(1)), layers, generator=draws[1])
    gan_blocks.step(*penalties)
    assert penalties[1].average.item() == pytest.approx(penalties[0].average.item() / 7, rel=1e-5)


def test_path_lengths_train_the_generator_towards_one_length():
    torch.manual_seed(0)
    scale = torch.nn.Parameter(torch.tensor([1.0, 3.0]))
    penalty = gan_blocks.PathLengthPenalty(decay=0.9)
    optimiser = torch.optim.Adam([scale], lr=0.03)
    gan_blocks.follow(optimiser, penalty)
    for _ in range(300):
        which = torch.arange(64) % 2
        w = torch.randn(64, 16).requires_grad_()
        value = penalty((scale[which, None] * w).view(64, 1, 4, 4), w)
        optimiser.zero_grad()
        value.backward()
        optimiser.step()
    assert (scale[0] / scale[1]).item() == pytest.approx(1.0, abs=0.1)


def test_path_length_of_a_constant_generator_is_finite():
    scale = torch.zeros((), requires_grad=True)
    w = torch.randn(4, 2).requires_grad_()
    value = gan_blocks.PathLengthPenalty()((scale * w)[:, :, None], w)
    value.backward()
    assert value == 0
    assert scale.grad is not None
    assert scale.grad.isfinite()


def test_overflowing_path_lengths_leave_no_trace():
    penalty, w = gan_blocks.PathLengthPenalty(), torch.randn(4, 2).requires_grad_()
    penalty(one_pixel_images(w), w)
    penalty.step()
    before = penalty.average.clone()
    assert not penalty(one_pixel_images(w * float("inf")), w).isfinite()
    penalty.step()
    assert penalty.average == before


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda w: (one_pixel_images(w.clone()), w.clone()), "do not depend on w"),
        (lambda w: (one_pixel_images(w.detach()), w), "do not depend on w"),
        (lambda w: (one_pixel_images(w), w[:2]), r"got \(4, 1, 1\) and \(2, 2\)"),
        (lambda w: (one_pixel_images(w)[:, 0, 0], w), r"images should have shape \(N, C, ...\)"),
        (lambda w: (one_pixel_images(w), w[:, 0]), r"the styles, \(N, d\) or \(N, layers, d\)"),
        (lambda w: (one_pixel_images(w)[:0], w[:0]), r"got \(0, 1, 1\)"),
    ],
)
def test_path_length_says_what_is_wrong(make, text):
    with pytest.raises(ValueError, match=text):
        gan_blocks.PathLengthPenalty()(*make(torch.randn(4, 2).requires_grad_()))


# --- consistency -------------------------------------------------------------------------------------


def test_consistency_is_the_mean_square_whatever_the_shape_and_combines_sub_discriminators():
    term = gan_blocks.ConsistencyRegularizer(weight=3.0)
    x = torch.tensor([1.0, 2.0, 5.0, 0.0])
    assert term(x, x.flip(0)) == term(x[:, None], x.flip(0)[:, None]) == 3 * (1 + 9 + 9 + 1) / 4
    assert term(x.view(2, 1, 2), x.flip(0).view(2, 1, 2)) == 15
    assert term([x, x], [x.flip(0), x]) == 15
    mean = gan_blocks.ConsistencyRegularizer(weight=3.0, combine="mean")
    assert mean([x, x], [x.flip(0), x]) == 7.5
    assert term(1e4 * x, -1e4 * x).isfinite()
    assert term(torch.tensor([6e4]).half(), torch.tensor([-6e4]).half()).isfinite()


def test_both_sides_of_consistency_carry_the_gradient():
    x, y = (torch.randn(5, requires_grad=True) for _ in "xy")
    gan_blocks.ConsistencyRegularizer(weight=1.0)(x, y).backward()
    torch.testing.assert_close(x.grad, 2 * (x - y).detach() / 5)
    torch.testing.assert_close(y.grad, 2 * (y - x).detach() / 5)


def test_consistency_never_broadcasts():
    with pytest.raises(ValueError, match=r"logits \[\(4, 1\)\] and augmented_logits \[\(4,\)\]"):
        gan_blocks.ConsistencyRegularizer()(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("name", "defaults"),
    [
        ("ConsistencyRegularizer", {"weight": 10.0, "combine": "sum"}),
        ("PathLengthPenalty", {"weight": 2.0, "decay": 0.99}),
    ],
)
def test_weights_left_out_are_those_of_the_sources(name, defaults):
    assert to_spec(build({"block": name})) == {"block": name} | defaults


# --- every weight of an orthogonally regularised network ----------------------------------------------


def sum_of_squared_products(*matrices):
    return sum(
        ((rows @ rows.T) * (1 - torch.eye(len(rows), dtype=rows.dtype))).square().sum()
        for rows in matrices
    )


def test_weights_of_any_name_are_regularised_and_embeddings_are_not():
    torch.manual_seed(0)
    attention, cell = nn.MultiheadAttention(4, 2), nn.GRUCell(3, 2)
    network = nn.ModuleList([attention, cell, nn.EmbeddingBag(5, 3), nn.Embedding(5, 3)]).double()
    expected = sum_of_squared_products(
        attention.in_proj_weight, attention.out_proj.weight, cell.weight_ih, cell.weight_hh
    )
    torch.testing.assert_close(gan_blocks.OrthogonalRegularizer(1.0)(network), expected)


def test_grouped_transposed_convolution_has_one_row_for_each_output():
    torch.manual_seed(0)
    layer = nn.ConvTranspose2d(4, 6, 3, groups=2).double()
    rows = torch.cat([layer.weight[2 * g : 2 * g + 2].transpose(0, 1).flatten(1) for g in (0, 1)])
    assert len(rows) == 6
    expected = sum_of_squared_products(rows)
    torch.testing.assert_close(gan_blocks.OrthogonalRegularizer(1.0)(layer), expected)


def test_computed_weight_is_regularised_and_its_parameters_are_not():
    torch.manual_seed(0)
    layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4).double())
    expected = sum_of_squared_products(layer.weight)
    value = gan_blocks.OrthogonalRegularizer(1.0)(layer)
    torch.testing.assert_close(value, expected)
    value.backward()


def test_frozen_weights_are_left_out():
    frozen, free = nn.Linear(3, 4).double().requires_grad_(False), nn.Linear(4, 2).double()
    value = gan_blocks.OrthogonalRegularizer(1.0)(nn.Sequential(frozen, free))
    torch.testing.assert_close(value, sum_of_squared_products(free.weight))
